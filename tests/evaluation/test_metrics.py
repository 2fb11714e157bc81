"""Fidelity measures against hand-written spectra, known levels and real speech."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from actseq.errors import AudioError, ConfigError
from actseq.evaluation.metrics import (
    bootstrap_interval,
    clip_jumps,
    crest_difference_db,
    crest_factor_db,
    envelope_correlation,
    mel_l1_db,
    multi_resolution_stft,
    pesq_mos,
    si_sdr_db,
    spectral_jump,
    stoi,
)


def noise(n_samples: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


def spectra_by_hand(waveform: np.ndarray, n_fft: int) -> np.ndarray:
    """Magnitudes (frames, bins), one frame after the other."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.concatenate([np.zeros(n_fft // 2), waveform.astype(np.float64), np.zeros(n_fft // 2)])
    starts = range(0, len(waveform) + 1, n_fft // 4)
    return np.array([np.abs(np.fft.rfft(padded[start : start + n_fft] * window)) for start in starts])


@pytest.fixture(scope="module")
def digits(data_dir: Path) -> list[tuple[np.ndarray, int]]:
    paths = sorted((data_dir / "digits_fsdd").rglob("*_jackson_*.wav"))[:4]
    return [soundfile.read(path, dtype="float32") for path in paths]


@pytest.fixture(scope="module")
def sentence(data_dir: Path) -> tuple[np.ndarray, int]:
    import soxr

    path = min((data_dir / "speech").rglob("*.flac"), key=lambda path: (path.stat().st_size, path))
    waveform, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(waveform, rate, 22050), 22050


@pytest.mark.parametrize(("sample_rate", "n_fft"), [(8000, 512), (16000, 512), (22050, 1024)])
def test_mel_distance_agrees_with_a_hand_written_mel_spectrogram(sample_rate: int, n_fft: int) -> None:
    import librosa

    original = noise(6000, 1) * np.linspace(1, 0, 6000, dtype=np.float32) ** 4
    output = noise(6000, 2, 0.03)
    basis = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=64)
    levels = [
        20 * np.log10(np.maximum(spectra_by_hand(x / np.abs(original).max(), n_fft) @ basis.T, 1e-4))
        for x in (original, output)
    ]
    assert (levels[0] == -80).any()  # the floor takes part in the comparison
    expected = np.abs(levels[0] - levels[1]).mean()
    assert mel_l1_db(original, output, sample_rate) == pytest.approx(expected, rel=1e-4)


def test_mel_distance_of_known_pairs() -> None:
    original = noise(8000)
    assert mel_l1_db(original, original, 8000) == 0
    assert mel_l1_db(original, original / 2, 8000) == pytest.approx(20 * np.log10(2), abs=1e-3)
    # Only the ratio to the original counts, and what is missing at the end counts as silence.
    scaled = mel_l1_db(original / 8, noise(8000, 1) / 8, 8000)
    assert scaled == pytest.approx(mel_l1_db(original, noise(8000, 1), 8000), rel=1e-5)
    silent_end = np.concatenate([original[:5000], np.zeros(3000, np.float32)])
    assert mel_l1_db(original, original[:5000], 8000) == mel_l1_db(original, silent_end, 8000) > 1
    assert mel_l1_db(original, np.concatenate([original, original]), 8000) == 0
    with warnings.catch_warnings(action="error"):  # a clip under one window is no reason to warn
        assert mel_l1_db(original[:100], original[:100] / 2, 8000) == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_multi_resolution_stft_agrees_with_hand_written_spectra() -> None:
    original, output = noise(5000, 1), noise(5000, 2, 0.02)
    log_l1, convergence = [], []
    for n_fft in (256, 512, 1024, 2048):
        x, y = (spectra_by_hand(w / np.abs(original).max(), n_fft) / (n_fft / 4) for w in (original, output))
        log_l1.append(np.abs(20 * np.log10(np.maximum(x, 1e-4)) - 20 * np.log10(np.maximum(y, 1e-4))).mean())
        convergence.append(np.linalg.norm(x - y) / np.linalg.norm(x))
    found = multi_resolution_stft(original, output)
    assert found.log_l1_db == pytest.approx(np.mean(log_l1), rel=1e-4)
    assert found.spectral_convergence == pytest.approx(np.mean(convergence), rel=1e-4)


