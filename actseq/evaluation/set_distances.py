"""Distances between two sets of clips. A set is an array (clips, values): the features of each clip.

Every measure has a bias that depends on the size of the sets, so compare only sets of the same size.

Intervals come from the percentile bootstrap over the clips of the candidate, with the reference fixed. A candidate that
has a fixed number of clips of each stratum (a label) is resampled within strata. A resample contains some clips twice
and others not at all, which changes a distance by itself; so resampled distances are shifted to have the distance
itself as their mean before their quantiles are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist, pdist

RESAMPLES = 300
NEIGHBOURS = 5


class Estimate(NamedTuple):
    """A metric and its 95 % interval."""

    value: float
    low: float
    high: float


class Overlap(NamedTuple):
    """Overlap of two sets.

    Attributes:
        precision: fraction of the candidate within the reference; 1 where nothing is outside.
        recall: fraction of the reference within the candidate; 1 where nothing is missing.
        density: mean number of balls of the reference that contain an element of the candidate, scaled so that it is 1
            for sets of the same distribution.
        coverage: fraction of the balls of the reference that contain an element of the candidate.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def standardised(
    reference: Float[np.ndarray, "m dims"], candidate: Float[np.ndarray, "n dims"]
) -> tuple[Float[np.ndarray, "m dims"], Float[np.ndarray, "n dims"]]:
    """Both sets standardised by the reference; a constant value of the reference keeps its unit."""
    mean, deviation = reference.mean(axis=0), reference.std(axis=0)
    deviation[deviation == 0] = 1
    return (reference - mean) / deviation, (candidate - mean) / deviation


def frechet(
    reference: Float[np.ndarray, "m dims"],
    candidate: Float[np.ndarray, "n dims"],
    strata: Int[np.ndarray, " n"],
    seed: int = 0,
) -> Estimate:
    """Squared Fréchet distance of Gaussians with the means and covariances of two sets of two clips or more.

    The trace of (A B)^½ is that of (A^½ B A^½)^½, whose argument is symmetric: its eigenvalues are real and, up to
    rounding, non-negative, whatever the rank of A and B.

    Source: Dowson and Landau, The Fréchet distance between multivariate normal distributions (1982).
    """
    mean, covariance = _moments(reference)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T

    def distance(chosen: Int[np.ndarray, " n"]) -> float:
        centre, spread = _moments(candidate[chosen])
        common = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ spread @ root), 0)).sum()
        return float(np.square(mean - centre).sum() + np.trace(covariance) + np.trace(spread) - 2 * common)

    value, drawn = _resampled(distance, seed, strata)
    return _estimate(value, drawn * value / drawn.mean())


def discrepancy(
    reference: Float[np.ndarray, "m dims"],
    candidate: Float[np.ndarray, "n dims"],
    strata: Int[np.ndarray, " n"],
    seed: int = 0,
) -> Estimate:
    """Unbiased estimate of the squared maximum mean discrepancy of two sets of two clips or more.

    The kernel is Gaussian, its bandwidth the median distance within the reference. Sets of the same distribution have
    about 0, sometimes less.

    Source: Gretton et al., A Kernel Two-Sample Test (2012), eq. 3, and section 8 for the bandwidth.
    """
    between = pdist(reference)
    bandwidth = float(np.median(between)) or 1.0

    def kernel(distances: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        return np.asarray(np.exp(-np.square(distances) / (2 * bandwidth**2)))

    within_reference = float(kernel(between).mean())
    across = kernel(cdist(candidate, reference)).mean(axis=1)
    within = kernel(cdist(candidate, candidate))
    np.fill_diagonal(within, 0)

    def squared(chosen: Int[np.ndarray, " n"]) -> float:
        # A clip that was drawn twice is not a pair, since its distance to itself is 0.
        counts = np.bincount(chosen, minlength=len(candidate)).astype(np.float64)
        pairs = len(chosen) ** 2 - float(np.square(counts).sum())
        return within_reference + float(counts @ within @ counts) / pairs - 2 * float(counts @ across) / len(chosen)

    value, drawn = _resampled(squared, seed, strata)
    return _estimate(value, drawn + value - drawn.mean())


def overlap(reference: Float[np.ndarray, "m dims"], candidate: Float[np.ndarray, "n dims"]) -> Overlap:
    """Precision, recall, density and coverage of two sets of more than `NEIGHBOURS` clips each.

    A ball reaches from an element to its fifth neighbour in its own set; the balls of a set cover its part of the
    space.

    Sources: Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models (2019), eqs. 1
    and 2; Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models (2020), eqs. 3 to 6.
    """
    distances = cdist(reference, candidate)
    inside = distances <= _radii(reference)[:, None]
    return Overlap(
        precision=float(inside.any(axis=0).mean()),
        recall=float((distances <= _radii(candidate)).any(axis=1).mean()),
        density=float(inside.sum(axis=0).mean() / NEIGHBOURS),
        coverage=float(inside.any(axis=1).mean()),
    )


def nearest_distances(
    reference: Float[np.ndarray, "m dims"], candidate: Float[np.ndarray, "n dims"]
) -> Float[np.ndarray, " n"]:
    """Root mean square difference between each clip of the candidate and the nearest clip of the reference."""
    return np.asarray(cdist(candidate, reference).min(axis=1) / np.sqrt(reference.shape[1]))


def ratio_of_medians(candidate: Float[np.ndarray, " n"], held_out: Float[np.ndarray, " m"], seed: int = 0) -> Estimate:
    """Median of the candidate divided by that of the held-out clips; both are resampled."""

    def ratio(chosen: Int[np.ndarray, " n"], beside: Int[np.ndarray, " m"]) -> float:
        return float(np.median(candidate[chosen]) / np.median(held_out[beside]))

    return _estimate(*_resampled(ratio, seed, *(np.zeros(len(values), int) for values in (candidate, held_out))))


def _resampled(
    statistic: Callable[..., float], seed: int, *strata: Int[np.ndarray, " _"]
) -> tuple[float, Float[np.ndarray, " resamples"]]:
    """A statistic of the clips of one or more sets, given by index, and its values for resamples."""
    rng = np.random.default_rng(seed)
    members = [[np.flatnonzero(own == stratum) for stratum in np.unique(own)] for own in strata]

    def again(sets: list[Int[np.ndarray, " _"]]) -> Int[np.ndarray, " _"]:
        return np.concatenate([rng.choice(rows, len(rows)) for rows in sets])

    drawn = [statistic(*map(again, members)) for _ in range(RESAMPLES)]
    return statistic(*(np.arange(len(own)) for own in strata)), np.array(drawn)


def _estimate(value: float, drawn: Float[np.ndarray, " resamples"]) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def _moments(
    values: Float[np.ndarray, "n dims"],
) -> tuple[Float[np.ndarray, " dims"], Float[np.ndarray, "dims dims"]]:
    return values.mean(axis=0), np.atleast_2d(np.cov(values, rowvar=False))


def _radii(values: Float[np.ndarray, "n dims"]) -> Float[np.ndarray, " n"]:
    """Distance of each element from its fifth neighbour, where it counts itself as the nearest."""
    return np.asarray(np.partition(cdist(values, values), NEIGHBOURS, axis=1)[:, NEIGHBOURS])
