"""The store: what was written comes back, what was not committed does not exist, what is damaged is named."""

import errno
import gc
import hashlib
import itertools
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from actseq.errors import ArtifactError
from actseq.storage import store as store_module
from actseq.storage.shards import Pieces
from actseq.storage.store import MANIFEST, SequenceStore, StoreWriter, group_shards, shard_path, write_file

Item = tuple[str, np.ndarray, dict[str, object]]


def items(shard: int, n: int = 3, dtype: str = "float32", width: int = 2) -> list[Item]:
    rng = np.random.default_rng([shard, n])
    return [
        (
            f"{shard}/{i}",
            (100 * rng.standard_normal((int(rng.integers(1, 40)), width))).astype(dtype),
            {"label": f"l{i}"},
        )
        for i in range(n)
    ]


def fill(folder: Path, n_shards: int = 3) -> StoreWriter:
    writer = StoreWriter(folder)
    for shard in range(n_shards):
        writer.write_shard(shard, items(shard))
    return writer


def manifest(folder: Path) -> list[bytes]:
    return (folder / MANIFEST).read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("dtype", ["int16", "float16", "float32"])
def test_what_is_written_comes_back(tmp_path: Path, dtype: str) -> None:
    written = [*items(0, 5, dtype), ("ünïcode/ä #1.wav", np.ones((1, 2), dtype), {})]
    StoreWriter(tmp_path).write_shard(0, written)
    store = SequenceStore(tmp_path)
    assert len(store) == len(written)
    for (key, array, extra), (record, found) in zip(written, store, strict=True):
        assert (record.key, record.length, record.shape, record.dtype) == (key, len(array), array.shape, dtype)
        assert record.sha256 == hashlib.sha256(array.tobytes()).hexdigest()
        assert dict(record.extra) == extra
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    assert store.verify() == []


@given(start=st.integers(0, 25), length=st.integers(1, 25))
def test_a_slice_is_the_slice_of_the_whole(tmp_path_factory: pytest.TempPathFactory, start: int, length: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "sliced"
    array = np.arange(50, dtype=np.int16)
    if not folder.is_dir():
        StoreWriter(folder).write_shard(0, [("a", array, {})])
    store = SequenceStore(folder)
    np.testing.assert_array_equal(store.read(0, start, start + length), array[start : start + length])
    np.testing.assert_array_equal(store.read(0, start), array[start:])


def test_an_empty_range_and_an_empty_sequence_are_empty(tmp_path: Path) -> None:
    StoreWriter(tmp_path).write_shard(
        0, [("a", np.ones((5, 2), np.float32), {}), ("b", np.ones((0, 2), np.float32), {})]
    )
    store = SequenceStore(tmp_path)
    assert store.read(0, 2, 2).shape == (0, 2)
    assert store.read(0, 5, 5).shape == (0, 2)
    assert store.read(1).shape == (0, 2)
    assert store.verify() == []


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_a_shard_is_the_file_that_safetensors_makes(tmp_path: Path, dtype: str) -> None:
    given = [('ä/"b" \n.wav#x', *item[1:]) if i == 1 else item for i, item in enumerate(items(0, 4, dtype))]
    pieces = [
        (key, Pieces(array.shape, array.dtype, lambda array=array: iter((array[:5], array[5:]))), extra)
        for key, array, extra in given
    ]
    for name, stored in (("whole", given), ("pieces", pieces)):
        StoreWriter(tmp_path / name).write_shard(0, stored)
        written = shard_path(tmp_path / name, 0).read_bytes()
        assert written == safetensors.numpy.save({key: array for key, array, _ in given})
        assert SequenceStore(tmp_path / name).verify() == []
    short = Pieces((7, 2), np.dtype(dtype), lambda: iter([np.zeros((6, 2), dtype)]))
    with pytest.raises(ValueError, match="expected"):
        StoreWriter(tmp_path / "short").write_shard(0, [("a", short, {})])


def test_order_is_that_of_the_shards_not_of_writing(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "backwards")
    for shard in (2, 0, 1):
        writer.write_shard(shard, items(shard))
    fill(tmp_path / "forwards")
    backwards, forwards = SequenceStore(tmp_path / "backwards"), SequenceStore(tmp_path / "forwards")
    assert [r.key for r in backwards.records] == [r.key for r in forwards.records]
    assert backwards.fingerprint() == forwards.fingerprint()


def test_a_read_is_a_copy(tmp_path: Path) -> None:
    fill(tmp_path)
    store = SequenceStore(tmp_path)
    first = store.read(0)
    kept = first.copy()
    first[:] = 7
    np.testing.assert_array_equal(store.read(0), kept)


def test_two_sequences_of_one_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="same key"):
        StoreWriter(tmp_path).write_shard(0, [items(0)[0], items(0)[0]])
    assert not (tmp_path / MANIFEST).exists()


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_torn_last_line_was_never_committed(tmp_path: Path, cut: int) -> None:
    fill(tmp_path)
    path = tmp_path / MANIFEST
    path.write_bytes(path.read_bytes()[:-cut])
    assert {r.shard for r in SequenceStore(tmp_path).records} == {0, 1}
    writer = StoreWriter(tmp_path)
    assert writer.committed() == {0, 1}
    assert manifest(tmp_path)[-1].endswith(b"\n")
    writer.write_shard(2, items(2))
    fill(tmp_path / "whole")
    assert path.read_bytes() == (tmp_path / "whole" / MANIFEST).read_bytes()


