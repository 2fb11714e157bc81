"""Draws what the library reports: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

FIRST_LINE_SECONDS = 1.5
LINE_SECONDS = 10.0


CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys instead of showing them; they may be in the names of files."""


def printable(text: str) -> str:
    """A text with its control characters spelled out, so that a terminal shows them; line ends and tabs stay."""
    return CONTROLS.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def _figures(figures: Mapping[str, float] | None) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in (figures or {}).items())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


class Terminal:
    """A reporter that writes to standard error, so that `--json` on standard output stays clean."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.bar: Progress | None = None
        self.task: TaskID | None = None

    def begin(self, task: str, total: int, done: int = 0, unit: str = "steps") -> None:
        self.name, self.total, self.unit, self.first, self.done = task, total, unit, done, done
        self.started = time.perf_counter()
        self.next_line = self.started + FIRST_LINE_SECONDS
        if self.live:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self.bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn(unit),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=Console(stderr=True),
                refresh_per_second=4,
            )
            self.bar.start()
            self.task = self.bar.add_task(task, total=total or None, completed=done, figures="")

    def advance(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        self.done = done
        now = time.perf_counter()
        speed = (done - self.first) / max(now - self.started, 1e-9)
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, figures=f"{speed:.1f} {self.unit}/s  {_figures(figures)}")
        elif now >= self.next_line:
            self.next_line = now + LINE_SECONDS
            eta = f"  ETA {_duration((self.total - done) / speed)}" if self.total and speed > 0 else ""
            of = f"/{self.total}" if self.total else ""
            self._line(f"{self.name}  {done}{of} {self.unit}  {speed:.1f}/s{eta}  {_figures(figures)}")

    def end(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        else:
            self._line(f"{self.name}  {self.done} {self.unit} in {_duration(time.perf_counter() - self.started)}")

    def say(self, text: str) -> None:
        self._line(text)

    def warn(self, text: str) -> None:
        self._line(f"warning: {text}")

    def _line(self, text: str) -> None:
        text = printable(text)
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)
