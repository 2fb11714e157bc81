"""Charts of latents: plain arrays → pictures, each with a sentence above it that says what to look for."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from actseq.plots import style
from actseq.plots.latent_statistics import Histogram

if TYPE_CHECKING:
    import matplotlib.axes

MAX_DIMENSIONS = 100
"""Most small charts on one sheet."""
_LABELS = (
    "#4878a8", "#d9622b", "#00a08a", "#8f5fa8", "#b8860b", "#cf222e", "#57a0d3", "#7a9a01", "#a0522d", "#3b4a6b",
)  # fmt: skip
"""Colours of the most frequent labels; the others are grey."""


def _shown(distances: Float[np.ndarray, " dims"]) -> tuple[np.ndarray, str]:
    """Dimensions with their own chart: all, or those furthest from the prior; and a sentence that says so."""
    if len(distances) <= MAX_DIMENSIONS:
        return np.arange(len(distances)), ""
    furthest = np.sort(np.argsort(-distances, kind="stable")[:MAX_DIMENSIONS])
    return furthest, f" {MAX_DIMENSIONS} of {len(distances)} dimensions, those furthest from it; the table has all."


def _whose(prior: str | None) -> str:
    return "the prior" if prior else "a Gaussian with its own mean and std, since this bottleneck has no prior"


def _small(title: str, sentence: str, n: int, legend: Mapping[str, str]) -> style.Sheet:
    return style.Sheet(title, sentence, n, ceil(n / ceil(n / 10)), (1.0, 0.72), (0.22, 0.3), legend)


def distributions(
    path: Path, histogram: Histogram, distances: Float[np.ndarray, " dims"], prior: str | None, about: str
) -> Path:
    """A small histogram of each latent dimension, with the density that it should have."""
    kept, more = _shown(distances)
    sentence = (
        f"Histogram of each latent dimension, in units of the std of {_whose(prior)}. Bars that fill the line "
        "match it. KS is the greatest distance between the two distribution functions: 0 is none, 0.05 is hard to see, "
        f"red is above 0.1.{more}"
    )
    sheet = _small(
        f"{about}: distribution", sentence, len(kept), {"codes": style.BLUE, prior or "Gaussian": style.ORANGE}
    )
    centres = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    highest = 1.3 * float(max(histogram.prior.max(), np.quantile(histogram.density[:, kept].max(0), 0.9)))
    for place, dimension in enumerate(kept):
        axes = _small_axes(sheet, place, int(dimension), float(distances[dimension]))
        density = histogram.density[:, dimension]
        axes.bar(centres, density, width=np.diff(histogram.edges), color=style.BLUE, alpha=0.55, linewidth=0)
        axes.plot(centres, histogram.prior, color=style.ORANGE, linewidth=0.9)
        axes.set_xlim(histogram.edges[0], histogram.edges[-1])
        # One narrow dimension would flatten all the others; an arrow shows where a bar leaves its chart.
        axes.set_ylim(0, highest)
        if density.max() > highest:
            axes.plot(centres[density.argmax()], 0.96 * highest, "^", color=style.RED, markersize=3)
        axes.set_yticks([])
    return sheet.write(path)


def quantiles(
    path: Path,
    expected: Float[np.ndarray, " n"],
    found: Float[np.ndarray, "n dims"],
    distances: Float[np.ndarray, " dims"],
    prior: str | None,
    about: str,
) -> Path:
    """A small Q–Q plot of each latent dimension."""
    kept, more = _shown(distances)
    sentence = (
        "Quantiles of each latent dimension (vertical) against those it should have (horizontal), in units of the std "
        f"of {_whose(prior)}. On the line they match. Steeper is wider, flatter is narrower, shifted is off centre; "
        f"bent ends mean heavier or lighter tails.{more}"
    )
    sheet = _small(f"{about}: quantiles", sentence, len(kept), {"codes": style.BLUE, prior or "Gaussian": style.ORANGE})
    reach = 1.05 * max(float(np.abs(found).max()), float(expected.max()))
    for place, dimension in enumerate(kept):
        axes = _small_axes(sheet, place, int(dimension), float(distances[dimension]))
        axes.plot([-reach, reach], [-reach, reach], color=style.ORANGE, linewidth=0.9)
        axes.plot(expected, found[:, dimension], "o", color=style.BLUE, markersize=1.2)
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
    return sheet.write(path)


def _small_axes(sheet: style.Sheet, place: int, dimension: int, distance: float) -> "matplotlib.axes.Axes":
    from matplotlib.ticker import MaxNLocator

    axes = sheet.axes(place)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    x, y = sheet.place(place)
    sheet.text(x, y - 0.04, str(dimension), 6.5, weight="bold")
    red = style.RED if distance > 0.1 else style.SOFT
    sheet.text(x + sheet.size[0], y - 0.04, f"KS {distance:.2f}", 5.5, color=red, ha="right")
    return axes


def dimensions(path: Path, columns: Mapping[str, Any], deviation: float | None, about: str) -> Path:
    """The metrics of each dimension, in charts below each other."""
    n = len(columns["dimension"])
    sentence = "One bar for each latent dimension. "
    if deviation is None:
        sentence += (
            "There is no prior: the distance is that from a Gaussian with the same mean and std. A dimension with a "
            "deviation near 0 carries no information; one with a correlation near 1 could be replaced by another."
        )
    else:
        sentence += (
            "The distance from the prior and the correlation with other dimensions should be small, and the deviation "
            "that of the prior. A dimension with a deviation near 0 carries no information."
        )
    if "deviation_of_mean" in columns:
        sentence += " The deviation of the means carries the sound; the rest of the deviation is noise."
    means = {"of the means alone": style.BLUE} if "deviation_of_mean" in columns else {}
    prior = {} if deviation is None else {"prior": style.ORANGE}
    sheet = style.Sheet(
        f"{about}: dimensions", sentence, 3, 1, (max(7.0, min(13.0, 0.09 * n)), 1.2), legend=means | prior
    )
    charts = {
        "distance from the prior (KS)": "ks",
        "deviation": "deviation",
        "largest correlation with another dimension": "largest_correlation",
    }
    for place, (title, name) in enumerate(charts.items()):
        axes = sheet.axes(place, title)
        axes.bar(columns["dimension"], columns[name], width=0.8, color="#b9c4d6" if name == "deviation" else style.WAVE)
        if name == "deviation":
            if means:
                axes.bar(columns["dimension"], columns["deviation_of_mean"], width=0.8, color=style.BLUE)
            if deviation is not None:
                axes.axhline(deviation, color=style.ORANGE, linewidth=0.9)
        axes.set_xlim(-0.7, n - 0.3)
        axes.set_ylim(0, 1.08 * max(float(np.max(columns[name])), deviation or 0.0 if name == "deviation" else 0.1))
        axes.grid(visible=False, axis="x")
    style.names(axes, "dimension")
    return sheet.write(path)


def correlations(path: Path, matrix: Float[np.ndarray, "dims dims"], about: str) -> Path:
    """The correlation matrix as a coloured square."""
    sentence = (
        "Correlation of every latent dimension with every other. White is none, which the prior assumes. "
        "A strong colour off the diagonal: both dimensions carry the same information."
    )
    size = min(6.0, max(3.5, 0.07 * len(matrix)))
    sheet = style.Sheet(f"{about}: correlations", sentence, 1, 1, (size, size))
    axes = sheet.axes(0)
    axes.grid(visible=False)
    axes.imshow(matrix, cmap="RdBu_r", vmin=-1.0, vmax=1.0, interpolation="nearest")
    style.names(axes, "dimension", "dimension")
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(True)
    x, y = sheet.left + size + 0.12, sheet.top
    bar = sheet.figure.add_axes(
        (x / sheet.width, 1 - (y + size) / sheet.height, 0.1 / sheet.width, size / sheet.height), facecolor="white"
    )
    style.quiet(bar)
    bar.imshow(np.linspace(-1, 1, 201)[:, None], cmap="RdBu_r", aspect="auto", origin="lower", extent=(0, 1, -1, 1))
    bar.yaxis.tick_right()
    bar.set_yticks([-1, -0.5, 0, 0.5, 1], ["−1", "−0.5", "0", "0.5", "1"])
    return sheet.write(path)


def kl(path: Path, nats: Float[np.ndarray, " dims"], order: np.ndarray, threshold: float, about: str) -> Path:
    """KL divergence of each dimension, largest first, with the threshold below which a dimension is inactive."""
    n, active = len(nats), int((nats > threshold).sum())
    sentence = (
        "Information in each latent dimension, largest first, on a logarithmic axis. Below the line a dimension "
        f"is inactive and priors leave it out: {active} of {n} are active, with {nats.sum():.3g} nats per frame in all."
    )
    legend = {"in use": style.BLUE, "not in use": style.SOFT}
    sheet = style.Sheet(f"{about}: KL", sentence, 1, 1, (max(6.5, min(13.0, 0.13 * n)), 2.4), legend=legend)
    axes = sheet.axes(0)
    lowest = min(threshold, max(float(nats.min()), 1e-6)) / 2
    axes.set_yscale("log")
    axes.bar(
        np.arange(n), np.maximum(nats, lowest) - lowest, bottom=lowest, width=0.8,
        color=[style.BLUE if value > threshold else style.SOFT for value in nats],
    )  # fmt: skip
    axes.axhline(threshold, color=style.ORANGE, linewidth=0.9)
    axes.set_xlim(-0.7, n - 0.3)
    axes.set_ylim(lowest, 2 * max(float(nats.max()), threshold))
    every = max(1, ceil(n / 60))
    axes.set_xticks(range(0, n, every), [str(dimension) for dimension in order[::every]], rotation=90 if n > 20 else 0)
    axes.grid(visible=False, axis="x")
    axes.tick_params(which="minor", left=False)
    axes.yaxis.set_major_formatter("{x:g}")
    style.names(axes, "dimension", "nats")
    return sheet.write(path)


def latent_map(
    path: Path,
    points: Mapping[str, tuple[Float[np.ndarray, "n 2"], Sequence[str], Float[np.ndarray, " 2"]]],
    about: str,
) -> Path:
    """Points in two dimensions, coloured by label.

    Args:
        path: the PNG to write.
        points: title of each chart → positions, labels and the fraction of the variance that each axis explains.
        about: text in the title.
    """
    counts: dict[str, int] = {}
    for _, labels, _ in points.values():
        for label in labels:
            counts[label] = counts.get(label, 0) + 1
    named = sorted(sorted(counts, key=lambda label: (-counts[label], label))[: len(_LABELS)])
    colours = dict(zip(named, _LABELS, strict=False)) if len(counts) > 1 else {}
    legend = {(label or "no label"): colour for label, colour in colours.items()}
    if len(counts) > len(_LABELS):
        legend["others"] = style.FAINT
    sentence = (
        "The directions in which latents differ most (principal components of their means). Near points are sounds "
        "with similar latents"
        + ("; separate colours are labels that the latents separate" if colours else "")
        + ". Two axes "
        "show only the part of the variance that is written above them."
    )
    sheet = style.Sheet(f"{about}: latent map", sentence, len(points), 2, (4.4, 4.0))
    for place, (title, (places, labels, shares)) in enumerate(points.items()):
        axes = sheet.axes(place, f"{len(places)} {title}: {shares.sum():.0%} of the variance")
        many = len(places) > 500
        axes.scatter(
            places[:, 0], places[:, 1], s=3 if many else 14, linewidths=0, alpha=0.5 if many else 0.85,
            c=[colours.get(label, style.FAINT if colours else style.WAVE) for label in labels],
        )  # fmt: skip
        style.names(axes, f"first component, {shares[0]:.0%}", f"second component, {shares[1]:.0%}")
    x = sheet.left
    for name, colour in ({"labels:": style.SOFT} | legend if legend else {}).items():
        words = style.fit(name, 1.6, 7.0)
        sheet.text(x, sheet.height - 0.06, words, 7.0, color=colour, weight="bold")
        x += len(words) * 7 * 0.68 / 72 + 0.15
    return sheet.write(path)