def test_a_shard_without_lines_does_not_exist(tmp_path: Path) -> None:
    fill(tmp_path)
    path = tmp_path / MANIFEST
    path.write_bytes(b"".join(line for line in manifest(tmp_path) if json.loads(line)["shard"] != 1))
    store = SequenceStore(tmp_path)
    assert {r.shard for r in store.records} == {0, 2}
    assert store.verify() == []
    assert store.unused() == [shard_path(tmp_path, 1)]
    assert StoreWriter(tmp_path).committed() == {0, 2}


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_shard_that_lacks_lines_is_dropped_and_written_again(tmp_path: Path, lost: int) -> None:
    fill(tmp_path)
    whole = SequenceStore(tmp_path).fingerprint()
    kept = manifest(tmp_path)
    del kept[3 + lost]
    (tmp_path / MANIFEST).write_bytes(b"".join(kept))
    assert {r.shard for r in SequenceStore(tmp_path).records} == {0, 2}
    writer = StoreWriter(tmp_path)
    assert len(manifest(tmp_path)) == 6, "the lines of the broken shard are gone"
    assert writer.committed() == {0, 2}
    writer.write_shard(1, items(1))
    store = SequenceStore(tmp_path)
    assert len(store) == 9
    assert store.fingerprint() == whole


def test_a_writer_leaves_a_whole_manifest_alone(tmp_path: Path) -> None:
    fill(tmp_path)
    before = (tmp_path / MANIFEST).read_bytes(), (tmp_path / MANIFEST).stat().st_ino
    StoreWriter(tmp_path)
    assert before == ((tmp_path / MANIFEST).read_bytes(), (tmp_path / MANIFEST).stat().st_ino)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=MANIFEST):
        SequenceStore(tmp_path)


