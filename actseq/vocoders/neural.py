"""`neural`: a network adds detail to the inverted magnitudes and gives each bin its phase; inverse transform.

It is trained against discriminators, on a GPU. Blocks are rendered together with the frames that the network sees
around them, so nothing depends on how the frames arrive. Outside a sequence the features are those of silence.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from actseq import units
from actseq.errors import require
from actseq.representations.base import Representation, magnitudes_of
from actseq.representations.normaliser import Normaliser
from actseq.vocoders.base import BlockBuffer, Stream
from actseq.vocoders.inversion import MagnitudeInversion
from actseq.vocoders.overlap import OverlapAdd
from actseq.vocoders.residual import ResidualNetwork


class Neural(nn.Module):
    """Features → spectrum → waveform.

    Args:
        representation: one of log-magnitudes.
        width: values per frame between blocks.
        inner: width inside a block.
        blocks: number of ConvNeXt blocks.
        block_frames: frames rendered at a time.

    Raises:
        TypeError: the representation has no log-magnitudes.

    Source: Siuzdak, Vocos (2023), with the magnitudes as a residual on the inverted ones.
    """

    objective = "adversarial-vocoding"
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
        self.reach = units.n_hops(self.n_fft, 2 * self.hop_length)
        self.silence = magnitudes.silence
        self.register_buffer("window", framing.window)

    @property
    def normaliser(self) -> Normaliser:
        """Statistics of the features, fitted before training."""
        return self.network.normaliser

    def spectrum(self, values: Float[Tensor, "batch channels frames"]) -> Complex[Tensor, "batch bins inner_frames"]:
        """Spectrum of all but the first and last `context_frames` frames."""
        residual, phase = self.network(values)
        # In mixed precision the network's output has fewer bits than that of the inversion.
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


class _NeuralStream:
    def __init__(self, vocoder: Neural) -> None:
        self.vocoder = vocoder
        self.sum = OverlapAdd(vocoder.window, vocoder.hop_length)
        context = vocoder.context_frames
        self.buffer = BlockBuffer(vocoder.block_frames, 2 * context, context=context, silence=vocoder.silence)

    def push(self, values: Float[Tensor, "channels frames"]) -> Float[Tensor, " samples"]:
        return torch.cat([values.new_zeros(0), *map(self._advance, self.buffer.push(values))])

    def finish(self) -> Float[Tensor, " samples"]:
        rest = self.buffer.finish()
        return torch.cat([*([] if rest is None else [self._advance(rest)]), self.sum.finish()])

    @torch.no_grad()
    def _advance(self, values: Tensor) -> Tensor:
        return self.sum.push(self.vocoder.spectrum(values[None])[0])
