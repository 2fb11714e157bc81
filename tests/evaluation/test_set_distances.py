"""Measures between sets, against loops, matrix square roots and cases whose answer is known."""

from typing import Any

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import ks_2samp

from actseq.evaluation import set_distances
from actseq.evaluation.set_distances import (
    discrepancy,
    frechet,
    length_distance,
    nearest_distances,
    overlap,
    ratio_of_medians,
    standardised,
)


def normal(n: int, dims: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dims))


def alone(n: int) -> np.ndarray:
    """All clips in one stratum."""
    return np.zeros(n, dtype=np.int64)


# -- Fréchet distance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [40, 5])
def test_frechet_distance_is_that_of_a_matrix_square_root(n: int) -> None:
    # With 5 clips the candidate's covariance has rank 4 of 8.
    mixing = normal(8, 8, 1)
    reference, candidate = normal(60, 8, 2) @ mixing, 0.5 * normal(n, 8, 3) @ mixing + 1
    a, b = np.cov(reference.T), np.cov(candidate.T)
    root: Any = sqrtm(a @ b + 1e-12 * np.eye(8))
    between = np.square(reference.mean(0) - candidate.mean(0)).sum()
    expected = between + np.trace(a + b - 2 * root.real)
    assert frechet(reference, candidate, alone(n)).value == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_of_known_cases() -> None:
    values = normal(50, 6)
    assert frechet(values, values, alone(50)).value == pytest.approx(0, abs=1e-10)
    assert frechet(values, values + 2, alone(50)).value == pytest.approx(6 * 4)
    # In one dimension it is (μ − ν)² + (σ − τ)².
    one = values[:, :1]
    expected = (3 - one.mean()) ** 2 + one.std(ddof=1) ** 2
    assert frechet(one, np.full((4, 1), 3.0), alone(4)).value == pytest.approx(expected)


# -- maximum mean discrepancy ------------------------------------------------------------------------------------------


def test_discrepancy_is_that_of_loops() -> None:
    x, y = normal(13, 3, 1), 1.5 * normal(9, 3, 2) + 0.3
    bandwidth = np.median([np.linalg.norm(x[i] - x[j]) for i in range(13) for j in range(i)])

    def mean(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
        return float(np.mean([np.exp(-(np.linalg.norm(a - b) ** 2) / (2 * bandwidth**2)) for a, b in pairs]))

    def own(values: np.ndarray) -> float:
        return mean([(a, b) for i, a in enumerate(values) for j, b in enumerate(values) if i != j])

    expected = own(x) + own(y) - 2 * mean([(a, b) for a in x for b in y])
    assert discrepancy(x, y, alone(9)).value == pytest.approx(expected, rel=1e-12)


def test_discrepancy_is_unbiased_and_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_distances, "RESAMPLES", 2)
    found = [discrepancy(normal(60, 4, 2 * k), normal(20, 4, 2 * k + 1), alone(20)).value for k in range(40)]
    assert min(found) < 0 < max(found)
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    apart = [discrepancy(normal(60, 4), normal(20, 4, 1) + shift, alone(20)).value for shift in (0.5, 1.0, 2.0)]
    assert max(found) < apart[0] < apart[1] < apart[2]
    same = np.ones((10, 2))
    assert discrepancy(same, same, alone(10)).value == pytest.approx(0)


# -- overlap -----------------------------------------------------------------------------------------------------------


def test_overlap_is_that_of_loops() -> None:
    reference, candidate = normal(20, 2, 1), 0.7 * normal(15, 2, 2) + 0.5

    def radius(values: np.ndarray, i: int) -> float:
        others = [np.linalg.norm(values[i] - values[j]) for j in range(len(values)) if j != i]
        return float(np.sort(others)[set_distances.NEIGHBOURS - 1])

    def within(centres: np.ndarray, i: int, point: np.ndarray) -> bool:
        return bool(np.linalg.norm(centres[i] - point) <= radius(centres, i))

    inside = np.array([[within(reference, i, y) for y in candidate] for i in range(20)])
    back = np.array([[within(candidate, j, x) for j in range(15)] for x in reference])
    expected = (inside.any(0).mean(), back.any(1).mean(), inside.sum() / (5 * 15), inside.any(1).mean())
    assert overlap(reference, candidate) == pytest.approx(expected)


def test_overlap_of_known_cases() -> None:
    values = normal(50, 3)
    assert overlap(values, values)[:2] == (1, 1)
    assert overlap(values, values).coverage == 1
    assert overlap(values, values + 100) == (0, 0, 0, 0)
    # One place of the reference over and over: nothing foreign, almost everything missing.
    collapsed = overlap(values, values[:1] + 1e-3 * normal(50, 3, 1))
    assert collapsed.precision == 1
    assert max(collapsed.recall, collapsed.coverage) < 0.5


# -- neighbours --------------------------------------------------------------------------------------------------------


def test_nearest_is_that_of_loops() -> None:
    reference, candidate = normal(12, 5, 1), normal(7, 5, 2)
    expected = [min(np.sqrt(np.mean((x - y) ** 2)) for x in reference) for y in candidate]
    np.testing.assert_allclose(nearest_distances(reference, candidate), expected)
    assert nearest_distances(reference, reference[3:5]).tolist() == [0, 0]


