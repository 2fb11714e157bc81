"""Labels in time, as a user asks for them: which label, and for how long."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from actseq.audio import Span
from actseq.config import suggest_name
from actseq.errors import ConfigError

SECONDS = re.compile(r"(?P<label>.*):(?P<seconds>\d+\.?\d*|\.\d+)", re.DOTALL)
"""A label and its duration; a colon that no number follows belongs to the label."""


@dataclass(frozen=True)
class AskedSpan:
    """A label that is asked for.

    Attributes:
        label: the label; empty: no label.
        seconds: how long; None: as long as one of the label's own spans.
    """

    label: str
    seconds: float | None = None


def read_spans(text: str) -> tuple[AskedSpan, ...]:
    """Labels in the order of time, split as a shell does: `3 "bass drum" 1:0.4 :0.2`.

    Raises:
        ConfigError: the text has no label, or quotation marks that do not fit; a duration is 0; or a stretch without a
            label has no duration.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(
            f"--labels is '{text}' ({error})", "labels, in quotation marks where one has blanks"
        ) from None
    asked = []
    for word in words:
        found = SECONDS.fullmatch(word)
        asked.append(AskedSpan(word) if found is None else AskedSpan(found["label"], float(found["seconds"])))
        if asked[-1].seconds == 0 or asked[-1] == AskedSpan(""):
            raise ConfigError(f"--labels has '{word}'", "a label, or LABEL:SECONDS with more than 0 seconds")
    if not any(one.label for one in asked):
        raise ConfigError("--labels names no label", 'labels in the order of time, such as --labels "3 5:0.4 1"')
    return tuple(asked)


def unknown_label(label: str, labels: Sequence[str]) -> ConfigError:
    """The error for a label that does not exist."""
    hint = "this corpus has no labels: put files into folders named after their labels"
    return ConfigError(f"no label '{label}'", action=suggest_name(label, labels) if labels else hint)


def timed(
    asked: Sequence[AskedSpan],
    labels: Sequence[str],
    durations: Mapping[str, Sequence[float]],
    draw: tuple[int, int],
    shortest: float,
) -> tuple[Span, ...]:
    """The spans of one clip, one after another from 0 on; missing durations are drawn from those of the label.

    Args:
        asked: what was asked for.
        labels: the labels that there are.
        durations: seconds for each label, all equally likely.
        draw: seed and number of the clip.
        shortest: seconds of a latent frame; no span is shorter.

    Raises:
        ConfigError: there is no such label, its durations are not known, or a span is shorter than a latent frame.
    """
    rng, made, at = np.random.default_rng([*draw, 1]), [], 0.0
    for one in asked:
        if one.label and one.label not in labels:
            raise unknown_label(one.label, labels)
        known = durations.get(one.label, ())
        if one.seconds is None and not known:
            raise ConfigError(
                f"it is not known how long '{one.label}' lasts in the corpus", action=f"say so: {one.label}:SECONDS"
            )
        if one.seconds is not None and one.seconds < shortest:
            raise ConfigError(
                f"'{one.label}' is to last {one.seconds:g} s", f"at least {shortest:.3g} s, which is one latent frame"
            )
        seconds = max(shortest, float(rng.choice(known))) if one.seconds is None else one.seconds
        made.append(Span(at, at + seconds, one.label))
        at += seconds
    return tuple(made)
