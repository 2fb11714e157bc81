"""The contract of a corruption: what is done to sounds that a network learns to undo or to ignore.

A corruption works on whole segments, or on every frame of a granular representation as a short sound of its own. Random
numbers come from torch's global generator, which the training loop seeds for every step.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Corrupted:
    """A batch of sounds, twice.

    Attributes:
        input: what the encoder sees.
        target: what is to come out.
    """

    input: Float[Tensor, "batch samples"]
    target: Float[Tensor, "batch samples"]


@runtime_checkable
class Corruption(Protocol):
    """Makes the input of a network from what is to come out."""

    works_on_grains: bool
    """It works on the frames of a granular representation, not on crops."""
    uses_noise_clips: bool
    """It wants crops of other classes as `noise`."""

    def corrupt(
        self, waveform: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"] | None
    ) -> Corrupted:
        """Input and target; `noise` are crops of other classes, where the source has any."""

    def perturb(self, output: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
        """What an output may turn into on its way to the ear: it has to sound like the target all the same."""
