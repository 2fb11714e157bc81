"""Training segments: random parts of clips, alone or with a second segment as noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from actseq import units
from actseq.arrays import Waveform
from actseq.data.corpus import SPLITS, Corpus, random_speed
from actseq.storage.store import Record, SequenceStore


def drawing_weights(weights: Sequence[float], records: Sequence[Record], folder_balance: float) -> NDArray[np.float64]:
    """What the probabilities of drawing sequences are in proportion to.

    Args:
        weights: how much each sequence counts.
        records: their records; a key begins with the path of a file.
        folder_balance: 0: the weights as they are. 1: folders beside each other are drawn equally often, and within a
            folder its labels are. In between: in proportion to the sum of their weights to the power of
            1 − folder_balance.
    """
    whole: NDArray[np.float64] = np.asarray(weights, np.float64)
    if not folder_balance:
        return whole
    paths = [(*PurePosixPath(one.key).parent.parts, str(one.extra["label"])) for one in records]
    return _balanced(whole, paths, 1 - folder_balance)


def _balanced(weights: NDArray[np.float64], paths: Sequence[tuple[str, ...]], power: float) -> NDArray[np.float64]:
    """Shares, which add up to 1, of what lies under one folder; each path leads on from there."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        groups[path[0] if path else ""].append(i)
    shares: NDArray[np.float64] = np.zeros(len(weights))
    for members in groups.values():
        own, below = weights[members], [paths[i][1:] for i in members]
        inside = _balanced(own, below, power) if any(below) else own / own.sum()
        shares[members] = own.sum() ** power * inside
    shares /= shares.sum()
    return shares


