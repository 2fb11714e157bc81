"""The training loop, one for every objective.

A training that is killed and resumed ends with the same bytes as one that ran through. For this, a batch and the random
numbers of a step depend on (seed, step, number of the batch in the step) alone. A step averages the gradients of
`accumulate` batches; where several processes train together each takes its share, and the result is that of one process
that takes them all. `minutes` becomes a number of steps by timing steps that are thrown away before step 0; at
validations the number may change, see `actseq.training.plan`. A checkpoint is a folder of safetensors and JSON that is
renamed into place, and on resuming `metrics.csv` is cut back to the step of the checkpoint.

A number that is not finite takes the training back to its last validation, with a lower learning rate; that checkpoint
is kept for it. A batch that does not fit into memory goes through in parts. Both are in the plan.
"""

from __future__ import annotations

import copy
import csv
import io
import math
import shutil
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from operator import itemgetter
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from actseq import units
from actseq.config import TrainingConfig
from actseq.errors import SIGNALS, ActseqError, ArtifactError, ConfigError, Interrupted, TrainingError
from actseq.objectives.base import Batch, Loss, Objective
from actseq.progress import HELD_OUT, Reporter
from actseq.storage import files, hashes
from actseq.storage.artifacts import load_tensors, read_json, save_tensors, write_json
from actseq.storage.processes import here
from actseq.storage.store import write_file
from actseq.training import advice, faults
from actseq.training.checkpoints import agreed, read_checkpoint
from actseq.training.conduct import Budget, Conduct
from actseq.training.faults import TRY_LOWER, NotFiniteError
from actseq.training.plan import RESTART, Plan, Stretch, replanned

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CALIBRATION_SECONDS = 3.0
"""Steps are timed for at least this long with each number of threads."""
CLEARLY = 1.25
"""One thread is taken in place of several if a step takes this many times as long with several."""
COLLAPSED = 4.0
"""It is also taken, at a validation, if steps have come to take this many times as long as they took."""
LOG_ROWS = 200
"""Rows of training figures in `metrics.csv`."""
PREPARING_SHARE = 0.25
"""What a command prepares before a training counts up to this fraction of the minutes."""
MISSED = 0.1
"""A training that ends this fraction of its minutes too early or too late says so."""
CHECKPOINT_SECONDS = 60.0
"""A checkpoint is written at least this often."""
DIVERGED = 100.0
"""A training has failed if its best held-out figure is more than this many times that of the untrained model."""
SMALLEST = 0.1
"""Held-out figures nearer to 0 at the start count as this."""
VALIDATING = 0.2
"""With a budget in minutes, there are only as many validations as fit into this fraction of it."""
FEWEST_VALIDATIONS = 4
"""But at least so many, where the configuration asks for so many: the plan can change only at validations."""
PATIENCE_OF_USERS = 3
"""So many signals end a step at once, without a checkpoint."""

T = TypeVar("T")
Gradients = dict[str, list[Tensor | None]]
"""Gradients of the parameters of each group."""


@runtime_checkable
class Source(Protocol):
    """Gives batches; a batch is a pure function of (seed of the source, step, rank).

    The ranks are the batches of one step, which may be in different processes.
    """

    def batch(self, step: int, rank: int = 0) -> Mapping[str, NDArray[Any]]:
        """Arrays by name."""


@runtime_checkable
class TracedSource(Source, Protocol):
    """A source that knows where its batches come from."""

    def origins(self, step: int, rank: int = 0) -> list[str]:
        """For each row of a batch, the file, and the place in it."""


@dataclass(frozen=True)
class Outcome:
    """The result of a training.

    Attributes:
        tensors: averaged weights of the model at the best validation.
        figures: validation figures at that step.
        total_steps: number of steps made.
        best_step: step of the best validation.
    """

    tensors: dict[str, Tensor]
    figures: dict[str, float]
    total_steps: int
    best_step: int


def resolve_device(name: str) -> torch.device:
    """The torch device of a name; `auto` is CUDA if available, else MPS, else the CPU.

    Raises:
        ConfigError: the device is unknown or not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = name.partition(":")[0]
    if kind not in there:
        raise ConfigError(f"device '{name}'", "auto, cpu, cuda or mps")
    if not there[kind]:
        raise ConfigError(
            f"device '{name}' is not available here", action="actseq doctor tells why; --device cpu always works"
        )
    return torch.device(name)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of torch's random numbers in one step."""
    return int(np.random.SeedSequence([seed, step, rank, 7]).generate_state(1, np.uint64)[0]) >> 1


