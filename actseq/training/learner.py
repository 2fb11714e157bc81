"""The model under training: its optimisers, and its averaged weights, which are validated and kept."""

from __future__ import annotations

import copy
import math
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from actseq.config import TrainingConfig
from actseq.objectives.base import Batch, Loss, Objective
from actseq.storage.processes import here
from actseq.training.faults import NotFiniteError
from actseq.training.optimisers import optimisers_of
from actseq.training.sources import Source

Gradients = dict[str, list[Tensor | None]]
"""Gradients of the parameters of each group."""


class Learner:
    """A model that learns, in this process alone or in several together.

    Args:
        objective: gives the losses of the model, and groups of parameters; each group has an optimiser.
        config: settings of the optimisers.
        device: where it computes.
    """

    def __init__(self, objective: Objective, config: TrainingConfig, device: torch.device) -> None:
        self.objective, self.config = objective, config
        self.processes = here()
        self.fabric = self.processes.fabric(device.type, config.precision)
        module: nn.Module = objective  # type: ignore[assignment]
        self.groups = objective.parameter_groups()
        optimisers = {name: optimisers_of(module, own, config) for name, own in self.groups.items()}
        every = [(name, kind) for name, own in optimisers.items() for kind in own]
        wrapped = self.fabric.setup(module, *(optimisers[name][kind] for name, kind in every))
        self.wrapped = wrapped[0] if isinstance(wrapped, tuple) else wrapped
        self.wrapped.mark_forward_method("losses")
        self.optimisers: dict[tuple[str, str], torch.optim.Optimizer] = dict(zip(every, wrapped[1:], strict=True))
        """By group and kind."""
        self.average = {name: value.detach().clone() for name, value in objective.exported().state_dict().items()}

    def to_device(self, source: Source, step: int, progress: float, number: int = 0) -> Batch:
        """A batch of a source, on the device."""
        data = {
            name: self.fabric.to_device(torch.from_numpy(np.ascontiguousarray(array)))
            for name, array in source.batch(step, number).items()
        }
        return Batch(data, progress)

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """Losses of a batch, one for each group."""
        if self.processes.size == 1:
            found: dict[str, Loss] = self.wrapped.losses(batch)
            return found
        # The wrapper adds up gradients after one backward pass for all parameters. Here every group has its own, and
        # `reduced` adds up those of all groups at once.
        with self.fabric.autocast():
            return self.objective.losses(batch)

    def backward(self, name: str, loss: Loss, step: int, fraction: float = 1.0) -> list[Tensor | None]:
        """Gradients of a fraction of a loss for the parameters of its group.

        Raises:
            NotFiniteError: the loss is not finite, and this process is alone. Of several processes, all have to take
                the step that fails: the gradients are not finite then.
        """
        total, is_finite = fraction * loss.total, bool(torch.isfinite(loss.total))
        if not is_finite and self.processes.size == 1:
            raise NotFiniteError(f"the loss of '{name}' became {loss.total.item()}", step)
        self.forget_gradients()
        self.fabric.backward(total)
        found = [parameter.grad for parameter in self.groups[name]]
        return found if is_finite else [None if g is None else torch.full_like(g, math.nan) for g in found]

    def forget_gradients(self) -> None:
        """Free the gradients of all parameters."""
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)

    def reduce(self, gradients: Gradients, figures: dict[str, float], received: int) -> int:
        """Add up gradients and figures over all processes, in place; a signal that one of them received, or 0.

        `received` is the signal that this process received, or 0. Everything travels in one tensor, with one number for
        each parameter that says how many have a gradient.
        """
        parameters = {name: self.groups[name] for name in gradients}
        pairs = [pair for name in gradients for pair in zip(parameters[name], gradients[name], strict=True)]
        there = [float(gradient is not None) for _, gradient in pairs]
        signalled = float(bool(received))
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
        return received or (int(signal.SIGTERM) if numbers[0] else 0)

    def step(self, gradients: Gradients, rate: float, number: int) -> None:
        """Change the weights, and their average.

        Args:
            gradients: of the groups that learn in this step.
            rate: learning rate.
            number: number of the step.

        Raises:
            NotFiniteError: a gradient is not finite; no weight has changed.
        """
        for name, found in gradients.items():
            for parameter, gradient in zip(self.groups[name], found, strict=True):
                parameter.grad = gradient
            for _, optimiser in self._of_group(name):
                norm = self.fabric.clip_gradients(
                    self.wrapped, optimiser, max_norm=self.config.clip_norm, error_if_nonfinite=False
                )
                if norm is not None and not bool(torch.isfinite(norm)):
                    raise NotFiniteError(f"the gradient of '{name}' became {norm.item()}", number)
        for name, found in gradients.items():
            # Groups may share parameters: each is stepped with its own gradients, which are clipped now.
            for parameter, gradient in zip(self.groups[name], found, strict=True):
                parameter.grad = gradient
            for kind, optimiser in self._of_group(name):
                for group in optimiser.param_groups:
                    group["lr"] = rate * (self.config.muon_rate or 1.0) if kind == "muon" else rate
                optimiser.step()
        self._update_average(number)

    def _of_group(self, name: str) -> list[tuple[str, torch.optim.Optimizer]]:
        """Kind and optimiser of those of a group."""
        return [(kind, optimiser) for (own, kind), optimiser in self.optimisers.items() if own == name]

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        # In the first 1/(1 − ema) steps, an average with a fixed decay would consist mostly of the initial weights.
        decay = min(self.config.ema, (1 + step) / (10 + step))
        for name, value in self.objective.exported().state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

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

    def state(self) -> dict[str, Tensor]:
        """Copies of everything that learns or is averaged."""
        tensors = {f"model.{name}": value for name, value in self.wrapped.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for which, optimiser in self.optimisers.items():
            prefix = _prefix(*which)
            for index, entries in optimiser.state_dict()["state"].items():
                tensors |= {f"{prefix}{index}.{key}": torch.as_tensor(value) for key, value in entries.items()}
        # Safetensors refuses tensors that share storage; cloning is cheap compared with writing.
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `state` gave.

        Raises:
            RuntimeError, ValueError, KeyError: it is that of another model.
        """
        self.wrapped.load_state_dict(
            {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        )
        self.average = {
            k.removeprefix("average."): v.to(self.fabric.device) for k, v in tensors.items() if k.startswith("average.")
        }
        for which, optimiser in self.optimisers.items():
            state: dict[int, dict[str, Tensor]] = {}
            prefix = _prefix(*which)
            for key, value in tensors.items():
                if key.startswith(prefix):
                    index, entry = key.removeprefix(prefix).split(".")
                    state.setdefault(int(index), {})[entry] = value
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _prefix(group: str, kind: str) -> str:
    """What the tensors of an optimiser's state begin with; those of AdamW are named as where it is the only one."""
    return f"optimiser.{group}." if kind == "adamw" else f"optimiser.{group}-{kind}."


def added(one: list[Tensor | None], other: list[Tensor | None]) -> list[Tensor | None]:
    """Sums of two lists of gradients; None counts as 0."""
    return [b if a is None else a if b is None else a + b for a, b in zip(one, other, strict=True)]
