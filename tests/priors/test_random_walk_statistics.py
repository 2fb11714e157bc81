"""Figures of the priors without training against scipy, numpy and processes that are known."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import expm, solve_discrete_lyapunov
from scipy.spatial import geometric_slerp
from scipy.spatial.distance import cdist

from actseq.priors.base import Sampling, SamplingRequest
from actseq.priors.morphs import Vary, spherical, warping_path
from actseq.priors.untrained import RandomWalk, TrainingFrames, _moments

DIMS = 5
BASIS = np.linalg.qr(np.random.default_rng(0).standard_normal((DIMS, DIMS)))[0]
VARIANCE = np.array([4.0, 2.0, 1.0, 0.5, 0.1])
SLOWNESS = np.array([0.05, 0.2, 0.5, 1.0, 3.0])
"""Decay rates per frame."""
CENTRE = np.array([3.0, -1.0, 0.0, 20.0, 0.5])


def process(n: int, frames: int, seed: int) -> np.ndarray:
    """Samples (n, frames, DIMS) of the process with these rates, by its equation's transition matrix."""
    rng = np.random.default_rng(seed)
    covariance = BASIS * VARIANCE @ BASIS.T
    transition = expm(-BASIS * SLOWNESS @ BASIS.T)
    noise = covariance - transition @ covariance @ transition.T
    z = [rng.multivariate_normal(np.zeros(DIMS), covariance, n)]
    for _ in range(frames - 1):
        z.append(z[-1] @ transition.T + rng.multivariate_normal(np.zeros(DIMS), noise, n))
    return CENTRE + np.stack(z, axis=1)


def gathered(sequences: list[np.ndarray], labels: list[int], log_variance: float = -np.inf) -> TrainingFrames:
    """Sequences of `labels`, in the order of these."""
    mean = np.concatenate(sequences).astype(np.float32)
    lengths = np.array([len(sequence) for sequence in sequences])
    follows = np.ones(len(mean), dtype=bool)
    follows[np.cumsum(lengths) - lengths] = False
    own = [lengths, *(lengths[np.array(labels) == k] for k in range(1, max(labels) + 1))]
    return TrainingFrames(mean, np.full_like(mean, log_variance), np.repeat(labels, lengths), follows, own)


def covariance_of(walk: RandomWalk, label: int = 0) -> np.ndarray:
    return (walk.spread[label] @ walk.spread[label].T).numpy()


def autocovariance_of(walk: RandomWalk, label: int = 0) -> np.ndarray:
    return walk.decay[label].numpy() @ covariance_of(walk, label)


def sampled(prior: RandomWalk | Vary, **settings: object) -> np.ndarray:
    return torch.cat([chunk.latents for chunk in prior.sample(SamplingRequest(**settings))], 1).double().numpy()


# -- random walk -------------------------------------------------------------------------------------------------------


def test_the_first_frame_of_a_label_follows_none_of_its_own() -> None:
    """In a sequence whose label changes, it follows a frame of the other label."""
    sequences = [*process(4, 50, 0), process(1, 20, 1)[0]]
    apart = gathered(sequences, [1, 1, 1, 1, 2])
    changing = replace(apart, follows=apart.follows.copy())
    changing.follows[200] = True
    origin = apart.mean.mean(axis=0, dtype=np.float64)
    for label in (1, 2):
        one, other = (_moments(frames, frames.label == label, origin) for frames in (apart, changing))
        np.testing.assert_array_equal(one, other)


def test_a_known_process_is_found() -> None:
    walk = RandomWalk(gathered(list(process(100, 400, 0)), [0] * 100))
    np.testing.assert_allclose(walk.centre[0], CENTRE, atol=0.15)
    np.testing.assert_allclose(covariance_of(walk), BASIS * VARIANCE @ BASIS.T, atol=0.15)
    np.testing.assert_allclose(walk.decay[0], BASIS * np.exp(-SLOWNESS) @ BASIS.T, atol=0.02)


