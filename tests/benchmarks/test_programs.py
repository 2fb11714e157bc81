"""Programs behind figures, in their smallest form, on a run of a few steps; and the parts that can be wrong."""

import importlib.util
import itertools
import re
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

from actseq import pipeline
from actseq.commands.common import Compute
from actseq.data.drumkit import write_drumkit

SETTINGS = [
    "train_ae.steps=2",
    "train_prior.steps=2",
    "generate.seconds=0.5",
    *(f"prior.network.{text}" for text in ("kind=clip-flow", "width=16", "layers=1", "heads=2", "inner=24", "steps=2")),
]
RATE = 8000
NAMES = ("phase", "samples, noise 0", "samples, noise 1")


def program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"program_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sound(kind: int, seconds: float, seed: int) -> np.ndarray:
    """Noise that is dark or bright, in syllables."""
    rng, n = np.random.default_rng(seed), round(seconds * RATE)
    plain = rng.standard_normal(n + 1)
    made = plain[1:] + (0.9 if kind else -0.9) * plain[:-1]
    at = np.arange(n) / RATE
    return (0.1 * made * np.clip(1.2 + np.sin(2 * np.pi * 1.3 * at + rng.random()), 0.001, None)).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels, dark and bright; twelve files of 2.5 s each."""
    folder = tmp_path_factory.mktemp("programs")
    for kind, label in enumerate(("dark", "bright")):
        (folder / "sounds" / label).mkdir(parents=True)
        for number in range(12):
            waveform = sound(kind, 2.5, 12 * kind + number)
            soundfile.write(folder / "sounds" / label / f"{label}-{number}.wav", waveform, RATE)
    made = folder / "run"
    pipeline.run_all(folder / "sounds", "smoke", run=str(made), overrides=SETTINGS, compute=Compute("cpu", 1))
    return made


def test_joins_are_measured(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program("joins").main([str(run), "default", "--clips", "3"])
    text = capsys.readouterr().out
    assert text.splitlines()[0].endswith("default")
    for name in ("regions", "recordings there", "continuations"):
        assert re.search(rf"{name} .*within by spectrum +[0-3] of 3 ", text), text
    program("joins").main([str(run), "iid", "--clips", "2"])
    text = capsys.readouterr().out
    assert "continuations" in text
    assert "regions" not in text, "this prior takes no suffix"


def test_regions_have_the_wanted_sizes_and_two_joins() -> None:
    region, size = program("joins").region, 512
    rng = np.random.default_rng(0)
    for n_samples in (5 * size, 5 * size + 1, 9 * size - 7, 100 * size):
        frames = -(-n_samples // size)
        found = [region(n_samples, size, rng) for _ in range(300)]
        firsts, lengths = np.array([(begin, (end - begin)) for begin, end in found]).T // size
        assert firsts.min() == 1
        assert (firsts + lengths).max() == frames - 1
        assert lengths.min() >= 2
        assert lengths.max() <= max(2, 0.5 * frames)
        assert lengths.min() <= max(2, 0.22 * frames + 1)
    assert region(3 * size, size, rng) is None


def test_ratios_are_those_to_the_recording() -> None:
    recording = np.asarray(0.3 * np.sin(np.arange(4000) * 0.3), np.float32)
    clicked = recording.copy()
    clicked[2000:] = 0.3 * np.random.default_rng(0).standard_normal(2000)
    ratios = program("joins").ratios(clicked, recording, RATE, [1000, 2000])
    assert ratios.shape == (2, 2)
    assert ratios[0, 1] > 3 > 1.5 > ratios[0, 0]


def test_speech_is_measured(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program("speech").main([str(run), "default", "--minutes", "0.4", "--seconds", "3"])
    header, real, oracle, made = capsys.readouterr().out.splitlines()
    assert header.startswith("clips")
    assert [line.split()[0] for line in (real, oracle, made)] == ["real", "oracle", "default"]
    windows = [int(line.split()[1]) for line in (real, oracle, made)]
    assert windows[0] == windows[1] > 4
    assert windows[2] == 8
    assert float(oracle.split()[2]) < 2000
    assert real.split()[2] == "–"


def test_vocoders_are_measured(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = "train_vocoder.network={kind: wavenet, width: 4, layers: 3, condition: 4, inner: 8, ahead: 32}"
    settings = [small, "train_vocoder.steps=2"]
    pipeline.train_vocoder(str(run), name="samples", overrides=settings, compute=Compute("cpu", 1))
    capsys.readouterr()
    program("compare_vocoders").main([str(run), "--clips", "2", "--noise", "0", "1"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "2 clips, test"
    ways = [f"{way}, {name}" for way in ("reconstructed", "copy synthesis") for name in NAMES]
    assert [row.partition(":")[0] for row in rows] == ways
    assert all(re.search(r": stft_log_l1_db \d+\.\d{3} \(.*; mel_l1_db .* × real time$", row) for row in rows)
    assert "stft_log_l1_db" in rows[0]
    assert "(+0.000 [+0.000, +0.000])" in rows[0]


def test_compression_is_measured_beside_opus(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program("compress").main([str(run), "--clips", "2", "--speech"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith(f"{run}: 2 test clips")
    assert [re.split(r"  +", row)[1] for row in rows[:4]] == ["means", "drawn", "rounded", "Opus, lowest"]
    sizes = [float(row.split(" kbit/s")[0].split()[-1]) for row in rows[:4]]
    assert sizes[0] == sizes[1] > 0
    with_header = float(rows[2].split("with header")[1].split()[0])
    # 32 bytes for each of two clips of 2.5 s.
    assert with_header - sizes[2] == pytest.approx(2 * 32 * 8 / 5 / 1000, abs=0.02)
    assert all(re.search(r"log-mel \d+\.\d\d dB", row) for row in rows[:4])


def test_opus_keeps_length_and_gets_better_with_size() -> None:
    compress = program("compress")
    clip = sound(0, 1.0, 0)
    small, large = compress.opus(clip, RATE, 1.0), compress.opus(clip, RATE, 0.0)
    assert len(small.sound) == len(large.sound) == len(clip)
    assert small.bits < large.bits
    measured = [compress.Measured([clip], [coded], RATE, False) for coded in (small, large)]
    assert measured[1].as_good_as(measured[0])
    assert not measured[0].as_good_as(measured[1])


def test_sound_that_is_not_speech_is_further_away() -> None:
    speech = program("speech")
    sets = [
        speech.Speech([sound(kind, 8.0, seed) for seed in seeds], RATE)
        for kind, seeds in ((0, (1, 2, 3)), (0, (4, 5)), (1, (6, 7)))
    ]
    rows = [speech.row("x", one, sets[0], sets[0]).split() for one in sets]
    assert rows[0][2] == "–"
    assert float(rows[1][2]) < 0.5 * float(rows[2][2])


def test_textures_are_measured(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program("textures").main([str(run), "default", "--draws", "2", "--seconds", "3"])
    name, line = capsys.readouterr().out.splitlines()
    assert name.endswith("default")
    assert re.match(r"  bright:dark +from +-?\d+\.\d\d to +-?\d+\.\d\d; 10–90 % in +\d+\.\d s; ", line), line


def test_a_cross_fade_is_told_from_a_morph() -> None:
    textures = program("textures")
    own = ([sound(0, 30.0, 1)], [sound(1, 30.0, 2)])
    line = textures.Line(own, RATE, 25, 0)
    for clip, expected in ((sound(0, 5.0, 3), 0.0), (sound(1, 5.0, 4), 1.0)):
        assert line.course(clip)[1].mean() == pytest.approx(expected, abs=0.2)

    class Fade:
        """Both sounds at once, one growing quieter and the other louder."""

        def generate(self, n: int, **_: object) -> list[np.ndarray]:
            share = np.linspace(0, np.pi / 2, 12 * RATE)
            both = [(sound(0, 12.0, 10 + i), sound(1, 12.0, 20 + i)) for i in range(n)]
            return [(np.cos(share) * a + np.sin(share) * b).astype(np.float32) for a, b in both]

    text = textures.glides(Fade(), line, "a:b", 3, 12.0, 0)
    nearest = re.search(r"nearest to a sum (\d+) %", text)
    assert nearest is not None, text
    assert int(nearest[1]) > 60


def test_music_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    music = program("music")
    music.main(["loops", str(tmp_path), "--loops", "10", "--seconds", "7"])
    run = str(tmp_path / "run")
    smallest = [f"autoencoder.network.{text}" for text in ("width=16", "inner=24", "blocks=1")]
    smallest += ["train_ae.batch_size=2", "train_prior.batch_size=2", *SETTINGS]
    pipeline.run_all(tmp_path / "loops", "music", run=run, overrides=smallest, compute=Compute("cpu", 1))
    capsys.readouterr()
    music.main(["score", run, str(tmp_path), "--clips", "2", "--lengths", "6", "--sheet", str(tmp_path / "sheet.png")])
    header, real, again, new, after = capsys.readouterr().out.splitlines()
    assert header.endswith("default")
    assert re.match(r"  real +2 of  6.0 s: beat 0.[6-9]\d, from 0.\d\d; \d bars, next chord right 100%$", real), real
    assert re.fullmatch(r"  reconstructed .*; \d+% of the chords recognised, good fit from -?\d\.\d\d on", again), again
    assert (tmp_path / "sheet.png").stat().st_size > 5000
    for text, name in ((new, "from nothing"), (after, "after 6 s of held-out")):
        wanted = rf"  {name} +2 of  6.0 s: beat -?\d.\d\d \(-?\d.\d\d of real\), .* bars, \d+% fit a chord, next .*"
        assert re.fullmatch(wanted, text), text
    (tmp_path / "some").mkdir()
    for name in ("loop-00.wav", "loop-01.wav"):
        (tmp_path / "loops" / name).rename(tmp_path / "some" / name)
    soundfile.write(tmp_path / "some" / "short.wav", sound(0, 3.0, 0), RATE)
    music.main(["continue", run, str(tmp_path / "some")])
    *rows, short, total = capsys.readouterr().out.splitlines()[1:]
    assert len(rows) == 2
    assert all(re.search(r" lag (0\.99\d|1\.00\d|1\.99\d|2\.00\d) s \(0\.9\d\), continued ", row) for row in rows), rows
    assert short.endswith("is shorter than 4 s")
    assert re.fullmatch(r"  the same lag in \d of 2, at 0.7 of its strength in \d", total)


def test_loops_have_their_beat_and_chords() -> None:
    music = program("music")
    made = list(music.loops(3, 12.0, 0, None))
    again = list(music.loops(3, 12.0, 0, None))
    for (clip, first), (same, _) in zip(made, again, strict=True):
        assert np.array_equal(clip, same)
        assert music.repetition(clip, music.RATE) > 0.8
        found = music.bars(clip, music.RATE)
        assert found.chords == found.true(first)
        assert all(found.steps)
        # The bars in reverse: the beat stays, the order of the chords does not.
        size = round(music.BAR_SECONDS * music.RATE)
        back = np.concatenate([clip[at : at + size] for at in range(5 * size, -1, -size)])
        assert music.repetition(back, music.RATE) > 0.8
        assert sum(music.bars(back, music.RATE).steps) <= 1
        # Played 10 % slower, the beat is elsewhere.
        lag, strength = music.strongest(clip, round(music.RATE / 1.1))
        assert min(abs(lag / (1.1 * beats) - 1) for beats in (1, 2, 1.5)) < 0.01
        assert strength > 0.8
        assert music.repetition(clip, round(music.RATE / 1.1)) < 0.5
    noise = np.random.default_rng(0).standard_normal(12 * music.RATE).astype(np.float32)
    assert abs(music.repetition(noise, music.RATE)) < 0.2
    assert music.strongest(noise, music.RATE)[1] < 0.3
    lengths = [len(clip) for clip, _ in music.loops(2, 3.0, 0, None)]
    assert lengths == [3 * music.RATE] * 2


@pytest.mark.data
def test_loops_are_played_with_recorded_sounds(data_dir: Path) -> None:
    music = program("music")
    for clip, first in music.loops(2, 8.0, 0, data_dir):
        assert music.repetition(clip, music.RATE) > 0.7
        found = music.bars(clip, music.RATE)
        assert found.chords == found.true(first)


GRAINS = [
    "corpus.sample_rate=8000",
    "corpus.segment_seconds=0.5",
    "representation.grain_length=200",
    "autoencoder.network.width=12",
    *(f"train_{stage}.{text}" for stage in ("ae", "prior") for text in ("minutes=null", "steps=2")),
    "train_ae.batch_size=4",
    "train_ae.validation_batches=1",
    "prior.network.width=8",
    "train_prior.frames=16",
    "generate.seconds=0.5",
]


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels of six files, two seconds each."""
    folder = tmp_path_factory.mktemp("textures")
    for kind, label in enumerate(("dark", "bright")):
        (folder / label).mkdir()
        for number in range(6):
            soundfile.write(folder / label / f"{label}-{number}.wav", sound(kind, 2.0, 6 * kind + number), RATE)
    return folder


