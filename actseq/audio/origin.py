"""Which sounds and folders actseq made itself, and how it names a sound."""

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 20
"""A larger JSON is not one that actseq wrote about a sound."""
DRY = ".dry"
"""Added to the stem of a sound as it is before the effects."""
NAME_LETTERS = 48
"""Longest name made from a label."""


def safe_name(label: str | None) -> str:
    """A label as the name of a file on every system: letters, digits, `_` and `-`; `clip` where nothing is left."""
    letters = unicodedata.normalize("NFC", label or "")
    return re.sub(r"[^\w-]+", "-", letters)[:NAME_LETTERS].strip("-") or "clip"


def description(sound: Path) -> Path:
    """The JSON that describes a sound."""
    return sound.with_name(sound.stem + ".json")


def is_made(sound: Path) -> bool:
    """Whether a sound has a JSON of actseq beside it: of the same stem, and about a file of the same ending.

    The sound itself need not exist. A sound that was kept dry has no JSON of its own; see `is_dry`.
    """
    return _names(description(sound), "file", sound) or is_dry(sound)


def is_dry(sound: Path) -> bool:
    """Whether the JSON of another sound says that this is what it was before the effects."""
    wet = sound.with_name(sound.stem.removesuffix(DRY) + sound.suffix)
    return wet != sound and not description(sound).exists() and _names(description(wet), "dry", sound)


def _names(description: Path, key: str, sound: Path) -> bool:
    """Whether a JSON is one that actseq wrote, and names a file of the sound's ending under a key."""
    about = _read(description)
    named = about.get(key)
    known = isinstance(named, str) and {"run", "fingerprints"} <= about.keys()
    return known and Path(str(named)).suffix.lower() == sound.suffix.lower()


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    try:
        with (folder / "config.yaml").open("rb") as file:
            head = file.read(MOST_BYTES)
    except OSError:
        return False
    return head.startswith(b"config:") and b"\nprovenance:" in head


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return {}
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
