"""Shards on object storage are those that a run would have in its folder; a local S3 server takes the place of one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from actseq_cli.main import main  # type: ignore[import-untyped, unused-ignore]
from click.testing import CliRunner, Result
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from actseq.data.drumkit import write_drumkit
from actseq.errors import ActseqError, ArtifactError, ConfigError
from actseq.storage import files, remote, store
from actseq.storage.artifacts import begin_store
from actseq.storage.remote import COPIES, LOCATION, Remote, checked_url, place, place_beside
from actseq.storage.store import MANIFEST, SequenceStore, StoreWriter, shard_path

SMALL = ("--preset", "smoke", "--threads", 1, "--device", "cpu")
USE = ("--threads", 1, "--device", "cpu")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of an S3 server in this process."""
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a new bucket."""
    for name, value in (("ENDPOINT_URL", server), ("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("REGION", "")):
        monkeypatch.setenv(f"AWS_{name}", value)
    name = f"s3://{abs(hash(tmp_path)):x}"
    S3FileSystem.clear_instance_cache()
    raw(name).mkdir(name)
    return name


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new place for the shards of a store."""
    if request.param == "file":
        return f"file://{tmp_path}/elsewhere/kit/corpus"
    return f"{request.getfixturevalue('bucket')}/lab/kit/corpus"


@contextmanager
def unreachable() -> Iterator[None]:
    """A world in which nobody answers at the address of the server."""
    with pytest.MonkeyPatch.context() as cut:
        cut.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        S3FileSystem.clear_instance_cache()
        yield
    S3FileSystem.clear_instance_cache()


def raw(url: str) -> Any:
    """The files behind a URL, past actseq."""
    return fsspec.filesystem(url.partition(":")[0], use_listings_cache=False)


def flip(url: str, at: int = -1) -> None:
    """Change a bit of a file."""
    content = bytearray(raw(url).cat_file(url))
    content[at] ^= 1
    raw(url).pipe_file(url, bytes(content))