@pytest.mark.parametrize("line", [b"{}", b"null", b"not json", b'{"key": "a"}', b"\xff\xfe", b"[1]"])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    fill(tmp_path)
    lines = manifest(tmp_path)
    lines[4] = line + b"\n"
    (tmp_path / MANIFEST).write_bytes(b"".join(lines))
    with pytest.raises(ArtifactError, match="line 5 of"):
        SequenceStore(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    fill(tmp_path)
    shard_path(tmp_path, 1).unlink()
    with pytest.raises(ArtifactError, match=r"shard-00001\.safetensors is missing"):
        SequenceStore(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_shard_cut_short_is_named(tmp_path: Path, share: float) -> None:
    fill(tmp_path)
    path = shard_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    store = SequenceStore(tmp_path)
    np.testing.assert_array_equal(store.read(0), items(0)[0][1])
    with pytest.raises(ArtifactError, match=r"shard-00001\.safetensors cannot be read"):
        store.read(3)
    assert len(store.verify()) == 1


def test_a_shard_that_is_cut_short_while_it_is_read_is_named(tmp_path: Path) -> None:
    fill(tmp_path)
    store = SequenceStore(tmp_path)
    store.read(3)
    with shard_path(tmp_path, 1).open("r+b") as file:
        file.truncate(400)
    with pytest.raises(ArtifactError, match=r"shard-00001\.safetensors cannot be read \(the file is cut short\)"):
        store.read(5)


def test_a_shard_that_is_replaced_while_it_is_closed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MOST_OPEN", 1)
    fill(tmp_path)
    store = SequenceStore(tmp_path)
    store.read(0)
    store.read(3)
    StoreWriter(tmp_path / "other").write_shard(0, items(5))
    shard_path(tmp_path / "other", 0).replace(shard_path(tmp_path, 0))
    with pytest.raises(ArtifactError, match=r"shard-00000\.safetensors cannot be read \(the file was replaced\)"):
        store.read(0)


@pytest.mark.parametrize("has_preadv", [True, False])
def test_a_store_of_many_shards_keeps_few_files_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_preadv: bool
) -> None:
    if not has_preadv:
        monkeypatch.delattr(os, "preadv")
    monkeypatch.setattr(store_module, "MOST_OPEN", 3)
    fill(tmp_path, 8)
    store = SequenceStore(tmp_path)
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.is_dir() else None
    order = np.random.default_rng(0).integers(0, 24, 200)
    for index in order:
        np.testing.assert_array_equal(store.read(int(index)), items(int(index) // 3)[int(index) % 3][1])
    if before is not None:
        assert len(list(descriptors.iterdir())) <= before + 3
        del store
        gc.collect()
        assert len(list(descriptors.iterdir())) == before


@pytest.mark.parametrize(("allowed", "most"), [(256, 64), (1024, 256), (20_000, 1024), (-1, 1024), (3, 1)])
def test_a_store_takes_a_quarter_of_the_files_that_may_be_open(
    allowed: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY if allowed < 0 else allowed, -1))
    assert store_module._most_open() == most


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="memory is measured on Linux")
def test_a_store_that_was_read_takes_no_memory(tmp_path: Path) -> None:
    one = np.zeros(2**23, np.int16)
    for shard in range(6):
        StoreWriter(tmp_path).write_shard(shard, [(f"{shard}", one, {})])

    def resident() -> int:
        [line] = [one for one in Path("/proc/self/smaps_rollup").read_text().splitlines() if one.startswith("Rss:")]
        return int(line.split()[1]) * 1024

    del one
    store = SequenceStore(tmp_path)
    before = resident()
    for index in range(6):
        for start in range(0, 2**23, 2**18):
            store.read(index, start, start + 2**18)
    assert resident() - before < 16 * 2**20, "96 MB were read"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"0/0": 3}',
        b'{"0/0": {"dtype": "F32", "shape": [9, 2], "data_offsets": [0, 9999999999]}}',
        b'{"0/0": {"dtype": "F32", "shape": [99999999999, 2], "data_offsets": [0, 80]}}',
        b'{"0/0": {"dtype": "F32", "shape": ["a"], "data_offsets": [0, 80]}}',
        b'{"0/0": {"dtype": ["F32"], "shape": [], "data_offsets": [0, 0]}}',
        b'{"0/0": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [-8, -4]}}',
        b'{"0/0": {"dtype": "XYZ", "shape": [9, 2], "data_offsets": [0, 72]}}',
    ],
)
def test_a_strange_header_of_a_shard_is_named(tmp_path: Path, header: bytes) -> None:
    fill(tmp_path, 1)
    shard_path(tmp_path, 0).write_bytes(len(header).to_bytes(8, "little") + header + bytes(200))
    with pytest.raises(ArtifactError, match=r"shard-00000\.safetensors cannot be (read|used)"):
        SequenceStore(tmp_path).read(0)
    assert SequenceStore(tmp_path).verify()


