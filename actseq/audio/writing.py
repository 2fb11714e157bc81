"""Write sound files, whole or not at all."""

import os
import struct
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float, Float32
from numpy.typing import NDArray

from actseq.audio.decoding import BLOCK, error_text, native
from actseq.audio.formats import ALIASES, extensions
from actseq.audio.headers import find_chunk
from actseq.errors import AudioError, ConfigError, named_after

SUBTYPES = {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}
"""What a number of bits for each sample means: integers, or at 32 bits floating point."""
_INTEGER_BITS = {"PCM_16": 16, "PCM_24": 24}


def subtype(ending: str, bits: int) -> str:
    """The subtype of a format with a number of bits for each sample.

    Args:
        ending: ending of the file's name, without the dot.
        bits: 16, 24 or 32.

    Raises:
        ConfigError: the format does not have samples of this size.
    """
    legal = [size for size, name in SUBTYPES.items() if soundfile.check_format(ALIASES.get(ending, ending), name)]
    if bits not in legal:
        raise ConfigError(f"--format {ending} with --bits {bits}", f"--bits {' or '.join(map(str, legal))}")
    return SUBTYPES[bits]


def write(
    path: Path,
    waveform: Float[np.ndarray, " samples"] | Float[np.ndarray, "samples channels"],
    sample_rate: int,
    subtype: str = "PCM_16",
) -> float:
    """Write sound in the format of the path's ending, under a temporary name first; missing folders are made.

    The sound is never clipped: if a sample exceeds ±1 and `subtype` is not a float format, the whole is scaled to a
    peak of 1. PCM_16 values are multiples of 1/32768, the step by which decoders divide, so that reading and writing a
    file again changes nothing; +1.0 is one step too high and becomes 32767. PCM_24 is the same in steps of 2⁻²³.

    Returns:
        The gain that was applied, 1.0 if none.

    Raises:
        AudioError: there is nothing to write, a sample is not finite, the format is unknown, or writing fails.
    """
    path = Path(path)
    kind = _kind(path, subtype)
    wrong = int(np.size(waveform) - np.isfinite(waveform).sum())
    gain = _gain(path, waveform.size, wrong, float(np.abs(waveform).max(initial=0.0)), subtype)
    channels = 1 if waveform.ndim == 1 else waveform.shape[1]
    # libvorbis overflows its stack when a long sound comes in one piece.
    pieces = (waveform[start : start + BLOCK] for start in range(0, len(waveform), BLOCK))
    with _as_audio_error(path):
        _store(path, pieces, gain, sample_rate, channels, kind, subtype)
    return gain


def as_flac(waveform: Float[np.ndarray, " samples"], sample_rate: int) -> bytes:
    """The bytes of a FLAC file of 16 bits; as with `write`, a sound that exceeds ±1 is turned down to a peak of 1.

    Raises:
        AudioError: there are no samples, or a sample is not finite.
    """
    name = Path("sound.flac")
    wrong = int(np.size(waveform) - np.isfinite(waveform).sum())
    gain = _gain(name, waveform.size, wrong, float(np.abs(waveform).max(initial=0.0)), "PCM_16")
    content = BytesIO()
    with _as_audio_error(name):
        soundfile.write(content, _as_integers(waveform * gain, "PCM_16"), sample_rate, "PCM_16", format="FLAC")
    return content.getvalue()


