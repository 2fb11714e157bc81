"""The contract of an autoencoder: a network that maps, a bottleneck that says what the code is, statistics of the data.

Padding: `lengths` say what is real; everything else is zero before every operation that looks across frames, so a clip
is encoded and decoded in a batch as it would be alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq import units
from actseq.modules.frames import frame_mask, valid_frames
from actseq.modules.gaussian import draw, kl_nats
from actseq.representations.base import Features
from actseq.representations.normaliser import Normaliser


@dataclass(frozen=True)
class Latents:
    """A batch of encoder activations.

    Attributes:
        values: (batch, frames, latent_dim).
        lengths: valid latent frames of each.
    """

    values: Float[Tensor, "batch frames latent_dim"]
    lengths: Int[Tensor, " batch"]


@dataclass(frozen=True)
class Posterior:
    """What the encoder says of each latent frame.

    Attributes:
        mean: (batch, frames, latent_dim).
        log_variance: the same shape, or None where the code is a point.
        lengths: valid latent frames of each.
    """

    mean: Float[Tensor, "batch frames latent_dim"]
    log_variance: Float[Tensor, "batch frames latent_dim"] | None
    lengths: Int[Tensor, " batch"]

    def sample(self) -> Latents:
        """One draw from torch's global generator; the mean where the code is a point."""
        if self.log_variance is None:
            return Latents(self.mean, self.lengths)
        return Latents(draw(self.mean, self.log_variance, torch.randn_like(self.mean)), self.lengths)

    def mode(self) -> Latents:
        """The mean."""
        return Latents(self.mean, self.lengths)

    def kl(self) -> Float[Tensor, "batch frames latent_dim"] | None:
        """KL divergence to N(0, 1) in nats, per frame and dimension; None where the code is a point."""
        if self.log_variance is None:
            return None
        return kl_nats(self.mean, self.log_variance)


