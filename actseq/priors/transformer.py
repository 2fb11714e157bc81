"""`transformer`: causal self-attention over a sliding window, with rotary positions.

The memory is a ring: frame t is in slot t mod `window`, so a step writes one slot and moves nothing. Keys are stored
rotated by their own position; attention depends on differences of positions only, so the order of the slots does not
matter. Positions grow without limit while angles must stay exact, so angles are computed in float64.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from actseq.errors import require
from actseq.modules.rotary import rotated, turns_of
from actseq.priors.base import beside

State = tuple[Tensor, Any]
"""The memory, and the number of frames consumed, an integer. Where it is a tensor, a step is made of operations on
tensors alone, as an exported model needs it, and overwrites nothing."""
SLOWEST = 1e4
"""The slowest pair of numbers turns by a radian in about so many frames."""


class Transformer(nn.Module):
    """Pre-norm layers of attention and a multilayer perceptron.

    A condition is appended to the normalised values that attention and perceptron of every layer read.

    Args:
        condition_dim: size of the condition that every layer takes; 0: none.
        width: values per position, in and out; a multiple of twice the `heads`.
        layers: stacked layers.
        heads: heads of the queries; each has width / heads values.
        inner: width inside a layer's perceptron.
        memory_heads: heads of keys and values, a divisor of `heads`. Fewer make the memory of a stream smaller.
        window: latent frames that a position sees, itself included; the same in training and in sampling.
        dropout: fraction of inputs, of what each layer adds and of outputs that is dropped in training.

    Sources: Vaswani et al. 2017; Su et al. 2021 (rotary positions, equation 15); Shazeer 2019 (shared keys and values).
    """

    def __init__(
        self,
        condition_dim: int = 0,
        *,
        width: int = 192,
        inner: int = 512,
        layers: int = 4,
        heads: int = 6,
        memory_heads: int = 1,
        window: int = 256,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        require(1, width=width, inner=inner, layers=layers, heads=heads, memory_heads=memory_heads, window=window)
        if width % (2 * heads):
            raise ValueError(f"width is {width}, expected a multiple of {2 * heads}, twice the heads")
        if heads % memory_heads:
            raise ValueError(f"memory_heads is {memory_heads}, expected a divisor of heads, which is {heads}")
        self.input_dim = self.hidden_dim = width
        self.condition_dim = condition_dim
        self.window = window
        self.memory_shape = (2 * layers, memory_heads, window, width // heads)
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            _Layer((width, inner, condition_dim), (heads, memory_heads), window, dropout, layers) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        # Neither a parameter nor a buffer: it must stay float64, whatever the model is cast to.
        self.frequencies = SLOWEST ** -torch.linspace(0, 1, width // heads // 2, dtype=torch.float64)

    def init_state(self, batch: int, device: torch.device) -> State:
        """Keys and values of all layers in turn (2 · layers, batch, memory_heads, window, …), and frames consumed."""
        first, *rest = self.memory_shape
        # Nothing is read before it was written.
        return torch.empty(first, batch, *rest, device=device), 0

    def _turns(self, position: int, n: int, device: torch.device) -> Complex[Tensor, "n 1 pairs"]:
        angles = torch.arange(position, position + n, dtype=torch.float64)[:, None, None] * self.frequencies
        return turns_of(angles).to(device)

    def forward(
        self,
        inputs: Float[Tensor, "batch positions input_dim"],
        state: State,
        condition: Float[Tensor, "batch positions condition_dim"] | None = None,
    ) -> tuple[Float[Tensor, "batch positions hidden_dim"], State]:
        """All positions at once. The state that it is given stays as it is; the one returned carries no gradient."""
        memory, position = state
        n, device = inputs.shape[1], inputs.device
        turns = self._turns(position, n, device)
        seen = torch.arange(max(0, position + 1 - self.window), position, device=device) % self.window
        kept = torch.arange(max(0, position + n - self.window), position + n, device=device) % self.window
        written = torch.empty_like(memory)
        x = self.drop(inputs)
        for i, layer in enumerate(self.layers):
            x, keys, values = layer(x, turns, memory[2 * i : 2 * i + 2, :, :, seen], condition)
            for slot, new in ((2 * i, keys), (2 * i + 1, values)):
                written[slot, :, :, kept] = new[:, :, -len(kept) :].detach().to(memory.dtype)
        return self.drop(self.norm(x)), (written, position + n)

    @torch.no_grad()
    def step(
        self,
        inputs: Float[Tensor, "batch input_dim"],
        state: State,
        condition: Float[Tensor, "batch condition_dim"] | None = None,
    ) -> tuple[Float[Tensor, "batch hidden_dim"], State]:
        """One position, written into the memory of the state that it is given, unless its position is a tensor."""
        memory, position = state
        if isinstance(position, Tensor):
            return self._step_at(inputs, memory, position, condition)
        turns = self._turns(position, 1, inputs.device)[0]
        slots = torch.split(memory[:, :, :, position % self.window], 2)
        valid = memory.flatten(1, 2)[:, :, : min(position + 1, self.window)].unbind(0)
        x = inputs
        for i, layer in enumerate(self.layers):
            x = layer.step(x, turns, slots[i], valid[2 * i : 2 * i + 2], condition)  # type: ignore[operator]
        return self.norm(x), (memory, position + 1)

    def _step_at(
        self, inputs: Tensor, memory: Tensor, position: Tensor, condition: Tensor | None
    ) -> tuple[Tensor, State]:
        turns = turns_of(position.double() * self.frequencies)
        slots = torch.arange(self.window, device=inputs.device)
        here, seen = slots == position % self.window, slots <= position
        x, kept = inputs, list(memory.unbind(0))
        for i, layer in enumerate(self.layers):
            x, kept[2 * i], kept[2 * i + 1] = layer.step_at(  # type: ignore[operator]
                x, turns, (kept[2 * i], kept[2 * i + 1]), (here, seen), condition
            )
        return self.norm(x), (torch.stack(kept), position + 1)


class _Layer(nn.Module):
    def __init__(
        self, sizes: tuple[int, int, int], heads: tuple[int, int], window: int, dropout: float, layers: int
    ) -> None:
        super().__init__()
        width, inner, condition_dim = sizes
        n_heads, memory_heads = heads
        self.heads, self.memory_heads, self.window, self.size = n_heads, memory_heads, window, width // n_heads
        self.turned = width + memory_heads * self.size
        self.before = nn.LayerNorm(width)
        self.qkv = nn.Linear(width + condition_dim, self.turned + memory_heads * self.size)
        self.out = nn.Linear(width, width, bias=False)
        self.between = nn.LayerNorm(width)
        self.up = nn.Linear(width + condition_dim, inner)
        self.down = nn.Linear(inner, width, bias=False)
        for last in (self.out, self.down):
            # What all layers add up to is of the size of what one of them would add.
            nn.init.normal_(last.weight, std=(2 * layers * last.in_features) ** -0.5)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, turns: Tensor, memory: Tensor, condition: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What comes out, and the keys and values that were seen: those of `memory`, then the new ones."""
        qkv = self.qkv(beside(self.before(x), condition))
        turned = rotated(qkv[..., : self.turned].unflatten(-1, (-1, self.size)), turns)
        values = qkv[..., self.turned :].unflatten(-1, (-1, self.size))
        queries, keys, values = (
            part.transpose(1, 2) for part in (turned[:, :, : self.heads], turned[:, :, self.heads :], values)
        )
        if memory.shape[3]:
            keys, values = (
                torch.cat([old.to(keys.dtype), new], 2) for old, new in zip(memory, (keys, values), strict=True)
            )
        attended = self._attend(queries, keys, values).transpose(1, 2).flatten(2)
        x = x + self.drop(self.out(attended))
        return x + self.drop(self._perceptron(x, condition)), keys, values

    def _perceptron(self, x: Tensor, condition: Tensor | None) -> Tensor:
        out: Tensor = self.down(F.silu(self.up(beside(self.between(x), condition))))
        return out

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Block by block of queries, so that a long sequence costs its length times the window, not its square."""
        n, earlier = queries.shape[2], keys.shape[2] - queries.shape[2]
        attended = []
        for start in range(0, n, self.window):
            stop = min(start + self.window, n)
            first = max(0, earlier + start + 1 - self.window)
            before = earlier + start - first
            ago = torch.arange(before, before + stop - start, device=keys.device)[:, None]
            ago = ago - torch.arange(before + stop - start, device=keys.device)
            attended.append(
                F.scaled_dot_product_attention(
                    queries[:, :, start:stop],
                    keys[:, :, first : earlier + stop],
                    values[:, :, first : earlier + stop],
                    attn_mask=(ago >= 0) & (ago < self.window) if before else None,
                    is_causal=not before,
                    enable_gqa=True,
                )
            )
        return torch.cat(attended, 2)

    def step(
        self, x: Tensor, turns: Tensor, slot: Tensor, memory: tuple[Tensor, Tensor], condition: Tensor | None
    ) -> Tensor:
        """One position: its key and value go to `slot`, a part of `memory`: keys and values (batch · heads, …)."""
        keys, values = memory
        qkv = self.qkv(beside(self.before(x), condition))
        pairs = torch.view_as_complex(qkv[:, : self.turned].unflatten(-1, (-1, self.size // 2, 2)))
        pairs.mul_(turns)
        slot.copy_(qkv[:, self.heads * self.size :].unflatten(-1, (2, -1, self.size)).transpose(0, 1))
        queries = qkv[:, : self.heads * self.size].reshape(len(keys), -1, self.size) * self.size**-0.5
        weights = torch.softmax(torch.bmm(queries, keys.transpose(1, 2)), -1)
        x = x + self.out(torch.bmm(weights, values).reshape(x.shape))
        return x + self._perceptron(x, condition)

    def step_at(
        self,
        x: Tensor,
        turns: Tensor,
        memory: tuple[Tensor, Tensor],
        slots: tuple[Tensor, Tensor],
        condition: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `step`; returns the new keys and values too. `slots` says which one is new, and which ones are seen."""
        here, seen = slots
        qkv = self.qkv(beside(self.before(x), condition))
        turned = rotated(qkv[:, : self.turned].unflatten(-1, (-1, self.size)), turns)
        new = turned[:, self.heads :], qkv[:, self.turned :].unflatten(-1, (-1, self.size))
        keys, values = (torch.where(here[:, None], now[:, :, None], old) for now, old in zip(new, memory, strict=True))
        queries = turned[:, : self.heads].reshape(len(x), self.memory_heads, -1, self.size) * self.size**-0.5
        weights = torch.softmax((queries @ keys.transpose(2, 3)).masked_fill(~seen, -torch.inf), -1)
        x = x + self.out((weights @ values).flatten(1))
        return x + self._perceptron(x, condition), keys, values
