"""Learning-rate finder: the loss over steps in which the learning rate rises; the steps are then thrown away.

The loss is that of the first group of parameters, the model itself. It is measured on one batch with the same random
numbers each time, so that it does not jump from batch to batch. The steps count as the first ones of a long training,
where learning rates are highest and losses that are phased in have little weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from actseq.config import TrainingConfig
from actseq.errors import TrainingError
from actseq.objectives.base import Batch, Loss, Objective
from actseq.progress import Reporter
from actseq.training.conduct import Conduct
from actseq.training.faults import NotFiniteError, in_parts
from actseq.training.plan import Plan
from actseq.training.sources import Source, step_seed
from actseq.training.trainer import Trainer

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 150
"""Number of steps from the lowest to the highest rate."""
BEGINNING_OF = 100_000
"""The steps count as the beginning of a training of this many steps."""
DIVERGED = 3.0
"""Stop when the loss exceeds its minimum by this many times the minimum, or this many times its decrease so far."""
FELL = 3.0
"""A decrease counts if it is larger than this many times the median change from step to step."""
_REACH = 4
"""Losses on either side that a smoothed loss is averaged with."""


@dataclass(frozen=True)
class LearningRateTest:
    """Rates and losses of the steps.

    Attributes:
        rates: learning rate of each step, rising by a constant factor.
        losses: loss after each step.
        smooth: losses, each averaged with its neighbours.
        lowest: rate at which the smoothed loss is lowest; higher rates are too high, at least without a warm-up.
        suggested: rate at which the smoothed loss falls fastest per decade; None if it did not fall by more than it
            usually changes from step to step.
    """

    rates: Float[np.ndarray, " steps"]
    losses: Float[np.ndarray, " steps"]
    smooth: Float[np.ndarray, " steps"]
    lowest: float
    suggested: float | None


def find_learning_rate(
    objective: Objective,
    train_source: Source,
    held_out: Source,
    config: TrainingConfig,
    *,
    seed: int,
    device: torch.device,
    reporter: Reporter,
) -> LearningRateTest:
    """Raise the learning rate of all groups of parameters together, from 10⁻⁶ to 1, until the loss diverges.

    The model cannot be used afterwards; nothing is written.

    Args:
        objective: gives the losses of the model.
        train_source: batches to train on.
        held_out: gives the one batch on which the loss is measured.
        config: optimiser and gradient clipping; its learning rates are not used.
        seed: seed of the random numbers in the steps.
        device: device to train on.
        reporter: receives progress.

    Raises:
        TrainingError: the loss is not finite even at the lowest rate.

    Source: Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3. As in fastai, the axis is
    logarithmic and the steepest descent is suggested.
    """
    devices = [device] if device.type == "cuda" else []
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    losses: list[float] = []
    with torch.random.fork_rng(devices):
        trainer = Trainer(objective, (train_source, held_out), config, Path(), seed, Conduct(device, reporter))
        trainer.plan = Plan.of(BEGINNING_OF)
        batch = trainer.batch(held_out, 0, 0.0)
        reporter.begin("learning rate", STEPS)
        for rate in rates.tolist():
            trainer.config = config.model_copy(
                update={"learning_rate": rate, "final_learning_rate": rate, "warmup_steps": 0}
            )
            try:
                trainer.train_step()
            except NotFiniteError as fault:
                if not losses:
                    raise trainer.explained(fault) from None
                break
            loss = trainer.fitting(lambda: _loss(trainer, batch, seed))
            if not math.isfinite(loss):
                break
            losses.append(loss)
            reporter.advance(len(losses), {"rate": rate, "loss": loss})
            lowest = min(losses)
            if loss - lowest > DIVERGED * max(abs(lowest), losses[0] - lowest):
                break
        reporter.end()
    if not losses:
        raise TrainingError(f"the loss is not finite at a learning rate of {LOWEST:g}", "a finite number")
    return judge(rates[: len(losses)], np.array(losses))


def _loss(trainer: Trainer, batch: Batch, seed: int) -> float:
    """The loss of the first group on a batch, always with the same random numbers."""
    torch.manual_seed(step_seed(seed, 0, 10_000))
    total = 0.0
    for fraction, part in in_parts(batch, trainer.plan.change(trainer.step).parts):
        losses: dict[str, Loss] = trainer.learner.losses(part)
        total += fraction * float(next(iter(losses.values())).total.detach())
    return total


def judge(rates: Float[np.ndarray, " steps"], losses: Float[np.ndarray, " steps"]) -> LearningRateTest:
    """Smooth the losses, and find the rates of the lowest loss and of the steepest descent."""
    weights = np.bartlett(2 * _REACH + 3)[1:-1]
    smooth = np.convolve(losses, weights)[_REACH:-_REACH] / np.convolve(np.ones_like(losses), weights)[_REACH:-_REACH]
    at = int(smooth.argmin())
    jumps = np.abs(np.diff(losses[: at + 2 * _REACH]))
    if at == 0 or smooth[0] - smooth[at] <= FELL * np.median(jumps):
        return LearningRateTest(rates, losses, smooth, float(rates[at]), None)
    fastest = int(np.diff(smooth[: at + 1]).argmin())
    return LearningRateTest(rates, losses, smooth, float(rates[at]), float(rates[fastest]))
