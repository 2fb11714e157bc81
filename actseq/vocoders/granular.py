"""`granular`: windowed grains, overlapped and added.

A detail at the same place in grain after grain is heard as a buzz at the hop rate. To avoid it, the positions and
lengths of grains can jitter, or each grain can be rotated by a part of a loop: a random one, or the one that goes on
best with what lies there already. Random numbers are a function of the frame's number alone: the same features give the
same bytes.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from actseq.errors import require
from actseq.representations.base import Granular, Representation
from actseq.representations.grain import closed, lead, rotate_grains
from actseq.vocoders.base import BlockBuffer, Stream

LEAST_WEIGHT = 0.05
"""Least sum of windows by which a sample is divided: under the edge of a single window, errors would be enormous."""
FLIPS_HZ = 13.0
"""How often rotated grains change their sign, on average: a rotation does not change components slower than a grain."""
SLOPE = 1.25
"""The low-pass falls to zero between its cutoff and this multiple of it."""


class GrainSynthesis(nn.Module):
    """Overlap-add of grains under a Blackman window, which is flat in the middle if grains overlap by less than half.

    Without overlap the window is rectangular, and grains follow each other as they are. Each sample is divided by the
    sum of the windows that cover it. Rotated grains have no common phase and add in power, so their samples are divided
    by the root of the sum of squared windows.

    Args:
        representation: one of grains, such as `grain` or `spectrum`.
        rotate: rotate each grain, made into a loop, by a random part of that loop. Right for textures, and for grains
            of an autoencoder trained with `rotation`; pitched sounds become rough.
        align: rotate each grain, made into a loop, to where it correlates best with the grains before it. Right for
            pitched sounds, and for grains whose place in the loop means nothing, as those of network `circular`;
            noise gets a tone.
        loop_fade: fraction of a grain that fades into its beginning to make the loop, at most 0.5; 0 where grains are
            loops already.
        place_jitter: largest displacement of a grain, in hops.
        length_jitter: largest fraction by which a window is shorter than a grain.
        low_pass_hz: cutoff of a low-pass filter on each grain; None for no filter.
        zeroed_bins: fraction of the bins of each grain's spectrum, the highest ones, that are set to zero.
        block_frames: frames rendered at a time.

    Raises:
        TypeError: the frames of the representation are not grains.
        ValueError: an option is out of bounds, or both `rotate` and `align` are true.
    """

    def __init__(
        self,
        representation: Representation,
        *,
        rotate: bool = False,
        align: bool = False,
        loop_fade: float = 0.25,
        place_jitter: float = 0.0,
        length_jitter: float = 0.0,
        low_pass_hz: float | None = None,
        zeroed_bins: float = 0.0,
        block_frames: int = 64,
    ) -> None:
        super().__init__()
        require(0, loop_fade=loop_fade, place_jitter=place_jitter, length_jitter=length_jitter, low_pass_hz=low_pass_hz)
        require(1, block_frames=block_frames)
        require(0, zeroed_bins=zeroed_bins)
        if zeroed_bins > 1:
            raise ValueError(f"zeroed_bins is {zeroed_bins}, expected at most 1")
        if loop_fade > 0.5:
            raise ValueError(f"loop_fade is {loop_fade}, expected at most 0.5")
        if length_jitter > 0.9:
            raise ValueError(f"length_jitter is {length_jitter}, expected at most 0.9")
        if rotate and align:
            raise ValueError("rotate and align are both true, expected at most one, since each chooses the rotation")
        if not isinstance(representation, Granular):
            raise TypeError("only grain and spectrum features are grains")
        self.representation, self.hop_length = representation, representation.hop_length
        self.loop_fade = loop_fade
        self.rotate, self.align = rotate, align
        self.place_jitter, self.length_jitter = place_jitter, length_jitter
        self.low_pass_hz, self.zeroed_bins, self.block_frames = low_pass_hz, zeroed_bins, block_frames
        self.reach = round(place_jitter * self.hop_length)

    def stream(self) -> Stream:
        """Start a sequence."""
        return _GrainStream(self)

    def low_passed(self, grains: Float[Tensor, "frames samples"]) -> Float[Tensor, "frames samples"]:
        """Grains after the low-pass filter, without the bins that are set to zero."""
        if self.low_pass_hz is None and not self.zeroed_bins:
            return grains
        spectrum = torch.fft.rfft(grains)
        if self.low_pass_hz is not None:
            frequency = torch.fft.rfftfreq(grains.shape[1], 1 / self.representation.sample_rate, device=grains.device)
            fall = ((frequency / max(self.low_pass_hz, 1e-9) - 1) / (SLOPE - 1)).clamp(0, 1)
            spectrum = spectrum * (0.5 + 0.5 * (math.pi * fall).cos())
        bins = spectrum.shape[1]
        spectrum[:, bins - round(self.zeroed_bins * bins) :] = 0
        passed: Tensor = torch.fft.irfft(spectrum, grains.shape[1])
        return passed


class _GrainStream:
    """Sums begin `early` samples before the centre of the first grain, so that no index is negative."""

    def __init__(self, vocoder: GrainSynthesis) -> None:
        self.vocoder = vocoder
        self.size, self.hop = vocoder.representation.grain_length, vocoder.hop_length
        self.buffer = BlockBuffer(vocoder.block_frames)
        self.early = lead(self.size, self.hop) + vocoder.reach
        self.drop = self.early
        self.tail: Tensor | None = None
        self.rng = np.random.default_rng(0)
        self.frames = self.returned = 0
        self.sign = 1.0

    def push(self, values: Float[Tensor, "channels frames"]) -> Float[Tensor, " samples"]:
        return torch.cat([values.new_zeros(0), *map(self._advance, self.buffer.push(values))])

    def finish(self) -> Float[Tensor, " samples"]:
        last = self.buffer.finish()
        rest = [] if last is None else [self._advance(last)]
        if self.tail is None or self.buffer.waiting is None:
            return torch.zeros(0)
        made = torch.cat([*rest, self._divide(self.tail).to(self.buffer.waiting.device)])
        return made[: self.frames * self.hop - self.returned + sum(map(len, rest))]

    def _advance(self, values: Tensor) -> Tensor:
        vocoder, n, size = self.vocoder, values.shape[1], self.size
        grains = vocoder.representation.grains(values[None])[0].T.contiguous()
        # Always on the CPU: on other devices the order of summation is undefined.
        grains, device = vocoder.low_passed(grains).cpu(), values.device
        turned, flipped, placed, shortened = (
            torch.from_numpy(row.astype(np.float32)) for row in self.rng.random((n, 4)).T
        )
        if vocoder.rotate:
            grains = rotate_grains(grains, turned, vocoder.loop_fade) * self._signs(flipped)[:, None]
        if vocoder.align:
            grains = grains + (self._signs(flipped)[:, None] - 1) * grains.mean(1, keepdim=True)
        length = size * (1 - vocoder.length_jitter * shortened)
        window = blackman(size, length, size - self.hop)
        place = ((2 * placed - 1) * vocoder.reach).round().long() + vocoder.reach
        at = (torch.arange(n) * self.hop + place)[:, None] + torch.arange(size)
        sums = torch.zeros(2, n * self.hop + size + 2 * vocoder.reach)
        if self.tail is not None:
            sums[:, : self.tail.shape[1]] += self.tail
        if vocoder.align:
            self._add_aligned(sums, grains, window, at[:, 0].tolist())
        else:
            sums[0].index_add_(0, at.flatten(), (grains * window).flatten())
            sums[1].index_add_(0, at.flatten(), (window.square() if vocoder.rotate else window).flatten())
        done = n * self.hop
        self.tail, self.frames = sums[:, done:], self.frames + n
        made = self._divide(sums[:, :done])
        self.returned += len(made)
        return made.to(device)

    def _add_aligned(self, sums: Tensor, grains: Tensor, window: Tensor, first: list[int]) -> None:
        """Add grain after grain, each rotated to fit the sums that it finds."""
        loops = closed(grains, round(self.size * self.vocoder.loop_fade))
        period = loops.shape[1]
        for loop, shape, begin in zip(loops, window, first, strict=True):
            under = sums[:, begin : begin + self.size]
            before = F.pad(under[0] / under[1].clamp(min=LEAST_WEIGHT) * shape, (0, -self.size % period))
            folded = before.view(-1, period).sum(0)
            fit = torch.fft.irfft(torch.fft.rfft(folded) * torch.fft.rfft(loop).conj(), period)
            turned = loop.roll(int(fit.argmax())).repeat(-(-self.size // period))[: self.size]
            under += torch.stack([turned * shape, shape])

    def _signs(self, drawn: Tensor) -> Tensor:
        flip = drawn < FLIPS_HZ * self.hop / self.vocoder.representation.sample_rate
        signs = self.sign * (1 - 2 * flip.float()).cumprod(0)
        self.sign = float(signs[-1])
        return signs

    def _divide(self, sums: Tensor) -> Tensor:
        dropped = min(self.drop, sums.shape[1])
        self.drop -= dropped
        weight = sums[1, dropped:].sqrt() if self.vocoder.rotate else sums[1, dropped:]
        return sums[0, dropped:] / weight.clamp(min=LEAST_WEIGHT)


def blackman(size: int, length: Float[Tensor, " frames"], shared: int) -> Float[Tensor, "frames size"]:
    """Blackman windows of different lengths, centred in `size` samples.

    Args:
        size: samples of a grain.
        length: samples of each window.
        shared: samples that a grain shares with the next one. If they are less than half of a window, its slopes are so
            long, and it is flat in between.
    """
    place = (torch.arange(size, device=length.device) - (size - 1) / 2) / length[:, None]
    if 2 * shared < size:
        # From the edge inwards, a slope of so many samples is half a Blackman window.
        inwards = (0.5 - place.abs()) * length[:, None]
        place = torch.where(inwards < shared, 0.5 - inwards / max(1, 2 * shared), 0.0).where(place.abs() < 0.5, 0.5)
    window = 0.42 + 0.5 * (2 * math.pi * place).cos() + 0.08 * (4 * math.pi * place).cos()
    return torch.where(place.abs() < 0.5, window, 0.0)
