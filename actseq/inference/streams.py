"""Sound ↔ latents piece by piece, in fixed chunks that overlap by the context of the network.

A chunk is computed with enough of its surroundings to get the values that it has in the whole clip; the surroundings
themselves are dropped. The chunks do not depend on the sizes of the pieces that are pushed: the same clip gives the
same bytes. A network of unbounded context (`context_frames` None) works on the whole clip as one chunk, at `finish`,
and needs the memory for it. So does an encoder whose features have an unbounded context (`context_samples` None).

A pushed array is not copied, but kept until its chunk is done: it must not be overwritten.
"""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor

from actseq import units
from actseq.arrays import LatentArray, Waveform
from actseq.autoencoders.base import Autoencoder, Latents
from actseq.representations.base import Features, Representation
from actseq.vocoders.base import Vocoder

Encoded = tuple[LatentArray, LatentArray | None]
"""Mean and log-variance (frames, latent_dim); the log-variance is None for a bottleneck without one."""
WHOLE = 2**40
"""A number of latent frames that no clip reaches."""
EMPTY = np.zeros(0, np.float32)
"""A waveform without samples."""


def analyse(representation: Representation, waveforms: list[Waveform], device: torch.device) -> Features:
    """Features of clips (samples,), padded into one batch."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    padded = np.zeros((len(waveforms), max(int(lengths.max()), 1)), dtype=np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return representation.analyse(torch.from_numpy(padded).to(device), lengths.to(device))


class ChunkedWindows:
    """Cuts a sequence that arrives in pieces into windows: a chunk and its surroundings.

    Args:
        empty: a piece without items.
        size: number of items in a chunk.
        context: number of items on either side of a chunk; fewer at the start and end of the sequence.
    """

    def __init__(self, empty: NDArray[np.float32], size: int, context: int) -> None:
        self.size, self.context = size, context
        self.pieces = [empty]
        self.begin = self.chunk = self.end = 0

    def push(self, piece: NDArray[np.float32]) -> list[tuple[NDArray[np.float32], int]]:
        """The windows that are now complete, each with the number of items before its chunk."""
        self.pieces.append(piece)
        self.end += len(piece)
        made = []
        while self.end >= self.chunk + self.size + self.context:
            made.append(self._cut())
        return made

    def finish(self, stop: int) -> list[tuple[NDArray[np.float32], int]]:
        """The remaining windows: their chunks begin before item `stop`."""
        made = []
        while self.chunk < stop:
            made.append(self._cut())
        return made

    def _cut(self) -> tuple[NDArray[np.float32], int]:
        # Pieces are joined only here, because they may be many and small.
        held = self.pieces[0] if len(self.pieces) == 1 else np.concatenate(self.pieces)
        start, after = max(self.chunk - self.context, 0), self.chunk + self.size
        window, before = held[start - self.begin : after + self.context - self.begin], self.chunk - start
        keep = max(after - self.context, 0)
        self.pieces, self.begin, self.chunk = [held[keep - self.begin :]], keep, after
        return window, before


def _latent_windows(autoencoder: Autoencoder, chunk_frames: int, passes: int) -> tuple[int, int]:
    """Size and context of chunks in latent frames; `passes` through the network add up their contexts."""
    if autoencoder.context_frames is None:
        return WHOLE, 0
    return max(1, chunk_frames // autoencoder.stride), passes * units.n_latent_frames(
        autoencoder.context_frames, autoencoder.stride
    )


def _sample_windows(
    representation: Representation, autoencoder: Autoencoder, chunk_frames: int, passes: int
) -> ChunkedWindows:
    """Windows of samples that begin where a latent frame begins."""
    size, context = _latent_windows(autoencoder, chunk_frames, passes)
    per_latent = representation.hop_length * autoencoder.stride
    if representation.context_samples is None:
        size = WHOLE
    else:
        context += units.n_hops(representation.context_samples, per_latent)
    return ChunkedWindows(np.zeros(0, np.float32), size * per_latent, context * per_latent)


class EncoderStream:
    """Waveform → posterior of one clip.

    Args:
        representation: analysis.
        autoencoder: its encoder is used.
        device: device of both.
        chunk_frames: feature frames encoded at a time.
    """

    def __init__(
        self, representation: Representation, autoencoder: Autoencoder, device: torch.device, chunk_frames: int
    ) -> None:
        self.representation, self.autoencoder, self.device = representation, autoencoder, device
        self.per_latent = representation.hop_length * autoencoder.stride
        self.windows = _sample_windows(representation, autoencoder, chunk_frames, 1)

    @torch.inference_mode()
    def push(self, waveform: Float32[np.ndarray, " samples"]) -> list[Encoded]:
        """Take more samples; return the posteriors that are now final, chunk by chunk."""
        return [self._encode(*window) for window in self.windows.push(waveform)]

    @torch.inference_mode()
    def finish(self) -> list[Encoded]:
        """Return the rest."""
        # A frame may be centred just after the last sample.
        return [self._encode(*window) for window in self.windows.finish(self.windows.end + 1)]

    def _encode(self, window: Waveform, before: int) -> Encoded:
        posterior = self.autoencoder.encode(analyse(self.representation, [window], self.device))
        first = before // self.per_latent
        inside = slice(first, first + self.windows.size // self.per_latent)
        variance = posterior.log_variance
        mean = posterior.mean[0, inside].cpu().numpy()
        return mean, None if variance is None else variance[0, inside].cpu().numpy()


class DecoderStream:
    """Latents → waveform of one clip, frames · stride · hop_length samples.

    Args:
        autoencoder: its decoder is used.
        vocoder: synthesis.
        device: device of both.
        chunk_frames: feature frames decoded at a time.
        left: number of feature frames to synthesise; what the decoder makes beyond is dropped. None: all.
        label: row of the autoencoder's table of labels; 0 for none.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        vocoder: Vocoder,
        device: torch.device,
        chunk_frames: int,
        left: int | None = None,
        label: int = 0,
    ) -> None:
        self.autoencoder, self.device, self.vocoder, self.left = autoencoder, device, vocoder.stream(), left
        self.label = torch.tensor([label], device=device)
        empty = np.zeros((0, autoencoder.latent_dim), np.float32)
        self.windows = ChunkedWindows(empty, *_latent_windows(autoencoder, chunk_frames, 1))

    @torch.inference_mode()
    def push(self, latents: Float32[np.ndarray, "frames latent_dim"]) -> Float32[np.ndarray, " made"]:
        """Take more latents; return the samples that are now final."""
        return _joined([self._decode(*window) for window in self.windows.push(latents)])

    @torch.inference_mode()
    def finish(self) -> Float32[np.ndarray, " made"]:
        """Return the rest."""
        made = [self._decode(*window) for window in self.windows.finish(self.windows.end)]
        return _joined([*made, self.vocoder.finish()])

    def _decode(self, window: LatentArray, before: int) -> Tensor:
        # A kernel may round otherwise where the same numbers lie in another order in memory.
        latents = torch.tensor(np.ascontiguousarray(window), device=self.device)[None]
        condition = self.autoencoder.condition(self.label, len(window))
        features = self.autoencoder.decode(Latents(latents, torch.tensor([len(window)], device=self.device)), condition)
        stride = self.autoencoder.stride
        inside = features.values[0, :, before * stride :][:, : self.windows.size * stride]
        if self.left is not None:
            inside = inside[:, : self.left]
            self.left -= inside.shape[1]
        return self.vocoder.push(inside.contiguous())


