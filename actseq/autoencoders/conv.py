"""Convolutional networks of autoencoders. Inside them sequences are (batch, frames, width)."""

from collections.abc import Iterable
from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq import units
from actseq.autoencoders.linear_path import (
    add_latents,
    set_to_principal_components,
    stack_frames,
    unstack_frames,
    zero_last_layers,
)
from actseq.errors import require
from actseq.modules.attention import LocalAttention
from actseq.modules.convnext import KERNEL, ConvNeXtBlock, run_blocks
from actseq.modules.frames import frame_mask
from actseq.representations.base import Features

SIZES = {"tiny": (128, 256, 3), "base": (256, 768, 6), "large": (384, 1152, 8)}


class Conv(nn.Module):
    """`conv`: ConvNeXt blocks over frames, the decoder a mirror image of the encoder.

    A linear path leads in parallel from stacked frames to the latents and back. It is set to the principal components
    of the data before training, and the last layers of the convolutions start at zero: training starts from PCA.

    Args:
        channels: number of feature channels.
        latent_dim: values per latent frame.
        out_dim: values per latent frame that the encoder gives the bottleneck.
        size: `tiny` (128, 256, 3), `base` (256, 768, 6) or `large` (384, 1152, 8): width, inner width, blocks.
        width: channels inside; null: that of `size`.
        inner: channels inside a block; null: that of `size`.
        blocks: blocks at the feature rate, in encoder and decoder each; null: those of `size`.
        latent_blocks: blocks at the latent rate, in encoder and decoder each.
        stride: feature frames per latent frame.
        attention: latent frames on either side that the decoder attends to; 0: no attention.
        heads: attention heads, a divisor of the width.
    """

    trainable = True
    generative = True

    def __init__(
        self,
        channels: int,
        latent_dim: int,
        out_dim: int,
        *,
        size: Literal["tiny", "base", "large"] = "tiny",
        width: int | None = None,
        inner: int | None = None,
        blocks: int | None = None,
        latent_blocks: int = 0,
        stride: int = 2,
        attention: int = 0,
        heads: int = 4,
    ) -> None:
        super().__init__()
        require(1, width=width, inner=inner, stride=stride, heads=heads)
        require(0, blocks=blocks, latent_blocks=latent_blocks, attention=attention)
        default = SIZES[size]
        width, inner, blocks = width or default[0], inner or default[1], default[2] if blocks is None else blocks
        self.stride = stride
        self.context_frames: int | None = (
            KERNEL // 2 * (1 + blocks + stride * latent_blocks) + stride * attention + stride - 1
        )
        self.read = nn.Conv1d(channels, width, KERNEL, padding=KERNEL // 2)
        self.encoder = nn.ModuleList(ConvNeXtBlock(width, inner) for _ in range(blocks))
        self.merge = nn.Linear(stride * width, width)
        self.encoder_latent = nn.ModuleList(ConvNeXtBlock(width, inner) for _ in range(latent_blocks))
        last = nn.Linear(width, out_dim)
        self.encoder_out = nn.Sequential(nn.LayerNorm(width), last)
        self.decoder_in = nn.Linear(latent_dim, width)
        self.decoder_latent = nn.ModuleList(ConvNeXtBlock(width, inner) for _ in range(latent_blocks))
        self.split = nn.Linear(width, stride * width)
        self.decoder = nn.ModuleList(ConvNeXtBlock(width, inner) for _ in range(blocks))
        self.write = nn.Conv1d(width, channels, KERNEL, padding=KERNEL // 2)
        self.linear_encode = nn.Linear(stride * channels, latent_dim)
        self.linear_decode = nn.Linear(latent_dim, stride * channels)
        zero_last_layers(last, self.write, latent_dim)
        # Made last, so that the other initial weights are the same without it.
        self.attention = LocalAttention(width, attention, heads) if attention else None

    def fit(self, batches: Iterable[Features]) -> None:
        """Set the linear path to the principal components, with codes of unit variance."""
        set_to_principal_components(self.linear_encode, self.linear_decode, batches, self.stride)

    def encode(
        self, values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch latent_frames out"]:
        """Numbers for the bottleneck, (batch, ceil(frames / stride), out_dim)."""
        frames = values.shape[2]
        padded = units.n_latent_frames(frames, self.stride) * self.stride
        mask = frame_mask(lengths, padded)[:, :, None].to(values.dtype)
        x = self.read(F.pad(values, (0, padded - frames)) * mask.transpose(1, 2)).transpose(1, 2)
        x = run_blocks(self.encoder, x, mask) * mask
        x = self.merge(rearrange(x, "b (t s) w -> b t (s w)", s=self.stride))
        latent_mask = frame_mask(units.n_latent_frames(lengths, self.stride), x.shape[1])[:, :, None].to(values.dtype)
        out: Tensor = self.encoder_out(run_blocks(self.encoder_latent, x, latent_mask))
        return add_latents(out, self.linear_encode(stack_frames(values, lengths, self.stride)))

    def decode(
        self, latents: Float[Tensor, "batch latent_frames latent_dim"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels frames"]:
        """Normalised features, (batch, channels, latent_frames · stride)."""
        latent_mask = frame_mask(lengths, latents.shape[1])[:, :, None].to(latents.dtype)
        x = self.decoder_in(latents)
        if self.attention is not None:
            x = self.attention(x, latent_mask)
        x = run_blocks(self.decoder_latent, x, latent_mask)
        x = rearrange(self.split(x), "b t (s w) -> b (t s) w", s=self.stride)
        mask = frame_mask(lengths * self.stride, x.shape[1])[:, :, None].to(latents.dtype)
        x = run_blocks(self.decoder, x, mask) * mask
        out: Tensor = self.write(x.transpose(1, 2)) + unstack_frames(self.linear_decode(latents), self.stride)
        return out
