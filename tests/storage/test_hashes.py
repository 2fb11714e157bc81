"""Lists of hashes: every edit of a listed file is noticed where the file is read, and by `verify`."""

import json
import os
import shutil
import time
import tracemalloc
from pathlib import Path

import pytest
import torch

from actseq import pipeline
from actseq.config import Config, load_preset
from actseq.errors import ActseqError, ArtifactError, ConfigError
from actseq.inference import loading
from actseq.progress import Silent
from actseq.storage import artifacts, files, hashes
from actseq.storage.artifacts import Artifact, read_json, write_artifact, write_json
from actseq.storage.run_folder import RunFolder
from actseq.storage.store import SequenceStore, shard_path, write_file

OLD = Path(__file__).parents[1] / "old_runs" / "drums"


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run of an older version, with the lists that its commands would write now."""
    path = Path(shutil.copytree(OLD, tmp_path_factory.mktemp("sealed") / "drums"))
    run = RunFolder.open(path)
    winner = {"vocoder": {"kind": "phase"}, "fingerprint": None}
    write_json(run.choice, {"inputs": {}, "winner": winner})
    for stage in (run.corpus, run.autoencoder, run.latents, run.priors.path / "default", run.vocoders.path):
        run.seal(stage)
    return path


@pytest.fixture
def run(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "drums"))


def lines(run: Path) -> list[str]:
    """The problems that `verify` finds."""

    class Heard(Silent):
        def __init__(self) -> None:
            self.found: list[str] = []

        def warn(self, text: str) -> None:
            self.found.append(text)

    heard = Heard()
    try:
        pipeline.verify(run, compute=pipeline.Compute(reporter=heard))
    except ArtifactError:
        assert heard.found
    return heard.found


def test_a_whole_run_is_whole(run: Path) -> None:
    assert lines(run) == []
    known = hashes.listed(run)
    assert {"config.yaml", "corpus/hashes.json", "autoencoder/hashes.json", "priors/default/hashes.json"} <= set(known)
    assert set(hashes.listed(run / "corpus")) == {"corpus.json", "manifest.jsonl", "plan.json", "scan.csv"}
    assert hashes.listed(run / "autoencoder")["model.json"] == files.sha256(run / "autoencoder" / "model.json")


def test_every_listed_file_and_every_tensor_file_is_watched(sealed: Path, tmp_path: Path) -> None:
    """One byte changed, and one file gone, for each file of the run."""
    listed = [path for path in sealed.rglob("*") if path.is_file() and not path.name.startswith(".")]
    listed = [path for path in listed if "half" not in path.parts]
    assert len(listed) > 20
    for path in listed:
        copied = Path(shutil.copytree(sealed, tmp_path / "run"))
        target = copied / path.relative_to(sealed)
        content = bytearray(target.read_bytes())
        content[len(content) // 2] ^= 1
        target.write_bytes(content)
        assert any(target.name in line or path.parent.name in line for line in lines(copied)), target
        target.unlink()
        if target != copied / "hashes.json" and target != copied / "config.yaml":
            assert lines(copied), f"{target} is missing"
        shutil.rmtree(copied)


@pytest.mark.parametrize("folder", ["corpus", "latents", "autoencoder", "priors", "vocoders"])
def test_a_missing_stage_is_named(run: Path, folder: str) -> None:
    shutil.rmtree(run / folder)
    found = lines(run)
    assert any(f"{folder}" in line and "is missing" in line for line in found)
    assert "copy the run again, or run its stage again" in " ".join(found)


def test_a_missing_corpus_of_an_old_run_is_named(tmp_path: Path) -> None:
    old = Path(shutil.copytree(OLD, tmp_path / "old"))
    assert lines(old) == [], "runs of older versions have no lists"
    assert any("no list of hashes" in note for note in pipeline.verify(old)["notes"])
    shutil.rmtree(old / "corpus")
    assert any("made from another corpus" in line for line in lines(old))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2))


def test_an_edited_model_is_refused_where_it_is_read(run: Path) -> None:
    edit(run / "autoencoder" / "model.json", sample_rate=44100)
    with pytest.raises(ArtifactError, match=r"autoencoder/model\.json is not what was written.*undo the change"):
        loading.stage_config(RunFolder.open(run), (), "generate")


def test_an_edited_configuration_is_refused_where_it_is_read(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("seed: 5", "seed: 6"))
    with pytest.raises(ArtifactError, match=r"config\.yaml is not what was written"):
        RunFolder.open(run).read_config()


@pytest.mark.parametrize("stage", ["corpus", "latents"])
def test_a_flipped_bit_in_a_shard_is_noticed_when_it_is_first_opened(run: Path, stage: str) -> None:
    path = shard_path(run / stage, 0)
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    store = SequenceStore(run / stage)
    with pytest.raises(ArtifactError, match=r"shard-00000\.safetensors cannot be used: .* its content has changed"):
        store.read(0, 0, 1)


def test_a_shard_with_values_of_another_type_is_noticed(run: Path) -> None:
    path = shard_path(run / "corpus", 0)
    path.write_bytes(path.read_bytes().replace(b'"I16"', b'"U16"', 1))
    assert any("values of another type" in line for line in lines(run))


def test_the_model_of_a_prior_cannot_vanish_unseen(run: Path) -> None:
    (run / "priors" / "default" / "model.json").unlink()
    assert RunFolder.open(run).priors.names == ["default"]
    with pytest.raises(ArtifactError, match=r"default/model\.json does not exist; copy the run again"):
        RunFolder.open(run).priors.read()


def test_the_choice_of_a_vocoder_cannot_vanish_unseen(run: Path) -> None:
    config = loading.stage_config(RunFolder.open(run), (), "generate")
    assert RunFolder.open(run).chosen_vocoder(config) is None
    (run / "vocoders" / "choice.json").unlink()
    with pytest.raises(ArtifactError, match=r"choice\.json is missing"):
        RunFolder.open(run).chosen_vocoder(config)
    shutil.rmtree(run / "vocoders")
    with pytest.raises(ArtifactError, match=r"vocoders/hashes\.json is missing"):
        RunFolder.open(run).chosen_vocoder(config)


def test_a_file_that_is_written_again_leaves_the_lists_first(run: Path) -> None:
    write_file(run / "autoencoder" / "metrics.csv", b"step\n1\n")
    assert "metrics.csv" not in hashes.listed(run / "autoencoder")
    assert "autoencoder/hashes.json" not in hashes.listed(run), "its list has changed too"
    RunFolder.open(run).seal(run / "autoencoder")
    assert hashes.listed(run / "autoencoder")["metrics.csv"] == files.sha256(run / "autoencoder" / "metrics.csv")
    assert lines(run) == []


def test_sealing_again_believes_no_change(run: Path) -> None:
    edit(run / "latents" / "plan.json", corpus="other")
    RunFolder.open(run).seal(run / "latents")
    assert any("plan.json" in line for line in lines(run))


@pytest.mark.parametrize("text", ["[]", "{", '{"files": 3}', '{"files": {"a": 1}}', "[" * 100_000])
def test_a_damaged_list_is_refused(run: Path, text: str) -> None:
    (run / "autoencoder" / "hashes.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"hashes\.json is damaged"):
        Artifact.read(run / "autoencoder")
    assert lines(run)


def test_a_list_does_not_reach_out_of_its_folder(run: Path) -> None:
    edit(run / "latents" / "hashes.json", files={"../../etc/passwd": "0", "/etc/passwd": "0"})
    assert sum("not in the folder" in line for line in lines(run)) == 2


# -- files that a stranger may have put into a run ---------------------------------------------------------------------


@pytest.fixture
def artifact(tmp_path: Path, smoke: Config) -> Path:
    RunFolder(tmp_path / "run").write_config(smoke, "sounds", None)
    write_artifact(tmp_path / "run" / "autoencoder", {"w": torch.ones(2)}, {"kind": "autoencoder"})
    return tmp_path / "run" / "autoencoder"


@pytest.fixture
def smoke() -> Config:
    return load_preset("smoke")


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices")
@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link", "relative link"])
def test_what_is_no_file_of_the_run_is_refused_unread(artifact: Path, name: str, kind: str) -> None:
    path, outside = artifact / name, artifact.parents[1] / "outside"
    path.rename(outside)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "link": str(outside), "relative link": "../../outside"}[kind])
    with pytest.raises(ArtifactError, match=r"not a regular file|outside the run|no finished"):
        Artifact.read(artifact).weights()


def test_the_run_itself_and_what_stays_inside_may_be_links(artifact: Path) -> None:
    (artifact / "model.safetensors").rename(artifact / "kept.safetensors")
    (artifact / "model.safetensors").symlink_to("kept.safetensors")
    link = artifact.parents[1] / "link"
    link.symlink_to(artifact.parent)
    assert Artifact.read(link / "autoencoder").weights().keys() == {"w"}


@pytest.mark.parametrize("changes", [{"width": 20_000, "inner": 20_000}, {"blocks": 10**6}])
def test_a_model_is_no_larger_than_its_weights(run: Path, changes: dict[str, int]) -> None:
    (run / "autoencoder" / "hashes.json").unlink()
    path = run / "autoencoder" / "model.json"
    meta = json.loads(path.read_text())
    meta["config"]["autoencoder"]["network"] |= changes
    path.write_text(json.dumps(meta))
    opened = RunFolder.open(run)
    with pytest.raises(ArtifactError, match=r"model\.json describes a model of more than \d+ numbers"):
        loading.load_codec(opened, "cpu", loading.stage_config(opened, (), "generate"))


@pytest.mark.parametrize("changes", [{"n_fft": 2**40}, {"n_mels": 10**9}, {"n_fft": 2**16 + 2}])
def test_a_representation_has_bounds(run: Path, changes: dict[str, int]) -> None:
    (run / "autoencoder" / "hashes.json").unlink()
    path = run / "autoencoder" / "model.json"
    meta = json.loads(path.read_text())
    meta["config"]["representation"] |= changes
    path.write_text(json.dumps(meta))
    opened = RunFolder.open(run)
    with pytest.raises(ConfigError, match=rf"{next(iter(changes))} is \d+, expected at most"):
        loading.load_codec(opened, "cpu", loading.stage_config(opened, (), "generate"))


def test_the_largest_representation_takes_little_memory_and_time(run: Path) -> None:
    (run / "autoencoder" / "hashes.json").unlink()
    path = run / "autoencoder" / "model.json"
    meta = json.loads(path.read_text())
    meta["config"]["representation"] |= {"n_fft": 2**16, "n_mels": 1024}
    path.write_text(json.dumps(meta))
    opened = RunFolder.open(run)
    config = loading.stage_config(opened, (), "generate")
    tracemalloc.start()
    begun = time.process_time()
    try:
        with pytest.raises(ArtifactError, match=r"model\.json describes a model of more than \d+ numbers"):
            loading.load_codec(opened, "cpu", config)
        assert tracemalloc.get_traced_memory()[1] < 300 * 2**20
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < 4


def test_weights_that_are_a_hole_are_refused_unread(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run / "autoencoder" / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(2**36)
    artifact = RunFolder.open(run).trained_autoencoder
    monkeypatch.setattr(artifacts, "read_whole", None)
    with pytest.raises(ArtifactError, match=r"model\.safetensors has 68719476736 bytes, but most of it is a hole"):
        artifact.weights()


def test_an_effect_of_a_run_reads_no_file_outside_it(run: Path) -> None:
    (run / "autoencoder" / "hashes.json").unlink()
    path = run / "autoencoder" / "model.json"
    meta = json.loads(path.read_text())
    meta["config"]["generate"]["effects"] = [{"kind": "convolution", "impulse_response": "/etc/passwd"}]
    path.write_text(json.dumps(meta))
    opened = RunFolder.open(run)
    with pytest.raises(ConfigError, match="the file /etc/passwd, outside the run; expected a file in the run"):
        loading.stage_config(opened, (), "generate")
    own = ["generate.effects=[{kind: convolution, impulse_response: /etc/passwd}]"]
    assert loading.stage_config(opened, own, "generate").generate.effects[0].kind == "convolution"


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 100_000, "[1]", "{", "nul", '{"format": 1, "labels": 3}'])
def test_json_of_a_stranger_is_an_error_with_a_name(artifact: Path, text: str) -> None:
    (artifact / "model.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"model\.json"):
        _ = Artifact.read(artifact).meta["weights_sha256"]


def test_json_that_lacks_a_key_names_file_and_key(artifact: Path) -> None:
    write_json(artifact / "model.json", {"format": 1, "inputs": {}})
    meta = read_json(artifact / "model.json")
    with pytest.raises(ArtifactError, match=r"model\.json has no 'latent_dim'"):
        _ = meta["latent_dim"]
    with pytest.raises(ArtifactError, match=r"model\.json has no 'corpus'"):
        _ = meta["inputs"]["corpus"]


def test_json_that_is_too_large_is_not_read(artifact: Path) -> None:
    with (artifact / "model.json").open("r+b") as file:
        file.truncate(2**36)
    with pytest.raises(ArtifactError, match="has 68719476736 bytes; expected at most"):
        Artifact.read(artifact)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1,2]\nb: &b [*a,*a]\nc: [*b,*b]\n",
        "a: &a\n  <<: *a\n",
        "[" * 30_000,
        "x: 1\n" * 20_000,
        "train_ae:\n  steps: 3\ntrain_ae:\n  steps: 4\n",
        "x: !!python/object/apply:os.system [true]\n",
        "{a: 1}: 2\n",
    ],
)
def test_yaml_of_a_stranger_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ActseqError, match=r"mine\.yaml"):
        load_preset(str(tmp_path / "mine.yaml"))


def test_the_configuration_of_a_run_is_a_preset(run: Path) -> None:
    made = RunFolder.open(run).read_config()
    again = load_preset(str(run / "config.yaml"), ["seed=9"])
    assert again.model_dump() == made.model_dump() | {"seed": 9}
    assert again.preset == made.preset != "config"