def test_fitted_statistics_are_numpys() -> None:
    """Covariance of draws from posteriors; in its eigenbasis the correlation of neighbours, whose noise has none."""
    rng = np.random.default_rng(1)
    sequences = [3 + rng.standard_normal((size, DIMS)).cumsum(0) @ BASIS for size in (4, 30, 9, 1, 17)]
    log_variance = -0.7
    walk = RandomWalk(gathered(sequences, [0] * 5, log_variance))
    frames = np.concatenate(sequences)
    expected = np.cov(frames.T, bias=True) + np.exp(log_variance) * np.eye(DIMS)
    np.testing.assert_allclose(walk.centre[0], frames.mean(0), rtol=1e-5)
    np.testing.assert_allclose(covariance_of(walk), expected, rtol=1e-4, atol=1e-4)
    _, basis = np.linalg.eigh(expected)
    pairs = np.array([pair for sequence in sequences for pair in pairwise((sequence - frames.mean(0)) @ basis)])
    power = (pairs**2).mean((0, 1)) + np.exp(log_variance)
    rate = np.maximum((pairs[:, 0] * pairs[:, 1]).mean(0) / power, 0)
    np.testing.assert_allclose(walk.decay[0], basis * rate @ basis.T, atol=1e-4)


def test_the_walk_keeps_its_covariance_exactly() -> None:
    """The stationary covariance of z = decay z₋₁ + push ε, by the equation of Lyapunov."""
    walk = RandomWalk(gathered(list(process(20, 50, 2)), [1] * 10 + [2] * 10))
    for k in range(3):
        push = walk.push[k].double().numpy()
        stationary = solve_discrete_lyapunov(walk.decay[k].double().numpy(), push @ push.T)
        np.testing.assert_allclose(stationary, covariance_of(walk, k), rtol=1e-4, atol=1e-4)


def test_long_run_covariance_and_autocorrelation() -> None:
    walk = RandomWalk(gathered(list(process(20, 50, 3)), [0] * 20))
    made = sampled(walk, n=400, max_frames=300) - walk.centre[0].double().numpy()
    scale = np.sqrt(np.diag(covariance_of(walk)))
    unit = np.outer(scale, scale)
    for lag, expected in ((0, covariance_of(walk)), (1, autocovariance_of(walk))):
        before, after = made[:, : made.shape[1] - lag], made[:, lag:]
        found = np.einsum("ntd,nte->de", after, before) / after.shape[0] / after.shape[1]
        np.testing.assert_allclose(found / unit, expected / unit, atol=0.03)
    # From the first frame on: it starts where it stays.
    np.testing.assert_allclose(np.cov(made[:, 0].T) / unit, covariance_of(walk) / unit, atol=0.2)
    tame = sampled(walk, n=400, max_frames=100, sampling=Sampling(temperature=0.3)) - walk.centre[0].double().numpy()
    np.testing.assert_allclose(tame, 0.3 * made[:, :100], atol=1e-4)


def test_it_goes_on_from_a_prompt() -> None:
    walk, prompt = RandomWalk(gathered(list(process(20, 50, 4)), [0] * 20)), torch.randn(2, 7, DIMS) * 3
    cold = sampled(walk, n=2, max_frames=400, prompt=prompt, sampling=Sampling(temperature=0))
    centre, decay = walk.centre[0].double().numpy(), walk.decay[0].double().numpy()
    for frames in (1, 2, 10):
        expected = centre + (prompt[:, -1].double().numpy() - centre) @ np.linalg.matrix_power(decay, frames).T
        np.testing.assert_allclose(cold[:, frames - 1], expected, atol=1e-4)
    np.testing.assert_allclose(cold[:, -1], np.tile(centre, (2, 1)), atol=1e-3)
    # One prompt for all, each going its own way; no further from it at first than the process moves in a frame.
    warm = sampled(walk, n=2000, max_frames=1, prompt=prompt[:1])[:, 0]
    np.testing.assert_allclose(warm.mean(0), cold[0, 0], atol=0.1)
    push = walk.push[0].double().numpy()
    np.testing.assert_allclose(np.cov(warm.T), push @ push.T, atol=0.1)


