"""The run folder: artifacts that are whole or refused, fingerprints, provenance; nothing is ever unpickled."""

import json
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import actseq
from actseq import build, config
from actseq.errors import ArtifactError, ConfigError
from actseq.inference import loading
from actseq.storage import artifacts, run_folder
from actseq.storage.artifacts import Artifact, content_hash, load_tensors, same_settings, write_artifact
from actseq.storage.run_folder import RunFolder, is_locked

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3), "b": torch.zeros(0, 2)}
META = {"kind": "autoencoder", "figures": {"loss": 0.25}, "inputs": {"corpus": "abc"}}


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


# -- artifacts ---------------------------------------------------------------------------------------------------------


def test_an_artifact_comes_back(tmp_path: Path) -> None:
    write_artifact(tmp_path / "deep" / "a", TENSORS, META)
    artifact = Artifact.read(tmp_path / "deep" / "a")
    assert {key: artifact.meta[key] for key in META} == META
    weights = artifact.weights()
    assert set(weights) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert weights[name].dtype == tensor.dtype
        assert torch.equal(weights[name], tensor)
    assert artifact.fingerprint == content_hash(json.loads((tmp_path / "deep" / "a" / "model.json").read_bytes()))
    assert not [path for path in (tmp_path / "deep" / "a").iterdir() if path.name.startswith(".")]


def test_the_fingerprint_is_that_of_content(tmp_path: Path) -> None:
    def written(name: str, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> str:
        write_artifact(tmp_path / name, tensors, meta)
        return Artifact.read(tmp_path / name).fingerprint

    first = written("a", TENSORS, META)
    assert written("b", dict(reversed(TENSORS.items())), dict(reversed(META.items()))) == first
    assert written("c", TENSORS | {"b": torch.ones(1)}, META) != first
    assert written("d", TENSORS, META | {"kind": "prior"}) != first
    shutil.move(tmp_path / "a", tmp_path / "moved")
    assert Artifact.read(tmp_path / "moved").fingerprint == first
    (tmp_path / "b" / "model.json").write_text(json.dumps(json.loads((tmp_path / "b" / "model.json").read_text())))
    assert Artifact.read(tmp_path / "b").fingerprint == first, "layout is no content"


def test_weights_without_their_json_are_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_artifact(tmp_path, TENSORS, META)

    def die(path: Path, value: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts, "write_json", die)
    with pytest.raises(KeyboardInterrupt):
        write_artifact(tmp_path, {"a": torch.ones(1)}, META)
    with pytest.raises(ArtifactError, match="no finished model; run actseq train-ae first"):
        Artifact.read(tmp_path, "actseq train-ae")


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.05, 0.5, 0.999])
def test_weights_cut_short(tmp_path: Path, share: float) -> None:
    write_artifact(tmp_path, {"w": torch.randn(100, 100)}, META)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ArtifactError, match=r"model\.safetensors is cut short or damaged"):
        Artifact.read(tmp_path).weights()


