"""Sound files as mono sound at any sample rate: whole, or block by block."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Float32

from actseq.audio.decoding import BLOCK, OFFSET_SAMPLES, is_fault, missing
from actseq.audio.similar import similar
from actseq.audio.worker import Reading
from actseq.errors import AudioError
from actseq.units import db_to_amplitude


def load(
    path: str | Path, sample_rate: int | None = None, *, most_seconds: float | None = None
) -> tuple[Float32[np.ndarray, " samples"], int]:
    """Decode a file to mono, the mean of its channels.

    Args:
        path: any format libsndfile reads.
        sample_rate: Hz to resample to (soxr, HQ); the file's own if None.
        most_seconds: refuse a longer file, of which no more than this is then read; None: any length.

    Returns:
        The waveform as stored (a float file may exceed ±1), and its sample rate in Hz.

    Raises:
        AudioError: the file is missing, cannot be decoded, is cut short, empty, silent or too long, or holds NaN or
            infinity.
    """
    reading = Reading(Path(path), sample_rate, seconds=most_seconds)
    with named(path):
        waveform = np.concatenate(list(reading))
        if most_seconds is not None and reading.content.own_samples > most_seconds * reading.content.own_rate:
            raise AudioError(f"too long: it lasts more than {most_seconds:g} s", action="cut it")
    return waveform, sample_rate or reading.content.own_rate


def beginning(path: str | Path, seconds: float) -> tuple[Float32[np.ndarray, " samples"], int]:
    """Decode the beginning of a file to mono, whole blocks that last at least `seconds`; and its sample rate in Hz.

    Raises:
        AudioError: as `load`; what is wrong with the rest of the file is not noticed.
    """
    reading = Reading(Path(path), seconds=seconds)
    with named(path):
        found = np.concatenate(list(reading))
    return found, reading.content.own_rate


@dataclass(frozen=True)
class Recording:
    """A file that has been read from end to end, and can be read again in blocks.

    Args:
        path: any format libsndfile reads.
        sample_rate: sample rate of the blocks in Hz.
        own_rate: sample rate of the file in Hz.
        own_samples: samples per channel in the file.
        offset: constant offset in the file, which the blocks no longer have; 0 if it is too small to be a fault.
        samples: samples in all blocks together.
        peak: largest absolute value in the blocks.
        note: what is unusual about the file; "" if nothing is.
    """

    path: Path
    sample_rate: int
    own_rate: int
    own_samples: int
    offset: float
    samples: int
    peak: float
    note: str = ""

    def blocks(self) -> Iterator[Float32[np.ndarray, " samples"]]:
        """Yield the waveform that `load`, `remove_offset` and `resample` give, piece by piece.

        Raises:
            AudioError: as `load`; or the file has changed since it was measured.
        """
        reading = Reading(self.path, self.sample_rate, self.offset)
        with named(self.path):
            yield from reading
            if (reading.content.own_rate, reading.content.own_samples) != (self.own_rate, self.own_samples):
                raise AudioError("changed while it was read", action="leave it as it is, and start again")


def blocks(path: Path) -> Iterator[Float32[np.ndarray, " samples"]]:
    """Yield the samples of a mono file that `Writer` made."""
    yield from soundfile.blocks(path, blocksize=BLOCK, dtype="float32")


def measure(path: str | Path, sample_rate: int) -> Recording:
    """Read a file block by block, so that a long file needs no more memory than a short one.

    Args:
        path: any format libsndfile reads.
        sample_rate: sample rate in Hz that the blocks will have.

    Raises:
        AudioError: as `load`.
    """
    path = Path(path)
    with named(path):
        found = Reading(path, sample_rate, blocks=False).finish()
        samples, peak = found.samples, found.peak
        if found.offset and found.own_rate == sample_rate:
            peak = float(found.envelope.max())
        elif found.offset:
            without = Reading(path, sample_rate, found.offset, blocks=False).finish()
            samples, peak = without.samples, without.peak
    return Recording(path, sample_rate, found.own_rate, found.own_samples, found.offset, samples, peak, found.note)


def resample(
    waveform: Float32[np.ndarray, " samples"], own_rate: int, sample_rate: int
) -> Float32[np.ndarray, " resampled"]:
    """Change the sample rate from `own_rate` to `sample_rate` Hz (soxr, HQ); at least one sample is left."""
    silence = missing(len(waveform), own_rate, sample_rate)
    whole = np.pad(waveform, (0, silence)) if silence else waveform
    return np.asarray(soxr.resample(whole, own_rate, sample_rate, quality="HQ"), np.float32)


def remove_offset(waveform: Float32[np.ndarray, " samples"]) -> tuple[Float32[np.ndarray, " samples"], float]:
    """Subtract the constant offset of a recording; return it too, 0 if nothing was subtracted.

    The offset is the median. It counts as a fault from 30 % of the peak on (voices reach 17 %): it is inaudible, but it
    sets the level, and a spectrogram turns it into rumble. Sounds of less than 4096 samples are left as they are.
    """
    offset = float(np.median(waveform)) if waveform.size >= OFFSET_SAMPLES else 0.0
    if not is_fault(offset, float(np.abs(waveform).max(initial=0.0))):
        return waveform, 0.0
    return waveform - np.float32(offset), offset


def trim_bounds(waveform: Float[np.ndarray, " samples"], threshold_db: float = -60.0) -> tuple[int, int]:
    """Find where sound begins and ends.

    Args:
        waveform: one channel.
        threshold_db: level in dB relative to the peak, below which a sample counts as silence.

    Returns:
        The first sample at or above the threshold and one past the last; (0, 0) for silence.
    """
    level = np.abs(waveform)
    peak = level.max(initial=0.0)
    if peak == 0.0:
        return 0, 0
    loud = np.flatnonzero(level >= peak * db_to_amplitude(threshold_db))
    return int(loud[0]), int(loud[-1]) + 1


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Add the file's name to an AudioError."""
    try:
        yield
    except AudioError as error:
        cure = "replace it, or leave it out" if Path(path).exists() else similar(Path(path))
        raise AudioError(f"{path}: {error.found}", error.expected, error.action or cure) from error
