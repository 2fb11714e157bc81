"""`unet`: a mask that keeps phases, streamed as whole; beside what every autoencoder promises."""

from pathlib import Path

import members
import numpy as np
import pytest
import torch

from actseq import build
from actseq.autoencoders.base import Autoencoder, Skipping
from actseq.autoencoders.unet import Unet
from actseq.config import Config, Member, load_preset
from actseq.errors import ConfigError
from actseq.inference.codec import Codec
from actseq.representations.base import Features
from actseq.representations.stft import Stft
from actseq.vocoders.base import synthesise

HOP, FRAMES = 64, 300
OPTIONS = [
    {"width": 12, "inner": 16, "stride": 1, "blocks": 2},
    {"width": 12, "inner": 16, "stride": 2},
    {"width": 12, "inner": 16, "stride": 8},
]
every_size = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: f"stride{options['stride']}")


def configured(*overrides: str) -> Config:
    return load_preset("restore", ["train_ae.steps=1", *overrides])


def model_of(options: dict[str, int], analysis: Stft, features: Features) -> Autoencoder:
    """Weights far from where they start, so that every frame in reach matters."""
    texts = [f"autoencoder.network.{key}={value}" for key, value in options.items()]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = build.build_autoencoder(configured(*texts, "autoencoder.latent_dim=6"), analysis).eval()
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn_like(parameter))
    model.fit([features])
    return model


def spoken(data_dir: Path) -> tuple[Stft, Features]:
    analysis = members.representation("stft", hop_length=HOP)
    return analysis, analysis.analyse(*members.padded(members.digits(data_dir), fill=1.0))


@every_size
def test_phases_are_kept_and_magnitudes_stay_within_the_limit(data_dir: Path, options: dict[str, int]) -> None:
    analysis, features = spoken(data_dir)
    model = model_of(options | {"limit": 1.25}, analysis, features)
    with torch.no_grad():
        before, after = (analysis.compressed(f.values) for f in (features, model.reconstruct(features)))
    for i, length in enumerate(features.lengths.tolist()):
        there, made = before[i, :, :length].numpy(), after[i, :, :length].numpy()
        audible = np.abs(there) > 1e-3
        factor = made[audible] / there[audible]
        np.testing.assert_allclose(factor.imag, 0, atol=1e-4)
        assert factor.real.min() > -1e-4
        assert factor.real.max() <= 1.25 + 1e-4
        assert factor.real.std() > 0.05


@every_size
def test_the_reconstruction_sees_as_far_as_two_contexts(options: dict[str, int]) -> None:
    analysis = members.representation("stft", n_fft=32, hop_length=16)
    values = members.features(FRAMES, 1, analysis.channels).values + 5
    model = model_of(options, analysis, Features(values, torch.tensor([FRAMES]))).double()
    assert model.context_frames is not None
    network, stride = model.network, model.stride
    assert isinstance(network, Skipping)
    frame = FRAMES // 2 // stride * stride
    given = values.double().requires_grad_()
    network.reconstruct(given, torch.tensor([FRAMES]))[0, :, frame].sum().backward()
    assert given.grad is not None
    seen = np.flatnonzero(given.grad[0].abs().sum(0).numpy())
    reach = max(frame - seen[0], seen[-1] - frame)
    # What streams allow for: twice the context, in whole latent frames.
    allowed = 2 * -(-model.context_frames // stride) * stride
    assert reach <= allowed
    assert reach > allowed - 4 * stride - 4  # and not much more than is needed


@every_size
@pytest.mark.parametrize("chunk_frames", [16, 24])
def test_streamed_is_whole(data_dir: Path, options: dict[str, int], chunk_frames: int) -> None:
    analysis, features = spoken(data_dir)
    vocoder = build.build_vocoder(Member(kind="auto"), analysis)
    model = model_of(options, analysis, features)
    codec = Codec(analysis, model, vocoder, None, torch.device("cpu"), chunk_frames)
    waveform = np.concatenate(members.digits(data_dir, 6))[:20_011]
    with torch.no_grad():
        whole = model.reconstruct(analysis.analyse(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])))
        expected = synthesise(vocoder, whole)[0, : len(waveform)].numpy()
    assert np.abs(expected - waveform).max() > 0.01
    for size in (997, 20_011):
        stream = codec.reconstruct_stream()
        parts = [stream.push(waveform[start : start + size]) for start in range(0, len(waveform), size)]
        made = np.concatenate([*parts, stream.finish()])
        np.testing.assert_allclose(made, expected, atol=1e-5)
        if size < 20_011:
            assert sum(map(len, parts)) > 5000  # it does not wait for the end


def test_levels_of_the_data_are_what_it_is_told(data_dir: Path) -> None:
    analysis, features = spoken(data_dir)
    model = model_of(OPTIONS[1], analysis, features)
    network = model.network
    assert isinstance(network, Unet)
    rows = []
    for i, length in enumerate(features.lengths.tolist()):
        values = features.values[i, :, :length].numpy().astype(np.float64) / float(model.normaliser.deviation)
        bins = analysis.channels // 2 + 1
        imaginary = np.pad(values[bins:], ((1, 1), (0, 0)))
        rows.append(0.5 * np.log(values[:bins] ** 2 + imaginary**2 + 1e-4))
    levels = np.concatenate(rows, axis=1)
    np.testing.assert_allclose(network.centre[:, 0].numpy(), levels.mean(1), atol=1e-4)
    assert float(network.spread) == pytest.approx(np.sqrt((levels - levels.mean(1, keepdims=True)).var()), rel=1e-3)


def test_without_the_sound_there_is_nothing_to_decode(data_dir: Path) -> None:
    analysis, features = spoken(data_dir)
    model = model_of(OPTIONS[1], analysis, features)
    assert not model.generative
    with torch.no_grad(), pytest.raises(ConfigError, match=r"skip connections.*restore or reconstruct"):
        model.decode(model.encode(features).mode())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["representation={kind: mel, n_fft: 512, hop_length: 256}"], "unet with representation mel.*stft"),
        (["autoencoder.bottleneck.kind=variational"], "unet with bottleneck variational.*plain"),
        (["autoencoder.bottleneck.kind=adversarial"], "unet with bottleneck adversarial.*plain"),
        (["autoencoder.network.stride=3"], "unet: stride is 3, expected 1, 2, 4"),
    ],
)
def test_what_does_not_fit_is_refused_and_told_what_does(overrides: list[str], message: str) -> None:
    config = configured("train_ae.objective.magnitude_weight=0", *overrides)

    def built() -> Autoencoder:
        return build.build_autoencoder(build.complete(config), build.build_representation(config))

    with pytest.raises(ConfigError, match=message):
        built()