class RandomWindows:
    """Draws random windows of some sequences of a store.

    A sequence is drawn with a probability in proportion to its length, but at least to one window, if folders are not
    balanced. A start is drawn from half a window before the sequence to half a window after the last possible start,
    and then moved inside, so that beginnings and ends are drawn more often than other places. A sequence shorter than a
    window always starts at 0.

    Args:
        store: the store.
        indices: indices of the sequences.
        size: items in a window.
        folder_balance: as for `drawing_weights`.
    """

    def __init__(self, store: SequenceStore, indices: Sequence[int], size: int, folder_balance: float = 0.0) -> None:
        self.indices, self.size = list(indices), size
        records = [store.records[i] for i in self.indices]
        self.lengths = [record.length for record in records]
        weights = drawing_weights([max(length, size) for length in self.lengths], records, folder_balance)
        self.cumulative = np.cumsum(weights) / weights.sum()

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Index of a sequence, and the start of the window in it."""
        at = min(int(np.searchsorted(self.cumulative, rng.random(), side="right")), len(self.indices) - 1)
        last, half = max(0, self.lengths[at] - self.size), self.size // 2
        return self.indices[at], min(max(int(rng.integers(-half, last + half + 1)), 0), last)


@dataclass(frozen=True)
class SegmentSource:
    """Random training segments of waveforms; a batch is a pure function of (seed, step, rank).

    Attributes:
        corpus: the clips.
        split: `train`, `validation` or `test`.
        samples: length of a segment.
        margin: samples before and after the segment that come with it, so that its features are those of the whole
            clip.
        batch_size: segments in a batch.
        seed: seed of the choice of segments, gains and speeds.
        gain_db: bounds of the random gain relative to the corpus's level, in dB.
        jitter: segments begin up to this many samples earlier. With one hop, frames fall on other samples each time.
        speed: segments are own_speed at a random speed between 1 / (1 + speed) and 1 + speed.
        labels: labels of the clips to use; None: all.
        folder_balance: as for `drawing_weights`.
    """

    corpus: Corpus
    split: str
    samples: int
    margin: int
    batch_size: int
    seed: int
    gain_db: tuple[float, float] = (0.0, 0.0)
    jitter: int = 0
    speed: float = 0.0
    labels: Collection[str] | None = None
    folder_balance: float = 0.0

    @cached_property
    def _windows(self) -> RandomWindows:
        indices = self.corpus.indices(self.split, self.labels)
        return RandomWindows(self.corpus.store, indices, self.samples, self.folder_balance)

    def batch(self, step: int, rank: int = 0) -> dict[str, NDArray[np.generic]]:
        """A batch of segments.

        Returns:
            `waveform (batch, margin + samples + margin)`; `start (batch,)`, the samples of the clip before the segment;
            `n_samples (batch,)`, the samples of the clip from the start of the segment on.
        """
        waveforms, starts, lengths = [], [], []
        for index, start, gain, speed in self._drawn(step, rank):
            length = self.corpus.store.records[index].length - start
            if self.speed:
                stop = self.samples + self.margin
                segment = self.corpus.waveform_at_speed(index, speed, start, -self.margin, stop)
                length = round(length / speed)
                start = round(start / speed)
            else:
                segment = self.corpus.waveform(index, start - self.margin, start + self.samples + self.margin)
            waveforms.append(segment * np.float32(gain))
            starts.append(start)
            lengths.append(length)
        return {"waveform": np.stack(waveforms), "start": np.array(starts), "n_samples": np.array(lengths)}

    def origins(self, step: int, rank: int = 0) -> list[str]:
        """For each row of a batch, the file, and where in it the segment begins."""
        return [self.corpus.place(index, start) for index, start, _, _ in self._drawn(step, rank)]

    def _drawn(self, step: int, rank: int) -> Iterator[tuple[int, int, float, float]]:
        """Clip, start, gain and speed of each segment of a batch."""
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), step, rank])
        for _ in range(self.batch_size):
            index, start = self._windows.draw(rng)
            start -= int(rng.integers(self.jitter)) if self.jitter else 0
            gain = units.db_to_amplitude(rng.uniform(*self.gain_db))
            yield index, start, gain, random_speed(rng, self.speed) if self.speed else 1.0


class EvenClips:
    """Draws random clips of a corpus, every label equally often, however many clips it has.

    Args:
        corpus: the corpus.
        indices: indices of the clips, one or more.
    """

    def __init__(self, corpus: Corpus, indices: Sequence[int]) -> None:
        found: dict[str, list[int]] = {}
        for index in indices:
            found.setdefault(str(corpus.store.records[index].extra["label"]), []).append(index)
        self.of_labels = [found[label] for label in sorted(found)]

    def draw(self, rng: np.random.Generator) -> int:
        """Index of a clip."""
        own = self.of_labels[int(rng.integers(len(self.of_labels)))]
        return own[int(rng.integers(len(own)))]


@dataclass(frozen=True)
class ClipSource:
    """Random whole clips, from their start, see `EvenClips`; a batch is a pure function of (seed, step, rank).

    Attributes:
        corpus: the clips.
        split: `train`, `validation` or `test`.
        samples: length of a clip with the silence after its end; a longer one is cut, see `whole_clip`.
        margin: as in `SegmentSource`.
        batch_size: clips in a batch.
        seed: seed of the choice of clips, gains and speeds.
        gain_db: as in `SegmentSource`.
        speed: as in `SegmentSource`.
        labels: labels of the clips to use; None: all.
    """

    corpus: Corpus
    split: str
    samples: int
    margin: int
    batch_size: int
    seed: int
    gain_db: tuple[float, float] = (0.0, 0.0)
    speed: float = 0.0
    labels: Collection[str] | None = None

    @cached_property
    def _clips(self) -> EvenClips:
        return EvenClips(self.corpus, self.corpus.indices(self.split, self.labels))

    def batch(self, step: int, rank: int = 0) -> dict[str, NDArray[np.generic]]:
        """A batch of clips.

        Returns:
            `waveform (batch, margin + samples + margin)`; `n_samples (batch,)`, which counts the silence too;
            `label (batch,)`, rows of `corpus.split_labels("train")` from 1 on, without the empty label; 0 for none.
        """
        rows = label_rows(self.corpus)
        waveforms, labels = [], []
        for index, gain, speed in self._drawn(step, rank):
            clip = whole_clip(self.corpus, index, self.samples, speed)
            waveforms.append(np.pad(clip * np.float32(gain), self.margin))
            labels.append(rows.get(str(self.corpus.store.records[index].extra["label"]), 0))
        lengths = np.full(self.batch_size, self.samples)
        return {"waveform": np.stack(waveforms), "n_samples": lengths, "label": np.array(labels)}

    def origins(self, step: int, rank: int = 0) -> list[str]:
        """For each row of a batch, the file, and where in it the clip begins."""
        return [self.corpus.place(index) for index, _, _ in self._drawn(step, rank)]

    def _drawn(self, step: int, rank: int) -> Iterator[tuple[int, float, float]]:
        """Clip, gain and speed of each row of a batch."""
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), step, rank])
        for _ in range(self.batch_size):
            index = self._clips.draw(rng)
            gain = units.db_to_amplitude(rng.uniform(*self.gain_db))
            yield index, gain, random_speed(rng, self.speed) if self.speed else 1.0


def label_rows(corpus: Corpus) -> dict[str, int]:
    """Rows of the table of the training labels, from 1 on; the empty label has none."""
    return {label: row for row, label in enumerate((one for one in corpus.split_labels("train") if one), 1)}


def whole_clip(corpus: Corpus, index: int, samples: int, speed: float = 1.0) -> Waveform:
    """A clip (samples,) from its start, with silence after its end; a longer one is faded out over its last tenth.

    Args:
        corpus: the clips.
        index: index of the clip.
        samples: length of the result.
        speed: 2 is twice as fast.
    """
    own_speed = speed == 1
    clip = corpus.waveform(index, 0, samples) if own_speed else corpus.waveform_at_speed(index, speed, 0, 0, samples)
    if corpus.store.records[index].length / speed > samples:
        fade = max(1, samples // 10)
        clip[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return clip


@dataclass(frozen=True)
class WithNoiseClips:
    """Random segments, each with a segment of another clip as `noise`.

    Attributes:
        sounds: source of the segments.
        others: source of the noise; it needs another seed, or both would draw the same numbers.
    """

    sounds: SegmentSource
    others: SegmentSource

    def batch(self, step: int, rank: int = 0) -> dict[str, NDArray[np.generic]]:
        """The batch of `sounds`, and `noise` with the shape of `waveform`."""
        return self.sounds.batch(step, rank) | {"noise": self.others.batch(step, rank)["waveform"]}

    def origins(self, step: int, rank: int = 0) -> list[str]:
        """For each row of a batch, where the sound comes from and where its noise does."""
        pairs = zip(self.sounds.origins(step, rank), self.others.origins(step, rank), strict=True)
        return [f"{sound} with noise from {noise}" for sound, noise in pairs]
