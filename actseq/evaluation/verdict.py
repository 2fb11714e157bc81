"""What an evaluation of a prior says, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HARD_TO_TELL, OFTEN_TOLD = 0.65, 0.85
"""Areas under the curve of a critic up to which generated clips are hard to tell from real ones, or often told."""
RIGHT, MOSTLY_RIGHT = 0.9, 0.6
"""Accuracies, relative to that of real clips, from which on labels are right, or mostly right."""


def verdict(result: Mapping[str, Any]) -> str:
    """One sentence or two: whether generated clips are like real ones, and whether their labels are right.

    Args:
        result: what `evaluate --prior` found.
    """
    found = result["generation"]
    labels = _labels(found["rows"])
    likeness = _by_critic(found["critics"]) or _by_statistics(found)
    if likeness is None:
        likeness = "Whether generated clips are like real ones was not measured, since there were too few clips"
    return f"{likeness}. {labels}." if labels else f"{likeness}."


def _by_critic(critics: Mapping[str, Any]) -> str | None:
    """What the critic of spectrograms says, or else that of latents; None where there is none that can be trusted."""
    for name, what in (("log_mel", "sound"), ("latents", "latents")):
        if "auc" not in critics.get(name, {}):
            continue
        share = float(critics[name]["auc"]["value"])
        words = "hard to tell from" if share <= HARD_TO_TELL else "often told from"
        words = words if share <= OFTEN_TOLD else "easy to tell from"
        return (
            f"Generated clips are {words} real ones: a critic of their {what} picks the generated one of a pair in "
            f"{_percent(max(share, 0.5))} of the cases, where 50 % is guessing"
        )
    return None


def _by_statistics(found: Mapping[str, Any]) -> str | None:
    """Whether statistics of generated clips differ from what a perfect prior would make; None where too few clips."""
    difference = found["against_oracle"]["generated"].get("mmd_statistics")
    if difference is None:
        return None
    if difference["low"] <= 0:
        return "Statistics of generated clips are as close to real ones as this autoencoder allows"
    return "Statistics of generated clips differ from real ones by more than this autoencoder explains"


def _labels(rows: Mapping[str, Any]) -> str:
    """Whether the labels are right; empty where none were judged."""
    if "accuracy" not in rows["generated"] or "accuracy" not in rows["real"]:
        return ""
    made, real = (float(rows[name]["accuracy"]["value"]) for name in ("generated", "real"))
    ratio = made / max(real, 1e-9)
    words = "Their labels are right" if ratio >= RIGHT else "Most of their labels are right"
    words = words if ratio >= MOSTLY_RIGHT else "Many of their labels are wrong"
    return f"{words}: {_percent(made)} are recognised as the label that was asked for, {_percent(real)} of real clips"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
