"""Every command, as a user gives it: results, bad input, and being killed at any moment."""

import csv
import functools
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped, unused-ignore]
from actseq_cli.main import main  # type: ignore[import-untyped, unused-ignore]
from click.testing import CliRunner, Result
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped, unused-ignore]
    EventAccumulator,
)

from actseq.commands.run import configured
from actseq.config import FITTING_PRESETS, preset_names
from actseq.evaluation import set_distances
from actseq.evaluation.first_look import FILE, FirstLook
from actseq.inference.joins import CROSSFADE_SECONDS
from actseq.progress import SILENT
from actseq.storage.run_folder import RunFolder
from actseq.training import timing

RATE = 8000
SMOKE = ["--preset", "smoke", "--threads", "1", "--device", "cpu"]
USE = ["--threads", "1", "--device", "cpu"]
# Children of a server that has imported what is slow start at once.
SLOW = [
    "actseq.pipeline",
    "actseq.training.loop",
    "actseq.build",
    "lightning_fabric",
    "librosa.filters",
    "safetensors.torch",
]
multiprocessing.set_forkserver_preload(["__main__", *SLOW])


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def good(*arguments: object) -> Result:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result


def read(*arguments: object) -> dict[str, Any]:
    """The result of a command as JSON; nothing else may be on standard output."""
    found = json.loads(good(*arguments, "--json").stdout)
    assert isinstance(found, dict)
    return found


def bad(*arguments: object) -> str:
    """The one line that says what is wrong."""
    result = call(*arguments)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.stderr
    assert result.stderr.splitlines()[-1] == lines[0]
    assert result.stdout == ""
    return lines[0]


def wrong_usage(*arguments: object) -> str:
    """What is wrong with a command line: one line, unless there is no command, which shows the help."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert not arguments or (result.stderr.startswith("error: ") and result.stderr.count("\n") == 1), result.stderr
    return result.stderr


def sound(path: str | Path) -> np.ndarray:
    waveform, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE
    assert np.isfinite(waveform).all()
    return np.asarray(waveform)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with `sounds/`, and a finished run `made`."""
    import torch

    folder = tmp_path_factory.mktemp("workplace")
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(folder)
    good("drumkit", "sounds", "--n-per-kind", 10, "--sample-rate", RATE)
    good("run", "sounds", *SMOKE, "--run", "made")
    yield folder
    os.chdir(before)
    torch.set_num_threads(threads)


