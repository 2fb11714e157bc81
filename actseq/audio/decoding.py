"""Decode sound files block by block, and judge what is in them."""

import os
import shutil
import stat
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32
from numpy.typing import NDArray

from actseq.audio.headers import Part, inspect
from actseq.audio.virtual import PartFile
from actseq.errors import AudioError
from actseq.units import amplitude_to_db, db_to_amplitude

BLOCK = 1 << 16
"""Samples that are read at a time."""
HALF = 1 << 16
"""Number of values that one half of a sample's 32 bits can have."""
OFFSET_SAMPLES = 4096
"""A shorter sound is taken to have no offset."""
OFFSET_SHARE = 0.3
"""An offset is a fault from this fraction of the peak on."""
SILENCE = db_to_amplitude(-86.0)
"""A mono mix without its offset is silent if its peak is lower."""
CANCELLED_DB = -40.0
"""Channels cancel each other out if their mono mix is lower than this, relative to the channels."""
SPAN = 1024
"""Samples for which the envelope of a file has one value."""
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Sample rates in Hz that a sound file can have; a header that states another is wrong."""


def changed(decoding: "Decoding", offset: float, sample_rate: int | None) -> Iterator[Float32[np.ndarray, " samples"]]:
    """Blocks without an offset, with the samples that `resample` gives for the whole file; the file's rate if None."""
    stream = None
    for block in decoding:
        shifted = block - np.float32(offset) if offset else block
        if sample_rate is None or decoding.sample_rate == sample_rate:
            yield shifted
            continue
        if stream is None:
            stream = soxr.ResampleStream(decoding.sample_rate, sample_rate, 1, dtype="float32", quality="HQ")
        yield stream.resample_chunk(shifted)
    if stream is not None and sample_rate is not None:
        silence = np.zeros(missing(decoding.samples, decoding.sample_rate, sample_rate), np.float32)
        yield stream.resample_chunk(silence, last=True)


