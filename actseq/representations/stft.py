"""`stft`: power-compressed complex spectrogram, scale · |S|^compression · e^{jφ}, as real numbers.

Channels are the real parts of all bins, then the imaginary parts of all but the first and the last, which are always
zero (at 0 Hz and at half the sample rate). So there are n_fft channels.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from actseq.errors import require
from actseq.losses import masked_l1
from actseq.representations.base import Features, Framing

LEAST_POWER = 1e-20
"""|S|² below which the compression is linear: the slope of a power is unbounded at zero, and clips contain silence."""


class Stft(nn.Module):
    """Power-compressed complex spectrogram.

    Args:
        sample_rate: Hz.
        n_fft: transform and window size in samples.
        hop_length: samples between frames.
        compression: exponent of the magnitude, 0.1 to 1; a smaller one gives quiet parts more weight.
        scale: factor by which the compressed magnitude is multiplied.

    Source: Pasini, Lattner and Fazekas, Music2Latent (2024), with its values of `compression` and `scale`.
    """

    log_magnitude = False
    signed = True

    def __init__(
        self,
        sample_rate: int,
        *,
        n_fft: int = 1024,
        hop_length: int = 256,
        compression: float = 0.65,
        scale: float = 0.34,
    ) -> None:
        super().__init__()
        if not 0.1 <= compression <= 1:
            raise ValueError(f"compression is {compression}, expected 0.1 to 1")
        require(1e-20, scale=scale)
        self.sample_rate, self.hop_length, self.channels = sample_rate, hop_length, n_fft
        self.compression, self.scale = compression, scale
        self.framing = Framing(n_fft, hop_length)

    @property
    def feature_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def context_samples(self) -> int:
        """Half a window."""
        return self.framing.n_fft // 2

    @property
    def window(self) -> Float[Tensor, " n_fft"]:
        """Window of the transform."""
        return self.framing.window

    def analyse(self, waveform: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> Features:
        """Features (batch, n_fft, frames) of clips of the given lengths in samples."""
        spectrum, frames = self.framing(waveform, lengths)
        compressed = spectrum * (self.scale * _magnitude_to(spectrum, self.compression - 1))
        return Features(torch.cat([compressed.real, compressed.imag[:, 1:-1]], dim=1), frames)

    def compressed(self, values: Float[Tensor, "*batch channels frames"]) -> Complex[Tensor, "*batch bins frames"]:
        """Features as complex numbers."""
        bins = self.channels // 2 + 1
        return torch.complex(values[..., :bins, :], F.pad(values[..., bins:, :], (0, 0, 1, 1)))

    def magnitude_distance(
        self,
        output: Float[Tensor, "batch channels frames"],
        target: Float[Tensor, "batch channels frames"],
        inside: Bool[Tensor, "batch frames"],
    ) -> Float[Tensor, ""]:
        """Mean absolute difference of compressed magnitudes.

        Where a phase is unpredictable, the complex difference is least for silence, whereas this one is least at the
        right level. Its gradient is finite everywhere, and zero at an output of zero.
        """
        return masked_l1(self.compressed(output).abs(), self.compressed(target).abs(), inside)

    def spectrum(self, values: Float[Tensor, "*batch channels frames"]) -> Complex[Tensor, "*batch bins frames"]:
        """The short-time Fourier transform that features describe, without the compression."""
        compressed = self.compressed(values) / self.scale
        return compressed * _magnitude_to(compressed, 1 / self.compression - 1)


def _magnitude_to(spectrum: Tensor, exponent: float) -> Tensor:
    """|S|^exponent, finite at zero."""
    power = spectrum.real.square() + spectrum.imag.square()
    return power.clamp(min=LEAST_POWER).pow(exponent / 2)
