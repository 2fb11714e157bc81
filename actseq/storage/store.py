"""SequenceStore: variable-length sequences of one dtype with one record each, memory-mapped.

On disk: `shard-00000.safetensors …` and `manifest.jsonl` with one line per sequence. A shard is written under a
temporary name, synced and renamed; then its lines are appended in one write under a lock. A sequence without a line
does not exist. The number of a shard determines its content, so a writer that resumes repeats whole shards, and several
processes may write different shards of one store.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from actseq.errors import ArtifactError

MANIFEST = "manifest.jsonl"
Array = NDArray[Any]


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


def write_file(path: Path, content: bytes) -> None:
    """Write under a temporary name, sync and rename: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


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


def digest(array: Array) -> str:
    """Content hash of an array."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


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
    """Writes the shards of a store; resumes an unfinished store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._tidy()

    def _tidy(self) -> None:
        """Drop an incomplete last line, and the lines of shards that lack some of theirs."""
        path = self.folder / MANIFEST
        if path.is_file():
            with _locked(path):
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

    def write_shard(self, shard: int, items: Sequence[tuple[str, Array, Mapping[str, Any]]]) -> None:
        """Write one shard of (key, array, extra keys of the record), then its lines of the manifest."""
        tensors = {tensor_name(key): np.ascontiguousarray(array) for key, array, _ in items}
        if len(tensors) != len(items):
            raise ArtifactError(f"shard {shard} was given two sequences of the same key", "unique keys")
        write_file(shard_path(self.folder, shard), save(tensors))
        lines = []
        for position, (key, array, extra) in enumerate(items):
            line = {
                "key": key,
                "shard": shard,
                "position": position,
                "of": len(items),
                "shape": list(array.shape),
                "dtype": str(array.dtype),
                "sha256": digest(array),
                **extra,
            }
            lines.append(json.dumps(line))
        path = self.folder / MANIFEST
        path.touch()
        with _locked(path), path.open("ab") as file:
            file.write("".join(line + "\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())


class SequenceStore:
    """Reads a store. The sequences are in order of (shard, position).

    Raises:
        ArtifactError: there is no manifest, one of its lines is damaged, or a shard is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / MANIFEST
        if not path.is_file():
            raise ArtifactError(f"no {MANIFEST} in {folder}", action="run the stage that makes it again")
        records = _read_manifest(path)
        whole = _whole_shards(records)
        self.records = sorted((r for r in records if r.shard in whole), key=lambda r: (r.shard, r.position))
        for shard in sorted(whole):
            if not shard_path(folder, shard).is_file():
                raise ArtifactError(
                    f"{shard_path(folder, shard)} is missing though the manifest names it",
                    action=f"delete {folder} and run the stage again",
                )
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[tuple[Record, Array]]:
        for i, record in enumerate(self.records):
            yield record, self.read(i)

    def read(self, index: int, start: int = 0, stop: int | None = None) -> Array:
        """Items `start` to `stop` of one sequence, copied from the memory map."""
        record = self.records[index]
        stop = record.length if stop is None else min(stop, record.length)
        if start >= stop:
            return np.empty((0, *record.shape[1:]), record.dtype)
        part = self._shard(record.shard).get_slice(tensor_name(record.key))[start:stop]
        return np.asarray(part)

    def _shard(self, shard: int) -> Any:
        if shard not in self._open:
            path = shard_path(self.folder, shard)
            try:
                self._open[shard] = safe_open(path, framework="numpy")
            except (SafetensorError, OSError) as error:
                raise ArtifactError(
                    f"{path} cannot be read ({error})", action=f"delete {self.folder} and run the stage again"
                ) from None
        return self._open[shard]

    def fingerprint(self) -> str:
        """Hash of the keys, contents and records of all sequences."""
        lines = [[r.key, r.sha256, r.shape, r.dtype, dict(r.extra)] for r in self.records]
        return hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()

    def verify(self) -> list[str]:
        """Read everything again; return a line for each sequence that differs from its record."""
        problems = []
        for i, record in enumerate(self.records):
            try:
                array = self.read(i)
            except Exception as error:
                problems.append(f"{shard_path(self.folder, record.shard).name}: {record.key}: {error}")
                continue
            if digest(array) != record.sha256:
                problems.append(f"{shard_path(self.folder, record.shard).name}: {record.key}: content has changed")
        return problems


class _locked:
    """Holds an advisory lock, so that several processes can append to the manifest at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f".{path.name}.lock")

    def __enter__(self) -> None:
        self.file = self.path.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _lines(path: Path) -> list[bytes]:
    """The complete lines; a last line without a line end is dropped."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1].splitlines()


def _read_manifest(path: Path) -> list[Record]:
    records = []
    names = [field.name for field in fields(Record) if field.name != "extra"]
    for number, line in enumerate(_lines(path), 1):
        try:
            entry = json.loads(line)
            known = {name: entry.pop(name) for name in names}
            records.append(Record(**known | {"shape": tuple(known["shape"]), "extra": entry}))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ArtifactError(
                f"line {number} of {path} is damaged", action=f"delete {path.parent} and run the stage again"
            ) from None
    return records


def _whole_shards(records: Sequence[Record]) -> set[int]:
    seen: dict[int, set[int]] = {}
    size: dict[int, int] = {}
    for record in records:
        seen.setdefault(record.shard, set()).add(record.position)
        size[record.shard] = record.of
    return {shard for shard, positions in seen.items() if len(positions) == size[shard]}
