"""Linear discriminants against an independent computation, and what they have learned from."""

import numpy as np
import pytest

from actseq.evaluation.discriminants import FOLDS, Discriminants, folds_of


def clips(n: int, apart: float, seed: int = 0) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Two labels around two centres, 12 numbers a clip, one of them the same for all."""
    rng = np.random.default_rng(seed)
    labels = ["a", "b"] * (n // 2)
    values = rng.standard_normal((n, 12)) + apart * np.array([label == "b" for label in labels])[:, None]
    values[:, 3] = 7
    return values, labels, np.arange(n) // 2 % FOLDS


def test_labels_are_those_of_the_nearest_centre_in_the_shrunken_covariance() -> None:
    values, labels, folds = clips(60, 0.7)
    model = Discriminants(values, labels, folds)
    new = clips(40, 0.7, 1)[0]
    scaled = [(part - values.mean(0)) / np.where(values.std(0) > 0, values.std(0), 1) for part in (values, new)]
    own = np.array(labels)
    means = np.stack([scaled[0][own == label].mean(0) for label in "ab"])
    rest = scaled[0] - means[(own == "b").astype(int)]
    covariance = rest.T @ rest / 60
    shrunken = (1 - model.shrinkage) * covariance + model.shrinkage * np.eye(12) * np.trace(covariance) / 12
    inverse = np.linalg.inv(shrunken)
    distance = np.array([[(x - mean) @ inverse @ (x - mean) for mean in means] for x in scaled[1]])
    assert model.predict(new, np.full(40, -1)) == ["ab"[k] for k in distance.argmin(1)]


def test_a_clip_is_judged_without_its_fold() -> None:
    values, labels, folds = clips(60, 3.0)
    values[folds == 4] = values[folds == 4][::-1]  # In fold 4, each label has the values of the other.
    model = Discriminants(values, labels, folds)
    swapped = [label for label, fold in zip(labels, folds, strict=True) if fold == 4]
    found = model.predict(values[folds == 4], np.full(len(swapped), 4))
    assert all(one != label for one, label in zip(found, swapped, strict=True))
    assert model.accuracy == pytest.approx(1 - len(swapped) / 60)


def test_noise_is_recognised_by_nothing_but_chance() -> None:
    values, labels, folds = clips(400, 0.0)
    assert Discriminants(values, labels, folds).accuracy == pytest.approx(0.5, abs=0.1)


def test_a_source_is_in_one_fold() -> None:
    labels = ["a"] * 6 + ["b"] * 3 + ["c"] * 2 + ["d"]
    files = ["1", "1", "2", "2", "3", "3", "4", "4", "4", "5", "5", "6"]
    found = folds_of(labels, files, [*range(9), 9, 9, 11]).tolist()
    assert found[:6] == [0, 0, 1, 1, 2, 2]
    assert found[6:9] == [0, 1, 2]  # One file: its clips are told apart.
    assert found[9:] == [-1, -1, -1]  # One clip, here in two pieces: it cannot be left out.
    many = folds_of(["a"] * 25, [str(k) for k in range(25)], list(range(25)))
    assert set(many.tolist()) == set(range(FOLDS))