@runtime_checkable
class LatentStream(Protocol):
    """Latents → as many latents, in the same order; some may wait for those that follow."""

    def push(self, latents: LatentArray) -> LatentArray:
        """Take more latents (frames, latent_dim); return those that are now final."""

    def finish(self) -> LatentArray:
        """Return the rest."""


class ReconstructionStream:
    """Waveform → waveform of one clip, at its own length: what an `EncoderStream` makes goes into a `DecoderStream`.

    Args:
        encoder: not yet used.
        decoder: not yet used.
        between: changes the latents on their way, not yet used; None: they stay as they are.
    """

    def __init__(self, encoder: EncoderStream, decoder: DecoderStream, between: LatentStream | None = None) -> None:
        self.encoder, self.decoder, self.between = encoder, decoder, between
        self.samples = self.returned = 0

    def push(self, waveform: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " made"]:
        """Take more samples; return the samples that are now final."""
        self.samples += len(waveform)
        made = np.concatenate([EMPTY, *map(self._decode, self.encoder.push(waveform))])
        self.returned += len(made)
        return made

    def finish(self) -> Float32[np.ndarray, " made"]:
        """Return the rest."""
        rest = self.encoder.finish()
        hop, decoded = self.encoder.representation.hop_length, self.decoder.windows.chunk
        self.decoder.left = units.n_frames(self.samples, hop) - decoded * self.encoder.autoencoder.stride
        pieces = [self._decode(encoded) for encoded in rest]
        if self.between is not None:
            pieces.append(self.decoder.push(self.between.finish()))
        return np.concatenate([*pieces, self.decoder.finish()])[: self.samples - self.returned]

    def _decode(self, encoded: Encoded) -> Waveform:
        mean = encoded[0]
        return self.decoder.push(mean if self.between is None else self.between.push(mean))


class SkippingStream:
    """As `ReconstructionStream`, for a network with skip connections: what it makes needs more than the latents.

    Args:
        representation: analysis.
        autoencoder: encoder and decoder.
        vocoder: synthesis.
        device: device of all three.
        chunk_frames: feature frames reconstructed at a time.
    """

    def __init__(
        self,
        representation: Representation,
        autoencoder: Autoencoder,
        vocoder: Vocoder,
        device: torch.device,
        chunk_frames: int,
    ) -> None:
        self.representation, self.autoencoder, self.device = representation, autoencoder, device
        self.vocoder = vocoder.stream()
        # Two contexts: the decoder sees latents around a frame, and the encoder sees features around each one.
        self.windows = _sample_windows(representation, autoencoder, chunk_frames, 2)
        self.returned = 0

    @torch.inference_mode()
    def push(self, waveform: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " made"]:
        """Take more samples; return the samples that are now final."""
        made = _joined([self._reconstruct(*window) for window in self.windows.push(waveform)])
        self.returned += len(made)
        return made

    @torch.inference_mode()
    def finish(self) -> Float32[np.ndarray, " made"]:
        """Return the rest."""
        made = [self._reconstruct(*window) for window in self.windows.finish(self.windows.end + 1)]
        return _joined([*made, self.vocoder.finish()])[: self.windows.end - self.returned]

    def _reconstruct(self, window: Waveform, before: int) -> Tensor:
        features = self.autoencoder.reconstruct(analyse(self.representation, [window], self.device))
        hop = self.representation.hop_length
        inside = features.values[0, :, before // hop :][:, : self.windows.size // hop]
        return self.vocoder.push(inside.contiguous())


def _joined(pieces: list[Tensor]) -> Waveform:
    return np.concatenate([EMPTY, *(piece.cpu().numpy() for piece in pieces)])
