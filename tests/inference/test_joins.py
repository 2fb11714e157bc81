"""Joins of waveforms, and the grouping of clips into batches."""

import itertools

import numpy as np
import pytest

from actseq import units
from actseq.evaluation import metrics
from actseq.inference.codec import in_batches
from actseq.inference.generation import compile_clips
from actseq.inference.joins import ALIGN_SECONDS, CROSSFADE_SECONDS, patch, splice

RATE = 8000
FADE, REACH = round(CROSSFADE_SECONDS * RATE), round(ALIGN_SECONDS * RATE)


def sine(n: int, frequency: float = 220.0, phase: float = 0.0) -> np.ndarray:
    return np.asarray(0.5 * np.sin(2 * np.pi * frequency * np.arange(n) / RATE + phase), dtype=np.float32)


def test_the_original_stays_untouched_up_to_the_crossfade() -> None:
    rng = np.random.default_rng(0)
    original, made = rng.standard_normal((2, 3000)).astype(np.float32)
    joined = splice(original[:2000], made, RATE)
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined[: 2000 - FADE], original[: 2000 - FADE])
    assert not np.array_equal(joined[2000 - FADE : 2000], original[2000 - FADE : 2000])


def test_the_end_is_what_was_made() -> None:
    rng = np.random.default_rng(1)
    original, made = rng.standard_normal((2, 3000)).astype(np.float32)
    joined = splice(original[:2000], made, RATE)
    lag = len(made) - len(joined)
    assert abs(lag) <= REACH
    np.testing.assert_array_equal(joined[2000:], made[2000 + lag :])


def test_the_same_sound_is_joined_without_a_trace() -> None:
    whole = sine(4000)
    np.testing.assert_allclose(splice(whole[:2000], whole, RATE), whole, atol=1e-6)


@pytest.mark.parametrize("phase", [0.3, 1.5, 3.0, -2.0])
@pytest.mark.parametrize("frequency", [100.0, 220.0, 437.0])
def test_a_sine_goes_on_without_a_click(frequency: float, phase: float) -> None:
    """Whatever the phase of what was made: it is shifted to fit, to a whole sample."""
    joined = splice(sine(2000, frequency), sine(4000, frequency, phase), RATE)
    steepest = 0.5 * 2 * np.pi * frequency / RATE
    assert np.abs(np.diff(joined)).max() <= 1.02 * steepest
    assert np.abs(joined).max() <= 0.5 * 1.02
    # Nor does it fade: every period reaches its height.
    period = int(RATE / frequency) + 1
    heights = [np.abs(joined[i : i + period]).max() for i in range(0, len(joined) - period, period)]
    assert min(heights) > 0.5 * 0.9


def test_unrelated_sounds_keep_their_power() -> None:
    rng = np.random.default_rng(2)
    powers = []
    for _ in range(200):
        original, made = rng.standard_normal((2, 900)).astype(np.float32)
        powers.append(splice(original[:500], made, RATE)[500 - FADE : 500] ** 2)
    assert np.mean(powers) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(("n_original", "n_made"), [(1, 500), (0, 100), (500, 500), (500, 400), (10, 11), (30, 45)])
def test_short_sounds_are_joined_as_they_are(n_original: int, n_made: int) -> None:
    original, made = sine(n_original), sine(n_made, 300.0)
    joined = splice(original, made, RATE)
    assert joined.dtype == np.float32
    assert np.isfinite(joined).all()
    assert abs(len(joined) - max(n_original, n_made)) <= REACH
    fade = min(FADE, n_original, max(0, n_made - n_original))
    untouched = n_original - (fade if fade >= 2 else 0)
    np.testing.assert_array_equal(joined[:untouched], original[:untouched])


def test_of_shifts_that_agree_equally_the_smoothest_is_taken() -> None:
    """The recording is silent where it is crossfaded, so every shift agrees; the made sound begins just there."""
    original, made = np.concatenate([sine(700), np.zeros(300, np.float32)]), np.zeros(2000, np.float32)
    made[1005:] = 0.3 * np.random.default_rng(4).standard_normal(995)
    joined, cut = splice(original, made, RATE), np.concatenate([original, made[1000:]])
    steps = [metrics.spectral_jump(one, RATE, 1000).spectral for one in (joined, cut)]
    assert steps[0] < 0.5 * steps[1]


