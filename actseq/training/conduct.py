"""How a training is carried out: where, for how long, and what is shown meanwhile."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from actseq.progress import SILENT, Reporter

if TYPE_CHECKING:
    import torch


THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that tell torch how many threads to compute with."""


@dataclass(frozen=True)
class Budget:
    """What decides the number of steps besides the configuration.

    Attributes:
        begun: `time.perf_counter()` when the command began. What it prepared since then counts as part of the minutes,
            up to a quarter of them. None: only the training counts.
        plan: `plan.json` of a training that is to be repeated; None: there is none.
        more: minutes by which a finished training goes on; None: it does not.
    """

    begun: float | None = None
    plan: Path | None = None
    more: float | None = None

    def begin(self) -> Budget:
        """The budget of a command that begins now, unless it has begun."""
        return self if self.begun is not None else replace(self, begun=time.perf_counter())


@dataclass
class Clock:
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


@dataclass(frozen=True)
class Watch:
    """What is shown while a training runs; nothing here changes the weights.

    Attributes:
        preview: writes a preview of the model at a step, with averaged weights; None: there are none.
        preview_seconds: time between previews.
        remark: a warning about held-out figures and the progress of the training, from 0 to 1; empty if all is well.
        advice: whether the training says in words what its figures mean.
        longer: the command by which the training goes on when it has finished.
    """

    preview: Callable[[int], None] | None = None
    preview_seconds: float = 180.0
    remark: Callable[[Mapping[str, float], float], str] | None = None
    advice: bool = False
    longer: str = "--more"


@dataclass(frozen=True)
class Conduct:
    """Where a training computes, for how long, and what it shows.

    Attributes:
        device: where it computes.
        reporter: receives progress and messages.
        budget: what decides the number of steps besides the configuration.
        watch: what is shown while it runs.
        events: whether figures are written for TensorBoard too.
        threads: threads that the user asked for; None: with a budget in minutes, the training may choose.
    """

    device: torch.device
    reporter: Reporter = SILENT
    budget: Budget = field(default_factory=Budget)
    watch: Watch = field(default_factory=Watch)
    events: bool = False
    threads: int | None = None

    @property
    def may_choose_threads(self) -> bool:
        """Whether the number of threads matters, and neither the user nor the environment says how many."""
        said = self.threads is not None or any(os.environ.get(name) for name in THREAD_VARIABLES)
        return self.device.type == "cpu" and not said
