"""From a path on the plane to latents: at every moment a weighted mean of the latents of the nearest clips.

What is decoded from such a mean is no sound of the corpus and no draw of a prior, and everything that shows it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from actseq.arrays import LatentArray
from actseq.explore.catalog import Catalog, Place

NEAREST = 4
"""Number of clips in the mean."""
LABEL = f"weighted mean of the latents of the {NEAREST} nearest clips"
"""How a sound from a path is labelled."""
SMALLEST = 1e-9
"""A place that is this near to a clip, as a fraction of the mean's radius, is at the clip."""


@dataclass(frozen=True)
class Walk:
    """What lies along a path.

    Attributes:
        latents: (frames, latent_dim).
        clips: names of the clips in the mean, the heaviest first.
        place: mean place of the path.
    """

    latents: LatentArray
    clips: list[str]
    place: Place


def weights(distances: Float64[np.ndarray, " n"], radius: float) -> Float64[np.ndarray, " n"]:
    """Weights that sum to 1: all for a clip at distance 0, none at the radius, continuous in between.

    Source: Franke, Nielson 1980, Smooth interpolation of large sets of scattered data, equation 2.3.
    """
    if not radius > 0:
        return np.full(len(distances), 1 / len(distances))
    near = np.maximum(distances / radius, SMALLEST)
    raw = np.square(np.maximum(0.0, 1 - near) / near)
    return raw / raw.sum() if raw.any() else np.full(len(distances), 1 / len(distances))


def walk(catalog: Catalog, points: Sequence[Place], frames: int | None, most_frames: int) -> Walk:
    """Latents along a path that is walked at constant speed.

    Every clip in the mean runs from its beginning at its own speed. One that is shorter than the sound is stretched to
    the length of the sound. One vector a clip (an autoencoder of whole clips) gives one clip a frame.

    Args:
        catalog: the clips.
        points: corners of the path; a single one is a path that stays there.
        frames: number of latent frames; None: the weighted mean of the clips' lengths.
        most_frames: largest number of frames.
    """
    if frames is None:
        lengths = [_mixed_length(catalog, place) for place in _places(points, 32)]
        frames = round(float(np.mean(lengths)))
    frames = min(max(1, frames), most_frames)
    places = _places(points, frames)
    cache: dict[int, LatentArray] = {}
    total: dict[int, float] = {}
    rows = []
    for number, place in enumerate(places):
        parts = []
        for row, weight in _mean(catalog, place):
            if row not in cache:
                cache[row] = catalog.latents(catalog.clips[row])
            total[row] = total.get(row, 0.0) + weight
            parts.append(weight * _frame(cache[row], number, frames))
        rows.append(np.sum(parts, axis=0))
    heaviest = sorted(total, key=lambda row: (-total[row], row))
    x, y = places.mean(0)
    return Walk(np.stack(rows).astype(np.float32), [catalog.clips[row].key for row in heaviest], (float(x), float(y)))


def _mean(catalog: Catalog, place: Float64[np.ndarray, " xy"]) -> list[tuple[int, float]]:
    """Rows of the clips in the mean at a place, with their weights. The weight is 0 from the next clip on."""
    distances, rows = catalog.nearest(place, NEAREST + 1)
    inside = min(NEAREST, len(rows))
    # With no clip beyond those in the mean, all clips of the run are in it.
    radius = float(distances[-1]) if len(rows) > NEAREST else 2 * float(distances[-1])
    return [
        (row, float(weight))
        for row, weight in zip(rows[:inside], weights(distances[:inside], radius), strict=True)
        if weight > 0
    ]


def _mixed_length(catalog: Catalog, place: Float64[np.ndarray, " xy"]) -> float:
    return sum(weight * catalog.n_frames(row) for row, weight in _mean(catalog, place))


def _places(points: Sequence[Place], n: int) -> Float64[np.ndarray, "n 2"]:
    """Places at equal steps along a path."""
    corners = np.asarray(points, np.float64)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    at = np.linspace(0.0, along[-1], n)
    return np.stack([np.interp(at, along, corners[:, k]) for k in (0, 1)], axis=1)


def _frame(latents: LatentArray, number: int, frames: int) -> Float64[np.ndarray, " dims"]:
    """The latents of a clip at a frame of the sound, between two of its own frames where it is stretched."""
    last = len(latents) - 1
    at = number * min(1.0, last / max(1, frames - 1))
    before = min(int(at), max(0, last - 1))
    share = at - before
    after = latents[min(before + 1, last)].astype(np.float64)
    return np.asarray((1 - share) * latents[before] + share * after)
