"""Training segments: random parts of clips, alone or with a second sound for noise."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from actseq import units
from actseq.storage.store import SequenceStore

if TYPE_CHECKING:
    pass

from actseq.data.corpus import SPLITS, Corpus, random_speed


class RandomWindows:
    """Random windows over some sequences of a store.

    Sequences are drawn in proportion to their length, none counting less than one window. Starts are drawn from half a window
    before the sequence to half a window after the last possible place and then moved inside, so that beginnings and ends
    are seen more often than by chance; a sequence shorter than a window always starts at 0.

    Args:
        store: the sequences.
        indices: which of them.
        size: items in a window.
    """

    def __init__(self, store: SequenceStore, indices: Sequence[int], size: int) -> None:
        self.indices, self.size = list(indices), size
        self.lengths = [store.records[i].length for i in self.indices]
        weights = np.array([max(length, size) for length in self.lengths], dtype=np.float64)
        self.cumulative = np.cumsum(weights) / weights.sum()

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Index of a sequence and where its window starts."""
        at = min(int(np.searchsorted(self.cumulative, rng.random(), side="right")), len(self.indices) - 1)
        last, half = max(0, self.lengths[at] - self.size), self.size // 2
        return self.indices[at], int(np.clip(rng.integers(-half, last + half + 1), 0, last))


@dataclass(frozen=True)
class SegmentSource:
    """Random training crops; a batch is a pure function of (seed, step, rank).

    A crop carries `margin` samples of what lies before and after it, so that its features are those of the whole clip.
    Attributes:
        samples: length of a crop.
        gain_db: bounds of the random gain relative to the corpus's level, in dB.
        jitter: crops begin up to so many samples earlier; a hop, so that a short clip is not always cut into the same frames.
        speed: crops are played up to this share faster or slower.
        labels: of the clips; None for all.
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

    @cached_property
    def _windows(self) -> RandomWindows:
        return RandomWindows(self.corpus.store, self.corpus.indices(self.split, self.labels), self.samples)

    def batch(self, step: int, rank: int = 0) -> dict[str, NDArray[np.generic]]:
        """Crops.

        Returns:
            `waveform (batch, margin + samples + margin)`; `start (batch,)`, samples of the clip before the crop, and
            `n_samples (batch,)`, those from its start on.
        """
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), step, rank])
        waveforms, starts, lengths = [], [], []
        for _ in range(self.batch_size):
            index, start = self._windows.draw(rng)
            start -= int(rng.integers(self.jitter)) if self.jitter else 0
            gain = units.db_to_amplitude(rng.uniform(*self.gain_db))
            length = self.corpus.store.records[index].length - start
            if self.speed:
                speed = random_speed(rng, self.speed)
                stop = self.samples + self.margin
                crop = self.corpus.waveform_at_speed(index, speed, start, -self.margin, stop)
                length = round(length / speed)
                start = round(start / speed)
            else:
                crop = self.corpus.waveform(index, start - self.margin, start + self.samples + self.margin)
            waveforms.append(crop * np.float32(gain))
            starts.append(start)
            lengths.append(length)
        return {"waveform": np.stack(waveforms), "start": np.array(starts), "n_samples": np.array(lengths)}


@dataclass(frozen=True)
class WithNoiseClips:
    """Random crops with others beside them, as `noise`.

    Attributes:
        sounds: the crops.
        others: those beside them. Its seed must be another one, or both would draw alike.
    """

    sounds: SegmentSource
    others: SegmentSource

    def batch(self, step: int, rank: int = 0) -> dict[str, NDArray[np.generic]]:
        """As of `SegmentSource`, and `noise` like `waveform`."""
        return self.sounds.batch(step, rank) | {"noise": self.others.batch(step, rank)["waveform"]}
