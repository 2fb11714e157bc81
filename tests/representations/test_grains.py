"""Grains, their spectra and their synthesis against numpy."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import signal

from actseq import audio, losses
from actseq.corruptions.rotation import Rotation
from actseq.evaluation import metrics
from actseq.representations.base import Features
from actseq.representations.grain import Grain, band_means, rotate_grains
from actseq.representations.spectrum import Spectrum
from actseq.vocoders.base import synthesise
from actseq.vocoders.granular import GrainSynthesis, blackman

RATE = 8000


def noise(n: int, seed: int = 0) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def analysed(analysis: Grain | Spectrum, waveform: np.ndarray) -> Features:
    return analysis.analyse(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))


@pytest.mark.parametrize("length", [100, 101])
def test_grains_are_slices(length: int) -> None:
    waveform = noise(777)
    analysis = Grain(RATE, grain_length=length, overlap=0.75, bands=12)
    values = analysed(analysis, waveform).values[0].numpy()
    padded = np.pad(waveform, (length // 2, length))
    for t in range(values.shape[1]):
        np.testing.assert_array_equal(values[:, t], padded[t * 25 :][:length])


@pytest.mark.parametrize(("overlap", "hop"), [(0.0, 1002), (0.5, 501), (0.9, 100), (0.95, 50)])
def test_the_overlap_is_the_share_that_neighbours_have_in_common(overlap: float, hop: int) -> None:
    assert Grain(44100, overlap=overlap).hop_length == hop


def test_spectra_are_numpys_and_their_phases_take_no_step_beyond_pi() -> None:
    analysis = Spectrum(RATE, grain_length=100, overlap=0.75)
    waveform = noise(777)
    values = analysed(analysis, waveform).values[0].double().numpy()
    padded = np.pad(waveform, (50, 100)).astype(np.float64)
    steps = []
    for t in range(values.shape[1]):
        spectrum = np.fft.rfft(np.roll(padded[t * 25 :][:100], -50)) / 10
        np.testing.assert_allclose(values[:51, t], np.sqrt(np.abs(spectrum)), atol=2e-4)
        phase = values[51:, t] / analysis.phase_scale[:, 0].numpy()
        np.testing.assert_allclose(np.abs(spectrum) * np.exp(1j * phase), spectrum, atol=1e-4)
        steps.append(np.diff(phase))
    assert np.abs(steps).max() <= math.pi + 1e-4
    assert np.abs(steps).max() > 0.95 * math.pi, "successive phases of noise are not limited to half of that"


@pytest.mark.parametrize("compression", [0.1, 0.5, 1.0])
def test_spectra_of_silence_have_a_slope(compression: float) -> None:
    analysis = Spectrum(RATE, grain_length=100, compression=compression)
    values = analysis.features_of(torch.from_numpy(noise(600)).reshape(1, 100, 6)).clone()
    values[:, :, 0], values[:, 0] = 0.0, -1.0
    values.requires_grad_()
    again = analysis.features_of(analysis.grains(values))
    assert not again[:, :, 0].any()
    again.square().sum().backward()
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()
    assert values.grad.any()


@pytest.mark.parametrize("analysis", [Grain(RATE, grain_length=100, bands=12), Spectrum(RATE, grain_length=100)])
def test_grains_left_alone_add_up_to_the_sound(analysis: Grain | Spectrum, data_dir: Path) -> None:
    digit = audio.load(audio.find(data_dir / "digits_fsdd")[0], RATE)[0]
    for waveform in (noise(1234), digit):
        made = synthesise(GrainSynthesis(analysis), analysed(analysis, waveform))[0, : len(waveform)].numpy()
        np.testing.assert_allclose(made, waveform, atol=2e-4)


def below(made: np.ndarray, waveform: np.ndarray) -> float:
    """Power of the difference to that of the sound, dB."""
    return float(10 * np.log10(np.sum((made - waveform) ** 2) / np.sum(waveform**2) + 1e-40))


@pytest.mark.parametrize("samples", [7, 1002, 1503, 40_000])
def test_true_grains_that_do_not_overlap_come_back(samples: int) -> None:
    waveform = noise(samples)
    for analysis, most in ((Grain(44100, overlap=0.0), -140), (Spectrum(44100, overlap=0.0), -90)):
        made = synthesise(GrainSynthesis(analysis), analysed(analysis, waveform))[0, :samples].numpy()
        assert below(made, waveform) < most


def test_grains_that_do_not_overlap_follow_each_other() -> None:
    analysis = Grain(RATE, grain_length=100, overlap=0.0)
    waveform = noise(750)
    values = analysed(analysis, waveform).values[0].T.reshape(-1).numpy()
    np.testing.assert_array_equal(values, np.pad(waveform, (0, 50)))
    assert analysis.context_samples == 100


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.3, 0.45])
def test_little_overlap_leaves_the_middle_of_a_clip_exact(overlap: float) -> None:
    analysis = Grain(RATE, grain_length=200, overlap=overlap)
    waveform = noise(3000)
    made = synthesise(GrainSynthesis(analysis), analysed(analysis, waveform))[0, : len(waveform)].numpy()
    np.testing.assert_allclose(made[:-200], waveform[:-200], atol=1e-5)


def test_the_highest_bins_are_set_to_zero() -> None:
    analysis = Grain(RATE, grain_length=200, overlap=0.0)
    waveform = noise(2000)
    made = synthesise(GrainSynthesis(analysis, zeroed_bins=0.85), analysed(analysis, waveform))[0, :2000].numpy()
    before, after = (np.fft.rfft(rows.reshape(10, 200)) for rows in (waveform, made))
    # 101 bins, of which 86 go.
    np.testing.assert_allclose(after[:, :15], before[:, :15], atol=1e-4)
    assert np.abs(after[:, 15:]).max() < 1e-4
    with pytest.raises(ValueError, match=r"zeroed_bins is 1\.2, expected at most 1"):
        GrainSynthesis(analysis, zeroed_bins=1.2)


def test_the_window_is_scipys() -> None:
    window = blackman(101, torch.tensor([101.0, 51.0]), 60)
    expected = signal.windows.blackman(103, sym=True)[1:-1]
    assert np.abs(window[0].numpy() - expected).max() < 0.02
    assert window[0].argmax() == window[1].argmax() == 50
    assert not window[1, :24].any()
    assert (window >= -1e-6).all()


def test_the_window_is_flat_where_grains_are_not_shared() -> None:
    window = blackman(100, torch.tensor([100.0, 80.0]), 20).numpy()
    np.testing.assert_allclose(window[0, 20:80], 1, atol=1e-6)
    slope = signal.windows.blackman(41, sym=True)[:20]
    np.testing.assert_allclose(window[0, :20], (slope + signal.windows.blackman(41, sym=True)[1:21]) / 2, atol=0.01)
    assert not window[1, :10].any()
    np.testing.assert_allclose(window[1, 30:70], 1, atol=1e-6)
    np.testing.assert_allclose(window[1, 10:30], window[0, :20], atol=1e-6)
    np.testing.assert_allclose(blackman(100, torch.tensor([100.0]), 0).numpy(), 1, atol=1e-6)


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.9])
def test_a_loop_is_the_grain_but_for_a_fade_over_its_edges(overlap: float) -> None:
    waveform = noise(2000)
    plain = Grain(RATE, grain_length=100, overlap=overlap)
    loops = Grain(RATE, grain_length=100, overlap=overlap, loop_fade=0.2)
    wanted, found = (analysed(one, waveform).values[0].numpy() for one in (plain, loops))
    assert loops.faded == 20
    unchanged = slice(0, 80) if overlap < 0.5 else slice(10, 90)
    np.testing.assert_array_equal(found[unchanged], wanted[unchanged])
    # Two and a half periods in a grain: one that is left as it is jumps where it closes.
    wave = np.cos(2 * np.pi * 2.5 / 100 * np.arange(4000)).astype(np.float32)
    steps = []
    for analysis in (plain, loops):
        values = analysed(analysis, wave).values[0].numpy()[:, 12:-12]
        steps.append(np.abs(np.diff(values, axis=0, append=values[:1])).max())
    assert steps[1] < 0.35 < 1.5 < steps[0]
    with pytest.raises(ValueError, match=r"loop_fade is 0\.6, expected at most 0\.5"):
        Grain(RATE, loop_fade=0.6)


def test_magnitudes_of_loops_do_not_depend_on_their_rotation() -> None:
    for fade, same in ((0.25, True), (0.0, False)):
        analysis = Grain(RATE, grain_length=182, bands=24, loop_fade=fade)
        values = torch.from_numpy(noise(182 * 3)).reshape(1, 182, 3)
        found = [analysis.log_power(values.roll(by, dims=1)) for by in (0, 41)]
        assert torch.allclose(*found, atol=1e-3) == same
    wave = torch.sin(2 * math.pi * 20 / 182 * torch.arange(182))[None, :, None]
    loops = Grain(RATE, grain_length=182, bands=400, loop_fade=0.25)
    assert float(loops.log_power(wave)[0, 20, 0]) == pytest.approx(0, abs=1e-3)


def octave_levels(waveform: np.ndarray) -> np.ndarray:
    hz, power = signal.welch(waveform, RATE, nperseg=2048)
    return np.array(
        [10 * np.log10(power[(hz >= c / 2**0.5) & (hz < c * 2**0.5)].sum()) for c in (250, 500, 1000, 2000)]
    )


def line(waveform: np.ndarray, hop: int) -> float:
    """Height of the line at the hop rate over its surroundings, dB."""
    hz, power = signal.welch(waveform, RATE, nperseg=4000)
    at = int(np.argmin(np.abs(hz - RATE / hop)))
    return float(10 * np.log10(power[at - 1 : at + 2].max() / np.median(power[at - 20 : at + 21])))


def test_rotation_keeps_the_level_of_every_octave(data_dir: Path) -> None:
    waves = audio.load(audio.find(data_dir / "ambience" / "sea_waves")[0], RATE)[0][: 10 * RATE]
    for waveform in (noise(10 * RATE), waves):
        analysis = Grain(RATE, grain_length=182)
        made = synthesise(GrainSynthesis(analysis, rotate=True), analysed(analysis, waveform))[0].numpy()
        assert np.abs(octave_levels(made) - octave_levels(waveform)).max() < 1


def pieces(vocoder: GrainSynthesis, features: Features, size: int) -> torch.Tensor:
    """One clip, pushed so many frames at a time."""
    stream, values = vocoder.stream(), features.values[0]
    return torch.cat([*(stream.push(part) for part in values.split(size, dim=1)), stream.finish()])


@pytest.mark.parametrize("loop_fade", [0.0, 0.25])
def test_grains_of_a_pitched_sound_find_their_place_again(loop_fade: float) -> None:
    seconds = np.arange(2 * RATE) / RATE
    wave = np.sum([np.sin(2 * np.pi * 131 * k * seconds) / k for k in range(1, 12)], axis=0).astype(np.float32) * 0.2
    analysis = Grain(RATE, grain_length=182, loop_fade=0.25 - loop_fade)
    features = analysed(analysis, wave)
    rng = np.random.default_rng(0)
    lost = torch.stack(
        [grain.roll(int(by)) for grain, by in zip(features.values[0].T, rng.integers(182, size=2000), strict=False)]
    )
    features = Features(lost.T[None] if not loop_fade else features.values, features.lengths)
    aligned, rotated = (
        GrainSynthesis(analysis, align=align, rotate=not align, loop_fade=loop_fade, block_frames=16)
        for align in (True, False)
    )
    errors = [
        metrics.mel_l1_db(wave, synthesise(one, features)[0, : len(wave)].numpy(), RATE) for one in (aligned, rotated)
    ]
    assert errors[0] < 0.5 * errors[1]
    whole = synthesise(aligned, features)[0]
    assert all(torch.equal(pieces(aligned, features, size), whole) for size in (1, 7, 500))
    with pytest.raises(ValueError, match="rotate and align are both true"):
        GrainSynthesis(analysis, rotate=True, align=True)


def test_the_same_grain_again_and_again_buzzes_unless_it_is_rotated() -> None:
    analysis = Grain(RATE, grain_length=182)
    values = torch.from_numpy(noise(182))[None, :, None].expand(1, 182, 4000).contiguous()
    features = Features(values, torch.tensor([4000]))
    plain, jittered, rotated = (
        line(synthesise(GrainSynthesis(analysis, **options), features)[0].numpy(), analysis.hop_length)
        for options in ({}, {"place_jitter": 3.0, "length_jitter": 0.3}, {"rotate": True})
    )
    assert plain > 30
    assert jittered < plain - 10
    assert rotated < 6


def test_the_low_pass_takes_away_what_lies_above_it() -> None:
    analysis = Grain(RATE, grain_length=182)
    waveform = noise(5 * RATE)
    made = synthesise(GrainSynthesis(analysis, low_pass_hz=1000.0), analysed(analysis, waveform))[0].numpy()
    before, after = octave_levels(waveform), octave_levels(made)
    assert np.abs(after[:2] - before[:2]).max() < 0.5
    assert after[3] < before[3] - 30


def test_a_turned_grain_is_a_loop() -> None:
    grain = torch.from_numpy(noise(200))[None]
    faded = 50
    period = 200 - faded
    still = rotate_grains(grain, torch.tensor([0.0]), 0.25)[0]
    torch.testing.assert_close(still[faded:period], grain[0, faded:period])
    torch.testing.assert_close(still[period:], still[:faded])
    angle = (np.arange(faded) + 0.5) * np.pi / 2 / faded
    expected = grain[0, :faded].numpy() * np.sin(angle) + grain[0, period:].numpy() * np.cos(angle)
    np.testing.assert_allclose(still[:faded], expected, atol=1e-6)
    quarter = rotate_grains(grain, torch.tensor([0.25]), 0.25)[0]
    first = int(0.25 * period)
    torch.testing.assert_close(quarter[: period - first], still[first:period])
    whole = rotate_grains(grain, torch.tensor([0.25]), 0.0)[0]
    torch.testing.assert_close(whole, grain[0].roll(-50))


def test_rotation_leaves_the_target_and_turns_every_grain_its_own_way() -> None:
    grains = torch.from_numpy(noise(200)).expand(8, 200)
    torch.manual_seed(0)
    pair = Rotation(8000).corrupt(grains, None)
    assert torch.equal(pair.target, grains)
    assert len({tuple(row.tolist()) for row in pair.input}) == 8
    assert torch.equal(
        Rotation(8000, share=0.0).corrupt(grains, None).input, rotate_grains(grains, torch.zeros(8), 0.25)
    )
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        Rotation(8000, share=1.5)


def test_bands_take_means_and_leave_no_bin_out() -> None:
    for rate, n_fft, bands in ((44100, 1002, 96), (8000, 182, 24), (8000, 101, 300)):
        basis = band_means(rate, n_fft, bands)
        assert ((basis > 0).sum(0) == 1).all()
        torch.testing.assert_close(basis.sum(1), torch.ones(len(basis)))
        assert len(basis) <= bands + 1


def test_the_power_of_a_sine_lies_in_its_band() -> None:
    analysis = Grain(RATE, grain_length=200, bands=24)
    wave = torch.sin(2 * math.pi * 1000 / RATE * torch.arange(200))[None, :, None]
    levels = analysis.log_power(wave)[0, :, 0]
    band = int((analysis.basis[:, 25] > 0).nonzero()[0])
    assert levels.argmax() == band
    n_bins = int((analysis.basis[band] > 0).sum())
    assert float(levels[band]) == pytest.approx(-math.log(n_bins), abs=0.7)
    assert float(analysis.log_power(torch.zeros(1, 200, 1)).max()) == pytest.approx(2 * math.log(1e-6), abs=1e-3)


def test_itakura_saito_is_a_loop_and_is_least_at_the_mean_power() -> None:
    rng = np.random.default_rng(0)
    output, target = 0.5 * rng.standard_normal((2, 2, 5, 7)).astype(np.float32)
    lengths = [7, 3]
    inside = torch.arange(7) < torch.tensor(lengths)[:, None]
    total = [
        np.exp(target[i, k, t] - output[i, k, t]) - (target[i, k, t] - output[i, k, t]) - 1
        for i, n in enumerate(lengths)
        for t in range(n)
        for k in range(5)
        if target[i, k, t] - output[i, k, t] < math.log(losses.STEEPEST)
    ]
    steep = int((((torch.from_numpy(target - output)) > math.log(losses.STEEPEST)) & inside[:, None]).sum())
    found = float(losses.itakura_saito(torch.from_numpy(output), torch.from_numpy(target), inside))
    assert steep == 0
    assert found == pytest.approx(np.mean(total), rel=1e-5)

    powers = torch.from_numpy(rng.exponential(1.0, 20000)).log()[None, None]
    everywhere = torch.ones(1, 20000, dtype=torch.bool)
    guesses = torch.linspace(-1, 1, 81)
    paid = [float(losses.itakura_saito(guess.expand(1, 1, 20000), powers, everywhere)) for guess in guesses]
    assert float(guesses[int(np.argmin(paid))]) == pytest.approx(0.0, abs=0.06)


def test_itakura_saito_goes_on_straight_where_it_would_explode() -> None:
    inside = torch.ones(1, 1, dtype=torch.bool)
    output = torch.zeros(1, 1, 1, requires_grad=True)
    losses.itakura_saito(output, torch.full((1, 1, 1), 50.0), inside).backward()
    assert output.grad is not None
    assert float(output.grad) == pytest.approx(1 - losses.STEEPEST)


def test_what_has_no_period_changes_its_sign_now_and_then() -> None:
    analysis = Grain(RATE, grain_length=182)
    features = Features(torch.full((1, 182, 8000), 0.1), torch.tensor([8000]))
    made = synthesise(GrainSynthesis(analysis, rotate=True), features)[0].numpy()
    seconds = len(made) / RATE
    changes = (np.diff(np.sign(made)) != 0).sum() / seconds
    assert 8 < changes < 18
    assert abs(made.mean()) < 0.3 * np.abs(made).mean()
    hz, power = signal.welch(made, RATE, nperseg=8192)
    assert power[hz < 20].sum() > 5 * power[hz >= 40].sum()