class _Trainer:
    """The state of a training."""

    def __init__(
        self,
        objective: Objective,
        train: Source,
        validation: Source | None,
        config: TrainingConfig,
        folder: Path,
        seed: int,
        conduct: Conduct,
    ) -> None:
        self.config, self.folder, self.seed = config, folder, seed
        self.processes = here()
        if config.accumulate % self.processes.size:
            raise ConfigError(
                f"{self.processes.size} processes are to train together, and accumulate is {config.accumulate}",
                f"a multiple of {self.processes.size}: a step averages so many batches, shared out among the processes",
                f"--set train_ae.accumulate={self.processes.size} (or that of train_prior, train_vocoder)",
            )
        self.reporter: Reporter = conduct.reporter
        self.watch, device = conduct.watch, conduct.device
        # Several processes have their threads from the program that starts them.
        self.may_choose_threads = conduct.may_choose_threads and self.processes.size == 1
        self.events: SummaryWriter | None = None
        self.writes_events = conduct.events
        self.train_source, self.validation_source = train, validation
        self.fabric = self.processes.fabric(device.type, config.precision)
        self.objective = objective
        module: nn.Module = objective  # type: ignore[assignment]
        self.groups = groups = self.objective.parameter_groups()
        optimisers = [
            torch.optim.AdamW(
                parameters,
                lr=self.config.learning_rate,
                betas=self.config.betas,
                weight_decay=self.config.weight_decay,
                fused=True,
            )
            for parameters in groups.values()
        ]
        wrapped = self.fabric.setup(module, *optimisers)
        self.wrapped = wrapped[0] if isinstance(wrapped, tuple) else wrapped
        self.wrapped.mark_forward_method("losses")
        self.optimisers = dict(zip(groups, wrapped[1:], strict=True))
        self.average = {name: value.detach().clone() for name, value in self.objective.exported().state_dict().items()}
        self.step = 0
        self.anchor = 0
        """Step of the checkpoint that the training is taken back to."""
        self.plan = Plan.of(config.steps or 1, config.minutes)
        self.clock = _Clock()
        self.held_out: dict[str, float] = {}
        self.place = _place(folder)
        self.first: float | None = None
        self.best: float | None = None
        self.best_step = 0
        self.best_sha256: str | None = None
        self.best_figures: dict[str, float] = {}
        self.sums: dict[str, float] = {}
        self.count = 0
        self.unvalidated = False
        self.received: list[int] = []
        self.told = 0

    # -- one step -------------------------------------------------------------------------------------------------

    def batch(self, source: Source, step: int, progress: float, number: int = 0) -> Batch:
        data = {
            name: self.fabric.to_device(torch.from_numpy(np.ascontiguousarray(array)))
            for name, array in source.batch(step, number).items()
        }
        return Batch(data, progress)

    def use_threads(self) -> None:
        """Compute with as many threads as the plan says, unless the user says how many."""
        threads = self.plan.threads(self.step) if self.may_choose_threads else None
        if threads is not None and threads != torch.get_num_threads():
            torch.set_num_threads(threads)

    def train_step(self) -> dict[str, float]:
        """Make a step; its figures.

        Raises:
            NotFiniteError: a loss or a gradient is not finite; no weight has changed.
            TrainingError: a part of one row does not fit into memory.
        """
        rate = self.plan.learning_rate(self.step, self.config)
        gradients, figures = self.gradients()
        if self.processes.size > 1:
            self.told = self.reduce(gradients, figures)
        for name, found in gradients.items():
            for parameter, gradient in zip(self.groups[name], found, strict=True):
                parameter.grad = gradient
            norm = self.fabric.clip_gradients(
                self.wrapped, self.optimisers[name], max_norm=self.config.clip_norm, error_if_nonfinite=False
            )
            if norm is not None and not bool(torch.isfinite(norm)):
                raise NotFiniteError(f"the gradient of '{name}' became {norm.item()}", self.step)
        for name in gradients:
            for group in self.optimisers[name].param_groups:
                group["lr"] = rate
            self.optimisers[name].step()
        self.update_average()
        self.step += 1
        return figures

    def gradients(self) -> tuple[Gradients, dict[str, float]]:
        """Gradients by group, and figures: each the sum over this process's batches, divided by all batches of a step.

        From the first batch on that does not fit into memory, batches go in parts.

        Raises:
            NotFiniteError: a loss is not finite.
            TrainingError: a part of one row does not fit into memory.
        """
        n = self.config.accumulate
        gradients: Gradients = {}
        figures: dict[str, float] = {}
        for number in self.processes.mine(range(n)):
            found, own = self.fitting(partial(self.gradients_of, number))
            for name, values in found.items():
                gradients[name] = _added(gradients[name], values) if name in gradients else values
            for key, value in own.items():
                figures[key] = figures.get(key, 0.0) + value / n
        if n > 1:
            gradients = {name: [None if g is None else g / n for g in found] for name, found in gradients.items()}
        return gradients, figures

    def gradients_of(self, number: int) -> tuple[Gradients, dict[str, float]]:
        """Gradients and figures of one batch of the present step.

        Raises:
            NotFiniteError: a loss is not finite.
        """
        torch.manual_seed(step_seed(self.seed, self.step, number))
        return self.in_parts(self.batch(self.train_source, self.step, self.plan.progress(self.step), number))

    def in_parts(self, batch: Batch) -> tuple[Gradients, dict[str, float]]:
        """Gradients and figures of a batch. Losses are means over the rows: those of parts count by their rows.

        Raises:
            NotFiniteError: a loss is not finite.
        """
        gradients: Gradients = {}
        figures: dict[str, float] = {}
        for fraction, part in faults.in_parts(batch, self.plan.change(self.step).parts):
            own: dict[str, float] = {}
            for name, loss in self.losses(part).items():
                found = self.backward(name, loss, fraction)
                gradients[name] = _added(gradients[name], found) if name in gradients else found
                own |= {key: float(value) for key, value in loss.figures.items()}
            for key, value in own.items():
                figures[key] = figures.get(key, 0.0) + fraction * value
        return gradients, figures

    def fitting(self, work: Callable[[], T]) -> T:
        """The result of a work with batches, which go in more parts if they do not fit into memory.

        Raises:
            TrainingError: a part of one row does not fit into memory.
        """
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not faults.is_out_of_memory(error):
                    raise
            # Outside of the handler: the error holds on to the tensors of the batch.
            self.split()

    def split(self) -> None:
        """Let batches go in twice as many parts from the present step on.

        Raises:
            TrainingError: the parts have one row already.
        """
        size, change = self.config.batch_size, self.plan.change(self.step)
        if change.parts >= size:
            raise TrainingError(
                f"there is not enough memory for step {self.step}, though its batch of {size} goes one by one",
                action="close other programs, use a smaller network or shorter segments, or another --device",
            )
        parts = min(2 * change.parts, size)
        self.plan = self.plan.changed(replace(change, from_step=self.step, parts=parts))
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        self.reporter.warn(
            f"step {self.step}: not enough memory for {-(-size // change.parts)} at a time; from here on a batch of "
            f"{size} goes in {parts} parts, and their gradients are added"
        )

    def losses(self, batch: Batch) -> dict[str, Loss]:
        if self.processes.size == 1:
            found: dict[str, Loss] = self.wrapped.losses(batch)
            return found
        # The wrapper adds up gradients after one backward pass for all parameters. Here every group has its own, and
        # `reduce` adds up those of all groups at once.
        with self.fabric.autocast():
            return self.objective.losses(batch)

    def backward(self, name: str, loss: Loss, fraction: float = 1.0) -> list[Tensor | None]:
        """Gradients of a fraction of a loss for the parameters of its group.

        Raises:
            NotFiniteError: the loss is not finite, and this process is alone. Of several processes, all have to take
                the step that fails: the gradients are not finite then.
        """
        total, is_finite = fraction * loss.total, bool(torch.isfinite(loss.total))
        if not is_finite and self.processes.size == 1:
            raise NotFiniteError(f"the loss of '{name}' became {loss.total.item()}", self.step)
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(total)
        found = [parameter.grad for parameter in self.groups[name]]
        return found if is_finite else [None if g is None else torch.full_like(g, math.nan) for g in found]

    def reduce(self, gradients: Gradients, figures: dict[str, float]) -> int:
        """Add up gradients and figures over all processes, in place; a signal that one of them received, or 0.

        Everything travels in one tensor, with one number for each parameter that says how many have a gradient.
        """
        parameters = {name: self.groups[name] for name in gradients}
        pairs = [pair for name in gradients for pair in zip(parameters[name], gradients[name], strict=True)]
        there = [float(gradient is not None) for _, gradient in pairs]
        signalled = float(bool(self.received))
        device = pairs[0][0].device
        flat = torch.cat(
            [
                torch.tensor([signalled, *figures.values(), *there], device=device),
                *((torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs),
            ]
        )
        self.processes.add(flat)
        numbers = flat[: 1 + len(figures) + len(pairs)].tolist()
        figures.update(zip(figures, numbers[1:], strict=False))
        sizes, at, found = [p.numel() for p, _ in pairs], len(numbers), []
        for (parameter, _), size, count in zip(pairs, sizes, numbers[1 + len(figures) :], strict=True):
            found.append(flat[at : at + size].view_as(parameter) if count else None)
            at += size
        for name in gradients:
            gradients[name], found = found[: len(parameters[name])], found[len(parameters[name]) :]
        return self.received[0] if self.received else int(signal.SIGTERM) if numbers[0] else 0

    def asked_to_stop(self) -> int:
        """The signal after which this step is the last, or 0. Of several processes, all stop after the same step."""
        return self.told if self.processes.size > 1 else self.received[0] if self.received else 0

    @torch.no_grad()
    def update_average(self) -> None:
        # In the first 1/(1 − ema) steps, an average with a fixed decay would consist mostly of the initial weights.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.objective.exported().state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    # -- validation -----------------------------------------------------------------------------------------------

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model its averaged weights for a while."""
        model = self.objective.exported()
        kept = copy.deepcopy(model.state_dict())
        model.load_state_dict(self.average)
        model.eval()
        try:
            yield
        finally:
            model.load_state_dict(kept)
            model.train()

    def validate(self) -> dict[str, float]:
        """Held-out figures of the averaged weights.

        Raises:
            NotFiniteError: the figure that is watched is not finite.
            Interrupted: a signal arrived; of several processes, all go on to their next step first.
        """
        source = self.validation_source
        if source is None:
            return {}
        found: list[tuple[int, dict[str, float]]] = []
        with self.averaged():
            for i in self.processes.mine(range(self.config.validation_batches)):
                found.append((i, self.fitting(partial(self.held_out_figures, source, i))))
                if self.processes.size == 1 and self.received:
                    raise Interrupted(self.received[0])
        sums: dict[str, float] = {}
        # In the order of one process, since sums of floats depend on it.
        for _, figures_of in sorted(chain.from_iterable(self.processes.gather(found)), key=itemgetter(0)):
            for name, value in figures_of.items():
                sums[name] = sums.get(name, 0.0) + value / self.config.validation_batches
        monitored = sums[self.objective.monitor]
        if not math.isfinite(monitored):
            raise NotFiniteError(f"the held-out {self.objective.monitor} became {monitored}", self.step, held_out=True)
        return sums

    def held_out_figures(self, source: Source, number: int) -> dict[str, float]:
        """Figures of one held-out batch."""
        torch.manual_seed(step_seed(self.seed, number, 10_000))
        sums: dict[str, float] = {}
        for fraction, part in faults.in_parts(self.batch(source, number, 1.0), self.plan.change(self.step).parts):
            for name, value in self.objective.validate(part).items():
                sums[name] = sums.get(name, 0.0) + fraction * float(value)
        return sums

    def validated(self) -> dict[str, float]:
        """Validate, log, and keep the best weights; the figures as they are shown.

        Raises:
            NotFiniteError: the figure that is watched is not finite.
            Interrupted: a signal arrived.
        """
        held_out = self.validate()
        if not held_out:
            return {}
        self.log("validation", held_out)
        monitored = held_out[self.objective.monitor]
        if self.best is None or monitored < self.best:
            self.best, self.best_step, self.best_figures = monitored, self.step, held_out
            if self.processes.first:
                self.best_sha256 = save_tensors(self.best_path(), self.average)
            self.best_sha256 = self.processes.share(self.best_sha256)
        self.held_out = held_out
        return {HELD_OUT + key: value for key, value in held_out.items()}

    def warn(self, said: set[str]) -> None:
        """Say what is off, each thing once."""
        if not self.watch.advice or not self.processes.first:
            return
        found = {"heart": advice.by_heart(self.read_metrics(), self.objective.monitor)}
        if self.watch.remark is not None and self.held_out:
            found["remark"] = self.watch.remark(self.held_out, self.plan.progress(self.step))
        for kind, text in found.items():
            if text and kind not in said:
                said.add(kind)
                self.reporter.warn(text)

    def preview(self) -> None:
        """Write a preview with the averaged weights; a preview that fails ends no training."""
        if self.watch.preview is None or not self.processes.first:
            return
        begun = time.perf_counter()
        try:
            with self.averaged(), torch.random.fork_rng(), torch.inference_mode():
                self.watch.preview(self.step)
        except (ActseqError, OSError, RuntimeError, ValueError) as error:
            self.reporter.warn(f"no preview at step {self.step}: {error}")
        self.clock.preview = time.perf_counter() - begun
        self.clock.shown += self.clock.preview

    def replan(self, marked: tuple[int, float]) -> bool:
        """Fit the number of steps to the time that is left, or take one thread; whether the plan has changed.

        Args:
            marked: step and time of the last validation.
        """
        if self.clock.budget is None or self.step == marked[0]:
            return False
        step_seconds = (time.perf_counter() - marked[1] - self.clock.shown) / (self.step - marked[0])
        left = self.clock.budget - self.clock.spent
        if self.watch.preview is not None:
            left -= self.clock.preview * (1 + left // self.watch.preview_seconds)
        before, clock = self.plan, self.clock
        threads = torch.get_num_threads() if self.may_choose_threads else 1
        if threads > 1 and step_seconds > COLLAPSED * clock.step_seconds and before.may_change(self.step):
            # How many steps fit into the time is seen at the next validation.
            self.plan = before.extended(Stretch(self.step, before.total, threads=1))
            self.reporter.say(
                f"one thread from here on: with {threads}, a step has come to take {units.duration(step_seconds)} in "
                f"place of {units.duration(clock.step_seconds)}"
            )
        else:
            self.plan = self.processes.share(replanned(before, self.step, left, step_seconds))
            clock.step_seconds = min(clock.step_seconds, step_seconds)
        return self.plan != before

    def conclude(self, name: str) -> None:
        """Say by how much the time was missed, and whether more time or more sound would help."""
        if not self.processes.first:
            return
        budget = self.clock.budget
        if budget is not None and self.step == self.plan.total and abs(self.clock.spent - budget) > MISSED * budget:
            missed = self.clock.spent - budget
            self.reporter.say(
                f"{name} ended {units.duration(abs(missed))} {'later' if missed > 0 else 'earlier'} than the "
                f"{units.duration(budget)} that were asked for"
            )
        text = advice.outlook(self.read_metrics(), self.objective.monitor, self.first)
        if text and self.watch.advice:
            self.reporter.say(f"{name}: {text}")

    def out_of_patience(self) -> bool:
        """Whether the last `patience` validations brought no improvement."""
        every = self.plan.validate_every(self.config)
        if self.config.patience is None or self.best is None or self.step % every:
            return False
        since = max(self.best_step, self.plan.restart.from_step)
        return self.step - since >= self.config.patience * every

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": value for name, value in self.wrapped.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for name, optimiser in self.optimisers.items():
            for index, entries in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{name}.{index}.{key}": torch.as_tensor(value) for key, value in entries.items()}
        # Safetensors refuses tensors that share storage; cloning is cheap compared with writing.
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def save(self, *, anchor: bool = False) -> None:
        """Write a checkpoint under a temporary name, rename it, then delete older ones but the one to go back to.

        Args:
            anchor: the training is taken back to this one from now on.

        Raises:
            ArtifactError: the folder of the training was removed or replaced.
        """
        self.check_place()
        self.anchor = self.step if anchor else self.anchor
        if not self.processes.first:
            return
        final = self.checkpoint_path(self.step, self.unvalidated)
        if not final.is_dir():
            temporary = final.with_name(f".{final.name}.part")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            sha256 = save_tensors(temporary / "state.safetensors", self.state())
            write_json(
                temporary / "state.json",
                {
                    "step": self.step,
                    **({} if self.anchor == self.step else {"anchor": self.anchor}),
                    "total_steps": self.plan.total,
                    **({} if self.plan.stretches == Plan.of(self.plan.total).stretches else {"plan": self.plan.tree()}),
                    **self.plan.changes_tree(),
                    **({} if self.clock.budget is None else {"seconds": self.clock.spent}),
                    **({"unvalidated": True} if self.unvalidated else {}),
                    "first": self.first,
                    "best": self.best,
                    "best_step": self.best_step,
                    "files": self.files(),
                    "best_figures": self.best_figures,
                    "sums": self.sums,
                    "count": self.count,
                    "sha256": sha256,
                },
            )
            hashes.add(temporary, ["state.json"])
            temporary.rename(final)
        self.delete_checkpoints(keep={self.checkpoint_path(self.anchor), final})
        for old in final.parent.glob("best-*.safetensors"):
            if old != self.best_path():
                old.unlink()

    def delete_checkpoints(self, keep: Collection[Path]) -> None:
        """Delete all checkpoints but some."""
        for path in (self.folder / "checkpoints").glob("step-*"):
            if path not in keep:
                shutil.rmtree(path)

    def check_place(self) -> None:
        """Refuse to go on in a folder that is not the one that the training began in.

        Raises:
            ArtifactError: it was removed or replaced.
        """
        if self.processes.first and _place(self.folder) != self.place:
            raise ArtifactError(f"{self.folder} was removed or replaced while a training ran in it")

    def best_path(self) -> Path:
        return self.folder / "checkpoints" / f"best-{self.best_step:08d}.safetensors"

    def files(self) -> dict[str, str]:
        """Hashes of the files that a resumed training depends on besides its state, by name in the folder."""
        settings = self.folder / "settings.json"
        found = {settings.name: files.sha256(settings)} if settings.is_file() else {}
        if self.best_sha256 is not None:
            found[self.best_path().relative_to(self.folder).as_posix()] = self.best_sha256
        return found

    def checkpoint_path(self, step: int, unvalidated: bool = False) -> Path:
        """Folder of the checkpoint of a step.

        The name of one that is to be validated yet comes after that of the one that takes its place.
        """
        return self.folder / "checkpoints" / f"step-{step:08d}{'-unvalidated' if unvalidated else ''}"

    def checkpoint(self) -> Path:
        """Folder of the last checkpoint, which there must be."""
        return max((self.folder / "checkpoints").glob("step-*"))

    def resume(self) -> bool:
        """Continue from the last checkpoint; False if there is none.

        Raises:
            ArtifactError: the checkpoint, or a file that belongs to it, is damaged or has changed.
        """
        meta, tensors = read_checkpoint(self.folder)
        if not meta:
            return False
        try:
            self.load_state(tensors)
        except (RuntimeError, ValueError, KeyError) as error:
            first = " ".join(str(error).split())[:200]
            raise ArtifactError(
                f"the checkpoint in {self.folder} does not fit this training ({first})",
                action=f"copy the run again, or delete {self.folder} to begin again",
            ) from None
        self.step, self.best, self.best_step = meta["step"], meta["best"], meta["best_step"]
        self.first, self.unvalidated = meta.get("first"), bool(meta.get("unvalidated"))
        self.anchor = meta.get("anchor", self.step)
        self.clock.before = float(meta.get("seconds", 0.0))
        self.best_figures, self.sums, self.count = meta["best_figures"], meta["sums"], meta["count"]
        if self.best is not None:
            self.best_sha256 = files.sha256(self.best_path())
        return True

    def write_plan(self) -> None:
        """Write the plan.

        Raises:
            ArtifactError: the folder of the training was removed or replaced.
        """
        self.check_place()
        if self.processes.first:
            self.plan.write(self.folder / "plan.json")

    # -- faults ---------------------------------------------------------------------------------------------------

    def take_back(self, fault: NotFiniteError) -> None:
        """Go back to the last validation, or to the beginning, and go on from there with a lower learning rate.

        A process that is killed meanwhile finds the fault again, or the plan that the fault has changed.

        Raises:
            TrainingError: the training was taken back often enough.
        """
        before = self.plan.change(self.step)
        if before.retries >= faults.RETRIES:
            raise self.explained(fault)
        self.check_place()
        if self.processes.first:
            self.delete_checkpoints(keep={self.checkpoint_path(self.anchor)})
        change = replace(before, from_step=self.anchor, retries=before.retries + 1, rate=before.rate * faults.LOWER)
        self.plan = self.plan.changed(change)
        self.write_plan()
        self.processes.wait()
        spent = self.clock.before
        if not self.resume():
            raise ArtifactError(f"{self.folder} has lost its checkpoints while a training ran in it")
        self.clock.before = spent
        self.cut_metrics()
        self.events = None
        self.reporter.warn(
            f"{fault.found}: back to step {self.step}, and on with {change.rate:.2g} of the learning rate "
            f"(try {change.retries} of {faults.RETRIES})"
        )

    def explained(self, fault: NotFiniteError) -> TrainingError:
        """The fault with the files that it comes from, where they can be found."""
        tries = self.plan.change(self.step).retries
        found = fault.found + (f", also after {tries} tries with lower learning rates" if tries else "")
        broken, others = self.blamed(fault.held_out)
        if broken:
            action = f"it comes from {faults.named(broken)}: leave that sound out, or mend it, and begin another run"
        else:
            made = f"; the batch was made of {faults.named(others)}" if others else ""
            action = f"no sound of the batch gives it alone, the model has diverged: {TRY_LOWER}{made}"
        return TrainingError(found, fault.expected, action)

    def blamed(self, held_out: bool) -> tuple[list[str], list[str]]:
        """Where the rows come from that are not finite by themselves, and where all rows of the batches come from."""

        def is_finite(rows: Batch) -> bool:
            try:
                if held_out:
                    return bool(torch.isfinite(self.objective.validate(rows)[self.objective.monitor]))
                found = chain.from_iterable(self.in_parts(rows)[0].values())
                return all(gradient is None or bool(gradient.isfinite().all()) for gradient in found)
            except NotFiniteError:
                return False

        source = self.validation_source if held_out and self.validation_source else self.train_source
        broken: list[str] = []
        everything: list[str] = []
        if not isinstance(source, TracedSource):
            return broken, everything
        if held_out:
            asked, progress = [(i, 0) for i in range(self.config.validation_batches)], 1.0
        else:
            asked, progress = [(self.step, n) for n in range(self.config.accumulate)], self.plan.progress(self.step)
        with self.averaged() if held_out else nullcontext():
            for step, number in asked:
                origins = source.origins(step, number)
                broken += [
                    origins[row] for row in faults.broken_rows(self.batch(source, step, progress, number), is_finite)
                ]
                everything += origins
        return broken, everything

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.wrapped.load_state_dict(
            {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        )
        self.average = {
            k.removeprefix("average."): v.to(self.fabric.device) for k, v in tensors.items() if k.startswith("average.")
        }
        for name, optimiser in self.optimisers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"optimiser.{name}."):
                    _, _, index, entry = key.split(".")
                    state.setdefault(int(index), {})[entry] = value
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})

    # -- log ------------------------------------------------------------------------------------------------------

    def cut_metrics(self) -> None:
        """Delete rows that were written after the last checkpoint."""
        if self.processes.first and (rows := self.read_metrics()):
            steps = [str(row.get("step", "")) for row in rows]
            rows = [row for row, step in zip(rows, steps, strict=True) if step.isdecimal() and int(step) <= self.step]
            self.write_metrics(rows)

    def log(self, prefix: str, figures: Mapping[str, float]) -> None:
        """Add figures to the row of the current step; new figures become new columns."""
        if not self.processes.first:
            return
        rows = self.read_metrics()
        row = {"step": str(self.step)} | {f"{prefix}/{name}": f"{value:.6g}" for name, value in figures.items()}
        if rows and rows[-1]["step"] == row["step"]:
            rows[-1] |= row
        else:
            rows.append(row)
        self.write_metrics(rows)
        if self.writes_events:
            self.write_events(prefix, figures)

    def write_events(self, prefix: str, figures: Mapping[str, float]) -> None:
        """Write figures for TensorBoard; what it has of later steps, from before an interruption, is dropped."""
        if self.events is None:
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(self.folder / "events", purge_step=self.step)
        for name, value in figures.items():
            self.events.add_scalar(f"{prefix}/{name}", value, self.step)
        self.events.flush()

    def read_metrics(self) -> list[dict[str, str]]:
        path = self.folder / "metrics.csv"
        if not path.is_file():
            return []
        try:
            text = files.read_whole(path).decode()
            rows = list(csv.DictReader(io.StringIO(text, newline=""), restval=""))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ArtifactError(f"{path} is damaged ({error})", action=f"delete {path}; it is only a log") from None
        # A row with more cells than columns has them under no name.
        return [{name: cell for name, cell in row.items() if isinstance(name, str)} for row in rows]

    def write_metrics(self, rows: list[dict[str, str]]) -> None:
        self.check_place()
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_file(self.folder / "metrics.csv", text.getvalue().encode())


def _place(folder: Path) -> tuple[int, int] | None:
    """What identifies a folder, whatever its name; None if there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _added(one: list[Tensor | None], other: list[Tensor | None]) -> list[Tensor | None]:
    """Sums of two lists of gradients; None counts as 0."""
    return [b if a is None else a if b is None else a + b for a, b in zip(one, other, strict=True)]


@dataclass
class _Clock:
    """The time of a training that has a budget in minutes.

    Attributes:
        budget: seconds; None: the budget is in steps, or the plan is given.
        before: seconds that earlier processes trained for.
        begun: `time.perf_counter()` from which this process counts.
        shown: seconds of previews since the last validation.
        preview: seconds of the last preview.
        step_seconds: time of a step, where it was shortest.
    """

    budget: float | None = None
    before: float = 0.0
    begun: float = 0.0
    shown: float = 0.0
    preview: float = 0.0
    step_seconds: float = math.inf

    @property
    def spent(self) -> float:
        """Seconds that count."""
        return self.before + time.perf_counter() - self.begun


def plan_steps(trainer: _Trainer, seconds: float) -> Stretch:
    """The steps that fit into some time, the validations among them, and threads. Only the model is as it was then.

    Raises:
        Interrupted: there was a signal.
    """
    trainer.plan = Plan.of(1000)
    initial = copy.deepcopy(trainer.objective.state_dict())  # type: ignore[attr-defined]
    begun, default = time.perf_counter(), torch.get_num_threads()
    threads = default
    if trainer.may_choose_threads and default > 1:
        torch.set_num_threads(1)
        alone = _time_steps(trainer)
        torch.set_num_threads(default)
        times = _time_steps(trainer, COLLAPSED * float(np.mean(alone)))
        if np.mean(times) > CLEARLY * np.mean(alone):
            trainer.reporter.say(
                f"computing with one thread: a step takes {units.duration(float(np.mean(alone)))} with it, and "
                f"{units.duration(float(np.mean(times)))} with {default}"
            )
            threads, times = 1, alone
        torch.set_num_threads(threads)
    else:
        times = _time_steps(trainer)
    start = time.perf_counter()
    with suppress(NotFiniteError):
        trainer.validate()
    validation = time.perf_counter() - start
    trainer.objective.load_state_dict(initial)  # type: ignore[attr-defined]
    left, asked = seconds - (time.perf_counter() - begun), trainer.config.validations
    fitting = max(FEWEST_VALIDATIONS, int(VALIDATING * left / validation)) if validation > 0 else asked
    # The model is also validated before its first step.
    n_steps = max(10, int((left - (1 + min(fitting, asked)) * validation) / float(np.median(times))))
    n_steps, fitting = trainer.processes.share((n_steps, fitting))
    return Stretch(
        0,
        n_steps,
        threads=threads if trainer.may_choose_threads else None,
        validations=fitting if fitting < asked else None,
    )


def _time_steps(trainer: _Trainer, too_long: float = math.inf) -> list[float]:
    """Seconds of some steps, after a few that are not counted.

    Args:
        trainer: makes the steps.
        too_long: two first steps that take longer than this on average are enough.

    Raises:
        Interrupted: there was a signal.
    """
    begun = time.perf_counter()
    times: list[float] = []
    # A number that is not finite ends the timing; the training finds it again, and goes back for it.
    with suppress(NotFiniteError):
        while trainer.processes.share(len(times) < 8 or time.perf_counter() - begun < CALIBRATION_SECONDS):
            start = time.perf_counter()
            trainer.train_step()
            times.append(time.perf_counter() - start)
            if number := trainer.asked_to_stop():
                raise Interrupted(number)
            if len(times) == 2 and sum(times) > 2 * too_long:
                break
    return times[3:] or times or [time.perf_counter() - begun]


@contextmanager
def _own_threads() -> Iterator[None]:
    """Give torch back, at the end, the number of threads that it had."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect `SIGNALS` instead of ending the process, unless they are ignored, as under `nohup`.

    Outside the main thread, nothing is collected.

    Raises:
        Interrupted: at the end, if there was a signal.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) >= PATIENCE_OF_USERS:
            raise Interrupted(number)

    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    try:
        previous = {number: signal.signal(number, note) for number in heard}
    except ValueError:
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    # One that came after the last step would be lost otherwise.
    if received:
        raise Interrupted(received[0])


def train(
    objective: Objective,
    sources: tuple[Source, Source | None],
    config: TrainingConfig,
    folder: Path,
    *,
    name: str,
    seed: int,
    conduct: Conduct,
) -> Outcome:
    """Train to the end; an unfinished training in `folder` is resumed, and a finished one goes on if it is asked to.

    Args:
        objective: gives the losses of the model that is trained.
        sources: batches to train on, and held-out batches. Without held-out batches the last weights are the result.
        config: number of steps or minutes, optimiser, validation.
        folder: folder for `metrics.csv`, `plan.json` and `checkpoints/`.
        name: name of the training in messages.
        seed: seed of the random numbers in the steps.
        conduct: device, reporter, budget and what is shown.

    Raises:
        TrainingError: a loss, a gradient or a held-out figure is not finite, also with lower learning rates; a batch
            does not fit into memory row by row; or the training has diverged.
        ArtifactError: what is resumed from is damaged; or `folder` was removed or replaced meanwhile.
        Interrupted: SIGINT, SIGTERM or SIGHUP arrived; a checkpoint was written, unless steps were only timed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    devices = [conduct.device] if conduct.device.type == "cuda" else []
    with torch.random.fork_rng(devices), _own_threads(), _signals() as received:

        def start() -> _Trainer:
            trainer = _Trainer(objective, *sources, config, folder, seed, conduct)
            trainer.received = received
            return trainer

        trainer = _planned(start, conduct.budget)
        if trainer.step:
            trainer.reporter.say(f"resuming at step {trainer.step} of {trainer.plan.total}")
        trainer.cut_metrics()
        _run(trainer, name)
        trainer.processes.wait()
        best = trainer.best_path()
        tensors = load_tensors(best, trainer.best_sha256) if trainer.best is not None else trainer.average
        _judge(trainer, tensors, name)
        return Outcome(
            dict(tensors),
            trainer.best_figures,
            trainer.step,
            trainer.best_step if trainer.best is not None else trainer.step,
        )


def _planned(start: Callable[[], _Trainer], budget: Budget) -> _Trainer:
    """A trainer at the step where it goes on, with its plan and its clock.

    Raises:
        ArtifactError: the plan that is to be repeated is damaged, or contradicts the checkpoint.
        ConfigError: a training is to go on that has not finished.
        Interrupted: a signal arrived while steps were timed.
    """
    trainer, begun = start(), time.perf_counter()
    config, path, processes = trainer.config, trainer.folder / "plan.json", trainer.processes
    # What the first process finds decides, since it may write this file before the others look.
    there = processes.share(path.is_file())
    if budget.more is not None and not there:
        raise ConfigError(f"--more, but {trainer.folder} holds no training", action="train it first, without --more")
    given = None if budget.plan is None else Plan.read(budget.plan)
    if there:
        trainer.plan = Plan.read(path)
        if given is not None and given.stretches != trainer.plan.stretches:
            raise ConfigError(f"{path} has another plan than {budget.plan}", action="name another run with --run")
        if trainer.resume():
            trainer.plan = agreed(trainer.plan, read_json(trainer.checkpoint() / "state.json"), path)
    elif given is not None or config.steps is not None:
        trainer.plan = given or Plan.of(config.steps or 1)
    else:
        assert config.minutes is not None
        preparing = 0.0 if budget.begun is None else begun - budget.begun
        begun -= min(preparing, PREPARING_SHARE * 60 * config.minutes)
        left = 60 * config.minutes - (time.perf_counter() - begun)
        trainer, first = _timed(start, trainer, left)
        trainer.plan = Plan((first,), config.minutes)
    if budget.more is not None:
        trainer = _more(start, trainer, budget.more)
    if processes.first and (budget.more is not None or not there):
        trainer.plan.write(path)
    minutes = trainer.plan.budget if given is None else None
    trainer.clock.budget = None if minutes is None else 60 * minutes
    trainer.clock.begun = begun
    trainer.use_threads()
    return trainer


def _timed(start: Callable[[], _Trainer], trainer: _Trainer, seconds: float) -> tuple[_Trainer, Stretch]:
    """A new trainer, and as many steps as fit into some seconds, by timing steps of another trainer."""
    trainer.reporter.say(f"timing steps to see how many fit into {units.duration(seconds)}")
    first = plan_steps(trainer, seconds)
    return start(), first


def _more(start: Callable[[], _Trainer], trainer: _Trainer, minutes: float) -> _Trainer:
    """A finished training that goes on for some minutes; one that was stopped while it went on is resumed.

    Raises:
        ConfigError: it has not finished, or its checkpoint has gone.
    """
    plan, step = trainer.plan, trainer.step
    finished = step >= plan.total or trainer.out_of_patience()
    if not finished and plan.restart.peak is not None:
        return trainer
    if not finished:
        raise ConfigError(
            f"--more, but the training in {trainer.folder} is at step {step} of {plan.total}, by its last checkpoint",
            action="let it finish first: the same command without --more",
        )
    trainer, first = _timed(start, start(), 60 * minutes)
    trainer.resume()
    trainer.plan = plan.extended(Stretch(step, step + first.total_steps, RESTART, minutes, first.threads))
    trainer.clock.before = 0.0
    return trainer


def _run(trainer: _Trainer, name: str) -> None:
    """Train to the last step of the plan, or until there is no patience left.

    Raises:
        Interrupted: there was a signal; a checkpoint was written.
    """
    reporter = trainer.reporter
    saved = shown_at = time.perf_counter()
    marked = (trainer.step, time.perf_counter())
    shown: dict[str, float] = {}
    said: set[str] = set()
    reporter.begin(name, trainer.plan.total, trainer.step)
    _begin(trainer)
    # A resumed training ends at the same step: everything that decides it is in the checkpoint.
    while trainer.unvalidated or (trainer.step < trainer.plan.total and not trainer.out_of_patience()):
        try:
            held_out = _advance(trainer, shown)
        except NotFiniteError as fault:
            trainer.take_back(fault)
            marked, trainer.clock.shown = (trainer.step, time.perf_counter()), 0.0
            continue
        except Interrupted:
            if trainer.unvalidated:
                # The training goes on from here with this validation.
                trainer.save()
            reporter.end()
            raise
        if held_out:
            trainer.warn(said)
            changed = trainer.replan(marked)
            trainer.save(anchor=True)
            if changed:
                trainer.write_plan()
                reporter.resize(trainer.plan.total)
            saved = time.perf_counter()
            marked, trainer.clock.shown = (trainer.step, saved), 0.0
        elif trainer.asked_to_stop() or time.perf_counter() - saved > CHECKPOINT_SECONDS:
            trainer.save()
            saved = time.perf_counter()
        if number := trainer.asked_to_stop():
            reporter.end()
            # The others may be ended as soon as one of them ends.
            trainer.processes.wait()
            raise Interrupted(number)
        if trainer.step == trainer.plan.total or time.perf_counter() - shown_at > trainer.watch.preview_seconds:
            trainer.preview()
            shown_at = time.perf_counter()
    reporter.end()
    if trainer.step < trainer.plan.total:
        total = trainer.plan.total
        reporter.say(f"{name}: no better since step {trainer.best_step}, stopped at {trainer.step} of {total}")
    trainer.check_place()
    trainer.conclude(name)


def _begin(trainer: _Trainer) -> None:
    """Measure the untrained model, and keep it to go back to.

    Raises:
        TrainingError: its held-out figure is not finite.
    """
    if trainer.step:
        return
    plan = trainer.plan
    if trainer.validation_source is not None and trainer.first is None:
        try:
            trainer.first = trainer.validate()[trainer.objective.monitor]
        except NotFiniteError as fault:
            raise trainer.explained(fault) from None
    if trainer.plan is not plan:
        trainer.write_plan()
    trainer.save(anchor=True)


def _advance(trainer: _Trainer, shown: dict[str, float]) -> bool:
    """Make a step, and validate where it is time to; whether it was. What is shown is added to `shown`.

    Raises:
        NotFiniteError: a loss, a gradient or the held-out figure is not finite.
    """
    plan = trainer.plan
    if not trainer.unvalidated:
        _make_step(trainer, shown)
    if held_out := trainer.unvalidated:
        shown |= trainer.validated()
        trainer.unvalidated = False
    if trainer.plan is not plan:
        trainer.write_plan()
    return held_out


def _make_step(trainer: _Trainer, shown: dict[str, float]) -> None:
    """Make a step, log and show its figures, and note whether its validation is due."""
    plan = trainer.plan
    trainer.use_threads()
    figures = trainer.train_step()
    for key, value in figures.items():
        trainer.sums[key] = trainer.sums.get(key, 0.0) + value
    trainer.count += 1
    last = trainer.step == trainer.plan.total
    if trainer.step % max(1, plan.stretches[0].total_steps // LOG_ROWS) == 0 or last:
        means = {key: value / trainer.count for key, value in trainer.sums.items()}
        shown |= means
        trainer.log("train", means)
        trainer.sums, trainer.count = {}, 0
    trainer.reporter.advance(trainer.step, shown or figures)
    trainer.unvalidated = trainer.step % trainer.plan.validate_every(trainer.config) == 0 or last


def _judge(trainer: _Trainer, tensors: Mapping[str, Tensor], name: str) -> None:
    """Refuse the result of a training that has diverged.

    Raises:
        TrainingError: a weight is not finite, or the best held-out figure is far above that of the untrained model.
    """
    # Buffers may hold bounds that are infinite.
    parameters = dict(trainer.objective.exported().named_parameters())
    broken = [key for key, value in tensors.items() if key in parameters and not bool(value.isfinite().all())]
    if broken:
        raise TrainingError(f"{name} has diverged: {broken[0]} is not finite", "finite weights", TRY_LOWER)
    first, best = trainer.first, trainer.best
    if first is None or best is None:
        return
    if best - first > (DIVERGED - 1) * max(abs(first), SMALLEST):
        raise TrainingError(
            f"{name} has diverged: its held-out {trainer.objective.monitor} is {best:.4g} at best, and was {first:.4g} "
            "before the first step",
            "a training that improves its model",
            TRY_LOWER,
        )
