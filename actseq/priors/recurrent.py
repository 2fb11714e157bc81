"""`lstm` and `gru` networks.

They train with the fused modules and step with single cells that share their weights: stepping `nn.LSTM` itself is
10–15 times slower on CPUs with oneDNN on, which in turn halves its training time.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actseq.errors import require

CellState = tuple[Tensor, ...]


class Lstm(nn.Module):
    """Long short-term memory.

    Args:
        width: values per position, in and out.
        layers: stacked layers.
        dropout: fraction of inputs, of values between layers and of outputs that is dropped in training.
    """

    def __init__(self, *, width: int = 256, layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        require(1, width=width, layers=layers)
        self.input_dim = self.hidden_dim = width
        self.layers = layers
        self.drop = nn.Dropout(dropout)
        self.rnn = nn.LSTM(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    def init_state(self, batch: int, device: torch.device) -> CellState:
        """Hidden and cell, each (layers, batch, width)."""
        zero = torch.zeros(self.layers, batch, self.hidden_dim, device=device)
        return zero, zero

    def forward(
        self, inputs: Float[Tensor, "batch positions input_dim"], state: CellState
    ) -> tuple[Float[Tensor, "batch positions hidden_dim"], CellState]:
        """All positions at once."""
        hidden, state = self.rnn(self.drop(inputs), (state[0], state[1]))
        return self.drop(hidden), state

    def step(
        self, inputs: Float[Tensor, "batch input_dim"], state: CellState
    ) -> tuple[Float[Tensor, "batch hidden_dim"], CellState]:
        """One position."""
        hiddens, cells = [], []
        for layer in range(self.layers):
            hidden, cell = torch.lstm_cell(inputs, (state[0][layer], state[1][layer]), *_weights(self.rnn, layer))
            inputs = hidden
            hiddens.append(hidden)
            cells.append(cell)
        return inputs, (torch.stack(hiddens), torch.stack(cells))


class Gru(nn.Module):
    """Gated recurrent unit; arguments as `Lstm`."""

    def __init__(self, *, width: int = 256, layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        require(1, width=width, layers=layers)
        self.input_dim = self.hidden_dim = width
        self.layers = layers
        self.drop = nn.Dropout(dropout)
        self.rnn = nn.GRU(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    def init_state(self, batch: int, device: torch.device) -> CellState:
        """Hidden, (layers, batch, width)."""
        return (torch.zeros(self.layers, batch, self.hidden_dim, device=device),)

    def forward(
        self, inputs: Float[Tensor, "batch positions input_dim"], state: CellState
    ) -> tuple[Float[Tensor, "batch positions hidden_dim"], CellState]:
        """All positions at once."""
        hidden, last = self.rnn(self.drop(inputs), state[0])
        return self.drop(hidden), (last,)

    def step(
        self, inputs: Float[Tensor, "batch input_dim"], state: CellState
    ) -> tuple[Float[Tensor, "batch hidden_dim"], CellState]:
        """One position."""
        hiddens = []
        for layer in range(self.layers):
            inputs = torch.gru_cell(inputs, state[0][layer], *_weights(self.rnn, layer))
            hiddens.append(inputs)
        return inputs, (torch.stack(hiddens),)


def _weights(rnn: nn.RNNBase, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    found = [getattr(rnn, f"{name}_l{layer}") for name in names]
    return found[0], found[1], found[2], found[3]
