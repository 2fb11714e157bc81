"""Stored latents, and the batches that a prior learns from.

A sequence is stored as (frames, latent_dim), or as (frames, 2 · latent_dim), mean then log-variance, if the bottleneck
gives a variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actseq.arrays import LatentArray
from actseq.data.corpus import SPLITS, Corpus
from actseq.data.segments import RandomWindows
from actseq.errors import ArtifactError
from actseq.modules.gaussian import ACTIVE_NATS, draw, kl_nats
from actseq.priors.places import TimedRow, frame_places, frame_rows
from actseq.priors.summaries import TrainingClip
from actseq.priors.untrained import TrainingFrames
from actseq.storage.store import Record, SequenceStore

RUN_FRAMES = 64
"""Successive frames that are drawn together if not all frames are used."""
N_DURATIONS = 32
"""Durations that are kept for each label, all equally likely: the quantiles of those of its spans."""
COPIES = "copies"
"""Split of training clips at other speeds, which only the training of priors uses."""


@dataclass(frozen=True)
class LatentStatistics:
    """Statistics of the latents of all training frames; the variance includes that of the posterior.

    Attributes:
        active: indices of the dimensions that carry information, (n_active,).
        mean: mean of the active dimensions, (n_active,).
        deviation: standard deviation of the active dimensions, (n_active,).
        posterior: root mean square of the posterior's standard deviation in the active dimensions, (n_active,).
    """

    active: NDArray[np.int64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    posterior: NDArray[np.float64]


class LatentSequences:
    """The stored latents of a corpus.

    Args:
        folder: folder of the store.
        latent_dim: latent dimensions.
        latent_rate: latent frames a second.
    """

    def __init__(self, folder: Path, latent_dim: int, latent_rate: float) -> None:
        self.store = SequenceStore(folder)
        self.latent_dim, self.latent_rate = latent_dim, latent_rate

    @property
    def records(self) -> list[Record]:
        """The record of each sequence."""
        return self.store.records

    @cached_property
    def labels(self) -> list[str]:
        """All labels, sorted; sequences without a label are left out."""
        in_time = {str(span[2]) for record in self.records for span in record.extra.get("spans", ())}
        return sorted(({str(record.extra["label"]) for record in self.records} | in_time) - {""})

    @cached_property
    def timed(self) -> bool:
        """Whether labels have times."""
        return any("spans" in record.extra for record in self.records)

    def spans(self, index: int, labels: list[str]) -> list[TimedRow]:
        """Labels of a sequence in time: beginning and end in seconds, and the row of the label table.

        Where labels have no times, a sequence is one span. Labels that are not in `labels` are left out.
        """
        record, row = self.records[index], {label: k for k, label in enumerate(labels, 1)}
        whole = [[0.0, record.length / self.latent_rate, record.extra["label"]]]
        found = record.extra.get("spans", whole)
        return [(float(begin), float(end), row[label]) for begin, end, label in found if label in row]

    def durations(self) -> dict[str, list[float]]:
        """For each label the quantiles of the durations of its training spans in seconds, shortest first.

        A label whose spans are not known as a whole is left out.
        """
        found: dict[str, list[float]] = {}
        for index in self.indices("train"):
            extra = self.records[index].extra
            if "spans" in extra or (extra["begins"] and extra["ends"]):
                for begin, end, row in self.spans(index, self.labels):
                    found.setdefault(self.labels[row - 1], []).append(end - begin)
        shares = (np.arange(N_DURATIONS) + 0.5) / N_DURATIONS
        return {
            label: [round(float(one), 4) for one in np.quantile(found[label], shares, method="inverted_cdf")]
            for label in sorted(found)
        }

    def indices(self, split: str) -> list[int]:
        """Indices of the sequences of a split."""
        return [i for i, record in enumerate(self.records) if record.extra["split"] == split]

    def read(self, index: int, start: int = 0, stop: int | None = None) -> tuple[LatentArray, LatentArray]:
        """Mean and log-variance, each (frames, latent_dim); the log-variance is −inf if the bottleneck gives none."""
        both = self.store.read(index, start, stop).astype(np.float32)
        mean, log_variance = both[:, : self.latent_dim], both[:, self.latent_dim :]
        return mean, log_variance if log_variance.size else np.full_like(mean, -np.inf)

    def draw(self, index: int, seed: int) -> LatentArray:
        """Latents (frames, latent_dim) drawn from the posterior of a sequence, a pure function of (index, seed)."""
        mean, log_variance = self.read(index)
        noise = np.random.default_rng([seed, index]).standard_normal(mean.shape).astype(np.float32)
        return draw(mean, log_variance, noise)

    def statistics(self) -> LatentStatistics:
        """Statistics of the training split."""
        count, total, square, spread, kl = 0, 0.0, 0.0, 0.0, 0.0
        for index in self.indices("train"):
            mean, log_variance = (part.astype(np.float64) for part in self.read(index))
            count += len(mean)
            total = total + mean.sum(0)
            square = square + (mean**2).sum(0)
            spread = spread + np.exp(log_variance).sum(0)
            kl = kl + kl_nats(mean, np.maximum(log_variance, -100.0)).sum(0)
        average = np.asarray(total) / count
        posterior = np.asarray(spread) / count
        variance = np.asarray(square) / count - average**2 + posterior
        active = np.flatnonzero(np.asarray(kl) / count >= ACTIVE_NATS)
        if not len(active):
            active = np.arange(self.latent_dim)
        deviation = np.sqrt(np.maximum(variance[active], 1e-8))
        return LatentStatistics(active, average[active], deviation, np.sqrt(posterior[active]))

    def known_lengths(self, labels: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Lengths of the training sequences that are whole clips, and their labels as rows of the label table.

        Row 0 stands for a label that is not in `labels`.
        """
        row = {label: k for k, label in enumerate(labels, 1)}
        known = [self.records[i] for i in self.indices("train")]
        known = [record for record in known if record.extra["begins"] and record.extra["ends"]]
        rows = [row.get(str(record.extra["label"]), 0) for record in known]
        return np.array([record.length for record in known], np.int64), np.array(rows, np.int64)

    def training_clips(self, labels: list[str]) -> Iterator[TrainingClip]:
        """The training sequences, one after another."""
        row = {label: k for k, label in enumerate(labels, 1)}
        for index in self.indices("train"):
            record = self.records[index]
            mean = torch.from_numpy(self.read(index, 0, record.length)[0])
            whole = bool(record.extra["begins"] and record.extra["ends"])
            yield TrainingClip(mean, row.get(str(record.extra["label"]), 0), whole)

    def training_frames(self, most: int = 200_000, seed: int = 0) -> tuple[TrainingFrames, list[str]]:
        """The frames that untrained priors are made from, and the labels that these frames have, in order.

        If there are more than about `most` frames, runs of `RUN_FRAMES` successive frames are drawn at random, the same
        fraction of each label.

        Raises:
            ArtifactError: the training split is empty.
        """
        train = [(i, self.records[i]) for i in self.indices("train")]
        if not train:
            raise ArtifactError(f"no sequence in {self.store.folder} is for training", action="train on more files")
        found = {i: self._stretches(i, self.labels) for i, _ in train}
        rows = sorted({row for stretches in found.values() for row, _, _ in stretches} - {0})
        names, number = [self.labels[row - 1] for row in rows], {row: k for k, row in enumerate([0, *rows])}
        runs: list[list[tuple[int, int, int]]] = [[] for _ in number]
        lengths: list[list[int]] = [[] for _ in number]
        for i, record in train:
            stretches = [(number[row], first, last) for row, first, last in found[i]]
            for k, first, last in stretches:
                runs[k] += [(i, start, min(start + RUN_FRAMES, last)) for start in range(first, last, RUN_FRAMES)]
            if record.extra["begins"] and record.extra["ends"]:
                lengths[0].append(record.length)
                for k, first, last in stretches:
                    if k:
                        lengths[k].append(last - first)
        share = min(1.0, most / sum(record.length for _, record in train))
        rng = np.random.default_rng(seed)
        drawn = [sorted(rng.permutation(own)[: ceil(share * len(own))].tolist()) for own in runs]
        means, log_variances, label, follows = [], [], [], []
        end = (-1, -1)
        for k, own in enumerate(drawn):
            for index, start, stop in own:
                mean, log_variance = self.read(index, start, stop)
                means.append(mean)
                log_variances.append(log_variance)
                label.append(np.full(len(mean), k))
                follows.append(np.append((index, start) == end, np.ones(len(mean) - 1, dtype=bool)))
                end = (index, start + len(mean))
        frames = TrainingFrames(
            np.concatenate(means),
            np.concatenate(log_variances),
            np.concatenate(label),
            np.concatenate(follows),
            [np.array(own, dtype=np.int64) for own in lengths],
        )
        return frames, names

    def _stretches(self, index: int, labels: list[str]) -> list[tuple[int, int, int]]:
        """Row of the label, first frame, and the frame after the last, of each stretch of frames with one label."""
        length = self.records[index].length
        rows = frame_rows(self.spans(index, labels), self.latent_rate, 0, length)
        cuts = [0, *(np.flatnonzero(np.diff(rows)) + 1).tolist(), length]
        return [(int(rows[first]), first, last) for first, last in pairwise(cuts) if first < last]


