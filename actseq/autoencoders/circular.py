"""`circular`: convolution over the samples of a grain that is a loop, with pooled energies.

A rotation of the loop changes none of its latents. So they cannot say where a wave begins, and the decoder makes one
loop in place of all rotations of a grain, with the same phases every time.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq.autoencoders.dense import LEAST_ENERGY, perceptron
from actseq.errors import require
from actseq.modules.frames import moments, valid_frames
from actseq.representations.base import Features
from actseq.representations.grain import Grain

CHIRP = 0.1
"""Share of the loop by which the highest wave of a decoded grain is later than the lowest; in phase they add up to a
peak that is higher than that of any sound."""
HEADROOM = 1.0
"""Nepers of power by which a decoded wave may exceed the strongest one of the training clips."""


class Circular(nn.Module):
    """Pooled energies of circular convolutions, a perceptron to the latents, and one back to the powers of a loop.

    A pair of kernels starts as a windowed cosine and sine. Both are moved over all places of a loop, past its end to
    its beginning, and the energy of the pair is averaged over these places. No place is left out, so the mean does not
    change if the loop is rotated by any number of samples. It is computed in frequency: a circular convolution is a
    product there, and by Parseval's theorem the mean energy is the power of that product.

    Args:
        channels: samples of a grain.
        latent_dim: values per latent frame.
        out_dim: values per latent frame that the encoder gives the bottleneck.
        pairs: pairs of kernels.
        taps: samples of a kernel; null: as many as the grain has. Short ones do not tell the harmonics of a voice
            apart.
        width: units of a hidden layer.
        layers: hidden layers, in encoder and decoder each.

    Raises:
        ValueError: kernels are longer than a grain.
    """

    trainable = True
    generative = True
    accepts = Grain
    stride = 1
    context_frames: int | None = 0
    energy_mean: Tensor
    energy_deviation: Tensor
    power_mean: Tensor
    power_deviation: Tensor
    power_high: Tensor
    sides: Tensor
    phase: Tensor

    def __init__(
        self,
        channels: int,
        latent_dim: int,
        out_dim: int,
        *,
        pairs: int = 128,
        taps: int | None = None,
        width: int = 1000,
        layers: int = 2,
    ) -> None:
        super().__init__()
        require(1, pairs=pairs, taps=taps, width=width, layers=layers)
        taps = channels if taps is None else taps
        if taps > channels:
            raise ValueError(f"taps is {taps}, expected at most the {channels} samples of a grain")
        self.samples, bins = channels, channels // 2 + 1
        window = torch.blackman_window(taps + 2, periodic=False)[1:-1]
        angle = torch.outer(torch.linspace(0, math.pi, pairs), torch.arange(taps))
        both = torch.stack([angle.cos(), angle.sin()], dim=1)
        self.kernels = nn.Parameter(both * window / window.square().sum().sqrt())
        self.encoder = perceptron([pairs, *[width] * layers, out_dim])
        self.decoder = perceptron([latent_dim, *[width] * layers, bins])
        for name, size in (("energy", pairs), ("power", bins)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_deviation", torch.ones(size))
        self.register_buffer("power_high", torch.zeros(bins))
        # The constant, and the last bin of an even number of samples, have no negative frequency.
        self.register_buffer("sides", torch.where(torch.arange(bins) * 2 % channels == 0, 1.0, 2.0))
        # A wave's delay is the slope of its phase, which grows up to 2π · CHIRP a bin.
        wave = torch.arange(bins)
        phase = -math.pi * CHIRP * wave.square() / max(1, bins - 1)
        self.register_buffer("phase", torch.where(self.sides == 1, 0.0, phase))

    @torch.no_grad()
    def fit(self, batches: Iterable[Features]) -> None:
        """The statistics of log-energies and of the log-powers of a loop's waves."""
        self.power_high.fill_(-torch.inf)

        def measured(loops: Float[Tensor, "frames samples"]) -> Float[Tensor, "frames values"]:
            powers = self.log_powers(loops)
            self.power_high.copy_(torch.maximum(self.power_high, powers.amax(0)))
            return torch.cat([self.log_energies(loops), powers], dim=1)

        found = moments(measured(valid_frames(one.values.movedim(1, 2), one.lengths)) for one in batches)
        deviation = (found.square - found.mean.square()).clamp(min=1e-4).sqrt()
        pairs = len(self.kernels)
        for mine, theirs in ((self.energy_mean, found.mean), (self.energy_deviation, deviation)):
            mine.copy_(theirs[:pairs])
        for mine, theirs in ((self.power_mean, found.mean), (self.power_deviation, deviation)):
            mine.copy_(theirs[pairs:])

    def _powers(self, loops: Float[Tensor, "*batch samples"]) -> Float[Tensor, "*batch bins"]:
        """Mean square of each of the waves that add up to a loop."""
        return self.sides * _power(torch.fft.rfft(loops)) / self.samples**2

    def log_powers(self, loops: Float[Tensor, "*batch samples"]) -> Float[Tensor, "*batch bins"]:
        """Logarithm of the mean square of each of the waves that add up to a loop."""
        return (self._powers(loops) + LEAST_ENERGY / self.samples).log()

    def log_energies(self, loops: Float[Tensor, "*batch samples"]) -> Float[Tensor, "*batch pairs"]:
        """Logarithm of the energy of each pair, averaged over all places of a loop."""
        response = _power(torch.fft.rfft(self.kernels, n=self.samples)).sum(1)
        return (self._powers(loops) @ response.T + LEAST_ENERGY).log()

    def encode(
        self, values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch frames out"]:
        """Numbers for the bottleneck; the same for every rotation of a grain."""
        energies = self.log_energies(values.transpose(1, 2))
        out: Tensor = self.encoder((energies - self.energy_mean) / self.energy_deviation)
        return out

    def decode(
        self, latents: Float[Tensor, "batch frames latent_dim"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels frames"]:
        """Normalised features: waves of the decoded powers."""
        level = 0.5 * (self.decoded_powers(latents) - self.sides.log())
        spectrum = torch.polar(self.samples * level.exp(), self.phase.expand_as(level))
        made: Tensor = torch.fft.irfft(spectrum, self.samples)
        return made.transpose(1, 2)

    def decoded_powers(self, latents: Float[Tensor, "*batch latent_dim"]) -> Float[Tensor, "*batch bins"]:
        """Logarithms of the mean squares of waves; what no code has ever meant does not become infinitely loud."""
        powers: Tensor = self.decoder(latents) * self.power_deviation + self.power_mean
        most = self.power_high + HEADROOM
        return most - F.softplus(most - powers)


def _power(spectrum: Tensor) -> Tensor:
    """Squared magnitude, with a gradient at zero."""
    return spectrum.real.square() + spectrum.imag.square()
