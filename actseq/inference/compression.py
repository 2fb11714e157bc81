"""`.acts` files: the means of encoder activations, quantised and coded in few bytes.

Each dimension has one step, 3.1 times the deviation of its posterior in the training clips: with √12 = 3.46 times,
rounding would add as much variance as a draw from the posterior. The rounded numbers are coded by a range coder under
tables of integer frequencies, which are kept in the run: for each dimension, ten of them. Which one is used depends on
the rounded number of the frame before, or on there being none. So coding needs no network, and no arithmetic that
another machine may round otherwise. Numbers that no training clip has follow an escape symbol in full.

A file begins with 32 bytes: `ACTS`, format (1 byte), the first 8 bytes of the autoencoder's fingerprint, the first 4 of
that of the tables, number of samples and of latent frames (4 each), gain (32-bit float), and the last 3 bytes of the
CRC-32 of all other bytes; all little-endian.

Source: Bamler, Understanding Entropy Coding With Asymmetric Numeral Systems (2022), the library `constriction`.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from safetensors.numpy import load, save

from actseq.arrays import LatentArray
from actseq.data.latents import LatentSequences
from actseq.errors import ArtifactError, ConfigError
from actseq.inference.codec import Codec
from actseq.inference.loading import load_latents
from actseq.storage.activations import Activations
from actseq.storage.run_folder import RunFolder
from actseq.storage.store import write_file

ENDING = ".acts"
HEADER = struct.Struct("<4sB8s4sIIf3s")
MAGIC, FORMAT = b"ACTS", 1
TOTAL_BITS = 16
"""The frequencies of a table add up to 2 to this power."""
SPLITS = np.array([-1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75])
"""Where one table ends and the next begins, in deviations of the number of the frame before."""
STEP_DEVIATIONS = 3.1
PRIOR_COUNT = 8.0
"""Each table has this many counts of the whole corpus besides its own."""
ESCAPED = 1 << 15
"""An escaped number is coded in 16 bits."""


@dataclass(frozen=True)
class Tables:
    """What coding needs to know of a corpus.

    Attributes:
        step: quantisation step of each dimension.
        low: least number that has a symbol, of each dimension.
        size: number of symbols of each dimension, without the escape symbol.
        bounds: (dimensions, 8), the splits between tables as numbers.
        frequency: the tables, one after another: for each dimension nine and the one for the first frame, each with
            `size` + 1 frequencies, the last that of the escape symbol.
    """

    step: Float32[np.ndarray, " dims"]
    low: Int64[np.ndarray, " dims"]
    size: Int64[np.ndarray, " dims"]
    bounds: Int64[np.ndarray, "dims 8"]
    frequency: Int64[np.ndarray, " numbers"]

    @property
    def content(self) -> bytes:
        """As safetensors."""
        return bytes(save({name: np.ascontiguousarray(array) for name, array in vars(self).items() if name in _ARRAYS}))

    @cached_property
    def fingerprint(self) -> bytes:
        """Hash of the content."""
        return hashlib.sha256(self.content).digest()

    def tables(self, dim: int) -> list[NDArray[np.int64]]:
        """The tables of a dimension."""
        sizes = self.size + 1
        n = len(SPLITS) + 2
        start, size = int((sizes[:dim] * n).sum()), int(sizes[dim])
        return [self.frequency[start + k * size : start + (k + 1) * size] for k in range(n)]

    def table_number(self, dim: int, before: int | None) -> int:
        """Which table codes a number that follows `before`; None: the first of a sound."""
        if before is None:
            return len(SPLITS) + 1
        return int(np.searchsorted(self.bounds[dim], before, side="right"))


_ARRAYS = ("step", "low", "size", "bounds", "frequency")


def make_tables(latents: LatentSequences) -> Tables:
    """The tables of a run's training clips, copies included.

    Raises:
        ConfigError: the bottleneck gives no variance.
    """
    train = [latents.read(i) for i in (*latents.indices("train"), *latents.indices("copies"))]
    spread = np.concatenate([log_variance for _, log_variance in train]).mean(0, dtype=np.float64)
    if not np.isfinite(spread).all():
        raise ConfigError(
            "the bottleneck of this run gives no variance, so there is no step to round to",
            "bottleneck variational",
            "leave out --compress",
        )
    step = (np.exp(0.5 * spread) * STEP_DEVIATIONS).astype(np.float32)
    numbers = [_rounded(mean, step) for mean, _ in train]
    every = np.concatenate(numbers)
    low, high = every.min(0), every.max(0)
    bounds = np.ceil(SPLITS * every.std(0)[:, None]).astype(np.int64)
    frequencies = []
    for dim in range(len(step)):
        size = int(high[dim] - low[dim]) + 1
        counts = np.zeros((len(SPLITS) + 2, size))
        for sequence in numbers:
            symbols = sequence[:, dim] - low[dim]
            rows = np.searchsorted(bounds[dim], sequence[:-1, dim], side="right")
            np.add.at(counts, (np.append(len(SPLITS) + 1, rows), symbols), 1)
        whole = counts.sum(0) + 0.1
        shares = counts + PRIOR_COUNT * whole / whole.sum()
        frequencies += [_integers(row) for row in shares]
    return Tables(step, low, (high - low + 1), bounds, np.concatenate(frequencies))


def _integers(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Frequencies of at least 1 that add up to 2^16; the last, for the escape symbol, is 1."""
    room = (1 << TOTAL_BITS) - len(shares) - 1
    found = 1 + np.floor(shares / shares.sum() * room).astype(np.int64)
    found[int(found.argmax())] += (1 << TOTAL_BITS) - 1 - int(found.sum())
    frequencies: NDArray[np.int64] = np.append(found, 1)
    return frequencies