def test_multi_resolution_stft_of_known_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    original = noise(30000)
    assert multi_resolution_stft(original, original) == (0, 0)
    half = multi_resolution_stft(original, original / 2)
    assert half.log_l1_db == pytest.approx(20 * np.log10(2), abs=0.01)
    assert half.spectral_convergence == pytest.approx(0.5)
    # However many blocks a long clip is taken in, the result is the same.
    monkeypatch.setattr("actseq.evaluation.metrics._BLOCK", 7)
    assert multi_resolution_stft(original, original / 2) == pytest.approx(half)
    silence = np.zeros(1000, np.float32)
    assert multi_resolution_stft(silence, silence) == (0, 0)
    assert multi_resolution_stft(silence, original).spectral_convergence == float("inf")


@pytest.mark.parametrize(
    ("original", "output"),
    [
        (np.zeros(0, np.float32), noise(10)),
        (noise(1000), np.full(1000, np.nan, np.float32)),
        (np.full(1000, np.inf, np.float32), noise(1000)),
    ],
)
@pytest.mark.parametrize(
    "measure",
    [
        lambda x, y: mel_l1_db(x, y, 8000),
        multi_resolution_stft,
        lambda x, y: envelope_correlation(x, y, 8000),
        crest_difference_db,
    ],
)
def test_an_unusable_clip_is_refused(
    measure: Callable[[np.ndarray, np.ndarray], object], original: np.ndarray, output: np.ndarray
) -> None:
    with pytest.raises(AudioError):
        measure(original, output)


@pytest.mark.parametrize("sample_rate", [8000, 22050, 44100])
def test_envelope_correlation_agrees_with_one_frame_after_the_other(sample_rate: int) -> None:
    frame = {8000: 40, 22050: 110, 44100: 220}[sample_rate]
    n = frame * 150 + 17  # what is left at the end counts nowhere
    swell = np.abs(np.sin(np.arange(n) / 3000)).astype(np.float32)
    original, output = noise(n, 1) * swell, noise(n, 2) * np.roll(swell, 900)
    levels = [
        [np.sqrt(np.mean(w[start : start + frame].astype(float) ** 2)) for start in range(0, 150 * frame, frame)]
        for w in (original, output)
    ]
    expected = np.corrcoef(*levels)[0, 1]
    assert 0.1 < expected < 0.95
    assert envelope_correlation(original, output, sample_rate) == pytest.approx(expected, abs=1e-5)


def test_si_sdr_is_the_ratio_after_the_best_gain() -> None:
    clip, other = noise(9000), noise(9000, seed=1)
    output = 0.3 * clip + 0.05 * other
    # The gain by least squares, by another hand.
    gain = np.linalg.lstsq(clip[:, None].astype(np.float64), output.astype(np.float64), rcond=None)[0][0]
    rest = output - gain * clip
    expected = 10 * np.log10(np.square(gain * clip).sum() / np.square(rest).sum())
    found = si_sdr_db(clip, output)
    assert found == pytest.approx(expected, abs=1e-3)
    assert found == pytest.approx(15.6, abs=0.3)
    for changed in (5 * output, -output, np.pad(output, (0, 100))):
        assert si_sdr_db(clip, changed) == pytest.approx(expected, abs=1e-3)
    assert si_sdr_db(clip, clip) == float("inf")
    assert si_sdr_db(clip, np.zeros_like(clip)) is None
    assert si_sdr_db(np.zeros_like(clip), clip) is None
    silent = np.sin(np.arange(6284) * 0.01), np.cos(np.arange(6284) * 0.01)  # nothing in common
    assert (si_sdr_db(*(wave.astype(np.float32) for wave in silent)) or 0) < -60


