"""Overlap-add of spectra with carried state: spectra in pieces give the same samples as the whole."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from actseq import units

LEAST_WEIGHT = 0.05
"""Least sum of squared windows by which a sample is divided: under the edge of one window, errors would be enormous."""


class OverlapAdd:
    """Each sample is divided by the sum of the squared windows of the frames that cover it.

    F frames give F · hop_length samples; the first frame is centred on the first sample.

    Args:
        window: n_fft samples.
        hop_length: samples between frames.

    Source: Griffin and Lim, Signal Estimation from Modified Short-Time Fourier Transform (1984), eq. 6.
    """

    def __init__(self, window: Float[Tensor, " n_fft"], hop_length: int) -> None:
        self.window, self.hop_length = window, hop_length
        self.n_fft = len(window)
        self.n_hops = units.n_hops(self.n_fft, hop_length)
        self.tail = window.new_zeros(2, (self.n_hops - 1) * hop_length)
        self.early = self.n_fft // 2  # samples before the centre of the first frame: dropped

    def push(self, spectrum: Complex[Tensor, "bins frames"]) -> Float[Tensor, " samples"]:
        """Add frames; return the samples that no later frame changes."""
        hop, frames = self.hop_length, spectrum.shape[1]
        grains = torch.fft.irfft(spectrum, self.n_fft, dim=0) * self.window[:, None]
        sums = grains.new_zeros(2, hop, frames + self.n_hops - 1)
        for k in range(self.n_hops):
            part = slice(k * hop, (k + 1) * hop)
            size = len(self.window[part])
            sums[0, :size, k : k + frames] += grains[part]
            sums[1, :size, k : k + frames] += self.window[part, None].square()
        flat = sums.transpose(1, 2).flatten(1)
        flat[:, : self.tail.shape[1]] += self.tail
        self.tail = flat[:, frames * hop :]
        return self._divide(flat[:, : frames * hop])

    def finish(self) -> Float[Tensor, " samples"]:
        """The rest: half a window."""
        return self._divide(self.tail[:, : self.n_fft // 2])

    def _divide(self, sums: Tensor) -> Tensor:
        early = min(self.early, sums.shape[1])
        self.early -= early
        return sums[0, early:] / sums[1, early:].clamp(min=LEAST_WEIGHT)
