"""A few values of every kind of result, as they were when they were last checked.

A change to these values changes the output of trained models. If that is intended, rewrite them with
`ACTSEQ_REGENERATE=1 pytest tests/golden` and read the difference of `golden.json` before keeping it.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from actseq import units
from actseq.autoencoders.base import Autoencoder, Latents
from actseq.autoencoders.bottlenecks import Variational
from actseq.autoencoders.conv import Conv
from actseq.priors.base import SamplingRequest
from actseq.priors.flow import Flow
from actseq.priors.heads import Mixture
from actseq.priors.recurrent import Gru, Lstm
from actseq.priors.sequence import SequencePrior
from actseq.priors.transformer import Transformer
from actseq.representations.base import Features
from actseq.representations.linear import Linear
from actseq.representations.mel import Mel
from actseq.representations.stft import Stft
from actseq.vocoders.base import synthesise
from actseq.vocoders.istft import Istft

PATH = Path(__file__).parent / "golden.json"


def check(name: str, values: torch.Tensor | np.ndarray | list[float], n: int = 16) -> None:
    """Compare `n` numbers spread evenly over `values`, and their mean, with the stored ones."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    chosen = flat[np.linspace(0, len(flat) - 1, min(n, len(flat))).round().astype(int)]
    found = [round(float(x), 6) for x in (*chosen, flat.mean())]
    stored = json.loads(PATH.read_text(encoding="utf-8")) if PATH.is_file() else {}
    if os.environ.get("ACTSEQ_REGENERATE") == "1":
        stored[name] = found
        lines = [f"{json.dumps(key)}: {json.dumps(stored[key])}" for key in sorted(stored)]
        PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    np.testing.assert_allclose(found, stored[name], atol=1e-4, rtol=1e-4)


def sound() -> tuple[torch.Tensor, torch.Tensor]:
    """A rising tone with a decay, half a second at 8 kHz."""
    t = np.arange(4000) / 8000
    waveform = 0.6 * np.sin(2 * np.pi * (300 * t + 1200 * t**2)) * np.exp(-4 * t)
    return torch.from_numpy(waveform.astype(np.float32))[None], torch.tensor([4000])


def fill(module: torch.nn.Module, seed: int) -> None:
    """Weights that do not depend on how torch initialises."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            spread = 1 / np.sqrt(max(1, parameter[0].numel()))
            parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape) * spread))


def numbers(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape).astype(np.float32))


def test_mel() -> None:
    check("mel", Mel(8000, n_fft=256, hop_length=64, n_mels=24, floor=1e-4).analyse(*sound()).values)


def test_linear() -> None:
    check("linear", Linear(8000, n_fft=256, hop_length=64, floor=1e-2).analyse(*sound()).values)


def test_stft_and_back() -> None:
    analysis = Stft(8000, n_fft=256, hop_length=64)
    features = analysis.analyse(*sound())
    check("stft", features.values)
    check("istft", synthesise(Istft(analysis), Features(0.9 * features.values, features.lengths)))


def conv() -> Autoencoder:
    network = Conv(6, 3, 6, width=8, inner=12, blocks=2, latent_blocks=1, stride=2)
    model = Autoencoder(
        network, Variational(3), channels=6, feature_rate=125.0, log_magnitude=True, latent_dim=3
    ).eval()
    fill(model, 0)
    return model


def test_conv_encode() -> None:
    with torch.no_grad():
        posterior = conv().encode(Features(numbers(1, 6, 21), torch.tensor([21])))
    assert posterior.log_variance is not None
    check("conv encode mean", posterior.mean)
    check("conv encode log-variance", posterior.log_variance)


def test_conv_decode() -> None:
    with torch.no_grad():
        features = conv().decode(Latents(numbers(1, 10, 3), torch.tensor([10])))
    check("conv decode", features.values)


PRIORS = {
    "lstm": (Lstm(width=8, layers=2), Mixture(3, n_components=2)),
    "transformer": (
        Transformer(width=8, inner=12, layers=2, heads=2, window=5),
        Mixture(3, n_components=2, blocks=2, hidden=6),
    ),
    "flow": (Gru(width=8, layers=1), Flow(3, width=8, blocks=1)),
}


@pytest.mark.parametrize("name", sorted(PRIORS))
def test_prior_sample(name: str) -> None:
    """One chunk; every dimension carries information."""
    network, head = PRIORS[name]
    prior = SequencePrior(network, head, latent_dim=3, n_active=3, condition_dim=4)
    fill(prior.eval(), 2)
    with torch.no_grad():
        # Tame what feeds back, or rounding would grow from frame to frame.
        for key, weight in prior.named_parameters():
            if "skip" in key or "triangle" in key:
                weight.mul_(0.2)
    prior.standardiser.mean.copy_(torch.tensor([1.0, 0.0, -1.0]))
    prior.standardiser.deviation.copy_(torch.tensor([0.5, 1.0, 2.0]))
    with torch.no_grad():
        chunks = list(prior.sample(SamplingRequest(n=2, max_frames=12, condition=numbers(2, 4), seed=3)))
        assert len(chunks) == 1
        check(f"{name} sample", chunks[0].latents)
        if prior.has_likelihood:
            check(f"{name} log-prob", prior.log_prob(numbers(2, 7, 3), torch.tensor([7, 5]), numbers(2, 4)))


def test_units() -> None:
    samples = (0, 1, 63, 64, 65, 4000)
    check("units n_frames", [float(units.n_frames(n, 64)) for n in samples])
    check("units n_latent_frames", [float(units.n_latent_frames(n, 3)) for n in (0, 1, 3, 4, 7)])
    check("units seconds", [float(units.seconds_to_samples(s, 22050)) for s in (0.0, 0.5, 0.00001, 1.23456)])
    check("units back", [units.samples_to_seconds(n, 22050) for n in samples])
    check("units frames", [float(units.seconds_to_frames(s, 31.25)) for s in (0.0, 0.032, 0.0321, 1.0, 10.0)])
    check("units decibels", [units.db_to_amplitude(db) for db in (-60.0, -3.0, 0.0, 6.0)])
