"""`istft`: inverse short-time Fourier transform in blocks, exact for true spectra from the first sample to the last.

Where the hop is more than a third of n_fft, only the edge of one window covers the last few samples, which fade out.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actseq.errors import require
from actseq.representations.base import ComplexSpectrum, Representation
from actseq.vocoders.base import BlockBuffer, Stream
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
        self.hop_length = representation.hop_length

    def stream(self) -> Stream:
        """Start a sequence."""
        return _IstftStream(self.representation, self.block_frames)


class _IstftStream:
    def __init__(self, representation: ComplexSpectrum, block_frames: int) -> None:
        self.representation, self.buffer = representation, BlockBuffer(block_frames)
        self.sum = OverlapAdd(representation.window, representation.hop_length)

    def push(self, values: Float[Tensor, "channels frames"]) -> Float[Tensor, " samples"]:
        return torch.cat([values.new_zeros(0), *map(self._advance, self.buffer.push(values))])

    def finish(self) -> Float[Tensor, " samples"]:
        rest = self.buffer.finish()
        return torch.cat([*([] if rest is None else [self._advance(rest)]), self.sum.finish()])

    def _advance(self, values: Tensor) -> Tensor:
        return self.sum.push(self.representation.spectrum(values))