def test_envelope_correlation_of_known_pairs() -> None:
    attack = noise(8000) * np.exp(-np.arange(8000) / 800, dtype=np.float32)
    assert envelope_correlation(attack, attack * 0.2, 8000) == pytest.approx(1, abs=1e-6)
    assert envelope_correlation(attack, -attack, 8000) == pytest.approx(1, abs=1e-6)
    assert envelope_correlation(attack, attack[::-1].copy(), 8000) < 0
    silence, tone = np.zeros_like(attack), np.sin(np.arange(8000) * 2 * np.pi / 8).astype(np.float32)
    assert envelope_correlation(attack, silence, 8000) == 0
    assert envelope_correlation(attack, attack[:0], 8000) == 0
    assert envelope_correlation(attack, tone, 8000) == 0
    assert envelope_correlation(silence, attack, 8000) is None
    assert envelope_correlation(tone, attack, 8000) is None
    assert envelope_correlation(attack[:79], attack[:79], 8000) is None


def test_crest_factor_of_known_waveforms() -> None:
    tone = np.sin(np.arange(8000) * 2 * np.pi / 80).astype(np.float32)
    click = np.zeros(10000, np.float32)
    click[123] = -0.4
    assert crest_factor_db(tone) == pytest.approx(20 * np.log10(np.sqrt(2)), abs=1e-3)  # 3.01 dB
    assert crest_factor_db(np.sign(tone + 1e-3)) == pytest.approx(0, abs=1e-6)
    assert crest_factor_db(click) == pytest.approx(40, abs=1e-5)
    assert crest_factor_db(np.zeros(100, np.float32)) is None
    assert crest_factor_db(tone[:0]) is None
    assert crest_difference_db(click, click / 3) == pytest.approx(0, abs=1e-5)
    assert crest_difference_db(click[:8000], tone) == pytest.approx(3.01 - 39.03, abs=0.01)
    assert crest_difference_db(tone, np.tile(tone, 2)) == pytest.approx(0, abs=1e-5)
    assert crest_difference_db(tone, 0 * tone) is None
    assert crest_difference_db(0 * tone, tone) is None


@pytest.mark.data
def test_pesq_is_highest_for_the_same_clip_and_falls_with_noise(digits: list[tuple[np.ndarray, int]]) -> None:
    for waveform, sample_rate in digits:
        assert sample_rate == 8000
        assert pesq_mos(waveform, waveform, sample_rate) == pytest.approx(4.549, abs=1e-3)
        levels = np.abs(waveform).max() * np.array([0.001, 0.01, 0.05, 0.3])
        scores = [pesq_mos(waveform, waveform + noise(len(waveform), level=level), sample_rate) for level in levels]
        assert all(score is not None for score in scores)
        assert scores == sorted(scores, reverse=True)
        assert scores[0] > 3.5
        assert scores[-1] < 2


@pytest.mark.data
def test_pesq_at_other_rates_lengths_and_levels(digits: list[tuple[np.ndarray, int]]) -> None:
    import pesq
    import soxr

    waveform, rate = digits[0]
    noisy = waveform + noise(len(waveform), level=0.01 * float(np.abs(waveform).max()))
    # A clip PESQ takes is scored as it is.
    assert pesq_mos(waveform, noisy, rate) == pytest.approx(pesq.pesq(rate, waveform, noisy, "nb"), abs=1e-3)
    assert pesq_mos(waveform, noisy / 3, rate) == pytest.approx(pesq_mos(waveform, noisy, rate), abs=0.01)
    resampled = [soxr.resample(x, rate, 22050) for x in (waveform, noisy)]
    assert pesq_mos(*resampled, 22050) == pytest.approx(pesq_mos(waveform, noisy, rate), abs=0.5)
    # Too short for PESQ alone.
    loudest = int(np.abs(waveform).argmax())
    short = waveform[max(0, loudest - 900) : loudest + 900]
    with pytest.raises(pesq.BufferTooShortError):
        pesq.pesq(rate, short, short, "nb")
    assert pesq_mos(short, short, rate) == pytest.approx(4.549, abs=1e-3)


