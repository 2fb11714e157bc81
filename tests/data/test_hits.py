"""When a hit has ended and how often it sounds: on made hits, and on all real ones."""

from pathlib import Path

import numpy as np
import pytest

from actseq import audio
from actseq.data.hits import ENDED_DB, end_db, onsets

RATE = 8000


def hit(seconds: float = 0.6, decay: float = 0.04) -> np.ndarray:
    """Noise that decays from its first sample on."""
    n = round(seconds * RATE)
    noise = np.random.default_rng(0).standard_normal(n)
    return (noise * np.exp(-np.arange(n) / (decay * RATE))).astype(np.float32)


def test_the_end_is_the_last_fifth_relative_to_the_peak() -> None:
    clip = np.concatenate([np.full(400, 0.5), np.full(100, 0.005)]).astype(np.float32)
    assert end_db(clip) == pytest.approx(-40)
    assert end_db(3 * clip) == pytest.approx(-40)
    assert end_db(hit()) < ENDED_DB < end_db(hit(decay=0.4))
    assert end_db(np.zeros(100, np.float32)) == 0


@pytest.mark.parametrize(
    ("delay", "gain", "expected"), [(0.25, 1.0, 2), (0.25, 0.3, 2), (0.25, 0.03, 1), (0.03, 1.0, 1)]
)
def test_a_second_hit_is_a_second_onset(delay: float, gain: float, expected: int) -> None:
    clip, start = np.zeros(RATE, np.float32), round(delay * RATE)
    clip[: len(hit())] += hit()
    clip[start : start + len(hit())] += gain * hit()
    assert onsets(clip, RATE) == expected
    assert onsets(0.01 * clip, RATE) == expected


def test_a_slow_swell_and_silence_have_no_onset() -> None:
    swell = (np.linspace(0, 1, RATE) * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
    assert onsets(swell, RATE) == 0
    assert onsets(np.zeros(RATE, np.float32), RATE) == 0


@pytest.mark.parametrize("kind", ["hat", "kick", "snare"])
def test_real_hits_have_one_onset(kind: str, data_dir: Path) -> None:
    found = [onsets(*audio.load(path)) for path in sorted((data_dir / "drums" / kind).iterdir())]
    assert len(found) > 80
    assert found.count(1) == len(found)
