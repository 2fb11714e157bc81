"""`restore` from the command line: trained on one label with another as noise; runs that are refused, and the error."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped, unused-ignore]
import torch
from actseq_cli.main import main  # type: ignore[import-untyped, unused-ignore]
from click.testing import CliRunner, Result
from torch import Tensor, nn

from actseq import audio, build, pipeline, registry
from actseq.commands.autoencoder_data import divide_labels
from actseq.config import Config, load_preset
from actseq.corruptions.base import Corrupted
from actseq.errors import ConfigError
from actseq.evaluation import metrics
from actseq.inference.loaded_run import LoadedRun
from actseq.storage.artifacts import read_json

RATE = 8000
TINY = ["corpus.sample_rate=8000", "corpus.segment_seconds=0.25", "representation.n_fft=256"]
TINY += ["representation.hop_length=128", "autoencoder.network.width=32", "autoencoder.network.inner=48"]
TINY += ["train_ae.steps=150", "train_ae.validations=2", "train_ae.validation_batches=1", "train_ae.ema=0.95"]
TINY += ["train_ae.corruption={kind: noise, snr_db: [0, 10]}"]
USE = ["--device", "cpu", "--threads", "1"]
TARGETS = "train_ae.targets=[voice]"


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def settings(*texts: str) -> list[str]:
    return [word for text in (*TINY, *texts) for word in ("--set", text)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[Path]:
    """`sounds` with digits as `voice` and others' hits as `drum`; `run`, trained for seconds to tell them apart."""
    from actseq.data.drumkit import write_drumkit

    threads, made = torch.get_num_threads(), tmp_path_factory.mktemp("restore")
    for i, path in enumerate(audio.find(data_dir / "digits_fsdd")[::100]):
        audio.write(made / "sounds" / "voice" / f"{i}.wav", audio.load(path)[0], RATE)
    write_drumkit(made / "kit", n_per_kind=3, sample_rate=RATE, seed=0)
    for i, path in enumerate(audio.find(made / "kit")):
        audio.write(made / "sounds" / "drum" / f"{i}.wav", audio.load(path)[0], RATE)
    words = ["--preset", "restore", "--run", made / "run", *settings(TARGETS), *USE, "--json"]
    result = invoke("run", made / "sounds", *words)
    assert result.exit_code == 0, result.output
    yield made
    torch.set_num_threads(threads)


