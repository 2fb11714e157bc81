"""How long work tells that it is alive: the library reports, whoever calls it draws."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Reporter(Protocol):
    """Receives what a stage has to say. The command line draws it; the default of the library keeps silent."""

    def begin(self, task: str, total: int, done: int = 0, unit: str = "steps") -> None:
        """A task of `total` units starts, `done` of which an earlier call has left finished."""

    def advance(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        """`done` units are finished; `figures` are the latest named values."""

    def end(self) -> None:
        """The task is finished."""

    def say(self, text: str) -> None:
        """One line for a person."""

    def warn(self, text: str) -> None:
        """One line for a person that should not be missed."""


class Silent:
    """A reporter that says nothing."""

    def begin(self, task: str, total: int, done: int = 0, unit: str = "steps") -> None:
        """Nothing."""

    def advance(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""


SILENT = Silent()
