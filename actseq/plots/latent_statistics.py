"""Statistics of latents compared with their prior, as plain arrays for pictures and tables.

The prior describes the latents that the decoder receives: draws from the posteriors, not their means. Neighbouring
frames are not independent, so distances have no p-value.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, ndtri

from actseq.modules import gaussian

CONSTANT = 1e-6
"""A dimension with a smaller standard deviation is constant."""


@dataclass(frozen=True)
class LatentValues:
    """Latent frames of some clips, one clip after the other.

    Attributes:
        drawn: one draw from each posterior; the mean of a point posterior.
        mean: mean of each posterior.
        log_variance: log-variance of each posterior; None for point posteriors.
        deviation: standard deviation of the prior N(0, deviation²); None without a prior, where a Gaussian with the
            mean and standard deviation of each dimension replaces it.
    """

    drawn: Float[np.ndarray, "frames dims"]
    mean: Float[np.ndarray, "frames dims"]
    log_variance: Float[np.ndarray, "frames dims"] | None
    deviation: float | None

    def centre(self) -> Float[np.ndarray, " dims"]:
        """Mean of the Gaussian with which they are compared."""
        return np.zeros(self.drawn.shape[1]) if self.deviation is not None else self.drawn.mean(0, dtype=np.float64)

    def scale(self) -> Float[np.ndarray, " dims"]:
        """Standard deviation of that Gaussian."""
        if self.deviation is not None:
            return np.full(self.drawn.shape[1], float(self.deviation))
        return np.asarray(self.drawn.std(0, dtype=np.float64))

    def standardised(self) -> Float[np.ndarray, "frames dims"]:
        """Draws standardised by that Gaussian; 0 in a constant dimension."""
        scale = self.scale()
        return np.asarray((self.drawn - self.centre()) / np.where(scale > CONSTANT, scale, np.inf))


@dataclass(frozen=True)
class Histogram:
    """Densities of standardised latents, and of N(0, 1).

    Attributes:
        edges: edges of the bins; at most one value in a thousand of any dimension is outside.
        density: density of the latents.
        prior: density of the normal distribution, averaged over each bin.
    """

    edges: Float[np.ndarray, " edges"]
    density: Float[np.ndarray, "bins dims"]
    prior: Float[np.ndarray, " bins"]


def histogram(standardised: Float[np.ndarray, "frames dims"], n_bins: int = 40) -> Histogram:
    """Histograms over the same range for all dimensions: four standard deviations, or as far as latents reach."""
    reach = max(4.0, float(np.ceil(np.quantile(np.abs(standardised), 0.999, axis=0).max())))
    edges = np.linspace(-reach, reach, n_bins + 1)
    counts = np.stack([np.histogram(column, edges)[0] for column in standardised.T], axis=1)
    return Histogram(
        edges, counts / (len(standardised) * np.diff(edges)[:, None]), np.diff(ndtr(edges)) / np.diff(edges)
    )


def kolmogorov_smirnov(standardised: Float[np.ndarray, "frames dims"]) -> Float[np.ndarray, " dims"]:
    """Greatest distance, 0 to 1, of each dimension's distribution function from that of N(0, 1)."""
    n = len(standardised)
    expected = ndtr(np.sort(standardised, axis=0))
    steps = np.arange(n + 1)[:, None] / n
    return np.asarray(np.maximum((steps[1:] - expected).max(0), (expected - steps[:-1]).max(0)))


def quantiles(
    standardised: Float[np.ndarray, "frames dims"], n: int = 100
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, "n dims"]]:
    """Centres of `n` equal parts of [0, 1], and the quantiles of N(0, 1) and of the latents at these probabilities."""
    probabilities = (np.arange(n) + 0.5) / n
    return probabilities, ndtri(probabilities), np.quantile(standardised, probabilities, axis=0)


def correlations(values: Float[np.ndarray, "frames dims"]) -> Float[np.ndarray, "dims dims"]:
    """Correlations between dimensions; 0 with a constant dimension, 1 of each with itself."""
    centred = values - values.mean(0, dtype=np.float64)
    deviation = centred.std(0)
    scaled = centred / np.where(deviation > CONSTANT, deviation, np.inf)
    found = np.asarray(scaled.T @ scaled / len(values))
    np.fill_diagonal(found, 1.0)
    return found


def nearest_relative(
    correlation: Float[np.ndarray, "dims dims"],
) -> tuple[Float[np.ndarray, " dims"], np.ndarray]:
    """Largest absolute correlation of each dimension with another, and the index of that one (its own without any)."""
    others = np.abs(correlation) * (1 - np.eye(len(correlation)))
    return others.max(1), np.where(others.max(1) > 0, others.argmax(1), np.arange(len(others)))


def kl_nats(codes: LatentValues) -> Float[np.ndarray, " dims"] | None:
    """Mean KL divergence of the posteriors from N(0, 1) in each dimension; None for point posteriors."""
    if codes.log_variance is None:
        return None
    mean, log_variance = codes.mean.astype(np.float64), codes.log_variance.astype(np.float64)
    return np.asarray(gaussian.kl_nats(mean, log_variance).mean(0))


def principal(
    values: Float[np.ndarray, "n dims"], k: int = 2
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " k"]]:
    """The first `k` principal components of some points, and the fraction of the variance that each explains."""
    directions, explained = principal_directions(values, k)
    return (values - values.mean(0, dtype=np.float64)) @ directions.T, explained


def principal_directions(
    values: Float[np.ndarray, "n dims"], k: int = 2
) -> tuple[Float[np.ndarray, "k dims"], Float[np.ndarray, " k"]]:
    """The directions of the first `k` principal components, and the fraction of the variance that each explains.

    Signs are chosen so that the largest weight of a component is positive. Where points have fewer dimensions than `k`,
    the remaining components are 0.
    """
    centred = values - values.mean(0, dtype=np.float64)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    directions = (
        directions[:k] * np.sign(directions[np.arange(len(directions[:k])), np.abs(directions[:k]).argmax(1)])[:, None]
    )
    explained = singular[:k] ** 2 / max(float((singular**2).sum()), 1e-30)
    missing = k - len(directions)
    return np.pad(directions, ((0, missing), (0, 0))), np.pad(explained, (0, missing))
