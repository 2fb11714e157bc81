"""Maps of a folder of sounds for samplers: SFZ, and the presets of DecentSampler.

A pad is a key with sounds that it plays in turn, each to its end. A pad whose name says which drum of General MIDI it
is lies on the key of that drum; all others lie on the free keys from 60 up.

Sources: General MIDI Level 1, percussion key map; sfzformat.com, opcodes `seq_length` and `seq_position`; the
DecentSampler developer's guide, element `<groups>`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from actseq.errors import ConfigError

FIRST_KEY, LAST_KEY = 60, 127
MOST_IN_TURN = 100
"""SFZ counts no further."""
# (words that a name must have, key); the first that fits counts.
DRUMS: tuple[tuple[frozenset[str], int], ...] = tuple(
    (frozenset(words.split()), key)
    for words, key in (
        ("side stick", 37), ("rim", 37), ("rimshot", 37), ("clap", 39), ("kick", 36), ("bass drum", 36), ("snare", 38),
        ("open hat", 46), ("ohh", 46), ("pedal hat", 44), ("hat", 42), ("chh", 42), ("low floor tom", 41),
        ("high floor tom", 43), ("floor tom", 41), ("high tom", 50), ("mid tom", 47), ("tom", 45), ("ride bell", 53),
        ("ride", 51), ("splash", 55), ("china", 52), ("chinese", 52), ("crash", 49), ("cymbal", 49), ("tambourine", 54),
        ("cowbell", 56), ("vibraslap", 58), ("low bongo", 61), ("bongo", 60), ("low conga", 64), ("mute conga", 62),
        ("conga", 63), ("low timbale", 66), ("timbale", 65), ("low agogo", 68), ("agogo", 67), ("cabasa", 69),
        ("maraca", 70), ("long whistle", 72), ("whistle", 71), ("long guiro", 74), ("guiro", 73), ("clave", 75),
        ("low woodblock", 77), ("woodblock", 76), ("open cuica", 79), ("cuica", 78), ("mute triangle", 80),
        ("triangle", 81),
    )
)  # fmt: skip
SYNONYMS = {
    "hihat": "hat", "hh": "hat", "bd": "kick", "bassdrum": "kick", "sd": "snare", "handclap": "clap",
    "sidestick": "rim", "hi": "high", "lo": "low", "middle": "mid", "muted": "mute", "opened": "open",
}  # fmt: skip


@dataclass(frozen=True)
class Pad:
    """A key of a sampler and the sounds that it plays in turn.

    Attributes:
        name: for the player's eyes.
        key: number of the MIDI note.
        files: names of the sounds, beside the map.
    """

    name: str
    key: int
    files: tuple[str, ...]


def drum_key(name: str) -> int | None:
    """The key of the General MIDI drum that a name says; None if it says none."""
    found = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    words = {SYNONYMS.get(word, word) for each in found for word in (each, each.removesuffix("s"))}
    if {"wood", "block"} <= words:
        words.add("woodblock")
    return next((key for needed, key in DRUMS if needed <= words), None)


def keys(names: Sequence[str]) -> list[int]:
    """A key of its own for each name; of two names of one drum the first has its key.

    Raises:
        ConfigError: there are more names than keys.
    """
    taken: dict[int, str] = {}
    for name in names:
        key = drum_key(name)
        if key is not None:
            taken.setdefault(key, name)
    drums = {name: key for key, name in taken.items()}
    free = (key for key in range(FIRST_KEY, LAST_KEY + 1) if key not in taken)
    others = len(names) - len(drums)
    room = LAST_KEY + 1 - FIRST_KEY - sum(key >= FIRST_KEY for key in taken)
    if others > room:
        raise ConfigError(f"a kit of {len(names)} labels", f"at most {room + len(drums)}", "choose one with --label")
    return [drums[name] if name in drums else next(free) for name in names]


def sfz(pads: Iterable[Pad]) -> str:
    """The text of an SFZ file."""
    lines = ["<global> loop_mode=one_shot"]
    for pad in pads:
        lines.append(f"<group> key={pad.key} seq_length={len(pad.files)}")
        lines += [f"<region> seq_position={i} sample={file}" for i, file in enumerate(pad.files, 1)]
    return "\n".join(lines) + "\n"


def dspreset(pads: Iterable[Pad]) -> str:
    """The text of a preset for DecentSampler."""
    root = ElementTree.Element("DecentSampler")
    groups = ElementTree.SubElement(root, "groups")
    for pad in pads:
        turns = {"seqMode": "round_robin", "seqLength": str(len(pad.files))}
        group = ElementTree.SubElement(groups, "group", {"name": pad.name, "ampEnvEnabled": "false"} | turns)
        key = str(pad.key)
        for i, file in enumerate(pad.files, 1):
            place = {"path": file, "rootNote": key, "loNote": key, "hiNote": key, "seqPosition": str(i)}
            ElementTree.SubElement(group, "sample", place)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'
