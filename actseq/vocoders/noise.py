"""White noise whose samples belong to their numbers, so that it does not depend on how a sound is cut into blocks."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 4096
"""Samples that are drawn at a time."""


def white_noise(first: int, n_samples: int, seed: int) -> Float[Tensor, " samples"]:
    """Gaussian noise of variance 1; each sample is a function of its number, which may be negative, and of the seed.

    Args:
        first: number of the first sample.
        n_samples: number of samples.
        seed: 0 or more.

    Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011).
    """
    begin, end = first // CHUNK, (first + n_samples - 1) // CHUNK + 1
    drawn = []
    for chunk in range(begin, end):
        counter = np.array([0, 0, 0, chunk % 2**64], np.uint64)
        bits = np.random.Philox(key=seed, counter=counter)
        drawn.append(np.random.Generator(bits).standard_normal(CHUNK, dtype=np.float32))
    return torch.from_numpy(np.concatenate(drawn)[first - begin * CHUNK :][:n_samples])
