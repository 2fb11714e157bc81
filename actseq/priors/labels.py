"""A prior with its labels: where condition vectors come from."""

from typing import Generic, TypeVar

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq.priors.base import Prior

P = TypeVar("P", bound=Prior)


class LabelledPrior(nn.Module, Generic[P]):
    """A prior with its table of labels; row 0 of the table is the condition "no label".

    Args:
        prior: the prior.
        labels: names of the rows from 1 on.
        table: maps label indices (batch,) to condition vectors (batch, condition_dim): an embedding, or `OneHot`.
    """

    prior: P

    def __init__(self, prior: P, labels: list[str], table: nn.Module) -> None:
        super().__init__()
        self.prior, self.labels = prior, labels
        self.table = table

    def condition(self, label_index: Int[Tensor, " batch"]) -> Float[Tensor, "batch condition_dim"]:
        """Condition vectors of label indices."""
        out: Tensor = self.table(label_index)
        return out


class OneHot(nn.Module):
    """A table without parameters: 1 at the index of the label, 0 elsewhere.

    Args:
        rows: number of labels, "no label" included.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, label_index: Int[Tensor, " batch"]) -> Float[Tensor, "batch rows"]:
        """Rows of the identity matrix."""
        return F.one_hot(label_index, self.rows).float()
