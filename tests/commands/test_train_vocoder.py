"""`train-vocoder`: what it records, who wins and who uses the winner; resuming; runs that do not fit."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from actseq_cli.main import main  # type: ignore[import-untyped, unused-ignore]
from click.testing import CliRunner

from actseq import pipeline
from actseq.commands.export import tell_what_is_left_out
from actseq.data.corpus import Corpus
from actseq.errors import ArtifactError, ConfigError
from actseq.evaluation import vocoder_choice
from actseq.evaluation.metrics import multi_resolution_stft
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import load_codec, stage_config
from actseq.progress import Silent
from actseq.storage.artifacts import load_tensors, read_json, write_artifact, write_json
from actseq.storage.run_folder import RunFolder
from actseq.training import timing
from actseq.vocoders.magnitude import LearnedMagnitude
from actseq.vocoders.neural import Neural
from actseq.vocoders.phase import Phase
from actseq.vocoders.wavenet import WaveNet

RATE = 8000
# All principal components: the autoencoder changes nothing, so a better vocoder gives better sound.
LOSSLESS = ["autoencoder.network={kind: pca}", "autoencoder.bottleneck={kind: plain}", "autoencoder.latent_dim=48"]
USE: dict[str, Any] = {"compute": pipeline.Compute("cpu", 1)}
UNTRAINED = "phase (untrained)"
SETTINGS = ["train_vocoder.steps=25", "train_vocoder.objective.autoencoder_share=0.5"]
WAVENET = "train_vocoder.network={kind: wavenet, width: 4, layers: 3, condition: 4, inner: 8, ahead: 32}"
STFT = "representation={kind: stft, n_fft: 256, hop_length: 64}"
TINY = ["train_vocoder.network={kind: neural, width: 8, inner: 8, blocks: 1}"]
TINY += ["train_vocoder.objective={kind: adversarial-vocoding, discriminator_width: 2}"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with a prior and a vocoder that was trained long enough to be better."""
    from actseq.data.drumkit import write_drumkit

    folder, threads = tmp_path_factory.mktemp("vocoders"), torch.get_num_threads()
    write_drumkit(folder / "sounds", n_per_kind=10, sample_rate=RATE, seed=0)
    run = str(folder / "run")
    pipeline.run_all(folder / "sounds", "smoke", run=run, overrides=[*LOSSLESS, "train_prior.steps=2"], **USE)
    pipeline.train_vocoder(run, overrides=SETTINGS, **USE)
    yield folder / "run"
    torch.set_num_threads(threads)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def perturb(folder: Path, amount: float) -> None:
    """Another artifact in place of the one that was trained: its weights and noise."""
    meta = read_json(folder / "model.json")
    generator = torch.Generator().manual_seed(0)
    tensors = load_tensors(folder / "model.safetensors")
    for name, value in tensors.items():
        if ".network." in name and ".normaliser." not in name:
            value += amount * torch.randn(value.shape, generator=generator)
    write_artifact(folder, tensors, {k: v for k, v in meta.items() if k not in ("format", "weights_sha256")})


# -- who wins ----------------------------------------------------------------------------------------------------------


def test_a_better_one_wins_and_is_used(finished: Path) -> None:
    found = read_json(finished / "vocoders" / "choice.json")
    fingerprint = pipeline.info(finished)["vocoders"]["default"]["fingerprint"]
    assert found["winner"] == {
        "name": "default",
        "vocoder": {"kind": "trained", "name": "default"},
        "fingerprint": fingerprint,
    }
    rows = found["candidates"]
    assert set(rows) == {UNTRAINED, "default"}
    below = rows["default"]["difference"]
    assert below["mean"] < 0
    assert found["reason"].startswith(
        f"chosen: default. On reconstructions its log-STFT distance is {-below['mean']:.3f} dB"
    )
    assert pipeline.info(finished)["chosen vocoder"] == "default"
    loaded = LoadedRun.open(finished, device="cpu")
    assert isinstance(loaded.codec.vocoder, Phase)
    assert isinstance(loaded.codec.vocoder.inversion, LearnedMagnitude)
    assert loaded.config.vocoder.model_dump() == {"kind": "trained", "name": "default"}


