"""Linear discriminants of labels: a judge of clips for corpora with too few clips for a network.

They share one covariance, which is shrunk towards a multiple of the identity; all labels are held equally likely. The
amount of shrinkage is chosen by cross-validation on real clips.

Source: Friedman, Regularized Discriminant Analysis (1989), eqs. 16 to 18 with one pooled covariance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from actseq.evaluation.set_distances import scale_of

FOLDS = 10
SHRINKAGES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


class Discriminants:
    """Discriminants of all real clips, and of all but those of each fold.

    Args:
        values: statistics of the real clips.
        labels: label of each clip.
        folds: fold of each clip, see `folds_of`.
    """

    def __init__(
        self, values: Float[np.ndarray, "clips numbers"], labels: Sequence[str], folds: Int[np.ndarray, " clips"]
    ) -> None:
        self.labels = sorted(set(labels))
        self.mean, self.deviation = scale_of(values)
        self.values, self.folds = (values - self.mean) / self.deviation, folds
        self.number = np.array([self.labels.index(label) for label in labels])
        scored = [(self._validated(shrinkage), -shrinkage) for shrinkage in SHRINKAGES]
        self.accuracy, self.shrinkage = max(scored)[0], -max(scored)[1]
        self._fit(self.shrinkage)

    def predict(self, values: Float[np.ndarray, "n numbers"], folds: Int[np.ndarray, " n"]) -> list[str]:
        """Label of each clip, by discriminants that have not learned from the clips of its fold.

        Args:
            values: statistics of the clips.
            folds: fold of each clip; −1 for a clip that is not made from a real one.
        """
        return [self.labels[k] for k in self._predicted((values - self.mean) / self.deviation, folds)]

    def _validated(self, shrinkage: float) -> float:
        """Mean over labels of the share of real clips that are recognised."""
        self._fit(shrinkage)
        right = self._predicted(self.values, self.folds) == self.number
        return float(np.mean([right[self.number == k].mean() for k in range(len(self.labels))]))

    def _fit(self, shrinkage: float) -> None:
        self.fitted = {
            int(fold): _fitted(self.values[self.folds != fold], self.number[self.folds != fold], shrinkage)
            for fold in {*self.folds.tolist(), -1} - {-1}
        }
        self.fitted[-1] = _fitted(self.values, self.number, shrinkage)

    def _predicted(self, values: Float[np.ndarray, "n numbers"], folds: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        found = np.zeros(len(values), np.int64)
        for fold in np.unique(folds):
            known, weights, offsets = self.fitted[int(fold)]
            rows = folds == fold
            found[rows] = known[(values[rows] @ weights + offsets).argmax(axis=1)]
        return found


def _fitted(
    values: Float[np.ndarray, "clips numbers"], number: Int[np.ndarray, " clips"], shrinkage: float
) -> tuple[Int[np.ndarray, " labels"], Float[np.ndarray, "numbers labels"], Float[np.ndarray, " labels"]]:
    """Numbers of the labels that occur, weights and offsets of their scores."""
    known, row = np.unique(number, return_inverse=True)
    means = np.stack([values[row == k].mean(axis=0) for k in range(len(known))])
    rest = values - means[row]
    covariance = rest.T @ rest / len(rest)
    level = np.trace(covariance) / len(covariance) + 1e-12
    mixed = (1 - shrinkage) * covariance + shrinkage * level * np.eye(len(covariance))
    weights = np.linalg.solve(mixed, means.T)
    return known, weights, -0.5 * (means.T * weights).sum(axis=0)


def folds_of(labels: Sequence[str], sources: Sequence[str], clips: Sequence[int]) -> Int[np.ndarray, " clips"]:
    """Fold of each clip: the clips of one source share a fold, and each label is in as many folds as it can.

    If all clips of a label come from one source, each of its clips counts as a source. If it has only one clip, it is
    in no fold (−1): it cannot be left out.

    Args:
        labels: label of each clip.
        sources: file of each clip.
        clips: number of the clip; pieces of one clip have the same number.
    """
    found = np.full(len(labels), -1)
    for label in sorted(set(labels)):
        rows = [row for row, own in enumerate(labels) if own == label]
        names = [sources[row] for row in rows]
        if len(set(names)) == 1:
            names = [str(clips[row]) for row in rows]
        rank = {name: k % FOLDS for k, name in enumerate(dict.fromkeys(names))}
        if len(rank) > 1:
            found[rows] = [rank[name] for name in names]
    return found
