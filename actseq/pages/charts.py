"""Charts of a page: positions and texts from which templates draw SVG in the colours of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float

from actseq.plots.style import signed
from actseq.plots.training_curves import is_logarithmic, read_curves

WIDTH, HEIGHT = 300.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 38.0, 4.0, 6.0, 18.0
"""Size of a chart, and the margins around its plot, in units of its view box."""
MOST_POINTS = 200
"""Longer curves are drawn through the means of neighbouring points."""

Tick = tuple[float, str]
"""Position in the view box, and text."""


@dataclass(frozen=True)
class Line:
    """One curve: its kind, the path, and its last value as text."""

    kind: str
    path: str
    last: str


@dataclass(frozen=True)
class LineChart:
    """Curves over the same axes."""

    title: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


@dataclass(frozen=True)
class Bar:
    """A bar: left edge, upper edge, width, height, and what it says when it is pointed at."""

    x: float
    y: float
    width: float
    height: float
    text: str
    strong: bool


@dataclass(frozen=True)
class BarChart:
    """Bars that stand on the lower edge."""

    bars: list[Bar]
    y_ticks: list[Tick]


@dataclass(frozen=True)
class Dot:
    """A point of a map: its place in percent of width and height, the number of its colour, and its name."""

    x: float
    y: float
    colour: int
    text: str


def training_charts(metrics_csv: Path) -> list[LineChart]:
    """A chart for each metric of a training; `train/loss` and `validation/loss` share one.

    Raises:
        ArtifactError: as `read_curves`.
    """
    return [_line_chart(title, parts) for title, parts in read_curves(metrics_csv).items()]


def _line_chart(title: str, parts: Mapping[str, Sequence[tuple[float, float]]]) -> LineChart:
    points = {kind: np.array(part) for kind, part in sorted(parts.items())}
    every = np.concatenate(list(points.values()))
    logarithmic = is_logarithmic(every[:, 1])
    across = _Axis.of(every[:, 0], LEFT, WIDTH - RIGHT)
    up = _Axis.of(every[:, 1], HEIGHT - BOTTOM, TOP, logarithmic)
    lines = []
    for kind, part in points.items():
        thin = _thinned(part)
        places = zip(across.places(thin[:, 0]), up.places(thin[:, 1]), strict=True)
        path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in places)
        lines.append(Line(kind or "value", path, signed(float(part[-1, 1]), ".4g")))
    return LineChart(title, lines, across.ticks(4, whole=True), up.ticks(4))


def bar_chart(values: Float[np.ndarray, " n"], texts: Sequence[str], strong: Sequence[bool]) -> BarChart:
    """Bars of values that are not negative, on a logarithmic axis where they span much; `strong` ones stand out."""
    positive = values[values > 0]
    logarithmic = len(positive) > 0 and is_logarithmic(positive)
    low = float(positive.min()) / 2 if logarithmic else 0.0
    up = _Axis.of(np.array([low, max(float(values.max(initial=0.0)), 1e-9)]), HEIGHT - BOTTOM, TOP, logarithmic)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(values))
    bars = []
    for k, (value, text, stands_out) in enumerate(zip(values, texts, strong, strict=True)):
        y = float(up.places(np.array([max(float(value), low)]))[0])
        bars.append(Bar(round(LEFT + k * step, 2), round(y, 1), round(0.8 * step, 2), round(HEIGHT - BOTTOM - y, 1),
                        text, stands_out))  # fmt: skip
    return BarChart(bars, up.ticks(4))


def dots(places: Float[np.ndarray, "n 2"], colours: Sequence[int], texts: Sequence[str]) -> list[Dot]:
    """Points of a map, the vertical axis upwards."""
    low, high = places.min(axis=0), places.max(axis=0)
    scaled = 2 + 96 * (places - low) / np.where(high > low, high - low, 1.0)
    return [
        Dot(round(float(x), 2), round(float(100 - y), 2), colour, text)
        for (x, y), colour, text in zip(scaled, colours, texts, strict=True)
    ]


@dataclass(frozen=True)
class _Axis:
    """From values to positions."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    @staticmethod
    def of(values: Float[np.ndarray, " n"], start: float, end: float, logarithmic: bool = False) -> _Axis:
        low, high = float(values.min()), float(values.max())
        if low == high:
            low, high = (low / 2, high * 2) if logarithmic else (low - 0.5, high + 0.5)
        return _Axis(low, high, start, end, logarithmic)

    def places(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        low, high = self.low, self.high
        if self.logarithmic:
            values, low, high = np.log(np.maximum(values, low)), float(np.log(low)), float(np.log(high))
        return self.start + (self.end - self.start) * (values - low) / (high - low)

    def ticks(self, most: int, *, whole: bool = False) -> list[Tick]:
        from matplotlib.ticker import LogLocator, MaxNLocator

        steps = [1, 2, 2.5, 5, 10]
        found = MaxNLocator(most, steps=steps, integer=whole).tick_values(self.low, self.high)
        if self.logarithmic:
            few = self.high < 1e3 * self.low
            found = LogLocator(subs=(1.0, 3.0) if few else (1.0,), numticks=most + 2).tick_values(self.low, self.high)
        inside = np.array([value for value in found if self.low <= value <= self.high])
        texts = [signed(float(value), "g") for value in inside]
        return [(round(float(y), 1), text) for y, text in zip(self.places(inside), texts, strict=True)]


def _thinned(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "_ 2"]:
    """At most `MOST_POINTS` points: means of neighbours."""
    if len(points) <= MOST_POINTS:
        return points
    edges = np.linspace(0, len(points), MOST_POINTS + 1).round().astype(int)
    return np.array([points[start:stop].mean(axis=0) for start, stop in pairwise(edges)])
