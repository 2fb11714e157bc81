"""Windows, voiced frames, pauses and glides: measures of long sound, on sounds of known properties."""

import numpy as np
import pytest

from actseq.evaluation import stretches

RATE = 16000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32)


def voice(seconds: float, pitch: float) -> np.ndarray:
    """Twenty harmonics, RMS 1."""
    at = np.arange(round(seconds * RATE)) / RATE
    waves = sum(np.sin(2 * np.pi * k * pitch * at + k * k) / k for k in range(1, 21))
    return (waves / waves.std()).astype(np.float32)


def test_windows_are_whole_and_do_not_cross_clips() -> None:
    clips = [np.arange(2500, dtype=np.float32), np.arange(900, dtype=np.float32), -np.arange(1000, dtype=np.float32)]
    found = stretches.windows(clips, 1000, 1.0, 0.5)
    assert [int(window[0]) for window in found] == [0, 500, 1000, 1500, 0]
    assert all(len(window) == 1000 for window in found)
    assert found[-1][1] == -1


@pytest.mark.parametrize("pitch", [87.3, 140.0, 311.0])
@pytest.mark.parametrize("ratio_db", [3.0, 10.0, 20.0])
def test_the_harmonics_to_noise_ratio_is_that_of_the_mixture(pitch: float, ratio_db: float) -> None:
    mixed = voice(2.0, pitch) + 10 ** (-ratio_db / 20) * noise(2.0)
    found = stretches.harmonics_to_noise_db(0.1 * mixed, RATE)
    assert len(found) > 150
    # The largest of many lags is taken, so noise raises a low ratio a little.
    assert np.median(found) == pytest.approx(ratio_db, abs=1.0)
    np.testing.assert_allclose(stretches.harmonics_to_noise_db(0.01 * mixed, RATE), found, atol=0.01)


def test_noise_and_silence_have_few_voiced_frames() -> None:
    frames = 2.0 / stretches.HOP_SECONDS
    assert len(stretches.harmonics_to_noise_db(noise(2.0), RATE)) < 0.1 * frames
    assert not len(stretches.harmonics_to_noise_db(np.zeros(RATE, np.float32), RATE))
    assert not len(stretches.harmonics_to_noise_db(voice(0.02, 200.0), RATE))
    quiet = np.concatenate([voice(0.5, 200.0), 0.01 * voice(0.5, 200.0)])
    loud = len(stretches.harmonics_to_noise_db(quiet, RATE))
    assert 40 < loud < 60, "frames far under the loudest do not count"


def test_pauses_are_quiet_long_enough_and_between_sounds() -> None:
    def silence(seconds: float) -> np.ndarray:
        return 0.002 * noise(seconds)

    parts = [silence(0.5), noise(0.3), silence(0.2), noise(0.3), silence(0.06), noise(0.3), silence(0.4), noise(0.2)]
    sound = np.concatenate([*parts, silence(0.5)])
    assert stretches.pause_seconds(sound, RATE) == pytest.approx([0.2, 0.4], abs=0.021)
    assert stretches.pause_seconds(noise(1.0), RATE) == []
    assert stretches.pause_seconds(np.concatenate([noise(0.3), silence(0.5)]), RATE) == []
    assert stretches.pause_seconds(np.zeros(100, np.float32), RATE) == []
    # 30 dB under the peak is no pause.
    assert stretches.pause_seconds(np.concatenate([noise(0.3), 0.12 * noise(0.3), noise(0.3)]), RATE) == []


def test_the_time_of_a_way_does_not_depend_on_its_ends_or_on_noise() -> None:
    at = np.arange(49) * 0.25
    assert stretches.way_seconds(at, 0.25) == pytest.approx(0.8 * 12, abs=0.26)
    assert stretches.way_seconds(3 - 0.1 * (12 - at), 0.25) == pytest.approx(0.8 * 12, abs=0.26)
    assert stretches.way_seconds(np.where(at < 6, 0.0, 1.0), 0.25) == 0
    assert stretches.way_seconds(np.clip(at - 4, 0, 4), 0.25) == pytest.approx(3.2, abs=0.3)
    wavering = np.clip(at - 4, 0, 4) / 4 + 0.03 * np.random.default_rng(0).standard_normal(len(at))
    assert stretches.way_seconds(wavering, 0.25) == pytest.approx(3.2, abs=0.8)
    assert stretches.way_seconds(-at, 0.25) == 0


def test_statistics_of_levels_tell_spectra_apart() -> None:
    own = stretches.level_statistics([noise(1.0), noise(1.0, 1), voice(1.0, 200.0)], RATE)
    assert own.shape == (3, 128)
    assert np.abs(own[0] - own[1]).mean() < 1.0 < np.abs(own[0] - own[2]).mean()
    shape = stretches.shape_statistics([noise(1.0), voice(1.0, 200.0)], RATE)
    assert shape.shape[0] == 2
    assert np.isfinite(shape).all()
