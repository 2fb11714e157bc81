"""`gan`: a generator of whole sequences, trained with the discriminator in `actseq.objectives.adversarial_sequence`.

Noise and a condition become all frames in one pass, so the beginning depends on how the sequence ends. It cannot make
more frames than its longest training sequence, and cannot continue a sequence.

A length is drawn first, from a categorical distribution given the condition. Then activations of that length are
generated, with two kinds of noise around them: the noise of the autoencoder's posteriors, with one deviation per
dimension, and noise that the generator adds. Lengths and deviations of posteriors are trained by their likelihood, the
rest by the discriminator.

Frames of all sequences are packed, one after the other, without padding.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq.errors import ConfigError, require
from actseq.priors.base import PLAIN, Chunk, SamplingRequest, Standardiser
from actseq.priors.heads import draw_component, normal

SLOPE = 0.2
GAIN = math.sqrt(2)
"""Restores the deviation that a rectifier halves."""
CONDITION_GAIN = 2.0
ADDED_SPREAD = -1.0
"""Softplus argument for the deviation of the generator's noise at the start of training."""
N_WAVES = 4
EDGE_FRAMES = 2.0


@dataclass(frozen=True)
class PackedPositions:
    """Sequence and position of packed frames.

    Attributes:
        lengths: frames of each sequence.
        row: index of each frame's sequence.
        position: index of each frame in its sequence.
    """

    lengths: Int[Tensor, " batch"]
    row: Int[Tensor, " packed"]
    position: Int[Tensor, " packed"]

    @staticmethod
    def of(lengths: Int[Tensor, " batch"]) -> "PackedPositions":
        """Sequences of these lengths, one after the other."""
        row = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
        starts = lengths.cumsum(0) - lengths
        return PackedPositions(lengths, row, torch.arange(len(row), device=lengths.device) - starts[row])

    def neighbours(self, distance: int) -> Int[Tensor, "packed 3"]:
        """Indices of the frame `distance` before, the frame itself and the frame `distance` after.

        Beyond an end of the sequence the index is the number of frames.
        """
        at = torch.arange(len(self.row), device=self.row.device)
        before = torch.where(self.position >= distance, at - distance, len(at))
        after = torch.where(self.position + distance < self.lengths[self.row], at + distance, len(at))
        return torch.stack([before, at, after], dim=1)

    def pick(self, values: Float[Tensor, "batch frames_or_1 dims"]) -> Float[Tensor, "packed dims"]:
        """The value of each packed frame; `values` has one for every frame or one for each sequence."""
        return values[self.row, self.position if values.shape[1] > 1 else 0]

    def position_features(self) -> Float[Tensor, "packed n_features"]:
        """Position of each frame: cosines over the sequence, closeness to either end, and the length."""
        length = self.lengths[self.row]
        fraction = (self.position + 0.5) / length
        waves = [torch.cos(math.pi * k * fraction) for k in range(1, N_WAVES + 1)]
        ends = [torch.exp(-self.position / EDGE_FRAMES), torch.exp((self.position + 1 - length) / EDGE_FRAMES)]
        return torch.stack([*waves, *ends, length.float().log() - 2], dim=1)

    def mean(self, values: Float[Tensor, "packed dims"]) -> Float[Tensor, "batch dims"]:
        """Mean over the frames of each sequence."""
        total = values.new_zeros(len(self.lengths), values.shape[1]).index_add(0, self.row, values)
        return total / self.lengths[:, None]


N_POSITION_FEATURES = N_WAVES + 3


class EqualizedLinear(nn.Module):
    """A linear map whose weights have unit variance and are scaled in use, so that all learn equally fast with Adam.

    Args:
        dims_in: size of the input.
        dims_out: size of the output.
        gain: deviation of the output for an input of deviation 1.
        pace: factor to the learning speed.

    Source: Karras et al., Progressive Growing of GANs (2018), section 4.1.
    """

    def __init__(self, dims_in: int, dims_out: int, gain: float = 1.0, pace: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dims_out, dims_in) / pace)
        self.bias = nn.Parameter(torch.zeros(dims_out))
        self.scale, self.pace = pace * gain / math.sqrt(dims_in), pace

    def forward(self, values: Float[Tensor, "*batch dims_in"]) -> Float[Tensor, "*batch dims_out"]:
        """Map the last axis."""
        return F.linear(values, self.weight * self.scale, self.bias * self.pace)


