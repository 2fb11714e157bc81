"""Excerpts of a corpus for comparisons: whole clips, or pieces of a given length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from actseq import units
from actseq.arrays import Waveform
from actseq.data.corpus import Corpus

T = TypeVar("T")


@dataclass(frozen=True)
class Excerpt:
    """A part of a clip.

    Attributes:
        index: index of the clip.
        start: first sample.
        stop: the sample after the last.
        label: label of the clip; "" if it has none.
    """

    index: int
    start: int
    stop: int
    label: str

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.stop - self.start

    def read(self, corpus: Corpus) -> Waveform:
        """The waveform (samples,) at the corpus's level."""
        return corpus.waveform(self.index, self.start, self.stop)


def excerpts(corpus: Corpus, split: str, sample_rate: int, seconds: float | None) -> list[Excerpt]:
    """Excerpts of all clips of a split, in the order of the corpus; empty clips are left out.

    Args:
        corpus: the clips.
        split: `train`, `validation` or `test`.
        sample_rate: sample rate of the corpus in Hz.
        seconds: longer clips are cut into pieces of this length, and their rest is left out; None: whole clips.
    """
    found = []
    for index in corpus.indices(split):
        record = corpus.store.records[index]
        size = record.length if seconds is None else min(record.length, units.seconds_to_samples(seconds, sample_rate))
        label = str(record.extra["label"])
        starts = range(0, record.length - size + 1, size) if size else ()
        found += [Excerpt(index, start, start + size, label) for start in starts]
    return found


def spread(items: Sequence[T], n: int | None) -> list[T]:
    """`n` evenly spread items; all items if there are not more."""
    if n is None or n >= len(items):
        return list(items)
    return [items[k * len(items) // n] for k in range(n)]
