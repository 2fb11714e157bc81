"""`stft` and `istft` against scipy, and what the objective makes of complex features."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch

from actseq import audio, build
from actseq.config import load_preset
from actseq.errors import ConfigError
from actseq.objectives.base import Batch
from actseq.representations.base import Features
from actseq.representations.stft import Stft
from actseq.vocoders.base import synthesise
from actseq.vocoders.istft import Istft

RATE = 8000
SIZES = [(512, 128), (256, 64), (300, 100), (254, 60)]


@pytest.fixture(scope="module")
def digit(data_dir: Path) -> np.ndarray:
    """A spoken digit."""
    return audio.load(audio.find(data_dir / "digits_fsdd")[7], RATE)[0]


def scipys(waveform: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Spectrum (bins, frames) in scipy's scaling."""
    noverlap = n_fft - hop
    spectrum = scipy.signal.stft(waveform, nperseg=n_fft, noverlap=noverlap, boundary="zeros", padded=False)[2]
    return np.asarray(spectrum)


def analysed(representation: Stft, waveform: np.ndarray) -> Features:
    return representation.analyse(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))


@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
@pytest.mark.parametrize(("compression", "scale"), [(0.65, 0.34), (1.0, 2.0)])
def test_features_are_scipys_spectrum_compressed(
    digit: np.ndarray, n_fft: int, hop: int, compression: float, scale: float
) -> None:
    representation = Stft(RATE, n_fft=n_fft, hop_length=hop, compression=compression, scale=scale)
    values = analysed(representation, digit).values[0]
    spectrum = scipys(digit, n_fft, hop) * scipy.signal.get_window("hann", n_fft).sum()
    expected = scale * np.abs(spectrum) ** compression * np.exp(1j * np.angle(spectrum))
    np.testing.assert_allclose(values, np.concatenate([expected.real, expected.imag[1:-1]]), atol=1e-4)
    np.testing.assert_allclose(representation.compressed(values), expected, atol=1e-4)
    np.testing.assert_allclose(representation.spectrum(values), spectrum, atol=1e-4)


