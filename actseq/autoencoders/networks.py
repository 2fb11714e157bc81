"""Networks of autoencoders. Inside them sequences are (batch, frames, width)."""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq import units
from actseq.autoencoders.attention import LocalAttention
from actseq.autoencoders.base import frame_mask
from actseq.errors import require
from actseq.representations.base import Features

KERNEL = 7
SIZES = {"tiny": (128, 256, 3), "base": (256, 768, 6), "large": (384, 1152, 8)}


class Block(nn.Module):
    """ConvNeXt block over frames: depthwise convolution, norm over channels, two-layer perceptron, residual.

    The depthwise convolution runs as a 2-d one over a (frames × 1) picture, channels last: on CPUs about twice as fast as
    `nn.Conv1d`, and no transposed copy. Source: Liu et al., A ConvNet for the 2020s (2022).
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, (KERNEL, 1), padding=(KERNEL // 2, 0), groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(
        self, x: Float[Tensor, "batch frames width"], mask: Float[Tensor, "batch frames 1"]
    ) -> Float[Tensor, "batch frames width"]:
        """x + f(x), looking at valid frames only."""
        y = self.depthwise((x * mask).transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)
        out: Tensor = x + self.contract(F.gelu(self.expand(self.norm(y))))
        return out


def run_blocks(
    blocks: Iterable[nn.Module], x: Float[Tensor, "batch frames width"], mask: Float[Tensor, "batch frames 1"]
) -> Float[Tensor, "batch frames width"]:
    """Blocks in a row."""
    for block in blocks:
        x = block(x, mask)
    return x


def stack_frames(
    values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"], stride: int
) -> Float[Tensor, "batch latent_frames size"]:
    """`stride` frames side by side, (batch, ceil(frames / stride), stride · channels); zero beyond the lengths."""
    frames = values.shape[2]
    padded = units.n_latent_frames(frames, stride) * stride
    mask = frame_mask(lengths, padded)[:, None].to(values.dtype)
    return rearrange(F.pad(values, (0, padded - frames)) * mask, "b c (t s) -> b t (s c)", s=stride)


def unstack_frames(
    rows: Float[Tensor, "batch latent_frames size"], stride: int
) -> Float[Tensor, "batch channels frames"]:
    """The reverse."""
    return rearrange(rows, "b t (s c) -> b c (t s)", s=stride)


def principal_components(
    batches: Iterable[Features], stride: int, size: int, n_components: int
) -> tuple[Float[Tensor, " size"], Float[Tensor, "size components"], Float[Tensor, " components"]]:
    """Mean, unit eigenvectors and deviations of stacked valid frames, largest first; summed up in double precision."""
    count, total = 0, torch.zeros(size, dtype=torch.float64)
    square = torch.zeros(size, size, dtype=torch.float64)
    for features in batches:
        stacked = stack_frames(features.values, features.lengths, stride)
        inside = frame_mask(-(-features.lengths // stride), stacked.shape[1])
        rows = stacked[inside].double().cpu()
        count += len(rows)
        total += rows.sum(0)
        square += rows.T @ rows
    mean = total / count
    variances, vectors = torch.linalg.eigh(square / count - torch.outer(mean, mean))
    keep = torch.arange(size - 1, size - 1 - n_components, -1)
    # The sign of an eigenvector is arbitrary: its largest entry is made positive.
    chosen = vectors[:, keep]
    chosen = chosen * chosen.gather(0, chosen.abs().argmax(0, keepdim=True)).sign()
    scale = variances[keep].clamp(min=1e-6 * float(variances.max())).sqrt()
    return mean.float(), chosen.float(), scale.float()


@torch.no_grad()
def set_to_principal_components(encode: nn.Linear, decode: nn.Linear, batches: Iterable[Features], stride: int) -> None:
    """Make a linear path from stacked frames to codes of unit variance and back that of the principal components."""
    latent_dim, size = encode.weight.shape
    n_components = min(latent_dim, size)
    mean, components, scale = principal_components(batches, stride, size, n_components)
    for layer in (encode, decode):
        layer.weight.zero_()
    encode.weight[:n_components] = components.T / scale[:, None]
    encode.bias[:n_components] = -(mean @ components) / scale
    encode.bias[n_components:] = 0.0
    decode.weight[:, :n_components] = components * scale
    decode.bias.copy_(mean)


@torch.no_grad()
def zero_last_layers(encoder_last: nn.Linear, decoder_last: nn.Module, latent_dim: int) -> None:
    """Set the last layers of what runs beside a linear path to zero, so that the path alone is heard at first."""
    for parameter in (*encoder_last.parameters(), *decoder_last.parameters()):
        parameter.zero_()
    # Where there are log-variances: little noise at first, or nothing would pass.
    encoder_last.bias[latent_dim:] = -3.0


def add_codes(
    numbers: Float[Tensor, "batch latent_frames out"], codes: Float[Tensor, "batch latent_frames latent_dim"]
) -> Float[Tensor, "batch latent_frames out"]:
    """Codes of a linear path added to an encoder's numbers; the log-variances, where there are any, come last."""
    return numbers + F.pad(codes, (0, numbers.shape[2] - codes.shape[2]))


