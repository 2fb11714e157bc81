"""`pull`: download a run from a repository of Hugging Face."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from actseq.commands.common import AUTO, Compute, Result
from actseq.commands.verify import verify
from actseq.errors import ConfigError
from actseq.exports.hub import check_name, download
from actseq.inference.loaded_run import LoadedRun
from actseq.storage.run_folder import RunFolder


def pull(name: str, *, run: str | Path | None = None, compute: Compute = AUTO) -> Result:
    """Download a run, compare it with its hashes, and load it once.

    A stranger may have made it. So only safetensors, JSON, YAML and CSV are downloaded, nothing is unpickled, and the
    run gets its name only after all checks.

    Args:
        name: `OWNER/NAME` of the repository.
        run: name or path of the new run; None: NAME.
        compute: receives messages.

    Returns:
        The run, its repository, and its priors.

    Raises:
        ConfigError: the name is malformed, the run exists, or huggingface_hub is not installed.
        ArtifactError: the repository cannot be read, or what it holds is not a run or is damaged.
    """
    check_name(name)
    target = RunFolder.locate(name.rpartition("/")[2] if run is None else run).path
    if os.path.lexists(target):
        raise ConfigError(f"{target} exists", "a new run", "name another with --run")
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        download(name, partial)
        verify(partial, compute=compute)
        loaded = LoadedRun.open(partial, device="cpu")
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {"run": str(target), "repository": name, "priors": loaded.run.priors.names}