def test_silence_is_joined_to_silence() -> None:
    joined = splice(np.zeros(1000, dtype=np.float32), np.zeros(2000, dtype=np.float32), RATE)
    np.testing.assert_array_equal(joined, np.zeros(2000))


@pytest.mark.parametrize("region", [(1000, 1600), (0, 700), (1000, 3000), (0, 3000), (10, 2995), (1000, 1003)])
def test_a_patch_changes_the_region_and_its_crossfades_only(region: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    recording, made = rng.standard_normal((2, 3000)).astype(np.float32)
    begin, end = region
    for offset, stop in ((0, 3000), (max(0, begin - 400), min(3000, end + 400)), (begin, end)):
        patched = patch(recording, made[offset:stop], offset, region, RATE)
        assert patched.dtype == np.float32
        assert len(patched) == len(recording)
        first, last = max(0, begin - FADE), end + FADE
        np.testing.assert_array_equal(patched[:first], recording[:first])
        np.testing.assert_array_equal(patched[last:], recording[last:])
        assert not np.isin(patched[begin:end], recording).any()
        # The region is the made sound, shifted as a whole.
        lags = [
            lag for lag in range(-REACH, REACH + 1) if 0 <= begin + lag - offset <= end + lag - offset <= stop - offset
        ]
        assert any(np.array_equal(patched[begin:end], made[begin + lag : end + lag]) for lag in lags)


def test_a_patch_of_the_same_sound_leaves_no_trace() -> None:
    whole = sine(4000)
    np.testing.assert_allclose(patch(whole, whole[500:3500], 500, (1500, 2500), RATE), whole, atol=1e-6)


@pytest.mark.parametrize("phase", [0.3, 1.5, 3.0, -2.0])
def test_a_patched_sine_goes_on_without_a_click(phase: float) -> None:
    """The shift fits on both sides."""
    patched = patch(sine(4000), sine(3000, 220.0, phase), 500, (1500, 2500), RATE)
    assert np.abs(np.diff(patched)).max() <= 1.02 * 0.5 * 2 * np.pi * 220 / RATE
    period = int(RATE / 220) + 1
    heights = [np.abs(patched[i : i + period]).max() for i in range(0, len(patched) - period, period)]
    assert min(heights) > 0.5 * 0.9
    assert max(heights) < 0.5 * 1.02


def test_clips_in_a_row() -> None:
    clips = [np.full(3, 0.5, np.float32), np.full(2, -0.5, np.float32), np.full(1, 0.25, np.float32)]
    gap = np.zeros(units.seconds_to_samples(0.001, RATE))
    expected = np.concatenate([clips[0], gap, clips[1], gap, clips[2]])
    compiled = compile_clips(clips, RATE, 0.001)
    assert compiled.dtype == np.float32
    np.testing.assert_array_equal(compiled, expected)
    np.testing.assert_array_equal(compile_clips(clips[:1], RATE), clips[0])
    assert len(compile_clips([], RATE)) == 0


def test_batches_keep_the_order_and_the_limit() -> None:
    sizes = np.random.default_rng(0).integers(1, 300, 500).tolist()
    for limit, most in ((1000, 64), (200, 64), (100_000, 7), (1, 64)):
        groups = list(in_batches(sizes, limit, most))
        assert [i for group in groups for i in group] == list(range(500))
        for group in groups:
            assert 1 <= len(group) <= most
            assert len(group) == 1 or max(sizes[i] for i in group) * len(group) <= limit
        # No group could have taken the first of the next.
        for group, after in itertools.pairwise(groups):
            bigger = [*group, after[0]]
            assert len(bigger) > most or max(sizes[i] for i in bigger) * len(bigger) > limit
    assert list(in_batches([], 10)) == []
