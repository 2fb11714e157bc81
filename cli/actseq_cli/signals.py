"""Signals that ask to stop, from the first lines of the program to the end of its process.

While a command works, a signal is an exception, so that nothing half written stays. Before and after that it ends the
process at once. The exit code is 128 + signal either way. Signals that are ignored, as under `nohup`, stay ignored.
"""

from __future__ import annotations

import atexit
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from actseq.errors import SIGNALS, Interrupted

AGAIN_SECONDS = 3.0
"""A command that a signal has not ended after this long is interrupted again."""
TWICE_SECONDS = 1.0
"""A signal that comes this soon after another does not interrupt the cleaning up. Programs that start others often send
on a Ctrl-C that the terminal has sent already."""


def leave(number: int, frame: FrameType | None) -> None:
    """Handler that ends the process at once, when there is nothing to clean up."""
    if number != signal.SIGINT:
        with suppress(OSError):
            os.write(2, f"{Interrupted(number, resumes=False)}\n".encode())
    os._exit(128 + number)


USUAL = (signal.SIG_DFL, signal.default_int_handler, leave)
"""Handlers that a command replaces by its own."""


class Program:
    """The signals of a process that does nothing but one command; made before slow imports.

    Attributes:
        code: exit code of the command; None until it has ended.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        # What is registered first is called last.
        atexit.register(self._end)
        sys.unraisablehook = _unraisable
        for number in SIGNALS:
            if signal.getsignal(number) in USUAL:
                signal.signal(number, leave)

    def _end(self) -> None:
        """End here: while Python takes itself down, a signal would end the process with another code."""
        if self.code is not None:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            os._exit(self.code)


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """Say nothing of signals whose exceptions are lost. They come again."""
    if not isinstance(lost.exc_value, (KeyboardInterrupt, Interrupted)):
        sys.__unraisablehook__(lost)


def _stopped(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Interrupted(number, resumes=False)


@contextmanager
def stopping() -> Iterator[None]:
    """Let signals end a command with an exception.

    This exception can be lost: in the cleaning up of objects, in calls from C, in libraries that catch everything. Then
    it is raised again after a while, until the command ends. It can also become another one, such as an error of the
    import that it interrupted. So whatever ends a command after a signal counts as that signal.

    Raises:
        KeyboardInterrupt: there was SIGINT.
        Interrupted: there was another signal.
    """
    again = hasattr(signal, "SIGALRM")
    received: list[int] = []
    latest = -math.inf

    def interrupt(number: int) -> None:
        nonlocal latest
        latest = time.monotonic()
        received.append(number)
        if again:
            # The alarm comes to the main thread, as the signal did.
            signal.signal(signal.SIGALRM, lambda *_: interrupt(number))
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
        raise _stopped(number)

    def stop(number: int, frame: FrameType | None) -> None:
        if time.monotonic() - latest >= TWICE_SECONDS:
            interrupt(number)

    heard = [number for number in SIGNALS if signal.getsignal(number) in USUAL]
    try:
        previous = {number: signal.signal(number, stop) for number in heard}
    except ValueError:  # not the main thread
        previous = {}
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        raise
    except BaseException:
        if not received:
            raise
    finally:
        if again and previous:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        raise _stopped(received[0])
