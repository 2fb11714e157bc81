"""Shards of a store: files in the format of safetensors that are written piece by piece and read in parts.

A shard is not mapped into memory: the pages of a map that have been read count as memory of the process, up to the size
of the store.

Source: the format of safetensors: the length of the header in 8 bytes, the header in JSON, the values in order of name.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actseq.storage.files import regular

Array = NDArray[Any]
DTYPES = {"int16": "I16", "float16": "F16", "float32": "F32", "float64": "F64", "int32": "I32", "int64": "I64"}
"""Types of sequences, and their names in a shard."""
_NAMES = {name: dtype for dtype, name in DTYPES.items()}
_LARGEST_HEADER = 16 * 2**20
"""Largest header in bytes."""
_BLOCK = 4 * 2**20
"""Bytes that are hashed at a time."""


@dataclass(frozen=True)
class Pieces:
    """A sequence that is stored piece by piece, so that it need not fit into memory.

    Attributes:
        shape: shape of the whole.
        dtype: type of its values.
        read: gives the pieces, which follow each other along the first axis.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], Iterable[Array]]

    @property
    def nbytes(self) -> int:
        """Size of the whole in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def shard_bytes(tensors: Mapping[str, Array | Pieces], digests: dict[str, str]) -> Iterator[bytes]:
    """The file that safetensors makes of sequences of one type, piece by piece; their hashes are added to `digests`."""
    header, at = {}, 0
    for name in sorted(tensors):
        size = tensors[name].nbytes
        header[name] = {
            "dtype": DTYPES[str(tensors[name].dtype)],
            "shape": list(tensors[name].shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in header:
        given, found, size = tensors[name], hashlib.sha256(), 0
        for piece in given.read() if isinstance(given, Pieces) else [given]:
            content = np.ascontiguousarray(piece).tobytes()
            found.update(content)
            size += len(content)
            yield content
        if size != given.nbytes:
            raise ValueError(f"{name} has {size} bytes, expected {given.nbytes}")
        digests[name] = found.hexdigest()


@dataclass(frozen=True)
class _Place:
    """Where a sequence is in a shard.

    Attributes:
        dtype: type of its values; "" if it is not one of a store.
        shape: shape of the array.
        begin: its first byte in the file.
        row_bytes: bytes of an item along the first axis.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    row_bytes: int


class Shard:
    """A shard that is read in parts.

    Args:
        path: the file. It is opened again where it was closed meanwhile.

    Raises:
        ArtifactError: it is not a regular file, or lies outside its run.
        ValueError: the header is damaged.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = regular(path)
        self._descriptor, self._close = self._opened()
        self.identity = _identity(self._descriptor)
        self._places = _read_header(self._read_bytes, os.fstat(self._descriptor).st_size)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a sequence.

        Raises:
            ValueError: it is not in the shard.
        """
        return self._place(name).shape

    def dtype(self, name: str) -> str:
        """Type of a sequence's values; "" if it is not one of a store.

        Raises:
            ValueError: it is not in the shard.
        """
        return self._place(name).dtype

    def read(self, name: str, start: int, stop: int) -> Array:
        """Items `start` to `stop` of a sequence.

        Raises:
            ValueError: it is not in the shard, or the file was cut short or replaced meanwhile.
            OSError: the file cannot be read.
        """
        place = self._place(name)
        found = np.empty((stop - start, *place.shape[1:]), place.dtype)
        self._read_into(found.reshape(-1).view(np.uint8).data, place.begin + start * place.row_bytes)
        return found

    def sha256(self, name: str) -> str:
        """Hash of a sequence's bytes.

        Raises:
            ValueError, OSError: as `read`.
        """
        place, found = self._place(name), hashlib.sha256()
        end = place.begin + (place.shape[0] * place.row_bytes if place.shape else place.row_bytes)
        for at in range(place.begin, end, _BLOCK):
            found.update(self._read_bytes(at, min(_BLOCK, end - at)))
        return found.hexdigest()

    def close(self) -> None:
        """Close the file until it is read again."""
        self._close()

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise ValueError(f"it is not in {self.path.name}")
        return self._places[name]

    def _opened(self) -> tuple[int, weakref.finalize[Any, Shard]]:
        descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        return descriptor, weakref.finalize(self, os.close, descriptor)

    def _read_bytes(self, at: int, size: int) -> bytearray:
        found = bytearray(size)
        self._read_into(memoryview(found), at)
        return found

    def _read_into(self, view: memoryview, at: int) -> None:
        """Fill a view of bytes with what is in the file from byte `at` on."""
        if not self._close.alive:
            self._descriptor, self._close = self._opened()
            if _identity(self._descriptor) != self.identity:
                raise ValueError("the file was replaced")
        while view:
            if hasattr(os, "preadv"):
                n = os.preadv(self._descriptor, [view], at)
            else:
                os.lseek(self._descriptor, at, os.SEEK_SET)
                part = os.read(self._descriptor, len(view))
                n, view[: len(part)] = len(part), part
            if not n:
                raise ValueError("the file is cut short")
            view, at = view[n:], at + n


def _identity(descriptor: int) -> tuple[int, int, int, int]:
    """What identifies a file and its content."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _read_header(read: Callable[[int, int], bytearray], size: int) -> dict[str, _Place]:
    """The places of all sequences in a file of some size.

    Raises:
        ValueError: the header is damaged, or names bytes that the file does not have.
    """
    if size < 8:
        raise ValueError("the file is cut short")
    (length,) = struct.unpack("<Q", read(0, 8))
    if length > min(_LARGEST_HEADER, size - 8):
        raise ValueError("its header does not fit into the file")
    try:
        header, places = json.loads(read(8, length)), {}
        for name, one in header.items():
            if name == "__metadata__":
                continue
            (begin, end), shape = one["data_offsets"], tuple(one["shape"])
            if any(type(n) is not int or n < 0 for n in (begin, end, *shape)) or not begin <= end <= size - 8 - length:
                raise ValueError(f"{name} is outside the file")
            dtype = _NAMES.get(one["dtype"], "")
            row_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize if dtype else 0
            if dtype and (not shape or shape[0] * row_bytes != end - begin):
                raise ValueError(f"the size of {name} does not fit its shape")
            places[name] = _Place(dtype, shape, 8 + length + begin, row_bytes)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its header is damaged ({error})") from None
    return places