@pytest.mark.filterwarnings("ignore:NOLA")
@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
def test_synthesis_is_scipys_of_spectra_that_no_waveform_has(digit: np.ndarray, n_fft: int, hop: int) -> None:
    representation = Stft(RATE, n_fft=n_fft, hop_length=hop)
    features = analysed(representation, digit)
    wild = features.values * torch.rand(features.values.shape, generator=torch.Generator().manual_seed(0))
    made = synthesise(Istft(representation, block_frames=5), Features(wild, features.lengths))[0]
    spectrum = representation.spectrum(wild[0]).numpy() / scipy.signal.get_window("hann", n_fft).sum()
    whole = scipy.signal.istft(spectrum, nperseg=n_fft, noverlap=n_fft - hop, boundary=False)[1]
    np.testing.assert_allclose(made, whole[n_fft // 2 :][: len(made)], atol=1e-5)


@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
@pytest.mark.parametrize("samples", [1, 59, 60, 3000, None])
def test_synthesis_inverts_analysis(digit: np.ndarray, n_fft: int, hop: int, samples: int | None) -> None:
    representation = Stft(RATE, n_fft=n_fft, hop_length=hop)
    clip = digit[-samples:] if samples else digit
    assert np.abs(clip).max() > 0
    made = synthesise(Istft(representation), analysed(representation, clip))[0]
    assert len(made) == (1 + len(clip) // hop) * hop
    np.testing.assert_allclose(made[: len(clip)], clip, atol=1e-5)


def test_with_the_largest_hop_the_end_fades(digit: np.ndarray) -> None:
    n_fft, hop = 256, 128
    representation = Stft(RATE, n_fft=n_fft, hop_length=hop)
    clip = digit[: 20 * hop + hop - 1]
    features = analysed(representation, clip)
    vocoder = Istft(representation)
    made = synthesise(vocoder, features)[0].numpy()
    np.testing.assert_allclose(made[: 20 * hop], clip[: 20 * hop], atol=1e-5)
    assert (np.abs(made[20 * hop : -1]) <= np.abs(clip[20 * hop :]) + 1e-5).all()
    noise = torch.randn(features.values.shape, generator=torch.Generator().manual_seed(0))
    errors = synthesise(vocoder, Features(noise, features.lengths))[0]
    assert errors[-hop:].abs().max() < 5 * errors[:-hop].abs().max()


def test_silence_has_gradients() -> None:
    representation = Stft(RATE, n_fft=256, hop_length=64)
    waveform = torch.zeros(1, 500, requires_grad=True)
    values = torch.zeros(1, 256, 4, requires_grad=True)
    analysis = representation.analyse(waveform, torch.tensor([500])).values.sum()
    back = torch.view_as_real(representation.spectrum(values)).sum()
    magnitude = representation.compressed(values).abs().sum()
    for result, given in ((analysis, waveform), (back, values), (magnitude, values)):
        [gradient] = torch.autograd.grad(result, given)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("options", [{"compression": 0.05}, {"compression": 1.1}, {"scale": 0.0}, {"n_fft": 255}])
def test_what_cannot_be_undone_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Stft(RATE, **options)


def objective(kind: str, weight: float) -> Any:
    """The autoencoder of the smoke preset, fitted to noise."""
    representation = f"representation={{kind: {kind}, n_fft: 256, hop_length: 64}}"
    config = build.complete(load_preset("smoke", [representation, f"train_ae.objective.magnitude_weight={weight}"]))
    analysis = build.build_representation(config)
    torch.manual_seed(0)
    model = build.build_autoencoder(config, analysis)
    model.fit([analysis.analyse(batch()["waveform"], torch.tensor([1152, 1152]))])
    return build.build_autoencoding(config, model, analysis, 64)


def batch() -> dict[str, torch.Tensor]:
    """Noise; the second segment ends early."""
    waveform = 0.1 * torch.randn((2, 64 + 1024 + 64), generator=torch.Generator().manual_seed(1))
    return {"waveform": waveform, "n_samples": torch.tensor([1024, 500])}


def test_the_magnitude_loss_is_numpys() -> None:
    plain, weighted = (objective("stft", weight).validate(Batch(batch(), 1.0)) for weight in (0.0, 3.0))
    assert set(weighted) - set(plain) == {"magnitude_error"}
    assert float(weighted["loss"] - plain["loss"]) == pytest.approx(3 * float(weighted["magnitude_error"]), rel=1e-5)
    made = objective("stft", 3.0)
    _, features = made.pair(Batch(batch(), 1.0))
    normaliser, bins = made.model.normaliser, 129
    with torch.no_grad():
        posterior = made.model.encode_normalised(features.values, features.lengths)
        output = made.model.decode_normalised(posterior.mode())[:, :, : features.values.shape[2]]
    mean, deviation = normaliser.mean.double().numpy(), float(normaliser.deviation)
    magnitudes = []
    for values in (output, features.values):
        stacked = values.double().numpy() * deviation + mean
        imaginary = np.pad(stacked[:, bins:], ((0, 0), (1, 1), (0, 0)))
        magnitudes.append(np.hypot(stacked[:, :bins], imaginary))
    errors = np.abs(magnitudes[0] - magnitudes[1])
    expected = np.concatenate([errors[0].T, errors[1, :, :8].T]).mean()
    assert float(weighted["magnitude_error"]) == pytest.approx(expected, rel=1e-4)


def test_the_error_has_the_unit_of_the_features() -> None:
    for kind, name in (("stft", "error"), ("linear", "error_db")):
        figures = objective(kind, 0.0).validate(Batch(batch(), 1.0))
        assert {"error", "error_db"} & set(figures) == {name}


def test_a_magnitude_loss_of_other_features_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"magnitude_weight is 1\.0, .* stft"):
        objective("linear", 1.0)
