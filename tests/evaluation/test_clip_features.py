"""Features of a clip, against librosa, loops and shapes with known values."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from actseq.evaluation.clip_features import (
    COEFFICIENTS,
    RANGE_DB,
    THUMBNAIL_FRAMES,
    analysis,
    describe,
    envelope_statistics,
    joined,
    level_db,
    mfcc,
    mfcc_statistics,
)
from actseq.evaluation.set_distances import nearest_distances

RATE = 8000
NAMES = ("duration", "attack", "decay", "place", "centroid", "spread", "crest", "level", "change")


@pytest.fixture(scope="module")
def digits(data_dir: Path) -> list[np.ndarray]:
    paths = sorted((data_dir / "digits_fsdd").rglob("*_jackson_1*.wav"))[:12]
    return [soundfile.read(path, dtype="float32")[0] for path in paths]


def tone(envelope: np.ndarray) -> np.ndarray:
    """A tone of 1 kHz with a given amplitude: 5 ms hold 5 periods."""
    return (envelope * np.sin(np.pi / 4 * np.arange(len(envelope)))).astype(np.float32)


def envelope(waveform: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, envelope_statistics(waveform, RATE).tolist(), strict=True))


# -- spectrum ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "hop"), [(8000, 128), (16000, 256), (22050, 256), (44100, 512), (48000, 512)])
def test_the_hop_is_about_twelve_milliseconds(rate: int, hop: int) -> None:
    mel = analysis(rate)
    assert (mel.hop_length, mel.framing.n_fft, mel.channels) == (hop, 4 * hop, 64)


def test_coefficients_and_their_statistics_are_librosas(digits: list[np.ndarray]) -> None:
    import librosa

    for waveform in digits[:3]:
        power = librosa.feature.melspectrogram(
            y=waveform, sr=RATE, n_fft=512, hop_length=128, n_mels=64, power=1, pad_mode="constant"
        )
        levels = 20 * np.log10(np.maximum(power, 1e-4))
        levels = np.maximum(levels, levels.max() - RANGE_DB)
        expected = librosa.feature.mfcc(S=levels, n_mfcc=20, dct_type=2, norm="ortho")
        np.testing.assert_allclose(mfcc(levels), expected, atol=1e-4)
        n = expected.shape[1]
        change = [sum(abs(row[t + 1] - row[t]) for t in range(n - 1)) / (n - 1) for row in expected]
        found = describe([waveform], RATE).mfcc[0]
        np.testing.assert_allclose(found, [*expected.mean(1), *expected.std(1), *change], rtol=1e-3, atol=1e-2)
    assert not mfcc_statistics(np.ones((COEFFICIENTS, 1)))[COEFFICIENTS:].any()


def test_a_thumbnail_is_near_to_that_of_the_same_clip_slower_or_louder(digits: list[np.ndarray]) -> None:
    import librosa

    found = describe(digits, RATE)
    assert found.thumbnail.shape == (12, 64 * THUMBNAIL_FRAMES)
    assert found.thumbnail.max() <= 0
    assert found.thumbnail.min() >= -RANGE_DB - 1e-9
    waveform = digits[5]
    slower = librosa.effects.time_stretch(waveform, rate=0.85, n_fft=256)
    again = describe([3 * waveform, np.pad(waveform, (300, 700)), slower], RATE).thumbnail
    own = nearest_distances(found.thumbnail[5:6], again)
    other = nearest_distances(np.delete(found.thumbnail, 5, axis=0), found.thumbnail[5:6])[0]
    assert own[0] < 1e-3
    assert own[1] < 0.5 * other
    assert own[2] < other


# -- course ------------------------------------------------------------------------------------------------------------


def test_envelope_of_an_even_sound() -> None:
    found = envelope(tone(np.full(RATE, 0.25)))
    assert found["duration"] == 0
    assert 2 ** found["attack"] == pytest.approx(0.005)
    # The first frame is the loudest by rounding only, or a later one is.
    assert 2 ** found["decay"] <= 1
    assert found["centroid"] == pytest.approx(0.5, abs=1e-3)
    assert found["spread"] == pytest.approx(1 / np.sqrt(12), abs=1e-3)
    assert abs(found["crest"]) < 0.01
    assert found["change"] < 0.01


def test_attack_and_decay_of_known_shapes() -> None:
    seconds = np.arange(2 * RATE) / RATE
    rise = envelope(tone(seconds / 2))
    assert 2 ** rise["attack"] == pytest.approx(0.8 * 2, abs=0.02)
    assert rise["place"] > 0.99
    assert rise["centroid"] == pytest.approx(2 / 3, abs=0.01)
    assert rise["crest"] == pytest.approx(10 * np.log10(3), abs=0.1)
    fall = envelope(tone(np.exp(-seconds / 0.1)))
    assert 2 ** fall["decay"] == pytest.approx(0.1 * np.log(10), abs=0.01)
    assert 2 ** fall["attack"] == pytest.approx(0.005)
    assert fall["centroid"] == pytest.approx(0.05, abs=0.005)
    # 8.7 dB of fall in 0.1 s, 5 ms at a time, until 60 dB under the peak.
    assert fall["change"] == pytest.approx(RANGE_DB / (2 / 0.005 - 1), rel=0.02)


def test_an_envelope_knows_no_level(digits: list[np.ndarray]) -> None:
    for waveform in digits[:3]:
        np.testing.assert_allclose(
            envelope_statistics(0.01 * waveform, RATE), envelope_statistics(waveform, RATE), rtol=1e-3
        )
    silent, even = envelope(np.zeros(RATE, np.float32)), envelope(tone(np.full(RATE, 0.5)))
    for name in ("duration", "attack", "centroid", "spread", "crest", "level", "change"):
        assert silent[name] == pytest.approx(even[name], abs=0.05)


def test_level_and_drift() -> None:
    steps = np.repeat([0.5, 0.2, 0.05], 1000)
    assert level_db(tone(np.full(4000, 1.0))) == pytest.approx(-3.01, abs=0.01)
    assert level_db(np.zeros(100, np.float32)) == -80
    noise = np.random.default_rng(0).standard_normal(3000)
    bright = np.concatenate([tone(np.full(1500, 0.3)), (0.1 * noise[:1500]).astype(np.float32)])
    found = describe([tone(steps), tone(np.full(3000, 0.2)), bright], RATE)
    assert found.level_drift_db[0] == pytest.approx(20, abs=0.1)
    assert found.level_drift_db[1] < 0.01
    assert found.mfcc_drift[1] < 0.5 < 2 < found.mfcc_drift[2]


# -- rows --------------------------------------------------------------------------------------------------------------


def test_rows_are_those_of_single_clips(digits: list[np.ndarray]) -> None:
    odd = [np.zeros(700, np.float32), np.ones(1, np.float32), np.full(41, 0.5, np.float32)]
    clips = [*digits[:3], *odd]
    parts = [describe([clip], RATE) for clip in clips]
    whole = describe(clips, RATE)
    for name in ("level_db", "level_drift_db", "mfcc_drift", "mfcc", "envelope", "thumbnail"):
        values = getattr(whole, name)
        assert np.isfinite(values).all()
        np.testing.assert_array_equal(values, getattr(joined(parts), name))
        np.testing.assert_array_equal(values[[4, 1]], getattr(whole.chosen(np.array([4, 1])), name))