@dataclass(frozen=True)
class SequenceSource:
    """Batches of latent sequences; a batch is a pure function of (seed, step, rank).

    Attributes:
        latents: the sequences.
        split: `train`, `validation` or `test`.
        labels: the label table without its row 0.
        frames: longest window of a sequence.
        batch_size: windows in a batch.
        seed: seed of the choice of windows.
        copies: whether copies of the training clips at other speeds are among the training sequences.
        folder_balance: as for `drawing_weights`.
    """

    latents: LatentSequences
    split: str
    labels: list[str]
    frames: int
    batch_size: int
    seed: int
    copies: bool = True
    folder_balance: float = 0.0

    @cached_property
    def _windows(self) -> RandomWindows:
        indices = self.latents.indices(self.split)
        if self.split == "train" and self.copies:
            indices += self.latents.indices(COPIES)
        return RandomWindows(self.latents.store, indices, self.frames, self.folder_balance)

    def batch(self, step: int, rank: int = 0) -> Mapping[str, NDArray[Any]]:
        """Arrays by name, padded with zeros to the longest window; see `SequenceLikelihood`.

        Where labels have times, `frame_label (batch, frames)` and `frame_place (batch, frames, n_place)` are among
        them, as `frame_rows` and `frame_places` make them.
        """
        rows = [self._window(index, start) for index, start in self._drawn(step, rank)]
        longest = max(len(row["mean"]) for row in rows)

        def padded(name: str, **how: Any) -> NDArray[Any]:
            def pad(values: NDArray[Any]) -> NDArray[Any]:
                return np.pad(values, ((0, longest - len(values)), *[(0, 0)] * (values.ndim - 1)), **how)

            return np.stack([pad(row[name]) for row in rows])

        # Behind the end of a sequence its last label goes on: nothing there tells that it has ended.
        in_time = {name: padded(name, mode="edge") for name in ("frame_label", "frame_place") if name in rows[0]}
        return in_time | {
            "mean": padded("mean"),
            "log_variance": padded("log_variance"),
            "previous_mean": np.stack([row["previous_mean"] for row in rows]),
            "previous_log_variance": np.stack([row["previous_log_variance"] for row in rows]),
            "lengths": np.array([len(row["mean"]) for row in rows]),
            "begins": np.array([row["begins"] for row in rows]),
            "ends": np.array([row["ends"] for row in rows]),
            "label": np.array([row["label"] for row in rows]),
            "index": np.array([row["index"] for row in rows]),
            "start": np.array([row["start"] for row in rows]),
        }

    def origins(self, step: int, rank: int = 0) -> list[str]:
        """For each row of a batch, the clip, and the latent frame at which the window begins."""
        records = self.latents.records
        return [f"{records[index].key} at latent frame {start}" for index, start in self._drawn(step, rank)]

    def _drawn(self, step: int, rank: int) -> Iterator[tuple[int, int]]:
        """Sequence and first frame of each window of a batch."""
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), step, rank])
        for _ in range(self.batch_size):
            yield self._windows.draw(rng)

    def _window(self, index: int, start: int) -> dict[str, Any]:
        record = self.latents.records[index]
        begins = start == 0 and bool(record.extra["begins"])
        if start == 0 and not begins and record.length > 1:
            start = 1  # A block from the middle of a file: its first frame is what came before.
        stop = min(start + self.frames, record.length)
        mean, log_variance = self.latents.read(index, max(0, start - 1), stop)
        cut = 1 if start > 0 else 0
        label = str(record.extra["label"])
        in_time = {}
        if self.latents.timed:
            given = (self.latents.spans(index, self.labels), self.latents.latent_rate, start, stop - start)
            in_time = {"frame_label": frame_rows(*given), "frame_place": frame_places(*given)}
        return in_time | {
            "mean": mean[cut:],
            "log_variance": log_variance[cut:],
            "previous_mean": mean[0],
            "previous_log_variance": log_variance[0],
            "begins": begins or start == 0,
            "ends": stop == record.length and bool(record.extra["ends"]),
            "label": self.labels.index(label) + 1 if label in self.labels else 0,
            "index": index,
            "start": start,
        }


