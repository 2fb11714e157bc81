"""SequenceStore: variable-length sequences of one dtype with one record each, read in parts.

On disk: `shard-00000.safetensors …` and `manifest.jsonl` with one line per sequence. A shard is written under a
temporary name, synced and renamed; then its lines are appended in one write under a lock. A sequence without a line
does not exist. The number of a shard determines its content, so a writer that resumes repeats whole shards, and several
processes may write different shards of one store. Shards may lie behind a URL; see `actseq.storage.remote`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actseq.errors import ArtifactError, named_after
from actseq.storage import hashes
from actseq.storage.files import locked, read_whole, write_whole
from actseq.storage.processes import Processes
from actseq.storage.remote import LOCATION, Remote, remote_of
from actseq.storage.shards import DTYPES, Array, Pieces, Shard, shard_bytes

MANIFEST = "manifest.jsonl"


def _most_open() -> int:
    """A quarter of the files that this process may have open; opening takes about as long as reading a window."""
    try:
        import resource
    except ImportError:  # Windows, where a process may have 512
        return 64
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1024 if allowed == resource.RLIM_INFINITY else max(1, min(1024, allowed // 4))


MOST_OPEN = _most_open()
"""Shards of a store that are open at a time."""


@dataclass(frozen=True)
class Record:
    """The line of one sequence in the manifest.

    Attributes:
        key: unique name of the sequence.
        shard: number of its shard.
        position: its place in the shard.
        of: number of sequences in the shard.
        shape: shape of the array; time is the first axis.
        dtype: type of the array.
        sha256: hash of the array's bytes.
        extra: keys that the store itself does not use.
    """

    key: str
    shard: int
    position: int
    of: int
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    extra: Mapping[str, Any]

    @property
    def length(self) -> int:
        """Items along the first axis."""
        return self.shape[0]


def write_file(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file whole or not at all; a list of hashes that names it forgets it first."""
    hashes.forget(path)
    write_whole(path, content)


