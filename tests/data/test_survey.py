"""The preset that is chosen for a folder of real sounds, and what is said about it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped, unused-ignore]

from actseq.audio import SoundFolder
from actseq.config import FITTING_PRESETS
from actseq.data.survey import HEARD, hear, little, survey
from actseq.errors import AudioError


@pytest.mark.parametrize(
    ("folder", "preset", "kind", "words"),
    [
        ("drums", "drums", "one-shot", ["366 files with 3 labels (snare 190, hat 91, kick 85)", "44.1 kHz 337"]),
        ("digits_fsdd", "digits", "voice", ["2700 files with 10 labels", "at 8 kHz", "short words"]),
        ("ambience", "ambience", "texture", ["23 files with 6 labels", "22 kHz 16"]),
        ("speech", "speech", "voice", ["128 files", "at 48 kHz", "sentences"]),
        ("instruments", "drums", "one-shot", ["79 files with 2 labels"]),
        (
            "loops",
            "music",
            "loop",
            ["17 files", "sound like loops (sound with a beat that repeats)", "several bars at once"],
        ),
    ],
)
def test_the_preset_fits_the_sounds(data_dir: Path, folder: str, preset: str, kind: str, words: list[str]) -> None:
    found = survey(SoundFolder(data_dir / folder))
    assert found.preset == preset
    assert preset in FITTING_PRESETS
    assert found.kinds[0][0] == kind
    assert len(found.heard) <= HEARD
    said = found.lines()
    assert len(said) == 3
    assert not [part for part in words if part not in " ".join(said)]
    assert f"preset {preset}:" in said[2]


def test_a_beat_makes_a_loop_and_irregular_hits_do_not() -> None:
    rate, rng = 22050, np.random.default_rng(0)
    hit = (rng.standard_normal(rate // 10) * np.exp(-np.arange(rate // 10) / 400)).astype(np.float32)
    for times, kind in ((np.arange(0.1, 7.8, 0.5), "loop"), (np.sort(rng.uniform(0.1, 7.8, 16)), "phrase")):
        waveform = (1e-3 * rng.standard_normal(8 * rate)).astype(np.float32)
        for at in times:
            start = round(at * rate)
            waveform[start : start + len(hit)] += hit
        assert hear(waveform / np.abs(waveform).max(), rate).kind == kind


def test_a_mixed_folder_follows_the_most_frequent_kind_and_says_so(data_dir: Path, tmp_path: Path) -> None:
    for label, source, n in (("hits", "drums/snare", 30), ("talk", "speech/kerstin_de", 20)):
        (tmp_path / label).mkdir()
        for path in sorted((data_dir / source).iterdir())[:n]:
            (tmp_path / label / path.name).symlink_to(path)
    found = survey(SoundFolder(tmp_path))
    assert found.preset == "drums"
    assert "like voices" in found.lines()[1]
    assert "separate folders" in found.lines()[1]


def test_three_files_are_enough_to_choose_and_are_called_little(data_dir: Path, tmp_path: Path) -> None:
    for path in sorted((data_dir / "drums" / "kick").iterdir())[:3]:
        shutil.copy(path, tmp_path)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    found = survey(SoundFolder(tmp_path))
    assert found.preset == "drums"
    assert "1 more cannot be opened" in found.lines()[0]
    assert little(sum(found.seconds), 3).endswith("of sound in 3 files is little: the model will mostly repeat it")
    assert little(60, 3) == ""


def test_short_words_of_a_high_bandwidth_are_not_reduced_to_8_khz(data_dir: Path, tmp_path: Path) -> None:
    for path in sorted((data_dir / "speech" / "kerstin_de").iterdir())[::13]:
        waveform, rate = soundfile.read(path)
        soundfile.write(tmp_path / f"{path.stem}.wav", waveform[rate // 2 : 3 * rate // 2], rate)
    found = survey(SoundFolder(tmp_path))
    assert found.kinds[0][0] == "voice"
    assert max(found.seconds) <= 1
    assert found.preset == "speech"
    assert "ends at 4 kHz" in found.lines()[2]


def test_silence_alone_gives_no_preset(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nothing.wav", np.zeros(8000), 8000)
    with pytest.raises(AudioError, match=r"none of the 1 sound files .* can be opened and heard; choose the preset"):
        survey(SoundFolder(tmp_path))
