"""A small network that tells generated sequences from real ones: the more often it is right, the worse the generation.

It is always the same network and never selects samples, so its figures can be compared between priors.

Source: Lopez-Paz and Oquab, Revisiting Classifier Two-Sample Tests (2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from actseq.evaluation.set_distances import RESAMPLES, Estimate
from actseq.modules.frames import frame_mask

WIDTH, KERNEL, LABEL = 64, 5, 16
BATCH = 64
EPOCHS, PATIENCE = 30, 5
"""Most passes through the sequences, and how many more are made after the best."""
LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 2e-3, 0.01, 0.2


@dataclass(frozen=True)
class Examples:
    """Sequences with their labels.

    Attributes:
        values: each (frames, dims), standardised.
        labels: number of each label.
    """

    values: list[NDArray[np.float32]]
    labels: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.values)

    def chosen(self, rows: Sequence[int] | Int[np.ndarray, " _"]) -> Examples:
        """Some of the sequences."""
        return Examples([self.values[row] for row in rows], self.labels[np.asarray(rows, dtype=np.int64)])

    def standardised(self, mean: Float[np.ndarray, " dims"], deviation: Float[np.ndarray, " dims"]) -> Examples:
        """The sequences with a mean subtracted, divided by a deviation."""
        return Examples([((one - mean) / deviation).astype(np.float32) for one in self.values], self.labels)


class Parts(NamedTuple):
    """Sequences to learn from, to stop the training by, and to be judged."""

    train: Examples
    stop: Examples
    test: Examples


class Critic(nn.Module):
    """Two convolutions over time, their mean and maximum, and the label.

    Args:
        dims: values of a frame.
        n_labels: number of labels.
    """

    def __init__(self, dims: int, n_labels: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(dims, WIDTH, KERNEL, padding=KERNEL // 2)
        self.second = nn.Conv1d(WIDTH, WIDTH, KERNEL, padding=KERNEL // 2)
        self.label = nn.Embedding(n_labels, LABEL)
        self.mix, self.decide = nn.Linear(2 * WIDTH + LABEL, WIDTH), nn.Linear(WIDTH, 1)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(
        self,
        values: Float[Tensor, "batch frames dims"],
        mask: Bool[Tensor, "batch frames"],
        label: Int[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        """Logit of each sequence being generated."""
        inside = mask[:, None]
        x = F.gelu(self.first(values.transpose(1, 2))) * inside
        x = F.gelu(self.second(x))
        mean = (x * inside).sum(2) / inside.sum(2)
        most = x.masked_fill(~inside, float("-inf")).amax(2)
        joined = torch.cat([mean, most, self.label(label)], dim=1)
        out: Tensor = self.decide(self.dropout(F.gelu(self.mix(self.dropout(joined)))))[:, 0]
        return out

    @torch.inference_mode()
    def scores(self, examples: Examples) -> Float[np.ndarray, " n"]:
        """Logits of sequences."""
        self.eval()
        found = np.zeros(len(examples))
        order = np.argsort([len(one) for one in examples.values], kind="stable")
        for start in range(0, len(order), 4 * BATCH):
            rows = order[start : start + 4 * BATCH]
            found[rows] = self(*_padded(examples.chosen(rows))).double().numpy()
        return found


@dataclass(frozen=True)
class Separation:
    """How well critics tell generated sequences from real ones.

    Attributes:
        auc: mean over the critics of the area under the curve, 0.5 if they cannot; interval over critics and sequences.
        critics: the critics.
    """

    auc: Estimate
    critics: list[Critic]

    def scores(self, examples: Examples) -> Float[np.ndarray, " n"]:
        """Mean logit of each sequence being generated."""
        return np.asarray(np.mean([critic.scores(examples) for critic in self.critics], axis=0))


def separation(real: Parts, made: Parts, n_labels: int, seeds: Sequence[int]) -> Separation:
    """Train a critic for each seed, and judge the last part with it."""
    critics = [_trained(real, made, n_labels, seed) for seed in seeds]
    scored = [(critic.scores(real.test), critic.scores(made.test)) for critic in critics]
    rng = np.random.default_rng(0)

    def drawn() -> float:
        rows = [rng.integers(len(part), size=len(part)) for part in (real.test, made.test)]
        pairs = (scored[k] for k in rng.integers(len(scored), size=len(scored)))
        return float(np.mean([auc(own[rows[0]], other[rows[1]]) for own, other in pairs]))

    low, high = np.quantile([drawn() for _ in range(RESAMPLES)], [0.025, 0.975])
    value = float(np.mean([auc(*pair) for pair in scored]))
    return Separation(Estimate(value, float(low), float(high)), critics)


def auc(real: Float[np.ndarray, " n"], made: Float[np.ndarray, " m"]) -> float:
    """How often a generated sequence has the greater score of a pair; ties count half."""
    ranks = rankdata(np.concatenate([real, made]))[len(real) :]
    return float((ranks.mean() - (len(made) + 1) / 2) / len(real))


def _trained(real: Parts, made: Parts, n_labels: int, seed: int) -> Critic:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Critic(real.train.values[0].shape[1], n_labels)
        optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        rng = np.random.default_rng(seed)
        train, target = _both(real.train, made.train)
        stop = _both(real.stop, made.stop)
        best, kept, waited = float("inf"), model.state_dict(), 0
        for _ in range(EPOCHS):
            model.train()
            for rows in _batches([len(one) for one in train.values], rng):
                loss = F.binary_cross_entropy_with_logits(
                    model(*_padded(train.chosen(rows))), torch.from_numpy(target[rows])
                )
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
            logits = torch.from_numpy(model.scores(stop[0]))
            held_out = float(F.binary_cross_entropy_with_logits(logits, torch.from_numpy(stop[1]).double()))
            waited += 1
            if held_out < best:
                best, waited = held_out, 0
                kept = {name: value.clone() for name, value in model.state_dict().items()}
            if waited == PATIENCE:
                break
        model.load_state_dict(kept)
    return model


def _batches(lengths: Sequence[int], rng: np.random.Generator) -> list[Int[np.ndarray, " _"]]:
    """Rows of the batches of a pass, in random order; those of a batch have similar lengths, which saves padding."""
    order = rng.permutation(len(lengths))
    order = order[np.argsort(np.array(lengths)[order], kind="stable")]
    batches = np.array_split(order, -(-len(order) // BATCH))
    return [batches[k] for k in rng.permutation(len(batches))]


def _both(real: Examples, made: Examples) -> tuple[Examples, NDArray[np.float32]]:
    """All sequences, and whether each is generated."""
    labels = np.concatenate([real.labels, made.labels])
    target = np.repeat(np.array([0, 1], np.float32), [len(real), len(made)])
    return Examples(real.values + made.values, labels), target


def _padded(examples: Examples) -> tuple[Tensor, Tensor, Tensor]:
    """Values, which frames are inside, labels."""
    lengths = torch.tensor([len(one) for one in examples.values])
    padded = np.zeros((len(examples), int(lengths.max()), examples.values[0].shape[1]), np.float32)
    for row, one in zip(padded, examples.values, strict=True):
        row[: len(one)] = one
    return torch.from_numpy(padded), frame_mask(lengths, padded.shape[1]), torch.from_numpy(examples.labels)
