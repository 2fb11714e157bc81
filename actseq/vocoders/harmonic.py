"""`harmonic`: a sinusoid for each harmonic, and white noise filtered by bands. The default for `harmonic`.

Phases run on from block to block. The noise is a function of the sample's number and of a seed. Each block is made
together with the frames that reach into it, so nothing depends on how the frames arrive. All of it is differentiable
with respect to the features.

Harmonics that lie closely together interfere, and noise fluctuates. So the sum does not have the levels that the
features describe. It is brought to them by gains in bands, frame by frame.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from actseq import units
from actseq.errors import require, require_at_most
from actseq.representations.base import HarmonicsAndNoise, Representation, Sources
from actseq.representations.harmonic import turns_of
from actseq.vocoders.base import BlockBuffer, Stream
from actseq.vocoders.noise import white_noise

DISPERSION = 8
"""Harmonics after which the delay of a harmonic within the period repeats. Without delays all peaks would coincide."""
MOST_CORRECTIONS = 64
"""Corrections at most: each adds to the frames that a block is made with."""
GREATEST_GAIN = 4.0
"""Greatest gain of one correction."""
LEAST_NOISE = 0.05
"""Least measured power of the noise in a band, by which it is divided."""
LEAST = 1e-9
"""Least magnitude by which a level is divided."""


class HarmonicSynthesis(nn.Module):
    """Additive synthesis of harmonics, and noise filtered by bands.

    Args:
        representation: one of harmonics and noise.
        n_corrections: number of times that the levels are corrected.
        seed: seed of the noise.
        block_frames: frames rendered at a time.

    Raises:
        TypeError: the features do not describe harmonics and noise.

    Source: Serra and Smith, Spectral Modeling Synthesis (1990), with levels corrected after the synthesis.
    """

    def __init__(
        self, representation: Representation, *, n_corrections: int = 4, seed: int = 0, block_frames: int = 64
    ) -> None:
        super().__init__()
        require(0, n_corrections=n_corrections, seed=seed)
        require_at_most(MOST_CORRECTIONS, n_corrections=n_corrections)
        require(1, block_frames=block_frames)
        if not isinstance(representation, HarmonicsAndNoise):
            raise TypeError("only harmonic features describe harmonics and noise")
        self.representation, self.hop_length = representation, representation.hop_length
        self.n_corrections, self.seed, self.block_frames = n_corrections, seed, block_frames
        n_fft = representation.framing.n_fft
        # A sample depends on the next frame, on frames half a window away by its noise, a whole one by each correction.
        self.context_frames = 1 + units.n_hops(n_fft // 2 + n_corrections * n_fft, self.hop_length)

    def stream(self) -> Stream:
        """Start a sequence."""
        return _HarmonicStream(self)

    def render(
        self, values: Float[Tensor, "channels frames"], first_frame: int = 0, start: float = 0.0
    ) -> tuple[Float[Tensor, " samples"], Float[Tensor, " samples"]]:
        """Samples of frames, and the phase of the fundamental frequency in turns.

        `context_frames` at either end are not what they are within a longer sequence.

        Args:
            values: features.
            first_frame: number of the first frame in its sequence.
            start: phase of the first sample in turns.
        """
        sources = self.representation.sources(values)
        turns = turns_of(sources.pitch, self.hop_length, self.representation.sample_rate, start)
        made = self._harmonics(sources, turns) + self._noise(sources, first_frame)
        power = self.representation.comb(turns[:-1]) * sources.harmonic + sources.noise
        target = self.representation.band_means(power.sqrt())
        for _ in range(self.n_corrections):
            spectrum = self.representation.spectrum(made[:-1])
            levels = self.representation.band_means(spectrum.abs())
            gain = (target / levels.clamp(min=LEAST)).clamp(max=GREATEST_GAIN)
            made = self._waveform(spectrum * self.representation.in_bins(gain))
        return made, turns

    def _harmonics(self, sources: Sources, turns: Tensor) -> Tensor:
        """Sum of sinusoids whose amplitudes are linear from frame to frame."""
        rate, bins = self.representation.sample_rate, sources.harmonic.shape[0]
        part = torch.arange(self.hop_length, device=sources.pitch.device) / self.hop_length
        angle = (2 * math.pi * (turns - turns.floor())).float().to(sources.pitch.device)
        made = torch.zeros_like(angle)
        for number in range(1, int(rate / 2 / float(sources.pitch.detach().min())) + 1):
            place = number * sources.pitch / (rate / 2) * (bins - 1)
            low = place.detach().floor().long().clamp(max=bins - 2)
            density = torch.lerp(
                sources.harmonic.gather(0, low[None])[0], sources.harmonic.gather(0, low[None] + 1)[0], place - low
            )
            heard = (place < bins - 1) & (density > 0)
            if not heard.any():
                continue
            # A sinusoid in every f0 Hz of rate / 2 Hz, each of power amplitude² / 2.
            power = torch.where(heard, 4 * sources.pitch / rate * density, 1.0)
            amplitude = torch.where(heard, power.sqrt(), 0.0)
            change = torch.cat([amplitude[1:], amplitude[-1:]]) - amplitude
            made = made + (amplitude[:, None] + change[:, None] * part).flatten() * torch.cos(
                number * angle + math.pi * number**2 / DISPERSION
            )
        return made

    def _noise(self, sources: Sources, first_frame: int) -> Tensor:
        """White noise brought to the levels of the bands, frame by frame."""
        framing, frames = self.representation.framing, sources.noise.shape[1]
        n_samples = (frames - 1) * self.hop_length + framing.n_fft
        white = white_noise(first_frame * self.hop_length - framing.n_fft // 2, n_samples, self.seed)
        window = framing.window
        spectrum = torch.stft(
            white.to(window.device), framing.n_fft, self.hop_length, window=window, center=False, return_complex=True
        )
        spectrum = spectrum / window.square().sum().sqrt()
        measured = self.representation.band_means(spectrum.abs()).square()
        level = self.representation.in_bins(measured).clamp(min=LEAST_NOISE)
        heard = sources.noise > 0
        gain = torch.where(heard, torch.where(heard, sources.noise, 1.0).sqrt(), 0.0)
        return self._waveform(spectrum * gain / level.sqrt())

    def _waveform(self, spectrum: Complex[Tensor, "bins frames"]) -> Float[Tensor, " samples"]:
        """Inverse of `spectrum`; the last hop, under the edge of the last windows, is silent."""
        framing = self.representation.framing
        made = torch.istft(
            spectrum * framing.window.square().sum().sqrt(), framing.n_fft, self.hop_length, window=framing.window
        )
        return F.pad(made, (0, spectrum.shape[1] * self.hop_length - len(made)))


class _HarmonicStream:
    def __init__(self, vocoder: HarmonicSynthesis) -> None:
        self.vocoder, self.context = vocoder, vocoder.context_frames
        self.buffer = BlockBuffer(vocoder.block_frames, 2 * self.context, context=self.context)
        self.first_frame, self.start = -self.context, 0.0

    def push(self, values: Float[Tensor, "channels frames"]) -> Float[Tensor, " samples"]:
        return torch.cat([values.new_zeros(0), *map(self._advance, self.buffer.push(values))])

    def finish(self) -> Float[Tensor, " samples"]:
        rest = self.buffer.finish()
        return torch.zeros(0) if rest is None else self._advance(rest)

    @torch.no_grad()
    def _advance(self, values: Tensor) -> Tensor:
        made, turns = self.vocoder.render(values, self.first_frame, self.start)
        frames, hop = values.shape[1] - 2 * self.context, self.vocoder.hop_length
        self.first_frame += frames
        self.start = float(turns[frames * hop] % 1)
        return made[self.context * hop :][: frames * hop]
