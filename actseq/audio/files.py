"""The sound files of a folder: find them, read their labels, and find out why a file cannot be used."""

import csv
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actseq.audio.formats import extensions, known_extensions
from actseq.audio.labels import NO_TABLE, LabelTable, Span, plain_name, read_labels, spans_text
from actseq.audio.origin import is_made, is_run
from actseq.audio.similar import similar
from actseq.audio.worker import Reading, in_workers, n_workers
from actseq.audio.writing import replacing
from actseq.errors import AudioError, ConfigError
from actseq.units import samples_to_seconds

LATE_SECONDS = 0.1
"""A label may end this long after the end of its file, by rounding for example; what lies after the end is cut."""


@dataclass(frozen=True)
class ScanRow:
    """One file that was found.

    Args:
        path: relative to the scanned folder, with forward slashes.
        label: from the table of labels, or the folder of the file relative to the scanned folder; "" at the top, and
            for a file with several labels.
        sample_rate: sample rate of the file in Hz; 0 if skipped.
        channels: number of channels in the file; 0 if skipped.
        seconds: length of the decoded sound, whatever the header says; 0 if skipped.
        status: "usable" or "skipped".
        reason: why the file was skipped and what to do; of a usable file what is unusual about it, or "".
        sha256: hash of the file's bytes; "" if they cannot be read.
        offset: constant offset in the file; not in the table.
        envelope: largest absolute value of the mono mix, without its offset, in every `SPAN` samples of the file; not
            in the table.
        spans: labels in time, from a table of labels with times; None where there is no such table.
    """

    path: str
    label: str
    sample_rate: int
    channels: int
    seconds: float
    status: str
    reason: str
    sha256: str
    offset: float = field(default=0.0, repr=False, compare=False)
    envelope: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    spans: tuple[Span, ...] | None = None


@dataclass(frozen=True)
class Scan:
    """The files of a folder, in order of path."""

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
        """Rows of the files that cannot be used, each with its reason."""
        return tuple(row for row in self.rows if row.status == "skipped")

    @property
    def seconds(self) -> float:
        """Duration of all usable files in seconds."""
        return sum(row.seconds for row in self.usable)

    def write_csv(self, path: Path) -> None:
        """Write all rows as a table with a header line; the file appears whole or not at all."""
        names = [column.name for column in fields(ScanRow) if column.name not in ("offset", "envelope", "spans")]
        timed = any(row.spans is not None for row in self.rows)
        # A file name that is not UTF-8 is held as surrogates; they are written as the original bytes.
        with (
            replacing(path) as partial_path,
            partial_path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow([*names, *(["spans"] if timed else [])])
            for row in self.rows:
                own = [spans_text(row.spans or ())] if timed else []
                writer.writerow([*(getattr(row, name) for name in names), *own])


@dataclass(frozen=True)
class Found:
    """The sound files in a folder and below it.

    Attributes:
        files: sorted by relative path.
        n_made: number of sounds that actseq made and that are left out.
        n_runs: number of folders that hold a run and are left out.
    """

    files: list[Path]
    n_made: int
    n_runs: int


def find(folder: Path) -> list[Path]:
    """All sound files in `folder` and below it, as `search` finds them, those that actseq made included."""
    return search(folder, include_generated=True).files


def search(folder: Path, *, include_generated: bool) -> Found:
    """All sound files in `folder` and below it, by their endings.

    Names that begin with a dot are left out. Links to folders are followed; each folder is entered once.

    Args:
        folder: where to look.
        include_generated: also look into folders that hold a run, and take sounds that have a JSON of actseq beside
            them.

    Raises:
        AudioError: the folder does not exist, is a file, cannot be listed, or holds no sound file.
    """
    folder = Path(folder)
    if folder.is_file():
        raise AudioError(f"{folder} is a file", "a folder of sounds", f"give the folder that holds it: {folder.parent}")
    if not folder.is_dir():
        raise AudioError(f"there is no folder {folder}", action=similar(folder))
    wanted = known_extensions()
    found: list[Path] = []
    n_made = n_runs = 0
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
        # A link upwards, or a second link, leads to a folder that was entered before.
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        if not include_generated and is_run(here):
            n_runs += 1
            continue
        folders: list[Path] = []
        links: list[Path] = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry)
            # Broken links, pipes and devices are listed too, so that the scan names them.
            else:
                ending = entry.suffix[1:].lower()
                if ending in wanted and not include_generated and is_made(entry):
                    n_made += 1
                elif ending in wanted:
                    found.append(entry)
                else:
                    others[f".{ending}" if ending else "without an ending"] += 1
        # Links come last, so that files get their names from their real folder.
        waiting = links[::-1] + waiting + folders[::-1]
    if not found:
        seen = ", ".join(f"{count} × {kind}" for kind, count in others.most_common(8)) or "no files at all"
        if n_made or n_runs:
            raise AudioError(
                f"no sound in {folder} and the folders below it but what actseq made ({left_out(n_made, n_runs)})",
                action="give another folder, or take its sounds with --include-generated",
            )
        raise AudioError(
            f"no sound in {folder} and the folders below it: found {seen}",
            f"files ending in one of {', '.join(sorted(wanted))}",
            "give another folder, or convert the files to WAV or FLAC",
        )
    return Found(sorted(found, key=lambda path: path.relative_to(folder).as_posix()), n_made, n_runs)