@pytest.mark.data
def test_wide_band_pesq_of_a_sentence(sentence: tuple[np.ndarray, int]) -> None:
    import pesq
    import soxr

    waveform, rate = sentence
    peak = float(np.abs(waveform).max())
    noisy = [waveform + noise(len(waveform), level=level * peak) for level in (0.001, 0.01, 0.1)]
    assert pesq_mos(waveform, waveform, rate, wide=True) == pytest.approx(4.644, abs=1e-3)
    scores = [pesq_mos(waveform, worse, rate, wide=True) for worse in noisy]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 2.5
    assert scores[-1] < 1.5
    at_16000 = [soxr.resample(x, rate, 16000) for x in (waveform, noisy[1])]
    assert scores[1] == pytest.approx(pesq.pesq(16000, *at_16000, "wb"), abs=1e-3)
    assert pesq_mos(waveform, noisy[1], rate) == pytest.approx(pesq.pesq(16000, *at_16000, "nb"), abs=1e-3)


def test_wide_band_pesq_of_a_narrow_clip_is_refused() -> None:
    with pytest.raises(ConfigError, match="16000 Hz or more"):
        pesq_mos(noise(8000), noise(8000), 8000, wide=True)


@pytest.mark.data
def test_stoi_is_highest_for_the_same_clip_and_falls_with_noise(sentence: tuple[np.ndarray, int]) -> None:
    import pystoi

    waveform, rate = sentence
    peak = float(np.abs(waveform).max())
    noisy = [waveform + noise(len(waveform), level=level * peak) for level in (0.001, 0.03, 0.3, 3.0)]
    assert stoi(waveform, waveform, rate) == pytest.approx(1)
    scores = [stoi(waveform, worse, rate) for worse in noisy]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.95
    assert scores[-1] < 0.4
    assert scores[1] == pytest.approx(pystoi.stoi(waveform, noisy[1], rate), abs=1e-4)
    assert stoi(waveform, noisy[1] / 5, rate) == pytest.approx(scores[1], abs=1e-4)


@pytest.mark.filterwarnings("error")
def test_stoi_gives_no_score_where_there_is_none() -> None:
    original = noise(8000)
    assert stoi(original, original, 8000) == pytest.approx(1)
    assert stoi(original, 0 * original, 8000) == 0
    assert stoi(0 * original, original, 8000) is None
    for n in (
        1,
        200,
        3072,
        3100,
        3174,
    ):  # the package alone fails, or warns and gives 1e-5, under 3969 samples at 10 kHz
        assert stoi(original[:n], original[:n], 8000) is None
    assert stoi(original[:3400], original[:3400], 8000) == pytest.approx(1)
    pause = np.concatenate([original[:2000], np.zeros(4000, np.float32), original[:800]])
    assert stoi(pause, pause, 8000) is None


def test_pesq_gives_no_score_where_there_is_none() -> None:
    original = noise(8000)
    silence = np.zeros_like(original)
    assert pesq_mos(original, original, 8000) is not None
    assert pesq_mos(original, silence, 8000) is None
    assert pesq_mos(silence, original, 8000) is None
    assert pesq_mos(original[:400], original[:400], 8000) is None


def test_pesq_survives_more_than_fifty_utterances() -> None:
    burst = np.concatenate([noise(2400), np.zeros(3200, np.float32)])
    clip = np.tile(burst, 70)  # the package alone writes past its end of memory
    assert pesq_mos(clip, clip, 8000) == pytest.approx(4.549, abs=1e-3)


@pytest.mark.parametrize(("package", "measure"), [("pesq", pesq_mos), ("pystoi", stoi)])
def test_a_missing_package_names_the_cure(
    monkeypatch: pytest.MonkeyPatch, package: str, measure: Callable[..., object]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package} .* pip install 'actseq\[evaluate\]'"):
        measure(noise(4000), noise(4000), 8000)


