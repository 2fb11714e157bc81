"""Draws what the library reports: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from actseq.progress import HELD_OUT
from actseq_cli.wrapping import wrapped

if TYPE_CHECKING:
    from rich.progress import Progress

FIRST_LINE_SECONDS = 1.5
LINE_SECONDS = 10.0
DIVIDED = 10
"""Fewer units are shown with a tenth."""
SPACE = "  "
"""Between the parts of a line."""

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys instead of showing them; they may be in the names of files."""


def printable(text: str) -> str:
    """A text with its control characters spelled out, so that a terminal shows them; line ends and tabs stay."""
    return CONTROLS.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def _figures(figures: Mapping[str, float]) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in figures.items()]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _amount(value: float, total: float) -> str:
    """A number of units: whole, and with a tenth where there are few and they can be divided."""
    return f"{value:.1f}" if total < DIVIDED and total != int(total) else f"{value:.0f}"


def _speed(per_second: float) -> list[str]:
    """The speed in the unit of time in which it is one or more; nothing where there is none yet."""
    for factor, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if per_second * factor >= 0.95:
            return [f"{per_second * factor:.1f}/{unit}"]
    return []


@dataclass
class _Task:
    """A task that is being worked on.

    Attributes:
        name: what is done.
        total: number of units; 0 if it is not known.
        unit: what is counted, in the plural.
        first: units that an earlier call had finished.
        done: units that are finished.
        figures: the latest values by name.
        started: when it began.
    """

    name: str
    total: float
    unit: str
    first: float
    done: float
    figures: Mapping[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Time since the task began."""
        return time.perf_counter() - self.started

    def parts(self) -> list[str]:
        """Count, remaining time, speed, then the figures, those of held-out data last."""
        speed = (self.done - self.first) / max(self.seconds, 1e-9)
        eta = [f"ETA {_duration((self.total - self.done) / speed)}"] if self.total and speed > 0 else []
        of = f"/{_amount(self.total, self.total)}" if self.total else ""
        held_out = {name: value for name, value in self.figures.items() if name.startswith(HELD_OUT)}
        others = {name: value for name, value in self.figures.items() if name not in held_out}
        count = f"{_amount(self.done, self.total)}{of} {self.unit}"
        return [count, *eta, *_speed(speed), *_figures(others), *_figures(held_out)]

    def fitting(self, width: int) -> str:
        """As many parts as fit into a line, at least the first three: the last ones are left out first."""
        parts = self.parts()
        while len(parts) > 3 and len(SPACE.join(parts)) > width:
            parts.pop()
        return SPACE.join(parts)


class Terminal:
    """A reporter that writes to standard error, so that `--json` on standard output stays clean."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.bar: Progress | None = None
        self.task = _Task("", 0, "steps", 0, 0)
        self.next_line = 0.0

    def begin(self, task: str, total: float, done: float = 0, unit: str = "steps") -> None:
        self.task = _Task(printable(task), total, unit, done, done)
        self.next_line = self.task.started + FIRST_LINE_SECONDS
        if self.live:
            self.bar = _bar(self.task)
            self.bar.start()

    def resize(self, total: float) -> None:
        self.task.total = total

    def advance(self, done: float, figures: Mapping[str, float] | None = None) -> None:
        self.task.done, self.task.figures = done, figures or {}
        now = time.perf_counter()
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=done, total=self.task.total or None)
        elif now >= self.next_line:
            self.next_line = now + LINE_SECONDS
            self._line(SPACE.join([self.task.name, *self.task.parts()]))

    def end(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        else:
            done = self.task.done
            self._line(f"{self.task.name}  {_amount(done, done)} {self.task.unit} in {_duration(self.task.seconds)}")

    def say(self, text: str) -> None:
        self._line(text)

    def warn(self, text: str) -> None:
        self._line(f"warning: {text}")

    def _line(self, text: str) -> None:
        text = wrapped(printable(text), sys.stderr)
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)


def _bar(task: _Task) -> Progress:
    """A live line that fits the terminal: name, bar, count, remaining time, speed and figures."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn
    from rich.progress import Task as RichTask
    from rich.text import Text

    console = Console(stderr=True)

    class Rest(ProgressColumn):
        """What stands behind the bar."""

        def render(self, shown: RichTask) -> Text:
            """As much as fits at the present width."""
            left = console.width - len(task.name) - bar_width - 2
            return Text(task.fitting(left), no_wrap=True, overflow="crop")

    class Name(ProgressColumn):
        """What is done."""

        def render(self, shown: RichTask) -> Text:
            """The name in bold."""
            return Text(task.name, style="bold", no_wrap=True)

    bar_width = max(8, min(24, console.width // 8))
    bar = Progress(Name(), BarColumn(bar_width=bar_width), Rest(), console=console, refresh_per_second=4)
    bar.update(bar.add_task(task.name, total=task.total or None), completed=task.done)
    return bar
