"""The circular rotation of grains."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actseq.corruptions.base import Corrupted
from actseq.errors import require
from actseq.representations.grain import rotate_grains


class Rotation(nn.Module):
    """`rotation`: grains are rotated around; the target is not, and the output must sound like it however it is rotated.

    So a code cannot hold where in the grain a wave begins, and grains can be put together without their places showing.

    Args:
        share: of the grain's loop, up to which it is rotated.
        fade: share of a grain that fades into its beginning, so that it becomes a loop.
        output_fade: the same for outputs, before they are compared; as the vocoder does it.
    """

    works_on_grains = True
    uses_noise_clips = False

    def __init__(self, *, share: float = 1.0, fade: float = 0.25, output_fade: float = 0.25) -> None:
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
        """Each row rotated by its own share."""
        return Corrupted(rotate_grains(waveform, self._shares(waveform), self.fade), waveform)

    def perturb(self, output: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
        """Each row rotated by its own share."""
        return rotate_grains(output, self._shares(output), self.output_fade)

    def _shares(self, grains: Tensor) -> Tensor:
        return self.share * torch.rand(len(grains), device=grains.device)
