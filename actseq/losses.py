"""Losses over padded sequences. All means are over what lies inside the lengths."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_l1(
    output: Float[Tensor, "batch channels frames"],
    target: Float[Tensor, "batch channels frames"],
    inside: Bool[Tensor, "batch frames"],
) -> Float[Tensor, ""]:
    """Mean absolute difference over valid frames."""
    return ((output - target).abs().mean(1) * inside).sum() / inside.sum()


def masked_delta_l1(
    output: Float[Tensor, "batch channels frames"],
    target: Float[Tensor, "batch channels frames"],
    inside: Bool[Tensor, "batch frames"],
) -> Float[Tensor, ""]:
    """Mean absolute difference of the change from frame to frame: transients keep their edge."""
    error = (output - target).diff(dim=2).abs().mean(1)
    both = inside[:, 1:] & inside[:, :-1]
    return (error * both).sum() / both.sum().clamp(min=1)


def kl_per_dimension(
    kl: Float[Tensor, "batch frames latent_dim"], inside: Bool[Tensor, "batch frames"]
) -> Float[Tensor, " latent_dim"]:
    """Mean over valid frames, in nats."""
    return (kl * inside[:, :, None]).sum((0, 1)) / inside.sum()


def free_bits(kl: Float[Tensor, " latent_dim"], free: float) -> Float[Tensor, ""]:
    """Mean over dimensions, each counted as at least `free` nats: below that it is pressed no further.

    Source: Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow (2016), on batch means.
    """
    return torch.clamp(kl, min=free).mean()
