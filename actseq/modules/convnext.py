"""ConvNeXt blocks over sequences (batch, frames, width)."""

from collections.abc import Iterable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

KERNEL = 7


class ConvNeXtBlock(nn.Module):
    """ConvNeXt block over frames: depthwise convolution, norm over channels, two-layer perceptron, residual connection.

    The depthwise convolution is a 2-d one over a (frames × 1) image, channels last. On CPUs this is about twice as fast
    as `nn.Conv1d` and needs no transposed copy.

    Source: Liu et al., A ConvNet for the 2020s (2022).
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, (KERNEL, 1), padding=(KERNEL // 2, 0), groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(
        self, x: Float[Tensor, "batch frames width"], mask: Float[Tensor, "batch frames 1"]
    ) -> Float[Tensor, "batch frames width"]:
        """x + f(x); f uses valid frames only."""
        y = self.depthwise((x * mask).transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)
        out: Tensor = x + self.contract(F.gelu(self.expand(self.norm(y))))
        return out


def run_blocks(
    blocks: Iterable[nn.Module], x: Float[Tensor, "batch frames width"], mask: Float[Tensor, "batch frames 1"]
) -> Float[Tensor, "batch frames width"]:
    """Apply blocks one after the other."""
    for block in blocks:
        x = block(x, mask)
    return x