@runtime_checkable
class EncoderDecoder(Protocol):
    """Maps normalised features to numbers per latent frame, and latents back."""

    stride: int
    context_frames: int | None
    trainable: bool
    generative: bool

    def encode(
        self, values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch latent_frames out"]:
        """Numbers for the bottleneck."""

    def decode(
        self, latents: Float[Tensor, "batch latent_frames latent_dim"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels frames"]:
        """Normalised features; frames = latent_frames · stride."""

    def fit(self, batches: Iterable[Features]) -> None:
        """Take from normalised features what is computed rather than trained."""


@runtime_checkable
class Bottleneck(Protocol):
    """Turns a network's numbers into a posterior."""

    params_per_dim: int

    @property
    def deviation(self) -> float | None:
        """Of the prior of codes, N(0, deviation²) in every dimension; None where there is none."""

    def encode(self, numbers: Float[Tensor, "batch frames out"], lengths: Int[Tensor, " batch"]) -> Posterior:
        """The posterior over latents."""

    def decode(self, latents: Float[Tensor, "*batch latent_dim"]) -> Float[Tensor, "*batch latent_dim"]:
        """What the network decodes, from a code."""

    def calibrate(self, codes: Iterator[Float[Tensor, "frames latent_dim"]]) -> None:
        """Take from the codes of training clips, clip by clip, what is fitted to them after training."""


@runtime_checkable
class Skipping(EncoderDecoder, Protocol):
    """A network whose output sees more than the latents: `generative` is False."""

    def reconstruct(
        self, values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels frames"]:
        """Normalised features from normalised features."""


@runtime_checkable
class WholeClips(EncoderDecoder, Protocol):
    """A network with one latent frame for a whole clip, whose end is followed by silence.

    Attributes:
        silence: feature of silence, before it is normalised.
        condition_dim: values of the decoder's condition; 0 if it takes none.
    """

    silence: float
    condition_dim: int

    def decode(
        self,
        latents: Float[Tensor, "batch latent_frames latent_dim"],
        lengths: Int[Tensor, " batch"],
        condition: Float[Tensor, "batch latent_frames condition_dim"] | None = None,
    ) -> Float[Tensor, "batch channels frames"]:
        """Normalised features; frames = latent_frames · stride."""


class Autoencoder(nn.Module):
    """Statistics + network + bottleneck, and a table of labels if the decoder is given the label.

    Args:
        channels: of the features.
        feature_rate: frames per second.
        log_magnitude: as the representation declares.
        signed: as the representation declares.
        latent_dim: numbers per latent frame.
        labels: labels that the decoder knows; only for a network whose decoder takes a condition.
    """

    def __init__(
        self,
        network: EncoderDecoder,
        bottleneck: Bottleneck,
        *,
        channels: int,
        feature_rate: float,
        log_magnitude: bool,
        signed: bool = False,
        latent_dim: int,
        labels: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.normaliser = Normaliser(channels, log_magnitude=log_magnitude, signed=signed)
        self.network, self.bottleneck = network, bottleneck
        self.latent_dim, self.stride = latent_dim, network.stride
        self.latent_rate = feature_rate / network.stride
        self.context_frames = network.context_frames
        self.generative = network.generative
        self.labels = list(labels)
        """Names of the rows of the table from 1 on; row 0 is the condition "no label"."""
        dims = network.condition_dim if isinstance(network, WholeClips) else 0
        self.table = nn.Embedding(len(self.labels) + 1, dims) if dims else None

    @property
    def whole_clips(self) -> bool:
        """Whether one latent frame stands for a whole clip."""
        return isinstance(self.network, WholeClips)

    def condition(self, labels: Int[Tensor, " batch"], frames: int) -> Float[Tensor, "batch frames dims"] | None:
        """The decoder's condition: the same in all latent frames; None if the decoder takes none.

        Args:
            labels: rows of the table.
            frames: number of latent frames.
        """
        return None if self.table is None else self.table(labels)[:, None].expand(-1, frames, -1)

    @torch.no_grad()
    def fit(self, batches: Iterable[Features]) -> None:
        """Compute what is fitted rather than trained. `batches` is iterated more than once."""
        self.normaliser.fit(batches)
        normalised = (Features(self.normaliser.normalise(one.values), one.lengths) for one in batches)
        self.network.fit(Features(self._padded(one.values, one.lengths), one.lengths) for one in normalised)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Features]) -> None:
        """Compute what is fitted after training, from features of training clips."""
        encoded = map(self.encode, batches)
        self.bottleneck.calibrate(valid_frames(one.mean, one.lengths) for one in encoded)

    def encode(self, features: Features) -> Posterior:
        """Posterior (batch, ceil(frames / stride), latent_dim)."""
        return self.encode_normalised(self.normaliser.normalise(features.values), features.lengths)

    def encode_normalised(
        self, values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"]
    ) -> Posterior:
        """As `encode`, from features that are normalised already."""
        numbers = self.network.encode(self._padded(values, lengths), lengths)
        return self.bottleneck.encode(numbers, units.n_latent_frames(lengths, self.stride))

    def _padded(
        self, values: Float[Tensor, "batch channels frames"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch channels padded_frames"]:
        """Normalised features, with silence behind the end of each clip for a network of whole clips."""
        if not isinstance(self.network, WholeClips):
            return values
        padded = units.n_latent_frames(values.shape[2], self.stride) * self.stride
        silence = self.normaliser.normalise(torch.full_like(values[:1, :, :1], self.network.silence))
        inside = frame_mask(lengths, padded)[:, None]
        return torch.where(inside, nn.functional.pad(values, (0, padded - values.shape[2])), silence)

    def decode_normalised(
        self, latents: Latents, condition: Float[Tensor, "batch latent_frames dims"] | None = None
    ) -> Float[Tensor, "batch channels frames"]:
        """As `decode`, but without undoing the normalisation: what a reconstruction loss compares."""
        codes = self.bottleneck.decode(latents.values)
        if not isinstance(self.network, WholeClips) or self.table is None:
            return self.network.decode(codes, latents.lengths)
        if condition is None:
            condition = self.condition(torch.zeros_like(latents.lengths), codes.shape[1])
        return self.network.decode(codes, latents.lengths, condition)

    def decode(self, latents: Latents, condition: Float[Tensor, "batch latent_frames dims"] | None = None) -> Features:
        """Features (batch, channels, latent frames · stride).

        Args:
            latents: what to decode.
            condition: as from `condition`; None: no label. A network without a condition takes no notice of it.
        """
        values = self.normaliser.restore(self.decode_normalised(latents, condition))
        return Features(values, latents.lengths * self.stride)

    def reconstruct(self, features: Features) -> Features:
        """decode ∘ encode at the posterior's mean, at the length of the input; or what a network with skips makes."""
        if isinstance(self.network, Skipping):
            values = self.network.reconstruct(self.normaliser.normalise(features.values), features.lengths)
            return Features(self.normaliser.restore(values), features.lengths)
        frames = features.values.shape[2]
        return Features(self.decode(self.encode(features).mode()).values[:, :, :frames], features.lengths)