def test_weights_of_another_artifact(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", TENSORS, META)
    write_artifact(tmp_path / "b", TENSORS | {"b": torch.ones(1)}, META)
    shutil.copy(tmp_path / "b" / "model.safetensors", tmp_path / "a" / "model.safetensors")
    with pytest.raises(ArtifactError, match="not the file that its JSON describes"):
        Artifact.read(tmp_path / "a").weights()


def test_a_flipped_bit(tmp_path: Path) -> None:
    write_artifact(tmp_path, TENSORS, META)
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not the file that its JSON describes"):
        Artifact.read(tmp_path).weights()


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_a_pickle_is_refused_and_never_unpickled(tmp_path: Path, how: str, name: str) -> None:
    bomb = Bomb(tmp_path / "exploded")
    path = tmp_path / name
    if how == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save({"w": bomb}, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(ArtifactError, match=r"is a pickle.*expected safetensors.*nothing is unpickled"):
        load_tensors(path)
    assert not bomb.path.exists()
    pickle.loads(pickle.dumps(bomb))
    assert bomb.path.exists(), "this test can fail"


@pytest.mark.parametrize("size", [0x80, 0x4B50])
def test_weights_may_begin_like_a_pickle(tmp_path: Path, size: int) -> None:
    """The first bytes are the length of a header: 0x80 also begins a pickle, 'PK' a zip."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(size.to_bytes(8, "little") + header.ljust(size) + np.float32(2.5).tobytes())
    assert path.read_bytes()[:1] in (b"\x80", b"P")
    assert load_tensors(path)["w"].tolist() == [2.5]


def test_weights_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model\.safetensors does not exist"):
        load_tensors(tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match="is not a regular file"):
        load_tensors(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe{}", b'{"format": 99}', b"{}"])
def test_a_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    write_artifact(tmp_path, TENSORS, META)
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.json") as caught:
        Artifact.read(tmp_path)
    assert "\n" not in str(caught.value)


# -- modules from tensors ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoke() -> config.Config:
    return build.complete(config.load_preset("smoke"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, smoke: config.Config) -> Path:
    """A run with an autoencoder and a prior as they leave their constructors."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "made")
    torch.manual_seed(0)
    representation = build.build_representation(smoke)
    model = build.build_autoencoder(smoke, representation)
    run.write_config(smoke, "sounds", "abc")
    write_artifact(
        run.autoencoder,
        {f"autoencoder.{name}": value for name, value in model.state_dict().items()}
        | {f"representation.{name}": value for name, value in representation.state_dict().items()},
        {
            "config": smoke.model_dump(mode="json"),
            "latent_dim": 4,
            "generative": True,
            "inputs": {"corpus": "abc"},
        },
    )
    for name, inputs in (("default", run.trained_autoencoder.fingerprint), ("other", "0" * 64)):
        prior = build.build_prior(smoke, 4, 4, ["x", "y"])
        prior.prior.standardiser.active.copy_(torch.arange(4))
        write_artifact(
            run.priors.path / name,
            {f"prior.{key}": value for key, value in prior.state_dict().items()},
            {
                "config": smoke.model_dump(mode="json"),
                "inputs": {"autoencoder": inputs},
                "latent_dim": 4,
                "n_active": 4,
                "labels": ["x", "y"],
            },
        )
    return run.path


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copied"))


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "prefix"])
@pytest.mark.parametrize("part", ["autoencoder", "priors/default"])
def test_tensors_that_do_not_fit_are_refused(copied: Path, change: str, part: str) -> None:
    folder = copied / part
    artifact, config = Artifact.read(folder), loading.stage_config(RunFolder(copied), (), "generate")
    meta, tensors = artifact.meta, artifact.weights()
    name = [name for name in sorted(tensors) if name.startswith(("autoencoder.", "prior."))][-1]
    prefix = name.split(".")[0]
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors[f"{prefix}.intruder"] = torch.ones(1)
    elif change == "shape":
        tensors[name] = torch.ones(17)
    else:
        tensors = {key.replace(f"{prefix}.", "else."): value for key, value in tensors.items()}
    write_artifact(folder, tensors, {key: value for key, value in meta.items() if key != "weights_sha256"})

    def load() -> None:
        if part == "autoencoder":
            loading.load_codec(RunFolder(copied), "cpu", config)
        else:
            loading.load_prior(RunFolder(copied), None, "cpu", config)

    with pytest.raises(ArtifactError, match="do not fit their own") as caught:
        load()
    assert "\n" not in str(caught.value)


