"""Where condition vectors come from: the table of label embeddings is the first producer."""

from torch import Tensor, nn

from actseq.priors.base import SequencePrior


class ConditionedPrior(nn.Module):
    """A sequence prior with its table of labels; index 0 stands for no label.

    Args:
        prior: the sequence prior.
        labels: names, in the order of the table.
        condition_dim: size of an embedding.
    """

    def __init__(self, prior: SequencePrior, labels: list[str], condition_dim: int) -> None:
        super().__init__()
        self.prior, self.labels = prior, labels
        self.table = nn.Embedding(len(labels) + 1, condition_dim)

    def condition(self, label_index: Tensor) -> Tensor:
        """Condition vectors (batch, condition_dim) of label indices."""
        out: Tensor = self.table(label_index)
        return out
