"""Heads: distributions over the next standardised latent."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from actseq.errors import require

LOG_DEVIATION_MIN, LOG_DEVIATION_MAX = -5.0, 2.0
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def _bounded(raw: Tensor) -> Tensor:
    """Log-deviation within its bounds, its slope never zero."""
    middle, half = (LOG_DEVIATION_MAX + LOG_DEVIATION_MIN) / 2, (LOG_DEVIATION_MAX - LOG_DEVIATION_MIN) / 2
    return middle + half * torch.tanh((raw - middle) / half)


class Gaussian(nn.Module):
    """`gaussian`: independent dimensions given the past.

    Args:
        dims: numbers per latent frame.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.n_numbers = 2 * dims

    def log_prob(
        self, numbers: Float[Tensor, "*batch n_numbers"], value: Float[Tensor, "*batch dims"]
    ) -> Float[Tensor, "*batch"]:
        """Log-density in nats."""
        mean, raw = numbers.chunk(2, dim=-1)
        log_deviation = _bounded(raw)
        z = (value - mean) * (-log_deviation).exp()
        return (-0.5 * z.square() - log_deviation - HALF_LOG_TAU).sum(-1)

    def sample(
        self, numbers: Float[Tensor, "batch n_numbers"], temperature: float, generator: torch.Generator
    ) -> Float[Tensor, "batch dims"]:
        """Temperature scales the deviation."""
        mean, raw = numbers.chunk(2, dim=-1)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + noise * _bounded(raw).exp() * temperature


class Mixture(nn.Module):
    """`mixture`: joint diagonal Gaussian components; what one dimension does, the others follow.

    Args:
        dims: numbers per latent frame.
        n_components: components.
    """

    def __init__(self, dims: int, *, n_components: int = 8) -> None:
        super().__init__()
        require(1, n_components=n_components)
        self.dims, self.n_components = dims, n_components
        self.n_numbers = n_components * (1 + 2 * dims)

    def _split(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        part = self.n_components * self.dims
        logits, mean, raw = torch.split(numbers, [self.n_components, part, part], dim=-1)
        shape = (*numbers.shape[:-1], self.n_components, self.dims)
        return logits, mean.reshape(shape), _bounded(raw.reshape(shape))

    def log_prob(
        self, numbers: Float[Tensor, "*batch n_numbers"], value: Float[Tensor, "*batch dims"]
    ) -> Float[Tensor, "*batch"]:
        """Log-density in nats."""
        logits, mean, log_deviation = self._split(numbers)
        z = (value[..., None, :] - mean) * (-log_deviation).exp()
        component = (-0.5 * z.square() - log_deviation - HALF_LOG_TAU).sum(-1)
        return torch.logsumexp(F.log_softmax(logits, dim=-1) + component, dim=-1)

    def sample(
        self, numbers: Float[Tensor, "batch n_numbers"], temperature: float, generator: torch.Generator
    ) -> Float[Tensor, "batch dims"]:
        """Temperature divides the logits of the components and scales the deviation."""
        logits, mean, log_deviation = self._split(numbers)
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device).clamp(1e-9, 1 - 1e-7)
        gumbel = -torch.log(-torch.log(uniform))
        chosen = (logits + gumbel * temperature).argmax(-1)
        rows = torch.arange(len(chosen), device=chosen.device)
        noise = torch.randn((len(chosen), self.dims), generator=generator, device=logits.device)
        return mean[rows, chosen] + noise * log_deviation[rows, chosen].exp() * temperature