def missing(samples: int, own_rate: int, sample_rate: int) -> int:
    """Samples of silence to append where the sound is so short that resampling would leave nothing."""
    return max(0, -(-own_rate // sample_rate) - samples)


def is_fault(offset: float, peak: float) -> bool:
    """Whether a constant offset is so large that it is a fault."""
    return offset != 0.0 and abs(offset) >= OFFSET_SHARE * peak


def _offset(
    again: Callable[[], Iterator[Float32[np.ndarray, " samples"]]], counts: NDArray[np.int64], peak: float
) -> float:
    """The offset that `remove_offset` finds, without holding the whole file in memory.

    Args:
        again: reads the file once more.
        counts: how often each upper half of a sample's `_keys` occurs in the file.
        peak: largest absolute value in the file.
    """
    samples = int(counts.sum())
    if samples < OFFSET_SAMPLES or peak == 0.0:
        return 0.0
    # The median is the mean of the two middle samples (the same one if the count is odd). Their upper halves give it to
    # within 1 %; the file is read again for the lower halves only if the offset may be a fault.
    ranks, total = np.array([(samples - 1) // 2, samples // 2]), np.cumsum(counts)
    upper = np.searchsorted(total, ranks, side="right")
    bounds = _from_keys(np.concatenate([upper * HALF, upper * HALF + HALF - 1]))
    if not is_fault(float(np.abs(bounds).max()), peak):
        return 0.0
    lower = {int(half): np.zeros(HALF, np.int64) for half in upper}
    for block in again():
        keys = _keys(block)
        for half, found in lower.items():
            found += np.bincount(keys[keys >> 16 == half] % HALF, minlength=HALF)
    middle = [
        half * HALF + np.searchsorted(np.cumsum(lower[half]), rank - (total[half] - counts[half]), side="right")
        for half, rank in zip(upper.tolist(), ranks.tolist(), strict=True)
    ]
    median = float(_from_keys(np.array(middle)).mean())
    return median if is_fault(median, peak) else 0.0


def _keys(waveform: Float32[np.ndarray, " samples"]) -> NDArray[np.uint32]:
    """Integers in the same order as the samples: their bits, inverted for negative samples."""
    bits = waveform.view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _from_keys(keys: NDArray[np.int64]) -> NDArray[np.float32]:
    keys = keys.astype(np.uint32)
    return np.where(keys >> 31, keys & np.uint32((1 << 31) - 1), ~keys).view(np.float32)


class Decoding:
    """The mono blocks of a file; iterate once.

    Attributes:
        sample_rate: sample rate of the file in Hz; known from the first block on, as are `channels` and `note`.
        channels: number of channels in the file.
        note: what is unusual about the file; "" if nothing is.
        samples: samples per channel; known at the end, as are `offset`, `peak` and `envelope`.
        offset: the constant offset that `remove_offset` finds.
        peak: largest absolute value of the mono mix without the offset.
        envelope: that value for every `SPAN` samples.

    Raises:
        AudioError: the file cannot be used; the message begins with the kind of fault and a colon.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.note = path, ""
        self.sample_rate = self.channels = self.samples = 0
        self.offset = self.peak = 0.0
        self.envelope = np.zeros(0, np.float32)

    def __iter__(self) -> Iterator[Float32[np.ndarray, " samples"]]:
        counts, bounds = np.zeros(HALF, np.int64), _Bounds()
        lowest = highest = np.zeros(0, np.float32)
        for block in self._channels():
            mono = block.mean(axis=1, dtype=np.float32)
            if not np.isfinite(mono).all():
                raise AudioError("not finite: holds NaN or infinite samples")
            self.samples += len(mono)
            counts += np.bincount(_keys(mono) >> 16, minlength=HALF)
            bounds.add(mono)
            low, high = block.min(axis=0), block.max(axis=0)
            if len(lowest) != len(low):
                # Sounds that are joined in one file may differ in their channels.
                lowest, highest = (
                    np.full_like(low, lowest.min(initial=np.inf)),
                    np.full_like(low, highest.max(initial=-np.inf)),
                )
            lowest, highest = np.minimum(lowest, low), np.maximum(highest, high)
            yield mono
        if self.samples == 0:
            raise AudioError("empty: no samples")
        bottoms, tops = np.array(bounds.low), np.array(bounds.high)
        stored = max(-float(bottoms.min()), float(tops.max()))
        self.offset = _offset(self._mono, counts, stored)
        self.envelope = np.maximum(tops - np.float32(self.offset), np.float32(self.offset) - bottoms)
        self.peak = float(self.envelope.max())
        _check_audible(self, float(tops.max()) - float(bottoms.min()), float((highest - lowest).max()), stored)

    def _mono(self) -> Iterator[Float32[np.ndarray, " samples"]]:
        """The blocks once more, from the beginning of the file."""
        for block in self._channels():
            yield block.mean(axis=1, dtype=np.float32)

    def _channels(self) -> Iterator[Float32[np.ndarray, "samples channels"]]:
        """Blocks with all channels of all sounds in the file."""
        path = self.path
        try:
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode):
                raise AudioError(f"no file: it is {_kind_of(mode)}")
            with path.open("rb") as file:
                layout = inspect(file, path.suffix[1:].lower())
                self.note = layout.note
                for part in layout.parts or (None,):
                    yield from self._part(file, part)
        except OSError as error:
            raise AudioError(unreadable(error)) from error

    def _part(self, file: BinaryIO, part: Part | None) -> Iterator[Float32[np.ndarray, "samples channels"]]:
        path, samples = self.path, 0
        try:
            with _opened(path, file, part) as stream:
                if not LOWEST_RATE <= stream.samplerate <= HIGHEST_RATE:
                    raise AudioError(
                        f"rate: its header says {stream.samplerate} Hz",
                        f"{LOWEST_RATE:,} to {HIGHEST_RATE:,} Hz",
                        "correct the header, or leave it out",
                    )
                if self.sample_rate not in (0, stream.samplerate):
                    raise AudioError(
                        f"joined: it holds sounds of {self.sample_rate} and of {stream.samplerate} Hz",
                        action="split it into one file for each sound",
                    )
                self.sample_rate, self.channels = stream.samplerate, max(self.channels, stream.channels)
                most = None if part is None else part.most
                for block in chain(_blocks(stream), _beyond(path, part, stream)):
                    inside = block if most is None else block[: most - samples]
                    samples += len(inside)
                    if len(inside):
                        yield inside
                declared, kind, subtype = stream.frames, stream.format, stream.subtype
        except (soundfile.SoundFileError, TypeError, ValueError) as error:
            raise AudioError(
                f"cannot be decoded: {error_text(error)}", action="convert it to WAV, or leave it out"
            ) from error
        # 2^63 - 1 means that the length is not known beforehand. The length in an MP3 is a guess.
        guessed = kind == "MP3" or subtype.startswith("MPEG") or most is not None
        if not guessed and samples < declared < 2**62:
            raise AudioError(f"cut short: header says {declared} samples, file holds {samples}")


class _Bounds:
    """Lowest and highest value of every `SPAN` samples of a waveform that arrives in pieces."""

    def __init__(self) -> None:
        self.low, self.high = array("f"), array("f")
        self.samples = 0

    def add(self, mono: Float32[np.ndarray, " samples"]) -> None:
        """Take the next piece, which is not empty."""
        begun = self.samples % SPAN
        edges = np.concatenate([[0], np.arange(SPAN - begun, len(mono), SPAN)])
        low, high = np.minimum.reduceat(mono, edges), np.maximum.reduceat(mono, edges)
        if begun:
            low[0], high[0] = min(low[0], self.low.pop()), max(high[0], self.high.pop())
        self.low.frombytes(low.tobytes())
        self.high.frombytes(high.tobytes())
        self.samples += len(mono)


def _check_audible(decoding: Decoding, mono: float, channel: float, stored: float) -> None:
    """Judge whether a file holds sound.

    Args:
        decoding: the file, with its peak.
        mono: distance from the lowest to the highest value of the mono mix.
        channel: the same of the channel where it is largest.
        stored: peak of the mono mix as stored.

    Raises:
        AudioError: there is no sound in it.
    """
    if channel == 0.0 and stored == 0.0:
        raise AudioError("silent: all samples are zero")
    if decoding.channels > 1 and mono < db_to_amplitude(CANCELLED_DB) * channel:
        raise AudioError("silent: its channels cancel each other out in the mono mix")
    # Two values in turn have their median at one of them, and their peak twice as far from it as from their middle.
    peak = min(decoding.peak, mono / 2) if decoding.samples >= OFFSET_SAMPLES else decoding.peak
    if peak >= SILENCE:
        return
    if stored >= SILENCE:
        raise AudioError(f"silent: it holds a constant offset of {stored:.3g} and no sound")
    raise AudioError(f"silent: its peak is {amplitude_to_db(max(peak, 1e-45)):.0f} dBFS")


def native(path: Path) -> str | bytes:
    """A path as soundfile takes it. On Unix it may have bytes that are not text; on Windows it must be text."""
    return os.fsencode(path) if os.name == "posix" else str(path)


def _kind_of(mode: int) -> str:
    """What a path leads to that is not a file."""
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((words for test, words in kinds if test(mode)), "a device")


def _opened(path: Path, file: BinaryIO, part: Part | None) -> Any:
    """The decoder of a file or of a part of it."""
    if part is not None:
        return soundfile.SoundFile(PartFile(file, part))
    return soundfile.SoundFile(native(path))


def _blocks(stream: Any, size: int = BLOCK) -> Iterator[Float32[np.ndarray, "samples channels"]]:
    """Blocks from the current position of an open SoundFile to its end."""
    # soundfile seeks after every read of a seekable file, which disturbs the MP3 decoder, and it cannot read a FLAC
    # file of unknown length.
    stream.seekable = lambda: False
    # Asked for more than there is, the FLAC decoder stumbles over a tag behind the sound, and loses the block.
    left = stream.frames if stream.format == "FLAC" else size
    while left and len(block := stream.read(min(size, left), dtype="float32", always_2d=True)):
        yield block
        if stream.format == "FLAC":
            left -= len(block)


def _beyond(path: Path, part: Part | None, stream: Any) -> Iterator[Float32[np.ndarray, "samples channels"]]:
    """Blocks of an MP3 beyond the length that libsndfile expects.

    Without a Xing header libsndfile computes the length from the bit rate of the first frame and stops there, even if a
    variable bit rate leaves more. From a pipe it reads to the end, because it expects no length. Reading only from a
    pipe is not an option: a last frame that is cut short would then fail the whole read.
    """
    if stream.format != "MP3" or os.name != "posix" or stream.tell() < stream.frames:
        return
    known = stream.frames
    reading, writing = os.pipe()
    feeder = threading.Thread(target=_feed, args=(path, part, writing), daemon=True)
    feeder.start()
    try:
        # Junk after the sound is an error here, although a player ignores it.
        with suppress(soundfile.SoundFileError), soundfile.SoundFile(reading, closefd=False) as whole:
            for block in _blocks(whole, 1152):
                if len(block) > known:
                    yield block[known:]
                known = max(0, known - len(block))
    finally:
        os.close(reading)
        feeder.join()


def _feed(path: Path, part: Part | None, writing: int) -> None:
    # The reader may stop early. A read error ends the sound here; it was reported by the first reading.
    with suppress(OSError), os.fdopen(writing, "wb") as pipe, path.open("rb") as file:
        shutil.copyfileobj(file if part is None else PartFile(file, part), pipe)


def unreadable(error: OSError) -> str:
    """The reason why a file cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return "missing: there is no such file"
    return f"cannot be read: {error.strerror or error}"


def error_text(error: Exception) -> str:
    """The message of a decoder's error, without its code."""
    words = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    words = " ".join(words.removeprefix("Error : ").split()).rstrip(".")
    # What libsndfile says where it finds nothing of a format, although the file is there.
    nothing = not words or words.startswith(("File does not exist", "Error opening"))
    return "nothing in it has a known format" if nothing else words
