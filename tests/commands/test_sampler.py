"""`generate --kit` and `--loop`: what a sampler finds, how sounds begin and end, and where a cycle repeats."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
import wavinfo  # type: ignore[import-untyped, unused-ignore]
from sfzlint.parser import validate_s  # type: ignore[import-untyped, unused-ignore]

from actseq import audio, pipeline
from actseq.commands.generate import GenerationResult
from actseq.commands.kit import FADE_OUT_SECONDS, PEAK_DBFS, finished
from actseq.data.drumkit import write_drumkit
from actseq.errors import AudioError, ConfigError
from actseq.inference.request import FromPrior, GenerationRequest, Through, Variations
from actseq.progress import Silent
from actseq.units import db_to_amplitude

CPU = pipeline.Compute("cpu", 1)
RATE = 8000
QUICK = ["vocoder={kind: griffin-lim, n_iter: 1}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is hardly trained."""
    made: Path = tmp_path_factory.mktemp("kits")
    write_drumkit(made / "sounds", n_per_kind=2, sample_rate=RATE)
    pipeline.train_ae(made / "sounds", "smoke", run=str(made / "run"), overrides=["train_ae.steps=2"], compute=CPU)
    pipeline.extract_latents(made / "run", compute=CPU)
    return made / "run"


def kit(run: Path, folder: Path, request: GenerationRequest, **output: Any) -> GenerationResult:
    return pipeline.generate(run, request, pipeline.Output(kit=folder, **output), overrides=QUICK, compute=CPU)


def test_a_kit_has_every_label_on_its_key_with_its_sounds_in_turn(run: Path, tmp_path: Path) -> None:
    made = kit(run, tmp_path / "kit", GenerationRequest(FromPrior("iid"), n=2, seed=3))
    assert made.keys == {"clap": 39, "kick": 36, "snare": 38, "tom": 45}
    sounds = [f"{label}_{i:02d}" for label in made.keys for i in (1, 2)]
    files = {f"{sound}.{ending}" for sound in sounds for ending in ("wav", "json")} | {"kit.sfz", "kit.dspreset"}
    assert {path.name for path in (tmp_path / "kit").iterdir()} == files
    regions = validate_s((tmp_path / "kit" / "kit.sfz").read_text()).regions
    preset = ElementTree.parse(tmp_path / "kit" / "kit.dspreset")
    for read in ([str(region["sample"]) for region in regions], [one.get("path") for one in preset.iter("sample")]):
        assert read == [f"{sound}.wav" for sound in sounds]
    for sound in sounds:
        waveform, _ = audio.load(tmp_path / "kit" / f"{sound}.wav")
        assert soundfile.info(tmp_path / "kit" / f"{sound}.wav").subtype == "PCM_24"
        assert np.abs(waveform).max() == pytest.approx(db_to_amplitude(PEAK_DBFS), abs=1e-5)
        assert waveform[0] == waveform[-1] == 0
        about = json.loads((tmp_path / "kit" / f"{sound}.json").read_text())
        assert (about["settings"]["seed"], about["key"]) == (3, made.keys[sound[:-3]])


def test_a_kit_has_one_count_of_all_its_sounds(run: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float, str]] = []

    class Told(Silent):
        def begin(self, task: str, total: float, done: float = 0, unit: str = "steps") -> None:
            told.append((task, total, unit))

    compute = pipeline.Compute("cpu", 1, Told())
    request = GenerationRequest(FromPrior("iid"), n=2, until_stop=True)
    pipeline.generate(run, request, pipeline.Output(kit=tmp_path / "kit"), overrides=QUICK, compute=compute)
    assert [one for one in told if one[0] == "generate"] == [("generate", 8, "clips")]


def test_a_kit_of_one_label_or_of_a_sound(run: Path, tmp_path: Path) -> None:
    one = kit(run, tmp_path / "one", GenerationRequest(FromPrior("iid"), label="tom"), format="flac", bits=16)
    assert (one.keys, [Path(file).name for file in one.files]) == ({"tom": 45}, ["tom_01.flac"])
    varied = GenerationRequest(Variations(run.parent / "sounds" / "tom" / "tom-000.wav"), n=2)
    assert kit(run, tmp_path / "varied", varied).keys == {"tom-000": 45}


