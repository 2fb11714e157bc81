"""`harmonic` makes the sound that its features describe."""

import math

import members
import numpy as np
import pytest
import torch

from actseq.representations.base import Features
from actseq.representations.harmonic import OCTAVE, Harmonic, ratio_of
from actseq.vocoders.base import synthesise
from actseq.vocoders.harmonic import HarmonicSynthesis

RATE = 16000


def features(analysis: Harmonic, hz: float, share: float, deviation: float, frames: int) -> Features:
    """A steady sound with a flat envelope."""
    values = torch.zeros(1, analysis.channels, frames)
    values[:, 0] = OCTAVE * math.log2(hz / analysis.middle_hz)
    values[:, 1 : 1 + analysis.shares] = ratio_of(torch.full((1, analysis.shares, frames), share))
    values[:, 1 + analysis.shares :] = math.log(deviation / analysis.floor)
    return Features(values, torch.tensor([frames]))


@pytest.mark.parametrize("n_corrections", [0, 4])
def test_harmonics_have_their_frequency_and_amplitude(n_corrections: int) -> None:
    analysis, hz = Harmonic(RATE), 210.0
    vocoder = HarmonicSynthesis(analysis, n_corrections=n_corrections)
    made = synthesise(vocoder, features(analysis, hz, 1.0, 0.1, 110))[0, 4000:20000].double().numpy()
    spectrum = 2 * np.abs(np.fft.rfft(made)) / len(made)  # a bin is 1 Hz
    harmonics = spectrum[210:7980:210]
    expected = 0.1 * math.sqrt(4 * hz / RATE)
    np.testing.assert_allclose(20 * np.log10(harmonics / expected), 0, atol=0.5)
    between = np.delete(spectrum[: 210 * 36], np.concatenate([np.arange(-2, 3) + k * 210 for k in range(1, 36)]))
    assert 20 * np.log10(between.max() / expected) < -40


def test_noise_has_its_level_in_every_octave() -> None:
    analysis = Harmonic(RATE)
    made = synthesise(HarmonicSynthesis(analysis), features(analysis, 200.0, 0.0, 0.1, 300))[0].numpy()
    power = np.abs(np.fft.rfft(made)) ** 2
    hz = np.fft.rfftfreq(len(made), 1 / RATE)
    for low in (250, 500, 1000, 2000, 4000):
        octave = (hz >= low) & (hz < 2 * low)
        assert 10 * np.log10(power[octave].mean() / len(made) / 0.01) == pytest.approx(0, abs=1)


def test_the_size_of_blocks_is_not_heard() -> None:
    analysis = members.representation("harmonic")
    generator = torch.Generator().manual_seed(0)
    values = torch.rand((1, analysis.channels, 90), generator=generator) * 4
    values[:, 0] = values[:, 0].sort(1).values
    given = Features(values, torch.tensor([90]))
    small, large = (synthesise(HarmonicSynthesis(analysis, block_frames=n), given)[0] for n in (16, 50))
    torch.testing.assert_close(small, large, atol=1e-5, rtol=1e-3)
    assert float(large.abs().max()) > 1e-3
    other = synthesise(HarmonicSynthesis(analysis, seed=1), given)[0]
    assert float((other - large).abs().max()) > 1e-4


def test_gradients_reach_every_parameter() -> None:
    analysis = members.representation("harmonic")
    generator = torch.Generator().manual_seed(0)
    values = torch.rand((analysis.channels, 30), generator=generator)
    values[1 + analysis.shares :] += 4
    values.requires_grad_()
    made, _ = HarmonicSynthesis(analysis).render(values)
    torch.stft(made, 128, 32, window=torch.hann_window(128), return_complex=True).abs().log1p().sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert (values.grad.abs().sum(1) > 0).all()


def test_the_gradient_of_a_level_is_the_change_that_it_makes() -> None:
    analysis = members.representation("harmonic")
    vocoder = HarmonicSynthesis(analysis, n_corrections=1)
    values = features(analysis, 300.0, 0.6, 0.05, 40).values[0].requires_grad_()

    def loudness(given: torch.Tensor) -> torch.Tensor:
        return vocoder.render(given)[0].square().sum()

    loudness(values).backward()
    assert values.grad is not None
    step = torch.zeros_like(values)
    step[1 + analysis.shares :] = 0.01
    with torch.no_grad():
        change = float(loudness(values + step) - loudness(values - step))
    assert change == pytest.approx(2 * float((values.grad * step).sum()), rel=0.02)


def test_what_is_made_is_found_again() -> None:
    analysis = Harmonic(RATE)
    given = features(analysis, 170.0, 0.9, 0.1, 80)
    made = synthesise(HarmonicSynthesis(analysis), given)
    again = analysis.analyse(made, torch.tensor([made.shape[1]])).values[0, :, 8:-10]
    found, true = analysis.sources(again), analysis.sources(given.values[0])
    assert float((found.pitch / 170 - 1).abs().max()) < 0.005
    at = [round(170 * k * 1024 / RATE) for k in range(1, 40)]
    assert float((10 * (found.harmonic[at].mean(1) / true.harmonic[at, 0]).log10()).abs().mean()) < 1
    share = found.harmonic.mean() / (found.harmonic + found.noise).mean()
    assert float(share) == pytest.approx(0.9, abs=0.08)