def noisy(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Two digits with white noise at 5 dB, quiet as a whole; and without it."""
    clean = np.concatenate([audio.load(path)[0] for path in audio.find(folder / "sounds" / "voice")[:2]])
    hiss = np.random.default_rng(0).standard_normal(len(clean))
    hiss *= np.sqrt(np.mean(clean**2) / np.mean(hiss**2)) * 10 ** (-5 / 20)
    return (0.1 * (clean + hiss)).astype(np.float32), 0.1 * clean


def test_run_stops_where_there_is_no_more_to_train(folder: Path) -> None:
    meta = read_json(folder / "run" / "autoencoder" / "model.json")
    assert meta["config"]["train_ae"]["targets"] == ["voice"]
    assert meta["total_steps"] == 150
    assert not meta["generative"]
    assert not (folder / "run" / "latents").exists()
    again = invoke("run", folder / "sounds", "--preset", "restore", "--run", folder / "run", *settings(TARGETS), *USE)
    assert again.exit_code == 0, again.output
    assert f"next: actseq restore {folder / 'run'}" in again.output
    assert "latents and prior are left out" in again.output


def test_files_come_out_with_less_noise_at_their_own_level(folder: Path, tmp_path: Path) -> None:
    dirty, clean = noisy(folder)
    soundfile.write(tmp_path / "in.wav", dirty, RATE, subtype="FLOAT")
    result = invoke("restore", folder / "run", tmp_path / "in.wav", "--out", tmp_path / "out", *USE, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["files"] == [str(tmp_path / "out" / "in.wav")]
    made, _ = audio.load(tmp_path / "out" / "in.wav")
    assert len(made) == len(clean)
    before, after = (metrics.si_sdr_db(clean, waveform) for waveform in (dirty, made))
    assert before is not None
    assert after is not None
    assert before == pytest.approx(5, abs=0.3)
    assert after > before + 2
    assert 0.7 < np.sqrt(np.mean(made**2) / np.mean(clean**2)) < 1.3
    expected = LoadedRun.open(folder / "run", device="cpu").reconstruct(dirty)
    np.testing.assert_allclose(made, expected, atol=1.01 / 32768)


def test_the_same_run_again_has_the_same_weights(folder: Path, tmp_path: Path) -> None:
    texts = [*TINY, TARGETS, "train_ae.steps=6"]
    weights = []
    for name in ("a", "b"):
        use: dict[str, Any] = {"run": str(tmp_path / name), "overrides": texts, "compute": pipeline.Compute("cpu", 1)}
        pipeline.train_ae(folder / "sounds", "restore", **use)
        weights.append(read_json(tmp_path / name / "autoencoder" / "model.json")["weights_sha256"])
    assert weights[0] == weights[1]


def test_evaluation_tells_what_was_taken_away(folder: Path) -> None:
    result = invoke("evaluate", folder / "run", "--n", 2, *USE, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    voices = len(audio.find(folder / "sounds" / "voice"))
    assert found["clips_in_split"] == max(1, round(0.1 * voices))  # those of drums are not asked for
    rows = found["restoration"]
    assert set(rows) == {"corrupted", "restored"}
    assert rows["restored"]["si_sdr_db"]["mean"] > rows["corrupted"]["si_sdr_db"]["mean"]
    assert "reconstructed from a draw" not in found["fidelity"]
    made = json.loads(invoke("report", folder / "run", "--n", 1, "--json", *USE).stdout)
    page = Path(made["page"]).read_text(encoding="utf-8")
    assert '<th scope="col">restoration</th>' in page
    assert "SI-SDR" in page
    assert "nothing is generated: this run restores sounds, and its latents do not hold them" in made["notes"]


@pytest.mark.parametrize(
    "words",
    [
        ("extract-latents", "RUN"),
        ("train-prior", "RUN"),
        ("generate", "RUN"),
        ("generate", "RUN", "--vary", "a.wav"),
        ("generate", "RUN", "--prior", "iid"),
        ("report", "RUN", "--prior", "iid"),
        ("evaluate", "RUN", "--prior", "iid"),
    ],
    ids=" ".join,
)
def test_what_needs_latents_is_refused_and_led_to_restore(folder: Path, words: tuple[str, ...]) -> None:
    result = invoke(*(folder / "run" if word == "RUN" else word for word in words), *USE)
    assert result.exit_code == 1
    assert "skip connections" in result.output
    assert f"actseq restore {folder / 'run'} PATH" in result.output


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["train_ae.targets=[voices]"], "names 'voices', but no training clip has that label; did you mean 'voice'?"),
        (
            ["train_ae.corruption={kind: noise, white_weight: 0, coloured_weight: 0}"],
            "train_ae.targets is null: all clips are learned",
        ),
        (
            [
                "train_ae.targets=[voice, drum]",
                "train_ae.corruption={kind: mix, shares: {noise: 1.0}, options: {noise: "
                "{white_weight: 0, coloured_weight: 0}}}",
            ],
            "no noise of other classes (only clips of voice, drum)",
        ),
    ],
)
def test_labels_that_leave_no_noise_are_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, texts: list[str], message: str
) -> None:
    words = ("train-ae", folder / "sounds", "--preset", "restore", "--run", tmp_path / "run", *settings(*texts), *USE)
    result = invoke(*words)
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "run").exists()


MIXED = "train_ae.corruption={kind: mix, shares: {noise: 0.7, gaps: 0.5}, options: {noise: {changed: 0.5}}}"


def test_one_folder_of_clean_sounds_is_enough(folder: Path, tmp_path: Path) -> None:
    words = ["--preset", "restore", "--run", tmp_path / "run", *settings(MIXED, "autoencoder.network.adds=true"), *USE]
    result = invoke("train-ae", folder / "sounds" / "voice", *words)
    assert result.exit_code == 0, result.output
    assert "all noise is synthesised, since there is none of other classes" in result.output
    dirty, clean = noisy(folder)
    soundfile.write(tmp_path / "in.wav", dirty, RATE, subtype="FLOAT")
    made = invoke("restore", tmp_path / "run", tmp_path / "in.wav", "--out", tmp_path / "out", *USE)
    assert made.exit_code == 0, made.output
    before, after = (metrics.si_sdr_db(clean, one) for one in (dirty, audio.load(tmp_path / "out" / "in.wav")[0]))
    assert before is not None
    assert after is not None
    assert after > before + 2
    found = invoke("evaluate", tmp_path / "run", "--split", "validation", *USE, "--json")
    assert set(json.loads(found.stdout)["restoration"]) == {"corrupted", "restored"}


def test_a_corruption_of_another_kind_that_needs_noise_is_refused_without(monkeypatch: pytest.MonkeyPatch) -> None:
    class Foreign(nn.Module):
        works_on_grains, uses_noise_clips = False, True

        def __init__(self, sample_rate: int) -> None:
            super().__init__()

        def corrupt(self, waveform: Tensor, noise: Tensor) -> Corrupted:
            return Corrupted(waveform + noise, waveform)

        def perturb(self, output: Tensor) -> Tensor:
            return output

    monkeypatch.setitem(registry.CORRUPTIONS, "foreign", Foreign)
    config = build.complete(load_preset("restore", ["train_ae.corruption={kind: foreign}"]))
    analysis = build.build_representation(config)
    objective = build.build_autoencoding(config, build.build_autoencoder(config, analysis), analysis, 256)
    with pytest.raises(ConfigError, match="no noise of other classes"):
        divide_labels(["voice"], config, objective)
    assert divide_labels(["voice", "rain"], with_targets(config), objective) == (("voice",), ["rain"])


def with_targets(config: Config) -> Config:
    return config.model_copy(update={"train_ae": config.train_ae.model_copy(update={"targets": ("voice",)})})


def test_a_damage_that_a_run_does_not_help_against_is_named(folder: Path, tmp_path: Path) -> None:
    measured = read_json(folder / "run" / "autoencoder" / "model.json")["restoration"]
    assert list(measured) == ["noise"]
    assert measured["noise"]["after"] < measured["noise"]["before"]
    words = [*settings(TARGETS, MIXED, "train_ae.steps=1"), *USE]
    result = invoke("train-ae", folder / "sounds", "--preset", "restore", "--run", tmp_path / "run", *words)
    assert result.exit_code == 0, result.output
    measured = read_json(tmp_path / "run" / "autoencoder" / "model.json")["restoration"]
    assert list(measured) == ["noise", "gaps"]
    worse = [name for name, one in measured.items() if one["after"] >= one["before"]]
    assert worse, "one step makes no restoration"
    made = invoke("restore", tmp_path / "run", folder / "sounds" / "voice" / "0.wav", "--out", tmp_path / "out", *USE)
    for name in ("noise", "gaps"):
        assert (f"does not help against {name} (log-mel distance" in " ".join(made.output.split())) == (name in worse)


# -- gaps filled by a generative run -----------------------------------------------------------------------------------

FLOW = ["prior.network.kind=clip-flow", "prior.network.width=16", "prior.network.layers=1", "prior.network.heads=2"]
FLOW += ["prior.network.inner=24", "prior.network.steps=2", "train_prior.steps=2", "train_ae.steps=2"]


@pytest.fixture(scope="module")
def generative(folder: Path) -> Path:
    """A run with two priors: `default` takes a suffix, `lstm` takes none."""
    made, compute = folder / "generative", pipeline.Compute("cpu", 1)
    pipeline.run_all(folder / "sounds" / "voice", "smoke", run=str(made), overrides=FLOW, compute=compute)
    pipeline.train_prior(made, name="lstm", overrides=["prior.network.kind=lstm", "train_prior.steps=1"])
    return made


def with_gaps(folder: Path, path: Path, rate: int = RATE) -> list[tuple[float, float]]:
    """Write two digits with two gaps of 50 ms; where they are, in seconds."""
    clean = np.concatenate([audio.load(file)[0] for file in audio.find(folder / "sounds" / "voice")[:2]])
    clean = audio.resample(clean, RATE, rate)
    loud = [int(at) for at in np.argsort(-np.abs(clean)) if 0.1 * rate < at < len(clean) - 0.2 * rate]
    first = loud[0]
    second = next(at for at in loud if abs(at - first) > 0.15 * rate)
    length = round(0.05 * rate)
    for at in (first, second):
        clean[at : at + length] = 0
    soundfile.write(path, clean, rate, subtype="FLOAT")
    return [(at / rate, (at + length) / rate) for at in sorted((first, second))]


@pytest.mark.parametrize("rate", [RATE, 11025])
def test_gaps_are_found_printed_and_filled(folder: Path, generative: Path, tmp_path: Path, rate: int) -> None:
    gaps = with_gaps(folder, tmp_path / "in.wav", rate)
    words = ("restore", folder / "run", tmp_path / "in.wav", "--out")
    plain = invoke(*words, tmp_path / "plain", *USE)
    assert plain.exit_code == 0, plain.output
    result = invoke(*words, tmp_path / "out", "--gaps", generative, *USE)
    assert result.exit_code == 0, result.output
    beside = read_json(tmp_path / "out" / "in.json")
    found = [gap["gap_seconds"] for gap in beside["gaps"]]
    np.testing.assert_allclose(found, gaps, atol=0.001)
    assert (beside["gaps_filled_by"]["run"], beside["gaps_filled_by"]["prior"]) == ("generative", "default")
    said = " ".join(result.output.split())
    loaded = LoadedRun.open(generative, device="cpu")
    size, fade = loaded.codec.samples_per_latent, 0.03
    for gap, (begin, end) in zip(beside["gaps"], found, strict=True):
        first, last = gap["regenerated_seconds"]
        assert first * RATE % size == 0
        assert first <= begin < end <= last
        assert f"filling the gap from {begin:.4g} to {end:.4g} s" in said
        assert f"{first:.4g} to {last:.4g} s, rounded outward" in said
    made, before = (audio.load(tmp_path / name / "in.wav")[0] for name in ("out", "plain"))
    assert len(made) == len(before)
    at = np.arange(len(made)) / RATE
    inside = np.any([(at >= begin) & (at < end) for begin, end in found], axis=0)
    near = np.any([(at >= begin - fade) & (at < end + fade) for begin, end in found], axis=0)
    assert np.abs(made - before)[inside].max() > 1e-3
    np.testing.assert_array_equal(made[~near], before[~near])


def test_given_gaps_are_filled_by_the_seed(folder: Path, generative: Path, tmp_path: Path) -> None:
    with_gaps(folder, tmp_path / "in.wav")
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        words = ("--gaps", generative, "--prior", "default", "--gap", "0.3:0.35", "--gap", "0.1:0.15", "--seed", seed)
        words += ("--temperature", 1)
        result = invoke("restore", folder / "run", tmp_path / "in.wav", "--out", tmp_path / name, *words, *USE)
        assert result.exit_code == 0, result.output
        made.append(audio.load(tmp_path / name / "in.wav")[0])
    beside = read_json(tmp_path / "a" / "in.json")
    assert [gap["gap_seconds"] for gap in beside["gaps"]] == [[0.1, 0.15], [0.3, 0.35]]
    np.testing.assert_array_equal(made[0], made[1])
    changed = np.flatnonzero(made[0] != made[2]) / RATE
    assert ((changed > 0.07) & (changed < 0.38)).all()
    assert len(changed)


def test_a_sound_without_gaps_is_said_to_have_none(folder: Path, generative: Path, tmp_path: Path) -> None:
    path = audio.find(folder / "sounds" / "voice")[0]
    result = invoke("restore", folder / "run", path, "--out", tmp_path / "out", "--gaps", generative, *USE)
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert f"{path.name}: no gaps found (silence of 3 ms to 1 s, 80 dB under the peak" in said
    assert read_json(tmp_path / "out" / f"{path.stem}.json")["gaps"] == []


def test_what_cannot_fill_gaps_is_refused(folder: Path, generative: Path, tmp_path: Path) -> None:
    path = audio.find(folder / "sounds" / "voice")[0]
    other = tmp_path / "other"
    words = ("train-ae", folder / "sounds" / "voice", "--preset", "smoke", "--run", other)
    assert invoke(*words, "--set", "train_ae.steps=1", "--set", "corpus.sample_rate=11025", *USE).exit_code == 0
    cases = {
        ("--gaps", other): "run other makes sound at 11025 Hz, and run run restores it at 8000 Hz",
        ("--gaps", folder / "run"): "skip connections",
        ("--gaps", generative, "--prior", "lstm"): "prior lstm of run generative cannot fill a gap: it knows nothing "
        "of what follows; expected one of its priors that do: default",
        ("--gaps", generative, "--prior", "iid"): "cannot fill a gap",
        ("--gaps", generative, "--gap", "0:100"): "--gap 0:100 is not inside the recording",
        ("--gaps", generative, "--gap", "0.3:0.2"): "--gap is 0.3:0.2; expected 0 ≤ FROM < TO in seconds, at least "
        "one sample apart; correct the times",
        ("--gaps", generative, "--gap", "0.3:0.30001"): "--gap is 0.3:0.30001; expected 0 ≤ FROM < TO in seconds",
        ("--gaps", generative, "--gap", "x"): "--gap is 'x'; expected FROM:TO in seconds",
        ("--gaps", generative, path, "--gap", "0:0.1"): "--gap with several files",
    }
    for given, message in cases.items():
        result = invoke("restore", folder / "run", path, "--out", tmp_path / "out", *given, *USE)
        assert result.exit_code == 1, (given, result.output)
        assert message in " ".join(result.output.split()), given
    with pytest.raises(ConfigError, match=r"gap is 0\.5:0\.2; expected 0 ≤ FROM < TO"):
        LoadedRun.open(generative, device="cpu").fill(np.ones(RATE, np.float32), gaps=[(0.5, 0.2)])
    for given in (("--gap", "0:0.1"), ("--prior", "default"), ("--temperature", 1), ("--seed", 1)):
        result = invoke("restore", folder / "run", path, "--out", tmp_path / "out", *given, *USE)
        assert result.exit_code == 2
        assert f"{given[0]} without --gaps RUN2" in result.output
    assert not (tmp_path / "out").exists()


def test_a_run_that_takes_nothing_away_is_led_to_reconstruct(folder: Path, tmp_path: Path) -> None:
    plain = [word for text in ("train_ae.steps=2",) for word in ("--set", text)]
    words = ("train-ae", folder / "sounds", "--preset", "smoke", "--run", tmp_path / "plain", *plain, *USE)
    assert invoke(*words).exit_code == 0
    result = invoke("restore", tmp_path / "plain", folder / "sounds", "--out", tmp_path / "out", *USE)
    assert result.exit_code == 1
    assert f"actseq reconstruct {tmp_path / 'plain'} PATH" in result.output
    assert "--preset restore" in result.output
    seeded = invoke("restore", folder / "run", folder / "sounds", "--out", tmp_path / "out", "--seed", "1")
    assert seeded.exit_code == 2
