"""How many steps fit into some minutes: steps are timed, and thrown away before the training begins."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch

from actseq import units
from actseq.errors import ConfigError, Interrupted
from actseq.storage.artifacts import read_json
from actseq.training.checkpoints import agreed
from actseq.training.conduct import Budget
from actseq.training.faults import NotFiniteError
from actseq.training.folder import PLAN
from actseq.training.plan import RESTART, Plan, Stretch
from actseq.training.trainer import COLLAPSED, Trainer

CALIBRATION_SECONDS = 3.0
"""Steps are timed for at least this long with each number of threads."""
CLEARLY = 1.25
"""One thread is taken in place of several if a step takes this many times as long with several."""
PREPARING_SHARE = 0.25
"""What a command prepares before a training counts up to this fraction of the minutes."""
VALIDATING = 0.2
"""With a budget in minutes, there are only as many validations as fit into this fraction of it."""
FEWEST_VALIDATIONS = 4
"""But at least so many, where the configuration asks for so many: the plan can change only at validations."""


def planned(start: Callable[[], Trainer], budget: Budget) -> Trainer:
    """A trainer at the step where it goes on, with its plan and its clock.

    Raises:
        ArtifactError: the plan that is to be repeated is damaged, or contradicts the checkpoint.
        ConfigError: a training is to go on that has not finished.
        Interrupted: a signal arrived while steps were timed.
    """
    trainer, begun = start(), time.perf_counter()
    config, folder, processes = trainer.config, trainer.folder.path, trainer.processes
    path = folder / PLAN
    # What the first process finds decides, since it may write this file before the others look.
    there = processes.share(path.is_file())
    if budget.more is not None and not there:
        raise ConfigError(f"--more, but {folder} holds no training", action="train it first, without --more")
    given = None if budget.plan is None else Plan.read(budget.plan)
    if there:
        trainer.plan = Plan.read(path)
        if given is not None and given.stretches != trainer.plan.stretches:
            raise ConfigError(f"{path} has another plan than {budget.plan}", action="name another run with --run")
        if trainer.resume():
            trainer.plan = agreed(trainer.plan, read_json(trainer.folder.last_checkpoint() / "state.json"), path)
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


def _timed(start: Callable[[], Trainer], trainer: Trainer, seconds: float) -> tuple[Trainer, Stretch]:
    """A new trainer, and as many steps as fit into some seconds, by timing steps of another trainer."""
    trainer.reporter.say(f"timing steps to see how many fit into {units.duration(seconds)}")
    first = plan_steps(trainer, seconds)
    return start(), first


def _more(start: Callable[[], Trainer], trainer: Trainer, minutes: float) -> Trainer:
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
            f"--more, but the training in {trainer.folder.path} is at step {step} of {plan.total}",
            "one that has finished, by its last checkpoint",
            "let it finish first: the same command without --more",
        )
    trainer, first = _timed(start, start(), 60 * minutes)
    trainer.resume()
    trainer.plan = plan.extended(Stretch(step, step + first.total_steps, RESTART, minutes, first.threads))
    trainer.clock.before = 0.0
    return trainer


def plan_steps(trainer: Trainer, seconds: float) -> Stretch:
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


def _time_steps(trainer: Trainer, too_long: float = math.inf) -> list[float]:
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
