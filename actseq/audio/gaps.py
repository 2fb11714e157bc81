"""Gaps in a recording: short silences that sound breaks off before and after, as lost data leaves them.

A pause is not a gap. Before a pause sound dies away or is faded out, and after it sound often begins softly; a gap cuts
it on both sides, and lasts no longer than a second. Silence is what stays 80 dB under the peak of the recording,
so steady background noise does not count as silence.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from actseq.arrays import Waveform
from actseq.units import db_to_amplitude, seconds_to_samples

SILENT_DB = -80.0
"""Level, relative to the peak of the recording, that no sample of a gap exceeds."""
LEAST_SECONDS, MOST_SECONDS = 0.003, 1.0
"""Bounds of the length of a gap; a longer silence is a pause."""
BESIDE_SECONDS, BESIDE_DB = 0.01, -50.0
"""On either side of a gap sound of this length has at least this level (RMS), relative to the peak of the recording."""
EDGE_SECONDS, EDGE_DB = 0.001, -15.0
"""What lies next to a gap, of this length, has at least this level relative to that sound: it was not faded out."""
RULE = (
    f"silence of {1000 * LEAST_SECONDS:g} ms to {MOST_SECONDS:g} s, {-SILENT_DB:g} dB under the peak, "
    "that sound breaks off before and after"
)
"""What counts as a gap, for messages."""


def find_gaps(blocks: Iterable[Waveform], sample_rate: int, peak: float) -> Iterator[tuple[int, int]]:
    """Yield each gap of a recording: its first sample and the one after its last.

    Args:
        blocks: the recording, piece by piece; the pieces may have any lengths.
        sample_rate: of the blocks, in Hz.
        peak: largest absolute value in the recording.
    """
    search = _Search(sample_rate, peak)
    for block in blocks:
        yield from search.push(block)
    yield from search.finish()


@dataclass
class _Search:
    """What is known of a recording so far.

    Attributes:
        sample_rate: Hz.
        peak: of the recording.
        held: the last samples, from shortly before the last sound on.
        first: number of the first sample that is held.
        judged: number of the sample after the last silence of which it is known whether it is a gap.
    """

    sample_rate: int
    peak: float
    held: Waveform = field(default_factory=lambda: np.zeros(0, np.float32))
    first: int = 0
    judged: int = 0

    def push(self, block: Waveform) -> Iterator[tuple[int, int]]:
        """Take more samples; yield the gaps that are now known."""
        self.held = np.concatenate([self.held, block])
        yield from self._known(self._samples(BESIDE_SECONDS))

    def finish(self) -> Iterator[tuple[int, int]]:
        """Yield the gaps that lie close to the end."""
        yield from self._known(1)

    def _known(self, after: int) -> Iterator[tuple[int, int]]:
        """Gaps that have at least so many samples after them; what is not needed any more is dropped."""
        loud = np.flatnonzero(np.abs(self.held) > self.peak * db_to_amplitude(SILENT_DB))
        if not len(loud):
            if len(self.held) > self._samples(MOST_SECONDS):
                self._drop(len(self.held))
            return
        lengths = np.diff(loud) - 1
        keep = int(loud[-1])
        for at in np.flatnonzero(lengths >= self._samples(LEAST_SECONDS)):
            begin, end = int(loud[at]) + 1, int(loud[at + 1])
            if self.first + begin < self.judged:
                continue
            if len(self.held) - end < after:
                keep = begin - 1
                break
            self.judged = self.first + end
            if end - begin <= self._samples(MOST_SECONDS) and self._breaks_off(begin, end):
                yield self.first + begin, self.first + end
        silent = len(self.held) - 1 - int(loud[-1])
        if silent > self._samples(MOST_SECONDS):
            self._drop(len(self.held))
        else:
            self._drop(max(0, keep + 1 - self._samples(BESIDE_SECONDS)))

    def _breaks_off(self, begin: int, end: int) -> bool:
        """Whether there is sound before and after a silence, and neither is faded."""
        size = self._samples(BESIDE_SECONDS)
        sides = self.held[max(0, begin - size) : begin][::-1], self.held[end : end + size]
        least = self.peak * db_to_amplitude(BESIDE_DB)
        for side in sides:
            level = _rms(side)
            if level < least or _rms(side[: self._samples(EDGE_SECONDS)]) < level * db_to_amplitude(EDGE_DB):
                return False
        return True

    def _drop(self, samples: int) -> None:
        self.held, self.first = self.held[samples:], self.first + samples

    def _samples(self, seconds: float) -> int:
        return max(1, seconds_to_samples(seconds, self.sample_rate))


def _rms(sound: Waveform) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64)))) if len(sound) else 0.0
