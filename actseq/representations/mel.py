"""`mel`: log-mel spectrogram.

ln(max(M |STFT|, floor)) with librosa's Slaney filters over magnitudes (power 1). The filter bank is a buffer: librosa
is needed only to compute it, not to use a trained model.
"""

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq.errors import require, require_at_most
from actseq.representations.base import MOST_BANDS, Features, Framing, Magnitudes


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
        from librosa.filters import mel

        super().__init__()
        require(1, n_mels=n_mels)
        require_at_most(MOST_BANDS, n_mels=n_mels)
        require(1e-20, floor=floor)
        self.sample_rate, self.hop_length, self.channels, self.floor = sample_rate, hop_length, n_mels, floor
        self.framing = Framing(n_fft, hop_length)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # librosa warns of what the next lines refuse
            basis = torch.from_numpy(mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=f_min))
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