def _rounded(mean: LatentArray, step: NDArray[np.float32]) -> NDArray[np.int64]:
    rounded: NDArray[np.int64] = np.rint(mean / step).astype(np.int64)
    return rounded


def tables_path(run: RunFolder) -> Path:
    """The file with the tables of a run."""
    return run.latents / "compression.safetensors"


def run_tables(run: RunFolder, make: bool) -> Tables:
    """The tables of a run; `make` makes those that do not exist yet.

    Raises:
        ArtifactError: the run has no latents to make them from, or none were made; or they are damaged.
    """
    path = tables_path(run)
    if path.is_file():
        try:
            return Tables(**dict(load(path.read_bytes())))
        except Exception as error:
            raise ArtifactError(f"{path} is damaged ({error})", action="copy the run again") from None
    if not make:
        raise ArtifactError(f"run {run.name} has no tables to decode .acts files with", f"{path}", "copy the run again")
    tables = make_tables(load_latents(run)[0])
    write_file(path, tables.content)
    return tables


def compress(activations: Activations, tables: Tables) -> bytes:
    """The content of an `.acts` file.

    Raises:
        ConfigError: `constriction` is not installed, or a mean is too far from those of the training clips.
    """
    library = _library()
    encoder, models = library.stream.queue.RangeEncoder(), _Models(tables, library)
    numbers = _rounded(activations.mean, tables.step)
    if np.abs(numbers).max() >= ESCAPED:
        raise ConfigError("a mean is more than 32767 steps from zero", action="leave out --compress")
    for frame, row in enumerate(numbers):
        for dim, number in enumerate(row.tolist()):
            before = int(numbers[frame - 1, dim]) if frame else None
            symbol, size = number - int(tables.low[dim]), int(tables.size[dim])
            inside = 0 <= symbol < size
            encoder.encode(symbol if inside else size, models.of(dim, before))
            if not inside:
                encoder.encode(number + ESCAPED, models.uniform)
    payload = bytes(encoder.get_compressed().astype("<u4").tobytes())
    made_by = bytes.fromhex(activations.autoencoder)[:8], tables.fingerprint[:4]
    header = HEADER.pack(MAGIC, FORMAT, *made_by, activations.samples, len(numbers), activations.gain, bytes(3))
    return header[:-3] + _check(header[:-3] + payload) + payload


def _check(content: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(content))[:3]


def decompress(path: Path, codec: Codec, autoencoder: str, tables: Tables) -> Activations:
    """The activations of an `.acts` file, without log-variance and label.

    Raises:
        ArtifactError: the file is no such file, damaged, or of another autoencoder or other tables.
        ConfigError: `constriction` is not installed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})", "a file of actseq encode") from None
    header, payload = content[: HEADER.size], content[HEADER.size :]
    whole = len(header) == HEADER.size and header[-3:] == _check(header[:-3] + payload)
    if header[:5] != MAGIC + bytes([FORMAT]) or not whole:
        raise ArtifactError(f"{path} is no .acts file of format {FORMAT}, or is damaged", "one of actseq encode")
    _, _, made_by, coded_by, samples, frames, gain, _ = HEADER.unpack(header)
    if made_by != bytes.fromhex(autoencoder)[:8] or coded_by != tables.fingerprint[:4]:
        raise ArtifactError(
            f"{path} was encoded by another autoencoder than that of this run, or with tables of other latents",
            action="use the run that encoded it",
        )
    library = _library()
    decoder = library.stream.queue.RangeDecoder(np.frombuffer(payload, "<u4").astype(np.uint32))
    models, numbers = _Models(tables, library), np.zeros((frames, len(tables.step)), np.int64)
    for frame in range(frames):
        for dim in range(len(tables.step)):
            before = int(numbers[frame - 1, dim]) if frame else None
            symbol = int(decoder.decode(models.of(dim, before)))
            escaped = symbol == int(tables.size[dim])
            numbers[frame, dim] = (
                int(decoder.decode(models.uniform)) - ESCAPED if escaped else symbol + int(tables.low[dim])
            )
    return Activations(
        (numbers * tables.step).astype(np.float32),
        None,
        latent_rate=codec.autoencoder.latent_rate,
        sample_rate=codec.sample_rate,
        samples=samples,
        gain=gain,
        label=None,
        autoencoder=autoencoder,
    )


class _Models:
    """The tables as models of the library, made when they are first used."""

    def __init__(self, tables: Tables, library: Any) -> None:
        self.tables, self.library = tables, library
        self.made: dict[tuple[int, int], Any] = {}
        self.uniform = library.stream.model.Uniform(2 * ESCAPED)

    def of(self, dim: int, before: int | None) -> Any:
        key = dim, self.tables.table_number(dim, before)
        if key not in self.made:
            # Fractions with a power of two below the line: every machine has the same.
            shares = self.tables.tables(dim)[key[1]] / float(1 << TOTAL_BITS)
            self.made[key] = self.library.stream.model.Categorical(shares, perfect=False)
        return self.made[key]


def _library() -> Any:
    try:
        import constriction
    except ImportError:
        raise ConfigError(
            ".acts files need the package constriction, which is not installed",
            action="pip install 'actseq[compress]', or leave out --compress",
        ) from None
    return constriction
