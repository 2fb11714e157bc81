"""Find, decode, resample, write sound; what was skipped, and why.

libsndfile does not say when a file is cut short, so that is looked up here before decoding: WAV, AIFF, 8SVX, AU, CAF
and W64 by the size their header declares, Ogg by its last page; of FLAC the decoder tells. An MP3 is read as far as it
goes, as its header is no witness; so are the rarer old formats (MAT, VOC, PAF, IRCAM, NIST, …).
"""

import csv
import difflib
import hashlib
import os
import shutil
import struct
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Float32
from numpy.typing import NDArray

from actseq.errors import AudioError, ConfigError
from actseq.units import db_to_amplitude, samples_to_seconds

BLOCK = 1 << 16
HALF = 1 << 16
"""Values of one half of a sample's 32 bits."""
OFFSET_SAMPLES = 4096
OFFSET_SHARE = 0.3
# Usual endings beside the formats' own names; .raw is left out, as it says nothing about its rate.
ALIASES = {
    "aif": "AIFF", "aifc": "AIFF", "wave": "WAV", "bwf": "WAV", "bw64": "RF64", "oga": "OGG", "opus": "OGG",
    "mp2": "MP3", "snd": "AU", "sf": "IRCAM", "sph": "NIST", "8svx": "SVX", "16sv": "SVX",
}  # fmt: skip


@dataclass(frozen=True)
class ScanRow:
    """One file that was found.

    Args:
        path: relative to the scanned folder, with forward slashes.
        label: the given one, else the folder that holds the file, relative to the scanned one ("" at the top).
        sample_rate: Hz, as stored; 0 if skipped.
        channels: as stored; 0 if skipped.
        seconds: what was decoded, not what a header says; 0 if skipped.
        status: "usable" or "skipped".
        reason: why it was skipped; "" if usable.
        sha256: of the file's bytes; "" if they cannot be read.
    """

    path: str
    label: str
    sample_rate: int
    channels: int
    seconds: float
    status: str
    reason: str
    sha256: str


@dataclass(frozen=True)
class Scan:
    """What a folder holds, in order of path."""

    folder: Path
    rows: tuple[ScanRow, ...]

    @property
    def found(self) -> int:
        """Number of files found."""
        return len(self.rows)

    @property
    def usable(self) -> tuple[ScanRow, ...]:
        """Rows of the files that can be used."""
        return tuple(row for row in self.rows if row.status == "usable")

    @property
    def skipped(self) -> tuple[ScanRow, ...]:
        """Rows of the files that cannot, each with its reason."""
        return tuple(row for row in self.rows if row.status == "skipped")

    @property
    def seconds(self) -> float:
        """Duration of all usable files in seconds."""
        return sum(row.seconds for row in self.usable)

    def write_csv(self, path: Path) -> None:
        """Write all rows, one line each under a header line, replacing the file at once."""
        names = [field.name for field in fields(ScanRow)]
        # A name that is not UTF-8 on disk comes as surrogates, and goes back as the bytes it was.
        with (
            _replacing(path) as partial_path,
            partial_path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows([getattr(row, name) for name in names] for row in self.rows)


def extensions() -> frozenset[str]:
    """Endings, in lower case and without the dot, that are taken for sound."""
    import soundfile  # type: ignore[import-untyped, unused-ignore]

    return frozenset({name.lower() for name in soundfile.available_formats()} | set(ALIASES)) - {"raw"}


def find(folder: Path) -> list[Path]:
    """All files in `folder` and below it that look like sound, sorted by their relative path.

    What begins with a dot is left out. Linked folders are followed, each folder is entered once.

    Raises:
        AudioError: the folder does not exist, is a file, cannot be listed, or holds no such file.
    """
    folder = Path(folder)
    if folder.is_file():
        raise AudioError(f"{folder} is a file", "a folder of sounds", f"give the folder that holds it: {folder.parent}")
    if not folder.is_dir():
        raise AudioError(f"there is no folder {folder}", action=_similar(folder))
    wanted = extensions()
    found: list[Path] = []
    others: Counter[str] = Counter()
    entered: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            status = here.stat()
            entries = sorted(here.iterdir(), key=lambda entry: entry.name)
        except OSError as error:
            raise AudioError(
                f"{here} cannot be listed ({error.strerror})", action="allow reading it, or move it out"
            ) from error
        # The same folder again: a link upwards, or a second link to it.
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        folders: list[Path] = []
        links: list[Path] = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry)
            # A link to nowhere is listed, so that it is reported; pipes and devices would never end.
            elif entry.is_file() or (entry.is_symlink() and not entry.exists()):
                ending = entry.suffix[1:].lower()
                if ending in wanted:
                    found.append(entry)
                else:
                    others[f".{ending}" if ending else "without an ending"] += 1
        # Links come last: a folder gives its files their name before a link to it does.
        waiting = links[::-1] + waiting + folders[::-1]
    if not found:
        seen = ", ".join(f"{count} × {kind}" for kind, count in others.most_common(8)) or "no files at all"
        raise AudioError(
            f"no sound in {folder} and the folders below it: found {seen}",
            f"files ending in one of {', '.join(sorted(wanted))}",
            "give another folder, or convert the files to WAV or FLAC",
        )
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def load(path: str | Path, sample_rate: int | None = None) -> tuple[Float32[np.ndarray, " samples"], int]:
    """Decode a file to mono, the mean of its channels.

    Args:
        path: any format libsndfile reads.
        sample_rate: Hz to resample to (soxr, HQ); the file's own if None.

    Returns:
        The waveform as stored (a float file may exceed ±1), and its sample rate in Hz.

    Raises:
        AudioError: the file is missing, not to be decoded, cut short, empty, silent throughout, or not finite.
    """
    decoding = _Decoding(Path(path))
    with _named(path):
        waveform = np.concatenate(list(decoding))
    own_rate = decoding.sample_rate
    if sample_rate is None or sample_rate == own_rate:
        return waveform, own_rate
    return resample(waveform, own_rate, sample_rate), sample_rate


