"""Which stretches of a corpus are compared with others: whole clips, or pieces of a length."""

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
    """A stretch of a clip.

    Attributes:
        index: of the clip.
        start: its first sample.
        stop: the sample after its last.
        label: of the clip; empty where it has none.
    """

    index: int
    start: int
    stop: int
    label: str

    @property
    def samples(self) -> int:
        """How many it has."""
        return self.stop - self.start

    def read(self, corpus: Corpus) -> Waveform:
        """(samples,) at the corpus's level."""
        return corpus.waveform(self.index, self.start, self.stop)


def excerpts(corpus: Corpus, split: str, sample_rate: int, seconds: float | None) -> list[Excerpt]:
    """The clips of a split that hold anything, in the corpus's order.

    Args:
        corpus: the clips.
        split: which of them.
        sample_rate: of the corpus, Hz.
        seconds: cut longer clips into pieces of this length, the rest being left out; None takes all whole.
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
    """`n` of them, evenly spread; all where there are no more."""
    if n is None or n >= len(items):
        return list(items)
    return [items[k * len(items) // n] for k in range(n)]
