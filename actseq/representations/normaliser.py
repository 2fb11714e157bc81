"""Normalises features with a mean and standard deviation that are saved in the model."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actseq.modules.frames import moments, valid_frames
from actseq.representations.base import Features


class Normaliser(nn.Module):
    """Mean of each channel and one standard deviation for all, from the training data; part of the model file.

    Args:
        channels: number of feature channels.
        log_magnitude: what the representation declares.
        signed: what the representation declares; where true, the mean stays zero.
    """

    mean: Tensor
    deviation: Tensor
    bounds: Tensor

    def __init__(self, channels: int, *, log_magnitude: bool, signed: bool = False) -> None:
        super().__init__()
        self.log_magnitude, self.signed = log_magnitude, signed
        self.register_buffer("mean", torch.zeros(channels, 1))
        self.register_buffer("deviation", torch.ones(()))
        self.register_buffer("bounds", torch.tensor([-torch.inf, torch.inf]))

    def fit(self, batches: Iterable[Features]) -> None:
        """Compute the statistics over all valid frames."""
        found = moments(valid_frames(features.values.movedim(1, 2), features.lengths) for features in batches)
        mean = torch.zeros_like(found.mean) if self.signed else found.mean
        variance = found.square.mean() - mean.square().mean()
        self.mean.copy_(mean[:, None])
        self.deviation.copy_(variance.clamp(min=1e-8).sqrt())
        low, high = found.low, found.high
        # A decoder may exceed the range of the data by a little; far outside it the vocoder would make enormous
        # samples.
        most = 2 * max(-low, high)
        self.bounds.copy_(torch.tensor([low, high + 1.0] if self.log_magnitude else [-most, most]))

    def normalise(self, values: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch channels frames"]:
        """Features with zero mean in each channel and unit standard deviation overall."""
        return (values - self.mean) / self.deviation

    def restore(self, values: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch channels frames"]:
        """Features from normalised ones, limited to the range of the training data."""
        return (values * self.deviation + self.mean).clamp(self.bounds[0], self.bounds[1])
