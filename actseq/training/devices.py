"""Where torch computes, and with how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from actseq.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The torch device of a name; `auto` is CUDA if available, else MPS, else the CPU.

    Raises:
        ConfigError: the device is unknown or not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = name.partition(":")[0]
    if kind not in there:
        raise ConfigError(f"device '{name}'", "auto, cpu, cuda or mps")
    if not there[kind]:
        raise ConfigError(
            f"device '{name}' is not available here", action="actseq doctor tells why; --device cpu always works"
        )
    return torch.device(name)


@contextmanager
def own_threads() -> Iterator[None]:
    """Give torch back, at the end, the number of threads that it had."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
