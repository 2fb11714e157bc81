"""`pack`: a copy of a run that has its models, and none of the sounds that they were trained on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from actseq.commands.common import AUTO, Compute
from actseq.errors import ConfigError
from actseq.inference.compression import tables_path
from actseq.inference.loading import DECODER
from actseq.storage import hashes
from actseq.storage.artifacts import FORMAT, Artifact, load_tensors, read_json, save_tensors, write_artifact, write_json
from actseq.storage.files import read_whole
from actseq.storage.run_folder import PACKED, RunFolder, without_paths
from actseq.storage.store import write_file

METRICS = "metrics.csv"
LARGE = 1024
"""A tensor with at least this many values is stored in 16 bits on request."""


@dataclass(frozen=True)
class PackResult:
    """What `pack` has written.

    Attributes:
        run: folder of the run.
        packed: folder of the packed run.
        bytes: size of the packed run.
        bytes_of_run: size of the run.
        priors: trained priors in the packed run.
        left_out: what the run has and the packed run has not.
    """

    run: str
    packed: str
    bytes: int
    bytes_of_run: int
    priors: list[str]
    left_out: list[str]


def pack(run: str | Path, *, out: Path | None = None, half: bool = False, compute: Compute = AUTO) -> PackResult:
    """Copy the configuration and the trained models of a run into a new folder, which is a run too.

    Args:
        run: a name under `runs/`, or a path.
        out: the new folder; None: `<run>-packed` beside the run.
        half: store large tensors in 16 bits: half the size, and sounds that differ a little.
        compute: receives messages.

    Raises:
        ConfigError: the new folder exists and is not empty.
        ArtifactError: a model is unfinished or damaged.
    """
    opened = RunFolder.open(run)
    # `.` has no name.
    results = opened.results if opened.results.name else opened.results.resolve()
    target = out or results.with_name(f"{results.name}-packed")
    if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists", "a new or an empty folder", "name another with --out")
    partial = RunFolder(target.with_name(f".{target.name}.{os.getpid()}.part"))
    try:
        _write(opened, partial, half)
        if target.is_dir():
            target.rmdir()
        partial.path.rename(target)
    finally:
        shutil.rmtree(partial.path, ignore_errors=True)
    packed = RunFolder(target)
    if not packed.priors.names:
        compute.reporter.warn("no prior is trained: the packed run reconstructs, encodes and decodes, no more")
    return PackResult(
        str(opened.path),
        str(target),
        _size(packed.path),
        _size(opened.path),
        packed.priors.names,
        _left_out(opened, packed),
    )


def pack_lines(result: PackResult) -> list[str]:
    """The result of `pack` as lines for a person."""
    return [
        f"packed: {result.packed}, {result.bytes / 1e6:.3g} MB of {result.bytes_of_run / 1e6:.3g} MB",
        f"left out: {', '.join(result.left_out) or 'nothing'}",
        "The models can still reproduce sounds that they were trained on.",
    ]


def _write(run: RunFolder, to: RunFolder, half: bool) -> None:
    to.path.mkdir(parents=True)
    run.copy_config(to)
    renamed: dict[str, str] = {}
    made = [
        run.trained_autoencoder,
        *(models.read(name) for models in (run.vocoders, run.priors) for name in models.names),
    ]
    for artifact in made:
        folder = to.path / artifact.folder.relative_to(run.path)
        _copy_model(artifact, folder, renamed, half)
        to.seal(folder)
    if hashes.present(run.choice):
        write_json(to.choice, _renamed(read_json(run.choice), renamed))
        to.seal(to.vocoders.path)
    if tables_path(run).is_file():
        write_file(tables_path(to), read_whole(tables_path(run)))
    write_json(to.path / PACKED, run.packed or {"format": FORMAT, "run": run.name})
    hashes.add(to.path, [PACKED])
    for lock in to.path.rglob(".*.lock"):
        lock.unlink()


def _copy_model(artifact: Artifact, folder: Path, renamed: dict[str, str], half: bool) -> None:
    """Write a model into another folder; the fingerprint that it had leads to its new one in `renamed`."""
    stored = _halved if half else dict
    meta = _renamed(artifact.meta, renamed)
    meta["config"] = without_paths(meta["config"])
    if "decoder_sha256" in meta:
        tensors = load_tensors(artifact.folder / DECODER, str(meta["decoder_sha256"]))
        meta["decoder_sha256"] = save_tensors(folder / DECODER, stored(tensors))
    metrics = artifact.folder / METRICS
    if hashes.present(metrics):
        content = read_whole(metrics)
        hashes.check(metrics, content)
        write_file(folder / METRICS, content)
    write_artifact(folder, stored(artifact.weights()), meta)
    renamed[artifact.fingerprint] = Artifact.read(folder).fingerprint


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A JSON value with other fingerprints."""
    if isinstance(value, Mapping):
        return {key: _renamed(inner, names) for key, inner in value.items()}
    return names.get(value, value) if isinstance(value, str) else value


def _halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with the large ones in 16 bits; those of the representation and what 16 bits cannot hold stay."""
    return {
        name: tensor.half()
        if tensor.is_floating_point()
        and tensor.numel() >= LARGE
        and not name.startswith("representation.")
        and bool(tensor.half().isfinite().all())
        else tensor
        for name, tensor in tensors.items()
    }


def _size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _left_out(run: RunFolder, packed: RunFolder) -> list[str]:
    """What a run has and its packed copy has not: stages, results, checkpoints and models that are unfinished."""
    depth = {run.path: packed.path, run.priors.path: packed.priors.path, run.vocoders.path: packed.vocoders.path}
    missing = [
        path
        for here, there in depth.items()
        for path in (sorted(here.glob("[!.]*")) if here.is_dir() else ())
        if path.name != hashes.LIST and path not in depth and not (there / path.name).exists()
    ]
    names = [path.relative_to(run.path).as_posix() for path in missing]
    return names + (["checkpoints"] if any(run.path.rglob("checkpoints")) else [])
