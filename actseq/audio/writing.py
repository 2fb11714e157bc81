"""Write sound files, whole or not at all."""

import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from numpy.typing import NDArray

from actseq.audio.decoding import BLOCK, error_text
from actseq.audio.formats import ALIASES, extensions
from actseq.audio.headers import find_chunk
from actseq.errors import AudioError


def write(
    path: Path,
    waveform: Float[np.ndarray, " samples"] | Float[np.ndarray, "samples channels"],
    sample_rate: int,
    subtype: str = "PCM_16",
) -> float:
    """Write sound in the format of the path's ending, under a temporary name first; folders are made.

    Never clips: where a sample exceeds ±1 and `subtype` is no float, the whole is scaled down to a peak of 1. PCM_16 is
    stored as the nearest of 32768 steps a side, which is what decoders divide by, so that reading and writing again
    changes nothing; +1.0, for which there is no step, becomes 32767.

    Returns:
        The gain that was applied, 1.0 if none.

    Raises:
        AudioError: nothing to write, a sample that is not finite, an unknown format, or a disk that refuses.
    """
    path = Path(path)
    kind = _kind(path, subtype)
    wrong = int(np.size(waveform) - np.isfinite(waveform).sum())
    gain = _gain(path, waveform.size, wrong, float(np.abs(waveform).max(initial=0.0)), subtype)
    channels = 1 if waveform.ndim == 1 else waveform.shape[1]
    # libvorbis overflows its stack when a long sound comes in one piece.
    pieces = (waveform[start : start + BLOCK] for start in range(0, len(waveform), BLOCK))
    with _told(path):
        _store(path, pieces, gain, sample_rate, channels, kind, subtype)
    return gain


class Writer:
    """Writes mono sound that comes in pieces, to be used with `with`: the file is there when that ends without an error.

    It is the file that `write` makes of the whole. How far the whole has to be turned down is known at its end only: until
    then the pieces wait in an unnamed file of single floats beside the final one.

    Args:
        path: as for `write`.
        sample_rate: Hz.
        subtype: as for `write`.
        peak: that the sound is brought to, unless it is silent; None leaves its level, but for what would clip.
        through: what the whole is sent through on its way into the file, at the level that it would have there; for this
            it is held in memory.
        dry: where to write the whole as it is before that; None leaves it out.

    Attributes:
        gain: that was applied, once the file is there.
        through_gain: that was applied to what came out of `through`, so that it does not clip; 1.0 if none.
        samples: in the file, once it is there.

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
    ) -> None:
        self.path, self.sample_rate, self.subtype, self.wanted = Path(path), sample_rate, subtype, peak
        self.through, self.dry = through, dry
        self.kind = _kind(self.path, subtype)
        self.gain, self.through_gain, self.samples, self.wrong, self.peak = 1.0, 1.0, 0, 0, 0.0

    def __enter__(self) -> "Writer":
        with _told(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.waiting = tempfile.TemporaryFile(dir=self.path.parent)
        return self

    def write(self, waveform: Float32[np.ndarray, " samples"]) -> None:
        """Take the next piece."""
        self.samples += len(waveform)
        self.wrong += int(len(waveform) - np.isfinite(waveform).sum())
        self.peak = max(self.peak, float(np.abs(waveform).max(initial=0.0)))
        with _told(self.path):
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
        with _told(path):
            _store(path, self._pieces(), self.gain, self.sample_rate, 1, self.kind, self.subtype)

    def _pieces(self) -> Iterator[NDArray[np.float32]]:
        self.waiting.seek(0)
        for piece in iter(lambda: self.waiting.read(4 * BLOCK), b""):
            yield np.frombuffer(piece, np.float32)


def _kind(path: Path, subtype: str) -> str:
    """The format that a path's ending stands for, if it can hold the subtype."""
    import soundfile

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
    """What keeps a sound of this peak from clipping, if it can be written at all."""
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
) -> None:
    import soundfile

    with replacing(path) as partial:
        with soundfile.SoundFile(os.fsencode(partial), "w", sample_rate, channels, subtype, format=kind) as file:
            for piece in pieces:
                scaled = piece * gain
                if subtype == "PCM_16":
                    # libsndfile would scale by 32767 and lose a step each time.
                    scaled = np.clip(np.round(scaled * 32768.0), -32768, 32767).astype(np.int16)
                file.write(scaled)
        _clear_time(partial)


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
def _told(path: Path) -> Iterator[None]:
    """What a disk or an encoder refuses, as an AudioError."""
    import soundfile

    try:
        yield
    except (OSError, soundfile.SoundFileError, ValueError) as error:
        raise AudioError(f"{path}: cannot be written ({error_text(error)})") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden path beside `path`, renamed to it if all went well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
