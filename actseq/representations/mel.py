"""`mel`: log-mel spectrogram.

ln(max(M |STFT|, floor)) with Slaney's filters over magnitudes (power 1), to the byte those of librosa: importing
librosa would take most of the time that a first sound needs besides torch.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from actseq.errors import require, require_at_most
from actseq.representations.base import MOST_BANDS, Features, Framing, Magnitudes

LINEAR_HZ = 200 / 3
"""Width of a mel below `CORNER_HZ`."""
CORNER_HZ = 1000.0
"""From here on a mel is a constant ratio."""
LOG_STEP = np.log(6.4) / 27.0
"""Natural logarithm of that ratio."""


def slaney_filters(sample_rate: int, n_fft: int, n_mels: int, f_min: float) -> NDArray[np.float32]:
    """Triangles (n_mels, bins) of equal area from `f_min` Hz to half the sample rate, evenly spaced in mels.

    Source: Slaney, Auditory Toolbox, technical report 1998-010 (1998).
    """
    corner = CORNER_HZ / LINEAR_HZ

    def mels(hertz: float) -> float:
        return hertz / LINEAR_HZ if hertz < CORNER_HZ else corner + np.log(hertz / CORNER_HZ) / LOG_STEP

    edges = np.linspace(mels(f_min), mels(sample_rate / 2), n_mels + 2)
    bent = edges >= corner
    edges[~bent] *= LINEAR_HZ
    edges[bent] = CORNER_HZ * np.exp(LOG_STEP * (edges[bent] - corner))
    bins, widths = np.fft.rfftfreq(n_fft, 1 / sample_rate), np.diff(edges)
    filters: NDArray[np.float32] = np.empty((n_mels, len(bins)), np.float32)
    # Band by band: all ramps at once would take ten times the memory of the filters.
    for band in range(n_mels):
        rising, falling = -(edges[band] - bins) / widths[band], (edges[band + 2] - bins) / widths[band + 1]
        filters[band] = np.maximum(0, np.minimum(rising, falling))
    filters *= 2.0 / (edges[2:, None] - edges[:-2, None])
    return filters


class Mel(nn.Module):
    """Log-mel spectrogram.

    Args:
        sample_rate: Hz.
        n_fft: transform and window size in samples.
        hop_length: samples between frames.
        n_mels: number of bands.
        f_min: lower edge of the lowest band in Hz.
        floor: magnitudes below this count as silence.
    """

    log_magnitude = True
    signed = False
    basis: Tensor

    def __init__(
        self,
        sample_rate: int,
        *,
        n_fft: int = 1024,
        hop_length: int = 256,
        n_mels: int = 80,
        f_min: float = 0.0,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        require(1, n_mels=n_mels)
        require_at_most(MOST_BANDS, n_mels=n_mels)
        require(1e-20, floor=floor)
        self.sample_rate, self.hop_length, self.channels, self.floor = sample_rate, hop_length, n_mels, floor
        self.framing = Framing(n_fft, hop_length)
        basis = torch.from_numpy(slaney_filters(sample_rate, n_fft, n_mels, f_min))
        empty = int((basis.sum(1) == 0).sum())
        if empty:
            raise ValueError(
                f"{empty} of {n_mels} mel bands hold no bin of a transform of {n_fft} samples at "
                f"{sample_rate} Hz; use fewer n_mels or a larger n_fft"
            )
        self.register_buffer("basis", basis)

    @property
    def feature_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def context_samples(self) -> int:
        """Half a window."""
        return self.framing.n_fft // 2

    @property
    def magnitudes(self) -> Magnitudes:
        """How the features are made."""
        return Magnitudes(self.framing, self.floor, self.basis)

    def analyse(self, waveform: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> Features:
        """Features (batch, n_mels, frames) of clips of the given lengths in samples."""
        spectrum, frames = self.framing(waveform, lengths)
        return Features((self.basis @ spectrum.abs()).clamp(min=self.floor).log(), frames)
