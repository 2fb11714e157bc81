"""`dense`: a perceptron over every latent frame on its own; nothing is seen of its neighbours."""

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq.autoencoders.linear_path import stack_frames, unstack_frames
from actseq.errors import require
from actseq.modules.frames import moments, valid_frames
from actseq.representations.base import Features

LEAST_ENERGY = 1e-8
"""Added to energies before their logarithm; features have unit deviation."""
MOST_DEVIATIONS = 5.0
"""Of a log-energy from its mean: what no code has ever meant must not become infinitely loud."""


class EnergyFilterbank(nn.Module):
    """Pairs of units that start as windowed cosines and sines; logarithms of their energy, standardised.

    A wave has the same energy wherever it begins, which a layer of plain units would have to learn for every phase.

    Args:
        size: numbers that come in, successive samples.
        n_pairs: energies that go out.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, size: int, n_pairs: int) -> None:
        super().__init__()
        window = torch.blackman_window(size)
        angle = torch.outer(torch.arange(n_pairs) + 0.5, torch.arange(size)) * (math.pi / n_pairs)
        scale = window / window.square().sum().sqrt()
        self.cosine, self.sine = nn.Parameter(angle.cos() * scale), nn.Parameter(angle.sin() * scale)
        self.register_buffer("mean", torch.zeros(n_pairs))
        self.register_buffer("deviation", torch.ones(n_pairs))

    def logarithms(self, values: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch n_pairs"]:
        """Before they are standardised."""
        return ((values @ self.cosine.T).square() + (values @ self.sine.T).square() + LEAST_ENERGY).log()

    def forward(self, values: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch n_pairs"]:
        """Energies of about unit deviation."""
        return (self.logarithms(values) - self.mean) / self.deviation


class CosineSynthesis(nn.Module):
    """The reverse of `EnergyFilterbank`: waves of given energies and fixed random phases, all periods of a loop.

    A difference of 80 dB between two places is a small difference of log-energies. A plain layer would need an accuracy
    of 1e-4 for it, and its errors would be white noise.

    Args:
        energies: the filter bank, whose statistics undo the standardisation of its values.
    """

    waves: Tensor

    def __init__(self, energies: EnergyFilterbank) -> None:
        super().__init__()
        n_pairs, size = energies.cosine.shape
        # The first has no period: it stands for all that is slower than the loop, in whose place 44 Hz would be heard.
        periods = torch.linspace(0, size // 2, n_pairs).round()
        angle = torch.outer(periods, torch.arange(size)) * (2 * math.pi / size)
        phase = 2 * math.pi * torch.rand(n_pairs, 1) * (periods > 0)[:, None]
        self.register_buffer("waves", (angle + phase).cos() * math.sqrt(2 / n_pairs))
        self.statistics = [energies]  # not a part of it: its numbers are in the model already

    def forward(self, values: Float[Tensor, "*batch n_pairs"]) -> Float[Tensor, "*batch size"]:
        """Successive samples."""
        energies = self.statistics[0]
        bounded = MOST_DEVIATIONS * (values / MOST_DEVIATIONS).tanh()
        return (0.5 * (bounded * energies.deviation + energies.mean)).exp() @ self.waves


class Dense(nn.Module):
    """A perceptron from each latent frame's stacked feature frames to its latents, and one back.

    Args:
        channels: number of feature channels.
        latent_dim: values per latent frame.
        out_dim: values per latent frame that the encoder gives the bottleneck.
        width: units of a hidden layer.
        layers: hidden layers, in encoder and decoder each.
        energies: the layer next to the features measures energies in the encoder and adds waves in the decoder, with
            units in pairs: for `grain`, where a wave may begin anywhere, and `stride` 1.
        stride: feature frames per latent frame.
    """

    trainable = True
    generative = True

    def __init__(
        self,
        channels: int,
        latent_dim: int,
        out_dim: int,
        *,
        width: int = 1000,
        layers: int = 2,
        energies: bool = False,
        stride: int = 1,
    ) -> None:
        super().__init__()
        require(2, width=width)
        require(1, layers=layers, stride=stride)
        if energies and stride != 1:
            raise ValueError(
                f"stride is {stride} with energies, expected 1: waves go on within a grain, not from one to the next"
            )
        self.stride = stride
        self.context_frames: int | None = stride - 1
        size, hidden = channels * stride, [width] * layers
        self.energies = EnergyFilterbank(size, width // 2) if energies else None
        inside = [width // 2, *hidden[1:]] if energies else [size, *hidden]
        self.encoder = perceptron([*inside, out_dim])
        self.decoder = perceptron([latent_dim, *reversed(inside)])
        self.waves = CosineSynthesis(self.energies) if self.energies else None

    @torch.no_grad()
    def fit(self, batches: Iterable[Features]) -> None:
        """The statistics of energies, where there are any."""
        if self.energies is None:
            return
        found = moments(
            self.energies.logarithms(valid_frames(one.values.movedim(1, 2), one.lengths)) for one in batches
        )
        self.energies.mean.copy_(found.mean)
        self.energies.deviation.copy_((found.square - found.mean.square()).clamp(min=1e-4).sqrt())

    def encode(
        self, values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch latent_frames out"]:
        """Numbers for the bottleneck, (batch, ceil(frames / stride), out_dim)."""
        rows = stack_frames(values, lengths, self.stride)
        out: Tensor = self.encoder(rows if self.energies is None else self.energies(rows))
        return out

    def decode(
        self, latents: Float[Tensor, "batch latent_frames latent_dim"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels frames"]:
        """Normalised features, (batch, channels, latent_frames · stride)."""
        made = self.decoder(latents)
        return unstack_frames(made if self.waves is None else self.waves(made), self.stride)


def perceptron(sizes: list[int]) -> nn.Sequential:
    """Linear layers of these sizes with GELU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers[:-1])