def test_a_moved_run_gives_the_same_bytes(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = actseq.load_run(trained, device="cpu")
    before = there.generate(n=2, seconds=0.25, label="y", seed=3)
    (tmp_path / "runs").mkdir()
    shutil.copytree(trained, tmp_path / "runs" / "renamed")
    monkeypatch.chdir(tmp_path)
    here = actseq.load_run("renamed", device="cpu")
    assert (here.autoencoder, here.labels, here.sample_rate) == (there.autoencoder, ["x", "y"], 8000)
    for a, b in zip(before, here.generate(n=2, seconds=0.25, label="y", seed=3), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(before[0], here.generate(n=2, seconds=0.25, label="y", seed=4)[0])


def test_a_prior_of_another_autoencoder_is_refused(trained: Path) -> None:
    with pytest.raises(ArtifactError, match=r"another autoencoder.*extract-latents .*, then .*train-prior"):
        actseq.load_run(trained, prior="other", device="cpu")


def test_a_prior_is_chosen_by_name(trained: Path, tmp_path: Path) -> None:
    run = RunFolder(trained)
    assert run.priors.read().folder.name == "default"
    assert run.priors.read("other").folder.name == "other"
    with pytest.raises(ArtifactError, match="no prior 'othr'; did you mean 'other'"):
        run.priors.read("othr")
    with pytest.raises(ArtifactError, match="no finished prior; run actseq train-prior"):
        RunFolder(tmp_path).priors.read()
    only = RunFolder(tmp_path / "only")
    write_artifact(only.priors.path / "single", TENSORS, META)
    assert only.priors.read().folder.name == "single"
    write_artifact(only.priors.path / "second", TENSORS, META)
    with pytest.raises(ArtifactError, match="there are: second, single"):
        only.priors.read()


def test_an_open_run_keeps_what_it_read_and_a_new_one_reads_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(ArtifactError, match=r"no finished autoencoder; run actseq train-ae FOLDER --run .* first"):
        _ = run.trained_autoencoder
    write_artifact(run.autoencoder, TENSORS, META)
    write_artifact(run.priors.path / "a", TENSORS, META)
    first = run.trained_autoencoder.fingerprint, run.priors.read("a").fingerprint
    for folder in (run.autoencoder, run.priors.path / "a", run.priors.path / "b"):
        write_artifact(folder, TENSORS, META | {"kind": "other"})
    assert (run.trained_autoencoder.fingerprint, run.priors.read("a").fingerprint) == first
    assert run.priors.names == ["a", "b"], "what has been finished meanwhile is seen"
    assert run.priors.read("b").meta["kind"] == "other"
    again = RunFolder(tmp_path)
    assert again.trained_autoencoder.fingerprint == again.priors.read("a").fingerprint
    assert again.trained_autoencoder.fingerprint not in first


# -- finding a run -----------------------------------------------------------------------------------------------------


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smoke: config.Config) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "yours"):
        RunFolder(Path("runs") / name).write_config(smoke, "sounds", None)
    return tmp_path


def test_a_run_is_a_name_or_a_path(workplace: Path, smoke: config.Config) -> None:
    assert RunFolder.open("mine").path == Path("runs/mine")
    assert RunFolder.open("runs/mine").path == Path("runs/mine")
    assert RunFolder.open(workplace / "runs" / "mine").name == "mine"
    assert RunFolder.locate("new").path == Path("runs/new")
    assert RunFolder.locate("here/new").path == Path("here/new")
    RunFolder(Path("beside")).write_config(smoke, "sounds", None)
    assert RunFolder.open("beside").path == Path("beside")


def test_runs_that_are_none(workplace: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no run at runs/mien; did you mean 'mine'\?"):
        RunFolder.open("mien")
    Path("plain").mkdir()
    with pytest.raises(ArtifactError, match=r"no config\.yaml"):
        RunFolder.open("./plain")
    with pytest.raises(ArtifactError, match="no run at runs/plain"):
        RunFolder.open("plain")
    for name in ("model.ckpt", "model.pt", "old.pkl"):
        Path(name).write_bytes(pickle.dumps({}))
        with pytest.raises(ArtifactError, match="pickles are not read"):
            RunFolder.open(name)
    Path("notes.txt").write_text("")
    with pytest.raises(ArtifactError, match=r"notes\.txt is a file"):
        RunFolder.open("./notes.txt")


def test_without_any_run_training_is_advised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="train one first: actseq train-ae"):
        RunFolder.open("mine")


# -- configuration and provenance --------------------------------------------------------------------------------------


def test_a_run_knows_what_made_it(tmp_path: Path, smoke: config.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "commit", lambda: "0123abc-dirty")
    run = RunFolder(tmp_path / "run")
    run.write_config(smoke.model_copy(update={"seed": 11}), "my/sounds", "fingerprint of it")
    assert run.read_config() == smoke.model_copy(update={"seed": 11})
    provenance = run.read_provenance()
    assert provenance["source"] == "my/sounds"
    assert provenance["seed"] == 11
    assert provenance["corpus_fingerprint"] == "fingerprint of it"
    assert provenance["commit"] == "0123abc-dirty"
    assert provenance["versions"]["torch"] == torch.__version__.partition("+")[0] or torch.__version__
    assert {"python", "actseq", "torch", "numpy", "librosa", "soundfile"} <= set(provenance["versions"])
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert set(written) == {"config", "provenance"}
    assert set(written["config"]) == set(config.Config.model_fields)


