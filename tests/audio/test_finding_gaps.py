"""Which silences are gaps: those that sound breaks off before and after, wherever the blocks of a file end."""

from pathlib import Path

import numpy as np
import pytest

from actseq import audio

RATE = 8000
SECOND = RATE


def sound(seconds: float = 2.0, level: float = 0.3) -> np.ndarray:
    """A chord with some noise."""
    at = np.arange(round(seconds * RATE)) / RATE
    chord = sum(np.sin(2 * np.pi * hz * at + hz) for hz in (110, 277, 659))
    noise = np.random.default_rng(0).standard_normal(len(at))
    return (level * (chord / 3 + 0.1 * noise)).astype(np.float32)


def found(waveform: np.ndarray, blocks: int = 1) -> list[tuple[int, int]]:
    return list(audio.find_gaps(np.array_split(waveform, blocks), RATE, float(np.abs(waveform).max())))


def torn(*gaps: tuple[int, int]) -> np.ndarray:
    made = sound()
    for begin, end in gaps:
        made[begin:end] = 0
    return made


@pytest.mark.parametrize("milliseconds", [4, 50, 900])
def test_a_cut_is_found_to_the_sample(milliseconds: int) -> None:
    begin, end = 4001, 4001 + 8 * milliseconds
    assert found(torn((begin, end))) == [(begin, end)]


def test_several_gaps_and_those_close_to_the_ends_are_found() -> None:
    gaps = [(30, 400), (500, 900), (9000, 9400), (15500, 15970)]
    assert found(torn(*gaps)) == gaps


@pytest.mark.parametrize("blocks", [2, 7, 100, 3000])
@pytest.mark.parametrize(
    "gaps",
    [[(100, 300), (3970, 4010), (4100, 9000), (9040, 9100), (12000, 12400)], [(4000, 4030), (4060, 4500)]],
)
def test_the_blocks_do_not_matter(gaps: list[tuple[int, int]], blocks: int) -> None:
    made = torn(*gaps)
    assert found(made, blocks) == found(made) == gaps


def test_nearly_silent_samples_are_silence_and_noise_that_is_always_there_is_not() -> None:
    made = torn((4000, 4400))
    made[4000:4400] = 0.5e-4 * np.abs(made).max()
    assert found(made) == [(4000, 4400)]
    made[4000:4400] = 5e-4 * np.abs(made).max()
    assert found(made) == []


def test_what_no_sound_breaks_off_for_is_a_pause() -> None:
    faded = torn((4000, 4400))
    faded[3840:4000] *= np.linspace(1, 0, 160, dtype=np.float32)
    assert found(faded) == []
    rising = torn((4000, 4400))
    rising[4400:4560] *= np.linspace(0, 1, 160, dtype=np.float32)
    assert found(rising) == []
    quiet = torn((4000, 4400))
    quiet[:4000] *= 1e-3
    assert found(quiet) == []


def test_long_silence_and_that_at_the_ends_are_pauses() -> None:
    assert found(torn((4000, 4000 + SECOND + 1))) == []
    assert found(torn((0, 400), (12000, 16000))) == []
    assert found(np.zeros(4000, np.float32)) == []
    assert found(torn((8000, 8020))) == []


def test_recordings_without_gaps_have_none(data_dir: Path) -> None:
    paths = [*audio.find(data_dir / "speech")[::20], *audio.find(data_dir / "digits_fsdd")[::100]]
    for path in paths:
        waveform, rate = audio.load(path)
        assert not list(audio.find_gaps([waveform], rate, float(np.abs(waveform).max()))), path