def write_table(path: Path, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> None:
    """Write columns of equal length as a CSV, whole or not at all; floats have six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])
    write_file(path, text.getvalue().encode())


def shard_path(folder: Path, shard: int) -> Path:
    """Path of a shard."""
    return folder / f"shard-{shard:05d}.safetensors"


def tensor_name(key: str) -> str:
    """Name of a sequence in its shard: its key, with bytes that are not UTF-8 escaped."""
    return key.encode("utf-8", "backslashreplace").decode()


def group_shards(sizes: Sequence[int], *, max_bytes: int = 64 * 2**20, max_items: int = 512) -> list[range]:
    """Group sequences into shards by their sizes in bytes; the same sizes always give the same shards."""
    shards, start, total = [], 0, 0
    for i, size in enumerate(sizes):
        if i > start and (total + size > max_bytes or i - start >= max_items):
            shards.append(range(start, i))
            start, total = i, 0
        total += size
    if start < len(sizes):
        shards.append(range(start, len(sizes)))
    return shards


class StoreWriter:
    """Writes the shards of a store; resumes an unfinished store. Its shards lie where `place` has decided."""

    def __init__(self, folder: Path, *, tidy: bool = True) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if tidy:
            self._tidy()

    def _tidy(self) -> None:
        """Drop an incomplete last line, and the lines of shards that lack some of theirs."""
        path = self.folder / MANIFEST
        if path.is_file():
            with locked(path):
                records = _read_manifest(path)
                whole = _whole_shards(records)
                kept = [line for line, record in zip(_lines(path), records, strict=False) if record.shard in whole]
                content = b"".join(line + b"\n" for line in kept)
                if content != path.read_bytes():
                    write_file(path, content)

    def committed(self) -> set[int]:
        """Numbers of the shards that are complete."""
        path = self.folder / MANIFEST
        return _whole_shards(_read_manifest(path)) if path.is_file() else set()

    @cached_property
    def _remote(self) -> Remote | None:
        return remote_of(self.folder)

    def write_shard(self, shard: int, items: Sequence[tuple[str, Array | Pieces, Mapping[str, Any]]]) -> None:
        """Write one shard of (key, sequence, extra keys of the record), then its lines of the manifest."""
        tensors = {tensor_name(key): array for key, array, _ in items}
        if len(tensors) != len(items):
            raise ArtifactError(f"shard {shard} was given two sequences of the same key", "unique keys")
        digests: dict[str, str] = {}
        write_file(shard_path(self.folder, shard), shard_bytes(tensors, digests))
        if self._remote is not None:
            self._remote.upload(shard_path(self.folder, shard))
        lines = []
        for position, (key, array, extra) in enumerate(items):
            line = {
                "key": key,
                "shard": shard,
                "position": position,
                "of": len(items),
                "shape": list(array.shape),
                "dtype": str(array.dtype),
                "sha256": digests[tensor_name(key)],
                **extra,
            }
            lines.append(json.dumps(line))
        path = self.folder / MANIFEST
        path.touch()
        with locked(path), named_after(path), path.open("ab") as file:
            file.write("".join(line + "\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
        if self._remote is not None:
            with locked(self.folder / LOCATION):
                for spare in self._remote.spare(_oldest_first(self.folder, self.committed())):
                    spare.unlink()


def unfinished(folder: Path, n_shards: int, processes: Processes) -> tuple[StoreWriter, list[int]]:
    """A writer for a store of some shards, and the numbers of the shards that are to be written yet.

    The first of several processes tidies the store and looks, before the others open it.
    """
    writer = StoreWriter(folder, tidy=processes.first)
    return writer, processes.share(sorted(set(range(n_shards)) - writer.committed()))


class SequenceStore:
    """Reads a store. The sequences are in order of (shard, position).

    Raises:
        ArtifactError: there is no manifest, one of its lines is damaged, a shard is missing, or the server of a shard
            cannot be reached.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._remote = folder, remote_of(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise ArtifactError(f"no {MANIFEST} in {folder}", action="run the stage that makes it again")
        records = _read_manifest(path)
        whole = _whole_shards(records)
        self.records = sorted((r for r in records if r.shard in whole), key=lambda r: (r.shard, r.position))
        missing = [path for path in (shard_path(folder, shard) for shard in sorted(whole)) if not path.is_file()]
        there = self._remote.sizes() if self._remote is not None and missing else {}
        for path in missing:
            if path.name not in there:
                where = path if self._remote is None else f"{self._remote.url}/{path.name}"
                raise ArtifactError(
                    f"{where} is missing though the manifest names it",
                    action=f"delete {folder} and run the stage again",
                )
        self._shards: dict[int, Shard] = {}
        # The shards that are open, the one that was read last at the end.
        self._open: dict[int, Shard] = {}
        self._reading = threading.Lock()
        self._in_shard: dict[int, list[Record]] = {}
        for record in self.records:
            self._in_shard.setdefault(record.shard, []).append(record)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[tuple[Record, Array]]:
        for i, record in enumerate(self.records):
            yield record, self.read(i)

    def read(self, index: int, start: int = 0, stop: int | None = None) -> Array:
        """Items `start` to `stop` of one sequence.

        Raises:
            ArtifactError: the shard is damaged, or not the one that the manifest describes.
        """
        record = self.records[index]
        stop = record.length if stop is None else min(stop, record.length)
        if start >= stop:
            return np.empty((0, *record.shape[1:]), record.dtype)
        with self._reading:
            shard = self._shard(record.shard)
            try:
                return shard.read(tensor_name(record.key), start, stop)
            except (OSError, ValueError) as error:
                raise self._unreadable(shard.path, error) from None

    def _shard(self, number: int) -> Shard:
        """A shard that has been compared with the manifest, and is now the one that was read last."""
        shard = self._open.pop(number, None)
        if shard is None:
            if len(self._open) >= MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            if self._remote is not None:
                shard = self._brought(number, self._remote)
            else:
                if number not in self._shards:
                    self._shards[number] = self._compared(number, shard_path(self.folder, number))
                shard = self._shards[number]
        self._open[number] = shard
        return shard

    def _brought(self, number: int, remote: Remote) -> Shard:
        """A shard of which there is a whole copy in the folder now."""
        path = shard_path(self.folder, number)
        with locked(self.folder / LOCATION):
            if path.is_file():
                try:
                    return self._compared(number, path)
                except ArtifactError:
                    path.unlink()
            self._make_room(remote, path)
            remote.download(path)
            try:
                return self._compared(number, f"{remote.url}/{path.name}")
            except ArtifactError:
                path.unlink(missing_ok=True)
                raise

    def _make_room(self, remote: Remote, path: Path) -> None:
        """Delete copies, those that are open last, so that another can come."""
        opened = {shard_path(self.folder, one): one for one in self._open}
        closed = [one for one in _oldest_first(self.folder, self._in_shard) if one not in opened]
        for spare in remote.spare([*closed, *opened], remote.size(path.name)):
            if spare in opened:
                self._open.pop(opened[spare]).close()
            spare.unlink()

    def _compared(self, number: int, where: object) -> Shard:
        """A shard in the folder, compared with the manifest; `where` names it in errors."""
        shard = self._read(shard_path(self.folder, number), where)
        identity = (*shard.identity, self._contents(number))
        if identity not in _CHECKED:
            for record in self._in_shard[number]:
                if difference := _difference(shard, record):
                    raise ArtifactError(
                        f"{where} cannot be used: {record.key} {difference}",
                        action=f"copy the run again, or delete {self.folder} and run its stage again",
                    )
            _CHECKED.add(identity)
        return shard

    def _read(self, path: Path, where: object) -> Shard:
        """The shard in a file; `where` names it in errors."""
        try:
            return Shard(path)
        except (OSError, ValueError) as error:
            raise self._unreadable(where, error) from None

    def _unreadable(self, where: object, error: Exception) -> ArtifactError:
        again = f"delete {self.folder} and run the stage again"
        return ArtifactError(f"{where} cannot be read ({error})", action=again)

    def _contents(self, shard: int) -> str:
        """Hash of what the manifest says about a shard."""
        said = [[one.key, one.sha256, one.shape, one.dtype] for one in self._in_shard[shard]]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def fingerprint(self) -> str:
        """Hash of the keys, contents and records of all sequences."""
        lines = [[r.key, r.sha256, r.shape, r.dtype, dict(r.extra)] for r in self.records]
        return hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()

    def verify(self) -> list[str]:
        """Read everything again; a line for each shard that cannot be read and each sequence that has changed."""
        problems = []
        for number in self._in_shard:
            path = shard_path(self.folder, number)
            try:
                if self._remote is None or path.is_file():
                    problems += self._differences(number, self._read(path, path), f"{self.folder.name}/{path.name}")
                if self._remote is not None:
                    with self._remote.copy(path.name) as copy:
                        where = f"{self._remote.url}/{path.name}"
                        problems += self._differences(number, self._read(copy, where), where)
            except ArtifactError as error:
                problems.append(str(error))
        return problems

    def _differences(self, number: int, shard: Shard, where: str) -> list[str]:
        found = ((record.key, _difference(shard, record)) for record in self._in_shard[number])
        return [f"{where}: {key} {difference}" for key, difference in found if difference]

    def unused(self) -> list[Path]:
        """Shards in the folder that the manifest does not name."""
        return sorted(set(self.folder.glob("shard-*")) - {shard_path(self.folder, shard) for shard in self._in_shard})

    def unused_behind_url(self) -> list[str]:
        """Files where the shards lie that the manifest does not name; empty if that is the folder."""
        named = {shard_path(self.folder, shard).name for shard in self._in_shard}
        return [] if self._remote is None else sorted(set(self._remote.sizes()) - named)


def _oldest_first(folder: Path, shards: Iterable[int]) -> list[Path]:
    """Those of some shards that are in the folder."""
    found = [path for path in (shard_path(folder, shard) for shard in shards) if path.is_file()]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


_CHECKED: set[tuple[object, ...]] = set()
"""Shards that this process has compared with their manifest, by what identifies a file."""


def _difference(shard: Shard, record: Record) -> str:
    """How a sequence in a shard differs from its record; empty if it does not."""
    name = tensor_name(record.key)
    try:
        if shard.shape(name) != record.shape:
            return "has another shape"
        if shard.dtype(name) != record.dtype:
            return "has values of another type"
        found = shard.sha256(name)
    except (OSError, ValueError) as error:
        return f"cannot be read ({error})"
    return "" if found == record.sha256 else "is not what was written: its content has changed"


def _lines(path: Path) -> list[bytes]:
    """The complete lines; a last line without a line end is dropped."""
    content = read_whole(path)
    hashes.check(path, content)
    return content[: content.rfind(b"\n") + 1].splitlines()


def _read_manifest(path: Path) -> list[Record]:
    records = []
    names = [field.name for field in fields(Record) if field.name != "extra"]
    for number, line in enumerate(_lines(path), 1):
        try:
            entry = json.loads(line)
            known = {name: entry.pop(name) for name in names}
            record = Record(**known | {"shape": tuple(known["shape"]), "extra": entry})
            _check_record(record)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise ArtifactError(
                f"line {number} of {path} is damaged", action=f"delete {path.parent} and run the stage again"
            ) from None
        records.append(record)
    return records


def _check_record(record: Record) -> None:
    """Check the types of what a line of a manifest says.

    Raises:
        ValueError: one of them is wrong.
    """
    numbers = (record.shard, record.position, record.of, *record.shape)
    right = (
        all(type(number) is int and 0 <= number < 2**48 for number in numbers)
        and record.position < record.of
        and len(record.shape) >= 1
        and record.dtype in DTYPES
        and all(isinstance(text, str) for text in (record.key, record.sha256))
    )
    if not right:
        raise ValueError("a record of another form")


def _whole_shards(records: Sequence[Record]) -> set[int]:
    seen: dict[int, set[int]] = {}
    size: dict[int, int] = {}
    for record in records:
        seen.setdefault(record.shard, set()).add(record.position)
        size[record.shard] = record.of
    return {shard for shard, positions in seen.items() if len(positions) == size[shard]}
