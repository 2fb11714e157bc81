"""The contract of a corruption: damage to the input of a network, which it learns to remove or to ignore.

A corruption works on whole segments, or on single frames of a granular representation. Random numbers come from torch's
global generator, which the training loop seeds for every step.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Corrupted:
    """A batch of sounds, damaged and as targets.

    Attributes:
        input: waveforms for the encoder.
        target: waveforms that the decoder should give.
    """

    input: Float[Tensor, "batch samples"]
    target: Float[Tensor, "batch samples"]


@runtime_checkable
class Corruption(Protocol):
    """Makes a network's input and target from clean sound."""

    works_on_grains: bool
    """Whether it works on the frames of a granular representation instead of segments."""
    uses_noise_clips: bool
    """Whether it needs segments of other classes as `noise`."""

    def corrupt(
        self, waveform: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"] | None
    ) -> Corrupted:
        """Input and target; `noise` holds segments of other classes, None if there are none."""

    def perturb(self, output: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
        """A change that the vocoder may make to an output; the result must still sound like the target."""
