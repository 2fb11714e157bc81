"""A store of 50 GB that takes no room on the disk: its memory, and how many windows it gives in a second.

Its shards are holes, as a file system stores zeros that were never written, and have the usual size of 64 MB. A window
is a training segment: a sequence is drawn, a start in it, and the samples are read. The same windows are then read
again, which the system now holds in memory. A smaller store of random samples is in memory as a whole. Windows are
counted by seconds of the processor.
"""

import hashlib
import json
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import Row

from actseq.data.segments import RandomWindows
from actseq.storage.store import MANIFEST, SequenceStore, StoreWriter, shard_path

SHARDS, SAMPLES = 800, 2**25
"""Shards of one sequence each, and its samples of 16 bits."""
WINDOW = 4096
"""Samples of a window."""
WINDOWS = 100_000
"""Windows that are read."""
MOST_MEGABYTES = 50.0
LEAST_WINDOWS = 50_000


def _memory(name: str) -> float:
    """A line of this process's status, in MB."""
    return float(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 1024


def _sparse(folder: Path) -> None:
    """A store of zeros that were never written."""
    zeros, found = bytes(2**20), hashlib.sha256()
    for _ in range(2 * SAMPLES // len(zeros)):
        found.update(zeros)
    lines = []
    for shard in range(SHARDS):
        place = {"dtype": "I16", "shape": [SAMPLES], "data_offsets": [0, 2 * SAMPLES]}
        header = json.dumps({f"{shard}": place}).encode()
        with shard_path(folder, shard).open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + 2 * SAMPLES)
        line = {"key": f"{shard}", "shard": shard, "position": 0, "of": 1, "shape": [SAMPLES], "dtype": "int16"}
        lines.append(json.dumps(line | {"sha256": found.hexdigest()}))
    (folder / MANIFEST).write_text("".join(line + "\n" for line in lines))


def _read(store: SequenceStore) -> float:
    """Read random windows, the same in every call; their number in a second of the processor."""
    windows, rng = RandomWindows(store, range(len(store)), WINDOW), np.random.default_rng(0)
    begun = time.process_time()
    for _ in range(WINDOWS):
        index, start = windows.draw(rng)
        store.read(index, start, start + WINDOW)
    return WINDOWS / (time.process_time() - begun)


def trial() -> Iterator[Row]:
    """Memory of a large store, and speed of one that the system has in memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _sparse(folder)
        Path("/proc/self/clear_refs").write_text("5")
        before, begun = _memory("VmRSS"), time.process_time()
        store = SequenceStore(folder)
        for i in range(SHARDS):
            store.read(i, 0, WINDOW)
        checked = time.process_time() - begun
        first, again = _read(store), sorted(_read(store) for _ in range(3))
        above = _memory("VmHWM") - before
        size = sum(path.stat().st_size for path in folder.glob("shard-*")) / 1e9
        figure = f"{above:.0f} MB more memory for {size:.0f} GB, whose hashes take {checked:.0f} s of the processor"
        yield Row("memory of a store of 50 GB", 1, int(above <= MOST_MEGABYTES), figure)
        figure = f"{' / '.join(f'{n:,.0f}' for n in again)}; {first:,.0f} when they were read first"
        yield Row(f"windows of {WINDOW} samples of 50 GB in a second", 1, int(again[1] >= LEAST_WINDOWS), figure)
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), np.random.default_rng(1)
        for shard in range(4):
            clips = [rng.integers(-(2**15), 2**15, 200_000, dtype=np.int16) for _ in range(160)]
            items = [(f"{shard} {i}", clip, {}) for i, clip in enumerate(clips)]
            StoreWriter(folder).write_shard(shard, items)
        store = SequenceStore(folder)
        for i in range(len(store)):
            store.read(i)
        found = sorted(_read(store) for _ in range(5))
        kept = int(found[2] >= LEAST_WINDOWS)
        yield Row(f"windows of {WINDOW} samples in a second", 1, kept, " / ".join(f"{n:,.0f}" for n in found))
