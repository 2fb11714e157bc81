"""A training at a step: it makes steps, validates, keeps checkpoints, and goes back to them after a fault.

A batch and the random numbers of a step depend on (seed, step, number of the batch in the step) alone. A step averages
the gradients of `accumulate` batches; where several processes train together each takes its share.

A number that is not finite takes the training back to its last validation, with a lower learning rate; that checkpoint
is kept for it. A batch that does not fit into memory goes through in parts. Both are in the plan.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from actseq import units
from actseq.config import TrainingConfig
from actseq.errors import ActseqError, ArtifactError, ConfigError, Interrupted, TrainingError
from actseq.objectives.base import Batch, KeepsLast, Objective
from actseq.progress import HELD_OUT, Reporter
from actseq.storage import files
from actseq.storage.artifacts import load_tensors, save_tensors
from actseq.storage.processes import here
from actseq.training import advice, faults
from actseq.training.checkpoints import read_checkpoint
from actseq.training.conduct import Clock, Conduct
from actseq.training.faults import TRY_LOWER, NotFiniteError
from actseq.training.folder import TrainingFolder
from actseq.training.learner import Gradients, Learner, added
from actseq.training.plan import Plan, Stretch, replanned
from actseq.training.sources import Source, TracedSource, step_seed

COLLAPSED = 4.0
"""At a validation, one thread is taken in place of several if steps take this many times as long as they did."""
MISSED = 0.1
"""A training that ends this fraction of its minutes too early or too late says so."""
DIVERGED = 100.0
"""A training has failed if its best held-out figure is more than this many times that of the untrained model."""
SMALLEST = 0.1
"""Held-out figures nearer to 0 at the start count as this."""

T = TypeVar("T")


class Trainer:
    """The state of a training.

    Args:
        objective: gives the losses of the model that is trained.
        sources: batches to train on, and held-out batches, if there are any.
        config: number of steps or minutes, optimiser, validation.
        folder: folder of the training.
        seed: seed of the random numbers in the steps.
        conduct: device, reporter, budget and what is shown.

    Raises:
        ConfigError: `accumulate` cannot be shared out among the processes.
    """

    def __init__(
        self,
        objective: Objective,
        sources: tuple[Source, Source | None],
        config: TrainingConfig,
        folder: Path,
        seed: int,
        conduct: Conduct,
    ) -> None:
        self.config, self.seed, self.objective = config, seed, objective
        self.processes = here()
        if config.accumulate % self.processes.size:
            raise ConfigError(
                f"{self.processes.size} processes are to train together, and accumulate is {config.accumulate}",
                f"a multiple of {self.processes.size}: a step averages so many batches, shared out among the processes",
                f"--set train_ae.accumulate={self.processes.size} (or that of train_prior, train_vocoder)",
            )
        self.folder = TrainingFolder(folder, writes=self.processes.first, events=conduct.events)
        self.reporter: Reporter = conduct.reporter
        self.watch = conduct.watch
        # Several processes have their threads from the program that starts them.
        self.may_choose_threads = conduct.may_choose_threads and self.processes.size == 1
        self.train_source, self.validation_source = sources
        self.learner = Learner(objective, config, conduct.device)
        self.step = 0
        self.anchor = 0
        """Step of the checkpoint that the training is taken back to."""
        self.plan = Plan.of(config.steps or 1, config.minutes)
        self.clock = Clock()
        self.held_out: dict[str, float] = {}
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
        """A batch of a source, on the device of the training."""
        return self.learner.to_device(source, step, progress, number)

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
            self.told = self.learner.reduce(gradients, figures, self.received[0] if self.received else 0)
        self.learner.step(gradients, rate, self.step)
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
                gradients[name] = added(gradients[name], values) if name in gradients else values
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
            for name, loss in self.learner.losses(part).items():
                found = self.learner.backward(name, loss, self.step, fraction)
                gradients[name] = added(gradients[name], found) if name in gradients else found
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
        self.learner.forget_gradients()
        if self.learner.fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        self.reporter.warn(
            f"step {self.step}: not enough memory for {-(-size // change.parts)} at a time; from here on a batch of "
            f"{size} goes in {parts} parts, and their gradients are added"
        )

    def asked_to_stop(self) -> int:
        """The signal after which this step is the last, or 0. Of several processes, all stop after the same step."""
        return self.told if self.processes.size > 1 else self.received[0] if self.received else 0

    # -- validation -----------------------------------------------------------------------------------------------

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
        with self.learner.averaged():
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
        """Validate, log, and keep the weights that are asked for; the figures as they are shown.

        Raises:
            NotFiniteError: the figure that is watched is not finite.
            Interrupted: a signal arrived.
        """
        held_out = self.validate()
        if not held_out:
            return {}
        self.folder.log(self.step, "validation", held_out)
        monitored = held_out[self.objective.monitor]
        if self.best is None or self.keeps_last or monitored < self.best:
            self.best, self.best_step, self.best_figures = monitored, self.step, held_out
            if self.processes.first:
                self.best_sha256 = save_tensors(self.best_path(), self.learner.average)
            self.best_sha256 = self.processes.share(self.best_sha256)
        self.held_out = held_out
        return {HELD_OUT + key: value for key, value in held_out.items()}

    def best_path(self) -> Path:
        """The weights of the best validation, or of the last one if these are kept."""
        return self.folder.best(self.best_step)

    @property
    def keeps_last(self) -> bool:
        """Whether the weights of the last step are kept, whatever the best validation was."""
        if self.config.weights is None:
            return isinstance(self.objective, KeepsLast) and self.config.patience is None
        return self.config.weights == "last"

    def out_of_patience(self) -> bool:
        """Whether the last `patience` validations brought no improvement."""
        every = self.plan.validate_every(self.config)
        if self.config.patience is None or self.best is None or self.step % every:
            return False
        since = max(self.best_step, self.plan.restart.from_step)
        return self.step - since >= self.config.patience * every

    def result(self) -> dict[str, Tensor]:
        """Averaged weights at the best validation, or at the last one if these are kept; else at the last step."""
        if self.best is None:
            return self.learner.average
        return dict(load_tensors(self.best_path(), self.best_sha256))

    def judge(self, tensors: dict[str, Tensor], name: str) -> None:
        """Refuse the result of a training that has diverged.

        Raises:
            TrainingError: a weight is not finite, or the held-out figure is far above that of the untrained model.
        """
        # Buffers may hold bounds that are infinite.
        parameters = dict(self.objective.exported().named_parameters())
        broken = [key for key, value in tensors.items() if key in parameters and not bool(value.isfinite().all())]
        if broken:
            raise TrainingError(f"{name} has diverged: {broken[0]} is not finite", "finite weights", TRY_LOWER)
        first, best = self.first, self.best
        if first is None or best is None:
            return
        if best - first > (DIVERGED - 1) * max(abs(first), SMALLEST):
            raise TrainingError(
                f"{name} has diverged: its held-out {self.objective.monitor} is {best:.4g}, and was "
                f"{first:.4g} before the first step",
                "a training that improves its model",
                TRY_LOWER,
            )

    # -- what is said and shown -----------------------------------------------------------------------------------

    def warn(self, said: set[str]) -> None:
        """Say what is off, each thing once."""
        if not self.watch.advice or not self.processes.first:
            return
        found = {"heart": advice.by_heart(self.folder.read_metrics(), self.objective.monitor, last=self.keeps_last)}
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
            with self.learner.averaged(), torch.random.fork_rng(), torch.inference_mode():
                self.watch.preview(self.step)
        except (ActseqError, OSError, RuntimeError, ValueError) as error:
            self.reporter.warn(f"no preview at step {self.step}: {error}")
        self.clock.preview = time.perf_counter() - begun
        self.clock.shown += self.clock.preview

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
        text = advice.outlook(
            self.folder.read_metrics(), self.objective.monitor, self.first, self.watch.longer, last=self.keeps_last
        )
        if text and self.watch.advice:
            self.reporter.say(f"{name}: {text}")

    # -- plan and checkpoints -------------------------------------------------------------------------------------

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

    def save(self, *, anchor: bool = False) -> None:
        """Write a checkpoint, then delete older ones but the one to go back to.

        Args:
            anchor: the training is taken back to this one from now on.

        Raises:
            ArtifactError: the folder of the training was removed or replaced.
        """
        self.folder.check()
        self.anchor = self.step if anchor else self.anchor
        if not self.processes.first:
            return
        final = self.folder.checkpoint(self.step, self.unvalidated)
        if not final.is_dir():
            meta = {
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
                "files": self.folder.hashes(self.best_path(), self.best_sha256),
                "best_figures": self.best_figures,
                "sums": self.sums,
                "count": self.count,
            }
            self.folder.write_checkpoint(final, meta, self.learner.state())
        self.folder.delete_checkpoints(keep={self.folder.checkpoint(self.anchor), final})
        self.folder.delete_best(keep=self.best_path())

    def resume(self) -> bool:
        """Continue from the last checkpoint; False if there is none.

        Raises:
            ArtifactError: the checkpoint, or a file that belongs to it, is damaged or has changed.
        """
        meta, tensors = read_checkpoint(self.folder.path)
        if not meta:
            return False
        try:
            self.learner.load_state(tensors)
        except (RuntimeError, ValueError, KeyError) as error:
            first = " ".join(str(error).split())[:200]
            raise ArtifactError(
                f"the checkpoint in {self.folder.path} does not fit this training ({first})",
                action=f"copy the run again, or delete {self.folder.path} to begin again",
            ) from None
        self.step, self.best, self.best_step = meta["step"], meta["best"], meta["best_step"]
        self.first, self.unvalidated = meta.get("first"), bool(meta.get("unvalidated"))
        self.anchor = meta.get("anchor", self.step)
        self.clock.before = float(meta.get("seconds", 0.0))
        self.best_figures, self.sums, self.count = meta["best_figures"], meta["sums"], meta["count"]
        if self.best is not None:
            self.best_sha256 = files.sha256(self.best_path())
        return True

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
        self.folder.check()
        if self.processes.first:
            self.folder.delete_checkpoints(keep={self.folder.checkpoint(self.anchor)})
        change = replace(before, from_step=self.anchor, retries=before.retries + 1, rate=before.rate * faults.LOWER)
        self.plan = self.plan.changed(change)
        self.folder.write_plan(self.plan)
        self.processes.wait()
        spent = self.clock.before
        if not self.resume():
            raise ArtifactError(f"{self.folder.path} has lost its checkpoints while a training ran in it")
        self.clock.before = spent
        self.folder.cut_metrics(self.step)
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
        with self.learner.averaged() if held_out else nullcontext():
            for step, number in asked:
                origins = source.origins(step, number)
                broken += [
                    origins[row] for row in faults.broken_rows(self.batch(source, step, progress, number), is_finite)
                ]
                everything += origins
        return broken, everything
