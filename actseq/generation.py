"""From a request to sound: prior → latents → decoder → vocoder, and the join of a continuation with its seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actseq import units
from actseq.autoencoders.base import Autoencoder, Latents
from actseq.errors import ConfigError
from actseq.priors.base import Request, SequencePrior
from actseq.representations.base import Features, Representation
from actseq.streams import DecoderStream, Encoded, EncoderStream, ReconstructionStream, analyse
from actseq.vocoders.base import Vocoder

Waveform = NDArray[np.float32]
CROSSFADE_SECONDS = 0.03
ALIGN_SECONDS = 0.008
END_FADE_SECONDS = 0.005
BATCH_FRAMES = 16_384
"""Feature frames that several clips may have as a batch, padding included."""
CHUNK_FRAMES = 2048
"""Feature frames of a single clip that are worked on at a time: this and `BATCH_FRAMES` bound the memory."""


@dataclass(frozen=True)
class Codec:
    """What turns sound into latents and back.

    Attributes:
        representation: analysis.
        autoencoder: features ↔ latents.
        vocoder: synthesis; None where only encoding is asked for.
        level_dbfs: peak level that the autoencoder was trained at; None for none in particular.
        device: where all of them are.
        chunk_frames: feature frames of a clip that streams work on at a time.
    """

    representation: Representation
    autoencoder: Autoencoder
    vocoder: Vocoder | None
    level_dbfs: float | None
    device: torch.device
    chunk_frames: int = CHUNK_FRAMES

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.representation.sample_rate

    @property
    def samples_per_latent(self) -> int:
        """Samples that one latent frame stands for."""
        return self.representation.hop_length * self.autoencoder.stride

    @torch.inference_mode()
    def analyse(self, waveforms: list[Waveform]) -> Features:
        """Features of clips at the model's sample rate and level, padded into one batch."""
        return analyse(self.representation, waveforms, self.device)

    @torch.inference_mode()
    def encode(self, waveforms: list[Waveform]) -> list[Encoded]:
        """Mean and log-variance (frames, latent_dim) of each clip."""
        out: list[Encoded] = []
        for group in self._groups(waveforms):
            if len(group) == 1:
                out.append(self.encode_pieces(group))
                continue
            posterior = self.autoencoder.encode(self.analyse(group))
            for i, length in enumerate(posterior.lengths.tolist()):
                variance = posterior.log_variance
                out.append(
                    (
                        posterior.mean[i, :length].cpu().numpy(),
                        None if variance is None else variance[i, :length].cpu().numpy(),
                    )
                )
        return out

    def encode_pieces(self, pieces: Iterable[Waveform]) -> Encoded:
        """Mean and log-variance (frames, latent_dim) of one clip that comes in pieces."""
        stream = self.encode_stream()
        chunks = [chunk for piece in pieces for chunk in stream.push(piece)] + stream.finish()
        variances = [variance for _, variance in chunks if variance is not None]
        return np.concatenate([mean for mean, _ in chunks]), np.concatenate(variances) if variances else None

    @torch.inference_mode()
    def decode(self, latents: list[Waveform]) -> list[Waveform]:
        """Waveforms of frames · samples_per_latent samples."""
        out: list[Waveform] = []
        for group in in_batches([len(z) for z in latents], BATCH_FRAMES // self.autoencoder.stride):
            if len(group) == 1:
                stream = self.decode_stream()
                out.append(np.concatenate([stream.push(latents[group[0]]), stream.finish()]))
                continue
            lengths = torch.tensor([len(latents[i]) for i in group])
            padded = np.zeros((len(group), int(lengths.max()), self.autoencoder.latent_dim), dtype=np.float32)
            for row, i in zip(padded, group, strict=True):
                row[: len(latents[i])] = latents[i]
            features = self.autoencoder.decode(
                Latents(torch.from_numpy(padded).to(self.device), lengths.to(self.device))
            )
            out += self.synthesise(features)
        return out

    @torch.inference_mode()
    def reconstruct(self, waveforms: list[Waveform]) -> list[Waveform]:
        """Each clip through encoder, decoder and vocoder, at its own length."""
        out: list[Waveform] = []
        for group in self._groups(waveforms):
            if len(group) == 1:
                stream = self.reconstruct_stream()
                out.append(np.concatenate([stream.push(group[0]), stream.finish()]))
                continue
            made = self.synthesise(self.autoencoder.reconstruct(self.analyse(group)))
            out += [new[: len(old)] for new, old in zip(made, group, strict=True)]
        return out

    @torch.inference_mode()
    def synthesise(self, features: Features) -> list[Waveform]:
        """Waveforms of frames · hop_length samples."""
        waveform = self._synthesiser().synthesise(features).cpu().numpy()
        hop = self.representation.hop_length
        return [waveform[i, : length * hop] for i, length in enumerate(features.lengths.tolist())]

    def encode_stream(self) -> EncoderStream:
        """Start to encode a clip that comes in pieces."""
        return EncoderStream(self.representation, self.autoencoder, self.device, self.chunk_frames)

    def decode_stream(self) -> DecoderStream:
        """Start to decode latents that come in pieces."""
        return DecoderStream(self.autoencoder, self._synthesiser(), self.device, self.chunk_frames)

    def reconstruct_stream(self) -> ReconstructionStream:
        """Start to reconstruct a clip that comes in pieces."""
        return ReconstructionStream(
            self.representation, self.autoencoder, self._synthesiser(), self.device, self.chunk_frames
        )

    def _synthesiser(self) -> Vocoder:
        if self.vocoder is None:
            raise ConfigError("no vocoder was loaded")
        return self.vocoder

    def _groups(self, waveforms: list[Waveform]) -> Iterator[list[Waveform]]:
        frames = [units.n_frames(len(waveform), self.representation.hop_length) for waveform in waveforms]
        for group in in_batches(frames, BATCH_FRAMES):
            yield [waveforms[i] for i in group]


def in_batches(sizes: list[int], limit: int, most: int = 64) -> Iterator[list[int]]:
    """Consecutive items whose padded size stays under `limit`: at least one at a time."""
    group: list[int] = []
    for i, size in enumerate(sizes):
        longest = max([size, *(sizes[j] for j in group)])
        if group and (longest * (len(group) + 1) > limit or len(group) >= most):
            yield group
            group = []
        group.append(i)
    if group:
        yield group


@dataclass(frozen=True)
class SeedAudio:
    """What generation continues.

    Attributes:
        waveform: (samples,) at the model's sample rate, as recorded.
        gain: what brings it to the level that the model knows.
        in_output: put the recording itself before what continues it.
    """

    waveform: Waveform
    gain: float
    in_output: bool = True


@dataclass(frozen=True)
class Generated:
    """One new clip.

    Attributes:
        waveform: (samples,).
        latents: (frames, latent_dim) that it was decoded from, those of a seed included.
        stopped: the prior ended it; otherwise it was cut at the asked length.
        join: sample at which the continuation of a seed begins; None without one in the output.
    """

    waveform: Waveform
    latents: Waveform
    stopped: bool
    join: int | None


def generate(
    codec: Codec,
    prior: SequencePrior,
    *,
    n: int,
    seconds: float | None,
    max_seconds: float,
    condition: Tensor | None,
    temperature: float,
    seed: int,
    seed_audio: SeedAudio | None = None,
) -> list[Generated]:
    """New clips, sampled as one batch.

    Args:
        codec: decoder and vocoder.
        prior: a sequence prior over the codec's latents.
        n: clips.
        seconds: length of what is new; None lets the prior end each clip.
        max_seconds: bound where the prior ends clips.
        condition: (n, condition_dim) or None.
        temperature: of sampling.
        seed: of the random numbers; the same seed, device and thread count give the same bytes.
        seed_audio: what to continue.
    """
    rate = codec.autoencoder.latent_rate
    prompt: Tensor | None = None
    if seed_audio is not None:
        encoded = encode_seed(codec, seed_audio)
        prompt = torch.from_numpy(encoded).to(codec.device).expand(n, -1, -1)
    request = Request(
        n=n,
        # A join may shift what is new by a little: there must be enough to fill the asked length.
        max_frames=units.seconds_to_frames(
            max_seconds if seconds is None else seconds + (0.0 if seed_audio is None else ALIGN_SECONDS), rate
        ),
        until_stop=seconds is None,
        condition=condition,
        prompt=prompt,
        temperature=temperature,
        seed=seed,
    )
    chunks = list(prior.sample(request))
    if chunks:
        latents = torch.cat([chunk.latents for chunk in chunks], dim=1)
        stopped = torch.cat([chunk.stopped for chunk in chunks], dim=1)
        lengths = (~stopped).sum(1).tolist()
    else:
        latents, lengths = torch.zeros(n, 0, prior.latent_dim, device=codec.device), [0] * n
    if prompt is not None:
        latents = torch.cat([prompt, latents], dim=1)
    n_prompt = 0 if prompt is None else prompt.shape[1]
    sequences = [latents[i, : n_prompt + lengths[i]].cpu().numpy() for i in range(n)]
    out = []
    for i, waveform in enumerate(codec.decode(sequences)):
        ended = seconds is None and lengths[i] < request.max_frames
        out.append(_finish(codec, waveform, sequences[i], ended, seconds, seed_audio))
    return out


def encode_seed(codec: Codec, seed_audio: SeedAudio) -> Waveform:
    """Latents (frames, latent_dim) that cover a seed.

    The recording is mirrored at its end before it is encoded: silence there would tell the encoder, and so the prior, that
    the sound ends where the recording was cut.
    """
    waveform = seed_audio.waveform * np.float32(seed_audio.gain)
    frames = -(-len(waveform) // codec.samples_per_latent)
    context = (
        codec.autoencoder.context_frames or 64
    ) * codec.representation.hop_length + codec.representation.context_samples
    extended = np.pad(
        waveform, (0, context + codec.samples_per_latent), mode="reflect" if len(waveform) > 1 else "edge"
    )
    return codec.encode([extended.astype(np.float32)])[0][0][:frames]


def _finish(
    codec: Codec,
    waveform: Waveform,
    latents: Waveform,
    ended: bool,
    seconds: float | None,
    seed_audio: SeedAudio | None,
) -> Generated:
    rate = codec.sample_rate
    start = 0 if seed_audio is None else len(seed_audio.waveform)
    join = None
    if seed_audio is not None:
        waveform = waveform / np.float32(seed_audio.gain)
        if seed_audio.in_output:
            waveform, join = splice(seed_audio.waveform, waveform, rate), start
        else:
            waveform = waveform[start:]
            start = 0
    if seconds is not None:
        waveform = waveform[: start + units.seconds_to_samples(seconds, rate)]
    if not ended and len(waveform):
        n = min(len(waveform), units.seconds_to_samples(END_FADE_SECONDS, rate))
        waveform = waveform.copy()
        waveform[-n:] *= np.linspace(1, 0, n, dtype=np.float32)
    return Generated(waveform.astype(np.float32), latents, ended, join)


def splice(original: Waveform, made: Waveform, sample_rate: int) -> Waveform:
    """The original, crossfaded at its end into `made`, which runs on the same clock.

    `made` is shifted by up to 8 ms to where it agrees best with the original; the crossfade keeps the power that this
    agreement leaves.
    """
    at = len(original)
    fade = min(units.seconds_to_samples(CROSSFADE_SECONDS, sample_rate), at, max(0, len(made) - at))
    if fade < 2:
        return np.concatenate([original, made[at:]]).astype(np.float32)
    reach = min(units.seconds_to_samples(ALIGN_SECONDS, sample_rate), at - fade, len(made) - at)
    end = original[at - fade : at].astype(np.float64)
    best, lag = -np.inf, 0
    for candidate in range(-reach, reach + 1):
        piece = made[at - fade + candidate : at + candidate].astype(np.float64)
        agreement = float(end @ piece) / (float(np.linalg.norm(end) * np.linalg.norm(piece)) + 1e-12)
        # Among near-equals the smallest shift.
        if agreement - 1e-3 * abs(candidate) / max(1, reach) > best:
            best, lag = agreement - 1e-3 * abs(candidate) / max(1, reach), candidate
    piece = made[at - fade + lag : at + lag].astype(np.float64)
    agreement = float(np.clip(end @ piece / (np.linalg.norm(end) * np.linalg.norm(piece) + 1e-12), 0, 1))
    angle = np.linspace(0, np.pi / 2, fade)
    out, inn = np.cos(angle), np.sin(angle)
    mixed = (out * end + inn * piece) / np.sqrt(1 + 2 * agreement * out * inn)
    return np.concatenate([original[: at - fade], mixed, made[at + lag :]]).astype(np.float32)


def compile_clips(waveforms: list[Waveform], sample_rate: int, gap_seconds: float = 0.25) -> Waveform:
    """All clips in a row with silence between; one beyond full scale is turned down by itself, as in its own file."""
    gap = np.zeros(units.seconds_to_samples(gap_seconds, sample_rate), dtype=np.float32)
    parts: list[Any] = []
    for waveform in waveforms:
        peak = float(np.abs(waveform).max(initial=0.0))
        parts += [waveform * np.float32(1 / peak) if peak > 1 else waveform, gap]
    return np.concatenate(parts[:-1]) if parts else gap[:0]
