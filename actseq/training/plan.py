"""How many steps a training has, and what follows from it: the learning rate, and how far the training has come.

A budget in minutes becomes a number of steps, which may change while the training runs. The plan is the list of these
numbers, and of what faults have changed: a lower learning rate, batches in parts. With the same plan, a training ends
with the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from actseq.config import TrainingConfig
from actseq.errors import ArtifactError
from actseq.storage.artifacts import read_json, write_json

LATEST = 0.8
"""The number of steps is not changed once this fraction of them is done."""
WORTHWHILE = 0.02
"""Nor is it changed by less than this fraction of the steps that are left."""
RESTART = 0.3
"""A finished training goes on at this fraction of its highest learning rate."""


@dataclass(frozen=True)
class Stretch:
    """What holds from a step on.

    Attributes:
        from_step: the first step of the stretch.
        total_steps: number of steps of the whole training.
        peak: fraction of the highest learning rate at which the rate restarts; None: it runs on from where it is.
        minutes: budget that the restart was given; None: there is no restart.
        threads: threads that torch computes with from here on; None: as many as before.
        validations: in the first stretch, number of validations of the whole training; None: the configuration's.
    """

    from_step: int
    total_steps: int
    peak: float | None = None
    minutes: float | None = None
    threads: int | None = None
    validations: int | None = None


@dataclass(frozen=True)
class Change:
    """What faults have changed, from a step on.

    Attributes:
        from_step: the first step that it holds for.
        retries: number of times that the training was taken back until here.
        rate: learning rates are multiplied by this.
        parts: number of parts in which a batch goes through the model.
    """

    from_step: int
    retries: int = 0
    rate: float = 1.0
    parts: int = 1


UNCHANGED = Change(0)
"""What holds where no fault has changed anything."""


@dataclass(frozen=True)
class Plan:
    """The stretches of a training, in order, the budget in minutes that it began with, and what faults have changed.

    Attributes:
        stretches: at least one; the first begins at step 0.
        minutes: None: the budget was given in steps.
        changes: in order of their first steps.
    """

    stretches: tuple[Stretch, ...]
    minutes: float | None = None
    changes: tuple[Change, ...] = ()

    @staticmethod
    def of(total_steps: int, minutes: float | None = None) -> Plan:
        """A plan of one stretch."""
        return Plan((Stretch(0, total_steps),), minutes)

    @staticmethod
    def read(path: Path) -> Plan:
        """Read a `plan.json`; those of older versions have one stretch, which is kept.

        Raises:
            ArtifactError: the file is damaged.
        """
        tree = read_json(path)
        minutes = tree.get("minutes") if "plan" in tree else None
        changes = parse_changes(tree.get("changes"), path)
        return Plan(parse_stretches(tree.get("plan"), tree["total_steps"], path), minutes, changes)

    def write(self, path: Path) -> None:
        """Write a `plan.json`."""
        tree = {"total_steps": self.total, "minutes": self.minutes, "plan": self.tree()}
        write_json(path, tree | self.changes_tree())

    def tree(self) -> list[dict[str, Any]]:
        """The stretches as JSON; keys that say nothing are left out."""
        return [{key: value for key, value in asdict(one).items() if value is not None} for one in self.stretches]

    def changes_tree(self) -> dict[str, Any]:
        """What faults have changed, as JSON; empty if nothing."""
        return {"changes": [asdict(one) for one in self.changes]} if self.changes else {}

    def change(self, step: int) -> Change:
        """What holds at a step."""
        return next((one for one in reversed(self.changes) if one.from_step <= step), UNCHANGED)

    def changed(self, change: Change) -> Plan:
        """The plan with a change, in place of all that begin at its first step or later."""
        return replace(self, changes=(*self.changes_before(change.from_step), change))

    def changes_before(self, step: int) -> tuple[Change, ...]:
        """The changes that begin before a step."""
        return tuple(one for one in self.changes if one.from_step < step)

    @property
    def total(self) -> int:
        """Number of steps, as far as is known."""
        return self.stretches[-1].total_steps

    @property
    def restart(self) -> Stretch:
        """The stretch at which the learning rate last restarted; the first if it never has."""
        return next((one for one in reversed(self.stretches) if one.peak is not None), self.stretches[0])

    @property
    def budget(self) -> float | None:
        """Minutes of the training, or of its last restart; None: the budget is in steps."""
        return self.minutes if self.restart.peak is None else self.restart.minutes

    def extended(self, stretch: Stretch) -> Plan:
        """The plan with another stretch behind the others."""
        return replace(self, stretches=(*self.stretches, stretch))

    def threads(self, step: int) -> int | None:
        """Threads that torch computes a step with; None: the plan does not say."""
        known = [one.threads for one in self.stretches if one.from_step <= step and one.threads is not None]
        return known[-1] if known else None

    def validate_every(self, config: TrainingConfig) -> int:
        """Steps between validations, which the first stretch decides."""
        first = self.stretches[0]
        return max(1, first.total_steps // (first.validations or config.validations))

    def may_change(self, step: int) -> bool:
        """Whether the number of steps may change at this step."""
        first = self.restart.from_step
        return step - first < LATEST * (self.total - first)

    def progress(self, step: int) -> float:
        """How far the training has come, from 0 to 1; 1 from the first restart on."""
        return self._share(step, 0, self.stretches)

    def learning_rate(self, step: int, config: TrainingConfig) -> float:
        """Learning rate of a step: a linear warm-up, then a cosine to the final rate; from a restart on, a cosine.

        What faults have changed makes it lower.
        """
        return self.change(step).rate * self._planned_rate(step, config)

    def _planned_rate(self, step: int, config: TrainingConfig) -> float:
        low, high = config.final_learning_rate, config.learning_rate
        warmup = min(config.warmup_steps, self.stretches[0].total_steps // 10)
        if step < warmup:
            return high * (step + 1) / warmup
        stretches = self.stretches
        for k, one in enumerate(self.stretches):
            if one.peak is not None and one.from_step <= step:
                stretches, warmup, high = self.stretches[k:], one.from_step, max(low, one.peak * config.learning_rate)
        share = self._share(step, warmup, stretches)
        return low + (high - low) * 0.5 * (1 + math.cos(math.pi * share))

    @staticmethod
    def _share(step: int, start: int, stretches: Sequence[Stretch]) -> float:
        """Fraction of the way from step `start` to the end, which goes on evenly wherever the end is moved."""
        share = 0.0
        for k, one in enumerate(stretches):
            first = max(one.from_step, start)
            last = min(step, stretches[k + 1].from_step if k + 1 < len(stretches) else step)
            if last > first:
                share += (1 - share) * ((last - first) / max(1, one.total_steps - first))
        return share


def parse_stretches(tree: Any, total_steps: int, path: Path) -> tuple[Stretch, ...]:
    """Stretches from JSON; without any, one of `total_steps`.

    Raises:
        ArtifactError: these are no stretches; `path` is named.
    """
    if tree is None:
        return (Stretch(0, total_steps),)
    try:
        found = tuple(Stretch(**one) for one in tree)
        steps = [one.from_step for one in found]
        if steps[0] != 0 or steps != sorted(set(steps)) or found[-1].total_steps != total_steps:
            raise ValueError
        if any(type(value) is not int for one in found for value in (one.from_step, one.total_steps)):
            raise ValueError
        counts = [count for one in found for count in (one.threads, one.validations) if count is not None]
        if any(type(count) is not int or count < 1 for count in counts):
            raise ValueError
    except (TypeError, ValueError, IndexError):
        raise ArtifactError(
            f"'plan' in {path} is no list of stretches", "from_step and total_steps in each", "copy the run again"
        ) from None
    return found


def parse_changes(tree: Any, path: Path) -> tuple[Change, ...]:
    """Changes from JSON; None has none.

    Raises:
        ArtifactError: these are no changes; `path` is named.
    """
    try:
        found = tuple(Change(**one) for one in ([] if tree is None else tree))
        steps = [one.from_step for one in found]
        if steps != sorted(set(steps)):
            raise ValueError
        for one in found:
            if any(type(value) is not int or value < 0 for value in (one.from_step, one.retries, one.parts - 1)):
                raise ValueError
            if not 0 < float(one.rate) <= 1:
                raise ValueError
    except (TypeError, ValueError):
        raise ArtifactError(
            f"'changes' in {path} is no list of changes",
            "from_step, retries, rate and parts in each",
            "copy the run again",
        ) from None
    return found


def replanned(plan: Plan, step: int, left_seconds: float, step_seconds: float) -> Plan:
    """The plan with the number of steps that fit into the time that is left, if it may change and differs enough.

    Args:
        plan: the present one.
        step: steps that are done.
        left_seconds: time that is left of the budget.
        step_seconds: time that a step takes, with its part of the validations.
    """
    left = max(1, int(left_seconds / step_seconds)) if step_seconds > 0 else plan.total - step
    if not plan.may_change(step) or abs(step + left - plan.total) < max(1.0, WORTHWHILE * (plan.total - step)):
        return plan
    return plan.extended(Stretch(step, step + left))
