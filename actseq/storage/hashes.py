"""Lists of hashes: what the files of a folder were when actseq wrote them.

A finished stage has a `hashes.json` that names the files of its folder with their SHA-256, and is written last. The
list of the run covers `config.yaml` and the lists of the stages. A file is compared with the list beside it whenever it
is read. Safetensors are not listed: the hash of weights is in the JSON beside them, that of a sequence in its manifest.
A list guards against damage and edits by hand, not against a forger. Runs of older versions have no lists.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from actseq.errors import ArtifactError
from actseq.storage.files import locked, read_whole, run_of, sha256, write_whole

LIST = "hashes.json"
_LARGEST = 16 * 2**20
"""Largest list in bytes."""
_LEVELS = 3
"""A file is named by the list beside it, or by one of so many folders in all."""


def listed(folder: Path) -> dict[str, str]:
    """The hashes in a folder's list by name, relative to the folder; empty if there is no list.

    Raises:
        ArtifactError: the list is damaged.
    """
    path = folder / LIST
    if not path.exists():
        return {}
    try:
        files = json.loads(read_whole(path, _LARGEST))["files"]
        if not all(isinstance(part, str) for pair in files.items() for part in pair):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ArtifactError(f"{path} is damaged", "a list of hashes", "copy the run again") from None
    return dict(files)


def check(path: Path, content: bytes) -> None:
    """Compare the content of a file with the list beside it; a file that no list names passes.

    Raises:
        ArtifactError: the content is not what the list says.
    """
    wanted = listed(path.parent).get(path.name)
    if wanted is not None and hashlib.sha256(content).hexdigest() != wanted:
        raise _changed(path)


def present(path: Path) -> bool:
    """Whether a file exists.

    Raises:
        ArtifactError: it does not, though a list names it, or the list of the folder that it belongs to.
    """
    if path.exists():
        return True
    for missing in (path, path.parent / LIST):
        for where, name in _named(missing):
            if not missing.exists():
                raise _missing(where / name, where)
    return False


def add(folder: Path, names: Iterable[str]) -> None:
    """Add files to a folder's list that it does not name yet. What it names keeps its hash."""
    known = listed(folder)
    new = [name for name in names if name not in known]
    if not new:
        return
    hashed = {name: sha256(folder / name) for name in new}
    path = folder / LIST
    forget(path)
    with locked(path):
        _write(path, listed(folder) | hashed)


def forget(path: Path) -> None:
    """Take a file that is about to be written out of every list that names it."""
    for folder, name in list(_named(path)):
        own = folder / LIST
        # The list changes too, and is named by that of the run.
        forget(own)
        with locked(own):
            _write(own, {known: value for known, value in listed(folder).items() if known != name})


def differences(folder: Path) -> list[str]:
    """A line for each file of a folder's list that is missing or has changed."""
    found = []
    for name, wanted in listed(folder).items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            found.append(f"{folder / LIST} names {name}, which is not in the folder")
        elif not path.exists():
            found.append(str(_missing(path, folder)))
        else:
            try:
                if sha256(path) != wanted:
                    found.append(str(_changed(path)))
            except ArtifactError as error:
                found.append(str(error))
    return found


def _named(path: Path) -> Iterator[tuple[Path, str]]:
    """The folders of a run whose lists name a file, and its name there."""
    if run_of(path) is None:
        return
    for folder in path.parents[:_LEVELS]:
        name = path.relative_to(folder).as_posix()
        if (folder / LIST).is_file() and name in listed(folder):
            yield folder, name


def _write(path: Path, files: dict[str, str]) -> None:
    write_whole(path, (json.dumps({"format": 1, "files": files}, indent=2, sort_keys=True) + "\n").encode())


def _changed(path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path} is not what was written: it has changed since",
        f"the hash in {path.parent / LIST}",
        f"undo the change, copy the run again, or delete {path.parent} and run its stage again",
    )


def _missing(path: Path, folder: Path) -> ArtifactError:
    return ArtifactError(
        f"{path} is missing, though {folder / LIST} names it",
        action="copy the run again, or run its stage again; if it was deleted on purpose, delete its line in that list",
    )
