"""Repositories of Hugging Face: upload a folder, download a run. The token never leaves huggingface_hub."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actseq.errors import ArtifactError, ConfigError
from actseq.storage.run_folder import PACKED

FILES = ("config.yaml", "*.json", "*.safetensors", "*.csv")
"""What a run consists of. Nothing else is downloaded, above all no pickle and no program."""
OURS = {PACKED, "config.yaml"}
"""Files that every repository of actseq has."""


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a repository.

    Raises:
        ConfigError: the name is not `OWNER/NAME`.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise ConfigError(f"'{name}' is not the name of a repository", "OWNER/NAME, such as me/my-drums")


def upload(folder: Path, name: str, *, private: bool) -> str:
    """Upload a folder as the content of a repository, which is made if it does not exist; returns its address.

    Raises:
        ConfigError: huggingface_hub is not installed.
        ArtifactError: the repository holds something else than a run, or it cannot be written.
    """
    api = _api()
    with _explained(name):
        api.create_repo(name, private=private, exist_ok=True)
        there = set(api.list_repo_files(name)) - {".gitattributes", "README.md"}
        if there and not there >= OURS:
            raise ArtifactError(
                f"repository {name} holds files that actseq did not write", "an empty one, or one with a run"
            )
        api.upload_folder(
            repo_id=name, folder_path=folder, delete_patterns="*", commit_message="Upload a run of actseq"
        )
    return f"{api.endpoint}/{name}"


def download(name: str, folder: Path) -> None:
    """Download the run in a repository into a new folder.

    Raises:
        ConfigError: huggingface_hub is not installed.
        ArtifactError: there is no such repository, it cannot be read, or it does not hold a run.
    """
    api = _api()
    with _explained(name):
        missing = OURS - set(api.list_repo_files(name))
        if missing:
            raise ArtifactError(
                f"repository {name} has no {' and no '.join(sorted(missing))}", "one that actseq push has written"
            )
        api.snapshot_download(name, local_dir=folder, allow_patterns=list(FILES))
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _api() -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise ConfigError(
            "huggingface_hub is not installed", action="install it with: pip install 'actseq[hub]'"
        ) from None
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Errors in one line, without anything of the request."""
    from huggingface_hub import errors

    # Of the library that this version of huggingface_hub speaks HTTP with.
    no_answer: type[Exception] = getattr(errors, "HTTPError")  # noqa: B009
    try:
        yield
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise ArtifactError(
            f"Hugging Face refuses {name} ({status})",
            "a repository that exists and that you may use",
            "check the name, or log in with: hf auth login",
        ) from None
    except (no_answer, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise ArtifactError(
            f"Hugging Face does not answer ({type(error).__name__})", action="check the network, then try again"
        ) from None
