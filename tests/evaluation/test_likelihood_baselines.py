"""Likelihood baselines against scipy's densities and processes whose entropy is known."""

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from actseq.errors import ArtifactError
from actseq.evaluation.baselines import (
    fit_mixture,
    gaussian_bits,
    likelihood_baselines,
    mixture_bits,
    standard_normal_bits,
    var1_bits,
)

TRANSITION = np.array([[0.9, 0.2, 0.0], [-0.2, 0.8, 0.1], [0.0, 0.0, 0.5]])
NOISE = np.array([[0.3, 0.1, 0.0], [0.1, 0.2, 0.05], [0.0, 0.05, 0.1]])
OFFSET = np.array([0.5, -1.0, 2.0])


def entropy_bits(covariance: np.ndarray) -> float:
    """Differential entropy of a Gaussian per dimension."""
    dims = len(covariance)
    return float(0.5 * np.log2((2 * np.pi * np.e) ** dims * np.linalg.det(covariance)) / dims)


def var1_process(n_sequences: int, n_frames: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    mean = np.linalg.solve(np.eye(3) - TRANSITION, OFFSET)
    stationary = solve_discrete_lyapunov(TRANSITION, NOISE)
    z = rng.multivariate_normal(mean, stationary, n_sequences)
    frames = [z]
    for _ in range(n_frames - 1):
        z = z @ TRANSITION.T + OFFSET + rng.multivariate_normal(np.zeros(3), NOISE, n_sequences)
        frames.append(z)
    return list(np.stack(frames, axis=1))


def correlated(n_sequences: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    mixing = np.array([[2.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.5, -1.0, 0.3, 0.0], [0.0, 0.0, 1.0, 0.1]])
    return [3 + rng.standard_normal((rng.integers(1, 40), 4)) @ mixing.T for _ in range(n_sequences)]


def test_standard_normal_is_scipys() -> None:
    held_out = correlated(5, 0)
    expected = -norm.logpdf(np.concatenate(held_out)).mean() / np.log(2)
    assert standard_normal_bits(held_out) == pytest.approx(expected, rel=1e-12)


def test_gaussian_is_scipys() -> None:
    train, held_out = correlated(60, 0), correlated(10, 1)
    frames = np.concatenate(train)
    density = multivariate_normal(frames.mean(axis=0), np.cov(frames.T, bias=True))
    expected = -density.logpdf(np.concatenate(held_out)).mean() / 4 / np.log(2)
    assert gaussian_bits(train, held_out) == pytest.approx(expected, abs=1e-4)


def test_var1_reaches_the_entropy_rate_of_its_process() -> None:
    train, held_out = var1_process(200, 100, 0), var1_process(200, 100, 1)
    stationary = entropy_bits(solve_discrete_lyapunov(TRANSITION, NOISE))
    expected = (stationary + 99 * entropy_bits(NOISE)) / 100
    assert var1_bits(train, held_out) == pytest.approx(expected, abs=0.01)
    # One Gaussian sees no time and pays the stationary entropy.
    assert gaussian_bits(train, held_out) == pytest.approx(stationary, abs=0.03)
    assert stationary - expected > 0.5


def test_var1_is_least_squares_within_sequences() -> None:
    train, held_out = var1_process(3, 30, 2), var1_process(2, 2, 3)
    x = np.concatenate([np.column_stack([z[:-1], np.ones(len(z) - 1)]) for z in train])
    y = np.concatenate([z[1:] for z in train])
    coefficients, *_ = np.linalg.lstsq(x, y)
    residual = y - x @ coefficients
    noise = residual.T @ residual / (len(x) - 4)
    transitions = sum(multivariate_normal(np.append(z[0], 1) @ coefficients, noise).logpdf(z[1]) for z in held_out)
    frames, first = np.concatenate(train), np.stack([z[0] for z in train])
    # The moments of a population of which 3 in 33 are first frames.
    weights = [3 / 33, 30 / 33]
    mean = weights[0] * first.mean(axis=0) + weights[1] * frames.mean(axis=0)
    second = sum(w * (f - mean).T @ (f - mean) / len(f) for w, f in zip(weights, (first, frames), strict=True))
    start = multivariate_normal(mean, second).logpdf(np.stack([z[0] for z in held_out])).sum()
    assert var1_bits(train, held_out) == pytest.approx(-(transitions + start) / 12 / np.log(2), abs=1e-3)


def test_var1_learns_where_sequences_start() -> None:
    rng = np.random.default_rng(0)

    def attacks(n: int) -> list[np.ndarray]:
        sequences = [rng.standard_normal((4, 2)) for _ in range(n)]
        for z in sequences:
            z[0] = 3 + 0.5 * rng.standard_normal(2)
        return sequences

    held_out = attacks(2000)
    learnt, hardly = var1_bits(attacks(2000), held_out), var1_bits(attacks(12), held_out)
    expected = (entropy_bits(0.25 * np.eye(2)) + 3 * entropy_bits(np.eye(2))) / 4
    assert learnt == pytest.approx(expected, abs=0.03)
    assert hardly > learnt + 0.1


def test_var1_without_transitions_to_learn_from_is_the_gaussian() -> None:
    train = [z[:1] for z in var1_process(400, 1, 0)]
    held_out = var1_process(50, 1, 1)
    assert var1_bits(train, held_out) == pytest.approx(gaussian_bits(train, held_out), abs=1e-9)
    assert np.isfinite(var1_bits(train, var1_process(5, 20, 1)))


def mixture_sample(n: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Sequences of three well separated components, and the true log density of each frame."""
    rng = np.random.default_rng(seed)
    weights, means = np.array([0.5, 0.3, 0.2]), np.array([[0.0, 0.0], [20.0, 5.0], [-15.0, 30.0]])
    deviations = np.array([[1.0, 0.5], [0.3, 2.0], [1.5, 1.5]])
    component = rng.choice(3, n, p=weights)
    frames = means[component] + deviations[component] * rng.standard_normal((n, 2))
    log_density = logsumexp(norm.logpdf(frames[:, None], means, deviations).sum(axis=2), b=weights, axis=1)
    return np.array_split(frames, n // 50), log_density


def test_mixture_finds_known_components() -> None:
    train, _ = mixture_sample(5000, 0)
    held_out, log_density = mixture_sample(2000, 1)
    truth = -log_density.mean() / 2 / np.log(2)
    assert mixture_bits(train, held_out, n_components=3) == pytest.approx(truth, abs=0.01)
    assert mixture_bits(train, held_out) == pytest.approx(truth, abs=0.03)
    assert gaussian_bits(train, held_out) > truth + 1
    mixture = fit_mixture(train, n_components=3)
    order = np.argsort(-mixture.weights)
    np.testing.assert_allclose(mixture.weights[order], [0.5, 0.3, 0.2], atol=0.02)
    np.testing.assert_allclose(mixture.means[order], [[0, 0], [20, 5], [-15, 30]], atol=0.2)
    np.testing.assert_allclose(mixture.variances[order], [[1, 0.25], [0.09, 4], [2.25, 2.25]], rtol=0.15)


def test_mixture_bits_are_scipys_density_of_the_fit() -> None:
    train, held_out = var1_process(30, 50, 0), var1_process(5, 50, 1)
    held_out = [z + 1000 for z in held_out]  # far from zero, where expanded squares would cancel
    train = [z + 1000 for z in train]
    fit = fit_mixture(train)
    frames = np.concatenate(held_out)[:, None]
    log_density = logsumexp(norm.logpdf(frames, fit.means, np.sqrt(fit.variances)).sum(axis=2), b=fit.weights, axis=1)
    assert mixture_bits(train, held_out) == pytest.approx(-log_density.mean() / 3 / np.log(2), rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_em_never_falls(seed: int) -> None:
    train = var1_process(20, 40, seed)
    train[0][:20] = train[0][0]  # frames all alike, where a component runs into its least variance
    fit = fit_mixture(train, seed=seed, iterations=80)
    assert len(fit.log_likelihoods) == 81
    assert np.diff(fit.log_likelihoods).min() >= -1e-9
    assert fit.log_likelihoods[-1] > fit.log_likelihoods[0] + 0.1
    frames = np.concatenate(train)[:, None]
    log_density = logsumexp(norm.logpdf(frames, fit.means, np.sqrt(fit.variances)).sum(axis=2), b=fit.weights, axis=1)
    assert fit.log_likelihoods[-1] == pytest.approx(log_density.mean(), rel=1e-9)
    assert fit.weights.sum() == pytest.approx(1)
    assert (fit.variances >= 0.999e-4 * np.concatenate(train).var(axis=0)).all()


def test_mixture_is_repeatable_and_of_one_component_is_a_diagonal_gaussian() -> None:
    train, held_out = var1_process(20, 40, 0), var1_process(5, 40, 1)
    assert mixture_bits(train, held_out) == mixture_bits(train, held_out)
    frames = np.concatenate(train)
    density = norm.logpdf(np.concatenate(held_out), frames.mean(axis=0), frames.std(axis=0))
    expected = -density.mean() / np.log(2)
    assert mixture_bits(train, held_out, n_components=1) == pytest.approx(expected, abs=1e-5)
    assert np.isfinite(mixture_bits([frames[:3]], held_out))


def test_scaling_moves_every_fitted_baseline_by_one_bit() -> None:
    train, held_out = var1_process(20, 40, 0), var1_process(5, 40, 1)
    once = likelihood_baselines(train, held_out)
    twice = likelihood_baselines([2 * z for z in train], [2 * z for z in held_out])
    assert list(once) == ["standard_normal", "gaussian", "var1", "mixture"]
    for name in ("gaussian", "var1", "mixture"):
        assert twice[name] - once[name] == pytest.approx(1, abs=1e-9)
    assert once["var1"] < once["gaussian"] < once["standard_normal"]
    assert once["standard_normal"] == standard_normal_bits(held_out)
    assert once["gaussian"] == gaussian_bits(train, held_out)
    assert once["var1"] == var1_bits(train, held_out)
    assert once["mixture"] == mixture_bits(train, held_out)


def test_float32_and_a_dimension_that_never_moves() -> None:
    train = [np.column_stack([z, np.zeros(len(z))]).astype(np.float32) for z in var1_process(20, 40, 0)]
    figures = likelihood_baselines(train, train)
    assert np.isfinite(list(figures.values())).all()
    # The still dimension is worth the same to all who fitted it.
    moving = [z[:, :3] for z in train]
    gains = [figures[name] * 4 - bits * 3 for name, bits in likelihood_baselines(moving, moving).items()]
    np.testing.assert_allclose(gains[1:], gains[1], atol=0.02)


def test_no_latents_are_refused() -> None:
    some = var1_process(2, 5, 0)
    for train, held_out, split in [([], some, "train"), (some, [np.zeros((0, 3))], "held-out")]:
        for score in (gaussian_bits, var1_bits, mixture_bits):
            with pytest.raises(ArtifactError, match=f"no latents in the {split} split"):
                score(train, held_out)