def test_a_label_has_its_own_statistics_as_far_as_it_has_frames() -> None:
    """Moments weighted by numpy: of the label's frames, and of DIMS frames more in which all are mixed."""
    rng = np.random.default_rng(5)
    sequences = [rng.standard_normal((size, DIMS)) @ BASIS * 2 + shift for size, shift in ((300, 0), (200, 9), (4, -5))]
    walk, frames = RandomWalk(gathered(sequences, [1, 1, 2])), np.concatenate(sequences)
    for label, inside in ((1, slice(0, 500)), (2, slice(500, 504))):
        weight = np.full(len(frames), DIMS / len(frames))
        weight[inside] += 1
        np.testing.assert_allclose(walk.centre[label], np.average(frames, axis=0, weights=weight), rtol=1e-4)
        expected = np.cov(frames.T, aweights=weight, ddof=0)
        np.testing.assert_allclose(covariance_of(walk, label), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(walk.centre[1], frames[:500].mean(0), atol=0.1)


def test_a_glide_is_drawn_from_one_label_to_the_other() -> None:
    low, high = process(20, 50, 6) - 10, process(20, 50, 7) + 10
    walk = RandomWalk(gathered([*low, *high], [1] * 20 + [2] * 20))
    ends = torch.eye(3)[1:2], torch.eye(3)[2:3]
    made = sampled(
        walk, n=1, max_frames=200, condition=ends[0], condition_end=ends[1], sampling=Sampling(temperature=0)
    )[0]
    np.testing.assert_allclose(made[:100], np.tile(walk.centre[1], (100, 1)), rtol=1e-4, atol=1e-4)
    distance = np.linalg.norm(made[99:] - walk.centre[2].numpy(), axis=1)
    assert (np.diff(distance) < 0).all()
    assert distance[-1] < 0.05 * distance[0]


@pytest.mark.parametrize("corpus", ["constant", "single frames", "alternating", "one dimension"])
def test_corpora_that_hardly_move(corpus: str) -> None:
    rng = np.random.default_rng(8)
    sequences = {
        "constant": [np.ones((9, DIMS)), np.ones((3, DIMS))],
        "single frames": [rng.standard_normal((1, DIMS)) for _ in range(40)],
        "alternating": [np.tile([[1.0], [-1.0]], (20, DIMS)) + 0.1 * rng.standard_normal((40, DIMS))],
        "one dimension": [rng.standard_normal((50, 1)) * np.arange(DIMS)],
    }[corpus]
    walk = RandomWalk(gathered(sequences, [0] * len(sequences)))
    made = sampled(walk, n=4, max_frames=200)
    assert np.isfinite(made).all()
    if corpus == "constant":
        np.testing.assert_allclose(made, 1, atol=1e-6)
    if corpus in ("single frames", "alternating"):
        # No slowness is known, or there is none: every frame for itself, of the right spread.
        slow = np.linalg.eigvalsh(walk.decay[0].double().numpy())
        np.testing.assert_allclose(slow[-1], 0, atol=0.5 if corpus == "alternating" else 1e-6)
        np.testing.assert_allclose(made.std((0, 1)), np.concatenate(sequences).std(0), rtol=0.15)


# -- interpolation -----------------------------------------------------------------------------------------------------


def test_spherical_is_scipys() -> None:
    rng = np.random.default_rng(9)
    for dims in (2, 3, 80):
        one, other = rng.standard_normal((2, dims)) * [[0.5], [4.0]]
        norms = np.linalg.norm(one), np.linalg.norm(other)
        for weight in (0.1, 0.5, 0.75):
            direction = geometric_slerp(one / norms[0], other / norms[1], weight)
            length = norms[0] + weight * (norms[1] - norms[0])
            np.testing.assert_allclose(spherical(one, other, weight), length * direction, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(spherical(one, other, 0.0), one)
        np.testing.assert_array_equal(spherical(one, other, 1.0), other)


@pytest.mark.parametrize("other", [[2.0, 4.0], [-3.0, -6.0], [0.0, 0.0], [1e-9, 0.0], [1.0, 2.0 + 1e-9]])
def test_where_there_is_no_circle_it_goes_straight(other: list[float]) -> None:
    one, second = np.array([1.0, 2.0]), np.array(other)
    for weight in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(
            spherical(one, second, weight), (1 - weight) * one + weight * second, rtol=1e-7, atol=1e-12
        )
        np.testing.assert_allclose(spherical(second, one, 1 - weight), spherical(one, second, weight), atol=1e-12)


def test_circle_and_straight_line_meet() -> None:
    """Across the angle from which on there is a circle nothing jumps."""
    one = np.array([1.0, 0.0])
    made = [spherical(one, 2 * np.array([np.cos(t), np.sin(t)]), 0.4) for t in (0.99e-5, 1.01e-5)]
    np.testing.assert_allclose(made[0], made[1], atol=5e-6)


def test_no_cheaper_warping_path_exists() -> None:
    """Against the recursion of dynamic time warping written out."""
    rng = np.random.default_rng(10)
    for sizes in ((1, 1), (1, 6), (5, 1), (7, 9), (12, 5)):
        one, other = (rng.standard_normal((size, 3)) for size in sizes)
        distance = cdist(one, other)
        cost = np.full((sizes[0] + 1, sizes[1] + 1), np.inf)
        cost[0, 0] = 0
        for i in range(sizes[0]):
            for j in range(sizes[1]):
                cost[i + 1, j + 1] = distance[i, j] + min(cost[i, j], cost[i, j + 1], cost[i + 1, j])
        path = warping_path(one, other)
        assert path[0].tolist() == [0, 0]
        assert path[-1].tolist() == [sizes[0] - 1, sizes[1] - 1]
        assert {tuple(step) for step in np.diff(path, axis=0).tolist()} <= {(0, 1), (1, 0), (1, 1)}
        assert distance[tuple(path.T)].sum() == pytest.approx(cost[-1, -1])


# -- variation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [0.05, 0.2, 0.5, 0.9])
def test_variations_lie_around_the_sound_as_the_formula_says(amount: float) -> None:
    walk, n = RandomWalk(gathered(list(process(20, 50, 11)), [0] * 20)), 20_000
    mean, deviation = torch.randn(3, DIMS, generator=torch.Generator().manual_seed(0)) * 2, 0.4
    log_variance = torch.full_like(mean, 2 * np.log(deviation))
    made = sampled(Vary(mean, log_variance, walk, amount=amount), n=n, max_frames=3)
    centre, kept = walk.centre[0].double().numpy(), 1 - amount**2
    expected = centre + np.sqrt(kept) * (mean.double().numpy() - centre)
    around = made - expected
    noise = kept * (deviation * min(1, amount / 0.2)) ** 2 * np.eye(DIMS)
    scale = np.sqrt(np.diag(amount**2 * covariance_of(walk) + noise))
    assert np.abs(around.mean(0) / scale).max() < 4.5 / np.sqrt(n)
    for t in range(3):
        np.testing.assert_allclose(
            np.cov(around[:, t].T) / np.outer(scale, scale),
            (amount**2 * covariance_of(walk) + noise) / np.outer(scale, scale),
            atol=0.04,
        )
    # From frame to frame it is the walk alone that goes on.
    lagged = np.einsum("nd,ne->de", around[:, 1], around[:, 0]) / n
    np.testing.assert_allclose(
        lagged / np.outer(scale, scale), amount**2 * autocovariance_of(walk) / np.outer(scale, scale), atol=0.04
    )


def test_variations_of_all_sounds_have_the_covariance_of_the_corpus() -> None:
    walk = RandomWalk(gathered(list(process(20, 50, 12)), [0] * 20))
    sounds = sampled(walk, n=2000, max_frames=2, seed=1)
    made = np.concatenate(
        [
            sampled(Vary(torch.from_numpy(sound).float(), None, walk, amount=0.7), n=1, max_frames=2, seed=i)
            for i, sound in enumerate(sounds)
        ]
    )
    scale = np.sqrt(np.diag(covariance_of(walk)))
    found = np.cov(made.reshape(-1, DIMS).T) / np.outer(scale, scale)
    np.testing.assert_allclose(found, covariance_of(walk) / np.outer(scale, scale), atol=0.12)
