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
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Float32

from actseq.errors import AudioError, ConfigError
from actseq.units import db_to_amplitude, samples_to_seconds

BLOCK = 1 << 16
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
    blocks: list[Float32[np.ndarray, " samples"]] = []
    try:
        own_rate, _, _ = _decode(Path(path), blocks.append)
    except AudioError as error:
        raise AudioError(f"{path}: {error.found}", action=error.action or "replace it, or leave it out") from error
    waveform = np.concatenate(blocks)
    if sample_rate is None or sample_rate == own_rate:
        return waveform, own_rate
    return resample(waveform, own_rate, sample_rate), sample_rate


def resample(
    waveform: Float32[np.ndarray, " samples"], own_rate: int, sample_rate: int
) -> Float32[np.ndarray, " resampled"]:
    """Band-limited change of sample rate (soxr, HQ), from and to Hz; at least one sample is left."""
    import soxr

    # So few samples that they round to none are followed by silence.
    missing = -(-own_rate // sample_rate) - len(waveform)
    whole = np.pad(waveform, (0, missing)) if missing > 0 else waveform
    return np.asarray(soxr.resample(whole, own_rate, sample_rate, quality="HQ"), np.float32)


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
    import soundfile

    path = Path(path)
    ending = path.suffix[1:].lower()
    kind = ALIASES.get(ending, ending.upper())
    if ending not in extensions() or not soundfile.check_format(kind, subtype):
        known = ", ".join(soundfile.available_subtypes(kind)) if ending in extensions() else ""
        raise AudioError(
            f"{path}: cannot be written as {subtype}",
            f"for .{ending} one of {known}" if known else "a path ending in .wav, .flac, .aiff or .ogg",
        )
    if not waveform.size:
        raise AudioError(f"{path}: there are no samples to write")
    if not np.isfinite(waveform).all():
        wrong = int(np.size(waveform) - np.isfinite(waveform).sum())
        raise AudioError(f"{path}: {wrong} of {waveform.size} samples to write are NaN or infinite", "finite samples")
    peak = float(np.abs(waveform).max())
    gain = 1.0 / peak if peak > 1.0 and subtype not in ("FLOAT", "DOUBLE") else 1.0
    # libvorbis overflows its stack when a long sound comes in one piece.
    pieces = (waveform[start : start + BLOCK] for start in range(0, len(waveform), BLOCK))
    channels = 1 if waveform.ndim == 1 else waveform.shape[1]
    try:
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
    except (OSError, soundfile.SoundFileError, ValueError) as error:
        raise AudioError(f"{path}: cannot be written ({_words(error)})") from error
    return gain


def remove_offset(waveform: Float32[np.ndarray, " samples"]) -> tuple[Float32[np.ndarray, " samples"], float]:
    """A recording without its constant offset, and that offset; 0 where there is none to speak of.

    The offset is the median, and taken for a fault of the recording from 30 % of the peak on (voices reach 17 %): it is
    not heard, but sets the level and comes back from a spectrogram as rumble. A click of under 4096 samples has none.
    """
    offset = float(np.median(waveform)) if waveform.size >= 4096 else 0.0
    if offset == 0.0 or abs(offset) < 0.3 * float(np.abs(waveform).max()):
        return waveform, 0.0
    return waveform - np.float32(offset), offset


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


def _scan_one(path: Path, name: str, label: str | None) -> ScanRow:
    if label is None:
        parent = PurePosixPath(name).parent.as_posix()
        label = "" if parent == "." else parent
    digest = ""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        sample_rate, channels, samples = _decode(path, lambda block: None)
    except (AudioError, OSError) as error:
        reason = error.found if isinstance(error, AudioError) else _unreadable(error)
        return ScanRow(name, label, 0, 0, 0.0, "skipped", reason, digest)
    seconds = samples_to_seconds(samples, sample_rate)
    return ScanRow(name, label, sample_rate, channels, seconds, "usable", "", digest)


def _decode(path: Path, take: Callable[[Float32[np.ndarray, " samples"]], None]) -> tuple[int, int, int]:
    """Hand all mono blocks of a file to `take`; its sample rate in Hz, channels and samples.

    Raises:
        AudioError: why it cannot be used, without its name; what stands before a colon is the kind of fault.
    """
    import soundfile

    try:
        with path.open("rb") as file:
            _check_whole(file)
    except OSError as error:
        raise AudioError(_unreadable(error)) from error
    samples, mono_peak, channel_peak = 0, 0.0, 0.0
    try:
        with soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else str(path)) as stream:
            for block in chain(_blocks(stream), _beyond(path, stream)):
                mono = block.mean(axis=1, dtype=np.float32)
                if not np.isfinite(mono).all():
                    raise AudioError("not finite: holds NaN or infinite samples")
                samples += len(mono)
                mono_peak = max(mono_peak, float(np.abs(mono).max()))
                channel_peak = max(channel_peak, float(np.abs(block).max()))
                take(mono)
            sample_rate, channels, declared, kind = stream.samplerate, stream.channels, stream.frames, stream.format
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise AudioError(f"cannot be decoded: {_words(error)}", action="convert it to WAV, or leave it out") from error
    # 2^63 - 1 stands for a length that is not known beforehand. What an MP3 says of its length is a guess.
    if kind != "MP3" and samples < declared < 2**62:
        raise AudioError(f"cut short: header says {declared} samples, file holds {samples}")
    if samples == 0:
        raise AudioError("empty: no samples")
    if channel_peak == 0.0:
        raise AudioError("silent: all samples are zero")
    if mono_peak == 0.0:
        raise AudioError("silent: its channels cancel each other out in the mono mix")
    return sample_rate, channels, samples


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
