"""A clip that comes in pieces becomes what it would as a whole: every network, any pieces."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import members
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actseq import build, registry
from actseq.autoencoders.base import Autoencoder
from actseq.config import Member
from actseq.errors import ConfigError
from actseq.inference import codec as codecs
from actseq.inference.codec import Codec
from actseq.vocoders.base import synthesise

HOP, N_MELS = 64, 24
CHUNK = 12
"""Feature frames: a multiple of every stride."""
EVERY = [
    (network, options)
    for network in sorted(set(registry.NETWORKS) - members.SKIPPING)  # those: test_unet.py
    for options in members.NETWORKS[network]
]
every_network = pytest.mark.parametrize(("network", "options"), EVERY, ids=[f"{n}-{o.get('stride')}" for n, o in EVERY])
LENGTHS = [0, 1, HOP * 5, *(k * CHUNK * HOP + d for k in (1, 3) for d in (-1, 0, 1)), 5000, 9999]


class Show(nn.Module):
    """A vocoder whose waveform shows the features: a frame's samples begin with its channels and the next frame's."""

    hop_length = HOP

    def stream(self) -> "ShowStream":
        return ShowStream()


class ShowStream:
    def __init__(self) -> None:
        self.waiting = torch.zeros(N_MELS, 0)

    def push(self, values: torch.Tensor) -> torch.Tensor:
        self.waiting = torch.cat([self.waiting, values], dim=1)
        both = torch.cat([self.waiting[:, :-1], self.waiting[:, 1:]])
        self.waiting = self.waiting[:, -1:]
        return F.pad(both.T, (0, HOP - 2 * N_MELS)).reshape(-1)

    def finish(self) -> torch.Tensor:
        return F.pad(self.waiting.T, (0, HOP - N_MELS)).reshape(-1)


def model_of(network: str, options: dict[str, Any]) -> Autoencoder:
    """Weights far from where they start, so that every frame in reach matters."""
    bottleneck = members.REFUSED.get((network, "variational"), "variational")
    model = members.autoencoder(network, bottleneck, options, awake=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn_like(parameter))
    return model


def codec_of(network: str, options: dict[str, Any], chunk_frames: int = CHUNK) -> Codec:
    analysis = members.representation("mel")
    return Codec(analysis, model_of(network, options), Show(), None, torch.device("cpu"), chunk_frames)


def noise(samples: int) -> np.ndarray:
    return (0.2 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


def pieces(whole: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Pieces of one size; 0 means pieces of any size, also empty ones."""
    rng, start = np.random.default_rng(0), 0
    while start < len(whole):
        stop = start + (size or int(rng.integers(0, 700)))
        yield whole[start:stop]
        start = stop


