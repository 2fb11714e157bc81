"""Several processes that make one run together, one for each device, started by torchrun or by srun of SLURM.

The first process writes the files of the run; of the shards of a store every process writes its share. What the first
one decides, such as a number of steps by time, it tells the others. All processes go through the same calls of `wait`,
`share`, `gather` and `add` in the same order. A command that was started alone is the first of one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from actseq.errors import TrainingError

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=2)
"""A process waits this long for the others, for instance while the first one scans a folder."""


@dataclass(frozen=True)
class Processes:
    """This process among those that work together.

    Attributes:
        rank: number of this process, from 0.
        size: number of all.
        on_node: number of those on each machine.
    """

    rank: int = 0
    size: int = 1
    on_node: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files of the run and speaks to the user."""
        return self.rank == 0

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of some items: every `size`-th."""
        return items[self.rank :: self.size]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            with self._together():
                import torch.distributed as dist

                dist.barrier()

    def share(self, value: T) -> T:
        """The value that the first process has."""
        if self.size == 1:
            return value
        with self._together():
            import torch.distributed as dist

            held = [value]
            dist.broadcast_object_list(held)
            return held[0]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in order of rank."""
        if self.size == 1:
            return [value]
        with self._together():
            import torch.distributed as dist

            held: list[Any] = [None] * self.size
            dist.all_gather_object(held, value)
            return held

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""
        if self.size > 1:
            with self._together():
                import torch.distributed as dist

                dist.all_reduce(tensor)

    def fabric(self, accelerator: str, precision: Any = "32-true") -> Fabric:
        """A Fabric of these processes, each with one device of a kind (`cpu`, `cuda`, `mps`)."""
        from lightning_fabric import Fabric

        if self.size == 1:
            return Fabric(accelerator=accelerator, devices=1, precision=precision)
        import torch
        from lightning_fabric.strategies.ddp import DDPStrategy

        # Objects travel by gloo whatever the device of the model.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        fabric = Fabric(
            accelerator=accelerator,
            devices=self.on_node,
            num_nodes=self.size // self.on_node,
            strategy=DDPStrategy(process_group_backend=backend, timeout=LONGEST_WAIT),
            precision=precision,
        )
        fabric.launch()
        return fabric

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Connect the processes, if they are not yet.

        Raises:
            TrainingError: one of them has ended.
        """
        import torch.distributed as dist

        try:
            if not dist.is_initialized():
                self.fabric("cpu")
            yield
        except RuntimeError as error:
            first = str(error).splitlines()[0][:200]
            raise TrainingError(
                f"process {self.rank} of {self.size} has lost the others ({first})",
                action="look for the first error of the others; the same command goes on from the last checkpoint",
            ) from None


def here() -> Processes:
    """This process among those that torchrun or srun started together; alone if neither did."""
    given = os.environ
    if "TORCHELASTIC_RUN_ID" in given:
        return Processes(int(given["RANK"]), int(given["WORLD_SIZE"]), int(given["LOCAL_WORLD_SIZE"]))
    # Only srun sets this; a script of sbatch that starts Python without srun is one process, whatever it asked for.
    size = int(given.get("SLURM_STEP_NUM_TASKS", 1))
    if size > 1:
        return Processes(int(given["SLURM_PROCID"]), size, size // int(given.get("SLURM_STEP_NUM_NODES", 1)))
    return Processes()
