"""Baselines that a trained prior should beat: simple densities of latent sequences, fitted in closed form or by EM.

All metrics are bits per dimension: the mean over frames and dimensions of −log2 p. They depend on the scale of the
latents (half the scale, one bit less) and may be negative, so compare them only on the same latents. The same relative
ridge keeps every covariance invertible, so that no baseline wins through a dimension of almost no variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from actseq.errors import ArtifactError
from actseq.priors.untrained import RIDGE

_VARIANCE_FLOOR = 1e-4  # least variance of a mixture component in a dimension, relative to that of all frames
_MAX_MIXTURE_FRAMES = 20_000

Sequences = Sequence[Float[np.ndarray, "_frames dims"]]


class GaussianMixture(NamedTuple):
    """A diagonal Gaussian mixture.

    Attributes:
        weights: weights of the components, summing to 1.
        means: centre of each component.
        variances: variance of each component in each dimension.
        log_likelihoods: mean log density in nats per fitted frame, before each iteration of EM and after the last.
    """

    weights: Float[np.ndarray, " components"]
    means: Float[np.ndarray, "components dims"]
    variances: Float[np.ndarray, "components dims"]
    log_likelihoods: Float[np.ndarray, " turns"]


class _Gaussian(NamedTuple):
    mean: Float[np.ndarray, " dims"]
    covariance: Float[np.ndarray, "dims dims"]


def standard_normal_bits(held_out: Sequences) -> float:
    """Bits per dimension under N(0, I).

    Raises:
        ArtifactError: there are no frames.
    """
    frames = _frames(held_out, "held-out")
    return float(np.mean(0.5 * np.square(frames) + 0.5 * np.log(2 * np.pi)) / np.log(2))


def gaussian_bits(train: Sequences, held_out: Sequences) -> float:
    """Bits per dimension under one full-covariance Gaussian over single frames.

    Raises:
        ArtifactError: there is no frame to fit or to score.
    """
    gaussian = _fit_gaussian(_frames(train, "train"))
    frames = _frames(held_out, "held-out")
    return _bits(_log_density(frames - gaussian.mean, gaussian.covariance), frames.shape[1])


def var1_bits(train: Sequences, held_out: Sequences) -> float:
    """Bits per dimension under a first-order vector autoregression, z_t = A z_{t−1} + b + e, e ~ N(0, full).

    Least squares with a tiny ridge. The first frame of a sequence has its own Gaussian, shrunk towards that of all
    frames with the weight of 10 · dims sequences. With at most 2 · dims transitions to learn from, A is zero.

    Raises:
        ArtifactError: there is no frame to fit or to score.

    Source: Lütkepohl 2005, New Introduction to Multiple Time Series Analysis, section 3.2.
    """
    frames, held_out_frames = _frames(train, "train"), _frames(held_out, "held-out")
    dims = frames.shape[1]
    overall = _fit_gaussian(frames)
    ridge = _ridge(overall.covariance)

    first = _first_frames(train)
    weight = len(first) / (len(first) + 10 * dims)
    deviation = first - first.mean(axis=0)
    between = first.mean(axis=0) - overall.mean
    start_mean = overall.mean + weight * between
    start_covariance = (
        weight * (deviation.T @ deviation / len(first) + ridge)
        + (1 - weight) * overall.covariance
        + weight * (1 - weight) * np.outer(between, between)
    )

    before, after = _transitions(train)
    if len(before) > 2 * dims:
        x, y = before - before.mean(axis=0), after - after.mean(axis=0)
        transition = np.linalg.solve(x.T @ x / len(x) + ridge, x.T @ y / len(x)).T
        offset = after.mean(axis=0) - transition @ before.mean(axis=0)
        residual = y - x @ transition.T
        noise = residual.T @ residual / (len(x) - dims - 1) + ridge
    else:
        transition, offset, noise = np.zeros((dims, dims)), overall.mean, overall.covariance

    before, after = _transitions(held_out)
    log_density = [
        _log_density(_first_frames(held_out) - start_mean, start_covariance),
        _log_density(after - before @ transition.T - offset, noise),
    ]
    return _bits(np.concatenate(log_density), held_out_frames.shape[1])


def mixture_bits(
    train: Sequences, held_out: Sequences, n_components: int = 8, seed: int = 0, iterations: int = 50
) -> float:
    """Bits per dimension under a diagonal Gaussian mixture over single frames, fitted by `fit_mixture`.

    Raises:
        ArtifactError: there is no frame to fit or to score.
    """
    mixture = fit_mixture(train, n_components, seed, iterations)
    frames = _frames(held_out, "held-out")
    joint = _joint_log_density(frames, mixture.weights, mixture.means, mixture.variances)
    return _bits(np.logaddexp.reduce(joint, axis=1), frames.shape[1])


def likelihood_baselines(train: Sequences, held_out: Sequences) -> dict[str, float]:
    """All four baselines by name, in bits per dimension of the held-out sequences.

    Raises:
        ArtifactError: there is no frame to fit or to score.
    """
    return {
        "standard_normal": standard_normal_bits(held_out),
        "gaussian": gaussian_bits(train, held_out),
        "var1": var1_bits(train, held_out),
        "mixture": mixture_bits(train, held_out),
    }


def fit_mixture(train: Sequences, n_components: int = 8, seed: int = 0, iterations: int = 50) -> GaussianMixture:
    """Fit a diagonal Gaussian mixture to single frames by EM from a k-means++ start.

    At most 20 000 random frames are used, and at most as many components as frames. Variances stay above a
    ten-thousandth of those of all frames; each iteration is optimal under that bound, so the likelihood never falls.

    Raises:
        ArtifactError: there is no frame to fit.

    Source: Dempster, Laird, Rubin 1977; Arthur, Vassilvitskii 2007 for the start.
    """
    rng = np.random.default_rng(seed)
    frames = _frames(train, "train")
    if len(frames) > _MAX_MIXTURE_FRAMES:
        frames = frames[rng.choice(len(frames), _MAX_MIXTURE_FRAMES, replace=False)]
    centre, variance = frames.mean(axis=0), frames.var(axis=0)
    ridge = RIDGE * variance.mean() + np.finfo(np.float64).tiny
    scale = np.sqrt(variance + ridge)
    floor = (_VARIANCE_FLOOR * variance + ridge) / scale**2
    x = (frames - centre) / scale

    means = _spread_points(x, min(n_components, len(x)), rng)
    weights = np.full(len(means), 1 / len(means))
    variances = np.ones_like(means)
    log_likelihoods = []
    for turn in range(iterations + 1):
        joint = _joint_log_density(x, weights, means, variances)
        log_density = np.logaddexp.reduce(joint, axis=1)
        log_likelihoods.append(log_density.mean() - np.log(scale).sum())
        if turn == iterations:
            break
        share = np.exp(joint - log_density[:, None])
        count = share.sum(axis=0) + np.finfo(np.float64).tiny  # a component may have no frame left
        weights = count / count.sum()
        means = share.T @ x / count[:, None]
        variances = np.maximum(share.T @ np.square(x) / count[:, None] - np.square(means), floor)
    return GaussianMixture(weights, centre + scale * means, variances * scale**2, np.array(log_likelihoods))


def _spread_points(
    x: Float[np.ndarray, "frames dims"], n: int, rng: np.random.Generator
) -> Float[np.ndarray, "n dims"]:
    """The k-means++ start: each frame is drawn in proportion to its squared distance from the frames drawn before."""
    points = [x[rng.integers(len(x))]]
    distance = np.full(len(x), np.inf)
    for _ in range(n - 1):
        distance = np.minimum(distance, np.square(x - points[-1]).sum(axis=1))
        total = distance.sum()
        points.append(x[rng.choice(len(x), p=distance / total if total else None)])
    return np.stack(points)


def _joint_log_density(
    x: Float[np.ndarray, "frames dims"],
    weights: Float[np.ndarray, " components"],
    means: Float[np.ndarray, "components dims"],
    variances: Float[np.ndarray, "components dims"],
) -> Float[np.ndarray, "frames components"]:
    """Logarithm of weight × density of every component at every frame, in nats."""
    centre = means.mean(axis=0)  # the product below is expanded, which would lose precision far from zero
    x, means = x - centre, means - centre
    distance = np.square(x) @ (1 / variances).T - 2 * x @ (means / variances).T + (np.square(means) / variances).sum(1)
    return np.asarray(np.log(weights) - 0.5 * (distance + np.log(2 * np.pi * variances).sum(axis=1)))


def _log_density(
    deviation: Float[np.ndarray, "frames dims"], covariance: Float[np.ndarray, "dims dims"]
) -> Float[np.ndarray, " frames"]:
    """Log density of N(0, covariance), in nats."""
    factor = np.linalg.cholesky(covariance)
    white = np.linalg.solve(factor, deviation.T)
    log_determinant = 2 * np.log(np.diagonal(factor)).sum()
    return np.asarray(-0.5 * (np.square(white).sum(axis=0) + log_determinant + len(factor) * np.log(2 * np.pi)))


def _fit_gaussian(frames: Float[np.ndarray, "frames dims"]) -> _Gaussian:
    deviation = frames - frames.mean(axis=0)
    covariance = deviation.T @ deviation / len(frames)
    return _Gaussian(frames.mean(axis=0), covariance + _ridge(covariance))


def _ridge(covariance: Float[np.ndarray, "dims dims"]) -> Float[np.ndarray, "dims dims"]:
    level = RIDGE * np.trace(covariance) / len(covariance) + np.finfo(np.float64).tiny
    return np.asarray(level * np.eye(len(covariance)))


def _bits(log_density: Float[np.ndarray, " frames"], dims: int) -> float:
    return float(-log_density.mean() / dims / np.log(2))


def _frames(sequences: Sequences, split: str) -> Float[np.ndarray, "frames dims"]:
    """All frames one after the other, as float64."""
    frames = np.concatenate(sequences).astype(np.float64) if sequences else np.empty((0, 0))
    if not frames.size:
        raise ArtifactError(f"no latents in the {split} split", "at least one frame", "give the corpus more clips")
    return frames


def _first_frames(sequences: Sequences) -> Float[np.ndarray, "sequences dims"]:
    return np.stack([sequence[0] for sequence in sequences if len(sequence)]).astype(np.float64)


def _transitions(sequences: Sequences) -> tuple[Float[np.ndarray, "pairs dims"], Float[np.ndarray, "pairs dims"]]:
    """Every frame that has a successor in its sequence, and these successors."""
    before = np.concatenate([sequence[:-1] for sequence in sequences]).astype(np.float64)
    after = np.concatenate([sequence[1:] for sequence in sequences]).astype(np.float64)
    return before, after
