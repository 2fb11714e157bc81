"""Signals that end a training: they are collected, and it ends after its step, with a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from actseq.errors import SIGNALS, Interrupted

PATIENCE_OF_USERS = 3
"""So many signals end a step at once, without a checkpoint."""


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collect `SIGNALS` instead of ending the process, unless they are ignored, as under `nohup`.

    Outside the main thread, nothing is collected.

    Raises:
        Interrupted: at the end, if there was a signal.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) >= PATIENCE_OF_USERS:
            raise Interrupted(number)

    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    try:
        previous = {number: signal.signal(number, note) for number in heard}
    except ValueError:
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    # One that came after the last step would be lost otherwise.
    if received:
        raise Interrupted(received[0])
