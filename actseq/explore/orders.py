"""What the page may ask for. A sound is named by its identifier; no order holds a path."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from actseq.config import Member, Section

LONGEST_SECONDS = 120.0
"""Longest sound that is made or taken."""
MOST_CORNERS = 512
MOST_WAYPOINTS = 16
MOST_EFFECTS = 8
Identifier = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Seconds = Annotated[float, Field(gt=0, le=LONGEST_SECONDS)]
Coordinate = Annotated[float, Field(ge=-1e9, le=1e9)]


class NewClip(Section):
    """A clip from the prior, or a continuation or variation of a sound."""

    start: Literal["nothing", "continue", "vary"] = "nothing"
    sound: Identifier | None = None
    """The sound that is continued or varied."""
    label: str | None = None
    """A label, or `A:B` to glide from A to B; null: none."""
    seconds: Seconds | None = None
    """Length of what is new; null: the run's own."""
    temperature: float | None = Field(None, ge=0, le=10)
    guidance: float | None = Field(None, ge=0, le=100)
    amount: float = Field(0.3, ge=0, le=1)
    """How far a variation goes."""
    seed: int | None = Field(None, ge=0, lt=2**53)
    """null: a fresh one."""

    @model_validator(mode="after")
    def _has_its_sound(self) -> NewClip:
        if (self.start == "nothing") != (self.sound is None):
            raise ValueError("a sound is given to be continued or varied, and only then")
        return self


class AlongPath(Section):
    """The sound of a path on the map."""

    points: tuple[tuple[Coordinate, Coordinate], ...] = Field(min_length=1, max_length=MOST_CORNERS)
    seconds: Seconds | None = None
    """null: the lengths of the clips along the path."""
    label: str | None = None
    """For decoders that are given the label."""


class ThroughSounds(Section):
    """An interpolation from the first of some sounds to the last."""

    sounds: tuple[Identifier, ...] = Field(min_length=2, max_length=MOST_WAYPOINTS)
    seconds: Seconds | None = None


class WithEffects(Section):
    """A sound that is sent through effects."""

    sound: Identifier
    effects: tuple[Member, ...] = Field(min_length=1, max_length=MOST_EFFECTS)


class Keep(Section):
    """A sound that is kept."""

    sound: Identifier
