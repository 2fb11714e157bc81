"""Every error a user can cause: what was found, what was expected, what to do."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))
"""Signals that ask a command to stop. Windows has no SIGHUP, and only Windows has SIGBREAK."""


class ActseqError(Exception):
    """An error whose message is one readable line.

    Args:
        found: what was found, with the file, key or value.
        expected: what would be right; empty if `found` says it.
        action: what to do next.
    """

    def __init__(self, found: str, expected: str = "", action: str = "") -> None:
        self.found, self.expected, self.action = found, expected, action
        parts = [found]
        if expected:
            parts.append(f"expected {expected}")
        if action:
            parts.append(action)
        super().__init__("; ".join(parts))


class ConfigError(ActseqError):
    """A preset, key, value or combination that does not exist or does not fit."""


class AudioError(ActseqError):
    """Sound that cannot be found, decoded or written."""


class ArtifactError(ActseqError):
    """A file of a run that is missing, damaged, or made from something else."""


class TrainingError(ActseqError):
    """A training that cannot continue."""


def require(at_least: float, **values: float | None) -> None:
    """Refuse values below a bound; None means a default and passes.

    Raises:
        ValueError: a value is too small; the message names the first.
    """
    for name, value in values.items():
        if value is not None and not value >= at_least:
            raise ValueError(f"{name} is {value}, expected at least {at_least:g}")


def require_at_most(most: float, **values: float) -> None:
    """Refuse values above a bound.

    Raises:
        ValueError: a value is too large; the message names the first.
    """
    for name, value in values.items():
        if not value <= most:
            raise ValueError(f"{name} is {value}, expected at most {most:g}")


@contextmanager
def named_after(path: object) -> Iterator[None]:
    """Give errors of the operating system the path of a file, where they have none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


class Interrupted(BaseException):
    """A signal asked to stop.

    Args:
        number: the signal.
        resumes: the same command goes on from here, rather than begins again.
    """

    def __init__(self, number: int, *, resumes: bool = True) -> None:
        self.number = number
        then = "; the same command goes on from here" if resumes else ""
        super().__init__(f"stopped by {signal.Signals(number).name}{then}")