def test_ratio_of_medians() -> None:
    held_out = np.abs(normal(101, 1)[:, 0]) + 1
    found = ratio_of_medians(0.5 * held_out, held_out)
    assert found.value == pytest.approx(0.5)
    assert 0.3 < found.low < 0.5 < found.high < 0.8


# -- units and intervals -----------------------------------------------------------------------------------------------


def test_standardised_by_the_reference() -> None:
    reference, candidate = 3 * normal(30, 2, 1) + 5, normal(8, 2, 2)
    reference[:, 1] = 7
    first, second = standardised(reference, candidate)
    np.testing.assert_allclose(first[:, 0], (reference[:, 0] - reference[:, 0].mean()) / reference[:, 0].std())
    np.testing.assert_allclose(second[:, 0], (candidate[:, 0] - reference[:, 0].mean()) / reference[:, 0].std())
    np.testing.assert_allclose(second[:, 1], candidate[:, 1] - 7)


@pytest.mark.parametrize("measure", [frechet, discrepancy])
def test_intervals_are_as_wide_as_figures_really_vary(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_distances, "RESAMPLES", 60)
    reference = normal(300, 4)
    found = [measure(reference, normal(60, 4, seed) + 0.4, alone(60)).estimate for seed in range(1, 21)]
    real = 1.96 * np.std([estimate.value for estimate in found])
    estimated = np.mean([(estimate.high - estimate.low) / 2 for estimate in found])
    assert 0.6 < estimated / real < 1.7
    assert all(estimate.low < estimate.value < estimate.high for estimate in found)
    again = measure(reference, normal(60, 4, 1) + 0.4, alone(60)).estimate
    assert again == found[0]
    assert measure(reference, normal(60, 4, 1) + 0.4, alone(60), 1).estimate[1:] != again[1:]


@pytest.mark.parametrize("measure", [frechet, discrepancy])
def test_a_weight_of_two_counts_as_two_sets_of_clips(measure: Any) -> None:
    # Where each clip of the reference occurs twice, its share is the same as with equal weights.
    reference, candidate = normal(30, 3, 1), normal(20, 3, 2) + 0.5
    weighted = measure(reference, candidate, alone(20), 0, np.full(30, 2.0))
    assert weighted.value == pytest.approx(measure(reference, candidate, alone(20)).value, rel=1e-9)
    # Clips with weight 0 are not there: only the bandwidth of the kernel still depends on them.
    foreign = np.concatenate([reference, normal(30, 3, 3)])
    without = measure(foreign, candidate, alone(20), 0, np.repeat([1.0, 0.0], 30))
    if measure is frechet:
        assert without.value == pytest.approx(measure(reference, candidate, alone(20)).value, rel=1e-9)
    else:
        between = foreign[:, None] - foreign
        median = np.median(np.linalg.norm(between, axis=2)[np.triu_indices(60, 1)])

        def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return np.exp(-np.square(np.linalg.norm(x[:, None] - y, axis=2)) / (2 * median**2))

        own = [(kernel(x, x).sum() - len(x)) / (len(x) * (len(x) - 1)) for x in (reference, candidate)]
        assert without.value == pytest.approx(sum(own) - 2 * kernel(reference, candidate).mean(), rel=1e-9)


def test_differences_of_the_same_set_are_about_nothing() -> None:
    reference, candidate = normal(80, 3, 1), normal(40, 3, 2) + 0.5
    first, second = (discrepancy(reference, candidate, alone(40), seed) for seed in (0, 1000))
    value, low, high = first.minus(second)
    assert value == 0
    assert low < 0 < high
    apart = discrepancy(reference, candidate + 1, alone(40), 2000).minus(first)
    assert 0 < apart.low < apart.value < apart.high


@pytest.mark.parametrize("repeated", [1, 3])
def test_distance_of_lengths_is_scipys(repeated: int) -> None:
    rng = np.random.default_rng(0)
    reference, candidate = rng.integers(5, 20, 90), rng.integers(6, 22, 40)
    # A clip with weight 3 counts in the statistic as three clips.
    weights = np.where(np.arange(90) < 30, float(repeated), 1.0)
    counted = np.repeat(reference, weights.astype(int))
    statistic, p = length_distance(reference, candidate, weights)
    assert statistic == pytest.approx(ks_2samp(counted, candidate).statistic)
    if repeated == 1:
        assert p == pytest.approx(ks_2samp(reference, candidate, method="asymp").pvalue)


@pytest.mark.parametrize("measure", [frechet, discrepancy])
def test_strata_keep_their_size(measure: Any) -> None:
    # All clips of a stratum are alike: what is drawn within strata is always the same set.
    strata = np.repeat([0, 1, 2], 7)
    candidate = normal(3, 2)[strata]
    within = measure(normal(40, 2, 1), candidate, strata).estimate
    across = measure(normal(40, 2, 1), candidate, alone(21)).estimate
    assert within.value == across.value
    if measure is frechet:
        assert within.high - within.low < 1e-9
    assert across.high - across.low > 0.05 * across.value
