"""The contract of a representation, and the framing that the spectral ones share.

A clip is silent outside its length, in a batch as on disk: `analyse` sets samples beyond `lengths` to zero and pads
both ends with zeros, so padding never changes a feature inside.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from actseq import units
from actseq.errors import require, require_at_most

LONGEST = 65_536
"""Samples of a transform or a grain at most. A configuration of a stranger cannot take more memory than this needs."""
MOST_BANDS = 1024
"""Bands of a representation at most."""


@dataclass(frozen=True)
class Features:
    """A batch of feature sequences.

    Attributes:
        values: (batch, channels, frames).
        lengths: valid frames of each sequence; values beyond are arbitrary.
    """

    values: Float[Tensor, "batch channels frames"]
    lengths: Int[Tensor, " batch"]


@runtime_checkable
class Representation(Protocol):
    """Waveform → features. An `nn.Module`; its fitted or computed tables are buffers, which are saved with a model."""

    sample_rate: int
    hop_length: int
    channels: int
    log_magnitude: bool
    """Features are natural logarithms of magnitudes: a difference of 1 is 8.7 dB."""
    signed: bool
    """Features have either sign, like samples: silence is zero, and they are not centred."""

    @property
    def feature_rate(self) -> float:
        """Frames per second."""

    @property
    def context_samples(self) -> int | None:
        """Samples to either side of a frame's centre that it depends on; None: it depends on the whole clip."""

    def analyse(self, waveform: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> Features:
        """Features of clips of the given lengths in samples."""


def margin_hops(representation: Representation) -> int:
    """Hops with which a segment is surrounded: the context, or a quarter of a second where that is unbounded."""
    context = representation.context_samples
    return units.n_hops(representation.sample_rate // 4 if context is None else context, representation.hop_length)


@runtime_checkable
class HasMagnitude(Protocol):
    """A representation that holds phases and can compare magnitudes alone, which is what is heard."""

    def magnitude_distance(
        self,
        output: Float[Tensor, "batch channels frames"],
        target: Float[Tensor, "batch channels frames"],
        inside: Bool[Tensor, "batch frames"],
    ) -> Float[Tensor, ""]:
        """Distance between the magnitudes of features, over valid frames."""


@runtime_checkable
class Granular(Protocol):
    """A representation whose frames are grains: the samples of a rectangular window, or a transform of them."""

    sample_rate: int
    hop_length: int
    grain_length: int
    channels: int

    def grains(self, values: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch grain_length frames"]:
        """Samples of every frame."""

    def features_of(self, grains: Float[Tensor, "batch grain_length frames"]) -> Float[Tensor, "batch channels frames"]:
        """Features of grains, the inverse of `grains`."""


class Framing(nn.Module):
    """Hann-windowed short-time Fourier transform, frame t centred on sample t · hop_length.

    Args:
        n_fft: transform size in samples.
        hop_length: samples between frames.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__()
        require(2, n_fft=n_fft)
        require_at_most(LONGEST, n_fft=n_fft)
        if n_fft % 2:
            raise ValueError(f"n_fft is {n_fft}, expected an even number")
        if not 0 < hop_length <= n_fft // 2:
            raise ValueError(f"hop_length is {hop_length}, expected 1 to n_fft / 2 = {n_fft // 2}")
        self.n_fft, self.hop_length = n_fft, hop_length
        self.register_buffer("window", torch.hann_window(n_fft))

    def forward(
        self, waveform: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Complex[Tensor, "batch bins frames"], Int[Tensor, " batch"]]:
        """Spectrum, and the number of frames that cover each clip."""
        inside = torch.arange(waveform.shape[1], device=waveform.device) < lengths[:, None]
        spectrum = torch.stft(
            torch.where(inside, waveform, 0.0),
            self.n_fft,
            self.hop_length,
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        return spectrum, units.n_frames(lengths, self.hop_length)


@dataclass(frozen=True)
class Magnitudes:
    """How log-magnitude features are made: ln(max(basis · |STFT|, floor)).

    Attributes:
        framing: the transform.
        floor: least magnitude; its logarithm is the feature of silence.
        basis: (channels, bins), non-negative, rows ordered by centre frequency; None where the channels are the bins.
    """

    framing: Framing
    floor: float
    basis: Float[Tensor, "channels bins"] | None

    @property
    def silence(self) -> float:
        """The feature of silence."""
        return math.log(self.floor)


@runtime_checkable
class LogMagnitude(Representation, Protocol):
    """A representation of log-magnitudes: every vocoder that turns magnitudes into sound takes it."""

    @property
    def magnitudes(self) -> Magnitudes:
        """How its features are made."""


@runtime_checkable
class ComplexSpectrum(Representation, Protocol):
    """A representation of complex spectra.

    Channels are the real parts of all bins, then the imaginary parts of all but the first and the last.
    """

    @property
    def window(self) -> Float[Tensor, " n_fft"]:
        """Window of the transform."""

    def spectrum(self, values: Float[Tensor, "*batch channels frames"]) -> Complex[Tensor, "*batch bins frames"]:
        """The short-time Fourier transform that features describe."""


@dataclass(frozen=True)
class Sources:
    """Harmonics and noise that features describe. White noise of variance 1 has a power density of 1.

    Attributes:
        pitch: (…, frames), fundamental frequency in Hz.
        harmonic: (…, bins, frames), power density of the harmonics, smooth along the bins.
        noise: (…, bins, frames), power density of the noise.
    """

    pitch: Float[Tensor, "*batch frames"]
    harmonic: Float[Tensor, "*batch bins frames"]
    noise: Float[Tensor, "*batch bins frames"]


@runtime_checkable
class HarmonicsAndNoise(Representation, Protocol):
    """A representation whose frames are parameters of a synthesis by harmonics and filtered noise."""

    framing: Framing

    def sources(self, values: Float[Tensor, "*batch channels frames"]) -> Sources:
        """What features describe."""

    def spectrum(self, waveform: Float[Tensor, " samples"]) -> Complex[Tensor, "bins frames"]:
        """Transform whose power is the power density."""

    def comb(self, turns: Float[Tensor, " samples"]) -> Float[Tensor, "bins frames"]:
        """Power density of harmonics of density 1, from the phase of the fundamental frequency in turns."""

    def band_means(self, values: Float[Tensor, "*batch bins frames"]) -> Float[Tensor, "*batch bands frames"]:
        """Weighted mean of the bins of each band."""

    def in_bins(self, values: Float[Tensor, "*batch bands frames"]) -> Float[Tensor, "*batch bins frames"]:
        """Values of bands, interpolated at every bin."""


def magnitudes_of(representation: Representation) -> Magnitudes:
    """How the features of a log-magnitude representation are made.

    Raises:
        TypeError: the features are not log-magnitudes.
    """
    if not isinstance(representation, LogMagnitude):
        raise TypeError("only log-magnitude features, such as mel and linear, can be turned into a magnitude")
    return representation.magnitudes