def test_a_header_of_a_shard_that_is_longer_than_the_file_is_not_read(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    shard_path(tmp_path, 0).write_bytes((2**63).to_bytes(8, "little") + b"{}")
    with pytest.raises(ArtifactError, match="header does not fit into the file"):
        SequenceStore(tmp_path).read(0)


def test_verify_finds_a_flipped_byte(tmp_path: Path) -> None:
    fill(tmp_path)
    path = shard_path(tmp_path, 2)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = SequenceStore(tmp_path).verify()
    assert len(found) == 1
    assert "shard-00002.safetensors" in found[0]
    assert "content has changed" in found[0]


def test_another_name_in_the_manifest_is_noticed_after_the_shard_was_checked(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    SequenceStore(tmp_path).read(0)
    path = tmp_path / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"key": "0/1"', b'"key": "0/9"'))
    with pytest.raises(ArtifactError, match="0/9 cannot be read"):
        SequenceStore(tmp_path).read(0)


def test_verify_finds_a_shard_of_another_store(tmp_path: Path) -> None:
    fill(tmp_path)
    StoreWriter(tmp_path / "other").write_shard(0, items(5))
    shard_path(tmp_path / "other", 0).replace(shard_path(tmp_path, 0))
    assert len(SequenceStore(tmp_path).verify()) == 3


@pytest.mark.parametrize("change", ["content", "key", "extra", "dtype", "count"])
def test_the_fingerprint_changes_with_what_is_stored(tmp_path: Path, change: str) -> None:
    base = items(0)
    key, array, extra = base[1]
    changed = {
        "content": [base[0], (key, array + 1, extra), base[2]],
        "key": [base[0], (key + "x", array, extra), base[2]],
        "extra": [base[0], (key, array, extra | {"split": "test"}), base[2]],
        "dtype": [base[0], (key, array.view(np.int32), extra), base[2]],
        "count": base[:2],
    }[change]
    for name, written in (("a", base), ("b", base), ("c", changed)):
        StoreWriter(tmp_path / name).write_shard(0, written)
    a, b, c = (SequenceStore(tmp_path / name).fingerprint() for name in "abc")
    assert a == b
    assert a != c


@given(
    sizes=st.lists(st.integers(0, 100), max_size=60),
    max_bytes=st.integers(1, 200),
    max_items=st.integers(1, 10),
)
def test_groups_cover_everything_once_in_order_and_keep_the_limits(
    sizes: list[int], max_bytes: int, max_items: int
) -> None:
    shards = group_shards(sizes, max_bytes=max_bytes, max_items=max_items)
    assert [i for shard in shards for i in shard] == list(range(len(sizes)))
    for shard in shards:
        assert 1 <= len(shard) <= max_items
        assert sum(sizes[i] for i in shard) <= max_bytes or len(shard) == 1
    for before, after in itertools.pairwise(shards):
        full = len(before) == max_items or sum(sizes[i] for i in before) + sizes[after[0]] > max_bytes
        assert full, "a shard ends only where the next sequence does not fit"
    assert shards == group_shards(list(sizes), max_bytes=max_bytes, max_items=max_items)


def test_default_limits_of_a_shard() -> None:
    assert [len(shard) for shard in group_shards([1] * 1100)] == [512, 512, 76]
    assert [len(shard) for shard in group_shards([40 * 2**20] * 3)] == [1, 1, 1]


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file"
    write_file(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_file(path, b"new and longer")
    assert path.read_bytes() == b"old"


def _write_some(folder: Path, shards: list[int], ready: "multiprocessing.Barrier") -> None:  # type: ignore[valid-type]
    writer = StoreWriter(folder)
    ready.wait(30)  # type: ignore[attr-defined]
    for shard in shards:
        writer.write_shard(shard, items(shard))


def test_two_processes_write_one_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    ready = context.Barrier(2)
    parts = [list(range(0, 16, 2)), list(range(1, 16, 2))]
    workers = [context.Process(target=_write_some, args=(tmp_path / "shared", part, ready)) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    fill(tmp_path / "alone", 16)
    shared, alone = SequenceStore(tmp_path / "shared"), SequenceStore(tmp_path / "alone")
    assert len(shared) == 48
    assert shared.fingerprint() == alone.fingerprint()
    assert shared.verify() == []
    for shard in range(16):
        same = shard_path(tmp_path / "shared", shard).read_bytes() == shard_path(tmp_path / "alone", shard).read_bytes()
        assert same, f"shard {shard} has the same bytes whoever writes it"
