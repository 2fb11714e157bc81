"""Where condition vectors come from: the table of label embeddings is the first producer."""

import torch.nn.functional as F
from torch import Tensor, nn

from actseq.priors.gan import Gan
from actseq.priors.sequence import SequencePrior
from actseq.priors.untrained import Iid, RandomWalk


class ConditionedPrior(nn.Module):
    """A prior with its table of labels; index 0 stands for no label.

    Args:
        prior: the prior.
        labels: names, in the order of the table.
        condition_dim: size of an embedding.
    """

    def __init__(self, prior: SequencePrior | Gan, labels: list[str], condition_dim: int) -> None:
        super().__init__()
        self.prior, self.labels = prior, labels
        self.table = nn.Embedding(len(labels) + 1, condition_dim)

    def condition(self, label_index: Tensor) -> Tensor:
        """Condition vectors (batch, condition_dim) of label indices."""
        out: Tensor = self.table(label_index)
        return out


class LabelledPrior(nn.Module):
    """A prior without training and its labels: a condition has one number for each, the first stands for no label.

    Args:
        prior: `iid` or `random-walk`.
        labels: names, in its order.
    """

    def __init__(self, prior: Iid | RandomWalk, labels: list[str]) -> None:
        super().__init__()
        self.prior, self.labels = prior, labels

    def condition(self, label_index: Tensor) -> Tensor:
        """Condition vectors (batch, labels + 1) of label indices."""
        return F.one_hot(label_index, len(self.labels) + 1).float()