class Writer:
    """Writes mono sound that arrives in pieces. Use it in a `with` block, at whose end the file appears.

    The file is the one that `write` makes of the whole. The gain that keeps it from clipping is known only at the end;
    until then the pieces wait as 32-bit floats in an unnamed file in the same folder.

    Args:
        path: as for `write`.
        sample_rate: sample rate in Hz.
        subtype: as for `write`.
        peak: peak that the sound is scaled to unless it is silent; None keeps its level unless it would clip.
        through: a function applied to the whole sound, at its final level, before it is stored; the sound is then held
            in memory.
        dry: file for the sound as it is before `through`; None leaves it out.
        loop: mark the whole of a WAV as a loop that is played forwards, for samplers.

    Attributes:
        gain: the gain that was applied; set when the file is complete.
        through_gain: the gain that kept the output of `through` from clipping; 1.0 if none.
        samples: samples in the file; set when it is complete.

    Raises:
        AudioError: as `write`.
    """

    def __init__(
        self,
        path: Path,
        sample_rate: int,
        subtype: str = "PCM_16",
        *,
        peak: float | None = None,
        through: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
        dry: Path | None = None,
        loop: bool = False,
    ) -> None:
        self.path, self.sample_rate, self.subtype, self.wanted = Path(path), sample_rate, subtype, peak
        self.through, self.dry, self.loop = through, dry, loop
        self.kind = _kind(self.path, subtype)
        self.gain, self.through_gain, self.samples, self.wrong, self.peak = 1.0, 1.0, 0, 0, 0.0

    def __enter__(self) -> "Writer":
        with _as_audio_error(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.waiting = tempfile.TemporaryFile(dir=self.path.parent)
        return self

    def write(self, waveform: Float32[np.ndarray, " samples"]) -> None:
        """Take the next piece."""
        self.samples += len(waveform)
        self.wrong += int(len(waveform) - np.isfinite(waveform).sum())
        self.peak = max(self.peak, float(np.abs(waveform).max(initial=0.0)))
        with _as_audio_error(self.path):
            self.waiting.write(waveform.tobytes())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self.waiting:
            if kind is not None:
                return
            self.gain = _gain(self.path, self.samples, self.wrong, self.peak, self.subtype)
            if self.wanted is not None and self.peak > 0:
                self.gain = self.wanted / self.peak
            if self.through is None:
                self._store_waiting(self.path)
                return
            if self.dry is not None:
                self._store_waiting(self.dry)
            whole = np.concatenate(list(self._pieces())) * np.float32(self.gain)
            changed = self.through(whole)
            self.through_gain = write(self.path, changed, self.sample_rate, self.subtype)
            self.samples = len(changed)

    def _store_waiting(self, path: Path) -> None:
        with _as_audio_error(path):
            _store(path, self._pieces(), self.gain, self.sample_rate, 1, self.kind, self.subtype, self.loop)

    def _pieces(self) -> Iterator[NDArray[np.float32]]:
        self.waiting.seek(0)
        for piece in iter(lambda: self.waiting.read(4 * BLOCK), b""):
            yield np.frombuffer(piece, np.float32)


def check_writable(path: Path, subtype: str = "PCM_16") -> None:
    """Check the ending of a path before anything is made for it.

    Raises:
        AudioError: the ending is unknown, or its format does not have the subtype.
    """
    _kind(path, subtype)


def _kind(path: Path, subtype: str) -> str:
    """The format of a path's ending.

    Raises:
        AudioError: the ending is unknown, or its format does not have the subtype.
    """
    ending = path.suffix[1:].lower()
    kind = ALIASES.get(ending, ending.upper())
    if ending not in extensions() or not soundfile.check_format(kind, subtype):
        known = ", ".join(soundfile.available_subtypes(kind)) if ending in extensions() else ""
        raise AudioError(
            f"{path}: cannot be written as {subtype}",
            f"for .{ending} one of {known}" if known else "a path ending in .wav, .flac, .aiff or .ogg",
        )
    return kind


def _gain(path: Path, samples: int, wrong: int, peak: float, subtype: str) -> float:
    """The gain that keeps a sound with this peak from clipping.

    Raises:
        AudioError: there are no samples, or some are not finite.
    """
    if not samples:
        raise AudioError(f"{path}: there are no samples to write")
    if wrong:
        raise AudioError(f"{path}: {wrong} of {samples} samples to write are NaN or infinite", "finite samples")
    return 1.0 / peak if peak > 1.0 and subtype not in ("FLOAT", "DOUBLE") else 1.0


def _store(
    path: Path,
    pieces: Iterable[NDArray[np.floating[Any]]],
    gain: float,
    sample_rate: int,
    channels: int,
    kind: str,
    subtype: str,
    loop: bool = False,
) -> None:
    with replacing(path) as partial:
        with soundfile.SoundFile(native(partial), "w", sample_rate, channels, subtype, format=kind) as file:
            for piece in pieces:
                scaled = piece * gain
                file.write(_as_integers(scaled, subtype) if subtype in _INTEGER_BITS else scaled)
        _clear_time(partial)
        if loop:
            _mark_loop(partial, sample_rate)


def _mark_loop(path: Path, sample_rate: int) -> None:
    """Append a chunk `smpl` to a WAV file: one loop, forwards and without end, from its first sample to its last.

    Source: Multimedia Programming Interface and Data Specifications 1.0 (IBM, Microsoft 1991) and its "New Multimedia
    Data Types and Data Techniques" (1994), chunk `smpl`.
    """
    last = soundfile.info(path).frames - 1
    # Manufacturer, product, nanoseconds of a sample, middle C, no fraction, no time code, one loop, no further data;
    # then the loop: number, forwards, first and last sample, no fraction, without end.
    values = (0, 0, round(1e9 / sample_rate), 60, 0, 0, 0, 1, 0, 0, 0, 0, last, 0, 0)
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(struct.pack("<4sI15I", b"smpl", 4 * len(values), *values))
        size = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<I", size))


def _as_integers(samples: NDArray[np.floating[Any]], subtype: str) -> NDArray[np.int32]:
    """Samples as integers in the highest bits, where libsndfile takes them.

    Its own scale is one step smaller, so that each reading and writing would change the values.
    """
    full = 2.0 ** (_INTEGER_BITS[subtype] - 1)
    steps = np.clip(np.round(samples * full), -full, full - 1).astype(np.int32)
    return steps << (32 - _INTEGER_BITS[subtype])


def _clear_time(path: Path) -> None:
    """Set the time in the PEAK chunk of a float WAV or AIFF file to 0, so that the same sound makes the same bytes.

    The chunk holds a version, the time in seconds, and value and position of each channel's peak, 4 bytes each.
    Source: `wavlike_write_peak_chunk` of libsndfile.
    """
    with path.open("r+b") as file:
        layout = {b"RIFF": "<4sI", b"FORM": ">4sI"}.get(file.read(4))
        found = find_chunk(file, path.stat().st_size, 12, layout, (b"PEAK",)) if layout else None
        if found is not None:
            file.seek(found[0] + 4)
            file.write(bytes(4))


@contextmanager
def _as_audio_error(path: Path) -> Iterator[None]:
    """Turn an error of the disk or the encoder into an AudioError."""
    try:
        yield
    except (OSError, soundfile.SoundFileError, ValueError) as error:
        raise AudioError(f"{path}: cannot be written ({error_text(error)})") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a hidden path in the same folder, which is renamed to `path` unless an error occurs."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}{path.suffix}")
    try:
        with named_after(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
