"""`grain`: the raw samples of overlapping windows.

Grains are cut with a rectangular window: the smooth window is applied once, at synthesis. Frame t holds the samples
around t · hop_length; where less than half of a grain is shared with the next one, it begins closer to t · hop_length,
so that the last grain reaches the end of a clip. Without overlap it begins there. Grains may be made loops.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actseq import units
from actseq.errors import require, require_at_most
from actseq.losses import itakura_saito
from actseq.representations.base import LONGEST, MOST_BANDS, Features


class Grain(nn.Module):
    """Raw samples of windows.

    Args:
        sample_rate: Hz.
        grain_length: samples of a grain.
        overlap: fraction of a grain that it shares with the next one, 0 to 0.95.
        bands: number of bands in which magnitudes are compared, evenly spaced in mels; fewer where a band would be
            narrower than a bin.
        floor: magnitudes below this, relative to a sine of amplitude 1, count as silence.
        loop_fade: fraction of a grain in which the samples after its end fade into its beginning, which makes it a
            loop; at most 0.5. The fade lies over both edges of a grain, and over its end where grains overlap by less
            than half. Magnitudes of loops do not depend on their rotation. 0: a grain is left as it is.
    """

    log_magnitude = False
    signed = True
    window: Tensor
    basis: Tensor

    def __init__(
        self,
        sample_rate: int,
        *,
        grain_length: int = 1002,
        overlap: float = 0.9,
        bands: int = 96,
        floor: float = 1e-6,
        loop_fade: float = 0.0,
    ) -> None:
        super().__init__()
        require(1, bands=bands)
        require(0, loop_fade=loop_fade)
        if loop_fade > 0.5:
            raise ValueError(f"loop_fade is {loop_fade}, expected at most 0.5")
        require_at_most(MOST_BANDS, bands=bands)
        require(1e-20, floor=floor)
        self.sample_rate, self.grain_length, self.channels = sample_rate, grain_length, grain_length
        self.hop_length = hop_of(grain_length, overlap)
        self.floor, self.faded = floor, round(grain_length * loop_fade)
        window = torch.ones(grain_length) if self.faded else torch.blackman_window(grain_length)
        # Scaled so that a sine of amplitude 1 has a peak of 1.
        self.register_buffer("window", 2 * window / window.sum())
        self.register_buffer("basis", band_means(sample_rate, grain_length, bands))

    @property
    def feature_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def context_samples(self) -> int:
        """Half a grain and its fade; more if grains overlap by less than half."""
        size = self.grain_length + self.faded
        return size - lead(size, self.hop_length)

    def analyse(self, waveform: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> Features:
        """Features (batch, grain_length, frames) of clips of the given lengths in samples."""
        size, hop = self.grain_length + self.faded, self.hop_length
        grains = cut_grains(waveform, lengths, size, hop)
        if self.faded:
            # Each sample at the place that it has in a grain that is left as it is.
            later = lead(size, hop) - lead(self.grain_length, hop)
            grains = closed(grains.transpose(1, 2), self.faded).roll(-later, dims=2).transpose(1, 2)
        return Features(grains, units.n_frames(lengths, hop))

    def grains(self, values: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch grain_length frames"]:
        """The features themselves."""
        return values

    def features_of(self, grains: Float[Tensor, "batch grain_length frames"]) -> Float[Tensor, "batch channels frames"]:
        """The grains themselves."""
        return grains

    def log_power(self, values: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch bands frames"]:
        """Natural logarithm of the power of windowed grains in each band."""
        spectrum = torch.fft.rfft(values.transpose(1, 2) * self.window)
        power = (spectrum.real.square() + spectrum.imag.square()) @ self.basis.T
        logarithms: Tensor = (power + self.floor**2).log()
        return logarithms.transpose(1, 2)

    def magnitude_distance(
        self,
        output: Float[Tensor, "batch channels frames"],
        target: Float[Tensor, "batch channels frames"],
        inside: Bool[Tensor, "batch frames"],
    ) -> Float[Tensor, ""]:
        """Itakura-Saito distance of the power in bands, least where the output has the mean power of its targets."""
        return itakura_saito(self.log_power(output), self.log_power(target), inside)


def band_means(sample_rate: int, n_fft: int, bands: int) -> Float[Tensor, "found bins"]:
    """Rows that average the bins of a band; the lowest bands are single bins, so that their levels are kept apart."""
    bins = n_fft // 2 + 1
    mels = torch.linspace(0, 1, bands + 1) * math.log1p(sample_rate / 2 / 700)
    edges = torch.unique((700 * torch.expm1(mels) * n_fft / sample_rate).round().long().clamp(max=bins - 1)).tolist()
    basis = torch.zeros(len(edges), bins)
    for row, (first, last) in enumerate(pairwise([*edges[:-1], bins - 1, bins])):
        basis[row, first:last] = 1 / (last - first)
    return basis


def hop_of(grain_length: int, overlap: float) -> int:
    """Samples between grains.

    Raises:
        ValueError: the grains are too short or too long, or the overlap is out of bounds.
    """
    require(8, grain_length=grain_length)
    require_at_most(LONGEST, grain_length=grain_length)
    if not 0 <= overlap <= 0.95:
        raise ValueError(f"overlap is {overlap}, expected 0 to 0.95")
    return max(1, round(grain_length * (1 - overlap)))


def lead(grain_length: int, hop_length: int) -> int:
    """Samples of frame t before t · hop_length: half a grain, or all that it shares with the grain before, if less."""
    return min(grain_length // 2, grain_length - hop_length)


def cut_grains(
    waveform: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"], grain_length: int, hop_length: int
) -> Float[Tensor, "batch grain_length frames"]:
    """Samples around every hop, silent outside the lengths."""
    inside = torch.arange(waveform.shape[1], device=waveform.device) < lengths[:, None]
    before = lead(grain_length, hop_length)
    padded = F.pad(torch.where(inside, waveform, 0.0), (before, grain_length - before))
    return padded.unfold(1, grain_length, hop_length).transpose(1, 2)


def closed(grains: Float[Tensor, "*batch samples"], faded: int) -> Float[Tensor, "*batch period"]:
    """Loops: the last `faded` samples of grains fade into their beginning at equal power, and are left out."""
    period = grains.shape[-1] - faded
    angle = (torch.arange(faded, device=grains.device) + 0.5) * (math.pi / 2 / max(1, faded))
    head = grains[..., :faded] * angle.sin() + grains[..., period:] * angle.cos()
    return torch.cat([head, grains[..., faded:period]], dim=-1)


def rotate_grains(
    grains: Float[Tensor, "batch samples"], share: Float[Tensor, " batch"], fade: float
) -> Float[Tensor, "batch samples"]:
    """Grains made into loops and rotated, so that no edge of a grain moves into its middle.

    The end of a grain fades into its beginning at equal power, which leaves a shorter loop. The result reads as many
    samples of that loop as the grain has.

    Args:
        grains: rows of samples.
        share: fraction of the loop, 0 to 1, by which each row is rotated.
        fade: fraction of a grain that fades into its beginning; 0 where grains are loops already.
    """
    n = grains.shape[1]
    loop = closed(grains, round(n * fade))
    period = loop.shape[1]
    first = (share * period).long()[:, None]
    return loop.gather(1, (torch.arange(n, device=grains.device) + first) % period)
