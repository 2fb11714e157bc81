"""The critic: its area under the curve, what it recognises, and what it cannot tell apart."""

from collections import Counter

import numpy as np
import pytest

from actseq.evaluation.critic import Examples, Parts, auc, separation
from actseq.evaluation.separation import PIECES, _balanced, _divided, _large_pieces, _pieces


def sequences(n: int, seed: int, *, memory: float) -> Examples:
    """Sequences of 6 to 12 frames with 3 values of unit variance, each frame like the one before as far as `memory`."""
    rng = np.random.default_rng(seed)
    made = []
    for length in rng.integers(6, 13, n):
        values = rng.standard_normal((length, 3))
        for t in range(1, length):
            values[t] = memory * values[t - 1] + np.sqrt(1 - memory**2) * values[t]
        made.append(values.astype(np.float32))
    return Examples(made, np.arange(n) % 2)


def parts(seed: int, *, memory: float) -> Parts:
    return Parts(*(sequences(n, 10 * seed + k, memory=memory) for k, n in enumerate((120, 30, 60))))


def test_area_under_the_curve_is_that_of_loops() -> None:
    rng = np.random.default_rng(0)
    real, made = rng.integers(0, 6, 13).astype(float), rng.integers(2, 8, 9).astype(float)
    expected = np.mean([1.0 if b > a else 0.5 if a == b else 0.0 for a in real for b in made])
    assert auc(real, made) == pytest.approx(expected)
    assert (auc(real, real), auc(real, real + 10), auc(real + 10, real)) == (0.5, 1, 0)


def test_frames_without_memory_are_recognised() -> None:
    found = separation(parts(1, memory=0.95), parts(2, memory=0.0), 2, range(2))
    assert found.auc.value > 0.95
    assert found.auc.low <= found.auc.value <= found.auc.high
    new = [sequences(40, seed, memory=memory) for seed, memory in ((71, 0.95), (72, 0.0))]
    assert auc(*(found.scores(examples) for examples in new)) > 0.95
    again = separation(parts(1, memory=0.95), parts(2, memory=0.0), 2, range(2))
    assert again.auc == found.auc


def test_two_sets_of_the_same_kind_are_not_told_apart() -> None:
    found = separation(parts(3, memory=0.5), parts(4, memory=0.5), 2, range(2))
    assert 0.35 < found.auc.value < 0.65


def test_both_sides_have_equally_many_of_each_label() -> None:
    values = np.zeros((4, 2), np.float32)
    first, second = ([(values, label) for label in labels] for labels in ("aaaabbc", "aabbbbd"))
    assert [Counter(label for _, label in side) for side in _balanced(first, second)] == [{"a": 2, "b": 2}] * 2


def test_generated_clips_are_divided_as_real_ones() -> None:
    values = np.zeros((4, 2), np.float32)
    real = [[(values, "a")] * 4 + [(values, "b")] * 2, [(values, "a")] * 2, [(values, "a"), (values, "b")]]
    rows = _divided("aaaaaaaaabbb", real)
    assert rows == [[0, 1, 2, 3, 9, 10], [4, 5], [6, 11]]
    # There are 7 of `a` in all: with 4 generated ones, all parts have fewer.
    assert _divided("aaaa", real) == [[0, 1], [2], []]


def test_long_sequences_are_cut_into_pieces() -> None:
    values = np.arange(2 * 64 + 5, dtype=np.float32)[:, None]
    assert [len(one) for one, _ in _pieces([(values, "a")], 6.0, 64)] == [64, 64]
    assert [len(one) for one, _ in _pieces([(values, "a"), (values[:0], "b")], None, 64)] == [128]


def test_pieces_are_smaller_where_there_are_few() -> None:
    def parts(frames: int) -> list[list[tuple[np.ndarray, str]]]:
        return [[(np.zeros((frames, 2), np.float32), "a")] * n for n in (20, 10, 10, 20)]

    for frames, size in ((64, 64), (63, 32), (32, 32), (31, None)):
        found = _large_pieces(parts(frames), 6.0)
        assert (found and found[0]) == size
    assert PIECES == (64, 32)