def left_out(n_made: int, n_runs: int) -> str:
    """What is left out because actseq made it, in words."""
    parts = ((n_made, "sounds that actseq made"), (n_runs, "folders that hold a run"))
    return "left out " + " and ".join(f"{n} {what}" for n, what in parts if n)


class SoundFolder:
    """A folder of sounds, listed once, with its labels.

    Args:
        path: searched as by `search`.
        labels_csv: table of labels as for `read_labels`, in place of folder names; not every file needs one.
        include_generated: as for `search`.
    """

    def __init__(self, path: Path, labels_csv: Path | None = None, *, include_generated: bool = False) -> None:
        self.path, self.labels_csv, self.include_generated = Path(path), labels_csv, include_generated

    @cached_property
    def found(self) -> Found:
        """The files, and how many were left out.

        Raises:
            AudioError: as `search`.
        """
        return search(self.path, include_generated=self.include_generated)

    @cached_property
    def files(self) -> dict[str, Path]:
        """Relative path with forward slashes → path, sorted.

        Raises:
            AudioError: as `search`.
        """
        return {path.relative_to(self.path).as_posix(): path for path in self.found.files}

    @cached_property
    def labels(self) -> dict[str, str]:
        """Relative path → label of every file, whether or not it can be decoded.

        Raises:
            AudioError: as `search`.
            ConfigError: as `read_labels`.
        """
        return {name: self._label(name) for name in self.files}

    def _label(self, name: str) -> str:
        plain = plain_name(name)
        return self._table.label(plain) if plain in self._table.spans else _folder_of(name)

    def spans(self, name: str) -> tuple[Span, ...] | None:
        """Labels of a file in time; None where the table has no times. A file without a row has its folder's label."""
        if not self._table.timed:
            return None
        label = _folder_of(name)
        return self._table.spans.get(plain_name(name), (Span(0.0, None, label),) if label else ())

    @cached_property
    def unmatched(self) -> tuple[list[str], list[str]]:
        """Rows of the table of labels that name no file, and files that have no row there."""
        if self.labels_csv is None:
            return [], []
        names = {plain_name(name): name for name in self.files}
        rows = [name for name in self._table.spans if name not in names]
        return rows, [name for plain, name in names.items() if plain not in self._table.spans]

    @cached_property
    def listing(self) -> list[Any]:
        """A hash of the table of labels, then name, size and time of each file. It is equal if nothing has changed."""
        rows: list[Any] = [file_digest(self.labels_csv) if self.labels_csv else None]
        for name, path in self.files.items():
            # A broken link is found too; the scan reports it.
            status = path.stat() if path.exists() else path.lstat()
            rows.append([name, status.st_size, status.st_mtime_ns])
        return rows

    def same_as(self, scan_csv: Path) -> bool:
        """Whether names, contents and labels of the files are those of an earlier scan; their dates may differ.

        Files that no version of actseq can decode, by their endings, may have come since: earlier versions did not list
        them.
        """
        with scan_csv.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            seen = {row["path"]: row for row in csv.DictReader(file)}
        new = self.files.keys() - seen.keys()
        if not seen.keys() <= self.files.keys() or any(_ending(name) in extensions() for name in new):
            return False
        return all(
            self.labels[name] == row["label"]
            and spans_text(self.spans(name) or ()) == (row.get("spans") or "")
            and file_digest(self.files[name]) == row["sha256"]
            for name, row in seen.items()
        )

    def scan(self, on_file: Callable[[int, int], None] | None = None) -> Scan:
        """Decode every file once, to find out which can be used. No waveform is kept.

        Args:
            on_file: called after each file, in order, with the number of files done and the number of all files.

        Raises:
            AudioError: as `search`; or none of the files can be used.
            ConfigError: as `read_labels`; or the table names none of the files, or has a time that is too
                late for its file.
        """
        names = list(self.files)
        table = self._table.spans
        if table and not any(plain_name(name) in table for name in names):
            raise ConfigError(
                f"none of the {len(table)} labelled files is in {self.path} (the first is {next(iter(table))!r})",
                f"paths relative to that folder, like {names[0]!r}",
                "correct the file column of the labels",
            )
        rows: list[ScanRow] = []
        for row in in_workers(lambda name: self._scan_one(name), names, n_workers(len(names), self.n_bytes)):
            self._check_spans(row)
            rows.append(row)
            if on_file is not None:
                on_file(len(rows), len(names))
        result = Scan(self.path, tuple(rows))
        if not result.usable:
            [(kind, count)] = Counter(row.reason.split(":")[0] for row in rows).most_common(1)
            example = next(row for row in rows if row.reason.startswith(kind))
            endings = ", ".join(sorted({path.suffix.lower() for path in self.files.values()}))
            raise AudioError(
                f"none of the {len(rows)} sound files ({endings}) in {self.path} can be used; "
                f"{count} × {kind}, such as {example.path} ({example.reason})",
                "at least one file that decodes and is not silent",
                "give another folder, or convert the files to WAV or FLAC",
            )
        return result

    @property
    def n_bytes(self) -> int:
        """Size of all files together."""
        return sum(size for _, size, _ in self.listing[1:])

    def _check_spans(self, row: ScanRow) -> None:
        """Refuse a label that begins after the end of its file, or ends more than `LATE_SECONDS` after it.

        Raises:
            ConfigError: there is one.
        """
        if row.status != "usable":
            return
        for span in row.spans or ():
            if span.begin >= row.seconds:
                late = f"begins at {span.begin:g} s"
            elif span.end is not None and span.end > row.seconds + LATE_SECONDS:
                late = f"ends at {span.end:g} s"
            else:
                continue
            raise ConfigError(
                f"{self.labels_csv}: in {row.path}, '{span.label}' {late}, and the file ends at {row.seconds:g} s",
                "times inside the file, in seconds",
                "correct the times; an empty end is that of the file",
            )

    def _scan_one(self, name: str) -> ScanRow:
        path, label, spans = self.files[name], self.labels[name], self.spans(name)
        digest = file_digest(path)
        try:
            found = Reading(path, blocks=False).finish()
        except AudioError as error:
            reason = "; ".join(
                filter(None, (error.found, error.expected and f"expected {error.expected}", error.action))
            )
            return ScanRow(name, label, 0, 0, 0.0, "skipped", reason, digest, spans=spans)
        seconds = samples_to_seconds(found.own_samples, found.own_rate)
        return ScanRow(
            name,
            label,
            found.own_rate,
            found.channels,
            seconds,
            "usable",
            found.note,
            digest,
            found.offset,
            found.envelope,
            spans,
        )

    @cached_property
    def _table(self) -> LabelTable:
        return read_labels(self.labels_csv) if self.labels_csv else NO_TABLE


def _ending(name: str) -> str:
    """The ending of a file name, in lower case and without the dot."""
    return PurePosixPath(name).suffix[1:].lower()


def _folder_of(name: str) -> str:
    """The folder part of a relative path; empty for a file at the top."""
    parent = PurePosixPath(name).parent.as_posix()
    return "" if parent == "." else parent


def file_digest(path: Path) -> str:
    """Hash of a file's bytes; empty where it cannot be read."""
    try:
        # Reading a pipe or a device may never end.
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
