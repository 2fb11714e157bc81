"""`push`: upload the packed form of a run to a repository of Hugging Face, with a model card."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from actseq.commands.common import AUTO, Compute, Result
from actseq.commands.pack import pack
from actseq.errors import ConfigError
from actseq.exports.card import model_card
from actseq.exports.hub import check_name, upload
from actseq.storage.run_folder import RunFolder
from actseq.storage.store import write_file


def push(
    run: str | Path, name: str, *, licence: str, private: bool = False, half: bool = False, compute: Compute = AUTO
) -> Result:
    """Upload a run without its sounds.

    Args:
        run: a name under `runs/`, or a path.
        name: `OWNER/NAME` of the repository.
        licence: identifier of the licence, as Hugging Face knows it, such as `cc-by-4.0`.
        private: whether a new repository is private.
        half: store large tensors in 16 bits.
        compute: receives messages.

    Returns:
        The run, its repository and address, and the size in bytes.

    Raises:
        ConfigError: the name or licence is malformed, or huggingface_hub is not installed.
        ArtifactError: the run is damaged, or the repository cannot be written.
    """
    check_name(name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence):
        raise ConfigError(f"--license is '{licence}'", "an identifier such as cc-by-4.0, mit or other")
    opened = RunFolder.open(run)
    with tempfile.TemporaryDirectory(prefix="actseq-") as temporary:
        folder = Path(temporary) / opened.name
        packed = pack(opened.path, out=folder, half=half, compute=compute)
        write_file(folder / "README.md", model_card(opened, name, licence).encode())
        address = upload(folder, name, private=private)
    return {"run": str(opened.path), "repository": name, "address": address, "bytes": packed.bytes}