def call(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def good(*words: object) -> Result:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result


def bad(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 1, result.output
    return result.stderr.splitlines()[-1]


def values(shard: int) -> np.ndarray:
    return np.random.default_rng(shard).standard_normal((50, 2)).astype(np.float32)


def fill(folder: Path, shards: range = range(4)) -> None:
    for shard in shards:
        StoreWriter(folder).write_shard(shard, [(f"clip {shard}", values(shard), {})])


def copies(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("shard-*")} - {LOCATION}


def test_a_run_on_object_storage_is_the_run_in_its_folder(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_drumkit(tmp_path / "kit", n_per_kind=6, sample_rate=8000)
    brief = ("--set", "train_ae.stored_features=true", "--set", "train_ae.steps=2", "--set", "train_prior.steps=2")
    good("train-ae", "kit", *SMALL, "--run", "here", *brief[:4])
    good("extract-latents", "here", *USE)
    good("train-prior", "here", *USE, "--steps", 2)
    good("run", "kit", *SMALL, "--run", "there", *brief, "--store", f"{bucket}/lab")
    here, there = tmp_path / "runs" / "here", tmp_path / "runs" / "there"
    for stage in ("corpus", "features", "latents"):
        assert (there / stage / MANIFEST).read_bytes() == (here / stage / MANIFEST).read_bytes()
        at = f"{bucket}/lab/there/{stage}"
        assert {Path(name).name for name in raw(at).find(at)} == copies(here / stage)
        for name in copies(here / stage):
            assert raw(at).cat_file(f"{at}/{name}") == (here / stage / name).read_bytes()
    for model in ("autoencoder", "priors/default"):
        assert files.sha256(there / model / "model.safetensors") == files.sha256(here / model / "model.safetensors")
    assert json.loads(good("info", "there", "--json").stdout)["latents"]["shards"] == f"{bucket}/lab/there/latents"
    # Without any copy, as where the small files of the run were brought to another machine.
    for stage in ("corpus", "features", "latents"):
        for path in (there / stage).glob("shard-*"):
            path.unlink()
    good("train-prior", "there", "--name", "second", "--steps", 2, *USE)
    weights = there / "priors" / "second" / "model.safetensors"
    assert files.sha256(weights) == files.sha256(there / "priors" / "default" / "model.safetensors")
    assert copies(there / "latents") == copies(here / "latents")
    good("verify", "there")
    # The same commands go on without the URL, and with the same one, but not with another.
    good("train-ae", "kit", "--run", "there", *USE)
    good("train-ae", "kit", "--run", "there", "--store", f"{bucket}/lab/", *USE)
    assert "not at" in bad("train-ae", "kit", "--run", "there", "--store", f"{bucket}/other", *USE)
    assert "lie in it" in bad("train-ae", "kit", "--run", "here", "--store", f"{bucket}/lab", *USE)


def test_what_is_written_behind_a_url_comes_back(url: str, tmp_path: Path) -> None:
    place(tmp_path / "kit", url)
    fill(tmp_path / "kit")
    fill(tmp_path / "local")
    assert (tmp_path / "kit" / MANIFEST).read_bytes() == (tmp_path / "local" / MANIFEST).read_bytes()
    for path in (tmp_path / "kit").glob("shard-*.safetensors"):
        path.unlink()
    found = SequenceStore(tmp_path / "kit")
    assert not copies(tmp_path / "kit")
    for shard, (_, array) in enumerate(found):
        np.testing.assert_array_equal(array, values(shard))
    np.testing.assert_array_equal(found.read(2, 7, 9), values(2)[7:9])
    assert found.verify() == []
    assert found.fingerprint() == SequenceStore(tmp_path / "local").fingerprint()


def test_a_shard_is_behind_the_url_before_the_manifest_names_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(tmp_path, url)
    fill(tmp_path, range(2))
    upload = Remote.upload

    def fails(self: Remote, path: Path) -> None:
        raise ArtifactError("no connection")

    monkeypatch.setattr(Remote, "upload", fails)
    with pytest.raises(ArtifactError, match="no connection"):
        fill(tmp_path, range(2, 3))
    assert StoreWriter(tmp_path).committed() == {0, 1}

    def stops(self: Remote, path: Path) -> None:
        upload(self, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(Remote, "upload", stops)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, range(2, 3))
    monkeypatch.setattr(Remote, "upload", upload)
    assert StoreWriter(tmp_path).committed() == {0, 1}
    place(tmp_path, url)
    fill(tmp_path, range(2, 4))
    assert [record.key for record in SequenceStore(tmp_path).records] == [f"clip {shard}" for shard in range(4)]
    assert set(Remote(url).sizes()) == {shard_path(tmp_path, shard).name for shard in range(4)}


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_the_folder_keeps_no_more_copies_than_it_may(
    url: str, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(tmp_path, url)
    fill(tmp_path, range(1))
    size = shard_path(tmp_path, 0).stat().st_size
    monkeypatch.setenv(COPIES, str(kept * size / 1e9))
    fill(tmp_path, range(1, 6))
    # The newest ones stay; one that is read needs its place in any case.
    assert copies(tmp_path) == {shard_path(tmp_path, shard).name for shard in range(6 - kept, 6)}
    found = SequenceStore(tmp_path)
    for index in (*range(6), *reversed(range(6)), 3, 3, 0):
        np.testing.assert_array_equal(found.read(index), values(index))
        assert len(copies(tmp_path)) <= max(kept, 1)
        assert shard_path(tmp_path, index).name in copies(tmp_path)
    assert set(Remote(url).sizes()) == {shard_path(tmp_path, shard).name for shard in range(6)}


def test_what_is_not_behind_the_url_is_not_taken_for_a_copy(url: str, tmp_path: Path) -> None:
    place(tmp_path, url)
    fill(tmp_path)
    raw(url).rm_file(f"{url}/{shard_path(tmp_path, 0).name}")
    paths = [shard_path(tmp_path, shard) for shard in range(4)]
    assert list(Remote(url).spare(paths, 10**12)) == paths[1:]


@pytest.mark.parametrize("at", [3, 40, -1])
def test_a_flipped_bit_behind_a_url_is_noticed(url: str, at: int, tmp_path: Path) -> None:
    place(tmp_path, url)
    fill(tmp_path)
    path = shard_path(tmp_path, 1)
    flip(f"{url}/{path.name}", at)
    assert any(f"{url}/{path.name}" in problem for problem in SequenceStore(tmp_path).verify())
    # The copy is whole.
    np.testing.assert_array_equal(SequenceStore(tmp_path).read(1), values(1))
    path.unlink()
    with pytest.raises(ArtifactError, match=path.name) as caught:
        SequenceStore(tmp_path).read(1)
    assert url in str(caught.value)
    assert not path.exists()
    np.testing.assert_array_equal(SequenceStore(tmp_path).read(2), values(2))


def test_a_damaged_copy_is_fetched_again(url: str, tmp_path: Path) -> None:
    place(tmp_path, url)
    fill(tmp_path)
    path = shard_path(tmp_path, 1)
    content = path.read_bytes()
    for damage in (content[:-1] + bytes([content[-1] ^ 1]), content[:40], b""):
        path.write_bytes(damage)
        assert SequenceStore(tmp_path).verify() != []
        np.testing.assert_array_equal(SequenceStore(tmp_path).read(1), values(1))
        assert path.read_bytes() == content


def test_what_a_killed_fetch_left_is_not_written_through(url: str, tmp_path: Path) -> None:
    place(tmp_path / "kit", url)
    fill(tmp_path / "kit")
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "kit" / ".fetched.part").symlink_to(tmp_path / "mine.txt")
    shard_path(tmp_path / "kit", 1).unlink()
    np.testing.assert_array_equal(SequenceStore(tmp_path / "kit").read(1), values(1))
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert not list((tmp_path / "kit").glob(".*.part"))


def test_a_shard_that_is_gone_and_one_that_nobody_needs_are_named(url: str, tmp_path: Path) -> None:
    place(tmp_path, url)
    fill(tmp_path)
    name = shard_path(tmp_path, 1).name
    raw(url).copy(f"{url}/{name}", f"{url}/shard-00009.safetensors")
    raw(url).rm_file(f"{url}/{name}")
    found = SequenceStore(tmp_path)
    assert found.unused_behind_url() == ["shard-00009.safetensors"]
    assert [f"{url}/{name} does not exist" in problem for problem in found.verify()] == [True]
    shard_path(tmp_path, 1).unlink()
    with pytest.raises(ArtifactError, match="is missing though the manifest names it"):
        SequenceStore(tmp_path)


def test_a_place_that_is_taken_is_refused_and_left_as_it_is(url: str, tmp_path: Path) -> None:
    place(tmp_path / "first", url)
    fill(tmp_path / "first")
    before = Remote(url).sizes()
    with pytest.raises(ArtifactError, match="holds 4 files already"):
        place(tmp_path / "second", url)
    assert not (tmp_path / "second").exists()
    assert Remote(url).sizes() == before


def test_a_store_that_is_begun_again_leaves_nothing_behind_its_url(url: str, tmp_path: Path) -> None:
    place(tmp_path / "corpus", url)
    folder = tmp_path / "latents"
    begin_store(folder, {"seed": 1}, "latents")
    place_beside(folder, tmp_path / "corpus")
    fill(folder)
    beside = f"{url.rpartition('/')[0]}/latents"
    assert len(Remote(beside).sizes()) == 4
    raw(beside).pipe_file(f"{beside}/notes.txt", b"of somebody")
    begin_store(folder, {"seed": 2}, "latents")
    assert set(Remote(beside).sizes()) == {"notes.txt"}
    assert not (folder / LOCATION).exists()


@pytest.mark.parametrize(
    "url",
    [
        "bucket/folder",
        "/mnt/folder",
        "http://bucket/folder",
        "ssh://machine/folder",
        "simplecache::s3://bucket/folder",
        "s3://bucket/folder::zip://x",
        "s3://",
        "s3:///folder",
        "file://folder",
        "s3://key:secret@bucket/folder",
        "s3://bucket/\x1b[2Jfolder",
    ],
)
def test_a_url_that_is_no_place_for_shards_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_url(url)
    assert "secret" not in str(caught.value)
    # One that a stranger has written into a run, too.
    (tmp_path / LOCATION).write_text(json.dumps({"url": url}))
    with pytest.raises(ActseqError):
        remote.remote_of(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"url": 3}', b'{"url": null}', b"{}", b"[" * 10_000])
def test_a_damaged_place_is_an_error_with_a_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / LOCATION).write_bytes(content)
    with pytest.raises(ArtifactError, match=LOCATION):
        remote.remote_of(tmp_path)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(kind: str) -> None:
        raise ImportError(f"Install something to access {kind}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(ConfigError, match=r"pip install 'actseq\[cloud\]'"):
        checked_url("s3://bucket/folder")
    with pytest.raises(ConfigError, match="pip install gcsfs"):
        checked_url("gs://bucket/folder")


@pytest.mark.parametrize("text", ["many", "-1", "nan", "inf"])
def test_a_bound_of_copies_that_is_no_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COPIES, text)
    with pytest.raises(ConfigError, match=COPIES):
        remote.copies_bytes()


def test_a_server_that_is_not_there_is_one_line_and_the_command_goes_on_later(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_drumkit(tmp_path / "kit", n_per_kind=2, sample_rate=8000)
    words = ("train-ae", "kit", *SMALL, "--run", "r", "--store", f"{bucket}/lab")
    with unreachable():
        error = bad(*words)
        assert error.startswith(f"error: {bucket}/lab/r/corpus cannot be reached (")
        assert "AWS_ENDPOINT_URL" in error
    missing = f"{bucket}-of-nobody"
    assert "does not exist" in bad("train-ae", "kit", *SMALL, "--run", "other", "--store", missing)
    good(*words)
    for path in (tmp_path / "runs" / "r" / "corpus").glob("shard-*.safetensors"):
        path.unlink()
    with unreachable():
        assert "cannot be reached" in bad("extract-latents", "r", *USE)
    good("extract-latents", "r", *USE)
    # With all copies in the folder nobody is asked.
    with unreachable():
        good("train-prior", "r", *USE)


def test_a_full_disk_is_not_taken_for_a_server_that_is_away(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(tmp_path, url)
    fill(tmp_path)
    shard_path(tmp_path, 1).unlink()
    full = OSError(28, "No space left on device")
    known = SequenceStore(tmp_path)
    away = known._remote
    assert away is not None

    def get_file(*_: object) -> None:
        raise full

    monkeypatch.setattr(away._files, "get_file", get_file)
    with pytest.raises(OSError, match="No space left") as caught:
        known.read(1)
    assert "shard-00001" in str(caught.value.filename)


def test_many_shards_need_few_open_files(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_OPEN", 2)
    place(tmp_path, url)
    fill(tmp_path, range(5))
    known = SequenceStore(tmp_path)
    for index in (*range(5), *range(5)):
        np.testing.assert_array_equal(known.read(index), values(index))
        assert len(known._open) <= 2
