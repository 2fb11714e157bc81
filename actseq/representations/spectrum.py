"""`spectrum`: magnitude and unwrapped phase of a grain's discrete Fourier transform.

Channels are the compressed magnitudes of all bins, then their phases. Phases are measured from the middle of the grain
and unwrapped from bin to bin, so that neighbours differ by at most π; in noise they do differ by that much. They are
scaled so that phases with uniformly distributed steps have unit standard deviation.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actseq import units
from actseq.errors import require
from actseq.losses import masked_l1
from actseq.representations.base import Features
from actseq.representations.grain import cut_grains, hop_of, lead

SILENT = 1e-10
"""Magnitudes below this are set to zero, with phase zero: the slopes of root and angle are unbounded there."""


class Spectrum(nn.Module):
    """Magnitude and unwrapped phase of grains cut with a rectangular window.

    Args:
        sample_rate: Hz.
        grain_length: samples of a grain, an even number.
        overlap: fraction of a grain that it shares with the next one, 0 to 0.95.
        compression: exponent of the magnitude, 0.1 to 1.
    """

    log_magnitude = False
    signed = False
    phase_scale: Tensor

    def __init__(
        self, sample_rate: int, *, grain_length: int = 1002, overlap: float = 0.9, compression: float = 0.5
    ) -> None:
        super().__init__()
        require(0.1, compression=compression)
        if compression > 1:
            raise ValueError(f"compression is {compression}, expected at most 1")
        self.sample_rate, self.grain_length, self.compression = sample_rate, grain_length, compression
        self.hop_length = hop_of(grain_length, overlap)
        if grain_length % 2:
            raise ValueError(f"grain_length is {grain_length}, expected an even number")
        self.bins = grain_length // 2 + 1
        self.channels = 2 * self.bins
        steps = torch.arange(1, self.bins + 1)
        self.register_buffer("phase_scale", math.sqrt(3) / math.pi / steps.sqrt()[:, None])

    @property
    def feature_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def context_samples(self) -> int:
        """Half a grain; more if grains overlap by less than half."""
        return self.grain_length - lead(self.grain_length, self.hop_length)

    def analyse(self, waveform: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> Features:
        """Features (batch, 2 · bins, frames) of clips of the given lengths in samples."""
        grains = cut_grains(waveform, lengths, self.grain_length, self.hop_length)
        return Features(self.features_of(grains), units.n_frames(lengths, self.hop_length))

    def features_of(self, grains: Float[Tensor, "batch grain_length frames"]) -> Float[Tensor, "batch channels frames"]:
        """Magnitudes and phases of grains."""
        centred = grains.roll(-(self.grain_length // 2), dims=1).transpose(1, 2)
        spectrum = torch.fft.rfft(centred, norm="ortho").transpose(1, 2)
        sounding = spectrum.abs() > SILENT
        spectrum = torch.where(sounding, spectrum, torch.ones_like(spectrum))
        phase = spectrum.angle()
        steps = phase.diff(dim=1)
        steps = steps - 2 * math.pi * (steps / (2 * math.pi)).round()
        unwrapped = torch.cat([phase[:, :1], phase[:, :1] + steps.cumsum(1)], dim=1)
        magnitude = spectrum.abs() ** self.compression * sounding
        return torch.cat([magnitude, unwrapped * self.phase_scale], dim=1)

    def grains(self, values: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch grain_length frames"]:
        """Samples of every frame, by the inverse transform."""
        # No bin of n samples within ±1 is larger than √n.
        magnitude = (values[:, : self.bins].clamp(min=0) ** (1 / self.compression)).clamp(max=self.grain_length**0.5)
        spectrum = torch.polar(magnitude, values[:, self.bins :] / self.phase_scale).transpose(1, 2)
        centred = torch.fft.irfft(spectrum, self.grain_length, norm="ortho").transpose(1, 2)
        made: Tensor = centred.roll(self.grain_length // 2, dims=1)
        return made

    def magnitude_distance(
        self,
        output: Float[Tensor, "batch channels frames"],
        target: Float[Tensor, "batch channels frames"],
        inside: Bool[Tensor, "batch frames"],
    ) -> Float[Tensor, ""]:
        """Mean absolute difference of compressed magnitudes."""
        return masked_l1(output[:, : self.bins], target[:, : self.bins], inside)
