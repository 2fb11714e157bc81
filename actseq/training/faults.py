"""Faults of a step: numbers that are not finite, and memory that does not suffice for a batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch

from actseq.errors import TrainingError
from actseq.objectives.base import Batch

RETRIES = 3
"""A training is taken back this many times at most."""
LOWER = 0.3
"""Each time its learning rates are multiplied by this."""
NAMED = 5
"""Number of files that a message names at most."""
TRY_LOWER = "lower learning_rate or clip_norm; if that does not help, look for broken audio with actseq verify"
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
"""What the allocators of torch say: CUDA, MPS, the CPU, and libraries of CUDA."""


class NotFiniteError(TrainingError):
    """A loss, a gradient or a held-out figure is not finite.

    Args:
        what: the number and its value.
        step: the step.
        held_out: whether it is of held-out batches.
    """

    def __init__(self, what: str, step: int, *, held_out: bool = False) -> None:
        super().__init__(f"{what} at step {step}", "a finite number", TRY_LOWER)
        self.held_out = held_out


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def n_rows(batch: Batch) -> int:
    """Number of rows of a batch: segments or sequences."""
    return len(next(iter(batch.data.values())))


def in_parts(batch: Batch, parts: int) -> Iterator[tuple[float, Batch]]:
    """Split a batch into parts of nearly equal size; with each part comes its fraction of the rows."""
    if parts == 1:
        yield 1.0, batch
        return
    n, parts = n_rows(batch), min(parts, n_rows(batch))
    bounds = [n * k // parts for k in range(parts + 1)]
    for first, last in itertools.pairwise(bounds):
        data = {name: tensor[first:last] if tensor.dim() else tensor for name, tensor in batch.data.items()}
        yield (last - first) / n, Batch(data, batch.progress)


def broken_rows(batch: Batch, is_finite: Callable[[Batch], bool]) -> list[int]:
    """The rows of a batch that are not finite by themselves; none if all are, since then the model is at fault.

    A row is judged together with a copy of it, because distances between rows need two.
    """
    broken = []
    for row in range(n_rows(batch)):
        try:
            twice = {name: tensor[[row, row]] if tensor.dim() else tensor for name, tensor in batch.data.items()}
            if not is_finite(Batch(twice, batch.progress)):
                broken.append(row)
        except (RuntimeError, ValueError):
            # Numbers that are not finite can make an operation fail.
            broken.append(row)
    return broken if len(broken) < n_rows(batch) else []


def named(origins: Sequence[str]) -> str:
    """Files as a list, each once, the first few by name."""
    each = list(dict.fromkeys(origins))
    more = f" and {len(each) - NAMED} more" if len(each) > NAMED else ""
    return ", ".join(each[:NAMED]) + more
