"""Numbers of options: what is wrong with one, and which are allowed, in plain words."""

from __future__ import annotations

import math
from typing import Any

import click

LARGEST = 2**31 - 1
"""A bound from here on is one of the computer; `--help` leaves it out."""


def bounds(of: click.IntRange | click.FloatRange) -> str:
    """The allowed values in words, such as `above 0` or `from 0 up to 1`; empty without bounds."""
    low, high = (
        None if bound is None else f"{bound:.19g}" if isinstance(bound, float) else f"{bound}"
        for bound in (of.min, of.max)
    )
    if low is None:
        return "" if high is None else f"{'below ' if of.max_open else ''}{high}{'' if of.max_open else ' or less'}"
    if high is None:
        return f"above {low}" if of.min_open else f"{low} or more"
    return f"{f'above {low},' if of.min_open else f'from {low}'} {'below' if of.max_open else 'up to'} {high}"


def _out_of_bounds(of: click.IntRange | click.FloatRange, found: float) -> bool:
    low = of.min is not None and (found < of.min or (of.min_open and found == of.min))
    return low or (of.max is not None and (found > of.max or (of.max_open and found == of.max)))


class Number(click.FloatRange):
    """A finite number within bounds."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; what is none, NaN, infinity, and what is out of bounds are refused."""
        try:
            found = float(value)
        except ValueError:
            self.fail(f"'{value}' is not a number; expected digits alone, such as 4 or 0.5", param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number", param, ctx)
        if _out_of_bounds(self, found):
            self.fail(f"{value} is out of bounds; expected a number {bounds(self)}", param, ctx)
        return found

    def _describe_range(self) -> str:
        return bounds(self)


class Whole(click.IntRange):
    """A whole number within bounds."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; what is none, and what is out of bounds, are refused."""
        try:
            found = int(value)
        except ValueError:
            self.fail(f"'{value}' is not a whole number; expected digits alone, such as 4", param, ctx)
        if _out_of_bounds(self, found):
            self.fail(f"{value} is out of bounds; expected a whole number {bounds(self)}", param, ctx)
        return found

    def _describe_range(self) -> str:
        technical = self.max is not None and self.max >= LARGEST
        return bounds(click.IntRange(self.min) if technical else self)
