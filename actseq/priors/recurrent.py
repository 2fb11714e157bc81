"""`lstm` and `gru` networks.

They train with the fused modules and step with single cells that share their weights: stepping `nn.LSTM` itself is
10–15 times slower on CPUs with oneDNN on, which in turn halves its training time.

A condition is appended to the input of every layer, which a fused module of several layers cannot do. With a condition
each layer is therefore a module of its own.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actseq.errors import require
from actseq.priors.base import beside

CellState = tuple[Tensor, ...]


class Lstm(nn.Module):
    """Long short-term memory.

    Args:
        condition_dim: size of the condition that every layer takes; 0: none.
        width: values per position, in and out.
        layers: stacked layers.
        dropout: fraction of inputs, of values between layers and of outputs that is dropped in training.
    """

    def __init__(self, condition_dim: int = 0, *, width: int = 256, layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        require(1, width=width, layers=layers)
        self.input_dim = self.hidden_dim = width
        self.condition_dim, self.layers = condition_dim, layers
        self.drop = nn.Dropout(dropout)
        first, *rest = (
            nn.LSTM(width + condition_dim, width, n, batch_first=True, dropout=dropout if n > 1 else 0.0)
            for n in _depths(layers, condition_dim)
        )
        self.rnn, self.above = first, nn.ModuleList(rest)

    def init_state(self, batch: int, device: torch.device) -> CellState:
        """Hidden and cell, each (layers, batch, width)."""
        zero = torch.zeros(self.layers, batch, self.hidden_dim, device=device)
        return zero, zero

    def forward(
        self,
        inputs: Float[Tensor, "batch positions input_dim"],
        state: CellState,
        condition: Float[Tensor, "batch positions condition_dim"] | None = None,
    ) -> tuple[Float[Tensor, "batch positions hidden_dim"], CellState]:
        """All positions at once."""
        depths, ends = _depths(self.layers, self.condition_dim), []
        for rnn, hidden, cell in zip(
            (self.rnn, *self.above), *(torch.split(part, depths) for part in state), strict=True
        ):
            inputs, end = rnn(beside(self.drop(inputs), condition), (hidden, cell))
            ends.append(end)
        hiddens, cells = zip(*ends, strict=True)
        return self.drop(inputs), (torch.cat(hiddens), torch.cat(cells))

    def step(
        self,
        inputs: Float[Tensor, "batch input_dim"],
        state: CellState,
        condition: Float[Tensor, "batch condition_dim"] | None = None,
    ) -> tuple[Float[Tensor, "batch hidden_dim"], CellState]:
        """One position."""
        hiddens, cells = [], []
        for *before, weights in zip(*state, _weights((self.rnn, *self.above)), strict=True):
            inputs, cell = torch.lstm_cell(beside(inputs, condition), before, *weights)
            hiddens.append(inputs)
            cells.append(cell)
        return inputs, (torch.stack(hiddens), torch.stack(cells))


class Gru(nn.Module):
    """Gated recurrent unit; arguments as `Lstm`."""

    def __init__(self, condition_dim: int = 0, *, width: int = 256, layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        require(1, width=width, layers=layers)
        self.input_dim = self.hidden_dim = width
        self.condition_dim, self.layers = condition_dim, layers
        self.drop = nn.Dropout(dropout)
        first, *rest = (
            nn.GRU(width + condition_dim, width, n, batch_first=True, dropout=dropout if n > 1 else 0.0)
            for n in _depths(layers, condition_dim)
        )
        self.rnn, self.above = first, nn.ModuleList(rest)

    def init_state(self, batch: int, device: torch.device) -> CellState:
        """Hidden, (layers, batch, width)."""
        return (torch.zeros(self.layers, batch, self.hidden_dim, device=device),)

    def forward(
        self,
        inputs: Float[Tensor, "batch positions input_dim"],
        state: CellState,
        condition: Float[Tensor, "batch positions condition_dim"] | None = None,
    ) -> tuple[Float[Tensor, "batch positions hidden_dim"], CellState]:
        """All positions at once."""
        ends = []
        before = torch.split(state[0], _depths(self.layers, self.condition_dim))
        for rnn, hidden in zip((self.rnn, *self.above), before, strict=True):
            inputs, end = rnn(beside(self.drop(inputs), condition), hidden)
            ends.append(end)
        return self.drop(inputs), (torch.cat(ends),)

    def step(
        self,
        inputs: Float[Tensor, "batch input_dim"],
        state: CellState,
        condition: Float[Tensor, "batch condition_dim"] | None = None,
    ) -> tuple[Float[Tensor, "batch hidden_dim"], CellState]:
        """One position."""
        hiddens = []
        for before, weights in zip(state[0], _weights((self.rnn, *self.above)), strict=True):
            inputs = torch.gru_cell(beside(inputs, condition), before, *weights)
            hiddens.append(inputs)
        return inputs, (torch.stack(hiddens),)


def _depths(layers: int, condition_dim: int) -> list[int]:
    """Layers of each fused module."""
    return [1] * layers if condition_dim else [layers]


def _weights(modules: Sequence[nn.Module]) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Weights and biases of every layer."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    for rnn in modules:
        assert isinstance(rnn, nn.RNNBase)
        for layer in range(rnn.num_layers):
            found = [getattr(rnn, f"{name}_l{layer}") for name in names]
            yield found[0], found[1], found[2], found[3]
