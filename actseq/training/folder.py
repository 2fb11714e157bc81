"""The files of a training: its plan, its log and its checkpoints."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actseq.errors import ArtifactError
from actseq.storage import files, hashes
from actseq.storage.artifacts import save_tensors, write_json
from actseq.storage.store import write_file
from actseq.training.plan import Plan

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter

METRICS, PLAN = "metrics.csv", "plan.json"


class TrainingFolder:
    """The folder of a training.

    Args:
        path: the folder, which exists.
        writes: whether this process writes; of several only the first does.
        events: whether figures are written for TensorBoard too.
    """

    def __init__(self, path: Path, *, writes: bool = True, events: bool = False) -> None:
        self.path, self.writes = path, writes
        self._place = _place(path)
        self._writes_events = events
        self._events: SummaryWriter | None = None

    def check(self) -> None:
        """Refuse to go on in a folder that is not the one that the training began in.

        Raises:
            ArtifactError: it was removed or replaced.
        """
        if self.writes and _place(self.path) != self._place:
            raise ArtifactError(f"{self.path} was removed or replaced while a training ran in it")

    def write_plan(self, plan: Plan) -> None:
        """Write the plan.

        Raises:
            ArtifactError: the folder was removed or replaced.
        """
        self.check()
        if self.writes:
            plan.write(self.path / PLAN)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def best(self, step: int) -> Path:
        """The weights that are kept, those of the validation at a step."""
        return self.path / "checkpoints" / f"best-{step:08d}.safetensors"

    def checkpoint(self, step: int, unvalidated: bool = False) -> Path:
        """Folder of the checkpoint of a step.

        The name of one that is to be validated yet comes after that of the one that takes its place.
        """
        return self.path / "checkpoints" / f"step-{step:08d}{'-unvalidated' if unvalidated else ''}"

    def last_checkpoint(self) -> Path:
        """Folder of the last checkpoint, which there must be."""
        return max((self.path / "checkpoints").glob("step-*"))

    def write_checkpoint(self, final: Path, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint under a temporary name, and rename it."""
        temporary = final.with_name(f".{final.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        sha256 = save_tensors(temporary / "state.safetensors", tensors)
        write_json(temporary / "state.json", {**meta, "sha256": sha256})
        hashes.add(temporary, ["state.json"])
        temporary.rename(final)

    def delete_checkpoints(self, keep: Collection[Path]) -> None:
        """Delete all checkpoints but some."""
        for path in (self.path / "checkpoints").glob("step-*"):
            if path not in keep:
                shutil.rmtree(path)

    def delete_best(self, keep: Path) -> None:
        """Delete the weights of all validations but one."""
        for path in (self.path / "checkpoints").glob("best-*.safetensors"):
            if path != keep:
                path.unlink()

    def hashes(self, best: Path, best_sha256: str | None) -> dict[str, str]:
        """Hashes of the files that a resumed training depends on besides its state, by name in the folder."""
        settings = self.path / "settings.json"
        found = {settings.name: files.sha256(settings)} if settings.is_file() else {}
        if best_sha256 is not None:
            found[best.relative_to(self.path).as_posix()] = best_sha256
        return found

    # -- log ------------------------------------------------------------------------------------------------------

    def cut_metrics(self, last: int) -> None:
        """Delete the rows of steps after the last one that counts."""
        # TensorBoard drops them when a new writer begins.
        self._events = None
        if self.writes and (rows := self.read_metrics()):
            steps = [str(row.get("step", "")) for row in rows]
            rows = [row for row, step in zip(rows, steps, strict=True) if step.isdecimal() and int(step) <= last]
            self._write_metrics(rows)

    def log(self, step: int, prefix: str, figures: Mapping[str, float]) -> None:
        """Add figures to the row of a step; new figures become new columns."""
        if not self.writes:
            return
        rows = self.read_metrics()
        row = {"step": str(step)} | {f"{prefix}/{name}": f"{value:.6g}" for name, value in figures.items()}
        if rows and rows[-1]["step"] == row["step"]:
            rows[-1] |= row
        else:
            rows.append(row)
        self._write_metrics(rows)
        if self._writes_events:
            self._write_events(step, prefix, figures)

    def _write_events(self, step: int, prefix: str, figures: Mapping[str, float]) -> None:
        """Write figures for TensorBoard; what it has of later steps, from before an interruption, is dropped."""
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(self.path / "events", purge_step=step)
        for name, value in figures.items():
            self._events.add_scalar(f"{prefix}/{name}", value, step)
        self._events.flush()

    def read_metrics(self) -> list[dict[str, str]]:
        """The rows of the log; those that are damaged too badly to be read are an error.

        Raises:
            ArtifactError: the log is no table.
        """
        path = self.path / METRICS
        if not path.is_file():
            return []
        try:
            text = files.read_whole(path).decode()
            rows = list(csv.DictReader(io.StringIO(text, newline=""), restval=""))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ArtifactError(f"{path} is damaged ({error})", action=f"delete {path}; it is only a log") from None
        # A row with more cells than columns has them under no name.
        return [{name: cell for name, cell in row.items() if isinstance(name, str)} for row in rows]

    def _write_metrics(self, rows: list[dict[str, str]]) -> None:
        self.check()
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_file(self.path / METRICS, text.getvalue().encode())


def _place(folder: Path) -> tuple[int, int] | None:
    """What identifies a folder, whatever its name; None if there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
