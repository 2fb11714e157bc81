"""Where a command may write: a file that lies there already is replaced only if actseq made it and the user asks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from actseq.audio.origin import DRY, description, is_dry, is_made
from actseq.config import Member
from actseq.errors import AudioError
from actseq.storage.artifacts import read_json

LISTING = "plot.json"
"""Names the pictures and tables that `plot` has written into a folder."""


def numbered(name: str, n: int, separator: str = "-") -> list[str]:
    """A name with the numbers from 1 to n, all of the same width: `snare-01`, `snare-02`."""
    width = max(2, len(str(n)))
    return [f"{name}{separator}{i:0{width}d}" for i in range(1, n + 1)]


@dataclass(frozen=True)
class Target:
    """A sound that a command will write, with the JSON beside it.

    Attributes:
        sound: the file.
        keep_dry: the sound is also written as it is before the effects.
    """

    sound: Path
    keep_dry: bool = False

    @property
    def dry(self) -> Path | None:
        """The sound as it is before the effects; None if it is not kept."""
        return self.sound.with_suffix(f"{DRY}{self.sound.suffix}") if self.keep_dry else None

    @property
    def about(self) -> Path:
        """The JSON that describes the sound."""
        return description(self.sound)

    @property
    def files(self) -> list[Path]:
        """Everything that is written."""
        return [self.sound, *([] if self.dry is None else [self.dry]), self.about]


def claim(targets: Sequence[Target], inputs: Iterable[Path], overwrite: bool) -> None:
    """Check that nothing of the user's would be replaced. Call it before anything is written.

    Args:
        targets: everything that the command will write.
        inputs: files that the command reads; they are never replaced.
        overwrite: replace files that have a JSON of actseq beside them.

    Raises:
        AudioError: a file may not be replaced, or two results would have the same name.
    """
    written = [(target, path) for target in targets for path in target.files]
    twice = [path for path, count in Counter(path for _, path in written).items() if count > 1]
    if twice:
        raise AudioError(f"several results would be written to {twice[0]}", action="write them into different folders")
    there = [(target, path) for target, path in written if os.path.lexists(path)]
    given = {identity for path in inputs if (identity := _identity(path))}
    for _, path in there:
        if _identity(path) in given:
            raise AudioError(
                f"{path} is an input of this call and would be overwritten", action="write to another folder"
            )
    foreign = [path for target, path in there if not overwrite or path.is_dir() or not _is_ours(target, path)]
    if not foreign:
        return
    more = f" and {len(foreign) - 1} more files of this call's names exist" if len(foreign) > 1 else " exists"
    if not overwrite:
        action = "write to another folder, or replace what actseq made with --overwrite"
    else:
        action = "--overwrite replaces only files that have a JSON of actseq beside them; write to another folder"
    raise AudioError(f"{foreign[0]}{more}", action=action)


def _is_ours(target: Target, path: Path) -> bool:
    """Whether actseq made a file of a target; a file under the name of a dry sound must be that of an earlier call."""
    return is_dry(path) if path == target.dry else is_made(target.sound)


def require_free(targets: Iterable[Path]) -> None:
    """Check that files without a JSON beside them replace nothing. Call it before anything is written.

    Raises:
        AudioError: two results would have the same name, or a file of a result's name exists.
    """
    seen: set[Path] = set()
    for target in targets:
        if target in seen:
            raise AudioError(f"several results would be written to {target}", action="write to different folders")
        if os.path.lexists(target):
            raise AudioError(f"{target} exists", action="name another folder with --out; nothing is overwritten")
        seen.add(target)


def claim_pictures(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    """Check that pictures and their tables would replace nothing but pictures of an earlier call.

    Args:
        folder: folder to write into.
        names: names of the pictures without ending.
        overwrite: replace the files that `plot.json` in the folder names.

    Raises:
        AudioError: a file may not be replaced.
    """
    listing = folder / LISTING
    found = read_json(listing) if listing.is_file() else {}
    ours = found.get("pictures") if overwrite and "run" in found else None
    files = [f"{name}{ending}" for name in names for ending in (".png", ".csv")] + [LISTING]
    replaceable = {LISTING, *ours} if isinstance(ours, list) else set()
    foreign = [name for name in files if os.path.lexists(folder / name) and name not in replaceable]
    if foreign:
        more = f" and {len(foreign) - 1} more files of this call's names" if len(foreign) > 1 else ""
        raise AudioError(
            f"{folder} holds {foreign[0]}{more}",
            action="write to another folder, or replace what an earlier plot has written with --overwrite",
        )


def effect_files(effects: Iterable[Member]) -> list[Path]:
    """Files that effects read, such as impulse responses; other texts among the settings lead to no file."""
    values = (value for effect in effects for value in effect.options.values())
    return [Path(value) for value in values if isinstance(value, str | Path)]


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of the file that a path leads to; None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