def test_figures_are_those_of_the_clips(finished: Path) -> None:
    """The recorded means are what the vocoders give, clip by clip, when asked by hand."""
    found = read_json(finished / "vocoders" / "choice.json")
    run = RunFolder.open(finished)
    for name, kind in {"default": "trained", UNTRAINED: "phase"}.items():
        codec, config = load_codec(run, "cpu", stage_config(run, [f"vocoder.kind={kind}"], "generate"))
        corpus = Corpus(run.corpus, config.corpus.level_dbfs)
        indices = corpus.indices("validation")
        clips = [corpus.waveform(i) for i in indices]
        distances = [multi_resolution_stft(clip, codec.reconstruct([clip])[0]).log_l1_db for clip in clips]
        row = found["candidates"][name]
        assert row["reconstructed"]["stft_log_l1_db"]["n"] == len(indices) == found["clips"]
        assert row["reconstructed"]["stft_log_l1_db"]["mean"] == pytest.approx(np.mean(distances), rel=1e-4)
        assert row["copy synthesis"]["stft_log_l1_db"]["mean"] == pytest.approx(np.mean(distances), rel=0.02)


def test_a_worse_one_loses_and_is_not_used(run: Path) -> None:
    perturb(run / "vocoders" / "default", 0.5)
    with pytest.raises(ArtifactError, match=r"'default', which run .* uses, is not the one that was compared"):
        LoadedRun.open(run, device="cpu")
    assert "is not the one that was compared" in pipeline.info(run)["chosen vocoder"]
    result = pipeline.train_vocoder(run, overrides=SETTINGS, **USE)["choice"]
    assert result == read_json(run / "vocoders" / "choice.json")
    assert result["winner"]["name"] == UNTRAINED
    assert result["winner"]["fingerprint"] is None
    assert result["candidates"]["default"]["difference"]["mean"] > 0
    assert f"chosen: {UNTRAINED}" in result["reason"]
    loaded = LoadedRun.open(run, device="cpu")
    assert (loaded.config.vocoder.kind, loaded.vocoder_folder) == ("phase", None)
    assert pipeline.info(run)["chosen vocoder"] == "untrained"
    asked = LoadedRun.open(run, device="cpu", overrides=["vocoder.kind=trained"])
    assert asked.vocoder_folder == run / "vocoders" / "default"


def test_scores_are_of_the_candidates_given(finished: Path) -> None:
    """The same comparison for any vocoders: the best of several, whatever their order."""
    run = RunFolder.open(finished)
    codec, config = load_codec(run, "cpu", stage_config(run, ["vocoder.kind=trained"], "generate"))
    assert isinstance(codec.vocoder, Phase)
    worse = LearnedMagnitude(codec.representation, width=8, inner=8, blocks=0, n_updates=0)
    with torch.no_grad():
        worse.network.write.bias.fill_(2.0)
    candidates = {
        "far": Phase(codec.representation, worse),
        "start": Phase(codec.representation),
        "good": codec.vocoder,
    }
    corpus = Corpus(run.corpus, config.corpus.level_dbfs)
    for order in (candidates, dict(reversed(candidates.items()))):
        scores = vocoder_choice.score(order, codec, corpus, corpus.indices("validation")[:3], Silent())
        assert vocoder_choice.decide(scores, "start") == "good"
        assert vocoder_choice.decide({name: scores[name] for name in ("start", "far")}, "start") == "start"
        assert vocoder_choice.figures(scores, "start")["far"]["difference"]["mean"] > 1


def made_up(**distances: list[float]) -> vocoder_choice.Scores:
    return {
        name: {way: {"stft_log_l1_db": list(values)} for way in vocoder_choice.WAYS}
        for name, values in distances.items()
    }


def test_ties_go_to_what_needs_no_training() -> None:
    assert vocoder_choice.decide(made_up(a=[1.0, 3.0], free=[2.0, 2.0]), "free") == "free"
    assert vocoder_choice.decide(made_up(a=[1.0, 2.9], free=[2.0, 2.0], b=[1.0, 2.8]), "free") == "b"
    found = vocoder_choice.figures(made_up(a=[1.0, 2.5], free=[2.0, 2.0]), "free")
    assert found["a"]["difference"]["mean"] == pytest.approx(-0.25)
    assert "difference" not in found["free"]


