"""`--effect` and `--keep-dry` of `generate` and `reconstruct`: what is written, reported and refused."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from actseq_cli.main import main  # type: ignore[import-untyped, unused-ignore]
from click.testing import CliRunner, Result

from actseq import audio, build, effects, pipeline, registry
from actseq.config import Member
from actseq.inference.generation import GAP_SECONDS

CPU = pipeline.Compute("cpu", 1)

RATE = 8000
QUICK = ["vocoder={kind: phase, n_turns: 0}", "generate.max_seconds=0.3"]
USE = ["--threads", "1", "--device", "cpu"] + [word for setting in QUICK for word in ("--set", setting)]


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def read(*arguments: object) -> dict[str, Any]:
    result = call(*arguments, *USE, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def sound(path: Path) -> np.ndarray:
    waveform, rate = audio.load(path)
    assert rate == RATE
    return waveform


def process(kind: str, **keys: Any) -> effects.Process:
    member = Member.model_validate({"kind": kind, **keys})
    return effects.chain([build.construct(registry.EFFECTS, member, "effect", RATE)])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[Path]:
    """A folder with `sounds/`, real ones, and a run `run`, hardly trained on them."""
    import torch

    folder, threads = tmp_path_factory.mktemp("effects"), torch.get_num_threads()
    for path in audio.find(data_dir / "digits_fsdd")[::45]:
        audio.write(folder / "sounds" / f"{path.stem}.wav", audio.load(path, RATE)[0], RATE)
    steps = ["train_ae.steps=2", "train_prior.steps=2"]
    pipeline.run_all(folder / "sounds", "smoke", run=str(folder / "run"), overrides=steps, compute=CPU)
    yield folder
    torch.set_num_threads(threads)


def generate(workplace: Path, out: Path, *arguments: object) -> dict[str, Any]:
    return read("generate", workplace / "run", "--seed", 3, "--n", 3, "--out", out, *arguments)


def test_generated_clips_go_through_the_effects_in_order(workplace: Path, tmp_path: Path) -> None:
    plain = generate(workplace, tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "clip-01.json").read_text())["settings"]["effects"] == []
    chosen = ["--effect", "gain:gain_db=12", "--effect", "limiter:ceiling_db=-6,release_ms=50"]
    made = generate(workplace, tmp_path / "wet", *chosen, "--keep-dry", "--compile", tmp_path / "all.wav")
    assert [Path(file).name for file in made["files"]] == ["clip-01.wav", "clip-02.wav", "clip-03.wav"]
    names = [f"clip-{i:02d}.{ending}" for i in range(1, 4) for ending in ("dry.wav", "json", "wav")]
    assert sorted(path.name for path in (tmp_path / "wet").iterdir()) == names
    for file, before in zip(made["files"], plain["files"], strict=True):
        dry = Path(file).with_suffix(".dry.wav")
        assert dry.read_bytes() == Path(before).read_bytes()
        limit = process("limiter", ceiling_db=-6, release_ms=50)
        expected = limit(process("gain", gain_db=12)(sound(dry)))
        # The effects heard the clip before it was rounded to 16 bits.
        np.testing.assert_allclose(sound(Path(file)), expected, atol=4 / 32768)
        assert np.abs(sound(Path(file))).max() == pytest.approx(10 ** (-6 / 20), abs=1e-3)
        stored = json.loads(Path(file).with_suffix(".json").read_text())
        assert stored["settings"]["effects"] == [
            {"kind": "gain", "gain_db": 12.0},
            {"kind": "limiter", "ceiling_db": -6.0, "release_ms": 50.0},
        ]
        assert (stored["dry"], stored["effects_gain"]) == (dry.name, 1.0)
        assert stored["gain"] == json.loads(Path(before).with_suffix(".json").read_text())["gain"]
    gap = np.zeros(round(GAP_SECONDS * RATE), np.float32)
    parts = [part for file in made["files"] for part in (gap, sound(Path(file)))]
    np.testing.assert_array_equal(sound(tmp_path / "all.wav"), np.concatenate(parts[1:]))


def test_the_same_seed_and_effects_make_the_same_bytes_with_their_tails(workplace: Path, tmp_path: Path) -> None:
    chosen = ["--effect", "reverb:room_size=0.4,wet=0.8", "--effect", "chorus:feedback=0.3"]
    first = generate(workplace, tmp_path / "a", *chosen, "--keep-dry")
    second = generate(workplace, tmp_path / "b", *chosen)
    for one, other in zip(first["files"], second["files"], strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes()
        wet, dry = sound(Path(one)), sound(Path(one).with_suffix(".dry.wav"))
        assert len(wet) > len(dry) + 0.2 * RATE
        assert json.loads(Path(one).with_suffix(".json").read_text())["seconds"] == len(wet) / RATE
    assert not list((tmp_path / "b").glob("*.dry.wav"))


def test_the_configured_list_and_what_replaces_it(workplace: Path, tmp_path: Path) -> None:
    configured = ["--set", "generate.effects=[{kind: gain, gain_db: -20}]"]
    chosen = ["--effect", "fade:out_seconds=0.1"]

    def stored(name: str, *arguments: object) -> list[str]:
        generate(workplace, tmp_path / name, *arguments)
        found = json.loads((tmp_path / name / "clip-01.json").read_text())["settings"]["effects"]
        return [effect["kind"] for effect in found]

    assert stored("configured", *configured) == ["gain"]
    assert stored("given", *configured, *chosen) == stored("before", *chosen, *configured) == ["fade"]
    assert sound(tmp_path / "given" / "clip-01.wav")[-1] == 0
    quiet = np.abs(sound(tmp_path / "configured" / "clip-01.wav")).max()
    assert quiet == pytest.approx(10 ** (-23 / 20), abs=1e-3)


def test_what_would_clip_is_turned_down_and_told(workplace: Path, tmp_path: Path) -> None:
    out = tmp_path / "loud"
    result = call("generate", workplace / "run", *USE, "--out", out, "--effect", "gain:gain_db=13")
    assert result.exit_code == 0
    assert "clip-01.wav was turned down by 10.0 dB so as not to clip" in result.stderr
    assert np.abs(sound(out / "clip-01.wav")).max() > 0.999
    assert json.loads((out / "clip-01.json").read_text())["effects_gain"] == pytest.approx(10 ** (-10 / 20), abs=1e-3)


def test_reconstructions_go_through_the_effects(workplace: Path, tmp_path: Path) -> None:
    room = tmp_path / "a room, large.wav"
    audio.write(room, np.array([0, 0, 0.5, 0, 0.25], np.float32), RATE)
    sounds = sorted((workplace / "sounds").iterdir())[:2]
    plain = read("reconstruct", workplace / "run", *sounds, "--out", tmp_path / "plain")
    assert plain["effects"] == []
    chosen = ["--effect", f"convolution:impulse_response={room},wet=0.5"]
    made = read("reconstruct", workplace / "run", *sounds, "--out", tmp_path / "wet", *chosen, "--keep-dry")
    keys = {"impulse_response": str(room), "wet": 0.5, "dry": 0.0}
    assert made["effects"] == [{"kind": "convolution", **keys}]
    for file, before in zip(made["files"], plain["files"], strict=True):
        dry = Path(file).with_suffix(".dry.wav")
        assert dry.read_bytes() == Path(before).read_bytes()
        expected = process("convolution", **keys)(sound(dry))
        np.testing.assert_allclose(sound(Path(file))[: len(expected)], expected[: len(sound(Path(file)))], atol=2e-4)
    assert len(list((tmp_path / "wet").glob("*.wav"))) == 4


@pytest.mark.parametrize("command", ["generate", "reconstruct"])
def test_what_is_refused_before_anything_is_written(
    command: str, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds = [] if command == "generate" else [workplace / "sounds"]

    def refused(*arguments: object, exit_code: int = 1) -> str:
        result = call(command, workplace / "run", *sounds, *USE, "--out", tmp_path / "out", *arguments)
        assert result.exit_code == exit_code, result.output
        assert "Traceback" not in result.output
        assert not (tmp_path / "out").exists()
        return result.stderr

    assert "did you mean 'reverb'?" in refused("--effect", "revrb")
    assert "did you mean 'room_size'?" in refused("--effect", "reverb:roomsize=1")
    assert "wet is 3.0, expected 0 to 1" in refused("--effect", "gain:gain_db=1", "--effect", "reverb:wet=3")
    assert "below 4000, half the sample rate" in refused("--effect", "high-pass:cutoff_hz=5000")
    assert "no such file" in refused("--effect", "convolution:impulse_response=nowhere.wav")
    assert "expected KIND or KIND:KEY=VALUE" in refused("--effect", "reverb:0.4", exit_code=2)
    assert "--keep-dry without effects" in refused("--keep-dry")
    monkeypatch.setitem(sys.modules, "pedalboard", None)
    assert "pip install 'actseq[effects]'" in refused("--effect", "reverb")


def test_two_results_of_one_name(workplace: Path, tmp_path: Path) -> None:
    first = sorted((workplace / "sounds").iterdir())[0]
    for name in ("a.wav", "a.dry.wav"):
        (tmp_path / name).write_bytes(first.read_bytes())
    given = ["reconstruct", workplace / "run", tmp_path / "a.wav", tmp_path / "a.dry.wav", "--out", tmp_path / "out"]
    result = call(*given, *USE, "--effect", "trim", "--keep-dry")
    assert result.exit_code == 1
    assert "several results would be written to" in result.stderr
    for _ in range(2):
        assert call(*given, *USE, "--effect", "trim", "--overwrite").exit_code == 0
    for stem in ("a", "a.dry"):
        assert json.loads((tmp_path / "out" / f"{stem}.json").read_text())["source"] == str(tmp_path / f"{stem}.wav")
    dry = call(*given[:3], "--out", tmp_path / "out", *USE, "--effect", "trim", "--keep-dry", "--overwrite")
    assert dry.exit_code == 1
    assert "a.dry.wav exists" in dry.stderr, "it is another sound's result, with its own JSON"


def test_a_kept_dry_sound_is_replaced_and_one_of_the_user_is_not(workplace: Path, tmp_path: Path) -> None:
    first = sorted((workplace / "sounds").iterdir())[0]
    given = ["reconstruct", workplace / "run", first, "--out", tmp_path, *USE, "--effect", "trim", "--overwrite"]
    dry = (tmp_path / first.name).with_suffix(".dry.wav")
    for words in (["--keep-dry"], ["--keep-dry"], []):
        assert call(*given, *words).exit_code == 0
    dry.write_bytes(b"mine")
    refused = call(*given, "--keep-dry")
    assert (refused.exit_code, dry.read_bytes()) == (1, b"mine")
    assert f"{dry.name} exists" in refused.stderr