@dataclass(frozen=True)
class DecoderSource:
    """Windows of latents, each with the waveform of a part of it; a batch is a pure function of (step, rank).

    Attributes:
        windows: the windows, without copies.
        corpus: the clips that the latents were made from.
        frames: latent frames of a part.
        samples_per_latent: samples of a latent frame.
        margin: samples before and after each part that come with it.
    """

    windows: SequenceSource
    corpus: Corpus
    frames: int
    samples_per_latent: int
    margin: int

    @cached_property
    def _clips(self) -> dict[str, int]:
        return {record.key: index for index, record in enumerate(self.corpus.store.records)}

    def batch(self, step: int, rank: int = 0) -> Mapping[str, NDArray[Any]]:
        """The batch of `windows` with `crop (batch,)`, the latent frame of the window at which its part begins.

        And with `waveform (batch, margin + samples + margin)`, and `n_samples (batch,)`, samples of the clip from the
        beginning of the part on.
        """
        data = self.windows.batch(step, rank)
        rng = np.random.default_rng([self.windows.seed, SPLITS.index(self.windows.split), step, rank, 1])
        crops, waveforms, left = [], [], []
        for index, start, length in zip(data["index"], data["start"], data["lengths"], strict=True):
            clip = self._clips[self.windows.latents.records[index].key]
            crop = int(rng.integers(max(0, length - self.frames) + 1))
            first = int(start + crop) * self.samples_per_latent
            last = first + self.frames * self.samples_per_latent
            crops.append(crop)
            waveforms.append(self.corpus.waveform(clip, first - self.margin, last + self.margin))
            left.append(self.corpus.store.records[clip].length - first)
        return {**data, "crop": np.array(crops), "waveform": np.stack(waveforms), "n_samples": np.array(left)}

    def origins(self, step: int, rank: int = 0) -> list[str]:
        """Those of `windows`."""
        return self.windows.origins(step, rank)
