"""Sound ↔ latents with a trained autoencoder: whole clips in batches, or one clip as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actseq import units
from actseq.arrays import LatentArray, Waveform
from actseq.autoencoders.base import Autoencoder, Latents
from actseq.errors import ConfigError
from actseq.inference.streams import (
    DecoderStream,
    Encoded,
    EncoderStream,
    LatentStream,
    ReconstructionStream,
    SkippingStream,
    analyse,
)
from actseq.representations.base import Features, Representation
from actseq.vocoders.base import Vocoder, synthesise

BATCH_FRAMES = 16_384
"""Number of feature frames that a batch of several clips may have, padding included."""
CHUNK_FRAMES = 2048
"""Number of feature frames of a single clip that are computed at a time; with `BATCH_FRAMES` it bounds the memory."""


@dataclass(frozen=True)
class Codec:
    """Turns sound into latents and latents into sound.

    Attributes:
        representation: analysis.
        autoencoder: features ↔ latents.
        vocoder: synthesis; None if the codec only encodes.
        level_dbfs: peak level that the autoencoder was trained at; None for no particular level.
        device: device of all three.
        chunk_frames: number of feature frames that a stream computes at a time.
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
        """Number of samples per latent frame."""
        return self.representation.hop_length * self.autoencoder.stride

    @property
    def longest_samples(self) -> int | None:
        """Number of samples that one vector can hold, for an autoencoder of whole clips; None for all others."""
        return self.samples_per_latent - 1 if self.autoencoder.whole_clips else None

    @property
    def needs_whole_sounds(self) -> bool:
        """Whether a frame's features depend on all of a sound, so that a stream holds the sound in memory."""
        return self.representation.context_samples is None

    def require_short(self, samples: int, name: str) -> None:
        """Refuse a sound that is longer than the autoencoder's clips.

        Raises:
            ConfigError: it is longer; `name` is its name in the message.
        """
        longest = self.longest_samples
        if longest is not None and samples > longest:
            given, most = (units.samples_to_seconds(one, self.sample_rate) for one in (samples, longest))
            raise ConfigError(
                f"{name} lasts {given:.2f} s",
                f"at most {most:.2f} s, which is what one vector of this run holds",
                "cut it, or use a run with a sequence of vectors",
            )

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
        """Mean and log-variance (frames, latent_dim) of one clip that arrives in pieces."""
        stream = self.encode_stream()
        chunks = [chunk for piece in pieces for chunk in stream.push(piece)] + stream.finish()
        variances = [variance for _, variance in chunks if variance is not None]
        return np.concatenate([mean for mean, _ in chunks]), np.concatenate(variances) if variances else None

    @torch.inference_mode()
    def decode(self, latents: list[LatentArray], label: int | Sequence[int] = 0) -> list[Waveform]:
        """Waveforms of frames · samples_per_latent samples.

        Args:
            latents: (frames, latent_dim) of each clip.
            label: row of the autoencoder's table of labels, of all clips or of each; 0 for none.
        """
        labels = [label] * len(latents) if isinstance(label, int) else list(label)
        out: list[Waveform] = []
        for group in in_batches([len(z) for z in latents], BATCH_FRAMES // self.autoencoder.stride):
            if len(group) == 1:
                stream = self.decode_stream(label=labels[group[0]])
                out.append(np.concatenate([stream.push(latents[group[0]]), stream.finish()]))
                continue
            lengths = torch.tensor([len(latents[i]) for i in group])
            padded = np.zeros((len(group), int(lengths.max()), self.autoencoder.latent_dim), dtype=np.float32)
            for row, i in zip(padded, group, strict=True):
                row[: len(latents[i])] = latents[i]
            rows = torch.tensor([labels[i] for i in group], device=self.device)
            features = self.autoencoder.decode(
                Latents(torch.from_numpy(padded).to(self.device), lengths.to(self.device)),
                self.autoencoder.condition(rows, padded.shape[1]),
            )
            out += self.synthesise(features)
        return out

    @torch.inference_mode()
    def reconstruct(self, waveforms: list[Waveform]) -> list[Waveform]:
        """Pass each clip through encoder, decoder and vocoder; its length stays."""
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
        waveform = synthesise(self._synthesiser(), features).cpu().numpy()
        hop = self.representation.hop_length
        return [waveform[i, : length * hop] for i, length in enumerate(features.lengths.tolist())]

    def encode_stream(self) -> EncoderStream:
        """A stream that encodes one clip."""
        return EncoderStream(self.representation, self.autoencoder, self.device, self.chunk_frames)

    def decode_stream(self, samples: int | None = None, label: int = 0) -> DecoderStream:
        """A stream that decodes the latents of one clip.

        Args:
            samples: length of the sound that the latents are from: nothing after its end is synthesised; None: all.
            label: row of the autoencoder's table of labels; 0 for none.
        """
        left = None if samples is None else units.n_frames(samples, self.representation.hop_length)
        return DecoderStream(self.autoencoder, self._synthesiser(), self.device, self.chunk_frames, left, label)

    def reconstruct_stream(
        self, label: int = 0, between: LatentStream | None = None
    ) -> ReconstructionStream | SkippingStream:
        """A stream that reconstructs one clip.

        Args:
            label: row of the autoencoder's table of labels; 0 for none.
            between: changes the latents between encoder and decoder; None: they stay as they are. A network with skip
                connections takes neither.
        """
        if self.autoencoder.generative:
            return ReconstructionStream(self.encode_stream(), self.decode_stream(label=label), between)
        return SkippingStream(
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
    """Groups of consecutive items whose padded size stays within `limit`; a group has at least one item."""
    group: list[int] = []
    for i, size in enumerate(sizes):
        longest = max([size, *(sizes[j] for j in group)])
        if group and (longest * (len(group) + 1) > limit or len(group) >= most):
            yield group
            group = []
        group.append(i)
    if group:
        yield group
