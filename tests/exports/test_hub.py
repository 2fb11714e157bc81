"""Push and pull, against a server in this process."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from actseq_cli.main import main  # type: ignore[import-untyped, unused-ignore]
from click.testing import CliRunner, Result
from exports.hub_server import Hub

import actseq
from actseq import pipeline
from actseq.errors import ArtifactError, ConfigError

DRUMS = Path(__file__).parents[1] / "old_runs" / "drums"
TOKEN = "hf_" + "secret" * 5


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


def command(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def test_a_pushed_run_comes_back_and_makes_the_same_sounds(hub: Hub) -> None:
    pushed = command("push", str(DRUMS), "me/kit", "--license", "cc-by-4.0")
    assert pushed.exit_code == 0, f"{pushed.output} {pushed.exception!r}"
    assert f"Bearer {TOKEN}" in hub.tokens
    assert TOKEN not in pushed.output
    files = hub.repositories["me/kit"]
    assert {"config.yaml", "packed.json", "README.md", "autoencoder/model.safetensors"} <= set(files)
    assert not [path for path in files if path.startswith(("corpus/shard", "latents/shard", "generated/"))]

    pulled = command("pull", "me/kit", "--run", "back")
    assert pulled.exit_code == 0, f"{pulled.output} {pulled.exception!r}"
    assert TOKEN not in pulled.output
    assert not list(Path("runs").glob(".*"))
    made = [actseq.load_run(run, device="cpu").generate(seed=3, seconds=0.2)[0] for run in (DRUMS, "back")]
    assert np.array_equal(*made)


def test_the_card_says_what_the_run_is(hub: Hub) -> None:
    pipeline.push(DRUMS, "me/kit", licence="mit")
    text = hub.repositories["me/kit"]["README.md"].decode()
    front, body = text.removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(front) == {"license": "mit", "library_name": "actseq", "tags": ["audio", "actseq"]}
    loaded = actseq.load_run(DRUMS, device="cpu")
    for wanted in ("can reproduce sounds", "actseq pull me/kit", f"{loaded.sample_rate} Hz", *loaded.labels):
        assert wanted in body
    figures = loaded.run.priors.read(None).meta["figures"]
    assert all(f"{name} {value:.4g}" in body for name, value in figures.items())


def test_the_licence_is_asked_and_names_are_checked(hub: Hub) -> None:
    assert "--license" in command("push", str(DRUMS), "me/kit").output
    with pytest.raises(ConfigError, match="not the name of a repository"):
        pipeline.push(DRUMS, "kit", licence="mit")
    with pytest.raises(ConfigError, match="--license is"):
        pipeline.push(DRUMS, "me/kit", licence="my own!")
    with pytest.raises(ConfigError, match="not the name of a repository"):
        pipeline.pull("../kit")
    assert not hub.repositories


def test_what_actseq_did_not_write_is_not_replaced(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["me/other"] = {"pytorch_model.bin": b"mine"}
    with pytest.raises(ArtifactError, match="actseq did not write"):
        pipeline.push(DRUMS, "me/other", licence="mit")
    assert hub.repositories["me/other"] == {"pytorch_model.bin": b"mine"}
    (tmp_path / "runs" / "other").mkdir(parents=True)
    with pytest.raises(ConfigError, match="exists"):
        pipeline.pull("me/other")


def test_a_strangers_run_is_refused_before_it_gets_its_name(hub: Hub) -> None:
    pipeline.push(DRUMS, "me/kit", licence="mit")
    files = hub.repositories["me/kit"]
    files["evil.pkl"] = b"cos\nsystem\n"
    good = dict(files)
    weights = bytearray(files["autoencoder/model.safetensors"])
    weights[-1] ^= 1
    for path, content in (
        ("autoencoder/model.safetensors", bytes(weights)),
        ("autoencoder/model.safetensors", b"\x80\x04pickle"),
        ("config.yaml", b"!!python/object/apply:os.system [ls]"),
    ):
        files[path] = content
        with pytest.raises((ArtifactError, ConfigError)):
            pipeline.pull("me/kit")
        assert not list(Path("runs").glob("*")) + list(Path("runs").glob(".*"))
        files.update(good)
    pipeline.pull("me/kit")
    assert not Path("runs/kit/evil.pkl").exists()
    shutil.rmtree("runs/kit")
    for name in ("packed.json", "config.yaml"):
        files.pop(name)
        with pytest.raises(ArtifactError, match=f"has no .*{name}"):
            pipeline.pull("me/kit")


def test_refusals_of_the_server_are_one_line_without_the_token(hub: Hub) -> None:
    with pytest.raises(ArtifactError, match=r"refuses me/none \(404\)"):
        pipeline.pull("me/none")
    hub.refuses = True
    found = command("push", str(DRUMS), "me/kit", "--license", "mit")
    assert found.exit_code == 1
    assert "Hugging Face refuses me/kit (401)" in found.output
    assert TOKEN not in found.output


def test_a_server_that_does_not_answer_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi, errors

    def silent(*_: object, **__: object) -> None:
        raise getattr(errors, "HTTPError")("connection refused")  # noqa: B009

    monkeypatch.setattr(HfApi, "list_repo_files", silent)
    with pytest.raises(ArtifactError, match="does not answer"):
        pipeline.pull("me/kit")