@pytest.fixture
def here(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workplace that a test may spoil."""
    shutil.copytree(workplace / "runs" / "made", tmp_path / "runs" / "made")
    (tmp_path / "sounds").symlink_to(workplace / "sounds")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def products(run: Path) -> dict[str, bytes]:
    """Everything of a run that has to be the same in every way of getting there."""
    wanted = ("model.safetensors", "model.json", "manifest.jsonl", "metrics.csv", "scan.csv")
    wanted += ("features.json", "latents.json")
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and (path.name in wanted or path.name.startswith("shard-"))
    }


# -- what commands give ------------------------------------------------------------------------------------------------


def test_help_describes_every_command() -> None:
    shown = good("--help").stdout
    for name, command in main.commands.items():
        assert name in shown
        assert command.help
        assert good(name, "--help").stdout.startswith("Usage:")
    assert good("--version").stdout.strip().endswith("0.1.0") or "version" in good("--version").stdout


def test_presets_and_doctor() -> None:
    listed = list(read("presets"))
    assert sorted(listed) == preset_names()
    assert listed[: len(FITTING_PRESETS)] == list(FITTING_PRESETS)
    assert all(name in good("presets").stdout for name in listed)
    result = call("doctor", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == (1 if found["problems"] else 0)
    assert {"versions", "devices", "audio", "problems"} <= set(found)


def test_a_run_is_skipped_when_it_is_done(workplace: Path) -> None:
    run = workplace / "runs" / "made"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    result = good("run", "sounds", *USE, "--run", "made", "--json")  # without a preset, the run's own is taken
    for what in ("corpus: already", "autoencoder: already", "latents: already", "prior: already"):
        assert what in result.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = json.loads(result.stdout)
    assert set(found) - {"longer"} == {"run", "preset", "autoencoder", "latents", "prior", "verdict"}
    assert found["preset"] == "smoke"
    assert re.match(r"\d+ of 24 generated clips are recognised by their label \(of real clips \d", found["verdict"])
    assert found["latents"]["n_sequences"] == 50 + 40, "50 clips and a copy of those to train on"
    assert found["prior"]["labels"] == ["clap", "hat", "kick", "snare", "tom"]


def test_a_run_that_needs_more_time_writes_out_the_commands(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actseq.commands.run.first_look", lambda *_: FirstLook("3 of 24", 24, True))
    ends = ("extract-latents made", "train-prior made")
    assert read("run", "sounds", *USE, "--run", "made")["longer"] == {
        "prior": ["actseq train-prior made --more 5"],
        "autoencoder": ["actseq train-ae sounds --run made --more 5", *(f"actseq {end}" for end in ends)],
    }
    said = good("run", "sounds", *USE, "--run", "made").stdout
    assert said.splitlines()[-2] == "to train the prior longer: actseq train-prior made --more 5"
    kept = json.loads((here / "runs" / "made" / FILE).read_text())
    assert (kept["verdict"], kept["clips"], kept["prior"]) == ("3 of 24", 24, "default")
    monkeypatch.setattr("actseq.commands.run.first_look", lambda *_: FirstLook("24 of 24", 24))
    assert "longer" not in read("run", "sounds", *USE, "--run", "made")
    # What a training says of itself names the command too.
    shutil.rmtree(here / "runs" / "made" / "priors")
    said = good("run", "sounds", *USE, "--run", "made").stderr
    assert "prior default: 20 steps are too few for a usable result" in said
    assert "(actseq train-prior made --more 5)" in said


def test_a_dry_run_says_what_a_run_does_and_writes_nothing(workplace: Path) -> None:
    def everything() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in workplace.rglob("*")}

    before, run = everything(), workplace / "runs" / "made"
    planned = read("run", "sounds", *SMOKE, "--run", "another", "--vocoder", "--dry-run")
    finished = read("run", "sounds", *SMOKE, "--run", "made", "--dry-run")
    assert planned["files"] == 50
    assert [one["stage"] for one in planned["trainings"]] == ["autoencoder", "prior default", "vocoder"]
    assert not any(one["done"] for one in planned["trainings"])
    assert all(one["done"] for one in finished["trainings"])
    assert [one["steps"] for one in finished["trainings"]] == [20, 20]
    stages = (run / "autoencoder", run / "priors" / "default")
    counted = [json.loads((stage / "model.json").read_text())["n_parameters"] for stage in stages]
    assert [one["parameters"] for one in finished["trainings"]] == counted
    stored = sum(path.stat().st_size for path in (run / "corpus").glob("shard-*")) / 1e6
    assert finished["megabytes"]["corpus"] == pytest.approx(stored, abs=0.1)
    said = good("run", "sounds", *SMOKE, "--run", "another", "--dry-run").stdout
    assert "it would read 50 files" in said
    assert "runs/another" in said
    assert everything() == before


def test_stages_one_by_one_give_the_same_run(workplace: Path) -> None:
    ae = read("train-ae", "sounds", *SMOKE, "--run", "staged")
    latents = read("extract-latents", "staged", *USE)
    prior = read("train-prior", "staged", *USE)
    assert (ae["total_steps"], prior["total_steps"], latents["latent_dim"]) == (20, 20, 4)
    assert products(workplace / "runs" / "staged") == products(workplace / "runs" / "made")
    second = read("train-prior", "staged", "--name", "gru", "--steps", 4, "--set", "prior.network.kind=gru", *USE)
    assert second["fingerprint"] != prior["fingerprint"]
    assert set(read("info", "staged")["priors"]) == {"default", "gru"}
    again = read("generate", "staged", "--prior", "gru", "--seconds", 0.2, "--out", "by-gru", *USE)
    assert json.loads(Path(again["files"][0]).with_suffix(".json").read_text())["prior"] == "gru"


def test_another_seed_is_another_run(workplace: Path) -> None:
    read("train-ae", "sounds", *SMOKE, "--run", "seed-1", "--seed", 1, "--steps", 2)
    one, other = (products(workplace / "runs" / name) for name in ("seed-1", "made"))
    assert one["autoencoder/model.safetensors"] != other["autoencoder/model.safetensors"]
    assert one["corpus/shard-00000.safetensors"] == other["corpus/shard-00000.safetensors"]


def test_generate_is_reproducible_and_says_how(workplace: Path) -> None:
    found = read("generate", "made", "--n", 3, "--seconds", 0.5, "--label", "kick", "--seed", 5, "--out", "a", *USE)
    again = read("generate", "made", "--n", 3, "--seconds", 0.5, "--label", "kick", "--seed", 5, "--out", "b", *USE)
    other = read("generate", "made", "--n", 3, "--seconds", 0.5, "--label", "kick", "--seed", 6, "--out", "c", *USE)
    assert found["files"] == ["a/kick-01.wav", "a/kick-02.wav", "a/kick-03.wav"]
    for one, two, three in zip(found["files"], again["files"], other["files"], strict=True):
        assert Path(one).read_bytes() == Path(two).read_bytes()
        assert Path(one).read_bytes() != Path(three).read_bytes()
        assert len(sound(one)) == 4000
    assert Path("a/kick-01.wav").read_bytes() != Path("a/kick-02.wav").read_bytes()
    beside = json.loads(Path("a/kick-02.json").read_text())
    assert (beside["index"], beside["of"], beside["run"], beside["prior"]) == (1, 3, "made", "default")
    assert beside["settings"]["seed"] == 5
    assert beside["settings"]["label"] == "kick"
    assert beside["seconds"] == 0.5
    info = read("info", "made")
    assert beside["fingerprints"]["autoencoder"] == info["autoencoder"]["fingerprint"]
    assert {"latent_frames", "stopped", "join_seconds", "gain"} <= set(beside)
    label = read("generate", "made", "--n", 3, "--seconds", 0.5, "--label", "hat", "--seed", 5, "--out", "d", *USE)
    assert Path(label["files"][0]).read_bytes() != Path("a/kick-01.wav").read_bytes()


@pytest.mark.parametrize("seconds", [0.001, 0.1234, 0.7])
def test_seconds_are_exact(workplace: Path, seconds: float) -> None:
    found = read("generate", "made", "--seconds", seconds, "--out", f"exact-{seconds}", *USE)
    assert len(sound(found["files"][0])) == round(seconds * RATE)


def test_until_stop_ends_or_says_that_it_did_not(workplace: Path) -> None:
    options = ["--n", 6, "--until-stop", "--set", "generate.max_seconds=0.6", "--seed", 1]
    result = good("generate", "made", *options, "--out", "ended", "--json", *USE)
    stopped = 0
    for path in json.loads(result.stdout)["files"]:
        beside = json.loads(Path(path).with_suffix(".json").read_text())
        assert 0 < len(sound(path)) <= 0.6 * RATE + 128
        stopped += beside["stopped"]
    assert ("had not ended" in result.stderr) == (stopped < 6)


def test_default_folder_and_compiled_file(workplace: Path) -> None:
    found = read("generate", "made", "--n", 2, "--seconds", 0.25, "--compile", "row/all.wav", *USE)
    assert found["folder"].startswith("runs/made/generated/")
    assert found["folder"].endswith(f"-{found['seed']}")
    first, second = (sound(path) for path in found["files"])
    row = sound(found["compiled"])
    np.testing.assert_array_equal(row, np.concatenate([first, np.zeros(2000, np.float32), second]))
    again = read("generate", "made", "--n", 1, "--seconds", 0.25, "--label", "tom", *USE)
    assert again["folder"] != found["folder"]
    assert len(list(Path(found["folder"]).glob("*.wav"))) == 2


def test_a_seed_that_is_left_out_is_drawn_printed_and_kept(workplace: Path) -> None:
    given = ["generate", "made", "--seconds", 0.1, "--label", "tom"]
    first = good(*given, "--out", "fresh", *USE)
    seed = json.loads(Path("fresh/tom-01.json").read_text())["settings"]["seed"]
    assert f"seed: {seed}; --seed {seed} makes the same clips again" in first.stdout
    again = read(*given, "--out", "again", "--seed", seed, *USE)
    assert again["seed"] == seed
    assert Path("again/tom-01.wav").read_bytes() == Path("fresh/tom-01.wav").read_bytes()
    other = read(*given, "--out", "other", *USE)
    assert other["seed"] != seed
    assert Path("other/tom-01.wav").read_bytes() != Path("fresh/tom-01.wav").read_bytes()


@pytest.mark.parametrize("prior", ["iid", "random-walk"])
def test_priors_without_training(workplace: Path, prior: str) -> None:
    found = read(
        "generate", "made", "--prior", prior, "--n", 2, "--label", "kick:hat", "--seconds", 0.3, "--out", prior, *USE
    )
    beside = json.loads(Path(found["files"][0]).with_suffix(".json").read_text())
    assert beside["prior"] == prior
    assert set(beside["fingerprints"]) == {"autoencoder", "latents"}
    assert Path(found["files"][0]).read_bytes() != Path(found["files"][1]).read_bytes()
    assert "top_p" in bad("generate", "made", "--prior", prior, "--top-p", 0.5, "--out", "refused", *USE)
    # A preset's controls are for the priors that know them.
    preset = ["--set", "generate.guidance=2.0", "--set", "generate.noise_clamp=1.0"]
    other = read(
        "generate", "made", "--prior", prior, "--n", 2, "--label", "kick", *preset, "--out", f"{prior}-2", *USE
    )
    assert len(other["files"]) == 2


def test_through_sounds(workplace: Path) -> None:
    a, b = "sounds/tom/tom-001.wav", "sounds/hat/hat-001.wav"
    found = read("generate", "made", "--through", f"{a},{b}", "--out", "through", *USE)
    natural = sound(found["files"][0])
    assert len(natural) == pytest.approx((len(sound(a)) + len(sound(b))) / 2, abs=300)
    beside = json.loads(next(Path("through").glob("*-01.json")).read_text())
    assert (beside["prior"], beside["stopped"], beside["settings"]["through"]) == ("interpolate", True, [a, b])
    found = read("generate", "made", "--through", f"{a},{b},{a}", "--seconds", 0.9, "--out", "through-long", *USE)
    assert len(sound(found["files"][0])) == 0.9 * RATE
    # Its beginning is that of the first sound's reconstruction.
    read("reconstruct", "made", a, "--out", "through-a", *USE)
    rebuilt = sound("through-a/tom-001.wav")[:512]
    scale = float(natural[:512] @ rebuilt / (rebuilt @ rebuilt))
    assert np.corrcoef(natural[:512], rebuilt)[0, 1] > 0.5
    assert scale > 0
    assert "exclude" in bad("generate", "made", "--through", f"{a},{b}", "--vary", a, *USE)
    assert "at least 2" in bad("generate", "made", "--through", a, *USE)
    assert "no label" in bad("generate", "made", "--through", f"{a},{b}", "--label", "hat", *USE)


def test_variations_of_a_sound(workplace: Path) -> None:
    given = "sounds/snare/snare-001.wav"
    read("reconstruct", "made", given, "--out", "vary-0", *USE)
    rebuilt = sound("vary-0/snare-001.wav")
    distances = []
    vary = ["--vary", given, "--n", 3, "--seed", 1, *USE]
    for amount in (0, 0.3, 1):
        found = read("generate", "made", *vary, "--amount", amount, "--out", f"v{amount}")
        made = [sound(path) for path in found["files"]]
        beside = json.loads(Path(found["files"][0]).with_suffix(".json").read_text())
        assert (beside["prior"], beside["settings"]["amount"]) == ("vary", amount)
        peak = np.abs(sound(given)).max()
        assert [np.abs(clip).max() for clip in made] == pytest.approx([peak] * 3, abs=1e-4)
        n = min(len(rebuilt), *map(len, made)) - 300
        distances.append(np.mean([np.abs(clip[:n] / beside["gain"] - rebuilt[:n]).max() for clip in made]))
    assert distances[0] < 0.01
    assert distances[1] > 2 * distances[0]
    assert "as long as its sound" in bad("generate", "made", "--vary", given, "--seconds", 1, *USE)


def test_controls_of_the_draw(workplace: Path) -> None:
    """Each changes what is drawn, is written down, and is refused where it means nothing."""
    hat = ["--seconds", 0.4, "--label", "hat", "--seed", 1]
    usual = read("generate", "made", *hat, "--out", "usual", *USE)
    plain = Path(usual["files"][0]).read_bytes()
    for name, value in (
        ("temperature", 0.5),
        ("mixture-temperature", 0.0),
        ("noise-temperature", 0.3),
        ("top-p", 0.3),
        ("bias", 1.0),
        ("noise-clamp", 0.5),
        ("guidance", 4.0),
        ("best-of", 3),
    ):
        given = [*hat, f"--{name}", value, "--out", f"control-{name}", *USE]
        found = read("generate", "made", *given)
        assert Path(found["files"][0]).read_bytes() != plain, name
        beside = json.loads(Path(found["files"][0]).with_suffix(".json").read_text())
        assert beside["settings"][name.replace("-", "_")] == value
    assert "min_seconds" in bad("generate", "made", "--min-seconds", 2, "--max-seconds", 1, *USE)
    ended = read(
        "generate", "made", "--until-stop", "--min-seconds", 0.3, "--max-seconds", 0.5, "--out", "bounds", *USE
    )
    assert 0.3 * RATE - 128 <= len(sound(ended["files"][0])) <= 0.5 * RATE + 128


def test_new_clips_have_the_level_of_the_corpus(workplace: Path) -> None:
    options = ["--n", 3, "--seconds", 0.3, "--label", "snare", "--seed", 1, *USE]
    found = read("generate", "made", *options, "--out", "level")
    for path in found["files"]:
        assert np.abs(sound(path)).max() == pytest.approx(10 ** (-3 / 20), abs=1e-3)
    free = read("generate", "made", *options, "--set", "generate.level=free", "--out", "level-free")
    peaks = [np.abs(sound(path)).max() for path in free["files"]]
    assert max(abs(peak - 10 ** (-3 / 20)) for peak in peaks) > 1e-2
    for path, other in zip(found["files"], free["files"], strict=True):
        gains = [json.loads(Path(name).with_suffix(".json").read_text())["gain"] for name in (path, other)]
        np.testing.assert_allclose(sound(path) / gains[0], sound(other) / gains[1], atol=1e-3)


def test_a_glide_from_label_to_label(workplace: Path) -> None:
    found = read("generate", "made", "--label", "kick:hat", "--seconds", 0.5, "--seed", 1, "--out", "glide", *USE)
    assert len(sound(found["files"][0])) == 4000
    stays = read("generate", "made", "--label", "kick", "--seconds", 0.5, "--seed", 1, "--out", "glide-not", *USE)
    assert Path(found["files"][0]).read_bytes() != Path(stays["files"][0]).read_bytes()
    assert "no label 'hut'; did you mean 'hat'" in bad("generate", "made", "--label", "kick:hut", *USE).replace(
        " (", "; "
    )


@pytest.mark.parametrize("label", ["kick", "tom"])
def test_seed_audio_is_continued(workplace: Path, label: str) -> None:
    seed_file = f"sounds/{label}/{label}-001.wav"
    seed = sound(seed_file)[:1600]
    options = ["--seed-audio", seed_file, "--seed-seconds", 0.2, "--seconds", 0.3, *USE]
    found = read("generate", "made", *options, "--n", 2, "--out", f"with-{label}")
    for path in found["files"]:
        made = sound(path)
        untouched = 1600 - round(CROSSFADE_SECONDS * RATE)
        beside = json.loads(Path(path).with_suffix(".json").read_text())
        # What goes beyond full scale turns the whole file down, and says by how much.
        expected = np.round(seed * beside["gain"] * 32768.0) / 32768.0
        np.testing.assert_array_equal(made[:untouched], expected[:untouched])
        assert beside["join_seconds"] == pytest.approx(0.2)
        assert beside["settings"]["seed_audio"] == seed_file
    assert Path(found["files"][0]).read_bytes() != Path(found["files"][1]).read_bytes()
    new = read("generate", "made", *options, "--without-seed", "--out", f"without-{label}")
    assert len(sound(new["files"][0])) == 2400


@pytest.mark.parametrize("label", ["kick", "snare", "tom", "clap"])
def test_seconds_are_exact_after_a_seed(workplace: Path, label: str) -> None:
    seed = f"sounds/{label}/{label}-002.wav"
    found = read("generate", "made", "--seed-audio", seed, "--seconds", 0.3, "--out", f"exact-{label}", *USE)
    assert len(sound(found["files"][0])) == len(sound(seed)) + 2400


def test_a_seed_that_has_ended_gives_no_error(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from actseq.priors.sequence import SequencePrior

    monkeypatch.setattr(SequencePrior, "sample", lambda self, request: iter(()))
    seed = ["--seed-audio", "sounds/kick/kick-001.wav", "--seed-seconds", 0.256, "--until-stop"]
    assert len(sound(read("generate", "made", *seed, "--out", "ended-with", *USE)["files"][0])) == 2048
    call_result = call("generate", "made", *seed, "--without-seed", "--out", "ended-without", *USE)
    assert call_result.exit_code in (0, 1)
    if call_result.exit_code == 1:
        assert "ended" in call_result.stderr, "the user cannot know why there are no samples"


def test_reconstruct_keeps_names_and_lengths(workplace: Path) -> None:
    soundfile.write("foreign.flac", 0.2 * np.sin(np.arange(4410) / 10), 22050)
    found = read("reconstruct", "made", "sounds/hat", "foreign.flac", "--out", "again", *USE)
    names = sorted(path.name for path in Path("sounds/hat").iterdir())
    assert sorted(Path(path).name for path in found["files"]) == sorted([*names, "foreign.wav"])
    for name in names:
        before, after = sound(f"sounds/hat/{name}"), sound(f"again/{name}")
        assert len(before) == len(after)
        assert 0 < np.abs(after).max() < 4 * np.abs(before).max()
    assert len(sound("again/foreign.wav")) == 1600
    whole = read("reconstruct", "made", "sounds", "--out", "tree", *USE)
    assert len(whole["files"]) == 50
    assert Path("tree/kick/kick-000.wav").is_file()


def test_sources_are_never_overwritten(here: Path) -> None:
    shutil.copytree("sounds/hat", "own")
    before = {path.name: path.read_bytes() for path in Path("own").iterdir()}
    call("reconstruct", "made", "own", "--out", "own", *USE)
    assert {path.name: path.read_bytes() for path in Path("own").iterdir()} == before


QUICK_SOUND = ["--set", "vocoder.kind=griffin-lim", "--set", "vocoder.n_iter=1"]


def test_evaluation_is_printed_written_and_shown(workplace: Path) -> None:
    printed = good("evaluate", "made", "--n", 2, *QUICK_SOUND, *USE).stdout
    written = json.loads(Path("runs/made/evaluation.json").read_text())
    assert printed.splitlines()[-1] == "to look and listen: actseq report runs/made"
    assert "runs/made, 2 of 5 clips of the test split" in printed
    assert f"{written['bits_per_dim']['var1']:.3f}" in printed
    figures = dict(written["fidelity"])
    rate = figures.pop("rate")
    assert list(figures) == [
        "reconstructed",
        "reconstructed from a draw",
        "copy synthesis",
        "griffin-lim",
        "pca 4",
        f"pca 4 at {rate['kbit_per_s']:.2f} kbit/s",
    ]
    for name, row in figures.items():
        for measure in ("mel_l1_db", "stft_log_l1_db", "crest_error_db"):
            assert row[measure]["n"] == 2
            cell = "{mean:.2f} [{low:.2f}, {high:.2f}]".format(**row[measure])
            assert any(line.startswith(f"{name}  ") and cell in line for line in printed.splitlines())
        # Hits of a drum are too short for STOI.
        assert row["stoi"]["n"] == 0
    assert "– n=0" in printed
    files = [sound["file"] for row in written["sounds"] for sound in row["sounds"]]
    assert sorted(files) == sorted(path.name for path in Path("runs/made/evaluation").iterdir())
    assert len(files) == 2 * 4

    again = read("evaluate", "made", "--n", 2, "--seed", 1, *QUICK_SOUND, *USE)["fidelity"]
    drawn = again.pop("reconstructed from a draw"), figures.pop("reconstructed from a draw")
    assert drawn[0] != drawn[1]
    assert again == figures | {"rate": rate}
    other = read("evaluate", "made", "--split", "validation", *QUICK_SOUND, *USE)
    assert (other["split"], other["clips"], other["clips_in_split"]) == ("validation", 5, 5)
    assert {"prior", "prior without label", "gaussian"} <= set(other["bits_per_dim"])
    assert json.loads(Path("runs/made/evaluation.json").read_text()) == other
    assert other["fidelity"]["reconstructed"] != written["fidelity"]["reconstructed"]


def test_what_a_prior_generates_is_printed_and_written(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_distances, "RESAMPLES", 20)
    before = sorted(path.name for path in Path("runs/made").iterdir())
    assert "no prior 'other'" in bad("evaluate", "made", "--prior", "other", *USE)
    printed = good("evaluate", "made", "--prior", "default", "--n", 6, *QUICK_SOUND, *USE).stdout
    written = json.loads(Path("runs/made/evaluation-default.json").read_text())
    assert "runs/made, prior default: 6 generated clips" in printed
    assert printed.splitlines()[0] == written["verdict"]
    assert "generated against oracle: " in printed.splitlines()[2]
    assert f"{written['bits_per_dim']['var1']:.3f}" in printed
    assert "all figures: runs/made/evaluation-default.json" in printed
    [row] = written["sounds"]
    assert len(row["sounds"]) == 6
    assert all(Path("runs/made/evaluation-default", sound["file"]).is_file() for sound in row["sounds"])
    assert set(written["fingerprints"]) == {"autoencoder", "prior"}
    rows = written["generation"]["rows"]
    assert list(rows) == ["real", "reconstructed", "oracle", "generated", "iid"]
    for name, row in rows.items():
        accuracy = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**row["accuracy"])
        assert any(line.startswith(f"{name}  ") and accuracy in line for line in printed.splitlines())
    again = read("evaluate", "made", "--prior", "default", "--n", 6, *QUICK_SOUND, *USE)
    assert again == written

    other = read("evaluate", "made", "--prior", "iid", "--clips", 5, *QUICK_SOUND, *USE)
    assert "likelihood is left out: prior iid has none" in other["notes"]
    assert other == json.loads(Path("runs/made/evaluation-iid.json").read_text())
    assert "bits_per_dim" not in other
    assert other["generation"]["rows"]["real"] == rows["real"]
    made = {f"evaluation-{name}{ending}" for name in ("default", "iid") for ending in ("", ".json")}
    assert {path.name for path in Path("runs/made").iterdir()} == made | set(before)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_nothing_to_evaluate_on(here: Path, split: str) -> None:
    Path("one").mkdir()
    shutil.copy("sounds/kick/kick-000.wav", "one")
    good("train-ae", "one", *SMOKE, "--run", "one", "--steps", 2)
    assert f"run one has no clips in its {split} split; train on more files" in bad(
        "evaluate", "one", "--split", split, *USE
    )


@pytest.mark.parametrize("prior", ["lstm", "clip-flow"])
def test_all_sounds_can_be_for_training(workplace: Path, prior: str) -> None:
    name, none = f"all-{prior}", ["--set", "corpus.validation=0", "--set", "corpus.test=0"]
    if prior == "clip-flow":
        for pair in (
            "prior.network={kind: clip-flow, width: 32, inner: 32, layers: 1}",
            "prior.head=null",
            "train_prior.objective={kind: flow-matching}",
            "train_prior.decoder={share: 0.2}",
        ):
            none += ["--set", pair]
    result = good("run", "sounds", *SMOKE, "--run", name, *none)
    assert "corpus.validation is 0 and corpus.test is 0: nothing is held out there" in result.stderr
    assert "too few clips" not in result.stderr
    assert read("info", name)["corpus"]["clips"] == {"train": 50}
    good("train-vocoder", name, "--steps", 2, *USE)
    for stage in ("autoencoder", "priors/default", "vocoders/default"):
        model = json.loads(Path("runs", name, stage, "model.json").read_text(encoding="utf-8"))
        assert model["best_step"] == model["total_steps"], stage
    assert "in its test split; make a run with --set corpus.test=0.1" in bad("evaluate", name, *USE)


def test_info_and_verify(workplace: Path) -> None:
    info = read("info", "made")
    assert (info["preset"], info["source"], info["seed"]) == ("smoke", "sounds", 0)
    assert info["corpus"]["clips"] == {"train": 40, "validation": 5, "test": 5}
    assert info["autoencoder"]["total_steps"] == 20
    assert len(read("verify", "made")["checked"]) >= 4
    shown = good("info", "made").stdout
    assert info["autoencoder"]["fingerprint"] not in shown
    assert "None" not in shown
    assert "vocoders: none" in shown.splitlines()
    for command in ("info", "verify", "presets"):
        assert good(command, *(["made"] if command != "presets" else [])).stdout


def test_info_names_trainings_that_are_not_finished(here: Path) -> None:
    assert "begun, not finished" not in read("info", "made")
    for folder in ("priors/half", "vocoders/new"):
        Path("runs/made", folder).mkdir(parents=True)
        shutil.copy("runs/made/priors/default/plan.json", Path("runs/made", folder, "plan.json"))
    assert read("info", "made")["begun, not finished"] == ["prior half", "vocoder new"]
    assert "begun, not finished: prior half, vocoder new" in good("info", "made").stdout


def test_complex_features_all_the_way(workplace: Path) -> None:
    settings = [
        "representation={kind: stft, n_fft: 256, hop_length: 64}",
        "autoencoder.latent_dim=32",
        "vocoder.kind=auto",
    ]
    sets = [word for setting in settings for word in ("--set", setting)]
    weighted = ["--set", "train_ae.objective.magnitude_weight=1"]
    assert "expected 0" in bad("train-ae", "sounds", *SMOKE, "--run", "refused", *weighted)
    assert not Path("runs/refused").exists()
    figures = read("run", "sounds", *SMOKE, "--run", "complex", *sets, *weighted)["autoencoder"]["figures"]
    assert {"error", "magnitude_error"} <= set(figures)
    assert "error_db" not in figures
    with Path("runs/complex/autoencoder/metrics.csv").open(newline="") as file:
        held_out = [float(row["validation/loss"]) for row in csv.DictReader(file) if row["validation/loss"]]
    assert held_out[-1] < held_out[0]
    kicks = ["reconstruct", "complex", "sounds/kick", "--out", "complex", *USE]
    assert "mel and linear" in bad(*kicks, "--set", "vocoder.kind=griffin-lim")
    for path in read(*kicks)["files"]:
        before, after = sound(Path("sounds/kick") / Path(path).name), sound(path)
        assert np.square(after - before).sum() < 0.1 * np.square(before).sum()
    seed = ["--seed-audio", "sounds/kick/kick-001.wav", "--seconds", 0.3]
    for path in read("generate", "complex", *seed, "--n", 2, "--out", "complex-new", *USE)["files"]:
        assert np.abs(sound(path)[-2400:]).max() > 0


# -- after the end -----------------------------------------------------------------------------------------------------


def test_a_stage_whose_weights_have_gone_is_trained_again(here: Path) -> None:
    run = here / "runs" / "made"
    before = products(run)
    for folder in (run / "autoencoder", run / "priors" / "default"):
        (folder / "model.safetensors").unlink()
    assert "model.safetensors" in bad("generate", "made", *USE)
    said = good("run", "sounds", "--run", "made", *USE).stderr
    assert said.count("have gone: it is trained again") == 2
    assert products(run) == before


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are timed as shortly as can be."""
    monkeypatch.setattr(timing, "CALIBRATION_SECONDS", 0.0)


@pytest.mark.usefixtures("untimed")
def test_a_finished_prior_goes_on_and_shows_previews(here: Path) -> None:
    run = here / "runs" / "made"
    before = json.loads((run / "priors" / "default" / "model.json").read_text())
    result = good("train-prior", "made", "--more", 0.002, "--json", *USE)
    found = json.loads(result.stdout)
    taken = "the new one is taken" in result.stderr
    assert taken or "no better after" in result.stderr
    after = json.loads((run / "priors" / "default" / "model.json").read_text())
    assert (after["best_step"] > 20) == taken
    assert taken or after == before
    assert (found["total_steps"], found["figures"]) == (after["total_steps"], after["figures"])
    good("verify", "made")
    good("generate", "made", "--seconds", 0.1, *USE)
    shown = [*USE, "--steps", 2, "--set", "train_prior.preview_minutes=5"]
    good("train-prior", "made", "--name", "seen", *shown)
    waveform = sound(run / "previews" / "prior-seen-00000002.flac")
    assert np.abs(waveform).max() > 0.1
    assert (run / "previews" / "prior-seen-00000002.png").stat().st_size > 1000
    good("verify", "made")


@pytest.mark.usefixtures("untimed")
def test_a_new_autoencoder_asks_for_the_stages_behind_it(here: Path) -> None:
    other = ["--set", "train_ae.batch_size=5"]
    assert "other settings" in bad("train-ae", "sounds", "--run", "made", "--more", 0.002, *other, *USE)
    said = good("train-ae", "sounds", "--run", "made", "--more", 0.002, *USE).stderr
    assert "the new one is taken" in said
    assert "actseq extract-latents made" in bad("train-prior", "made", "--name", "new", *USE)
    shutil.copytree(here / "runs" / "made" / "priors" / "default", here / "runs" / "made" / "priors" / "mine")
    both, alone = "again: actseq extract-latents made, then actseq train-prior made", "again: actseq train-prior made"
    assert said.splitlines()[-1].endswith(both.removeprefix("again: "))
    for prior, name in (("default", ""), ("mine", " --name mine")):
        assert bad("generate", "made", "--prior", prior, *USE).endswith(both + name)
    assert "they are made again" in good("extract-latents", "made", *USE).stderr
    for prior, name in (("default", ""), ("mine", " --name mine")):
        said = bad("generate", "made", "--prior", prior, *USE)
        assert said.endswith(alone + name)
        assert not re.search(r"[0-9a-f]{8}", said), "a fingerprint says nothing to a person"
    assert "made for another autoencoder: it is trained again" in good("train-prior", "made", *USE).stderr
    good("generate", "made", "--seconds", 0.1, *USE)
    assert "already trained" in good("train-prior", "made", *USE).stderr


def test_a_stage_that_was_begun_with_a_budget_of_its_own_keeps_it(here: Path) -> None:
    folder, steps = here / "runs" / "made" / "priors" / "default", ["--steps", 3, *USE]
    good("train-vocoder", "made", *steps)
    shutil.rmtree(folder)
    good("train-prior", "made", *steps)
    made = (folder / "model.json").read_bytes()
    said = bad("train-prior", "made", "--steps", 4, *USE)
    assert "train_prior.steps 3 instead of 4" in said
    assert "actseq train-prior made --more 5" in said
    for preset in ([], ["--preset", "smoke"]):
        said = good("run", "sounds", *preset, "--run", "made", "--vocoder", *USE).stderr
        assert "prior default was begun with 3 steps, where the run has 20 steps: it stays as it is" in said
        assert "vocoder default was begun with 3 steps, where the run has 20 steps: it stays as it is" in said
        assert (folder / "model.json").read_bytes() == made
    (folder / "model.json").unlink()
    assert "it goes on with them" in good("run", "sounds", "--run", "made", *USE).stderr
    assert json.loads((folder / "model.json").read_text())["total_steps"] == 3
    good("train-ae", "sounds", *SMOKE, "--run", "short", *steps)
    result = good("run", "sounds", *SMOKE, "--run", "short", "--json")
    assert "run short goes on with the steps and minutes that it was begun with" in result.stderr
    assert json.loads(result.stdout)["autoencoder"]["total_steps"] == 3


def test_a_single_short_file_trains_with_warnings(here: Path) -> None:
    Path("one").mkdir()
    shutil.copy(next(Path("sounds/tom").iterdir()), "one")
    result = good("run", "one", *SMOKE, "--run", "one")
    assert "of sound in 1 file is little" in result.stderr
    assert "too few clips to hold any out" in result.stderr
    assert "no verdict on the generated clips: there are only 1 real ones" in result.stdout


def test_other_minutes_are_refused_in_the_numbers_that_were_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    RunFolder.locate("timed").write_config(configured(Path("x"), "smoke", None, 6.0, False, (), SILENT), "x", None)
    said = bad("run", "sounds", "--preset", "smoke", "--run", "timed", "--minutes", 12)
    assert "made with --minutes 6, and --minutes 12 is asked for" in said
    assert "actseq train-prior timed --more 6" in said
    assert "actseq train-ae x --run timed --more 6" in said


def test_going_on_needs_a_finished_training(here: Path) -> None:
    assert "has no prior 'other'" in bad("train-prior", "made", "--name", "other", "--more", 1, *USE)
    assert "exclude each other" in wrong_usage("train-prior", "made", "--steps", 2, "--more", 1)
    assert "train-ae without --preset" in bad("train-ae", "sounds", "--more", 1, *USE)


def test_a_plan_repeats_a_training_and_figures_reach_tensorboard(here: Path) -> None:
    run = here / "runs" / "made" / "priors"
    plan = run / "default" / "plan.json"
    good("train-prior", "made", "--name", "repeated", "--plan", plan, "--log", "tensorboard", *USE)
    events = EventAccumulator(str(run / "repeated" / "events")).Reload()
    metrics = list(csv.DictReader((run / "repeated" / "metrics.csv").open()))
    assert [event.step for event in events.Scalars("train/loss")] == [int(row["step"]) for row in metrics]
    assert events.Scalars("validation/loss")[-1].value == pytest.approx(float(metrics[-1]["validation/loss"]), rel=1e-4)
    weights = [(run / name / "model.safetensors").read_bytes() for name in ("default", "repeated")]
    assert weights[0] == weights[1]


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_bad_folders(here: Path) -> None:
    Path("empty").mkdir()
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("no sound")
    Path("sound.wav").write_bytes(b"RIFF")
    for folder, expected in (
        ("soundz", "did you mean"),
        ("empty", "no files at all"),
        ("texts", "1 × .txt"),
        ("sound.wav", "is a file"),
    ):
        assert expected in bad("train-ae", folder, *SMOKE, "--run", "new")
        assert expected in bad("run", folder, *SMOKE, "--run", "new")
        assert not (here / "runs" / "new" / "config.yaml").exists()


def test_after_a_wrong_folder_the_right_one_works(here: Path) -> None:
    Path("few").mkdir()
    for i in range(3):
        shutil.copy(f"sounds/kick/kick-00{i}.wav", f"few/{i}.wav")
    Path("silent").mkdir()
    soundfile.write("silent/a.wav", np.zeros(800), RATE)
    bad("train-ae", "soundz", *SMOKE, "--run", "new", "--steps", 2)
    assert "silent" in bad("train-ae", "silent", *SMOKE, "--run", "new", "--steps", 2)
    good("train-ae", "few", *SMOKE, "--run", "new", "--steps", 2)
    assert read("info", "new")["source"] == "few"


def test_a_lock_file_alone_is_no_foreign_folder(here: Path) -> None:
    # What is left when a process is killed right after it has taken its lock.
    Path("runs/new").mkdir()
    Path("runs/new/.lock").touch()
    shutil.copytree("sounds/kick", "few")
    good("train-ae", "few", *SMOKE, "--run", "new", "--steps", 2)


def test_broken_files_among_good_ones(here: Path) -> None:
    shutil.copytree("sounds/kick", "mixed/kick")
    content = Path("mixed/kick/kick-000.wav").read_bytes()
    Path("mixed/kick/cut.wav").write_bytes(content[: len(content) // 2])
    Path("mixed/noise.flac").write_bytes(bytes(range(256)))
    result = good("train-ae", "mixed", *SMOKE, "--run", "mixed", "--steps", 2)
    for name in ("kick/cut.wav", "noise.flac"):
        assert name in result.stderr
        assert name in Path("runs/mixed/corpus/scan.csv").read_text()
    assert "warning: 16.7% of the files were skipped" in result.stderr
    assert read("info", "mixed")["corpus"]["skipped"] == 2


def test_a_link_to_nowhere_is_skipped(here: Path) -> None:
    shutil.copytree("sounds/kick", "linked")
    Path("linked/gone.wav").symlink_to("nowhere.wav")
    assert "gone.wav" in good("train-ae", "linked", *SMOKE, "--run", "linked", "--steps", 2).stderr


def test_names_that_are_no_utf8(here: Path) -> None:
    shutil.copytree("sounds/kick", "names")
    try:
        Path("names/kick-000.wav").rename(os.fsdecode(b"names/caf\xe9.wav"))
    except OSError:
        pytest.skip("this file system takes no such name")
    Path("names/kick-001.wav").rename("names/ünï ¿#'\".wav")
    good("train-ae", "names", *SMOKE, "--run", "names", "--steps", 2)
    assert len(read("extract-latents", "names", *USE)["inputs"]) == 3
    assert len(read("reconstruct", "names", "names", "--out", "named", *USE)["files"]) == 10


def test_real_broken_files_are_named(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = good("train-ae", data_dir / "broken", *SMOKE, "--run", "broken", "--steps", 1)
    found = read("info", "broken")["corpus"]
    assert found["skipped"] > 0.01 * found["found"]
    assert "of the files were skipped" in result.stderr
    with Path("runs/broken/corpus/scan.csv").open() as file:
        skipped = [row for row in csv.DictReader(file) if row["status"] == "skipped"]
    assert len(skipped) == found["skipped"]
    for row in skipped[:20]:
        assert row["reason"]
        assert row["path"] in result.stderr


def test_folder_that_changed(here: Path) -> None:
    shutil.copytree("sounds/kick", "changing")
    good("train-ae", "changing", *SMOKE, "--run", "changing", "--steps", 2)
    shutil.copy("sounds/hat/hat-000.wav", "changing/new.wav")
    assert "is not what run changing was made from" in bad(
        "train-ae", "changing", *SMOKE, "--run", "changing", "--steps", 2
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train-ae", "sounds"], "train-ae without --preset"),
        (["train-ae", "sounds", "--preset", "smoek"], "did you mean 'smoke'"),
        (["train-ae", "sounds", "--preset", "gone.yaml"], "no configuration at gone.yaml"),
        (["train-ae", "sounds", *SMOKE, "--set", "train_ae.stpes=3"], "did you mean 'steps'"),
        (["train-ae", "sounds", *SMOKE, "--set", "corpus.sample_rate=x"], "'corpus.sample_rate' is 'x'"),
        (["train-ae", "sounds", *SMOKE, "--run", "made", "--steps", 3], "train_ae.steps 20 instead of 3"),
        (["train-ae", "sounds", *SMOKE, "--run", "made", "--seed", 3], "seed 0 instead of 3"),
        (["train-ae", "sounds", "--preset", "smoke", "--device", "tpu", "--run", "new"], "device 'tpu'"),
        (
            ["run", "sounds", *SMOKE, "--run", "made", "--set", "prior.condition_dim=9"],
            "prior.condition_dim 8 instead of 9",
        ),
        (["train-ae", "sounds", *SMOKE, "--run", "sounds/kick"], "exists and is no run"),
        (["train-ae", "sounds", *SMOKE, "--run", "sounds/kick/kick-000.wav"], "kick-000.wav"),
        (["extract-latents", "mdae"], "did you mean 'made'"),
        (["extract-latents", "made", "--set", "train_ae.steps=3"], "extract-latents cannot set 'train_ae'"),
        (["extract-latents", "made", "--set", "latents.dtype=float16"], "latents.dtype float32 instead of float16"),
        (["train-prior", "made", "--steps", 3], "train_prior.steps 20 instead of 3"),
        (["generate", "made", "--label", "snair"], "did you mean 'snare'"),
        (["generate", "made", "--prior", "defautl"], "did you mean 'default'"),
        (["generate", "made", "--seconds", 1, "--until-stop"], "exclude each other"),
        (["generate", "made", "--seed-audio", "gone.wav"], "gone.wav"),
        (["generate", "made", "--seconds", 0.1, "--out", "sounds/kick/kick-000.wav"], "kick-000.wav"),
        (["generate", "made", "--seconds", 0.1, "--out", "x", "--compile", "all.xyz"], "all.xyz"),
        (["reconstruct", "made", "gone.wav", "--out", "x"], "no file or folder gone.wav"),
        (["reconstruct", "made", "sounds/kick/kick-00.wav", "--out", "x"], "did you mean sounds/kick/kick-00"),
        (["generate", "made", "--vary", "sounds/hat/hat-0000.wav"], "did you mean sounds/hat/hat-000.wav"),
        (["generate", "made", "--prior", "iid", "--seed-audio", "sounds/ht/hat-000.wav"], "did you mean sounds/hat?"),
        (["reconstruct", "made", "sounds/kick/kick-000.wav", "sounds/kick", "--out", "x"], "several results"),
        (["info", "./sounds"], "no config.yaml"),
        (["verify", "nothing"], "no run at runs/nothing"),
        (["evaluate", "model.ckpt"], "pickles are not read"),
    ],
)
def test_one_line_says_what_is_wrong(workplace: Path, arguments: list[Any], expected: str) -> None:
    Path("model.ckpt").write_bytes(pickle.dumps({}))
    before = products(workplace / "runs" / "made")
    assert expected in bad(*arguments)
    assert products(workplace / "runs" / "made") == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["genrate", "made"], "did you mean 'generate'"),
        ([], "Usage"),
        (["train-ae", "sounds", *SMOKE, "--steps", 3, "--minutes", 1], "exclude each other"),
        (["train-ae", "sounds", *SMOKE, "--steps", 0], "--steps"),
        (["generate", "made", "--n", 0], "--n"),
        (["generate", "made", "--seconds", -1], "--seconds"),
        (["generate", "made", "--frobnicate"], "--frobnicate"),
        (["evaluate", "made", "--n", 0], "--n"),
        (["evaluate", "made", "--split", "train"], "--split"),
        (["reconstruct", "made", "--out", "x"], "PATH"),
        (["extract-latents", "made", "--seed", 1], "--seed"),
        (["run", "sounds", "--minutes", "4m"], "'4m' is not a number; expected digits alone, such as 4 or 0.5"),
        (["run", "sounds", "--minutes", 0], "0 is out of bounds; expected a number above 0"),
        (["generate", "made", "--n", 1.5], "'1.5' is not a whole number"),
        (["generate", "made", "--amount", 2], "expected a number from 0 up to 1"),
        (["generate", "made", "--top-p", 0], "expected a number above 0, up to 1"),
        (["run", "sounds", "more", "--dry-run"], "too many words: more; expected FOLDER; a name with blanks needs"),
    ],
)
def test_wrong_usage(workplace: Path, arguments: list[Any], expected: str) -> None:
    assert expected in wrong_usage(*arguments)


