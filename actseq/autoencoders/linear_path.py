"""The linear path through an autoencoder: stacked frames, and principal components as a start."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq import units
from actseq.modules.frames import frame_mask
from actseq.representations.base import Features


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
        inside = frame_mask(units.n_latent_frames(features.lengths, stride), stacked.shape[1])
        rows = stacked[inside].double().cpu()
        count += len(rows)
        total += rows.sum(0)
        square += rows.T @ rows
    mean = total / count
    variances, vectors = torch.linalg.eigh(square / count - torch.outer(mean, mean))
    keep = torch.arange(size - 1, size - 1 - n_components, -1)
    scale = variances[keep].clamp(min=1e-6 * float(variances.max())).sqrt()
    return mean.float(), _signed(vectors[:, keep]).float(), scale.float()


def components_of_rows(
    rows: Float[Tensor, "rows size"], n: int
) -> tuple[Float[Tensor, " size"], Float[Tensor, "size n"], Float[Tensor, " n"]]:
    """Mean, unit eigenvectors and deviations of rows that are few and long, largest first.

    Those that the rows do not have are zero. A deviation is at least a thousandth of the largest.
    """
    mean = rows.mean(0)
    _, values, vectors = torch.linalg.svd((rows - mean).double(), full_matrices=False)
    found = min(n, len(values))
    components, deviations = rows.new_zeros(rows.shape[1], n), rows.new_ones(n)
    components[:, :found] = _signed(vectors[:found].T)
    scale = values / len(rows) ** 0.5
    deviations[:found] = scale[:found].clamp(min=max(1e-3 * float(scale[0]), 1e-6))
    return mean, components, deviations


def _signed(vectors: Float[Tensor, "size n"]) -> Float[Tensor, "size n"]:
    """The sign of an eigenvector is arbitrary: its largest entry is made positive."""
    return vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()


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


def add_latents(
    numbers: Float[Tensor, "batch latent_frames out"], codes: Float[Tensor, "batch latent_frames latent_dim"]
) -> Float[Tensor, "batch latent_frames out"]:
    """Codes of a linear path added to an encoder's numbers; the log-variances, where there are any, come last."""
    return numbers + F.pad(codes, (0, numbers.shape[2] - codes.shape[2]))
