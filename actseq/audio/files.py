"""Find the sound files of a folder, read their labels, and say why a file cannot be used."""

import csv
import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

from actseq.audio.decoding import Decoding, unreadable
from actseq.audio.formats import extensions
from actseq.audio.writing import replacing
from actseq.errors import AudioError, ConfigError
from actseq.units import samples_to_seconds


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
            replacing(path) as partial_path,
            partial_path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows([getattr(row, name) for name in names] for row in self.rows)


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
        decoding = Decoding(path)
        for _ in decoding:
            pass
    except (AudioError, OSError) as error:
        reason = error.found if isinstance(error, AudioError) else unreadable(error)
        return ScanRow(name, label, 0, 0, 0.0, "skipped", reason, digest)
    seconds = samples_to_seconds(decoding.samples, decoding.sample_rate)
    return ScanRow(name, label, decoding.sample_rate, decoding.channels, seconds, "usable", "", digest)


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
