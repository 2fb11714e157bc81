"""What the figures of a training say, in plain words: it learns by heart, or more time or more sound would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

RISES = 3
"""So many validations without a better one show that a model learns by heart, if its training loss still falls."""
WORSE = 0.02
"""A held-out figure has risen if it is worse by this fraction of all that was gained."""
FEW_STEPS = 200
"""So few steps make no usable model of real sounds; presets have thousands."""
CLOSER = "The last weights are kept. `evaluate` says whether training clips are repeated; more sound would help"
LATE = 0.1
"""More time helps if the second half of a training brought this fraction of all that was gained."""


def by_heart(rows: Sequence[Mapping[str, str]], monitor: str, *, last: bool = False) -> str:
    """A warning if the held-out figure rises while the training loss falls; empty otherwise.

    Args:
        rows: the rows of `metrics.csv`.
        monitor: name of the figure that is watched.
        last: the weights of the last step are kept, not those of the best validation.
    """
    held_out, losses = _column(rows, f"validation/{monitor}"), _column(rows, f"train/{monitor}")
    if len(held_out) <= RISES or not losses:
        return ""
    values = [value for _, value in held_out]
    best = min(range(len(values)), key=values.__getitem__)
    gained = max(values) - values[best]
    before = [loss for step, loss in losses if step <= held_out[best][0]]
    if len(values) - 1 - best < RISES or values[-1] - values[best] <= WORSE * gained or not before:
        return ""
    if losses[-1][1] >= before[-1]:
        return ""
    risen = f"the held-out {monitor} has risen since step {held_out[best][0]} while that of the training falls"
    if last:
        return f"{risen}: new sounds come closer to the training clips than to others. {CLOSER}"
    return (
        f"{risen}: the model begins to learn the clips by heart. The weights of that step are kept; more sound would "
        "help, more time would not"
    )


def outlook(
    rows: Sequence[Mapping[str, str]], monitor: str, first: float | None, longer: str, *, last: bool = False
) -> str:
    """Whether more time or more sound would help, after the last step; empty if nothing was held out.

    Args:
        rows: the rows of `metrics.csv`.
        monitor: name of the figure that is watched.
        first: the figure before the first step; None: it is not known.
        longer: the command that trains longer.
        last: as for `by_heart`.
    """
    held_out = _column(rows, f"validation/{monitor}")
    if len(held_out) < 2:
        return ""
    start = held_out[0][1] if first is None else first
    best_step, best = min(held_out, key=lambda row: row[1])
    last_step = held_out[-1][0]
    gained = start - best
    few = f"{last_step} steps are too few for a usable result: more time is needed ({longer})"
    if gained <= 0 and last_step < FEW_STEPS:
        return few
    if gained <= 0:
        return f"the held-out {monitor} is no better than before the training: look at the settings and the sounds"
    if best_step < 0.7 * last_step and held_out[-1][1] - best > WORSE * gained:
        if last:
            return f"the held-out {monitor} was best at step {best_step} of {last_step} and rose afterwards. {CLOSER}"
        return (
            f"more sound would help, more time would not: the held-out {monitor} was best at step {best_step} of "
            f"{last_step} and rose afterwards"
        )
    if last_step < FEW_STEPS:
        return few
    half = min((value for step, value in held_out if step <= last_step / 2), default=start)
    # The weight of a regulariser grows at first, and the figure may grow with it.
    late = (half - best) / (max(start, *(value for _, value in held_out)) - best)
    if late > LATE:
        return f"more time would help ({longer}): {late:.0%} of what was learned came in the second half"
    return f"more time would change little: {late:.0%} of what was learned came in the second half; more sound may help"


def _column(rows: Sequence[Mapping[str, str]], name: str) -> list[tuple[int, float]]:
    """Steps and values of a column, where it has any."""
    return [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
