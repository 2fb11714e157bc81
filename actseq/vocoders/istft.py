"""`istft`: inverse short-time Fourier transform in blocks, exact for true spectra from the first sample to the last.

With a hop over a third of n_fft the last few samples have only the rim of one window: they fade out.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actseq.errors import require
from actseq.representations.base import ComplexSpectrum, Features, Representation
from actseq.vocoders.base import Stream, synthesise_streamed
from actseq.vocoders.overlap import OverlapAdd


class Istft(nn.Module):
    """Inverse of `stft`, or of another complex spectrum.

    Args:
        representation: one of complex spectra.
        block_frames: frames rendered at a time.

    Raises:
        TypeError: the representation has no complex spectra.
    """

    def __init__(self, representation: Representation, *, block_frames: int = 64) -> None:
        super().__init__()
        require(1, block_frames=block_frames)
        if not isinstance(representation, ComplexSpectrum):
            raise TypeError("only complex spectra, such as stft, hold the phase that it needs")
        self.representation, self.block_frames = representation, block_frames

    def stream(self) -> Stream:
        """Start a sequence."""
        return _IstftStream(self.representation, self.block_frames)

    def synthesise(self, features: Features) -> Float[Tensor, "batch samples"]:
        """Waveforms of frames · hop_length samples; zero beyond each length."""
        return synthesise_streamed(self, features, self.representation.hop_length)


class _IstftStream:
    def __init__(self, representation: ComplexSpectrum, block_frames: int) -> None:
        self.representation, self.block_frames = representation, block_frames
        window = representation.window
        self.sum = OverlapAdd(window, representation.hop_length)
        self.waiting = window.new_zeros(representation.channels, 0)

    def push(self, values: Float[Tensor, "channels frames"]) -> Float[Tensor, " samples"]:
        self.waiting = torch.cat([self.waiting, values], dim=1)
        out = [values.new_zeros(0)]
        while self.waiting.shape[1] >= self.block_frames:
            out.append(self._advance(self.waiting[:, : self.block_frames]))
            self.waiting = self.waiting[:, self.block_frames :]
        return torch.cat(out)

    def finish(self) -> Float[Tensor, " samples"]:
        rest = [self._advance(self.waiting)] if self.waiting.shape[1] else []
        return torch.cat([*rest, self.sum.finish()])

    def _advance(self, values: Tensor) -> Tensor:
        # Contiguous: with another memory layout the same numbers may be rounded otherwise.
        return self.sum.push(self.representation.spectrum(values.contiguous()))
