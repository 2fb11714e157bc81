"""Overlap-add of spectra with carried state: what comes in pieces comes out as if it had come whole."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from actseq import units

LEAST_WEIGHT = 0.05
"""Least sum of squared windows that a sample is divided by: where one rim alone reaches, errors would explode."""


class OverlapAdd:
    """Each sample is divided by the sum of the squared windows that cover it, those of the frames that are there.

    F frames give F · hop_length samples; the first frame is centred on the first sample.

    Args:
        window: of n_fft samples.
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
        """Add frames; return what no later frame reaches."""
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
