"""`unet`: a mask over a complex spectrogram, from skip connections at every rate.

Between input and output nothing is lost, so the code says little of the sound: such a network restores and does not
generate. Noisy phases are kept: real and imaginary part of a bin are multiplied by one number.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq import units
from actseq.errors import ConfigError, require
from actseq.modules.convnext import KERNEL, ConvNeXtBlock, run_blocks
from actseq.modules.frames import frame_mask, moments, valid_frames
from actseq.representations.base import ComplexSpectrum, Features

FLOOR = 1e-2
"""Magnitude, in deviations of the features, well below which a bin counts as silent."""


class Stack(nn.Module):
    """Blocks at one rate."""

    def __init__(self, width: int, inner: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, inner) for _ in range(blocks))

    def forward(
        self, x: Float[Tensor, "batch frames width"], mask: Float[Tensor, "batch frames 1"]
    ) -> Float[Tensor, "batch frames width"]:
        """As `run_blocks`."""
        return run_blocks(self.blocks, x, mask)


class Unet(nn.Module):
    """`unet`: a mask over the spectrum, from ConvNeXt blocks at the feature rate, at half of it, and so on, and back.

    Its input is the logarithm of the magnitudes. Channels are those of `ComplexSpectrum`.

    Args:
        channels: number of feature channels.
        latent_dim: values per latent frame.
        out_dim: equals `latent_dim`: latents are points.
        width: channels inside, at every rate.
        inner: channels inside a block.
        blocks: blocks at every rate, on the way down and again on the way up.
        stride: feature frames per latent frame, a power of two; each doubling adds a rate.
        limit: upper bound of the mask; above 1 it can restore what noise has cancelled in a bin.
        adds: also add a spectrum to what the mask leaves: lost frequencies and gaps have nothing that a mask could
            raise.

    Source: Ronneberger, Fischer and Brox, U-Net (2015), with a mask in place of a picture.
    """

    trainable = True
    generative = False
    accepts = ComplexSpectrum
    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        channels: int,
        latent_dim: int,
        out_dim: int,
        *,
        width: int = 192,
        inner: int = 384,
        blocks: int = 1,
        stride: int = 4,
        limit: float = 1.5,
        adds: bool = False,
    ) -> None:
        super().__init__()
        require(1, width=width, inner=inner, blocks=blocks, stride=stride, limit=limit)
        if out_dim != latent_dim:
            raise ValueError("network unet makes a point code; use it with bottleneck plain")
        if stride & (stride - 1):
            raise ValueError(f"stride is {stride}, expected 1, 2, 4, 8 or another power of two")
        levels = int(math.log2(stride))
        bins = channels // 2 + 1
        self.stride, self.limit = stride, limit
        self.context_frames: int | None = KERNEL // 2 * blocks * (2 * stride - 1) + stride - 1

        self.read = nn.Linear(bins, width)
        self.down = nn.ModuleList(Stack(width, inner, blocks) for _ in range(levels + 1))
        self.merge = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(levels))
        self.code, self.open = nn.Linear(width, latent_dim), nn.Linear(latent_dim, width)
        self.up = nn.ModuleList(Stack(width, inner, blocks) for _ in range(levels + 1))
        self.split = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(levels))
        self.write = nn.Linear(width, bins)
        self.add = nn.Linear(width, channels) if adds else None
        if self.add is not None:
            # The training begins with the mask alone.
            nn.init.zeros_(self.add.weight)
            nn.init.zeros_(self.add.bias)
        self.register_buffer("centre", torch.zeros(bins, 1))
        self.register_buffer("spread", torch.ones(()))

    def fit(self, batches: Iterable[Features]) -> None:
        """Mean of every bin's level, and the deviation of all, over valid frames."""
        found = moments(valid_frames(_levels(one.values).movedim(1, 2), one.lengths) for one in batches)
        self.centre.copy_(found.mean[:, None])
        self.spread.copy_((found.square.mean() - found.mean.square().mean()).clamp(min=1e-8).sqrt())

    def encode(
        self, values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch latent_frames out"]:
        """The code at the lowest rate, (batch, ceil(frames / stride), latent_dim)."""
        code: Tensor = self.code(self._descend(values, lengths)[-1])
        return code

    def decode(
        self, latents: Float[Tensor, "batch latent_frames latent_dim"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels frames"]:
        """Refused: a mask needs something to be laid upon.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "the latents of network unet do not hold the sound: it has skip connections",
            "a generative network",
            "use restore or reconstruct with this run, or train another preset",
        )

    def reconstruct(
        self, values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels frames"]:
        """The features under the mask, and what is added to them."""
        inside = self._inside(values, lengths)
        mask = self._mask(inside)
        kept = values * torch.cat([mask, mask[:, 1:-1]], dim=1)
        if self.add is None:
            return kept
        added: Tensor = self.add(inside)
        return kept + added.transpose(1, 2)

    def mask(
        self, values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch bins frames"]:
        """Factor of each bin, 0 to `limit`."""
        return self._mask(self._inside(values, lengths))

    def _mask(self, inside: Float[Tensor, "batch frames width"]) -> Float[Tensor, "batch bins frames"]:
        found: Tensor = self.limit * torch.sigmoid(self.write(inside))
        return found.transpose(1, 2)

    def _inside(
        self, values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch frames width"]:
        """What the blocks have made at the feature rate."""
        frames = values.shape[2]
        *skips, x = self._descend(values, lengths)
        masks = self._masks(lengths, x.shape[1] * self.stride, x.dtype)
        x = self.up[-1](self.open(self.code(x)), masks[-1])
        for level in reversed(range(len(skips))):
            x = rearrange(self.split[level](x), "b t (s w) -> b (t s) w", s=2) + skips[level]
            x = self.up[level](x, masks[level])
        inside: Tensor = x[:, :frames]
        return inside

    def _descend(
        self, values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"]
    ) -> list[Float[Tensor, "batch _ width"]]:
        """What the blocks of every rate have made, highest rate first."""
        frames = units.n_latent_frames(values.shape[2], self.stride) * self.stride
        masks = self._masks(lengths, frames, values.dtype)
        levels = (_levels(values) - self.centre) / self.spread
        x = self.read(F.pad(levels, (0, frames - values.shape[2])).transpose(1, 2))
        made = [self.down[0](x, masks[0])]
        for level, merge in enumerate(self.merge):
            x = merge(rearrange(made[-1] * masks[level], "b (t s) w -> b t (s w)", s=2))
            made.append(self.down[level + 1](x, masks[level + 1]))
        return made

    def _masks(self, lengths: Tensor, frames: int, dtype: torch.dtype) -> list[Float[Tensor, "batch _ 1"]]:
        """Which frames are real, at every rate."""
        strides = [2**level for level in range(len(self.down))]
        return [
            frame_mask(units.n_latent_frames(lengths, stride), frames // stride)[:, :, None].to(dtype)
            for stride in strides
        ]


def _levels(values: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch bins frames"]:
    """Logarithms of magnitudes."""
    bins = values.shape[1] // 2 + 1
    real, imaginary = values[:, :bins], F.pad(values[:, bins:], (0, 0, 1, 1))
    return 0.5 * (real.square() + imaginary.square() + FLOOR**2).log()
