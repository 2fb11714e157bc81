"""The shards of a store behind a URL: on object storage, or in a folder that is mounted elsewhere.

`shards.json` in the folder of the store names the URL. The manifest and the other files of a stage stay in the folder,
and so do copies of the shards that were written or read last. A shard is behind the URL before the manifest names it.
What a run says is a bucket and a name; which server is asked, and with which keys, is up to the environment.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from actseq.errors import ActseqError, ArtifactError, ConfigError, named_after
from actseq.storage import hashes
from actseq.storage.files import read_whole, write_whole

LOCATION = "shards.json"
"""In the folder of a store: where its shards lie, if not in the folder."""
PACKAGES = {"s3": "'actseq[cloud]'", "gs": "gcsfs", "az": "adlfs", "file": "fsspec"}
"""Kinds of URL, and what is installed for each."""
COPIES = "ACTSEQ_COPIES_GB"
"""Variable of the environment: gigabytes of copies that the folder of a store keeps."""
USUAL_GB = 10.0
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "use_listings_cache": False,
        "config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2}},
    },
    "file": {"auto_mkdir": True},
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAME = re.compile(r"shard-\d{5,}\.safetensors")


def checked_url(url: str) -> str:
    """A URL without a slash at its end.

    Raises:
        ConfigError: shards cannot lie there, or what is needed for this kind of URL is not installed.
    """
    kind, separator, rest = url.partition("://")
    known = " or ".join(f"{one}://…" for one in PACKAGES)
    if not separator or kind not in PACKAGES:
        raise ConfigError(f"{url} is no place for shards", f"{known}, such as s3://bucket/folder")
    rest = rest.rstrip("/")
    if not rest or "::" in rest or any(ord(sign) < 32 for sign in rest) or (kind == "file") != rest.startswith("/"):
        raise ConfigError(f"{url} is no place for shards", "s3://bucket/folder, or file:// with a path from / on")
    if "@" in rest.split("/")[0]:
        raise ConfigError(f"keys do not belong into a URL ({kind}://…@…)", "keys in the environment")
    import fsspec

    try:
        fsspec.get_filesystem_class(kind)
    except ImportError:
        raise ConfigError(
            f"{kind}:// needs a package that is not installed", action=f"pip install {PACKAGES[kind]}"
        ) from None
    return f"{kind}://{rest}"


def copies_bytes() -> int:
    """Bytes of copies that the folder of a store keeps.

    Raises:
        ConfigError: the variable of the environment is no number.
    """
    text = os.environ.get(COPIES, "")
    try:
        found = float(text or USUAL_GB)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise ConfigError(f"{COPIES} is {text}", "a number of gigabytes")
    return int(found * 1e9)


class Remote:
    """The shards behind a URL. A connection is made when something is first asked for.

    Args:
        url: the folder of the shards.

    Raises:
        ConfigError: as `checked_url`.
    """

    def __init__(self, url: str) -> None:
        self.url = checked_url(url)

    def sizes(self) -> dict[str, int]:
        """Bytes of each file there, by name; empty if there is nothing."""
        with self._asked():
            found = self._files.find(self._root, detail=True)
        return {Path(path).name: int(about["size"]) for path, about in found.items()}

    def size(self, name: str) -> int:
        """Bytes of a file there."""
        with self._asked(name):
            return int(self._files.info(self._at(name))["size"])

    def upload(self, path: Path) -> None:
        """Put a file there, under its own name."""
        with self._asked(path.name):
            self._files.put_file(str(path), self._at(path.name))

    def download(self, path: Path) -> None:
        """Get the file of this name, whole or not at all; in a folder, one process at a time does so."""
        part = path.with_name(".fetched.part")
        # What a killed process left, or a link that a stranger has put there.
        part.unlink(missing_ok=True)
        try:
            with named_after(path):
                self._get(path.name, part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def copy(self, name: str) -> Iterator[Path]:
        """A copy of a file, for as long as the context lasts."""
        with TemporaryDirectory(prefix="actseq-") as folder:
            self._get(name, Path(folder) / name)
            yield Path(folder) / name

    def delete(self) -> None:
        """Delete all shards there; what has another name stays."""
        names = filter(_NAME.fullmatch, self.sizes())
        with self._asked():
            for name in names:
                self._files.rm_file(self._at(name))

    def spare(self, copies: Iterable[Path], needed: int = 0) -> Iterator[Path]:
        """Copies that have to go so that there is room for more.

        Args:
            copies: copies in a folder, in the order in which they may go.
            needed: bytes that are to come.
        """
        sizes = {path: path.stat().st_size for path in copies}
        surplus = sum(sizes.values()) + needed - copies_bytes()
        there = self.sizes() if surplus > 0 else {}
        for path, size in sizes.items():
            # What is not behind the URL is no copy.
            if surplus > 0 and there.get(path.name) == size:
                surplus -= size
                yield path

    @cached_property
    def _files(self) -> Any:
        """The file system of fsspec."""
        import fsspec

        kind = self.url.partition("://")[0]
        return fsspec.filesystem(kind, **_OPTIONS.get(kind, {}))

    @cached_property
    def _root(self) -> str:
        return str(self._files._strip_protocol(self.url))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _get(self, name: str, path: Path) -> None:
        with self._asked(name):
            self._files.get_file(self._at(name), str(path))

    @contextmanager
    def _asked(self, name: str = "") -> Iterator[None]:
        """Errors of fsspec and of the libraries behind it, in words.

        Raises:
            ArtifactError: the file is not there, or the server cannot be reached or refuses.
            OSError: there is no room on this machine.
        """
        where = f"{self.url}/{name}" if name else self.url
        try:
            yield
        except ActseqError:
            raise
        except FileNotFoundError as error:
            raise ArtifactError(f"{where} does not exist ({_first_line(error)})") from None
        except Exception as error:  # every file system has errors of its own
            if isinstance(error, OSError) and error.errno in _FULL:
                raise
            keys = "the address, the server (AWS_ENDPOINT_URL) and the keys (AWS_PROFILE)"
            raise ArtifactError(
                f"{where} cannot be reached ({_first_line(error)})",
                action=f"see whether {keys if where.startswith('s3') else 'the address and the keys'} are right, "
                "and give the same command again",
            ) from None


def remote_of(folder: Path) -> Remote | None:
    """Where the shards of a store lie; None: in its folder.

    Raises:
        ArtifactError: `shards.json` is damaged, or missing though a list names it.
    """
    path = folder / LOCATION
    if not path.exists() and LOCATION not in hashes.listed(folder):
        return None
    content = read_whole(path, 2**16)
    hashes.check(path, content)
    try:
        url = json.loads(content)["url"]
        if not isinstance(url, str):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ArtifactError(f"{path} is damaged", "the URL of the shards", "copy the run again") from None
    return Remote(url)


def place(folder: Path, url: str | None) -> None:
    """Decide where the shards of a store will lie; what was decided before stays. One process does it for all.

    Args:
        folder: folder of the store, which may not exist yet.
        url: folder of the shards; None: where they were decided to lie, or else in the folder of the store.

    Raises:
        ConfigError: it was decided otherwise, or `url` is no place for shards.
        ArtifactError: something lies there already, or it cannot be reached.
    """
    decided = remote_of(folder)
    if url is None:
        return
    asked = Remote(url)
    if decided is not None or any(folder.glob("shard-*")):
        if decided is None or decided.url != asked.url:
            raise ConfigError(
                f"the shards of {folder} lie {'in it' if decided is None else f'at {decided.url}'}, not at {asked.url}",
                action="leave --store out, or name another run with --run",
            )
        return
    if there := asked.sizes():
        raise ArtifactError(
            f"{asked.url} holds {len(there)} files already, such as {min(there)}, which this run has not written",
            action="name another run with --run or another place with --store, or delete these",
        )
    write_whole(folder / LOCATION, (json.dumps({"format": 1, "url": asked.url}) + "\n").encode())


def place_beside(folder: Path, other: Path) -> None:
    """Decide that the shards of a store lie beside those of another; see `place`."""
    known = remote_of(other)
    place(folder, None if known is None else f"{known.url.rpartition('/')[0]}/{folder.name}")


def delete_shards(folder: Path) -> None:
    """Delete the shards of a store that lie behind a URL; those in the folder stay."""
    if (known := remote_of(folder)) is not None:
        known.delete()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