class PackedBlock(nn.Module):
    """A residual block over packed frames and their neighbours.

    Args:
        width: values per frame.
        distance: distance to the neighbours in frames.
        style_dim: size of the vector that scales and shifts activations; 0 for none.
        pace: factor to the learning speed.
    """

    def __init__(self, width: int, distance: int, style_dim: int = 0, pace: float = 1.0) -> None:
        super().__init__()
        self.distance = distance
        self.mix, self.out = EqualizedLinear(3 * width, width, GAIN, pace), EqualizedLinear(width, width, GAIN, pace)
        self.style = EqualizedLinear(style_dim, 2 * width, 0.5) if style_dim else None

    def forward(
        self,
        values: Float[Tensor, "packed width"],
        places: PackedPositions,
        style: Float[Tensor, "batch frames_or_1 style_dim"] | None = None,
    ) -> Float[Tensor, "packed width"]:
        """Values with the same deviation as the input."""
        # One more row of zeros, for the neighbours beyond an end.
        seen = F.pad(values, (0, 0, 0, 1))[places.neighbours(self.distance)].flatten(1)
        inner = self.mix(F.leaky_relu(seen, SLOPE))
        if self.style is not None and style is not None:
            scale, shift = places.pick(self.style(style)).chunk(2, dim=1)
            inner = inner * (1 + scale) + shift
        return (values + self.out(F.leaky_relu(inner, SLOPE))) * math.sqrt(0.5)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class GeneratorNoise:
    """Noise for sequences of known lengths, all with deviation 1.

    Attributes:
        sequence: noise that is constant over a sequence.
        frame: noise of each frame.
        spread: noise of the activations around the generator's output.
    """

    sequence: Float[Tensor, "batch noise_dim"]
    frame: Float[Tensor, "packed frame_noise_dim"]
    spread: Float[Tensor, "packed dims"]


