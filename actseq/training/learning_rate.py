"""Which learning rate to train with: the loss of throw-away steps while the rate rises.

The loss is that of the first group of parameters, the model itself, on one batch with random numbers that stay the same: what
the steps lower, but it does not jump from batch to batch. Steps are those of the beginning of a training, where rates are
highest: what is phased in counts as little as there.
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
from actseq.objectives.base import Loss, Objective
from actseq.progress import Reporter
from actseq.training.loop import Source, _Trainer, step_seed

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 150
BEGINNING_OF = 100_000
"""Steps of the training that these are taken to begin."""
DIVERGED = 3.0
"""Stop where the loss lies so many times its own size, or its fall so far, above its lowest."""
FELL = 3.0
"""The loss fell where it did by so many times what it usually jumps from step to step."""
_REACH = 4


@dataclass(frozen=True)
class LearningRateTest:
    """What the steps gave.

    Attributes:
        rates: of each step, rising by the same factor.
        losses: after each step.
        smooth: these, each averaged with its neighbours.
        lowest: rate where the smoothed loss is lowest; from there on steps are too long, without a warm-up at least.
        suggested: rate where it falls fastest, on the axis of the logarithm; None where it did not fall by more than it jumps.
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
    """Raise the rate of all groups of parameters together, from 10⁻⁶ to 1, until the loss goes up for good.

    The objective is spoilt by it; nothing is written.

    Args:
        objective: what would be trained.
        train_source: batches to train on.
        held_out: gives the one batch that the loss is measured on.
        config: optimiser and gradient clipping; its learning rates are not used.
        seed: of batches and random numbers.
        device: where.
        reporter: is told of progress.

    Raises:
        TrainingError: the loss is not finite at the lowest rate already.

    Source: Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3; on a logarithmic axis, and with the
    steepest descent, as fastai does it.
    """
    devices = [device] if device.type == "cuda" else []
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    losses: list[float] = []
    with torch.random.fork_rng(devices):
        trainer = _Trainer(objective, train_source, held_out, config, Path(), seed, device, reporter)
        batch = trainer.batch(held_out, 0, 0.0)
        reporter.begin("learning rate", STEPS)
        for rate in rates.tolist():
            trainer.config = config.model_copy(
                update={"learning_rate": rate, "final_learning_rate": rate, "warmup_steps": 0}
            )
            try:
                trainer.train_step(BEGINNING_OF)
            except TrainingError:
                if not losses:
                    raise
                break
            torch.manual_seed(step_seed(seed, 0, 10_000))
            losses_of_groups: dict[str, Loss] = trainer.wrapped.losses(batch)
            loss = float(next(iter(losses_of_groups.values())).total.detach())
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


def judge(rates: Float[np.ndarray, " steps"], losses: Float[np.ndarray, " steps"]) -> LearningRateTest:
    """Smooth the losses, and read the rate off them."""
    weights = np.bartlett(2 * _REACH + 3)[1:-1]
    smooth = np.convolve(losses, weights)[_REACH:-_REACH] / np.convolve(np.ones_like(losses), weights)[_REACH:-_REACH]
    at = int(smooth.argmin())
    jumps = np.abs(np.diff(losses[: at + 2 * _REACH]))
    if at == 0 or smooth[0] - smooth[at] <= FELL * np.median(jumps):
        return LearningRateTest(rates, losses, smooth, float(rates[at]), None)
    fastest = int(np.diff(smooth[: at + 1]).argmin())
    return LearningRateTest(rates, losses, smooth, float(rates[at]), float(rates[fastest]))
