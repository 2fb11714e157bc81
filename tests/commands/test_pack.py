"""A packed run: what is in it, what it still does, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from actseq_cli.main import main  # type: ignore[import-untyped, unused-ignore]
from click.testing import CliRunner

import actseq
from actseq import audio, pipeline
from actseq.commands import pack as packing
from actseq.errors import ArtifactError, ConfigError
from actseq.inference.request import Source
from actseq.pipeline import Compute, FromPrior, GenerationRequest, Output, Variations
from actseq.storage import run_folder
from actseq.storage.artifacts import load_tensors
from actseq.storage.run_folder import RunFolder

TESTS = Path(__file__).parents[1]
SOUND = TESTS / "old_runs" / "sounds" / "kick" / "kick-002.wav"
CPU = Compute("cpu", 1)
MODEL = ["hashes.json", "metrics.csv", "model.json", "model.safetensors"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A small trained run with one finished prior and one that was interrupted."""
    return Path(shutil.copytree(TESTS / "old_runs" / "drums", tmp_path / "drums"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_packed_run_has_the_models_and_nothing_of_the_sounds(run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("source: sounds", "source: /home/me/secret/sounds"))
    before = contents(run)
    result = pipeline.pack(run)
    packed = Path(result.packed)
    assert packed == run.with_name("drums-packed")
    assert contents(run) == before
    wanted = ["config.yaml", "hashes.json", "packed.json"]
    wanted += [f"{folder}/{name}" for folder in ("autoencoder", "priors/default") for name in MODEL]
    assert sorted(contents(packed)) == sorted(wanted)
    assert not any(b"secret" in content for content in contents(packed).values())
    assert result.left_out == ["corpus", "latents", "priors/half", "checkpoints"]
    assert result.bytes == sum(map(len, contents(packed).values()))
    assert result.bytes_of_run == sum(map(len, before.values()))
    shown = CliRunner().invoke(main, ["pack", str(run), "--out", str(run.with_name("other"))]).output
    assert "left out: corpus, latents, priors/half, checkpoints" in shown
    assert "can still reproduce sounds that they were trained on" in shown


def test_of_paths_a_packed_run_has_the_names_alone(run: Path) -> None:
    changes = {
        "labels: null": "labels: /home/me/secret/labels.csv",
        "effects: []": "effects: [{kind: convolution, impulse_response: /home/me/secret/room.wav, wet: 0.3}]",
    }
    config = run / "config.yaml"
    text, about = config.read_text(), json.loads((run / "autoencoder" / "model.json").read_text())
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)
    about["config"]["corpus"]["labels"] = "/home/me/secret/labels.csv"
    (run / "autoencoder" / "model.json").write_text(json.dumps(about))
    for path in run.rglob("hashes.json"):
        path.unlink()
    packed = Path(pipeline.pack(run).packed)
    assert not any(b"secret" in content for content in contents(packed).values())
    found = RunFolder(packed).read_config()
    assert str(found.corpus.labels) == "labels.csv"
    assert found.generate.effects[0].options["impulse_response"] == "room.wav"


def test_a_packed_run_works_as_the_whole_one(run: Path, tmp_path: Path) -> None:
    packed = Path(pipeline.pack(run, out=tmp_path / "packed").packed)
    before = contents(packed)
    # The label of a sound of the corpus is written by `encode`, and a packed run does not know it.
    new = tmp_path / "new.wav"
    audio.write(new, audio.load(SOUND)[0][:1500], 8000)

    def everything(given: Path, out: Path) -> dict[str, bytes]:
        pipeline.generate(given, GenerationRequest(n=2, label="kick", seed=3), Output(out), compute=CPU)
        continued = GenerationRequest(source=FromPrior(seed_audio=new), seconds=0.1, seed=3)
        pipeline.generate(given, continued, Output(out / "continued"), compute=CPU)
        pipeline.reconstruct(given, [new], out=out / "again", compute=CPU)
        pipeline.encode(given, [new], out=out / "code", compute=CPU)
        pipeline.decode(given, [out / "code"], out=out / "sound", compute=CPU)
        return {name: content for name, content in contents(out).items() if not name.endswith(".json")}

    assert everything(packed, tmp_path / "a") == everything(run, tmp_path / "b")
    fingerprints = [RunFolder.open(path).trained_autoencoder.fingerprint for path in (packed, run)]
    assert fingerprints[0] == fingerprints[1]
    assert pipeline.info(packed)["packed from"] == "drums"
    assert pipeline.verify(packed)["checked"] == ["autoencoder: weights", "priors/default: weights"]
    assert contents(packed) == before, "nothing is written into a packed run"


@pytest.mark.parametrize(
    "use",
    [
        lambda run: pipeline.extract_latents(run, compute=CPU),
        lambda run: pipeline.train_prior(run, name="new", compute=CPU),
        lambda run: pipeline.train_vocoder(run, compute=CPU),
        lambda run: pipeline.evaluate(run, compute=CPU),
        lambda run: pipeline.evaluate(run, prior="default", compute=CPU),
        lambda run: pipeline.plot(run, compute=CPU),
        lambda run: pipeline.report(run, compute=CPU),
        lambda run: pipeline.generate(run, GenerationRequest(source=FromPrior(prior="iid")), compute=CPU),
        lambda run: pipeline.generate(run, GenerationRequest(source=Variations(SOUND)), compute=CPU),
        lambda run: RunFolder(run).lock(run / "autoencoder").__enter__(),
    ],
)
def test_what_needs_the_sounds_refuses_a_packed_run(run: Path, use: Callable[[Path], Any]) -> None:
    packed = Path(pipeline.pack(run).packed)
    before = contents(packed)
    with pytest.raises(ArtifactError, match=r"drums-packed is packed: it has no corpus.*packed from \(drums\)$"):
        use(packed)
    assert contents(packed) == before


@pytest.mark.parametrize(("source", "option"), [(FromPrior(prior="iid"), "--prior iid"), (Variations(SOUND), "--vary")])
def test_the_option_that_a_voice_cannot_carry_out_is_named(source: Source, option: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=rf"^{option} needs latents: run .*; generate without {option}, explore"):
        pipeline.generate("voice:drumkit", GenerationRequest(source), Output(tmp_path / "new"), compute=CPU)


def test_a_changed_packed_run_is_noticed(run: Path) -> None:
    packed = Path(pipeline.pack(run).packed)
    (packed / "packed.json").unlink()
    with pytest.raises(ArtifactError, match=r"packed\.json is missing"):
        pipeline.verify(packed)


def test_packing_replaces_nothing_and_leaves_nothing_half_done(run: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").touch()
    with pytest.raises(ConfigError, match="taken exists; expected a new or an empty folder"):
        pipeline.pack(run, out=taken)
    (taken / "mine.txt").unlink()
    assert pipeline.pack(run, out=taken).packed == str(taken)
    weights = run / "priors" / "default" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ArtifactError, match="not the file that its JSON describes"):
        pipeline.pack(run, out=tmp_path / "damaged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drums", "taken"]


def test_16_bits_are_half_as_large_and_load_as_usual(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "LARGE", 16)
    half = Path(pipeline.pack(run, out=tmp_path / "half", half=True).packed)
    for part in ("autoencoder", "priors/default"):
        whole, stored = (load_tensors(folder / part / "model.safetensors") for folder in (run, half))
        large = {name for name, value in stored.items() if value.dtype == torch.float16}
        assert large
        assert not [name for name in large if name.startswith("representation.") or stored[name].numel() < 16]
        for name, value in whole.items():
            torch.testing.assert_close(stored[name].to(value.dtype), value, rtol=1e-3, atol=1e-6)
    pipeline.verify(half)
    sounds = []
    for path in (run, half):
        pipeline.reconstruct(path, [SOUND], out=tmp_path / f"of-{path.name}", compute=CPU)
        sounds.append(audio.load(tmp_path / f"of-{path.name}" / SOUND.name)[0])
    assert np.abs(sounds[0] - sounds[1]).max() < 0.02 * np.abs(sounds[0]).max()
    pipeline.generate(half, GenerationRequest(n=1, label="hat"), Output(tmp_path / "new"), compute=CPU)


def test_16_bits_hold_no_infinity() -> None:
    tensors = {"a.far": torch.full((2000,), 1e5), "a.near": torch.full((2000,), 2.0), "a.count": torch.arange(2000)}
    types = {name: value.dtype for name, value in packing._halved(tensors).items()}
    assert types == {"a.far": torch.float32, "a.near": torch.float16, "a.count": torch.int64}


# -- voices ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def voice(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A voice, `voice:tiny`, among those that come with actseq."""
    voices = tmp_path / "installed" / "voices"
    voices.mkdir(parents=True)
    monkeypatch.setattr(run_folder, "VOICES", voices)
    monkeypatch.chdir(tmp_path)
    return Path(pipeline.pack(run, out=voices / "tiny").packed)


def test_a_voice_is_used_by_its_name_and_nothing_is_written_into_it(voice: Path) -> None:
    before = contents(voice.parent)
    made = pipeline.generate("voice:tiny", GenerationRequest(n=1, label="hat"), compute=CPU)
    assert Path(made.folder).parent == Path("runs/voice-tiny/generated")
    assert json.loads(next(Path(made.folder).glob("*.json")).read_text())["run"] == "voice:tiny"
    assert len(actseq.load_run("voice:tiny", device="cpu").generate(1, seconds=0.1)[0]) == 800
    assert pipeline.verify("voice:tiny")["checked"]
    assert pipeline.info("voice:tiny")["packed from"] == "drums"
    with pytest.raises(ArtifactError, match="run voice:tiny is packed"):
        pipeline.extract_latents("voice:tiny", compute=CPU)
    assert pipeline.pack("voice:tiny").packed == str(Path("runs/voice-tiny-packed"))
    assert contents(voice.parent) == before


@pytest.mark.parametrize("name", ["voice:tinny", "voice:", "voice:../voices/tiny", "voice:tiny/"])
def test_a_voice_that_does_not_exist_is_named(voice: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=r"comes with actseq; (did you mean 'voice:tiny'\?|there are: voice:tiny)"):
        RunFolder.open(name)


def test_a_voice_says_what_works_without_a_corpus() -> None:
    with pytest.raises(ArtifactError, match="generate, explore, reconstruct, encode and decode work with a voice"):
        RunFolder.open("voice:drumkit").require_corpus()
