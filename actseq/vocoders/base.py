"""The contract of a vocoder, and synthesis in blocks.

Every vocoder works on fixed blocks of frames with carried state; `synthesise` is that stream run to its end, so streamed
equals whole by construction. A sequence of F frames becomes F · hop_length samples.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from actseq.representations.base import Features


@runtime_checkable
class Stream(Protocol):
    """Synthesis of one sequence, piece by piece."""

    def push(self, values: Float[Tensor, "channels frames"]) -> Float[Tensor, " samples"]:
        """Take more frames; return what is final so far."""

    def finish(self) -> Float[Tensor, " samples"]:
        """Return the rest."""


@runtime_checkable
class Vocoder(Protocol):
    """Features → waveform."""

    def stream(self) -> Stream:
        """Start a sequence."""

    def synthesise(self, features: Features) -> Float[Tensor, "batch samples"]:
        """Waveforms of frames · hop_length samples; zero beyond each length."""


@runtime_checkable
class MagnitudeNetwork(Protocol):
    """A network that `train-vocoder` trains to make magnitudes; in use it is the inversion of `phase`."""

    context_frames: int

    def magnitude(self, values: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch bins inner"]:
        """Magnitudes of all but the first and last `context_frames` frames."""


@runtime_checkable
class WaveformNetwork(Protocol):
    """A network that `train-vocoder` trains to make waveforms; in use it is a vocoder by itself."""

    context_frames: int
    reach: int
    """Frames to either side whose windows reach into a frame."""

    def render(self, values: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch samples"]:
        """Waveform of all but the first and last `context_frames` + `reach` frames, hop_length samples each."""


def synthesise_streamed(vocoder: Vocoder, features: Features, hop_length: int) -> Float[Tensor, "batch samples"]:
    """Run a stream for each sequence of a batch over its valid frames."""
    batch, _, frames = features.values.shape
    waveform = features.values.new_zeros(batch, frames * hop_length)
    for i, length in enumerate(features.lengths.tolist()):
        stream = vocoder.stream()
        whole = torch.cat([stream.push(features.values[i, :, :length]), stream.finish()])
        waveform[i, : length * hop_length] = whole
    return waveform
