"""Log-magnitude features → linear magnitude."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actseq.representations.base import Representation, magnitudes_of


@runtime_checkable
class Inversion(Protocol):
    """Log-magnitude features (…, channels, frames) → magnitudes (…, bins, frames)."""

    context_frames: int
    """Frames to either side of a frame that its magnitudes depend on."""

    def __call__(self, values: Float[Tensor, "*batch channels frames"]) -> Float[Tensor, "*batch bins frames"]:
        """Magnitudes ≥ 0."""


class MagnitudeInversion(nn.Module):
    """Magnitude spectrum that fits the features.

    Without a basis it is the exponential. Bands are inverted under non-negativity: start from the interpolated
    log(band / band area), then multiplicative updates x ← x · Mᵀb / MᵀMx, which keep x ≥ 0 and never raise ‖Mx − b‖.

    Args:
        representation: one of log-magnitudes.
        n_updates: number of multiplicative updates.

    Raises:
        TypeError: the representation has no log-magnitudes.

    Source: Lee and Seung, Algorithms for Non-negative Matrix Factorization (2001), with M fixed.
    """

    context_frames = 0
    interpolation: Tensor
    log_area: Tensor
    basis: Tensor
    first: Tensor
    weight: Tensor
    next_weight: Tensor

    def __init__(self, representation: Representation, *, n_updates: int = 30) -> None:
        super().__init__()
        self.n_updates = n_updates
        self.compiled = True
        """Whether loops that numba compiles are used on a CPU; a network that is traced cannot hold them."""
        basis = magnitudes_of(representation).basis
        self.has_bands = basis is not None
        if basis is not None:
            bins = torch.arange(basis.shape[1], dtype=basis.dtype, device=basis.device)
            area = basis.sum(1)
            centre = (basis @ bins) / area
            right = torch.searchsorted(centre, bins).clamp(1, len(centre) - 1)
            # Two narrow bands may have the same single bin, and so the same centre.
            distance = (centre[right] - centre[right - 1]).clamp(min=1e-3)
            weight = ((bins - centre[right - 1]) / distance).clamp(0, 1)
            interpolation = basis.new_zeros(basis.shape[1], basis.shape[0])
            rows = torch.arange(len(bins), device=basis.device)
            interpolation[rows, right - 1] = 1 - weight
            interpolation[rows, right] += weight
            self.register_buffer("interpolation", interpolation)
            self.register_buffer("log_area", area.log()[:, None])
            self.register_buffer("basis", basis)
            # Triangles such as librosa's overlap their neighbours only; wider bands need the whole product.
            first = (basis > 0).int().argmax(0).clamp(max=len(basis) - 1)
            following = torch.cat([basis, basis.new_zeros(1, basis.shape[1])])[first + 1, rows]
            self.register_buffer("first", first)
            self.register_buffer("weight", basis[first, rows])
            self.register_buffer("next_weight", following)
            self.overlaps_neighbours_only = bool(
                ((basis > 0).sum(0) == (self.weight > 0).int() + (following > 0)).all()
            )

    def forward(
        self,
        values: Float[Tensor, "*batch channels frames"],
        residual: Float[Tensor, "*batch bins frames"] | None = None,
    ) -> Float[Tensor, "*batch bins frames"]:
        """Magnitudes ≥ 0; `residual` is added to the log-magnitudes where the updates start."""
        start = self.interpolated(values)
        start = (start if residual is None else start + residual).exp()
        if not self.has_bands:
            return start
        fits = self.compiled and self.overlaps_neighbours_only
        if values.device.type != "cpu" or start.requires_grad or not fits:
            return self._update(values.exp(), start)
        return self._update_compiled(values.exp(), start)

    def interpolated(self, values: Float[Tensor, "*batch channels frames"]) -> Float[Tensor, "*batch bins frames"]:
        """Log-magnitudes where the updates start: interpolated between bands."""
        return self.interpolation @ (values - self.log_area) if self.has_bands else values

    def _update(self, target: Tensor, x: Tensor) -> Tensor:
        numerator = self.basis.T @ target
        # A bin outside every band, such as that of 0 Hz, keeps what was interpolated from its neighbours.
        covered = (self.basis.sum(0) > 0)[:, None]
        for _ in range(self.n_updates):
            x = torch.where(covered, x * numerator / (self.basis.T @ (self.basis @ x) + 1e-20), x)
        return x

    def _update_compiled(self, target: Tensor, x: Tensor) -> Tensor:
        """The same updates without multiplications by zero: about twenty times as fast."""
        from actseq.vocoders import kernels

        # The frames of all clips in one row: each frame is inverted by itself.
        rows = x.detach().movedim(-2, 0).contiguous()
        kernels.update_magnitudes(
            target.detach().movedim(-2, 0).reshape(len(self.basis), -1).numpy(),
            self.first.numpy(),
            self.weight.numpy(),
            self.next_weight.numpy(),
            self.n_updates,
            rows.view(len(rows), -1).numpy(),
        )
        return rows.movedim(0, -2)
