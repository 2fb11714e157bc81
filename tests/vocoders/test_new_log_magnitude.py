"""A new log-magnitude representation works with every vocoder of magnitudes, with and without training."""

from pathlib import Path
from typing import Any

import members
import numpy as np
import pytest
import torch
from representations import test_representation_contract as representations
from torch import Tensor, nn
from vocoders import test_vocoder_contract as vocoders

from actseq import audio, pipeline, registry
from actseq.representations.base import Features, Framing, Magnitudes
from actseq.vocoders.inversion import MagnitudeInversion

VOCODERS = ("phase", "griffin-lim", "magnitude", "neural")
OPTIONS = {"n_fft": 256, "hop_length": 64, "n_bands": 20}
USE: dict[str, Any] = {"compute": pipeline.Compute("cpu", 1)}


class Bumps(nn.Module):
    """Logarithms of magnitudes under Gaussian bumps: a bin lies in many bands, not in two as with `mel`."""

    log_magnitude = True
    signed = False
    basis: Tensor

    def __init__(self, sample_rate: int, *, n_fft: int = 512, hop_length: int = 128, n_bands: int = 40) -> None:
        super().__init__()
        self.sample_rate, self.hop_length, self.channels, self.floor = sample_rate, hop_length, n_bands, 1e-4
        self.feature_rate, self.context_samples = sample_rate / hop_length, n_fft // 2
        self.framing = Framing(n_fft, hop_length)
        bins = n_fft // 2 + 1
        apart = torch.arange(bins) - torch.linspace(0, bins - 1, n_bands)[:, None]
        self.register_buffer("basis", (-((apart * n_bands / bins) ** 2)).exp())

    @property
    def magnitudes(self) -> Magnitudes:
        return Magnitudes(self.framing, self.floor, self.basis)

    def analyse(self, waveform: Tensor, lengths: Tensor) -> Features:
        spectrum, frames = self.framing(waveform, lengths)
        return Features((self.basis @ spectrum.abs()).clamp(min=self.floor).log(), frames)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.REPRESENTATIONS, "bumps", Bumps)
    monkeypatch.setitem(members.REPRESENTATIONS, "bumps", OPTIONS)


def test_it_keeps_the_contract_of_a_representation() -> None:
    representations.test_padding_changes_nothing_inside("bumps")
    representations.test_context_is_true("bumps")


@pytest.mark.parametrize("vocoder", VOCODERS)
def test_every_vocoder_of_magnitudes_takes_it(vocoder: str) -> None:
    vocoders.test_streamed_equals_whole_bit_for_bit(vocoder, "bumps", 7)
    vocoders.test_silence_stays_silent(vocoder, "bumps")
    vocoders.test_the_wildest_features_that_a_decoder_may_make_are_finite(vocoder, "bumps")


def test_wide_bands_are_inverted_with_the_whole_basis() -> None:
    analysis = Bumps(members.SAMPLE_RATE, **OPTIONS)
    values = analysis.analyse(*members.padded(vocoders.sounds())).values[:1]
    errors = [
        float((analysis.basis @ MagnitudeInversion(analysis, n_updates=n)(values) - values.exp()).norm())
        for n in (0, 1, 10, 100)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.2 * errors[0]


def test_it_goes_from_sounds_to_new_sounds_through_each_vocoder(tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 40 * i) * np.arange(4000) / 8000) + 0.01 * rng.standard_normal(4000)
        audio.write(tmp_path / "sounds" / f"{i:02}.wav", tone.astype(np.float32), 8000)
    run = tmp_path / "run"
    settings = ["representation.kind=bumps", *(f"representation.{key}={value}" for key, value in OPTIONS.items())]
    steps = ["train_ae.steps=3", "train_prior.steps=3"]
    pipeline.train_ae(tmp_path / "sounds", "smoke", run=str(run), overrides=[*settings, *steps], **USE)
    pipeline.extract_latents(run, **USE)
    pipeline.train_prior(run, **USE)
    network = [f"train_vocoder.network.{key}={value}" for key, value in members.VOCODER_NETWORKS["magnitude"].items()]
    trained = ["train_vocoder.network.kind=magnitude", *network, "train_vocoder.steps=3", "train_vocoder.frames=16"]
    pipeline.train_vocoder(run, overrides=trained, **USE)
    made = []
    for kind in ("phase", "griffin-lim", "trained"):
        settings = [f"vocoder.kind={kind}"]
        request, output = pipeline.GenerationRequest(seconds=0.3, seed=1), pipeline.Output(tmp_path / kind)
        result = pipeline.generate(run, request, output, overrides=settings, **USE)
        made.append(audio.load(Path(result.files[0]), 8000)[0])
    assert all(np.isfinite(sound).all() and sound.any() for sound in made)
    assert len({sound.tobytes() for sound in made}) == len(made)
