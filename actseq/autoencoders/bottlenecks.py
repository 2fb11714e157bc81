"""Bottlenecks: what the numbers of an encoder mean."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq.autoencoders.base import Posterior


class Plain(nn.Module):
    """`plain`: the numbers are the code."""

    numbers_per_dim = 1

    def posterior(self, numbers: Float[Tensor, "batch frames out"], lengths: Int[Tensor, " batch"]) -> Posterior:
        """A point posterior."""
        return Posterior(numbers, None, lengths)


class Variational(nn.Module):
    """`variational`: mean and log-variance of a diagonal Gaussian.

    Args:
        min_log_variance: lower bound, beyond which a dimension would be spent on noise-free detail.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes (2014).
    """

    numbers_per_dim = 2

    def __init__(self, *, min_log_variance: float = -10.0) -> None:
        super().__init__()
        self.min_log_variance = min_log_variance

    def posterior(self, numbers: Float[Tensor, "batch frames out"], lengths: Int[Tensor, " batch"]) -> Posterior:
        """Halves of the numbers as mean and log-variance."""
        mean, log_variance = numbers.chunk(2, dim=2)
        return Posterior(mean, log_variance.clamp(self.min_log_variance, 4.0), lengths)
