"""Files of a run: read with care, written whole or not at all.

A run may come from a stranger. So nothing is read that is not a regular file, or that a link takes out of the run.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from actseq.errors import ArtifactError, named_after

CONFIG = "config.yaml"
"""The file that makes a folder a run."""
_DEEPEST = 5
"""A file of a run lies at most this many folders below it."""


def run_of(path: Path) -> Path | None:
    """The folder of the run that a file belongs to; None outside a run."""
    return next((folder for folder in path.absolute().parents[:_DEEPEST] if (folder / CONFIG).is_file()), None)


def regular(path: Path) -> Path:
    """The path, if it is a regular file; inside a run, links must not lead out of it. The run itself may be a link.

    Raises:
        ArtifactError: there is no such file, or it is a folder, a pipe or a device, or it lies outside the run.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{path} does not exist", action="copy the run again, or run its stage again") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(mode):
        raise ArtifactError(f"{path} is not a regular file", "a file as actseq writes it", "copy the run again")
    run = run_of(path)
    if run is not None and not path.resolve().is_relative_to(run.resolve()):
        raise ArtifactError(
            f"{path} is a link to {path.resolve()}, outside the run", "a file in the run", "copy the file into the run"
        )
    return path


def read_whole(path: Path, most: int | None = None) -> bytes:
    """Content of a regular file.

    Args:
        path: the file.
        most: largest size in bytes; None: any.

    Raises:
        ArtifactError: as `regular`; or the file is too large, or cannot be read.
    """
    try:
        size = regular(path).stat().st_size
        if most is not None and size > most:
            raise ArtifactError(f"{path} has {size} bytes", f"at most {most}")
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})") from None


def write_whole(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write under a temporary name, sync and rename: a reader sees the old file or the new one, never a part.

    Args:
        path: the file; missing folders are made.
        content: its bytes, or pieces one after another.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with named_after(path), temporary.open("wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def sha256(path: Path) -> str:
    """Hash of a regular file's content.

    Raises:
        ArtifactError: as `regular`; or the file cannot be read.
    """
    try:
        with regular(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})") from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock, so that several processes can change the file at `path` in turn."""
    from filelock import FileLock

    with FileLock(path.with_name(f".{path.name}.lock")):
        yield
