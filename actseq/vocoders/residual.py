"""The network of learned vocoders: it predicts from its neighbours what the features of a frame do not determine."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actseq.errors import require
from actseq.modules.convnext import KERNEL, ConvNeXtBlock
from actseq.representations.normaliser import Normaliser

RESIDUAL = (-10.0, 5.0)
"""Least and greatest change of a log-magnitude, in nepers: wide enough for the range of bins inside a band."""


class ResidualNetwork(nn.Module):
    """Normalised features → Conv7 → ConvNeXt blocks → values per frame, which begin with changes of log-magnitudes.

    These changes start at zero, so training starts from the inverted magnitudes.

    Args:
        channels: number of feature channels.
        bins: number of log-magnitudes of a frame.
        more: number of further values of a frame.
    """

    def __init__(self, channels: int, bins: int, more: int = 0, *, width: int, inner: int, blocks: int) -> None:
        super().__init__()
        require(1, width=width, inner=inner)
        require(0, blocks=blocks)
        self.bins = bins
        self.normaliser = Normaliser(channels, log_magnitude=True)
        self.read = nn.Conv1d(channels, width, KERNEL, padding=KERNEL // 2)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, inner) for _ in range(blocks))
        self.norm, self.write = nn.LayerNorm(width), nn.Linear(width, bins + more)
        self.context_frames = KERNEL // 2 * (1 + blocks)
        with torch.no_grad():
            for parameter in self.write.parameters():
                parameter[:bins] = 0.0

    def forward(
        self, values: Float[Tensor, "batch channels frames"]
    ) -> tuple[Float[Tensor, "batch bins inner"], Float[Tensor, "batch more inner"]]:
        """Changes and further values of all but the first and last `context_frames` frames."""
        x = self.read(self.normaliser.normalise(values)).transpose(1, 2)
        everywhere = x.new_ones(*x.shape[:2], 1)
        for block in self.blocks:
            x = block(x, everywhere)
        x = self.inner(x.transpose(1, 2)).transpose(1, 2)
        x = self.write(self.norm(x)).transpose(1, 2)
        return x[:, : self.bins].clamp(*RESIDUAL), x[:, self.bins :]

    def inner(self, values: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch channels inner"]:
        """All but the first and last `context_frames` frames."""
        return values[:, :, self.context_frames : values.shape[2] - self.context_frames]
