"""The curves of a training, drawn from its `metrics.csv`."""

import csv
from io import StringIO
from math import ceil, isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from actseq.errors import ArtifactError
from actseq.plots import style

if TYPE_CHECKING:
    import matplotlib.axes
_COLOURS = {"train": style.BLUE, "validation": style.ORANGE}


Steps = tuple[int, int]
"""First and last step that are drawn."""


class NothingThere(ArtifactError):
    """A training has no value in the steps that are asked for."""


def training_curves(path: Path, metrics_csv: Path, *, title: str = "", steps: Steps | None = None) -> Path:
    """Draw one small chart for each metric of a training, with its last values above it.

    `train/loss` and `validation/loss` share the chart `loss`. Positive metrics that span more than a factor of 30
    have a logarithmic axis; long, dense curves are drawn pale with their moving mean on top.

    Args:
        path: the PNG to write; its folder is created if missing.
        metrics_csv: a column `step` and numeric ones; empty cells are skipped. Where a step occurs twice, as after
            resuming, the later row counts.
        title: text above the charts.
        steps: what is drawn; None for the whole training.

    Returns:
        `path`.

    Raises:
        ArtifactError: `metrics_csv` is missing or without values there, or a row does not fit its header.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

    charts = read_curves(metrics_csv, steps)
    columns = min(4, len(charts))
    lines = ceil(len(charts) / columns)
    left, right, top, bottom = 0.55, 0.2, 0.75 if title else 0.5, 0.4
    chart_width, chart_height, gap, line_gap = 2.6, 1.45, 0.6, 0.55
    width = left + columns * (chart_width + gap) - gap + right
    height = top + lines * (chart_height + line_gap) - line_gap + bottom
    figure = style.figure(width, height)
    if title:
        style.text(
            figure, left / width, 1 - 0.24 / height, style.fit(title, width - left - right, 11.0), 11.0, weight="bold"
        )
    end = width - right
    for part in ("validation", "train"):
        if any(part in parts for parts in charts.values()):
            style.text(figure, end / width, 1 - (top - 0.26) / height, part, 7.0, color=_COLOURS[part], ha="right")
            end -= len(part) * 7 * 0.62 / 72 + 0.1
    drawn = [step for parts in charts.values() for points in parts.values() for step, _ in points]
    first, last = min(drawn), max(drawn)
    for index, (measure, parts) in enumerate(charts.items()):
        x = left + index % columns * (chart_width + gap)
        y = top + index // columns * (chart_height + line_gap)
        axes = figure.add_axes(
            (x / width, 1 - (y + chart_height) / height, chart_width / width, chart_height / height), facecolor="white"
        )
        style.quiet(axes)
        for spine in ("top", "right"):
            axes.spines[spine].set_visible(False)
        end = x + chart_width
        for part in sorted(parts):
            step, value = np.array(parts[part]).T
            _draw_curve(axes, step, value, _COLOURS.get(part, style.INK))
        for part in sorted(parts, reverse=True):
            label = style.signed(parts[part][-1][1], ".4g")
            style.text(
                figure, end / width, 1 - (y - 0.06) / height, label, 6.5,
                color=_COLOURS.get(part, style.INK), ha="right",
            )  # fmt: skip
            end -= len(label) * 6.5 * 0.62 / 72 + 0.1
        style.text(figure, x / width, 1 - (y - 0.06) / height, style.fit(measure, end - x, 8.0), 8.0, weight="bold")
        values = np.concatenate([np.array(points)[:, 1] for points in parts.values()])
        if is_logarithmic(values):
            axes.set_yscale("log")
            few = values.max() < 1e3 * values.min()
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if few else (1.0,), numticks=6))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter("{x:g}")
        pad = 0.02 * (last - first) or 1.0
        axes.set_xlim(first - pad, last + pad)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.tick_params(left=True, bottom=True, labelleft=True, labelbottom=True)
        axes.grid(color=style.FAINT, linewidth=0.4)
    return style.write(figure, path)


def read_curves(metrics_csv: Path, steps: Steps | None = None) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """The curves of a training: metric → `train`, `validation` or "" → points (step, value), ordered by step.

    Args, Raises: as `training_curves`.
    """
    charts: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for column, points in read_metrics(metrics_csv, steps).items():
        part, _, measure = column.partition("/")
        if part not in _COLOURS or not measure:
            part, measure = "", column
        charts.setdefault(measure, {})[part] = points
    return charts


def is_logarithmic(values: Float[np.ndarray, " n"]) -> bool:
    """Whether values are easier to read on a logarithmic axis: positive ones that span more than a factor of 30."""
    return bool(values.min() > 0 and values.max() > 30 * values.min())


def _draw_curve(
    axes: "matplotlib.axes.Axes", step: Float[np.ndarray, " n"], value: Float[np.ndarray, " n"], colour: str
) -> None:
    if len(step) <= 200:
        axes.plot(step, value, color=colour, linewidth=1.1, marker="o", markersize=2.2 if len(step) <= 40 else 0)
        return
    axes.plot(step, value, color=colour, linewidth=0.5, alpha=0.3)
    reach = len(step) // 100
    # Sums of differences, so that a constant stays constant.
    sums = np.cumsum(np.concatenate([np.zeros(1), value - value[0]]))
    stop = np.minimum(np.arange(len(step)) + reach + 1, len(step))
    start = np.maximum(np.arange(len(step)) - reach, 0)
    axes.plot(step, value[0] + (sums[stop] - sums[start]) / (stop - start), color=colour, linewidth=1.1)


def read_metrics(path: Path, steps: Steps | None = None) -> dict[str, list[tuple[float, float]]]:
    """Finite values of each column as (step, value), ordered by step; columns without any are left out.

    Args:
        path: `metrics.csv` of a training.
        steps: what is read; None for the whole training.

    Raises:
        NothingThere: no value lies in these steps.
        ArtifactError: as `training_curves`.
    """
    action = "check the file or train again"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist", action="train first") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read ({error})", "a CSV in UTF-8", action) from None
    try:
        header, *rows = [row for row in csv.reader(StringIO(text), strict=True) if row] or [[]]
    except csv.Error as error:
        raise ArtifactError(f"{path} is not a CSV ({error})", action=action) from None
    if "step" not in header:
        raise ArtifactError(f"{path} has no column step", f"a header with step, found {','.join(header)!r}", action)
    # A running or killed training may leave half a line.
    if rows and not text.endswith("\n") and len(rows[-1]) < len(header):
        rows.pop()
    figures: dict[str, dict[float, float]] = {}
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ArtifactError(f"{path}: row {number} has {len(row)} cells", f"{len(header)} as the header", action)
        cells = {}
        for name, cell in zip(header, row, strict=True):
            try:
                cells[name] = float(cell) if cell.strip() else float("nan")
            except ValueError:
                raise ArtifactError(f"{path}: row {number}, {name}: {cell!r}", "a number", action) from None
        step = cells.pop("step")
        if not isfinite(step):
            raise ArtifactError(f"{path}: row {number} has no step", "a number", action)
        for name, value in cells.items():
            if isfinite(value):
                figures.setdefault(name, {})[step] = value
    if not figures:
        raise ArtifactError(f"{path} holds no values", "a column beside step with numbers", "train first")
    curves = {name: sorted(figures[name].items()) for name in header if name in figures}
    if steps is None:
        return curves
    first, last = steps
    inside = {name: [point for point in points if first <= point[0] <= last] for name, points in curves.items()}
    if not any(inside.values()):
        logged = sorted({step for points in curves.values() for step, _ in points})
        raise NothingThere(
            f"{path} has no values from step {first} to {last}",
            f"steps with values: there are {len(logged)} such from {logged[0]:g} to {logged[-1]:g}",
        )
    return {name: points for name, points in inside.items() if points}