class Conv(nn.Module):
    """`conv`: ConvNeXt over frames; `blocks` at the rate of the features and `latent_blocks` at that of the latents, mirrored.

    Beside the convolutions runs a linear path from stacked frames to the code and back, set to the principal components of
    the data before training, while the last layers of the convolutions start at zero: training starts from PCA and can
    only learn what PCA lacks.

    Args:
        channels: of the features.
        latent_dim: numbers per latent frame.
        out_dim: numbers per latent frame that the encoder makes for the bottleneck.
        size: tiny, base or large: width, inner width and blocks; each may be set apart.
        stride: feature frames per latent frame.
        attention: latent frames to either side that the decoder looks at by their content; 0: it does not.
        heads: of that attention.
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
        self.encoder = nn.ModuleList(Block(width, inner) for _ in range(blocks))
        self.merge = nn.Linear(stride * width, width)
        self.encoder_latent = nn.ModuleList(Block(width, inner) for _ in range(latent_blocks))
        last = nn.Linear(width, out_dim)
        self.encoder_out = nn.Sequential(nn.LayerNorm(width), last)
        self.decoder_in = nn.Linear(latent_dim, width)
        self.decoder_latent = nn.ModuleList(Block(width, inner) for _ in range(latent_blocks))
        self.split = nn.Linear(width, stride * width)
        self.decoder = nn.ModuleList(Block(width, inner) for _ in range(blocks))
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
        latent_mask = frame_mask(-(-lengths // self.stride), x.shape[1])[:, :, None].to(values.dtype)
        out: Tensor = self.encoder_out(run_blocks(self.encoder_latent, x, latent_mask))
        return add_codes(out, self.linear_encode(stack_frames(values, lengths, self.stride)))

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


class Pca(nn.Module):
    """`pca`: principal components of `stride` stacked frames; fitted, not trained. The baseline of equal dimension.

    Codes have unit variance, so that a prior sees the same scale as from other networks.

    Args:
        channels: of the features.
        latent_dim: components kept.
        out_dim: must equal `latent_dim`: a point code.
        stride: feature frames per latent frame.
    """

    trainable = False
    generative = True
    components: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, channels: int, latent_dim: int, out_dim: int, *, stride: int = 2) -> None:
        super().__init__()
        require(1, stride=stride)
        if out_dim != latent_dim:
            raise ValueError("network pca makes a point code; use it with bottleneck plain")
        if latent_dim > channels * stride:
            raise ValueError(
                f"latent_dim is {latent_dim}, but {stride} frames of {channels} channels have only "
                f"{channels * stride} numbers"
            )
        self.stride = stride
        self.context_frames: int | None = stride - 1
        self.register_buffer("components", torch.zeros(channels * stride, latent_dim))
        self.register_buffer("centre", torch.zeros(channels * stride))
        self.register_buffer("scale", torch.ones(latent_dim))

    def fit(self, batches: Iterable[Features]) -> None:
        """Principal components of the data."""
        mean, components, scale = principal_components(batches, self.stride, *self.components.shape)
        self.centre.copy_(mean)
        self.components.copy_(components)
        self.scale.copy_(scale)

    def encode(
        self, values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch latent_frames out"]:
        """Components of unit variance."""
        return (stack_frames(values, lengths, self.stride) - self.centre) @ self.components / self.scale

    def decode(
        self, latents: Float[Tensor, "batch latent_frames latent_dim"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels frames"]:
        """Normalised features."""
        rows = (latents * self.scale) @ self.components.T + self.centre
        return unstack_frames(rows, self.stride)
