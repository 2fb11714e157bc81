"""`magnitude`: a small network learns detail that the features do not determine; `phase` does the rest.

It trains on a CPU in minutes. Outside a clip the features are those of silence, whatever else is in the batch.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from actseq.representations.base import Representation, magnitudes_of
from actseq.representations.normaliser import Normaliser
from actseq.vocoders.inversion import MagnitudeInversion
from actseq.vocoders.residual import ResidualNetwork


class LearnedMagnitude(nn.Module):
    """An inversion that starts from the output of a network; untrained it is `MagnitudeInversion` with as many updates.

    Args:
        representation: one of log-magnitudes.
        width: values per frame between blocks.
        inner: width inside a block.
        blocks: number of ConvNeXt blocks.
        n_updates: number of multiplicative updates after the network, which bring the bands back to the features.

    Raises:
        TypeError: the representation has no log-magnitudes.
    """

    objective = "magnitude"

    def __init__(
        self, representation: Representation, *, width: int = 128, inner: int = 384, blocks: int = 4, n_updates: int = 5
    ) -> None:
        super().__init__()
        self.inversion = MagnitudeInversion(representation, n_updates=n_updates)
        magnitudes = magnitudes_of(representation)
        bins = magnitudes.framing.n_fft // 2 + 1
        self.network = ResidualNetwork(representation.channels, bins, width=width, inner=inner, blocks=blocks)
        self.context_frames = self.network.context_frames
        self.silence = magnitudes.silence

    @property
    def normaliser(self) -> Normaliser:
        """Statistics of the features, fitted before training."""
        return self.network.normaliser

    @torch.no_grad()
    def forward(self, values: Float[Tensor, "*batch channels frames"]) -> Float[Tensor, "*batch bins frames"]:
        """Magnitudes ≥ 0 of whole sequences."""
        padded = F.pad(values, (self.context_frames, self.context_frames), value=self.silence)
        made = self.magnitude(padded.reshape(-1, *padded.shape[-2:]))
        return made.reshape(*values.shape[:-2], *made.shape[-2:])

    def magnitude(self, values: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch bins inner"]:
        """Magnitudes of all but the first and last `context_frames` frames."""
        made: Tensor = self.inversion(self.network.inner(values), self.network(values)[0])
        return made
