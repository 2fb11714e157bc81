"""`export`: a trained run for programs that know nothing of actseq."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from actseq.commands.common import AUTO, Compute, Result, make_folder
from actseq.errors import AudioError
from actseq.exports.onnx import export_onnx, require_onnx
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import require_generative
from actseq.storage.run_folder import RunFolder

Kind = Literal["onnx"]


def export(
    run: str | Path, to: Kind, *, prior: str | None = None, out: Path | None = None, compute: Compute = AUTO
) -> Result:
    """Write what other programs need to encode, decode and generate with a run, and compare it with the run.

    Args:
        run: a name under `runs/`, or a path.
        to: `onnx`.
        prior: name of the prior; None takes the run's usual one, if there is one.
        out: folder to write into, new or empty; None: `<run>-<to>` in the current folder.
        compute: threads and messages. The export is made on the CPU.

    Returns:
        The folder, its files, the name of the prior, and the differences in `parity`.

    Raises:
        ConfigError: a part of the run cannot be exported, or a library is missing.
        ArtifactError: the run is damaged, or what was exported computes something else.
        AudioError: the folder holds files.
    """
    compute.use_threads()
    opened = RunFolder.open(run)
    folder = Path(f"{opened.name}-{to}") if out is None else out
    _require_empty(folder)
    require_onnx()
    require_generative(opened)
    loaded = LoadedRun.open(opened, prior=prior, device="cpu")
    if loaded.prior is None:
        compute.reporter.warn(f"run {opened.name} has no usual prior: only encoder and decoder are exported")
    if loaded.vocoder_folder is not None:
        compute.reporter.warn(f"vocoder {loaded.vocoder_folder.name} is not exported; the program uses Griffin-Lim")
    new = not folder.exists()
    make_folder(folder)
    try:
        made = export_onnx(loaded, folder)
    except BaseException:
        _empty(folder, new)
        raise
    return {
        "run": str(opened.path),
        "folder": str(folder),
        "files": sorted(path.name for path in folder.iterdir()),
        "prior": loaded.prior_name,
        "parity": made.parity,
    }


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AudioError(f"{folder} exists and is not an empty folder", action="name another with --out")


def _empty(folder: Path, remove: bool) -> None:
    """Remove what was written into a folder that was new or empty."""
    for path in folder.iterdir():
        path.unlink()
    if remove:
        shutil.rmtree(folder)
