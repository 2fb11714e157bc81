"""Distances between two sets of clips. A set is an array (clips, values): the features of each clip.

Fréchet distance and overlap have a bias that depends on the size of the sets, so compare only sets of the same size.

Intervals come from the percentile bootstrap over the clips of the candidate, with the reference fixed. A candidate that
has a fixed number of clips of each stratum (a label) is resampled within strata. A resample contains some clips twice
and others not at all, which changes a distance by itself; so resampled distances are shifted to have the distance
itself as their mean before their quantiles are taken.

Clips of the reference can have weights: with them, a label has the same share in the reference as in the candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist, pdist, squareform
from scipy.stats import kstwo

RESAMPLES = 300
NEIGHBOURS = 5


class Estimate(NamedTuple):
    """A metric and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Resampled:
    """A metric of a set, and its values for resamples of the set.

    Attributes:
        value: the metric.
        drawn: its values for resamples; their mean is the metric.
    """

    value: float
    drawn: Float[np.ndarray, " resamples"]

    @property
    def estimate(self) -> Estimate:
        """The metric with its interval."""
        low, high = np.quantile(self.drawn, [0.025, 0.975])
        return Estimate(self.value, float(low), float(high))

    def minus(self, other: Resampled) -> Estimate:
        """Difference from the metric of another set, which was resampled with another seed."""
        return Resampled(self.value - other.value, self.drawn - other.drawn).estimate


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
    mean, deviation = scale_of(reference)
    return (reference - mean) / deviation, (candidate - mean) / deviation


def scale_of(
    reference: Float[np.ndarray, "m dims"],
) -> tuple[Float[np.ndarray, " dims"], Float[np.ndarray, " dims"]]:
    """Mean and standard deviation of each value; a constant value has a deviation of 1, so that it keeps its unit."""
    mean, deviation = reference.mean(axis=0), reference.std(axis=0)
    return mean, np.where(deviation > 1e-9 * np.maximum(1, np.abs(mean)), deviation, 1.0)


def frechet(
    reference: Float[np.ndarray, "m dims"],
    candidate: Float[np.ndarray, "n dims"],
    strata: Int[np.ndarray, " n"],
    seed: int = 0,
    weights: Float[np.ndarray, " m"] | None = None,
) -> Resampled:
    """Squared Fréchet distance of Gaussians with the means and covariances of two sets of two clips or more.

    Args:
        reference: the reference; `weights` are those of its clips, None for equal ones.
        candidate: the set that is compared.
        strata: stratum of each of its clips.
        seed: seed of the resamples.
        weights: see `reference`.

    The trace of (A B)^½ is that of (A^½ B A^½)^½, whose argument is symmetric: its eigenvalues are real and, up to
    rounding, non-negative, whatever the rank of A and B.

    Source: Dowson and Landau, The Fréchet distance between multivariate normal distributions (1982).
    """
    mean, covariance = _moments(reference, weights)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T

    def distance(chosen: Int[np.ndarray, " n"]) -> float:
        centre, spread = _moments(candidate[chosen])
        common = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ spread @ root), 0)).sum()
        return float(np.square(mean - centre).sum() + np.trace(covariance) + np.trace(spread) - 2 * common)

    value, drawn = _resampled(distance, seed, strata)
    return Resampled(value, drawn * value / drawn.mean())


def discrepancy(
    reference: Float[np.ndarray, "m dims"],
    candidate: Float[np.ndarray, "n dims"],
    strata: Int[np.ndarray, " n"],
    seed: int = 0,
    weights: Float[np.ndarray, " m"] | None = None,
    *,
    width: float = 1.0,
) -> Resampled:
    """Unbiased estimate of the squared maximum mean discrepancy of two sets of two clips or more; arguments as above.

    The kernel is Gaussian, its bandwidth `width` times the median distance within the reference. Sets of the same
    distribution have about 0, sometimes less.

    Source: Gretton et al., A Kernel Two-Sample Test (2012), eq. 3, and section 8 for the bandwidth.
    """
    between = pdist(reference)
    bandwidth = width * (float(np.median(between)) or 1.0)

    def kernel(distances: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        return np.asarray(np.exp(-np.square(distances) / (2 * bandwidth**2)))

    of_reference = np.ones(len(reference)) if weights is None else weights
    shares = of_reference / of_reference.sum()
    within_reference = float(shares @ squareform(kernel(between)) @ shares) / (1 - float(np.square(shares).sum()))
    across = kernel(cdist(candidate, reference)) @ shares
    within = kernel(cdist(candidate, candidate))
    np.fill_diagonal(within, 0)

    def squared(chosen: Int[np.ndarray, " n"]) -> float:
        # A clip that was drawn twice is not a pair, since its distance to itself is 0.
        counts = np.bincount(chosen, minlength=len(candidate)).astype(np.float64)
        pairs = len(chosen) ** 2 - float(np.square(counts).sum())
        inside = float(counts @ within @ counts) / pairs if pairs else 1.0  # One clip, over and over.
        return within_reference + inside - 2 * float(counts @ across) / len(chosen)

    value, drawn = _resampled(squared, seed, strata)
    return Resampled(value, drawn + value - drawn.mean())


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

    strata = (np.zeros(len(values), int) for values in (candidate, held_out))
    return Resampled(*_resampled(ratio, seed, *strata)).estimate


def mean(values: Float[np.ndarray, " n"], strata: Int[np.ndarray, " n"], seed: int = 0) -> Resampled:
    """Mean of a value over the clips of a set."""
    return Resampled(*_resampled(lambda chosen: float(values[chosen].mean()), seed, strata))


def length_distance(
    reference: Int[np.ndarray, " m"], candidate: Int[np.ndarray, " n"], weights: Float[np.ndarray, " m"]
) -> tuple[float, float]:
    """Kolmogorov-Smirnov statistic of two sets of lengths, and its asymptotic p.

    Args:
        reference: lengths of the reference.
        candidate: lengths of the set that is compared.
        weights: weights of the reference's clips. For p they count as (Σ w)² / Σ w² clips.
    """
    at = np.unique(np.concatenate([reference, candidate]))
    order = np.argsort(reference, kind="stable")
    known = np.concatenate([[0.0], np.cumsum(weights[order])]) / weights.sum()
    below = known[np.searchsorted(reference[order], at, side="right")]
    own = np.searchsorted(np.sort(candidate), at, side="right") / len(candidate)
    statistic = float(np.abs(below - own).max())
    size = float(weights.sum() ** 2 / np.square(weights).sum())
    return statistic, float(kstwo.sf(statistic, np.round(size * len(candidate) / (size + len(candidate)))))


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


def _moments(
    values: Float[np.ndarray, "n dims"], weights: Float[np.ndarray, " n"] | None = None
) -> tuple[Float[np.ndarray, " dims"], Float[np.ndarray, "dims dims"]]:
    covariance = np.cov(values, rowvar=False, aweights=weights)
    return np.average(values, axis=0, weights=weights), np.atleast_2d(covariance)


def _radii(values: Float[np.ndarray, "n dims"]) -> Float[np.ndarray, " n"]:
    """Distance of each element from its fifth neighbour, where it counts itself as the nearest."""
    return np.asarray(np.partition(cdist(values, values), NEIGHBOURS, axis=1)[:, NEIGHBOURS])
