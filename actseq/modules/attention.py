"""Self-attention over the frames around each frame, within the same radius on both sides.

Frames are divided into blocks as long as the radius. A frame attends to its own block and the two next to it; frames
beyond the radius are masked. Time and memory grow with the length, not with its square.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from actseq import units
from actseq.errors import require


class LocalAttention(nn.Module):
    """Pre-norm attention with a residual connection; its branch starts at zero.

    Args:
        width: values per frame.
        radius: number of frames on each side that a frame attends to.
        heads: number of heads, each with width / heads values and its own bias for every distance.

    Sources: Vaswani et al. 2017; Shaw et al. 2018 (relative positions), as a bias to the scores (Raffel et al. 2020).
    """

    def __init__(self, width: int, radius: int, heads: int) -> None:
        super().__init__()
        require(1, radius=radius, heads=heads)
        if width % heads:
            raise ValueError(f"width is {width}, expected a multiple of the heads, {heads}")
        self.radius, self.heads = radius, heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.bias = nn.Parameter(torch.zeros(heads, 2 * radius + 1))
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Float[Tensor, "batch frames width"], mask: Float[Tensor, "batch frames 1"]
    ) -> Float[Tensor, "batch frames width"]:
        """x + f(x); f attends to valid frames only."""
        frames, radius = x.shape[1], self.radius
        more = units.n_latent_frames(frames, radius) * radius - frames
        queries, keys, values = F.pad(self.qkv(self.norm(x)), (0, 0, 0, more)).chunk(3, dim=2)
        queries = rearrange(queries, "b (n t) (h w) -> b n h t w", t=radius, h=self.heads)
        keys, values = (self._around(part, self.heads) for part in (keys, values))
        seen = self._around(F.pad(mask, (0, 0, 0, more)), 1)[..., 0].unsqueeze(-2) > 0
        # Offset of every key in the three blocks from every query in the middle block.
        places = torch.arange(-radius, 2 * radius, device=x.device)
        offsets = places - places[radius:-radius, None]
        # Every frame attends to itself, also beyond the lengths: a softmax over nothing would give NaN.
        seen = seen & (offsets.abs() <= radius) | (offsets == 0)
        bias = self.bias[:, (offsets + radius).clamp(0, 2 * radius)].masked_fill(~seen, -torch.inf)
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias.to(queries.dtype))
        out: Tensor = x + self.out(rearrange(y, "b n h t w -> b (n t) (h w)")[:, :frames])
        return out

    def _around(
        self, x: Float[Tensor, "batch padded size"], heads: int
    ) -> Float[Tensor, "batch blocks heads three_blocks part"]:
        """Every block together with the one before and the one after."""
        windows = F.pad(x, (0, 0, self.radius, self.radius)).unfold(1, 3 * self.radius, self.radius)
        return rearrange(windows, "b n (h w) t -> b n h t w", h=heads)