def streamed(stream: Any, whole: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([*(stream.push(piece) for piece in pieces(whole, size)), stream.finish()])


def one_pass(codec: Codec, waveform: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
    """Posterior, decoded waveform and reconstruction, by the contracts of the parts alone."""
    assert codec.vocoder is not None
    with torch.no_grad():
        length = max(1, len(waveform))
        padded = torch.zeros(1, length)
        padded[0, : len(waveform)] = torch.from_numpy(waveform)
        features = codec.representation.analyse(padded, torch.tensor([len(waveform)]))
        posterior = codec.autoencoder.encode(features)
        decoded = codec.autoencoder.decode(posterior.mode())
        rebuilt = codec.autoencoder.reconstruct(features)
        made = [synthesise(codec.vocoder, found)[0].numpy() for found in (decoded, rebuilt)]
    return posterior, made[0], made[1][: len(waveform)]


def close(actual: np.ndarray, expected: Any) -> None:
    # Rounding grows with the largest values that a layer sums, which need not be those at the same place.
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(initial=0.0))


@every_network
@pytest.mark.parametrize("chunk_frames", [CHUNK, 7])
def test_chunks_give_what_one_pass_gives(network: str, options: dict[str, Any], chunk_frames: int) -> None:
    codec = codec_of(network, options, chunk_frames)
    for length in LENGTHS:
        waveform = noise(length)
        posterior, decoded, rebuilt = one_pass(codec, waveform)
        mean, variance = codec.encode([waveform])[0]
        assert len(mean) == math.ceil((1 + length // HOP) / codec.autoencoder.stride)
        close(mean, posterior.mean[0])
        assert (variance is None) == (posterior.log_variance is None)
        if variance is not None:
            close(variance, posterior.log_variance[0])
        latents = posterior.mean[0].numpy()
        close(codec.decode([latents])[0], decoded)
        close(codec.reconstruct([waveform])[0], rebuilt)


@every_network
def test_pieces_make_no_difference(network: str, options: dict[str, Any]) -> None:
    codec = codec_of(network, options)
    waveform = noise(4000)
    mean, variance = codec.encode([waveform])[0]
    decoded, rebuilt = codec.decode([mean])[0], codec.reconstruct([waveform])[0]
    for size in (1, 2, 333, CHUNK * HOP, 3999, 0):
        again, other = codec.encode_pieces(pieces(waveform, size))
        np.testing.assert_array_equal(again, mean)
        assert (other is None) == (variance is None)
        if other is not None and variance is not None:
            np.testing.assert_array_equal(other, variance)
        np.testing.assert_array_equal(streamed(codec.reconstruct_stream(), waveform, size), rebuilt)
    for size in (1, 2, 5, CHUNK, 10_000, 0):
        np.testing.assert_array_equal(streamed(codec.decode_stream(), mean, size), decoded)


@every_network
def test_what_is_final_comes_at_once(network: str, options: dict[str, Any]) -> None:
    codec = codec_of(network, options)
    waveform = noise(400 * HOP)
    encoder, decoder, both = codec.encode_stream(), codec.decode_stream(), codec.reconstruct_stream()
    if codec.autoencoder.context_frames is None:  # nothing is final before the end
        assert not encoder.push(waveform)
        assert not len(both.push(waveform))
        return
    late = 2 * codec.autoencoder.context_frames + 2 * codec.autoencoder.stride + CHUNK + 4
    for at in range(0, len(waveform), HOP):
        piece = waveform[at : at + HOP]
        for mean, _ in encoder.push(piece):
            decoder.push(mean)
        both.push(piece)
        # What is reconstructed waits for a chunk of the encoder, and for one of the decoder.
        assert at + HOP - both.returned <= (late + 2 * CHUNK) * HOP
        held = [windows.end - windows.chunk for windows in (encoder.windows, decoder.windows)]
        assert held[0] <= late * HOP
        assert held[1] <= late


def test_what_lies_around_a_chunk_matters() -> None:
    """The weights above are such that a context too small would be noticed."""
    codec = codec_of("conv", members.NETWORKS["conv"][0])
    waveform = noise(5000)
    mean, rebuilt = codec.encode([waveform])[0][0], codec.reconstruct([waveform])[0]
    decoded = codec.decode([mean])[0]
    assert codec.autoencoder.context_frames is not None
    # One latent frame less than needed: another is there because of rounding.
    codec.autoencoder.context_frames -= 2 * codec.autoencoder.stride
    assert np.abs(codec.encode([waveform])[0][0] - mean).max() > 1e-4
    assert np.abs(codec.decode([mean])[0] - decoded).max() > 1e-4
    assert np.abs(codec.reconstruct([waveform])[0] - rebuilt).max() > 1e-4


def test_without_a_bound_the_whole_is_one_chunk() -> None:
    codec = codec_of("conv", members.NETWORKS["conv"][0])
    codec.autoencoder.context_frames = None
    waveform = noise(20 * CHUNK * HOP + 5)
    posterior, decoded, rebuilt = one_pass(codec, waveform)
    encoder, decoder, both = codec.encode_stream(), codec.decode_stream(), codec.reconstruct_stream()
    assert encoder.push(waveform[:7000]) == encoder.push(waveform[7000:]) == []
    [(mean, _)] = encoder.finish()
    np.testing.assert_array_equal(mean, posterior.mean[0])
    assert len(decoder.push(mean)) == len(both.push(waveform)) == 0
    np.testing.assert_array_equal(decoder.finish(), decoded)
    np.testing.assert_array_equal(both.finish(), rebuilt)


def test_many_clips_are_what_each_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "BATCH_FRAMES", 100)
    codec = codec_of("conv", members.NETWORKS["conv"][1])
    clips = [noise(n) for n in (500, 0, 1500, 1, 102 * HOP, 700, 900)]
    together = list(zip(codec.encode(clips), codec.reconstruct(clips), strict=True))
    assert len(together) == len(clips)
    decoded = codec.decode([mean for (mean, _), _ in together])
    for clip, ((mean, variance), rebuilt), sound in zip(clips, together, decoded, strict=True):
        alone, other = codec.encode([clip])[0]
        close(mean, alone)
        close(variance, other)
        close(rebuilt, codec.reconstruct([clip])[0])
        close(sound, codec.decode([alone])[0])
        assert len(rebuilt) == len(clip)
        assert len(sound) == len(mean) * codec.samples_per_latent


def test_nothing_decodes_to_nothing() -> None:
    codec = codec_of("conv", members.NETWORKS["conv"][0])
    assert len(codec.decode([np.zeros((0, members.LATENT_DIM), np.float32)])[0]) == 0
    assert len(codec.decode_stream().finish()) == 0


def test_without_a_vocoder_there_is_no_sound() -> None:
    model = model_of("conv", members.NETWORKS["conv"][0])
    codec = Codec(members.representation("mel"), model, None, None, torch.device("cpu"))
    assert len(codec.encode([noise(300)])[0][0]) == 3
    for start in (codec.decode_stream, codec.reconstruct_stream):
        with pytest.raises(ConfigError, match="no vocoder"):
            start()


def digits_for(data_dir: Path, seconds: float) -> np.ndarray:
    spoken = np.concatenate(members.digits(data_dir, 40))
    return np.resize(spoken, round(seconds * members.SAMPLE_RATE))


@pytest.mark.parametrize("seconds", [1.0, 600.0])
def test_real_digits_of_a_second_and_of_ten_minutes(data_dir: Path, seconds: float) -> None:
    codec = codec_of("conv", members.NETWORKS["conv"][0], chunk_frames=2048)
    waveform = digits_for(data_dir, seconds)
    posterior, decoded, rebuilt = one_pass(codec, waveform)
    mean, variance = codec.encode_pieces(pieces(waveform, 44_101))
    close(mean, posterior.mean[0])
    close(np.asarray(variance), posterior.log_variance[0])
    close(streamed(codec.decode_stream(), mean, 1001), decoded)
    close(streamed(codec.reconstruct_stream(), waveform, 44_101), rebuilt)


def test_real_digits_to_sound(data_dir: Path) -> None:
    """Through a true vocoder, whose phases run apart as soon as features differ in their last bits."""
    analysis = members.representation("mel")
    vocoder = build.build_vocoder(Member(kind="phase", n_turns=1), analysis)
    codec = Codec(analysis, model_of("conv", members.NETWORKS["conv"][1]), vocoder, None, torch.device("cpu"), 100)
    waveform = digits_for(data_dir, 4.0)
    rebuilt = codec.reconstruct([waveform])[0]
    assert rebuilt.shape == waveform.shape
    mean = codec.encode([waveform])[0][0]
    for size in (777, 0):
        np.testing.assert_array_equal(streamed(codec.reconstruct_stream(), waveform, size), rebuilt)
        np.testing.assert_array_equal(streamed(codec.decode_stream(), mean, size), codec.decode([mean])[0])