def test_the_commit_is_that_of_the_checkout_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_folder.commit()
    in_checkout = (Path(run_folder.__file__).parents[2] / ".git").exists()
    assert (found is not None and len(found.removesuffix("-dirty")) == 40) or not in_checkout
    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "actseq" / "storage" / "run_folder.py"))
    assert run_folder.commit() is None


@pytest.mark.parametrize("text", ["", "config: 3", "config: {}", "a: [", "[]", "config: {}\nprovenance: []\n"])
def test_a_damaged_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ArtifactError, match=r"config\.yaml is damaged"):
        RunFolder(tmp_path).read_config()


def test_other_settings_are_named() -> None:
    made = {"seed": 1, "a": {"x": 1, "y": [1, 2]}, "b": {"kind": "lstm", "width": 3}, "t": (1, 2), "n": None}
    same_settings(made, made | {"t": [1, 2]}, "it", "do that")
    with pytest.raises(ConfigError) as caught:
        same_settings(made, made | {"a": {"x": 2, "y": [1, 2]}, "b": {"kind": "gru"}}, "run r", "delete it")
    assert str(caught.value) == (
        "run r was made with other settings: a.x 1 instead of 2, b.kind lstm instead of gru, b.width 3 instead of "
        "None; delete it"
    )
    for other, then in (({"t": {"minutes": 2}}, "go on"), ({"t": {"minutes": 2}, "seed": 2}, "delete it")):
        with pytest.raises(ConfigError, match=f"t.minutes 1 instead of 2; {then}|seed.*{then}"):
            same_settings({"seed": 1, "t": {"minutes": 1}}, {"seed": 1} | other, "run r", "delete it", "go on")
    with pytest.raises(ConfigError, match="and 2 more"):
        same_settings({str(i): 0 for i in range(6)}, {str(i): 1 for i in range(6)}, "it", "")


# -- the lock ----------------------------------------------------------------------------------------------------------


def _hold(stage: Path, pipe: Any) -> None:
    with RunFolder(stage.parent).lock(stage):
        pipe.send("held")
        pipe.recv()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[Path, Any]]:
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path / "stage", other))
    process.start()
    assert pipe.poll(60)
    yield tmp_path / "stage", process
    process.kill()
    process.join(60)


def test_what_another_process_still_makes_is_not_asked_for(holder: tuple[Path, Any]) -> None:
    stage, process = holder
    run, other = RunFolder(stage), RunFolder(stage.parent / "other")
    among = RunFolder(stage.parent).priors
    among.path = stage.parent

    def wanted() -> list[str]:
        said: list[str] = []
        for ask in (lambda: run.trained_autoencoder, run.priors.read, lambda: among.read("stage")):
            with pytest.raises(ArtifactError) as caught:
                ask()
            said.append(str(caught.value))
        return said

    assert is_locked(stage)
    assert not is_locked(other.path)
    assert all("yet: another command is still training the run; wait until it has ended" in one for one in wanted())
    write_artifact(stage.parent / "done", TENSORS, META)
    with pytest.raises(ArtifactError, match="no finished prior 'stage' yet"):
        among.read("stage")
    shutil.rmtree(stage.parent / "done")
    process.kill()
    process.join(60)
    assert not is_locked(stage)
    assert all("; run actseq train-" in one and "…" not in one for one in wanted())


def test_a_second_process_is_refused_until_the_first_is_gone(holder: tuple[Path, Any]) -> None:
    stage, process = holder
    with pytest.raises(ArtifactError, match="another process is working in"), RunFolder(stage.parent).lock(stage):
        pass
    process.kill()
    process.join(60)
    entered = False
    with RunFolder(stage.parent).lock(stage):
        entered = True
    assert entered
