"""Progress of long tasks: the library reports it, the caller shows it."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

HELD_OUT = "held-out "
"""What the names of figures on held-out data begin with."""


@runtime_checkable
class Reporter(Protocol):
    """Receives progress and messages. The command line shows them; the library's default drops them."""

    def begin(self, task: str, total: float, done: float = 0, unit: str = "steps") -> None:
        """A task of `total` units starts, such as steps, or seconds, which need not be whole.

        An earlier call has already finished `done` units.
        """

    def resize(self, total: float) -> None:
        """The task has another number of units than was thought."""

    def advance(self, done: float, figures: Mapping[str, float] | None = None) -> None:
        """`done` units are finished; `figures` holds the latest values by name."""

    def end(self) -> None:
        """The task is finished."""

    def say(self, text: str) -> None:
        """Show a message of one line."""

    def warn(self, text: str) -> None:
        """Show a warning of one line."""


class Silent:
    """A reporter that drops everything."""

    def begin(self, task: str, total: float, done: float = 0, unit: str = "steps") -> None:
        """Do nothing."""

    def resize(self, total: float) -> None:
        """Do nothing."""

    def advance(self, done: float, figures: Mapping[str, float] | None = None) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing."""


SILENT = Silent()