def test_what_is_slower_than_real_time_is_not_chosen() -> None:
    scores = made_up(a=[1.0, 1.5], free=[2.0, 2.0], b=[1.6, 1.7])
    found = vocoder_choice.figures(scores, "free")
    for name, speed in {"a": 0.99, "free": 0.5, "b": 1.0}.items():
        found[name]["times_real_time"] = speed
    assert [name for name in found if vocoder_choice.is_slow(found[name])] == ["a", "free"]
    assert vocoder_choice.decide(scores, "free") == "a"
    assert vocoder_choice.decide(scores, "free", ["a", "free"]) == "b"
    assert vocoder_choice.decide(scores, "free", ["a", "b", "free"]) == "free"
    assert "a is 0.750 dB below it and too slow, b is 0.350 dB below it" in vocoder_choice.reason(found, "free", "free")
    rows = vocoder_choice.table(found)
    assert [row[-1] for row in rows] == ["× real time", *(2 * ["0.99", "0.5", "1"])]


def test_what_has_no_score_on_a_clip_is_averaged_over_the_others() -> None:
    scores = made_up(free=[2.0, 3.0])
    scores["free"]["reconstructed"]["pesq_nb"] = [None, 4.0]
    scores["free"]["copy synthesis"]["pesq_nb"] = [None, None]
    found = vocoder_choice.figures(scores, "free")["free"]
    assert (found["reconstructed"]["pesq_nb"]["mean"], found["reconstructed"]["pesq_nb"]["n"]) == (4.0, 1)
    assert "pesq_nb" not in found["copy synthesis"]


def test_without_validation_clips_nothing_is_chosen_on_trust(tmp_path: Path) -> None:
    from actseq.data.drumkit import write_drumkit

    made = write_drumkit(tmp_path / "kit", n_per_kind=1, sample_rate=RATE, seed=0)
    (tmp_path / "sounds").mkdir()
    shutil.copy(made[0], tmp_path / "sounds")
    run = str(tmp_path / "run")
    pipeline.train_ae(tmp_path / "sounds", "smoke", run=run, overrides=LOSSLESS, **USE)
    result = pipeline.train_vocoder(run, overrides=["train_vocoder.steps=1"], **USE)
    assert result["choice"]["winner"]["name"] == UNTRAINED
    assert "no validation clips" in pipeline.choice_lines(result["choice"])[-1]
    assert LoadedRun.open(run, device="cpu").config.vocoder.kind == "phase"


# -- training ----------------------------------------------------------------------------------------------------------


class Cut(Silent):
    """Power fails at a step of the training."""

    def __init__(self, at: int) -> None:
        self.at = at

    def advance(self, done: float, figures: Any = None) -> None:
        if done == self.at:
            raise RuntimeError("power cut")


def test_a_cut_training_ends_as_one_that_ran_through(run: Path) -> None:
    budget = ["train_vocoder.steps=6"]
    pipeline.train_vocoder(run, name="through", overrides=budget, **USE)
    with pytest.raises(RuntimeError, match="power cut"):
        pipeline.train_vocoder(run, name="cut", overrides=budget, compute=pipeline.Compute("cpu", 1, Cut(5)))
    assert sorted(path.name for path in (run / "vocoders" / "cut" / "checkpoints").glob("step-*")) == ["step-00000003"]
    pipeline.train_vocoder(run, name="cut", overrides=budget, **USE)
    for name in ("model.safetensors", "model.json", "metrics.csv"):
        assert (run / "vocoders" / "cut" / name).read_bytes() == (run / "vocoders" / "through" / name).read_bytes()
    other = pipeline.train_vocoder(run, name="other", overrides=budget, seed=1, **USE)
    assert other["fingerprint"] != pipeline.info(run)["vocoders"]["cut"]["fingerprint"]


