"""Checkpoints of a training, read with care: they agree with the plan, and with the files that they were made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actseq.errors import ArtifactError
from actseq.storage import files
from actseq.storage.artifacts import load_tensors, read_json
from actseq.training.plan import Plan, parse_changes, parse_stretches

if TYPE_CHECKING:
    from torch import Tensor


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON and the tensors of the last checkpoint of a training; both are empty if there is none.

    Raises:
        ArtifactError: the checkpoint, or a file that belongs to it, is damaged or has changed since it was written.
    """
    found = sorted((folder / "checkpoints").glob("step-*"))
    if not found:
        return {}, {}
    meta = read_json(found[-1] / "state.json")
    plan = folder / "plan.json"
    if plan.is_file():
        agreed(Plan.read(plan), meta, plan)
    for name, wanted in meta.get("files", {}).items():
        if Path(name).is_absolute() or ".." in Path(name).parts or files.sha256(folder / name) != wanted:
            raise ArtifactError(
                f"{folder / name} is not what the checkpoint at step {meta['step']} was made with",
                action=f"undo the change, copy the run again, or delete {folder} to begin again",
            )
    return meta, load_tensors(found[-1] / "state.safetensors", str(meta["sha256"]))


def agreed(written: Plan, meta: Mapping[str, Any], path: Path) -> Plan:
    """The plan to go on with: that of the checkpoint, or the written one if it goes on from there.

    Between a checkpoint and the writing of its plan a process may be killed; so one may be the beginning of the other.

    Raises:
        ArtifactError: they contradict each other.
    """
    saved = Plan(
        parse_stretches(meta.get("plan"), meta["total_steps"], path),
        written.minutes,
        parse_changes(meta.get("changes"), path),
    )
    step, n = meta["step"], len(saved.stretches)
    both = list(zip(written.stretches, saved.stretches, strict=False))
    known = all(one.from_step >= step for one in written.stretches[n:])
    known = known and written.changes_before(step) == saved.changes_before(step)
    if not known or any(one != other for one, other in both):
        raise ArtifactError(
            f"{path} says {written.total} steps, its checkpoint {meta['total_steps']}, or they had other faults",
            action=f"undo the change, copy the run again, or delete {path.parent} to begin again",
        )
    return written if len(written.stretches) > n else replace(saved, changes=written.changes)
