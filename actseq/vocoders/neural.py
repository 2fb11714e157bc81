"""`neural`: a network adds detail to the inverted magnitudes and gives each bin its phase; inverse transform.

Trained against discriminators, for a GPU. Blocks of frames are rendered with the frames that the network sees around
them, so nothing depends on how the frames arrive. Outside a sequence are the features of silence.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from actseq.errors import require
from actseq.representations.base import Features, Representation, magnitudes_of
from actseq.representations.normaliser import Normaliser
from actseq.vocoders.base import Stream, synthesise_streamed
from actseq.vocoders.inversion import MagnitudeInversion
from actseq.vocoders.overlap import OverlapAdd
from actseq.vocoders.residual import ResidualNetwork


class Neural(nn.Module):
    """Features → spectrum → waveform.

    Args:
        representation: one of log-magnitudes.
        width: numbers per frame inside.
        inner: width inside a block.
        blocks: ConvNeXt blocks.
        block_frames: frames rendered at a time.

    Raises:
        TypeError: the representation has no log-magnitudes.

    Source: Siuzdak, Vocos (2023), with the magnitudes as a residual on the inverted ones.
    """

    window: Tensor

    def __init__(
        self,
        representation: Representation,
        *,
        width: int = 256,
        inner: int = 768,
        blocks: int = 8,
        block_frames: int = 128,
    ) -> None:
        super().__init__()
        require(1, block_frames=block_frames)
        self.inversion = MagnitudeInversion(representation)
        magnitudes = magnitudes_of(representation)
        framing = magnitudes.framing
        self.n_fft, self.hop_length, self.block_frames = framing.n_fft, framing.hop_length, block_frames
        bins = self.n_fft // 2 + 1
        self.network = ResidualNetwork(representation.channels, bins, bins, width=width, inner=inner, blocks=blocks)
        self.context_frames = self.network.context_frames
        self.reach = -(-self.n_fft // (2 * self.hop_length))
        self.silence = magnitudes.silence
        self.register_buffer("window", framing.window)

    @property
    def normaliser(self) -> Normaliser:
        """Statistics of the features, fitted before training."""
        return self.network.normaliser

    def spectrum(self, values: Float[Tensor, "batch channels frames"]) -> Complex[Tensor, "batch bins inner_frames"]:
        """Of all but the first and last `context_frames` frames."""
        residual, phase = self.network(values)
        # In mixed precision the network's numbers are shorter than those of the inversion.
        return torch.polar(self.inversion(self.network.inner(values)) * residual.float().exp(), phase.float())

    def render(self, values: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch samples"]:
        """Waveform of all but the first and last `context_frames` + `reach` frames, hop_length samples each."""
        whole = torch.istft(self.spectrum(values), self.n_fft, self.hop_length, window=self.window)
        frames = values.shape[2] - 2 * (self.context_frames + self.reach)
        start = self.reach * self.hop_length
        return whole[:, start : start + frames * self.hop_length]

    def stream(self) -> Stream:
        """Start a sequence."""
        return _NeuralStream(self)

    def synthesise(self, features: Features) -> Float[Tensor, "batch samples"]:
        """Waveforms of frames · hop_length samples; zero beyond each length."""
        return synthesise_streamed(self, features, self.hop_length)


class _NeuralStream:
    def __init__(self, vocoder: Neural) -> None:
        self.vocoder = vocoder
        self.sum = OverlapAdd(vocoder.window, vocoder.hop_length)
        channels, context = len(vocoder.normaliser.mean), vocoder.context_frames
        self.waiting = vocoder.window.new_full((channels, context), vocoder.silence)

    def push(self, values: Float[Tensor, "channels frames"]) -> Float[Tensor, " samples"]:
        self.waiting = torch.cat([self.waiting, values], dim=1)
        frames = self.vocoder.block_frames
        out = [values.new_zeros(0)]
        while self.waiting.shape[1] >= frames + 2 * self.vocoder.context_frames:
            out.append(self._advance(self.waiting[:, : frames + 2 * self.vocoder.context_frames]))
            self.waiting = self.waiting[:, frames:]
        return torch.cat(out)

    def finish(self) -> Float[Tensor, " samples"]:
        context = self.vocoder.context_frames
        left = self.waiting.shape[1] - context
        last = F.pad(self.waiting, (0, context), value=self.vocoder.silence)
        rest = [self._advance(last)] if left else []
        return torch.cat([*rest, self.sum.finish()])

    @torch.no_grad()
    def _advance(self, values: Tensor) -> Tensor:
        # Contiguous: with another memory layout the same numbers may be rounded otherwise.
        return self.sum.push(self.vocoder.spectrum(values.contiguous()[None])[0])
