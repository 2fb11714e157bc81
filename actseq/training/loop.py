"""The training loop, one for every objective.

A training that is killed and resumed ends with the same bytes as one that ran through: see `actseq.training.trainer`
for what a step depends on. `minutes` becomes a number of steps by timing steps that are thrown away before step 0; at
validations the number may change, see `actseq.training.plan`. A checkpoint is a folder of safetensors and JSON that is
renamed into place, and on resuming `metrics.csv` is cut back to the step of the checkpoint.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from actseq.config import TrainingConfig
from actseq.errors import Interrupted
from actseq.objectives.base import Objective
from actseq.training.conduct import Conduct
from actseq.training.devices import own_threads
from actseq.training.faults import NotFiniteError
from actseq.training.signals import collected_signals
from actseq.training.sources import Source
from actseq.training.timing import planned
from actseq.training.trainer import Trainer

LOG_ROWS = 200
"""Rows of training figures in `metrics.csv`."""
CHECKPOINT_SECONDS = 60.0
"""A checkpoint is written at least this often."""


@dataclass(frozen=True)
class Outcome:
    """The result of a training.

    Attributes:
        tensors: averaged weights of the model at the validation whose weights are kept: the best or the last one.
        figures: validation figures at that step.
        total_steps: number of steps made.
        best_step: step of that validation.
    """

    tensors: dict[str, Tensor]
    figures: dict[str, float]
    total_steps: int
    best_step: int


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
    with torch.random.fork_rng(devices), own_threads(), collected_signals() as received:

        def start() -> Trainer:
            trainer = Trainer(objective, sources, config, folder, seed, conduct)
            trainer.received = received
            return trainer

        trainer = planned(start, conduct.budget)
        if trainer.step:
            trainer.reporter.say(f"resuming at step {trainer.step} of {trainer.plan.total}")
        trainer.folder.cut_metrics(trainer.step)
        _run(trainer, name)
        trainer.processes.wait()
        tensors = trainer.result()
        trainer.judge(tensors, name)
        best_step = trainer.step if trainer.best is None else trainer.best_step
        return Outcome(tensors, trainer.best_figures, trainer.step, best_step)


def _run(trainer: Trainer, name: str) -> None:
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
                trainer.folder.write_plan(trainer.plan)
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
    trainer.folder.check()
    trainer.conclude(name)


def _begin(trainer: Trainer) -> None:
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
        trainer.folder.write_plan(trainer.plan)
    trainer.save(anchor=True)


def _advance(trainer: Trainer, shown: dict[str, float]) -> bool:
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
        trainer.folder.write_plan(trainer.plan)
    return held_out


def _make_step(trainer: Trainer, shown: dict[str, float]) -> None:
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
        trainer.folder.log(trainer.step, "train", means)
        trainer.sums, trainer.count = {}, 0
    trainer.reporter.advance(trainer.step, shown or figures)
    trainer.unvalidated = trainer.step % trainer.plan.validate_every(trainer.config) == 0 or last