@pytest.mark.parametrize("words", [["run", "My", "Own", "Drums"], ["drumkit", "My", "Own", "Drums"]])
def test_a_name_with_blanks_is_shown_in_quotation_marks(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("My Own Drums").mkdir()
    assert 'needs quotation marks: "My Own Drums"' in wrong_usage(*words)


def test_a_stage_asks_for_the_one_before(here: Path) -> None:
    shutil.rmtree("runs/made/priors")
    assert "train-prior made first" in bad("generate", "made")
    shutil.rmtree("runs/made/latents")
    assert "extract-latents made first" in bad("train-prior", "made")
    shutil.rmtree("runs/made/autoencoder")
    assert "train-ae" in bad("extract-latents", "made")


@pytest.mark.parametrize("name", ["a/b", "..", ".", "/outside"])
def test_a_prior_lies_in_its_own_folder(here: Path, name: str) -> None:
    before = products(here / "runs" / "made")
    given = str(here / "outside") if name.startswith("/") else name
    assert given in bad("train-prior", "made", "--name", given, *USE)
    assert products(here / "runs" / "made") == before


def test_damage_is_found(here: Path) -> None:
    weights = Path("runs/made/autoencoder/model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    for command in (["generate", "made"], ["verify", "made"], ["extract-latents", "made"]):
        assert "model.safetensors is cut short" in bad(*command)
    weights.write_bytes(pickle.dumps({"w": 1}))
    assert "is a pickle" in bad("generate", "made")
    weights.write_bytes(whole)
    shard = Path("runs/made/latents/shard-00000.safetensors")
    content = bytearray(shard.read_bytes())
    content[-3] ^= 4
    shard.write_bytes(content)
    assert "content has changed" in bad("verify", "made")
    shard.unlink()
    assert "shard-00000.safetensors is missing" in bad("verify", "made")
    assert "shard-00000.safetensors is missing" in bad("train-prior", "made", "--name", "other")


def test_a_damaged_checkpoint_is_named(here: Path) -> None:
    Path("runs/made/priors/default/model.json").unlink()
    state = next(Path("runs/made/priors/default/checkpoints").glob("step-*/state.safetensors"))
    state.write_bytes(state.read_bytes()[:-50])
    assert "state.safetensors is cut short" in bad("train-prior", "made", *USE)


def test_a_prior_of_another_run_is_refused(here: Path) -> None:
    good("train-ae", "sounds", *SMOKE, "--run", "other", "--seed", 1, "--steps", 2)
    shutil.copytree("runs/made/priors", "runs/other/priors")
    assert "another autoencoder" in bad("generate", "other")
    shutil.copytree("runs/made/latents", "runs/other/latents")
    assert "autoencoder" in bad("train-prior", "other", "--name", "new")
    assert "made by another autoencoder: they are made again" in good("extract-latents", "other").stderr


# -- being stopped -----------------------------------------------------------------------------------------------------


def _command(arguments: list[str], folder: Path, number: int, at: int | None) -> None:
    """A command in its own process; signal `number` arrives as it syncs a file for the `at`-th time."""
    import actseq.commands.extract_latents
    import actseq.data.corpus
    import actseq.data.features
    from actseq.storage.store import group_shards

    # Ctrl-C also arrives where the tests were started with the signal ignored, as a background job is.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    small = functools.partial(group_shards, max_items=7)
    for module in (actseq.data.corpus, actseq.data.features, actseq.commands.extract_latents):
        setattr(module, "group_shards", small)  # noqa: B010
    counted, sync = [0], os.fsync

    def counting(descriptor: int) -> None:
        counted[0] += 1
        if counted[0] == at:
            os.kill(os.getpid(), number)
        sync(descriptor)

    setattr(os, "fsync", counting)  # noqa: B010
    main([*arguments, "--threads", "1", "--device", "cpu"], prog_name="actseq")


def process(folder: Path, *arguments: str, number: int = signal.SIGKILL, at: int | None = None) -> int:
    child = multiprocessing.get_context("forkserver").Process(
        target=_command, args=(list(arguments), folder, int(number), at)
    )
    child.start()
    child.join(180)
    assert child.exitcode is not None
    return child.exitcode


RUN = ("run", "sounds", "--preset", "smoke", "--run", "r")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, workplace: Path) -> Path:
    """A folder with a run `r` that nothing has interrupted."""
    if os.name != "posix":
        pytest.skip("processes are killed by signals")
    folder = tmp_path_factory.mktemp("reference")
    (folder / "sounds").symlink_to(workplace / "sounds")
    assert process(folder, *RUN) == 0
    assert len(list((folder / "runs/r/corpus").glob("shard-*"))) == 8
    return folder


@pytest.mark.parametrize("kills", [(1,), (2, 1, 3), (4, 17, 33, 24)])
def test_killed_at_any_write_the_same_command_ends_with_the_same_bytes(
    reference: Path, tmp_path: Path, kills: tuple[int, ...]
) -> None:
    (tmp_path / "sounds").symlink_to((reference / "sounds").resolve())
    codes = [process(tmp_path, *RUN, at=at) for at in kills]
    assert codes[0] == -signal.SIGKILL
    assert set(codes) <= {-signal.SIGKILL, 0}
    assert process(tmp_path, *RUN) == 0
    assert products(tmp_path / "runs/r") == products(reference / "runs/r")


def test_a_killed_run_sounds_the_same(reference: Path, tmp_path: Path) -> None:
    (tmp_path / "sounds").symlink_to((reference / "sounds").resolve())
    assert process(tmp_path, *RUN, at=30) == -signal.SIGKILL
    assert process(tmp_path, *RUN) == 0
    for folder in (reference, tmp_path):
        assert process(folder, "generate", "r", "--n", "2", "--seconds", "0.3", "--seed", "1", "--out", "new") == 0
    for name in ("clip-01.wav", "clip-02.wav"):
        assert (tmp_path / "new" / name).read_bytes() == (reference / "new" / name).read_bytes()


def test_later_stages_killed_at_any_write(reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference / "runs", tmp_path / "runs")
    run = tmp_path / "runs/r"
    shutil.rmtree(run / "latents")
    shutil.rmtree(run / "priors")
    for command, kills in (("extract-latents", (1, 7)), ("train-prior", (2, 20))):
        for at in kills:
            assert process(tmp_path, command, "r", at=at) == -signal.SIGKILL
        assert process(tmp_path, command, "r") == 0
    assert products(run) == products(reference / "runs/r")


def test_stored_features_killed_at_any_write(reference: Path, tmp_path: Path) -> None:
    """The first 20 writes make the corpus; then come those of eight shards of features."""
    stored = ("train-ae", *RUN[1:], "--set", "train_ae.stored_features=true")
    made = []
    for name, kills in (("whole", ()), ("killed", (22, 9))):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "sounds").symlink_to((reference / "sounds").resolve())
        assert [process(folder, *stored, at=at) for at in kills] == [-signal.SIGKILL] * len(kills)
        assert process(folder, *stored) == 0
        made.append(products(folder / "runs/r"))
    assert made[0] == made[1]
    assert len([name for name in made[0] if name.startswith("features/shard-")]) == 8
    run = tmp_path / "killed/runs/r"
    assert "features: 50 sequences" in read("verify", run)["checked"]
    assert (read("info", run)["features"]["n_sequences"], read("info", run)["features"]["channels"]) == (50, 24)
    shard = run / "features/shard-00003.safetensors"
    content = bytearray(shard.read_bytes())
    content[-3] ^= 4
    shard.write_bytes(content)
    assert "shard-00003.safetensors: " in bad("verify", run)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_a_training_with_its_state_saved(
    reference: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    shutil.copytree(reference / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs/r/priors")
    assert process(tmp_path, "train-prior", "r", number=number, at=6) == code
    assert list((tmp_path / "runs/r/priors/default/checkpoints").glob("step-*"))
    assert process(tmp_path, "train-prior", "r") == 0
    assert products(tmp_path / "runs/r") == products(reference / "runs/r")


def test_ctrl_c_before_the_training(reference: Path, tmp_path: Path) -> None:
    (tmp_path / "sounds").symlink_to((reference / "sounds").resolve())
    assert process(tmp_path, "train-ae", *RUN[1:], number=signal.SIGINT, at=6) == 130
    assert process(tmp_path, "train-ae", *RUN[1:]) == 0
    made = products(tmp_path / "runs/r")
    assert made["autoencoder/model.safetensors"] == products(reference / "runs/r")["autoencoder/model.safetensors"]


# -- imports -----------------------------------------------------------------------------------------------------------


def test_nothing_heavy_is_imported_for_help_and_quick_refusals() -> None:
    program = """
import sys
import actseq
from actseq_cli.main import main
help = [["--help"], ["train-ae", "--help"], ["presets"], ["--version"], ["genrate"]]
refused = [["generate", "no-such-run"], ["run", "sounds", "--preset", "drmus"]]
for arguments in help + refused:
    try:
        main(arguments)
    except SystemExit:
        pass
    assert arguments in refused or "numpy" not in sys.modules
heavy = {"torch", "librosa", "scipy", "soundfile", "matplotlib", "numba", "lightning_fabric", "torchaudio"}
print("heavy:", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize("program", [[Path(sys.executable).parent / "actseq"], [sys.executable, "-m", "actseq"]])
def test_the_installed_program(program: list[str | Path]) -> None:
    done = subprocess.run([*program, "info", "no-such-run"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no run at runs/no-such-run")
    assert done.stderr.count("\n") == 1
