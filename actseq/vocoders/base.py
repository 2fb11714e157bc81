"""The contract of a vocoder, and synthesis in blocks.

Every vocoder works on fixed blocks of frames with carried state; `synthesise` is that stream run to its end, so
streamed equals whole by construction. A sequence of F frames becomes F · hop_length samples.
"""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
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
    """Features → waveform. An `nn.Module`."""

    hop_length: int

    def stream(self) -> Stream:
        """Start a sequence."""

    def to(self, device: torch.device) -> object:
        """Move its tensors to a device."""


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


@runtime_checkable
class SampleNetwork(Protocol):
    """A network that `train-vocoder` trains to predict each sample from those before it; a vocoder by itself."""

    context_frames: int
    hop_length: int
    sketched: bool
    """Whether it is given a sketch of the sound; if not, its sketches are silence."""

    def sketch(self, values: Float[Tensor, "channels frames"]) -> Float[Tensor, " samples"]:
        """A sketch of whole features, hop_length samples for each frame."""

    def impose(
        self, magnitude: Float[Tensor, "bins frames"], sketch: Float[Tensor, " samples"], n_turns: int
    ) -> Float[Tensor, " samples"]:
        """The sound that is to be learned: a sketch with the true magnitudes, after some iterations of Griffin-Lim."""

    def predict(
        self,
        values: Float[Tensor, "batch channels frames"],
        sketch: Float[Tensor, "batch all_samples"],
        sound: Float[Tensor, "batch all_samples"],
    ) -> tuple[Float[Tensor, "batch samples"], Float[Tensor, "batch samples"], Float[Tensor, "batch samples"]]:
        """Mean and log-deviation of each sample given those before it, and the sample, all on a scale of its own.

        They are those of all but the first and last `context_frames` frames.

        Args:
            values: features.
            sketch: of all frames, hop_length samples each; zero outside a clip.
            sound: the same of the sound.
        """


class BlockBuffer:
    """Cuts frames that come in pieces into windows that overlap; where a window begins does not depend on the pieces.

    Args:
        size: frames from the beginning of a window to the beginning of the next.
        overlap: frames that a window shares with the next.
        context: frames of silence put before the sequence and after it.
        silence: value of those frames.
    """

    def __init__(self, size: int, overlap: int = 0, *, context: int = 0, silence: float = 0.0) -> None:
        self.size, self.overlap, self.context, self.silence = size, overlap, context, silence
        self.waiting: Tensor | None = None

    def push(self, values: Float[Tensor, "channels frames"]) -> list[Float[Tensor, "channels window"]]:
        """Take more frames; return the windows that are complete, size + overlap frames each."""
        if self.waiting is None:
            self.waiting = values.new_full((len(values), self.context), self.silence)
        self.waiting = torch.cat([self.waiting, values], dim=1)
        windows = []
        while self.waiting.shape[1] >= self.size + self.overlap:
            # Contiguous: with another memory layout the same values may be rounded differently.
            windows.append(self.waiting[:, : self.size + self.overlap].contiguous())
            self.waiting = self.waiting[:, self.size :]
        return windows

    def finish(self) -> Float[Tensor, "channels rest"] | None:
        """The last window, of at most size + overlap + context frames; None where no frame is left."""
        if self.waiting is None or self.waiting.shape[1] == self.context:
            return None
        return F.pad(self.waiting, (0, self.context), value=self.silence).contiguous()


def synthesise(vocoder: Vocoder, features: Features) -> Float[Tensor, "batch samples"]:
    """Waveforms of frames · hop_length samples, zero beyond each length: a stream for each sequence of a batch."""
    batch, _, frames = features.values.shape
    hop_length = vocoder.hop_length
    waveform = features.values.new_zeros(batch, frames * hop_length)
    for i, length in enumerate(features.lengths.tolist()):
        stream = vocoder.stream()
        whole = torch.cat([stream.push(features.values[i, :, :length]), stream.finish()])
        waveform[i, : length * hop_length] = whole
    return waveform