@dataclass(frozen=True)
class Recording:
    """A file that has been read from end to end, and can be read again in blocks.

    Args:
        path: any format libsndfile reads.
        sample_rate: Hz of the blocks.
        own_rate: Hz, as stored.
        own_samples: per channel, as stored.
        offset: constant offset as stored, of which the blocks are free; 0 where there is none to speak of.
        samples: in all blocks together.
        peak: the largest absolute value in them.
    """

    path: Path
    sample_rate: int
    own_rate: int
    own_samples: int
    offset: float
    samples: int
    peak: float

    def blocks(self) -> Iterator[Float32[np.ndarray, " samples"]]:
        """The waveform as `load`, `remove_offset` and `resample` give it, piece by piece.

        Raises:
            AudioError: as `load`; or the file has changed since.
        """
        decoding = _Decoding(self.path)
        with _named(self.path):
            yield from _changed(decoding, self.offset, self.sample_rate)
            if (decoding.sample_rate, decoding.samples) != (self.own_rate, self.own_samples):
                raise AudioError("changed while it was read", action="leave it as it is, and start again")


def blocks(path: Path) -> Iterator[Float32[np.ndarray, " samples"]]:
    """A mono file that `Writer` made, block by block."""
    import soundfile

    yield from soundfile.blocks(path, blocksize=BLOCK, dtype="float32")


def measure(path: str | Path, sample_rate: int) -> Recording:
    """Read a file block by block, so that even a long one needs little memory.

    Args:
        path: any format libsndfile reads.
        sample_rate: Hz that the blocks are to have.

    Raises:
        AudioError: as `load`.
    """
    path = Path(path)
    decoding = _Decoding(path)
    low, high, counts = 0.0, 0.0, np.zeros(HALF, np.int64)
    with _named(path):
        for block in decoding:
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            counts += np.bincount(_keys(block) >> 16, minlength=HALF)
        samples, peak = decoding.samples, max(-low, high)
        offset = _offset(path, counts, peak)
        if offset or decoding.sample_rate != sample_rate:
            samples, peak = 0, 0.0
            for block in _changed(_Decoding(path), offset, sample_rate):
                samples, peak = samples + len(block), max(peak, float(np.abs(block).max(initial=0.0)))
    return Recording(path, sample_rate, decoding.sample_rate, decoding.samples, offset, samples, peak)


