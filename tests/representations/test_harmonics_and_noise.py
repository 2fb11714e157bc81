"""`harmonic` finds the pitch, the envelope and the noise of sounds that are made of known ones."""

import math

import members
import numpy as np
import pytest
import torch

from actseq.errors import ConfigError
from actseq.representations.base import Sources
from actseq.representations.harmonic import Harmonic, mel_interpolation, ratio_of, share_of, unit_harmonics

RATE = 16000


def harmonics(pitch: np.ndarray, deviation: np.ndarray | float) -> np.ndarray:
    """Sines of random phases below half the sample rate, as loud in each band as noise of this deviation.

    The deviation is that of each harmonic in turn, or one for all.
    """
    turns = np.cumsum(pitch) / RATE
    numbers = np.arange(1, int(RATE / 2 / pitch.max()))
    rng = np.random.default_rng(0)
    # Noise of variance 1 has the power 1 in RATE / 2 Hz, and a sine half of its squared amplitude.
    amplitudes = np.broadcast_to(deviation, numbers.shape) * np.sqrt(4 * pitch.mean() / RATE)
    sines = [a * np.cos(2 * np.pi * (k * turns + rng.random())) for k, a in zip(numbers, amplitudes, strict=True)]
    return np.sum(sines, axis=0)


def analysed(analysis: Harmonic, waveform: np.ndarray) -> torch.Tensor:
    return analysis.analyse(torch.from_numpy(waveform.astype(np.float32))[None], torch.tensor([len(waveform)])).values[
        0
    ]


def inner(sources: Sources, margin: int = 8) -> Sources:
    """Without the frames at the edges."""
    inside = slice(margin, -margin)
    return Sources(sources.pitch[inside], sources.harmonic[:, inside], sources.noise[:, inside])


def db(power: torch.Tensor) -> torch.Tensor:
    return 10 * power.clamp(min=1e-20).log10()


@pytest.mark.parametrize("hz", [97.0, 150.0, 313.0])
def test_a_tone_in_noise_comes_back(hz: float) -> None:
    analysis = Harmonic(RATE)
    n = RATE
    numbers = np.arange(1, int(RATE / 2 / hz))
    tone = 0.1 * 10 ** (-12 * numbers * hz / 8000 / 20)  # 12 dB lower at the top
    noise = 0.01 * np.random.default_rng(1).standard_normal(n)
    found = inner(analysis.sources(analysed(analysis, harmonics(np.full(n, hz), tone) + noise)))
    assert float((found.pitch / hz - 1).abs().max()) < 0.005
    at = np.arange(1, 1 + int(5000 / hz))
    bins = torch.from_numpy(np.round(at * hz * 1024 / RATE).astype(int))
    expected = torch.from_numpy(20 * np.log10(tone[: len(at)])).float()
    level = db(found.harmonic[bins]).mean(1)
    assert float((level - expected).abs().mean()) < 1.5
    assert float((level - expected).mean()) == pytest.approx(0, abs=1)
    # Side lobes and the change of pitch leak; the noise is still found to be much weaker.
    assert float(db(found.noise[bins]).mean() - level.mean()) < -10


def test_a_glide_is_not_taken_for_noise() -> None:
    analysis = Harmonic(RATE)
    pitch = 120 * 2 ** (np.arange(RATE) / RATE)
    values = analysed(analysis, harmonics(pitch, 0.1))
    found = inner(analysis.sources(values))
    true = torch.from_numpy(pitch[:: analysis.hop_length]).float()[8:-8]
    assert float((found.pitch / true[: len(found.pitch)] - 1).abs().max()) < 0.02
    share = found.harmonic.sum(0) / (found.harmonic + found.noise).sum(0)
    assert float(share.mean()) > 0.9


def test_noise_has_no_pitch_and_its_own_level() -> None:
    analysis = Harmonic(RATE)
    values = analysed(analysis, 0.05 * np.random.default_rng(2).standard_normal(RATE))
    found = inner(analysis.sources(values))
    assert float((found.harmonic > 0).float().mean()) < 0.2
    assert float(db(found.harmonic + found.noise).mean()) == pytest.approx(20 * math.log10(0.05), abs=1.5)


def test_shares_are_all_or_nothing_at_the_ends_of_their_range() -> None:
    shares = torch.tensor([[0.0, 0.1, 0.5, 0.99, 1.0]])
    ratio = ratio_of(shares)
    torch.testing.assert_close(share_of(ratio), shares, atol=1e-5, rtol=0)
    assert torch.equal(share_of(torch.tensor([[-100.0, 100.0]])), torch.tensor([[0.0, 1.0]]))
    assert float(ratio[0, 2]) == pytest.approx(0.0, abs=1e-6)


def test_unit_harmonics_are_a_sum_of_cosines_as_loud_as_noise() -> None:
    hz = 130.0
    turns = torch.arange(4000, dtype=torch.float64) * hz / RATE
    count = int(RATE / 2 / hz)
    angle = 2 * math.pi * torch.arange(1, count + 1, dtype=torch.float64)[:, None] * turns
    torch.testing.assert_close(
        unit_harmonics(turns).double(), math.sqrt(4 * hz / RATE) * angle.cos().sum(0), atol=1e-3, rtol=0
    )
    assert float(unit_harmonics(turns).square().mean()) == pytest.approx(1.0, abs=0.05)


def test_bands_are_interpolated_linearly_in_mels() -> None:
    weights = mel_interpolation(RATE, 513, 20)
    torch.testing.assert_close(weights.sum(1), torch.ones(513))
    mels = torch.linspace(0, 1, 20)
    bins = torch.log1p(torch.linspace(0, RATE / 2, 513) / 700) / math.log1p(RATE / 2 / 700)
    torch.testing.assert_close(weights @ mels, bins, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"f_max": 3000.0}, "f_max is 3000"),
        ({"f_min": 300.0, "f_max": 500.0}, "f_max is 500"),
        ({"f_min": 5.0}, "f_min is 5"),
        ({"bands": 1}, "bands is 1"),
        ({"bands": 120}, "bands hold no bin"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, float], expected: str) -> None:
    with pytest.raises(ConfigError, match=f"representation harmonic: .*{expected}"):
        members.representation("harmonic", **options)


def test_pitch_depends_on_the_whole_clip() -> None:
    assert members.representation("harmonic").context_samples is None
