"""Diagonal Gaussians given by mean and log-variance: what encoders predict of latents. Tensors and arrays alike."""

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Values = TypeVar("Values", Tensor, NDArray[Any])
else:  # Without the time that importing torch takes.
    Values = TypeVar("Values")

ACTIVE_NATS = 0.01
"""KL divergence per frame from which on a dimension counts as informative."""


def draw(mean: Values, log_variance: Values, noise: Values) -> Values:
    """A draw, made from noise of unit variance."""
    made: Values = mean + noise * _exp(0.5 * log_variance)
    return made


def kl_nats(mean: Values, log_variance: Values) -> Values:
    """KL divergence to N(0, 1) of each value, in nats."""
    divergence: Values = 0.5 * (mean**2 + _exp(log_variance) - 1 - log_variance)
    return divergence


def _exp(values: Values) -> Values:
    result: Values = np.exp(values) if isinstance(values, np.ndarray) else values.exp()
    return result
