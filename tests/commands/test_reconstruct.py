"""Files and clips that go through a run piece by piece: as the whole would, and in little memory."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped, unused-ignore]

from actseq import audio, pipeline
from actseq.data.corpus import Corpus
from actseq.errors import AudioError
from actseq.inference.loaded_run import LoadedRun
from actseq.storage.store import SequenceStore

CPU = pipeline.Compute("cpu", 1)

RATE = 8000
QUICK = ["vocoder={kind: phase, n_turns: 0}"]
# The high-water mark of the process itself: what `getrusage` tells may be that of its parent.
PROGRAM = """
import json, sys
from pathlib import Path
from actseq import pipeline

folder, overrides = Path(sys.argv[1]), sys.argv[2:]
peaks = []
for name in ("short.wav", "long.wav"):
    pipeline.reconstruct(
        folder / "run", [folder / name], out=folder / "out", overrides=overrides, compute=pipeline.Compute("cpu", 1)
    )
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    peaks.append(int(line.split()[1]) / 1024)
print(json.dumps(peaks))
"""


class Recorder:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, float, str]] = []
        self.done: list[float] = []
        self.lines: list[str] = []

    def begin(self, task: str, total: float, done: float = 0, unit: str = "steps") -> None:
        self.tasks.append((task, total, unit))
        self.done = []

    def resize(self, total: float) -> None:
        pass

    def advance(self, done: float, figures: Mapping[str, float] | None = None) -> None:
        self.done.append(done)

    def end(self) -> None:
        pass

    def say(self, text: str) -> None:
        self.lines.append(text)

    warn = say


@pytest.fixture(scope="module")
def spoken(data_dir: Path) -> list[np.ndarray]:
    return [audio.load(path, RATE)[0] for path in audio.find(data_dir / "digits_fsdd")[::45]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, spoken: list[np.ndarray]) -> Path:
    """A folder with `run`, hardly trained on seven digits and a minute of them in a row."""
    made: Path = tmp_path_factory.mktemp("reconstruct")
    for i, waveform in enumerate([*spoken[:7], np.resize(np.concatenate(spoken), 60 * RATE)]):
        audio.write(made / "corpus" / f"{i}.wav", waveform, RATE)
    overrides = ["train_ae.steps=2"]
    pipeline.train_ae(made / "corpus", "smoke", run=str(made / "run"), overrides=overrides, compute=CPU)
    return made


def test_a_file_becomes_what_its_waveform_does(folder: Path, spoken: list[np.ndarray], tmp_path: Path) -> None:
    """Stereo, another rate, an offset, and louder than a file can hold; more than one chunk of 2048 frames."""
    long = np.concatenate(spoken)[: 20 * RATE + 1]
    long = audio.resample(long / np.abs(long).max(), RATE, 11025)
    sounds = {
        "long.flac": 0.5 * np.stack([long, long[::-1]], axis=1),
        "shifted.wav": 0.3 * spoken[0] + 0.5,
        "loud.wav": 3 * spoken[1] / np.abs(spoken[1]).max(),
    }
    for name, waveform in sounds.items():
        rate, subtype = (11025, "PCM_16") if name == "long.flac" else (RATE, "FLOAT")
        soundfile.write(tmp_path / name, waveform, rate, subtype=subtype)
    (tmp_path / "no.wav").write_text("no sound")
    loaded = LoadedRun.open(folder / "run", device="cpu", overrides=QUICK)
    reporter, out = Recorder(), tmp_path / "out"
    found = pipeline.reconstruct(
        folder / "run", [tmp_path], out=out, overrides=QUICK, compute=pipeline.Compute("cpu", 1, reporter)
    )
    assert [Path(path).name for path in found["files"]] == ["long.wav", "loud.wav", "shifted.wav"]
    [skipped] = found["skipped"]
    with pytest.raises(AudioError) as raised:
        audio.load(tmp_path / "no.wav")
    assert skipped == {"file": str(tmp_path / "no.wav"), "reason": str(raised.value)}
    samples = 0
    for name in sounds:
        waveform, own_rate = audio.load(tmp_path / name)
        waveform, _ = audio.remove_offset(waveform)
        waveform = waveform if own_rate == RATE else audio.resample(waveform, own_rate, RATE)
        samples += len(waveform)
        gain = audio.write(tmp_path / "whole.wav", loaded.reconstruct(waveform), RATE)
        assert (gain < 1) == (name == "loud.wav")
        expected, made = (
            soundfile.read(path)[0] for path in (tmp_path / "whole.wav", out / f"{name.split('.')[0]}.wav")
        )
        assert len(made) == len(waveform)
        # One step of 16 bits: a resampler may round otherwise in pieces.
        np.testing.assert_allclose(made, expected, atol=1.01 / 32768)
    said = " | ".join(reporter.lines)
    for words in ("skipped", "long.flac: resampled from 11025 to 8000 Hz", "shifted.wav: a constant offset of 0.5"):
        assert words in said
    assert "loud.wav was turned down" in said
    assert reporter.tasks == [("read", 4, "files"), ("reconstruct", samples / RATE, "seconds of sound")]
    assert reporter.done == sorted(reporter.done)
    assert reporter.done[-1] == samples / RATE
    assert len(set(reporter.done)) > len(sounds)


def test_nothing_to_reconstruct(folder: Path, tmp_path: Path) -> None:
    for names, expected, warned in ((["no.wav"], r"no\.wav: cannot be decoded", 0), (["a.wav", "b.wav"], "none of", 2)):
        paths = [tmp_path / name for name in names]
        for path in paths:
            path.write_text("no sound")
        reporter = Recorder()
        with pytest.raises(AudioError, match=expected):
            pipeline.reconstruct(
                folder / "run", paths, out=tmp_path / "out", compute=pipeline.Compute("cpu", 1, reporter)
            )
        assert len(reporter.lines) == warned
    assert not (tmp_path / "out").exists()


def test_latents_are_the_same_from_pieces_and_from_batches(folder: Path) -> None:
    stores = []
    for size in (32, 1):
        reporter = Recorder()
        overrides = [f"latents.batch_size={size}", "latents.copies=2"]
        pipeline.extract_latents(folder / "run", overrides=overrides, compute=pipeline.Compute("cpu", 1, reporter))
        stored = list(SequenceStore(folder / "run" / "latents"))
        stores.append({record.key: values for record, values in stored})
        assert reporter.done[-1] == reporter.tasks[-1][1] or reporter.done[-1] == reporter.tasks[-1][1] - 1
        for path in (folder / "run" / "latents").iterdir():
            path.unlink()
    # A piece is about eight seconds here: progress of the long clip is reported before it is done.
    assert len(reporter.done) > len(stores[0]) + 3
    codec = LoadedRun.open(folder / "run", device="cpu", overrides=QUICK).codec
    corpus = Corpus(folder / "run" / "corpus", codec.level_dbfs)
    keys = {record.key for record in corpus.store.records}
    copies = {f"{corpus.store.records[i].key} copy {k}" for i in corpus.indices("train") for k in (1, 2)}
    assert stores[0].keys() == stores[1].keys() == keys | copies
    for i, record in enumerate(corpus.store.records):
        np.testing.assert_allclose(stores[0][record.key], stores[1][record.key], atol=1e-5, rtol=1e-5)
        mean, variance = codec.encode([corpus.waveform(i)])[0]
        assert variance is not None
        np.testing.assert_array_equal(stores[1][record.key], np.concatenate([mean, variance], axis=1))
    # A copy is the clip at the speed that its record names, resampled here by another hand.
    extras = {record.key: record.extra for record, _ in stored}
    for i in corpus.indices("train"):
        name = corpus.store.records[i].key
        speeds = [extras[f"{name} copy {k}"]["speed"] for k in (1, 2)]
        assert len({1.0, *speeds}) == 3
        assert all(1 / 1.1 <= speed <= 1.1 for speed in speeds)
        assert {extras[f"{name} copy {k}"]["split"] for k in (1, 2)} == {"copies"}
        whole = corpus.waveform(i)
        length = round(len(whole) / speeds[0])
        faster = np.interp(np.arange(length) * speeds[0], np.arange(len(whole)), whole).astype(np.float32)
        mean, _ = codec.encode([faster])[0]
        copied = stores[1][f"{name} copy 1"][:, : mean.shape[1]]
        assert copied.shape == mean.shape
        assert np.corrcoef(copied.ravel(), mean.ravel())[0, 1] > 0.9


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc")
def test_ten_minutes_take_no_more_memory_than_one(folder: Path, spoken: list[np.ndarray]) -> None:
    for name, minutes in (("short", 1), ("long", 10)):
        tiled = np.resize(np.concatenate(spoken), minutes * 60 * RATE)
        audio.write(folder / f"{name}.wav", tiled, RATE)
    command = [sys.executable, "-c", PROGRAM, str(folder), *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    short, long = json.loads(done.stdout)
    # One copy of the long waveform alone would be 18 MB, its spectra 75 MB, and there would be several of each.
    assert long - short < 30
    assert audio.measure(folder / "out" / "long.wav", RATE).samples == len(tiled)