@pytest.mark.parametrize("preset", ["grain-aae", "grain-aae-original", "grain-ae", "grain-conv", "spectrum-ae"])
def test_grains_go_from_training_to_sound_and_are_measured(
    preset: str, textures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    pipeline.run_all(textures, preset, run=run, overrides=GRAINS, compute=Compute("cpu", 1))
    capsys.readouterr()
    program("grains").main(["measure", run, "--sheet", str(tmp_path / "sheet.png")])
    text = capsys.readouterr().out
    exact = re.findall(r"true grains, (.*): error (-?\d+\.\d) dB", text)
    assert [name for name, _ in exact] == ["run", "without overlap", "90 %, low-pass"]
    # Loops are no grains that follow each other.
    assert (float(exact[1][1]) < -90) == (preset != "grain-conv")
    assert float(exact[2][1]) > -20
    assert len(re.findall(r"line at the hop rate, .*: -?\d+\.\d dB \(original -?\d+\.\d\)", text)) == 3
    assert re.search(r"flatness above 1 kHz: original -\d+\.\d dB, output -\d+\.\d dB, error -\d+\.\d dB", text)
    assert re.search(r"^KS  .*, median 0\.\d+$", text, flags=re.M)
    assert re.search(r"drawn over reconstructed: MMD² \d+\.\d\d", text)
    assert (tmp_path / "sheet.png").stat().st_size > 5000


def test_runs_of_any_preset_are_compared(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    program("grains").main(["compare", str(run), str(run), "--clips", "2", "--speech", "--sheet", str(sheet)])
    assert sheet.stat().st_size > 5000
    first, again = capsys.readouterr().out.splitlines()
    assert first == again
    way = r"log-mel L1 \d+\.\d\d dB \[\d+\.\d\d, \d+\.\d\d\], PESQ-nb (nan|\d\.\d\d) of \d"
    start = r"run: [12] steps, 2 clips, \d+ values a second, \d+\.\d\d kbit/s"
    assert re.fullmatch(f"{start}; mean: {way}; draw: {way}", first)


def test_what_shapes_latents_is_compared(textures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = [one for one in GRAINS if not one.startswith(("train_prior", "generate", "prior", "train_ae.steps"))]
    words = [word for one in small for word in ("--set", one)]
    program("grains").main(
        ["ablate", str(textures), str(tmp_path / "runs"), "--steps", "2", "--seeds", "0", "1", *words]
    )
    lines = capsys.readouterr().out.splitlines()
    numbers = r"(?: +\d+\.\d+ → \d+\.\d+){4}"
    names = ["blog post", "neither", "adversary", "matching", "both"]
    wanted = [f"{name}, {what}" for name in names for what in ("seed 0", "seed 1", "median")]
    found = [line for line in lines if re.fullmatch(rf".*(?:seed \d|median){numbers}", line)]
    assert [re.split(r"  +", line)[0] for line in found] == wanted
    assert len({line.split("seed")[1].split(maxsplit=1)[1] for line in found if "seed 0" in line}) == len(names)


def test_white_noise_is_flat_and_a_repeated_grain_has_a_line() -> None:
    grains = program("grains")
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(8 * 44100).astype(np.float32)
    repeated = np.tile(noise[:1000], 350)
    hop_hz = 44100 / 1000
    assert grains.line_db(grains.spectrum([repeated], grains.LINE_N_FFT), 44100, hop_hz) > 20
    assert abs(grains.line_db(grains.spectrum([noise], grains.LINE_N_FFT), 44100, hop_hz)) < 3
    assert grains.error_db([noise], [1.1 * noise]) == pytest.approx(-20, abs=0.01)
    assert grains.error_db([noise], [noise]) == -400


def test_growth_is_linear_or_not(tmp_path: Path) -> None:
    growth = program("growth")
    for power in (1.0, 2.0):
        costs = {size: growth.Cost(5 + size**power, 10.0) for size in (1, 100, 10_000)}
        assert growth.exponent(costs) == pytest.approx(power, abs=0.01)
    found = dict.fromkeys("abcde", costs)
    assert growth.table(found, growth.Cost(5, 4))[-1].endswith("| 6 / 6 / 6 | 2.00 |")
    growth.draw(found, growth.Cost(5, 4), tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 5000


def test_a_table_of_labels_is_read_from_names(tmp_path: Path) -> None:
    transfer = program("transfer")
    for name in ("3/3_theo_0.wav", "4/4_jackson_12.wav"):
        (tmp_path / name).parent.mkdir()
        soundfile.write(tmp_path / name, sound(0, 0.1, 0), RATE)
    table = tmp_path / "labels.csv"
    transfer.main(["table", str(tmp_path), str(table)])
    assert table.read_text().splitlines() == ["file,label", "3/3_theo_0.wav,theo", "4/4_jackson_12.wav,jackson"]
    with pytest.raises(SystemExit, match=r"3_theo_0\.wav: no match for __"):
        transfer.main(["table", str(tmp_path), str(table), "--pattern", "__"])
    transfer.main(["table", str(tmp_path), str(table), "--pattern", "_(theo)_", "--rest"])
    assert table.read_text().splitlines()[1:] == ["3/3_theo_0.wav,theo", "4/4_jackson_12.wav,"]


def test_timbre_transfer_is_measured(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    program("transfer").main(
        ["measure", str(run), "--amount", "0.5", "--clips", "1", "--steps", "30", "--sheet", str(sheet)]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["real", "reconstructed", "to dark", "to bright", "transferred"]
    # The labels are the folders: where there is only one thing to tell, what is told as the other label is not kept.
    found = [re.findall(r"(\d)/2 ", lines[i]) for i in (0, 4)]
    assert found[0] == ["2", "2"]
    assert int(found[1][0]) + int(found[1][1]) == 2
    assert sheet.stat().st_size > 5000
    with pytest.raises(SystemExit, match="has 1 test clips; expected at least 5: --clips 1"):
        program("transfer").main(["measure", str(run), "--clips", "5"])


def test_everything_at_once_is_measured_beside_a_small_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diversity = program("diversity")
    for kind, (name, seconds) in enumerate((("one/dark", 0.6), ("two/bright", 0.9))):
        for number in range(12):
            path = tmp_path / "data" / name / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, sound(kind, seconds, 12 * kind + number), RATE)
    diversity.main(["make", str(tmp_path), str(tmp_path / "data"), "one", "two"])
    assert capsys.readouterr().out == "24 files, 2 labels\n"
    assert (tmp_path / "labels.csv").read_text().splitlines()[1] == "one/dark/0.wav,dark"
    large = [
        f"corpus.labels={tmp_path / 'labels.csv'}",
        *(f"autoencoder.network.{text}" for text in ("width=16", "inner=24", "blocks=1")),
        *(f"train_{stage}.batch_size=4" for stage in ("ae", "prior")),
        *SETTINGS,
    ]
    runs = [str(tmp_path / name) for name in ("large", "small")]
    pipeline.run_all(tmp_path / "sounds", "large", run=runs[0], overrides=large, compute=Compute("cpu", 1))
    pipeline.run_all(tmp_path / "data" / "two", "smoke", run=runs[1], overrides=SETTINGS, compute=Compute("cpu", 1))
    capsys.readouterr()
    sheet = str(tmp_path / "sheet.png")
    words = ["--small", f"two={runs[1]}", "--clips", "2", "--least", "10", "--sheet", sheet]
    diversity.main(["measure", runs[0], *words])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "one, 1 test clips at 22050 Hz"
    assert lines[2] == "two, 1 test clips at 8000 Hz", "both models hold out the same file"
    figures = r" +\d+\.\d\d kbit/s, log-mel L1 \d+\.\d\d \[.*\] dB"
    names = {1: "all at once", 3: "all at once", 4: "by itself", 6: "at its rate"}
    for row, name in names.items():
        assert re.fullmatch(rf"  {name}{figures}", lines[row]), lines[row]
    assert lines[4].split()[2] == lines[6].split()[3], "at the rate of the small model"
    for line in (lines[5], lines[7]):
        assert re.fullmatch(r"  difference   [+-]\d+\.\d\d \[.*\] dB", line), line
    sets = r"real \d/1 .*, reconstructed \d/1 .*, drawn \d/2 .*, new \d/2 .*"
    assert re.fullmatch(rf"  one/dark: {sets}", lines[9]), lines[9]
    assert re.fullmatch(rf"  two/bright: {sets}, new, by itself \d/2 .*", lines[10]), lines[10]
    assert lines[11].startswith("  all: real ")
    assert (tmp_path / "sheet.png").stat().st_size > 5000


def test_damage_is_measured_before_and_after_restoration(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sounds" / "voice").mkdir(parents=True)
    for path in sorted((data_dir / "speech").rglob("*.*"))[:12]:
        waveform, rate = soundfile.read(path, frames=30000)
        soundfile.write(tmp_path / "sounds" / "voice" / f"{path.stem}.wav", waveform, rate)
    tiny = ("corpus.sample_rate=16000", "train_ae.steps=2", "train_ae.minutes=null", "train_ae.validations=1")
    small = ("autoencoder.network.width=16", "autoencoder.network.inner=16")
    words = {"run": str(tmp_path / "run"), "overrides": (*tiny, *small), "compute": Compute("cpu", 1)}
    pipeline.train_ae(tmp_path / "sounds", "repair", **words)
    sheet = tmp_path / "sheet.png"
    program("damages").main([str(tmp_path / "run"), str(data_dir), "--clips", "1", "--sheet", str(sheet)])
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if re.search(r"\[[+-]\d", line)]
    assert len(rows) == 5 * 2 + 5
    assert lines[-1].startswith("unseen noises: PESQ-wb ")
    assert sheet.stat().st_size > 10_000


def test_gaps_are_filled_in_several_ways(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    restoring, sheet = tmp_path / "restoring", tmp_path / "sheet.png"
    tiny = ("corpus.sample_rate=8000", "train_ae.steps=2", "train_ae.minutes=null", "train_ae.validations=1")
    small = ("autoencoder.network.width=16", "autoencoder.network.inner=16", "train_ae.targets=[dark, bright]")
    words = {"run": str(restoring), "overrides": (*tiny, *small), "compute": Compute("cpu", 1)}
    pipeline.train_ae(run.parent / "sounds", "repair", **words)
    capsys.readouterr()
    program("gaps").main([str(run), str(restoring), "--clips", "2", "--sheet", str(sheet)])
    lines = capsys.readouterr().out.splitlines()
    names = ["gaps", "mirrored", "generated", "codec alone", "restored", "restored, generated"]
    assert [line[:22].strip() for line in lines[:-1]] == names
    errors = [float(re.search(r"log-mel dB (\d+\.\d+)", line)[1]) for line in lines[:-1]]
    assert errors[1] < errors[0]
    assert lines[-1] == "10 gaps, of which 10 are found to the sample, and 0 others"
    assert sheet.stat().st_size > 5000


def test_gaps_to_be_filled_do_not_touch() -> None:
    parts, rng = program("gaps").parts, np.random.default_rng(0)
    for samples in (2000, 4001, 40000):
        for _ in range(50):
            found = parts(samples, RATE, 0.05, rng)
            assert all(end - begin == 400 for begin, end in found)
            assert all(end < begin for (_, end), (begin, _) in itertools.pairwise(found))
            assert all(begin >= 400 and end <= samples - 400 for begin, end in found)


def test_autoencoders_are_compared_with_principal_components(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program("components").main([str(run), "--clips", "2"])
    title, waveforms, features = capsys.readouterr().out.splitlines()
    assert re.search(r"run: \d steps, 2 test clips, 250 values a second, \d\.\d\d kbit/s$", title)
    assert re.search(r"log-mel dB   reconstructed .*; pca 4 .*\]; pca 4 at .* kbit/s .*\]$", waveforms)
    error, other, difference = map(float, re.findall(r"[ +-](\d\.\d{3}|[+-]\d\.\d{3})", features)[:3])
    assert error - other == pytest.approx(difference, abs=2e-3)


def test_halves_are_compared(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["prior.network.kind=lstm", "prior.network.width=16", "train_prior.steps=2"]
    pipeline.train_prior(str(run), name="lstm", overrides=small, compute=Compute("cpu", 1))
    capsys.readouterr()
    program("halves").main([str(run), "default", "lstm", "--gap", "0", "--gap", "0.5"])
    lines = capsys.readouterr().out.splitlines()
    assert [re.search(r"(default|lstm) test, gap (0|0\.5) s", line)[0] for line in lines] == [
        f"{name} test, gap {gap} s" for name in ("default", "lstm") for gap in ("0", "0.5")
    ]
    monkeypatch.delattr("actseq.data.latents.LatentSequences.draw")
    program("halves").main([str(run), "lstm", "--gap", "0", "--means"])
    assert "2 clips: own half likelier in " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="prior iid has neither"):
        program("halves").main([str(run), "iid"])


def test_halves_that_belong_together_are_recognised() -> None:
    """A measure that likes a half near the mean of the first, and halves that differ in how likely they are."""
    halves, rng = program("halves"), np.random.default_rng(0)
    clips = [torch.from_numpy(k + 0.1 * k * rng.standard_normal((40, 1))) for k in range(1, 6)]

    def measure(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        score = -second.square().sum(1)
        return score - 0.1 * (second - first.mean(0)).square().sum(1) if len(first) else score

    cut = halves.cut(clips, 4)
    assert [(len(first), len(second)) for first, second in cut] == [(16, 16)] * 5
    raw, gained = halves.compare(measure, cut)
    assert len(raw) == len(gained) == 20
    assert (gained > 0).all()
    assert 0.3 < (raw > 0).mean() < 0.7
    wrong = [(first, halves_of[1]) for (first, _), halves_of in zip(cut, cut[1:] + cut[:1], strict=True)]
    assert (halves.compare(measure, wrong)[1] > 0).mean() < 0.75


def test_levels_are_measured(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = tmp_path / "dark" / "recording.wav"
    recording.parent.mkdir()
    soundfile.write(recording, sound(0, 16.0, 0), RATE)
    sheet = tmp_path / "sheet.png"
    program("levels").main([str(run), str(recording), "default", "--minutes", "0.6", "--sheet", str(sheet)])
    rows = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in rows] == ["recording", "reconstructed", "blocks", "shuffled", "default"]
    assert re.search(r" 2 stretches: .* apart \d\.\d\d near, \d\.\d\d far, each \d\.\d\d$", rows[-1])
    assert sheet.stat().st_size > 5000


def test_swells_are_told_from_noise() -> None:
    levels = program("levels")
    at, rng = np.arange(180) * levels.STEP_SECONDS, np.random.default_rng(0)
    swell = 6 * np.sin(2 * np.pi * at / 8)
    course = levels.levels((10 ** (swell.repeat(2000) / 20) * 0.1).astype(np.float32), RATE)
    assert np.allclose(course + 20, swell, atol=0.01)
    found = levels.autocorrelation(swell, levels.FAR_SECONDS)
    seconds = np.arange(5, 15.01, levels.STEP_SECONDS)
    assert np.allclose(found, np.cos(2 * np.pi * seconds / 8) * (1 - seconds / 45), atol=0.05)
    rows = [levels.row("x", own, swell) for own in ([swell + rng.normal(0, 1, 180)], [rng.permutation(swell)])]
    far = [float(re.search(r"([\d.]+) far", line)[1]) for line in rows]
    assert far[0] < 0.05 < 0.3 < far[1]
    assert " 8.0 swells a minute" in rows[0]


@pytest.mark.data
def test_strings_of_digits_are_measured(tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strings, digits = program("strings"), tmp_path / "digits"
    for path in (data_dir / "digits_fsdd").glob("*/*_[jt]*_[56789].wav"):
        # The takes of one digit and speaker: two that are held out, three that are not.
        digit, speaker, number = path.stem.split("_")
        own = digits / digit / f"{digit}_{speaker}_{int(number) + (7 if int(number) > 6 else 0)}.wav"
        own.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, own)
    strings.main(["make", str(tmp_path), str(digits), "--strings", "12"])
    table = (tmp_path / "labels.csv").read_text().splitlines()
    assert table[0] == "file,start,end,label"
    assert re.match(r"12 strings, \d+ digits", capsys.readouterr().out)
    overrides = [*SETTINGS, f"corpus.labels={tmp_path / 'labels.csv'}"]
    run = str(tmp_path / "run")
    pipeline.run_all(tmp_path / "sounds", "smoke", run=run, overrides=overrides, compute=Compute("cpu", 1))
    capsys.readouterr()
    sheet = tmp_path / "sheet.png"
    strings.main(["measure", run, str(digits), "--strings", "3", "--steps", "2", "--sheet", str(sheet)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("held-out takes, one by one: digits ")
    for line, name in zip(lines[1:4], ("joined takes", "joined draws of posteriors", "generated"), strict=True):
        assert re.match(rf"{name}: digits \d+/\d+ \(.*\), whole strings \d/3 ", line), line
    assert sheet.is_file()


def test_a_second_classifier_judges_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for digit in "38":
        (tmp_path / "sounds" / digit).mkdir(parents=True)
        for number in range(16):
            waveform = sound(int(digit == "8"), 1.0, 16 * int(digit) + number)
            soundfile.write(tmp_path / "sounds" / digit / f"{number}.wav", waveform, RATE)
    made = str(tmp_path / "run")
    pipeline.run_all(tmp_path / "sounds", "smoke", run=made, overrides=SETTINGS, compute=Compute("cpu", 1))
    capsys.readouterr()
    program("independent").main([made, "default", "iid", "--clips", "12", "--steps", "60"])
    lines = capsys.readouterr().out.splitlines()
    names = ("real", "reconstructed", "oracle", "iid", "generated by default", "generated by iid")
    row = re.compile(r"(.+): (\d+) clips, of the label ([\d.]+)% \[.+\], Fréchet [\d.]+ \[.+\]$")
    found = [row.match(line) for line in lines]
    assert tuple(one and one[1] for one in found) == names, lines
    assert [int(one[2]) for one in found[2:] if one] == [12] * 4
    assert found[0]
    assert float(found[0][3]) == 100, "dark and bright noise"


@pytest.mark.data
def test_the_network_of_strings_learns_digits(data_dir: Path) -> None:
    strings = program("strings")
    paths = [path for digit in "06" for path in sorted((data_dir / "digits_fsdd" / digit).glob("*_theo_*.wav"))]
    sounds = [strings.audio.load(path, RATE)[0] for path in paths]
    takes = [
        strings.Take(path.parent.name, "theo", number, sound * np.float32(strings.PEAK / np.abs(sound).max()))
        for number, (path, sound) in enumerate(zip(paths, sounds, strict=True))
    ]
    model = strings.trained(takes[::2], 20, 0)
    names = model.named([take.waveform for take in takes[1::2]])
    assert np.mean([name == take.digit for name, take in zip(names, takes[1::2], strict=True)]) > 0.85


def test_joined_sounds_lie_in_their_spans() -> None:
    strings = program("strings")
    parts = [np.full(n, level, np.float32) for n, level in ((100, 1.0), (80, -1.0))]
    made, spans = strings.joined(parts, [10, 20, 30])
    assert spans == [(10, 110), (130, 210)]
    assert len(made) == 240
    for (begin, end), part in zip(spans, parts, strict=True):
        np.testing.assert_array_equal(made[begin + 16 : end - 16], part[16:-16])
    assert not made[110:130].any()


def test_one_shots_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_drumkit(tmp_path / "kit", n_per_kind=10, sample_rate=RATE, seed=0)
    for path in (tmp_path / "kit").rglob("*.wav"):
        soundfile.write(path, soundfile.read(path)[0][: RATE // 2], RATE)
    small = [
        f"corpus.sample_rate={RATE}",
        "corpus.test=0.3",
        "train_ae.steps=2",
        "representation={kind: mel, n_fft: 256, hop_length: 128, n_mels: 24}",
        "autoencoder.network={kind: clip, seconds: 0.6, width: 4, levels: 2}",
        "latents.copies=1",
    ]
    for name, folder in (("all", "kit"), ("snares", "kit/snare")):
        settings = [*small, "autoencoder.condition=null"] if name == "snares" else small
        pipeline.run_all(
            tmp_path / folder, "oneshot-vae", run=str(tmp_path / name), overrides=settings, compute=Compute("cpu", 1)
        )
    capsys.readouterr()
    sheet = tmp_path / "sheet.png"
    program("oneshots").main([str(tmp_path / "all"), "--n", "5", "--sheet", str(sheet)])
    title, heading, real, reconstructed, made = capsys.readouterr().out.splitlines()
    kinds = title.removeprefix("all: ").split(" / ")
    assert kinds == sorted(path.name for path in (tmp_path / "kit").iterdir())
    assert heading.split()[:2] == ["clips", "n"]
    share = r"(?:1\.00|0\.\d\d)"
    for line, name, n in ((real, "real", "10"), (reconstructed, "reconstructed", r"\d"), (made, "prior normal", "5")):
        counts, shares = (" / ".join([one] * len(kinds)) for one in (n, share))
        assert re.match(rf"{name} +{counts} +{shares} +(–|-?\d).* {shares}$", line), line
    assert sheet.stat().st_size > 10_000
    program("oneshots").main([str(tmp_path / "snares"), "--judge", str(tmp_path / "all"), "--n", "6"])
    *_, reconstructed, made = capsys.readouterr().out.splitlines()
    assert re.match(rf"reconstructed +\d +{share} +– +", reconstructed), reconstructed
    assert re.match(rf"prior normal +6 +{share} +-?\d+ +\d+ +{share}$", made), made