class Gan(nn.Module):
    """`gan`: generates a whole sequence from noise and a label in one pass.

    Args:
        latent_dim: values per latent frame of the autoencoder.
        n_active: number of dimensions that carry information.
        condition_dim: size of the condition vector.
        frames: latent frames of the longest sequence in training.
        width: channels inside.
        blocks: residual blocks; each reaches twice as far as the one before, from 1 frame to 8 and again from 1.
        noise_dim: random numbers per sequence.
        frame_noise_dim: random numbers per frame.
    """

    objective = "gan"
    has_likelihood = False
    takes_spans: Literal[True] = True
    controls: tuple[str, ...] = ("temperature", "noise_temperature", "noise_clamp")
    lengths_seen: Tensor

    def __init__(
        self,
        latent_dim: int,
        n_active: int,
        condition_dim: int,
        frames: int,
        *,
        width: int = 128,
        blocks: int = 4,
        noise_dim: int = 64,
        frame_noise_dim: int = 64,
    ) -> None:
        super().__init__()
        require(1, width=width, blocks=blocks, noise_dim=noise_dim, frame_noise_dim=frame_noise_dim)
        self.latent_dim, self.condition_dim = latent_dim, condition_dim
        self.noise_dim, self.frame_noise_dim = noise_dim, frame_noise_dim
        self.standardiser = Standardiser(latent_dim, n_active)
        self.style = nn.Sequential(
            EqualizedLinear(noise_dim + condition_dim, 2 * width, GAIN),
            nn.LeakyReLU(SLOPE),
            EqualizedLinear(2 * width, 2 * width, GAIN),
            nn.LeakyReLU(SLOPE),
        )
        self.begin = EqualizedLinear(N_POSITION_FEATURES + frame_noise_dim, width)
        self.shift = EqualizedLinear(2 * width + condition_dim, width)
        self.blocks = nn.ModuleList(PackedBlock(width, 2 ** (i % 4), 2 * width + condition_dim) for i in range(blocks))
        self.values = EqualizedLinear(width, 2 * n_active)
        self.length = nn.Sequential(
            EqualizedLinear(condition_dim, width), nn.LeakyReLU(SLOPE), EqualizedLinear(width, frames)
        )
        self.log_spread = nn.Parameter(torch.full((n_active,), -1.0))
        # Index i means i + 1 frames. Lengths that never occurred are not drawn.
        self.register_buffer("lengths_seen", torch.zeros(frames, dtype=torch.bool))

    def generate(
        self,
        places: PackedPositions,
        condition: Float[Tensor, "batch frames_or_1 condition_dim"],
        noise: GeneratorNoise,
    ) -> Float[Tensor, "packed dims"]:
        """Standardised activations of sequences of known lengths.

        Args:
            places: positions of the frames.
            condition: condition vectors, one for each frame or one for all.
            noise: noise for these lengths.
        """
        sequence = noise.sequence[:, None].expand(-1, condition.shape[1], -1)
        styles = self.style(torch.cat([sequence, condition], dim=2))
        # The condition again, scaled up: with this much noise the network would otherwise ignore the label.
        styles = torch.cat([styles, CONDITION_GAIN * condition], dim=2)
        values = self.begin(torch.cat([places.position_features(), noise.frame], dim=1)) + places.pick(
            self.shift(styles)
        )
        for block in self.blocks:
            values = block(values, places, styles)
        middle, raw = self.values(F.leaky_relu(values, SLOPE)).chunk(2, dim=1)
        out: Tensor = middle + (self.log_spread.exp() + F.softplus(raw + ADDED_SPREAD)) * noise.spread
        return out

    def sample(self, request: SamplingRequest) -> Iterator[Chunk]:
        """Whole sequences in chunks; see `Prior.sample`. The temperature does not change their lengths.

        Raises:
            ConfigError: the request has a prompt, a control that it cannot use, or too many frames.
        """
        if request.prompt is not None:
            raise ConfigError("prior gan cannot continue a recording", action="use a sequence prior, such as lstm")
        request.sampling.require_supported(self.controls, "prior gan")
        device = self.log_spread.device
        generator = torch.Generator(device).manual_seed(request.seed)
        filler = torch.Generator(device).manual_seed(request.seed + 1)
        with torch.no_grad():
            lengths = self._lengths(request, generator)
            latents = self._latents(request, lengths, generator, filler)
        frames = min(request.max_frames, latents.shape[1])
        stopped = torch.arange(frames, device=device) >= lengths[:, None]
        for start in range(0, frames, request.chunk_frames):
            stop = min(frames, start + request.chunk_frames)
            yield Chunk(latents[:, start:stop], stopped[:, start:stop])

    def _lengths(self, request: SamplingRequest, generator: torch.Generator) -> Int[Tensor, " batch"]:
        seen = self.lengths_seen.nonzero()[:, 0] + 1
        longest = int(seen.max()) if len(seen) else 0
        asked = request.min_frames if request.until_stop else request.max_frames
        if asked > longest:
            raise ConfigError(
                f"prior gan was asked for {asked} latent frames",
                f"at most {longest}, the longest that it learned from: it makes a sequence in one go",
                "ask for less, let it end by itself (--until-stop), or use a sequence prior, such as lstm",
            )
        if not request.until_stop:
            return torch.full((request.n,), asked, device=self.lengths_seen.device)
        at = torch.arange(1, len(self.lengths_seen) + 1, device=self.lengths_seen.device)
        possible = self.lengths_seen & (at >= request.min_frames)
        logits = self.length(self._condition(request)[:, 0]).masked_fill(~possible, -math.inf)
        return draw_component(logits, PLAIN, generator) + 1

    def _condition(self, request: SamplingRequest) -> Float[Tensor, "batch frames_or_1 condition_dim"]:
        first = request.condition_at(0)
        if first is None:
            return self.log_spread.new_zeros(request.n, 1, self.condition_dim)
        if not request.changes:
            return first[:, None]
        glide = [request.condition_at(frame) for frame in range(len(self.lengths_seen))]
        return torch.stack(glide, dim=1)  # type: ignore[arg-type]

    def _latents(
        self, request: SamplingRequest, lengths: Tensor, generator: torch.Generator, filler: torch.Generator
    ) -> Float[Tensor, "batch frames latent_dim"]:
        places, device = PackedPositions.of(lengths), lengths.device
        # `noise_temperature` applies to the noise of frames only.
        of_sequence = replace(request.sampling, noise_temperature=None)
        noise = GeneratorNoise(
            normal((len(lengths), self.noise_dim), of_sequence, generator, device),
            normal((len(places.row), self.frame_noise_dim), request.sampling, generator, device),
            normal((len(places.row), len(self.log_spread)), request.sampling, generator, device),
        )
        made = self.generate(places, self._condition(request), noise)
        values = made.new_zeros(len(lengths), int(lengths.max()), made.shape[1])
        values[places.row, places.position] = made
        return self.standardiser.restore(values, filler)

    def likelihood_loss(
        self,
        lengths: Int[Tensor, " batch"],
        condition: Float[Tensor, "batch condition_dim"],
        log_deviation: Float[Tensor, "packed dims"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean negative log-likelihoods in nats: of a length, and of a value of the noise around activations.

        Args:
            lengths: frames of each sequence.
            condition: condition vector of each sequence.
            log_deviation: standardised log-deviations of the frames' posteriors; −inf for point latents.
        """
        length = F.cross_entropy(self.length(condition), lengths - 1)
        spread = self.log_spread + 0.5 * (2 * (log_deviation - self.log_spread)).exp()
        return length, spread.mean()