def test_what_a_kit_refuses(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    request = GenerationRequest(FromPrior("iid"))
    with pytest.raises(AudioError, match="exists and is not empty; expected a new or empty folder"):
        kit(run, tmp_path, request, overwrite=True)
    with pytest.raises(ConfigError, match="--kit and --out exclude each other"):
        pipeline.Output(tmp_path, kit=tmp_path)
    with pytest.raises(ConfigError, match="--kit and --compile exclude each other"):
        pipeline.Output(compile_to=tmp_path, kit=tmp_path)
    with pytest.raises(ConfigError, match="--n is 101 with --kit; expected at most 100"):
        kit(run, tmp_path / "many", GenerationRequest(FromPrior("iid"), n=101))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_sound_of_a_kit_begins_at_once_and_keeps_its_tail() -> None:
    rate, n = 44100, 44100
    decay = np.exp(-np.arange(n) / 3000) * np.sin(np.arange(n) / 7)
    noise = 1e-5 * np.random.default_rng(0).standard_normal(2 * n)
    given = (noise + np.concatenate([np.zeros(n // 2), 0.2 * decay, np.zeros(n // 2)])).astype(np.float32)
    made = finished(given, rate)
    loud = np.flatnonzero(np.abs(made) >= np.abs(made).max() * db_to_amplitude(-40))
    assert loud[0] <= round(0.001 * rate) + 1
    gain = np.abs(made).max() / np.abs(given).max()
    tail = np.flatnonzero(np.abs(given) >= np.abs(given).max() * db_to_amplitude(-60))[-1] + 1
    begin = tail + round(FADE_OUT_SECONDS * rate) - len(made)
    np.testing.assert_allclose(made[loud[0] + 9 : tail - begin], gain * given[begin + loud[0] + 9 : tail], rtol=1e-5)
    assert (made[0], made[-1]) == (0, 0)
    silence = np.zeros(9, np.float32)
    assert finished(silence, rate) is silence


def test_a_sound_that_is_cut_short_is_faded() -> None:
    made = finished(np.ones(44100, np.float32), 44100)
    assert (made[0], made[-1]) == (0, 0)
    assert np.abs(np.diff(made)).max() <= 1 / 44
    assert np.flatnonzero(made < made.max())[44] == 44100 - 4410, "over 0.1 s"


@pytest.mark.parametrize(("seconds", "bits"), [(0.3, 16), (0.300125, 24), (0.2, 32)])
def test_a_loop_is_marked_from_its_first_sample_to_its_last(
    run: Path, tmp_path: Path, seconds: float, bits: int
) -> None:
    """The second length is an odd number of samples of three bytes."""
    request = GenerationRequest(FromPrior("iid"), seconds=seconds, loop=True, seed=2)
    texture = [*QUICK, "generate.seconds=1.0"]
    output = pipeline.Output(tmp_path, bits=bits)
    [file] = pipeline.generate(run, request, output, overrides=texture, compute=CPU).files
    samples = round(seconds * RATE)
    info = wavinfo.WavInfoReader(file)
    assert (info.data.frame_count, info.fmt.sample_rate) == (samples, RATE)
    assert info.smpl.sample_period_ns == round(1e9 / RATE)
    [loop] = info.smpl.sample_loops
    assert (loop.loop_type, loop.start, loop.end, loop.repetition_count) == (0, 0, samples - 1, 0)
    waveform, rate = audio.load(Path(file))
    assert (len(waveform), rate) == (samples, RATE)
    scan = audio.SoundFolder(tmp_path, include_generated=True).scan()
    assert [(row.status, row.reason) for row in scan.rows] == [("usable", "")]
    assert json.loads(Path(file).with_suffix(".json").read_text())["settings"]["loop"] is True


def test_a_loop_of_a_hit_is_the_hit(run: Path, tmp_path: Path) -> None:
    """Its attack is not faded: this run's clips end by themselves."""
    request = GenerationRequest(FromPrior("iid"), label="kick", seconds=0.3, seed=2)
    sounds = []
    for folder, one in ((tmp_path / "once", request), (tmp_path / "loop", replace(request, loop=True))):
        [file] = pipeline.generate(run, one, pipeline.Output(folder), overrides=QUICK, compute=CPU).files
        sounds.append(audio.load(Path(file))[0])
        assert (wavinfo.WavInfoReader(file).smpl is None) == (folder.name == "once")
    np.testing.assert_array_equal(*sounds)


def test_what_a_loop_refuses(run: Path, tmp_path: Path) -> None:
    request = GenerationRequest(FromPrior("iid"), seconds=0.2, loop=True)

    def refused(expected: str, request: GenerationRequest = request, *overrides: str, **output: Any) -> None:
        with pytest.raises(ConfigError, match=expected):
            pipeline.generate(run, request, pipeline.Output(**output), overrides=[*QUICK, *overrides], compute=CPU)

    refused("--loop with --format flac; expected wav", folder=tmp_path / "out", format="flac")
    refused("--loop and --kit exclude each other", kit=tmp_path / "out")
    refused("--loop with effects", request, "generate.effects=[{kind: fade}]", folder=tmp_path / "out")
    refused("--loop with a glide", replace(request, label="kick:tom"), folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    sound = np.ones(9, np.float32)
    for source in (FromPrior(seed_audio=sound), Variations(sound), Through((sound, sound))):
        with pytest.raises(ConfigError, match="--loop and a given sound exclude each other"):
            GenerationRequest(source, seconds=1.0, loop=True)
    with pytest.raises(ConfigError, match="--loop without --seconds"):
        GenerationRequest(loop=True)
