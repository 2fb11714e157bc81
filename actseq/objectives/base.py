"""The contract of an objective. The loop knows none of them; a new one is one file here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """What a step works on.

    Attributes:
        data: tensors by name, as the source made them, on the training device.
        progress: share of the training that is done, 0 to 1; schedules follow it.
    """

    data: Mapping[str, Tensor]
    progress: float


@dataclass(frozen=True)
class Loss:
    """What one group of parameters is to lower.

    Attributes:
        total: scalar to differentiate.
        figures: detached scalars to be shown and logged.
    """

    total: Tensor
    figures: Mapping[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class KeepsLast(Protocol):
    """An objective whose held-out figure says little of what is heard: the weights of the last step are kept.

    The configuration may say otherwise. Without held-out sounds the last weights are kept anyway.
    """

    keeps_last: Literal[True]


@runtime_checkable
class Objective(Protocol):
    """An `nn.Module` that holds what is trained."""

    monitor: str
    """Name of the validation figure, lower is better, that picks the best checkpoint."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One optimiser each, stepped in this order."""

    def exported(self) -> nn.Module:
        """What the run keeps: its weights are averaged, validated and exported."""

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """A loss for each group.

        All are computed before the first group is stepped: none may differentiate through parameters of a group that is
        stepped before its own.
        """

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Figures of a held-out batch, averaged over batches by the loop."""
