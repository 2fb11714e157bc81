"""Spectral features against librosa, and the way back to a magnitude against linear algebra."""

import warnings
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch

from actseq import audio
from actseq.representations.linear import Linear
from actseq.representations.mel import Mel, slaney_filters
from actseq.vocoders.inversion import MagnitudeInversion

RATE = 8000


def sound() -> np.ndarray:
    """A decaying chord over noise, 5003 samples."""
    t = np.arange(5003) / RATE
    chord = sum(np.sin(2 * np.pi * f * t) for f in (220, 554, 1760)) / 4 * np.exp(-3 * t)
    return np.asarray(chord + 0.01 * np.random.default_rng(0).standard_normal(len(t)), dtype=np.float32)


def analysed(representation: Mel | Linear, waveform: np.ndarray) -> torch.Tensor:
    return representation.analyse(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])).values[0]


@pytest.mark.parametrize("sample_rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize(
    ("n_fft", "n_mels", "f_min"), [(512, 40, 0.0), (1024, 80, 0.0), (2048, 128, 30.0), (1000, 64, 1200.0)]
)
def test_the_filters_are_librosas_to_the_byte(sample_rate: int, n_fft: int, n_mels: int, f_min: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some bands are empty
        expected = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=f_min)
    made = slaney_filters(sample_rate, n_fft, n_mels, f_min)
    assert made.dtype == expected.dtype
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(("n_fft", "hop", "n_mels"), [(512, 128, 40), (1024, 256, 80), (256, 100, 24)])
@pytest.mark.parametrize("f_min", [0.0, 60.0])
def test_mel_is_librosas(n_fft: int, hop: int, n_mels: int, f_min: float) -> None:
    waveform = sound()
    expected = librosa.feature.melspectrogram(
        y=waveform, sr=RATE, n_fft=n_fft, hop_length=hop, n_mels=n_mels, fmin=f_min, power=1, center=True,
        pad_mode="constant", htk=False,
    )  # fmt: skip
    representation = Mel(RATE, n_fft=n_fft, hop_length=hop, n_mels=n_mels, f_min=f_min, floor=1e-3)
    np.testing.assert_allclose(analysed(representation, waveform), np.log(np.maximum(expected, 1e-3)), atol=1e-4)


@pytest.mark.parametrize(("n_fft", "hop"), [(512, 128), (256, 100)])
def test_linear_is_librosas(n_fft: int, hop: int) -> None:
    waveform = sound()
    magnitude = np.abs(librosa.stft(waveform, n_fft=n_fft, hop_length=hop, center=True, pad_mode="constant"))
    representation = Linear(RATE, n_fft=n_fft, hop_length=hop, floor=1e-2)
    np.testing.assert_allclose(analysed(representation, waveform), np.log(np.maximum(magnitude, 1e-2)), atol=1e-4)


def test_too_many_bands_are_refused() -> None:
    with pytest.raises(ValueError, match="mel bands hold no bin"):
        Mel(RATE, n_fft=256, hop_length=64, n_mels=250)


def test_linear_is_inverted_exactly() -> None:
    representation = Linear(RATE, n_fft=512, hop_length=128)
    values = analysed(representation, sound())
    torch.testing.assert_close(MagnitudeInversion(representation)(values).log(), values, atol=1e-5, rtol=0)


def residuals(representation: Mel, values: torch.Tensor) -> np.ndarray:
    """‖Mx − b‖ of each frame after 0, 1, 2, 5, 10, 30 updates: (6, frames)."""
    rows = []
    for n in (0, 1, 2, 5, 10, 30):
        x = MagnitudeInversion(representation, n_updates=n)(values)
        assert x.min() >= 0
        error = (representation.basis.double() @ x.double() - values.double().exp()).norm(dim=0)
        rows.append(error.numpy())
    return np.stack(rows)


@pytest.mark.parametrize(("n_mels", "floor"), [(24, 1e-4), (80, 1e-4), (80, 1e-5)])
def test_updates_never_raise_the_residual(n_mels: int, floor: float) -> None:
    representation = Mel(RATE, n_fft=512, hop_length=128, n_mels=n_mels, floor=floor)
    values = analysed(representation, np.concatenate([sound(), np.zeros(2000, dtype=np.float32)]))
    errors = residuals(representation, values)
    scale = values.double().exp().norm(dim=0).numpy()
    assert (np.diff(errors, axis=0) <= 1e-4 * scale).all()
    assert errors[-1].sum() < 0.2 * errors[0].sum()


def test_inversion_of_a_real_clip_beats_the_pseudo_inverse(data_dir: Path) -> None:
    path = audio.find(data_dir / "digits_fsdd")[7]
    waveform, _ = audio.load(path, RATE)
    for n_mels in (40, 80):
        representation = Mel(RATE, n_fft=512, hop_length=128, n_mels=n_mels)
        values = analysed(representation, waveform)
        truth = analysed(Linear(RATE, n_fft=512, hop_length=128, floor=1e-5), waveform)
        pseudo = (torch.linalg.pinv(representation.basis) @ values.exp()).clamp(min=1e-5).log()
        made = MagnitudeInversion(representation)(values).clamp(min=1e-5).log()
        assert (made - truth).abs().mean() < 0.9 * (pseudo - truth).abs().mean()
        assert (residuals(representation, values)[-1] <= residuals(representation, values)[0] + 1e-6).all()
