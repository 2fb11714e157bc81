"""The contract of a corruption: damage to the input of a network, which it learns to remove or to ignore.

A corruption works on whole segments, or on single frames of a granular representation. Random numbers come from torch's
global generator, which the training loop seeds for every step. A constructor is given the sample rate in Hz.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

QUIET_PEAK = 0.01
"""−40 dBFS: damage that follows the peak of a segment counts a lower peak as this."""


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


class Damage(nn.Module, ABC):
    """A corruption of segments whose target is the sound as it was.

    A damaged recording is brought to the peak level of the corpus before it is restored. So input and target are
    scaled together, until the input has the peak that the segment had.

    Args:
        sample_rate: Hz.
    """

    works_on_grains = False
    uses_noise_clips = False

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.sample_rate = sample_rate

    @property
    def parts(self) -> Mapping[str, "Damage"]:
        """Kinds of damage, each by itself, by name; empty for a damage of one kind."""
        return {}

    def do_without_noise_clips(self) -> bool:
        """Use no segments of other classes from now on; False if nothing would be left."""
        return not self.uses_noise_clips

    @abstractmethod
    def damage(
        self, waveform: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"] | None
    ) -> Float[Tensor, "batch samples"]:
        """Damaged segments, with separate draws for every row; `noise` holds segments of other classes."""

    def corrupt(
        self, waveform: Float[Tensor, "batch samples"], noise: Float[Tensor, "batch samples"] | None
    ) -> Corrupted:
        """Damaged segments and the segments themselves, scaled alike."""
        dirty = self.damage(waveform, noise)
        before, after = (one.abs().amax(1, keepdim=True) for one in (waveform, dirty))
        gain = torch.where((before > 0) & (after > 0), before / after.clamp(min=1e-12), 1.0)
        return Corrupted(dirty * gain, waveform * gain)

    def perturb(self, output: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
        """The output itself."""
        return output


def uniform(bounds: tuple[float, float], like: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch 1"]:
    """A number within bounds for every row."""
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(len(like), 1, device=like.device)


def chosen(share: float, like: Float[Tensor, "batch samples"]) -> Bool[Tensor, "batch 1"]:
    """True for a share of the rows."""
    return torch.rand(len(like), 1, device=like.device) < share


def peak(waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch 1"]:
    """Peak of every row, at least `QUIET_PEAK`."""
    return waveform.abs().amax(1, keepdim=True).clamp(min=QUIET_PEAK)


def dying_away(
    after: Float[Tensor, "*batch samples"], decay_seconds: Float[Tensor, "batch 1"]
) -> Float[Tensor, "batch samples"]:
    """Levels from 1 at time 0, falling by 60 dB in `decay_seconds`; 0 before.

    Args:
        after: seconds since the beginning, below 0 before it.
        decay_seconds: of every row.
    """
    return torch.exp(-math.log(1000) * after.clamp(min=0) / decay_seconds) * (after >= 0)


def require_bounds(least: float, **bounds: tuple[float, float]) -> None:
    """Refuse bounds that are below `least`, or the wrong way round.

    Raises:
        ValueError: one is; it is named.
    """
    for name, (low, high) in bounds.items():
        if not least <= low <= high < float("inf"):
            raise ValueError(f"{name} is [{low}, {high}], expected {least:g} or more, the lower bound first")
