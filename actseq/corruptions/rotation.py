"""The circular rotation of grains."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actseq.corruptions.base import Corrupted
from actseq.errors import require
from actseq.representations.grain import rotate_grains


class Rotation(nn.Module):
    """`rotation`: rotates input grains, and output grains before they are compared with the unrotated target.

    The latents then cannot hold where in a grain a wave begins, and the vocoder may rotate grains too.

    Args:
        share: largest rotation, as a fraction of the grain.
        fade: fraction of a grain that is faded into its beginning, which makes it a loop.
        output_fade: the same fraction for output grains, as in the vocoder; 0 for a network of `energies`, whose grains
            are loops.
    """

    works_on_grains = True
    uses_noise_clips = False

    def __init__(self, sample_rate: int, *, share: float = 1.0, fade: float = 0.25, output_fade: float = 0.25) -> None:
        super().__init__()
        require(0, share=share, fade=fade, output_fade=output_fade)
        if max(fade, output_fade) > 0.5:
            raise ValueError(f"fade and output_fade are {fade} and {output_fade}, expected at most 0.5")
        if share > 1:
            raise ValueError(f"share is {share}, expected at most 1")
        self.share, self.fade, self.output_fade = share, fade, output_fade

    def corrupt(
        self, waveform: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"] | None
    ) -> Corrupted:
        """Each row rotated by its own random amount, and the rows as they are."""
        return Corrupted(rotate_grains(waveform, self._shares(waveform), self.fade), waveform)

    def perturb(self, output: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
        """Each row rotated by its own random amount."""
        return rotate_grains(output, self._shares(output), self.output_fade)

    def _shares(self, grains: Tensor) -> Tensor:
        return self.share * torch.rand(len(grains), device=grains.device)
