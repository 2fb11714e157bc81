"""The sounds that a page has made or received since the server started: in memory, and the oldest go first."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from actseq import units
from actseq.arrays import Waveform
from actseq.errors import ConfigError
from actseq.explore.catalog import Place

MOST_BYTES = 512 * 2**20
"""Memory for the waveforms of all sounds."""


@dataclass
class ShelfSound:
    """A sound.

    Attributes:
        title: what it is, for a list.
        how: how it was made, in a few words.
        waveform: (samples,).
        sample_rate: Hz.
        about: how it was made, as it is written when the sound is kept.
        place: where its latents lie on the plane.
        made: actseq made it; a sound that the user gave is not kept a second time.
        stem: beginning of its name when it is kept.
        kept: name of the file that it was kept in; None before.
        id: its identifier.
    """

    title: str
    how: str
    waveform: Waveform
    sample_rate: int
    about: dict[str, Any]
    place: Place | None
    stem: str = "clip"
    made: bool = True
    kept: str | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return units.samples_to_seconds(len(self.waveform), self.sample_rate)

    def described(self) -> dict[str, Any]:
        """What the page shows."""
        return {
            "id": self.id,
            "title": self.title,
            "how": self.how,
            "seconds": self.seconds,
            "place": self.place,
            "made": self.made,
            "kept": self.kept,
            "seed": self.about.get("settings", {}).get("seed"),
        }


class Shelf:
    """Sounds by identifier. Where they need more than `MOST_BYTES`, the oldest are dropped."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self.sounds: OrderedDict[str, ShelfSound] = OrderedDict()

    def add(self, sound: ShelfSound) -> list[str]:
        """Put a sound on the shelf; the identifiers of those that were dropped for it."""
        self.sounds[sound.id] = sound
        dropped = []
        while sum(one.waveform.nbytes for one in self.sounds.values()) > self.most_bytes and len(self.sounds) > 1:
            dropped.append(self.sounds.popitem(last=False)[0])
        return dropped

    def get(self, sound_id: str) -> ShelfSound:
        """The sound of an identifier.

        Raises:
            ConfigError: there is none.
        """
        if sound_id not in self.sounds:
            raise ConfigError("there is no sound of that identifier here", action="make it again")
        return self.sounds[sound_id]
