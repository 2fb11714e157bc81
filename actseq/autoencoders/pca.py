"""Principal components of stacked frames, as a network."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq.autoencoders.linear_path import principal_components, stack_frames, unstack_frames
from actseq.errors import require
from actseq.representations.base import Features


class Pca(nn.Module):
    """`pca`: principal components of stacked frames; fitted, not trained. The baseline of equal dimension.

    Latents have unit variance, so a prior sees the same scale as from other networks.

    Args:
        channels: number of feature channels.
        latent_dim: number of components that are kept.
        out_dim: equals `latent_dim`: latents are points.
        stride: feature frames per latent frame.
    """

    trainable = False
    generative = True
    point_latents = True
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
