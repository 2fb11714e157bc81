"""Where the batches of a training come from, and the random numbers of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class Source(Protocol):
    """Gives batches; a batch is a pure function of (seed of the source, step, rank).

    The ranks are the batches of one step, which may be in different processes.
    """

    def batch(self, step: int, rank: int = 0) -> Mapping[str, NDArray[Any]]:
        """Arrays by name."""


@runtime_checkable
class TracedSource(Source, Protocol):
    """A source that knows where its batches come from."""

    def origins(self, step: int, rank: int = 0) -> list[str]:
        """For each row of a batch, the file, and the place in it."""


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of torch's random numbers in one step."""
    return int(np.random.SeedSequence([seed, step, rank, 7]).generate_state(1, np.uint64)[0]) >> 1
