"""`export`: a trained run for programs that know nothing of actseq."""

from __future__ import annotations

import shutil
from pathlib import Path
from shlex import quote
from typing import Literal

from actseq.commands.common import AUTO, Compute, Result, make_folder
from actseq.errors import AudioError
from actseq.exports.onnx import PROGRAM, export_onnx, require_onnx
from actseq.exports.torchscript import export_torchscript
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import require_generative
from actseq.progress import Reporter
from actseq.storage.run_folder import RunFolder

Kind = Literal["onnx", "torchscript"]


def export(
    run: str | Path, to: Kind, *, prior: str | None = None, out: Path | None = None, compute: Compute = AUTO
) -> Result:
    """Write what other programs need to encode, decode and generate with a run, and compare it with the run.

    Args:
        run: a name under `runs/`, or a path.
        to: `onnx` or `torchscript`.
        prior: name of the prior; None takes the run's usual one, if there is one.
        out: folder to write into, new or empty; None: `<run>-<to>` in the current folder.
        compute: threads and messages. The export is made on the CPU.

    Returns:
        The folder, its files, the name of the prior, the differences in `parity`; for TorchScript `latency` in samples.

    Raises:
        ConfigError: a part of the run cannot be exported, or a library is missing.
        ArtifactError: the run is damaged, or what was exported computes something else.
        AudioError: the folder holds files.
    """
    compute.use_threads()
    opened = RunFolder.open(run)
    folder = Path(f"{opened.name}-{to}") if out is None else out
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AudioError(f"{folder} exists and is not an empty folder", action="name another with --out")
    if to == "onnx":
        require_onnx()
    require_generative(opened)
    loaded = LoadedRun.open(opened, prior=prior, device="cpu")
    tell_what_is_left_out(loaded, to, compute.reporter)
    new = not folder.exists()
    make_folder(folder)
    try:
        made = _written(loaded, to, folder)
    except BaseException:
        _empty(folder, new)
        raise
    files = sorted(path.name for path in folder.iterdir())
    return {"run": str(opened.path), "folder": str(folder), "files": files, "prior": loaded.prior_name} | made


def export_lines(result: Result) -> list[str]:
    """What to do with the result of `export`, as lines for a person."""
    folder = Path(result["folder"])
    if PROGRAM not in result["files"]:
        modules = " or ".join(str(folder / name) for name in result["files"])
        return [f"next: give {modules} to the external nn~ of Max or Pure Data"]
    program = quote(str(folder / PROGRAM))
    needs = "onnxruntime and numpy are all that it needs"
    if result["prior"] is None:
        return [f"next: python {program} --latents FILE.npz --out sounds  (of actseq encode --npz; {needs})"]
    return [f"next: python {program} --n 4 --out sounds  ({needs})"]


def _written(loaded: LoadedRun, to: Kind, folder: Path) -> Result:
    if to == "onnx":
        return {"parity": export_onnx(loaded, folder)}
    made = export_torchscript(loaded, folder / f"{loaded.run.name}.ts")
    return {"parity": made.parity, "latency": made.latency}


def tell_what_is_left_out(loaded: LoadedRun, to: Kind, reporter: Reporter) -> None:
    """Say what is not exported."""
    if loaded.prior is None and to == "onnx":
        reporter.warn(f"run {loaded.run.name} has no usual prior: only encoder and decoder are exported")
    if loaded.vocoder_folder is not None:
        reporter.warn(f"vocoder {loaded.vocoder_folder.name} is not exported; phase takes its place")
    elif loaded.config.vocoder.kind not in ("phase", "istft"):
        reporter.warn(f"vocoder {loaded.config.vocoder.kind} is not exported; phase takes its place")


def _empty(folder: Path, remove: bool) -> None:
    """Remove what was written into a folder that was new or empty."""
    for path in folder.iterdir():
        path.unlink()
    if remove:
        shutil.rmtree(folder)
