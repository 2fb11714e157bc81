"""`linear`: log-magnitude spectrogram, ln(max(|STFT|, floor))."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq.errors import require
from actseq.representations.base import Features, Framing, Magnitudes


class Linear(nn.Module):
    """Log-magnitude spectrogram.

    Args:
        sample_rate: Hz.
        n_fft: transform and window size in samples.
        hop_length: samples between frames.
        floor: magnitudes below this count as silence.
    """

    log_magnitude = True
    signed = False

    def __init__(self, sample_rate: int, *, n_fft: int = 1024, hop_length: int = 256, floor: float = 1e-3) -> None:
        super().__init__()
        require(1e-20, floor=floor)
        self.sample_rate, self.hop_length, self.channels, self.floor = sample_rate, hop_length, n_fft // 2 + 1, floor
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
    def magnitudes(self) -> Magnitudes:
        """How the features are made."""
        return Magnitudes(self.framing, self.floor, None)

    def analyse(self, waveform: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> Features:
        """Features (batch, n_fft / 2 + 1, frames) of clips of the given lengths in samples."""
        spectrum, frames = self.framing(waveform, lengths)
        return Features(spectrum.abs().clamp(min=self.floor).log(), frames)