def test_bootstrap_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = bootstrap_interval(values)
    margin = 1.96 * values.std() / 20  # normal theory
    assert low == pytest.approx(values.mean() - margin, abs=0.2 * margin)
    assert high == pytest.approx(values.mean() + margin, abs=0.2 * margin)
    assert bootstrap_interval(values) == (low, high) != bootstrap_interval(values, seed=1)
    narrow = bootstrap_interval(values, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert bootstrap_interval([7.0]) == (7.0, 7.0)
    # However many are drawn at a time, it is the same.
    monkeypatch.setattr("actseq.evaluation.metrics._RESAMPLED", 3000)
    assert bootstrap_interval(values) == (low, high)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([])


def test_bootstrap_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.normal(size=50), n=300, level=0.8) for _ in range(200)]
    assert np.mean([low < 0 < high for low, high in intervals]) == pytest.approx(0.8, abs=0.08)


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100])
def test_a_cut_between_two_sounds_stands_out_and_steady_noise_does_not(sample_rate: int) -> None:
    at = sample_rate // 2
    time = np.arange(sample_rate) / sample_rate
    tones = [(0.5 * np.sin(2 * np.pi * f * time)).astype(np.float32) for f in (440, 1870)]
    steady = noise(sample_rate, level=0.05)
    for before, after in (tones, (steady, steady / 10)):
        cut = np.concatenate([before[:at], after[at:]])
        usual = np.percentile(clip_jumps(before, sample_rate).spectral, 99)
        assert spectral_jump(cut, sample_rate, at).spectral > 1.5 * usual
        assert spectral_jump(before, sample_rate, at).spectral < 1.01 * usual  # a pure tone has only one value

    in_noise = [spectral_jump(steady, sample_rate, at + i * 100).spectral for i in range(10)]
    assert np.median(in_noise) < np.percentile(clip_jumps(steady, sample_rate).spectral, 99)
    assert max(in_noise) < spectral_jump(np.append(0 * steady[:at], steady[at:]), sample_rate, at).spectral / 2


def test_a_click_at_the_join_is_a_waveform_jump() -> None:
    clip = noise(8000, level=0.01)
    usual = np.percentile(clip_jumps(clip, 8000).waveform, 99)
    assert spectral_jump(clip, 8000, 4000).waveform < usual
    clip[4000] += 0.5
    assert spectral_jump(clip, 8000, 4000).waveform == pytest.approx(0.5, abs=0.05)
    assert spectral_jump(clip, 8000, 4000).waveform > 10 * usual


def test_spectral_jump_of_a_known_pair() -> None:
    # Window 64: a cosine of bin 8 at amplitude 1, then the same at a tenth, so 20 dB wherever both are over the floor.
    clip = np.cos(2 * np.pi * 8 / 64 * np.arange(128)).astype(np.float32)
    clip[64:] *= 0.1
    window = np.hanning(64)
    x, y = (np.abs(np.fft.rfft(part * window)) / (window.sum() / 2) for part in (clip[:64], clip[64:]))
    expected = np.abs(20 * np.log10(np.maximum(x, 1e-4) / np.maximum(y, 1e-4))).mean()
    jump = spectral_jump(clip, 8000, 64)
    assert jump.spectral == pytest.approx(expected, rel=1e-6)
    assert jump.waveform == pytest.approx(abs(clip[64] - clip[63]))
    louder = spectral_jump(clip * 5, 8000, 64)
    assert louder.spectral == pytest.approx(jump.spectral, rel=1e-5)


def test_clip_jumps_are_the_jumps_of_single_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = noise(3000) * np.linspace(0, 1, 3000, dtype=np.float32)
    monkeypatch.setattr("actseq.evaluation.metrics._BLOCK", 11)
    jumps = clip_jumps(clip, 8000)
    places = range(64, 3000 - 64 + 1, 16)
    assert len(jumps.spectral) == len(places)
    assert jumps.spectral == pytest.approx([spectral_jump(clip, 8000, at).spectral for at in places])
    assert jumps.waveform == pytest.approx([spectral_jump(clip, 8000, at).waveform for at in range(1, 3000)])
    assert len(clip_jumps(clip[:50], 8000).spectral) == 1


@pytest.mark.parametrize("at", [0, -1, 100])
def test_a_join_outside_the_clip_is_refused(at: int) -> None:
    with pytest.raises(AudioError, match="from 1 to 99"):
        spectral_jump(noise(100), 8000, at)
