"""Log-mel or log-magnitude features → linear magnitude."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actseq.representations.base import Representation
from actseq.representations.linear import Linear
from actseq.representations.mel import Mel


class MagnitudeInversion(nn.Module):
    """Magnitude spectrum that the features stand for.

    `linear` needs only the exponential. `mel` is inverted under non-negativity: start from the interpolated
    log(mel / band area), then multiplicative updates x ← x · Mᵀb / MᵀMx, which keep x ≥ 0 and never raise ‖Mx − b‖.

    Args:
        representation: a `mel` or `linear` representation.
        n_updates: multiplicative updates.

    Raises:
        TypeError: another representation.

    Source: Lee and Seung, Algorithms for Non-negative Matrix Factorization (2001), with M fixed.
    """

    interpolation: Tensor
    log_area: Tensor
    basis: Tensor

    def __init__(self, representation: Representation, *, n_updates: int = 30) -> None:
        super().__init__()
        self.n_updates = n_updates
        self.is_mel = isinstance(representation, Mel)
        if isinstance(representation, Mel):
            basis = representation.basis
            bins = torch.arange(basis.shape[1], dtype=basis.dtype, device=basis.device)
            area = basis.sum(1)
            centre = (basis @ bins) / area
            right = torch.searchsorted(centre, bins).clamp(1, len(centre) - 1)
            weight = ((bins - centre[right - 1]) / (centre[right] - centre[right - 1])).clamp(0, 1)
            interpolation = basis.new_zeros(basis.shape[1], basis.shape[0])
            rows = torch.arange(len(bins), device=basis.device)
            interpolation[rows, right - 1] = 1 - weight
            interpolation[rows, right] += weight
            self.register_buffer("interpolation", interpolation)
            self.register_buffer("log_area", area.log()[:, None])
            self.register_buffer("basis", basis)
        elif not isinstance(representation, Linear):
            raise TypeError("only mel and linear features can be turned into a magnitude")

    def forward(self, values: Float[Tensor, "*batch channels frames"]) -> Float[Tensor, "*batch bins frames"]:
        """Magnitudes ≥ 0."""
        if not self.is_mel:
            return values.exp()
        target = values.exp()
        x = (self.interpolation @ (values - self.log_area)).exp()
        numerator = self.basis.T @ target
        for _ in range(self.n_updates):
            x = x * numerator / (self.basis.T @ (self.basis @ x) + 1e-20)
        return x