def test_a_finished_one_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The better of both is kept, and the vocoders of the run are compared again."""
    monkeypatch.setattr(timing, "CALIBRATION_SECONDS", 0.0)
    model = run / "vocoders" / "default" / "model.json"
    before, choice = read_json(model), read_json(run / "vocoders" / "choice.json")
    command = ["train-vocoder", str(run), "--more", "0.01", "--device", "cpu", "--threads", "1", "--json"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    found, after = json.loads(result.stdout), read_json(model)
    taken = "the new one is taken" in result.stderr
    assert taken or "no better after" in result.stderr
    assert (after["best_step"] > before["total_steps"]) == taken == (after["total_steps"] > before["total_steps"])
    assert taken or after == before
    assert {name: found[name] for name in ("figures", "total_steps")} == {
        name: after[name] for name in ("figures", "total_steps")
    }
    candidates = [one["candidates"]["default"]["fingerprint"] for one in (choice, found["choice"])]
    assert candidates[1] == found["fingerprint"]
    assert (candidates[0] != candidates[1]) == taken
    pipeline.verify(run)
    assert LoadedRun.open(run, device="cpu").vocoder_folder == run / "vocoders" / "default"
    other = CliRunner().invoke(main, [*command, "--name", "other"])
    assert other.exit_code == 1
    assert "has no vocoder 'other'" in other.stderr


def test_again_does_nothing_and_other_settings_are_refused(run: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    pipeline.train_vocoder(run, overrides=SETTINGS, **USE)
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before
    with pytest.raises(ConfigError, match=r"vocoder default .* made with other settings: train_vocoder\.steps"):
        pipeline.train_vocoder(run, overrides=[*SETTINGS, "train_vocoder.steps=26"], **USE)
    with pytest.raises(ConfigError, match="train-vocoder cannot set 'train_ae'"):
        pipeline.train_vocoder(run, overrides=["train_ae.batch_size=3"], **USE)
    with pytest.raises(ConfigError, match="cannot be the name of a vocoder"):
        pipeline.train_vocoder(run, name="a/b", **USE)


def test_a_neural_one_trains_against_discriminators(run: Path) -> None:
    result = pipeline.train_vocoder(run, name="neural", overrides=[*TINY, "train_vocoder.steps=4"], **USE)
    assert set(result["figures"]) == {"feature_db"}
    assert not [name for name in load_tensors(run / "vocoders/neural/model.safetensors") if "discriminator" in name]
    assert "neural" in result["choice"]["candidates"]
    loaded = LoadedRun.open(run, device="cpu", overrides=["vocoder.kind=trained", "vocoder.name=neural"])
    assert isinstance(loaded.codec.vocoder, Neural)
    made = loaded.decode(np.zeros((5, 48), np.float32))
    assert made.shape == (5 * 2 * 64,)
    assert np.isfinite(made).all()
    unfit = [TINY[0], "train_vocoder.objective.kind=magnitude"]
    with pytest.raises(ConfigError, match="neural with objective magnitude; expected objective adversarial-vocoding"):
        pipeline.train_vocoder(run, name="unfit", overrides=unfit, **USE)
    assert not (run / "vocoders" / "unfit").exists()


def test_a_wavenet_trains_resumes_and_is_used(run: Path, tmp_path: Path) -> None:
    overrides = [WAVENET, "train_vocoder.steps=6"]
    result = pipeline.train_vocoder(run, name="whole", overrides=overrides, **USE)
    assert set(result["figures"]) == {"loss", "error_db"}
    assert set(result["choice"]["candidates"]) == {UNTRAINED, "default", "whole"}
    assert all(row["times_real_time"] > 0 for row in result["choice"]["candidates"].values())
    with pytest.raises(RuntimeError, match="power cut"):
        pipeline.train_vocoder(run, name="cut", overrides=overrides, compute=pipeline.Compute("cpu", 1, Cut(5)))
    pipeline.train_vocoder(run, name="cut", overrides=overrides, **USE)
    for name in ("model.safetensors", "model.json", "metrics.csv"):
        assert (run / "vocoders" / "cut" / name).read_bytes() == (run / "vocoders" / "whole" / name).read_bytes()
    asked = ["vocoder.kind=trained", "vocoder.name=whole"]
    loaded = LoadedRun.open(run, device="cpu", overrides=asked)
    assert isinstance(loaded.codec.vocoder, WaveNet)
    made = loaded.decode(np.zeros((5, 48), np.float32))
    assert made.shape == (5 * 2 * 64,)
    assert np.array_equal(
        made, LoadedRun.open(run, device="cpu", overrides=asked).decode(np.zeros((5, 48), np.float32))
    )
    settings = [word for one in asked for word in ("--set", one)]
    sounds = tmp_path / "sounds"
    for command in (("generate", run, "--seconds", 0.2), ("reconstruct", run, sounds / "clip-01.wav")):
        again = []
        for folder in (sounds, tmp_path / "again"):
            words = [*command, "--out", folder / command[0] if command[0] == "reconstruct" else folder, *settings]
            words += ["--device", "cpu", "--json", *(["--seed", 1] if command[0] == "generate" else [])]
            found = CliRunner().invoke(main, list(map(str, words)), catch_exceptions=False)
            assert found.exit_code == 0, found.output
            again.append(Path(json.loads(found.stdout)["files"][0]).read_bytes())
        assert again[0] == again[1]


def test_a_wavenet_is_refused_where_its_features_have_no_magnitudes(finished: Path, tmp_path: Path) -> None:
    sounds = finished.parent / "sounds"
    pipeline.train_ae(sounds, "smoke", run=str(tmp_path / "run"), overrides=[*LOSSLESS, STFT], **USE)
    with pytest.raises(ConfigError, match=r"wavenet: only log-magnitude features, such as mel and linear"):
        pipeline.train_vocoder(tmp_path / "run", overrides=[WAVENET], **USE)


def test_an_export_names_the_vocoder_that_it_does_not_hold(run: Path) -> None:
    pipeline.train_vocoder(run, name="samples", overrides=[WAVENET, "train_vocoder.steps=1"], **USE)
    loaded = LoadedRun.open(run, device="cpu", overrides=["vocoder.kind=trained", "vocoder.name=samples"])
    said: list[str] = []

    class Told(Silent):
        def warn(self, text: str) -> None:
            said.append(text)

    tell_what_is_left_out(loaded, "onnx", Told())
    assert "vocoder samples is not exported; phase takes its place" in said


# -- use ---------------------------------------------------------------------------------------------------------------


def test_commands_use_the_winner_and_say_so(run: Path, tmp_path: Path) -> None:
    def read(*words: object) -> dict[str, Any]:
        result = CliRunner().invoke(main, [*map(str, words), "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    fingerprint = read("info", run)["vocoders"]["default"]["fingerprint"]
    device = ("--threads", 1, "--device", "cpu")
    named = {"kind": "trained", "name": "default"}
    for settings, expected in ((("--seed", 1), named), (("--set", "vocoder.kind=phase"), "phase")):
        made = read("generate", run, "--seconds", 0.2, "--out", tmp_path / str(settings[1]), *settings, *device)
        note = json.loads(Path(made["files"][0]).with_suffix(".json").read_text())
        used = note["settings"]["vocoder"]
        assert (used if expected == named else used["kind"]) == expected
        assert note["fingerprints"].get("vocoder") == (fingerprint if expected == named else None)
    assert read("reconstruct", run, made["files"][0], "--out", tmp_path / "again", *device)["vocoder"] == named
    assert "vocoder default" in Path(read("report", run, "--n", 1, *device)["page"]).read_text(encoding="utf-8")
    assert "vocoders/default: weights" in read("verify", run)["checked"]
    again = ["train-vocoder", str(run), "--steps", "25", "--set", SETTINGS[1], *map(str, device)]
    shown = CliRunner().invoke(main, again)
    assert "chosen: default." in shown.stdout
    assert UNTRAINED in shown.stdout


def test_a_vocoder_of_another_run_is_refused(run: Path, finished: Path, tmp_path: Path) -> None:
    sounds = finished.parent / "sounds"
    for what, changes in (
        ("corpus", ["seed=1"]),
        ("autoencoder", ["autoencoder.latent_dim=47"]),
        ("representation", ["representation.floor=0.001"]),
    ):
        other = tmp_path / what
        pipeline.train_ae(sounds, "smoke", run=str(other), overrides=[*LOSSLESS, *changes], **USE)
        shutil.copytree(run / "vocoders", other / "vocoders")
        with pytest.raises(ArtifactError, match="was compared with another autoencoder, corpus or representation"):
            LoadedRun.open(other, device="cpu")
        with pytest.raises(ArtifactError, match=f"vocoder default was trained with another {what}"):
            LoadedRun.open(other, device="cpu", overrides=["vocoder.kind=trained"])


def test_without_the_autoencoder_a_vocoder_does_not_depend_on_it(run: Path) -> None:
    alone = ["train_vocoder.steps=1", "train_vocoder.objective.autoencoder_share=0"]
    half = ["train_vocoder.steps=1", "train_vocoder.objective.autoencoder_share=0.5"]
    for name, overrides, expected in (("alone", alone, set()), ("half", half, {"autoencoder"})):
        pipeline.train_vocoder(run, name=name, overrides=overrides, **USE)
        made_from = read_json(run / "vocoders" / name / "model.json")["inputs"]
        assert set(made_from) == {"corpus", "representation"} | expected


def test_what_is_damaged_or_missing_is_named(run: Path) -> None:
    def opened(name: str) -> LoadedRun:
        return LoadedRun.open(run, device="cpu", overrides=["vocoder.kind=trained", f"vocoder.name={name}"])

    with pytest.raises(ArtifactError, match="no vocoder 'defualt'; did you mean 'default'"):
        opened("defualt")
    folder = run / "vocoders" / "default"
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="not the file that its JSON describes"):
        opened("default")
    with pytest.raises(ArtifactError, match="1 things"):
        pipeline.verify(run)
    (folder / "model.safetensors").write_bytes(whole)
    tensors, meta = load_tensors(folder / "model.safetensors"), read_json(folder / "model.json")
    tensors.pop("vocoder.network.write.bias")
    write_artifact(folder, tensors, {k: v for k, v in meta.items() if k not in ("format", "weights_sha256")})
    with pytest.raises(ArtifactError, match="do not fit their own model"):
        opened("default")
    shutil.rmtree(folder)
    missing = f"'default', which run run uses, is missing; actseq train-vocoder {re.escape(str(run))} choos"
    with pytest.raises(ArtifactError, match=missing):
        LoadedRun.open(run, device="cpu")
    untrained = LoadedRun.open(run, device="cpu", overrides=["vocoder.kind=phase"])
    assert untrained.config.vocoder.kind == "phase"
    with pytest.raises(ArtifactError, match=r"no finished vocoder; run actseq train-vocoder .* first"):
        opened("default")
    write_json(run / "vocoders" / "choice.json", {"inputs": {}, "winner": {"vocoder": {"kind": "phase"}}})
    assert LoadedRun.open(run, device="cpu").config.vocoder.kind == "phase"


def test_run_trains_one_too_where_asked(finished: Path, tmp_path: Path) -> None:
    steps = ["train_ae.steps=2", "train_prior.steps=2", "train_vocoder.steps=2"]
    sounds, made = finished.parent / "sounds", tmp_path / "run"
    options = [part for step in steps for part in ("--set", step)]
    arguments = ["run", sounds, "--preset", "smoke", "--run", made, "--vocoder", "--device", "cpu", "--json", *options]
    result = CliRunner().invoke(main, [str(part) for part in arguments])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["vocoder"]["choice"] == read_json(RunFolder(made).choice)
    assert (made / "vocoders" / "default" / "model.json").is_file()
    # What cannot have one is refused before any work is done.
    with pytest.raises(ConfigError, match="mel and linear"):
        pipeline.run_all(
            sounds, "smoke", run=str(tmp_path / "stft"), vocoder=True, overrides=["representation={kind: stft}"], **USE
        )
    assert not (tmp_path / "stft").exists()


@pytest.mark.parametrize("half", [False, True])
def test_a_packed_run_uses_its_trained_vocoder(run: Path, half: bool) -> None:
    packed = pipeline.pack(run, half=half).packed
    assert pipeline.info(packed)["chosen vocoder"] == "default"
    assert pipeline.verify(packed)["checked"] == [
        "autoencoder: weights",
        "vocoders: choice",
        "priors/default: weights",
        "vocoders/default: weights",
    ]
    loaded = LoadedRun.open(packed, device="cpu")
    assert loaded.config.vocoder.options["name"] == "default"
    assert len(loaded.generate(1, seconds=0.2)[0]) == round(0.2 * RATE)