def _changed(decoding: "_Decoding", offset: float, sample_rate: int) -> Iterator[Float32[np.ndarray, " samples"]]:
    """Blocks without an offset, resampled as `resample` does with the whole."""
    import soxr

    stream = None
    for block in decoding:
        shifted = block - np.float32(offset) if offset else block
        if decoding.sample_rate == sample_rate:
            yield shifted
            continue
        if stream is None:
            stream = soxr.ResampleStream(decoding.sample_rate, sample_rate, 1, dtype="float32", quality="HQ")
        yield stream.resample_chunk(shifted)
    if stream is not None:
        missing = _missing(decoding.samples, decoding.sample_rate, sample_rate)
        yield stream.resample_chunk(np.zeros(missing, np.float32), last=True)


def resample(
    waveform: Float32[np.ndarray, " samples"], own_rate: int, sample_rate: int
) -> Float32[np.ndarray, " resampled"]:
    """Band-limited change of sample rate (soxr, HQ), from and to Hz; at least one sample is left."""
    import soxr

    missing = _missing(len(waveform), own_rate, sample_rate)
    whole = np.pad(waveform, (0, missing)) if missing else waveform
    return np.asarray(soxr.resample(whole, own_rate, sample_rate, quality="HQ"), np.float32)


def _missing(samples: int, own_rate: int, sample_rate: int) -> int:
    """Samples of silence to follow so few that they would round to none."""
    return max(0, -(-own_rate // sample_rate) - samples)


def scan(
    folder: Path,
    *,
    on_file: Callable[[int, int], None] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Scan:
    """Decode every file of a folder once, and say which can be used. No waveform is kept.

    Args:
        folder: searched as by `find`.
        on_file: called after each file, in order, with how many are done and how many there are.
        labels: relative path → label, in place of the folder's name; not every file needs one.

    Raises:
        AudioError: as `find`; or no file at all can be used.
        ConfigError: `labels` names none of the files.
    """
    folder = Path(folder)
    paths = find(folder)
    labels = {} if labels is None else labels
    names = [path.relative_to(folder).as_posix() for path in paths]
    if labels and not any(name in labels for name in names):
        raise ConfigError(
            f"none of the {len(labels)} labelled files is in {folder} (the first is {next(iter(labels))!r})",
            f"paths relative to that folder, like {names[0]!r}",
            "correct the file column of the labels",
        )
    rows: list[ScanRow] = []
    # Decoding releases the interpreter's lock.
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        for row in pool.map(_scan_one, paths, names, (labels.get(name) for name in names)):
            rows.append(row)
            if on_file is not None:
                on_file(len(rows), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
    result = Scan(folder, tuple(rows))
    if not result.usable:
        [(kind, count)] = Counter(row.reason.split(":")[0] for row in rows).most_common(1)
        example = next(row for row in rows if row.reason.startswith(kind))
        endings = ", ".join(sorted({path.suffix.lower() for path in paths}))
        raise AudioError(
            f"none of the {len(rows)} sound files ({endings}) in {folder} can be used; "
            f"{count} × {kind}, such as {example.path} ({example.reason})",
            "at least one file that decodes and is not silent",
            "give another folder, or convert the files to WAV or FLAC",
        )
    return result


def read_labels(path: Path) -> dict[str, str]:
    """Relative path → label, from a CSV with the columns `file` and `label`.

    Raises:
        ConfigError: the table cannot be read, lacks a column or a label, or names a file twice.
    """
    labels: dict[str, str] = {}
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as table:
            reader = csv.DictReader(table)
            columns = reader.fieldnames or []
            if not {"file", "label"} <= set(columns):
                raise ConfigError(
                    f"{path} has the columns {', '.join(columns) or 'of an empty file'}",
                    "a first line with `file` and `label`, separated by commas",
                    "add it",
                )
            for row in reader:
                if not row["file"] or row["label"] is None:
                    raise ConfigError(f"{path}, line {reader.line_num}: no file or no label", action="add it")
                name = PurePosixPath(row["file"].replace("\\", "/")).as_posix()
                if name in labels:
                    raise ConfigError(f"{path}, line {reader.line_num}: {name} a second time", "each file once")
                labels[name] = row["label"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as a table of labels ({error})", "a CSV file in UTF-8") from error
    return labels


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

    with (
        _replacing(path) as partial_path,
        soundfile.SoundFile(os.fsencode(partial_path), "w", sample_rate, channels, subtype, format=kind) as file,
    ):
        for piece in pieces:
            scaled = piece * gain
            if subtype == "PCM_16":
                # libsndfile would scale by 32767 and lose a step each time.
                scaled = np.clip(np.round(scaled * 32768.0), -32768, 32767).astype(np.int16)
            file.write(scaled)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What a disk or an encoder refuses, as an AudioError."""
    import soundfile

    try:
        yield
    except (OSError, soundfile.SoundFileError, ValueError) as error:
        raise AudioError(f"{path}: cannot be written ({_words(error)})") from error


def remove_offset(waveform: Float32[np.ndarray, " samples"]) -> tuple[Float32[np.ndarray, " samples"], float]:
    """A recording without its constant offset, and that offset; 0 where there is none to speak of.

    The offset is the median, and taken for a fault of the recording from 30 % of the peak on (voices reach 17 %): it is
    not heard, but sets the level and comes back from a spectrogram as rumble. A click of under 4096 samples has none.
    """
    offset = float(np.median(waveform)) if waveform.size >= OFFSET_SAMPLES else 0.0
    if not _is_fault(offset, float(np.abs(waveform).max(initial=0.0))):
        return waveform, 0.0
    return waveform - np.float32(offset), offset


def _is_fault(offset: float, peak: float) -> bool:
    return offset != 0.0 and abs(offset) >= OFFSET_SHARE * peak


def _offset(path: Path, counts: NDArray[np.int64], peak: float) -> float:
    """The offset that `remove_offset` finds, of a file that is never held as a whole.

    Args:
        path: the file.
        counts: how often each upper half of `_keys` occurs in it.
        peak: of the file.
    """
    samples = int(counts.sum())
    if samples < OFFSET_SAMPLES:
        return 0.0
    # The two middle ones, which are one where the number is odd. Their upper halves tell them to within 1 %; only where
    # that may be a fault, the file is read again for the lower halves.
    ranks, total = np.array([(samples - 1) // 2, samples // 2]), np.cumsum(counts)
    upper = np.searchsorted(total, ranks, side="right")
    bounds = _from_keys(np.concatenate([upper * HALF, upper * HALF + HALF - 1]))
    if not _is_fault(float(np.abs(bounds).max()), peak):
        return 0.0
    lower = {int(half): np.zeros(HALF, np.int64) for half in upper}
    for block in _Decoding(path):
        keys = _keys(block)
        for half, found in lower.items():
            found += np.bincount(keys[keys >> 16 == half] % HALF, minlength=HALF)
    middle = [
        half * HALF + np.searchsorted(np.cumsum(lower[half]), rank - (total[half] - counts[half]), side="right")
        for half, rank in zip(upper.tolist(), ranks.tolist(), strict=True)
    ]
    median = float(_from_keys(np.array(middle)).mean())
    return median if _is_fault(median, peak) else 0.0


def _keys(waveform: Float32[np.ndarray, " samples"]) -> NDArray[np.uint32]:
    """Whole numbers in the order of the samples, one for each value: their bits, those of negative ones turned round."""
    bits = waveform.view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _from_keys(keys: NDArray[np.int64]) -> NDArray[np.float32]:
    keys = keys.astype(np.uint32)
    return np.where(keys >> 31, keys & np.uint32((1 << 31) - 1), ~keys).view(np.float32)


def trim_bounds(waveform: Float[np.ndarray, " samples"], threshold_db: float = -60.0) -> tuple[int, int]:
    """Where sound begins and ends.

    Args:
        waveform: one channel.
        threshold_db: dB relative to the peak; what is below does not count as sound.

    Returns:
        The first sample at or above the threshold and one past the last; (0, 0) for silence.
    """
    level = np.abs(waveform)
    peak = level.max(initial=0.0)
    if peak == 0.0:
        return 0, 0
    loud = np.flatnonzero(level >= peak * db_to_amplitude(threshold_db))
    return int(loud[0]), int(loud[-1]) + 1


def label_of(name: str) -> str:
    """The folder part of a relative path; empty for a file at the top."""
    parent = PurePosixPath(name).parent.as_posix()
    return "" if parent == "." else parent


def _scan_one(path: Path, name: str, label: str | None) -> ScanRow:
    label = label_of(name) if label is None else label
    digest = ""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        decoding = _Decoding(path)
        for _ in decoding:
            pass
    except (AudioError, OSError) as error:
        reason = error.found if isinstance(error, AudioError) else _unreadable(error)
        return ScanRow(name, label, 0, 0, 0.0, "skipped", reason, digest)
    seconds = samples_to_seconds(decoding.samples, decoding.sample_rate)
    return ScanRow(name, label, decoding.sample_rate, decoding.channels, seconds, "usable", "", digest)


class _Decoding:
    """The mono blocks of a file, to be iterated once. Its rate is known from the first block on, the rest at the end.

    Raises:
        AudioError: why it cannot be used, without its name; what stands before a colon is the kind of fault.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sample_rate = self.channels = self.samples = 0

    def __iter__(self) -> Iterator[Float32[np.ndarray, " samples"]]:
        import soundfile

        path = self.path
        try:
            with path.open("rb") as file:
                _check_whole(file)
        except OSError as error:
            raise AudioError(_unreadable(error)) from error
        mono_peak, channel_peak = 0.0, 0.0
        try:
            with soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else str(path)) as stream:
                self.sample_rate, self.channels = stream.samplerate, stream.channels
                for block in chain(_blocks(stream), _beyond(path, stream)):
                    mono = block.mean(axis=1, dtype=np.float32)
                    if not np.isfinite(mono).all():
                        raise AudioError("not finite: holds NaN or infinite samples")
                    self.samples += len(mono)
                    mono_peak = max(mono_peak, float(np.abs(mono).max()))
                    channel_peak = max(channel_peak, float(np.abs(block).max()))
                    yield mono
                declared, kind = stream.frames, stream.format
        except (soundfile.SoundFileError, TypeError, ValueError) as error:
            raise AudioError(
                f"cannot be decoded: {_words(error)}", action="convert it to WAV, or leave it out"
            ) from error
        # 2^63 - 1 stands for a length that is not known beforehand. What an MP3 says of its length is a guess.
        if kind != "MP3" and self.samples < declared < 2**62:
            raise AudioError(f"cut short: header says {declared} samples, file holds {self.samples}")
        if self.samples == 0:
            raise AudioError("empty: no samples")
        if channel_peak == 0.0:
            raise AudioError("silent: all samples are zero")
        if mono_peak == 0.0:
            raise AudioError("silent: its channels cancel each other out in the mono mix")


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """What is wrong with a file, with its name."""
    try:
        yield
    except AudioError as error:
        raise AudioError(f"{path}: {error.found}", action=error.action or "replace it, or leave it out") from error


def _blocks(stream: Any, size: int = BLOCK) -> Iterator[Float32[np.ndarray, "samples channels"]]:
    """What is left of an open SoundFile."""
    # soundfile seeks after every read of a seekable file, which disturbs the MP3 decoder, and reads no FLAC of unknown
    # length.
    stream.seekable = lambda: False
    while len(block := stream.read(size, dtype="float32", always_2d=True)):
        yield block


def _beyond(path: Path, stream: Any) -> Iterator[Float32[np.ndarray, "samples channels"]]:
    """What an MP3 holds beyond the length that libsndfile expects of it.

    Without a Xing header libsndfile takes that length from the bit rate of the first frame, and reads no further even
    where a variable rate leaves more. Of a pipe it expects no length, and reads to the end; a pipe alone will not do,
    as a last frame cut short then costs the whole read.
    """
    import soundfile

    if stream.format != "MP3" or os.name != "posix" or stream.tell() < stream.frames:
        return
    heard = stream.frames
    reading, writing = os.pipe()
    feeder = threading.Thread(target=_feed, args=(path, writing), daemon=True)
    feeder.start()
    try:
        # Junk after the sound is an error here, and none for a player.
        with suppress(soundfile.SoundFileError), soundfile.SoundFile(reading, closefd=False) as whole:
            for block in _blocks(whole, 1152):
                if len(block) > heard:
                    yield block[heard:]
                heard = max(0, heard - len(block))
    finally:
        os.close(reading)
        feeder.join()


def _feed(path: Path, writing: int) -> None:
    # The reader may stop early; what cannot be read ends the sound, and has been noticed before.
    with suppress(OSError), os.fdopen(writing, "wb") as pipe, path.open("rb") as file:
        shutil.copyfileobj(file, pipe)


def _check_whole(file: BinaryIO) -> None:
    """Raise AudioError if the header declares more bytes of sound than there are, or an Ogg stream has no end.

    Source: the descriptions of RIFF, RF64 (EBU Tech 3306), AIFF-C, AU, CAF and Wave64; RFC 3533, section 6 (Ogg pages).
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise AudioError("empty: no bytes")
    file.seek(0)
    head = file.read(40).ljust(40, b"\0")
    found = None
    extra = 0
    match head[:4]:
        case b"RIFF" | b"RF64" | b"BW64":
            found = _chunk(file, size, 12, "<4sI", (b"data",))
            if found and head[:4] != b"RIFF" and found[1] == 2**32 - 1 and head[12:16] == b"ds64":
                found = found[0], struct.unpack_from("<Q", head, 28)[0]
        case b"RIFX":
            found = _chunk(file, size, 12, ">4sI", (b"data",))
        case b"FORM":
            found = _chunk(file, size, 12, ">4sI", (b"SSND", b"BODY"))
            # An SSND chunk begins with 8 bytes about its own layout.
            extra = 8 if head[8:12] in (b"AIFF", b"AIFC") else 0
        case b".snd":
            found = struct.unpack_from(">2I", head, 4)
        case b"riff":
            found = _chunk(file, size, 40, "<16sQ", (b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a",))
        case b"caff":
            # The chunk begins with 4 bytes of edit count.
            found, extra = _chunk(file, size, 8, ">4sq", (b"data",)), 4
        case b"OggS":
            _check_ogg(file, size)
    if found is None:
        return
    start, declared = found
    # What recorders and encoders write when they cannot come back to the header: nothing, or as much as fits.
    placeholder = declared == 0 or 0x7FFFF000 <= declared <= 0x80000000 or 0xFFFFF000 <= declared <= 0xFFFFFFFF
    # Some count the byte that pads to an even length and leave it out.
    if declared - (size - start) > 1 and not placeholder:
        raise AudioError(
            f"cut short: header says {declared - extra} bytes of sound, file holds {max(0, size - start - extra)}"
        )


def _chunk(file: BinaryIO, size: int, start: int, layout: str, names: tuple[bytes, ...]) -> tuple[int, int] | None:
    """Where the first chunk of one of these names has its content, and how many bytes it declares."""
    step = struct.calcsize(layout)
    while start + step <= size:
        file.seek(start)
        name, length = struct.unpack(layout, file.read(step))
        padded = length + length % 2
        if step == 12:
            # Core Audio pads nothing, and -1 stands for the rest of the file.
            padded = length = max(0, length)
        elif step == 24:
            # Wave64 counts the chunk's header too, and pads to 8 bytes.
            length = max(0, length - step)
            padded = -(-length // 8) * 8
        if name in names:
            return start + step, length
        start += step + padded
    return None


def _check_ogg(file: BinaryIO, size: int) -> None:
    # No page is longer than 65,307 bytes; a tag may follow the last one.
    file.seek(max(0, size - 2 * 65307))
    tail = file.read()
    start = tail.rfind(b"OggS\0")
    whole = False
    if 0 <= start <= len(tail) - 27:
        lengths = tail[start + 27 : start + 27 + tail[start + 26]]
        whole = len(lengths) == tail[start + 26] and start + 27 + len(lengths) + sum(lengths) <= len(tail)
    if not whole or not tail[start + 5] & 4:
        raise AudioError("cut short: the Ogg stream has no last page")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A hidden path beside `path`, renamed to it if all went well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _similar(folder: Path) -> str:
    """What to do about a folder that does not exist, by what its nearest existing parent holds."""
    missing = folder.absolute()
    while not missing.parent.is_dir():
        missing = missing.parent
    try:
        names = sorted(entry.name for entry in missing.parent.iterdir() if not entry.name.startswith("."))
    except OSError:
        names = []
    folded = {name.casefold(): name for name in reversed(names)}
    close = [folded[name] for name in difflib.get_close_matches(missing.name.casefold(), folded, n=3)]
    if close:
        return f"did you mean {' or '.join(str(missing.parent / name) for name in close)}?"
    return f"{missing.parent} exists, but has no {missing.name}"


def _unreadable(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "missing: there is no such file"
    return f"cannot be read: {error.strerror or error}"


def _words(error: Exception) -> str:
    import soundfile

    words = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return " ".join(words.removeprefix("Error : ").split()).rstrip(".")
