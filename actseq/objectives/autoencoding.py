"""`autoencoding`: reconstruct the features of random crops, and pay for what the bottleneck asks for.

A variational bottleneck pays for its bits, an adversarial one for what tells its codes from draws of their prior. With a
corruption the input is the corrupted crop and the target the clean one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from actseq.autoencoders.base import Autoencoder, Latents, Posterior, Skipping
from actseq.autoencoders.bottlenecks import Adversarial
from actseq.corruptions.base import Corruption
from actseq.errors import require
from actseq.losses import free_bits, kl_per_dimension, masked_delta_l1, masked_l1
from actseq.modules.frames import frame_mask
from actseq.objectives.base import Batch, Loss
from actseq.objectives.latent_discriminator import LatentDiscriminator
from actseq.representations.base import Features, Granular, HasMagnitude, Representation

DB_PER_NEPER = 20 / math.log(10)
ACTIVE_NATS = 0.01


@dataclass(frozen=True)
class _Measured:
    """What one batch gave.

    Attributes:
        loss: of the reconstruction, and of the bits.
        figures: to be shown.
        codes: (frames, latent_dim), those inside the lengths; None beside skip connections.
    """

    loss: Tensor
    figures: dict[str, Tensor]
    codes: Tensor | None


class Autoencoding(nn.Module):
    """Distance of values, of their change in time and of magnitudes, each with its weight, + β · KL.

    Batches hold `waveform (batch, margin + samples + margin)` and `n_samples (batch,)`, as `SegmentSource` makes them, and
    `noise` like `waveform` where the corruption wants crops of other classes; or `features (batch, frames, channels)` in
    place of the waveform, as `FeatureSource` makes them. Those are L1 distances.

    Args:
        model: the autoencoder.
        representation: of its features.
        margin: samples around each crop, a multiple of the hop.
        corruption: what is done to the input; None leaves it as it is.
        value_weight: of the difference of normalised features.
        delta_weight: of the difference of their change from frame to frame.
        magnitude_weight: of the distance of magnitudes, as the representation tells it; only for those that hold phases
            (`stft`, `grain`, `spectrum`).
        kl_weight: β at its full value; KL is the mean over dimensions in nats.
        kl_warmup: share of the training over which β rises from 0.
        free_bits_nats: a dimension is charged at least this much.
        adversarial_weight: of what fools the adjudicator; only with an adversarial bottleneck, like the next two.
        matching_weight: of the distance of the sorted codes of a batch from sorted draws of their prior.
        adjudicator_width: units in each of the adjudicator's two hidden layers.

    Raises:
        ValueError: a weight of the magnitude with a representation that has none, or a corruption of grains with one that
            has no grains.
    """

    monitor = "loss"

    def __init__(
        self,
        model: Autoencoder,
        representation: Representation,
        margin: int,
        corruption: Corruption | None,
        *,
        value_weight: float = 1.0,
        delta_weight: float = 0.25,
        magnitude_weight: float = 0.0,
        kl_weight: float = 1e-2,
        kl_warmup: float = 0.2,
        free_bits_nats: float = 0.25,
        adversarial_weight: float = 1.0,
        matching_weight: float = 1.0,
        adjudicator_width: int = 1000,
    ) -> None:
        super().__init__()
        require(0, value_weight=value_weight, delta_weight=delta_weight, magnitude_weight=magnitude_weight)
        require(0, adversarial_weight=adversarial_weight, matching_weight=matching_weight)
        require(1, adjudicator_width=adjudicator_width)
        if magnitude_weight and not isinstance(representation, HasMagnitude):
            raise ValueError(
                f"magnitude_weight is {magnitude_weight}, expected 0 but with representation stft, grain or spectrum"
            )
        if corruption is not None and corruption.works_on_grains and not isinstance(representation, Granular):
            raise ValueError("the corruption works on grains; use it with representation grain or spectrum")
        self.model, self.representation, self.margin, self.corruption = model, representation, margin, corruption
        self.value_weight, self.delta_weight, self.magnitude_weight = value_weight, delta_weight, magnitude_weight
        self.kl_weight, self.kl_warmup, self.free_bits_nats = kl_weight, kl_warmup, free_bits_nats
        self.adjudication = None
        if isinstance(model.bottleneck, Adversarial):
            self.adjudication = LatentDiscriminator(
                model.latent_dim,
                model.bottleneck.deviation,
                adjudicator_width,
                adversarial_weight,
                matching_weight,
            )

    def exported(self) -> nn.Module:
        """The model, without the adjudicator."""
        return self.model

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All of the autoencoder; then the adjudicator, where there is one."""
        groups = {"autoencoder": list(self.model.parameters())}
        return groups if self.adjudication is None else groups | {"adjudicator": list(self.adjudication.parameters())}

    @torch.no_grad()
    def pair(self, batch: Batch) -> tuple[Features, Features]:
        """Normalised features that the encoder sees, and those that are to come out."""
        corruption = self.corruption
        if corruption is None or corruption.works_on_grains:
            target = self._stored(batch) if "features" in batch.data else self._features(batch.data["waveform"], batch)
            if corruption is None:
                return target, target
            given = self._grain_by_grain(lambda grains: corruption.corrupt(grains, None).input, target.values)
            return Features(given, target.lengths), target
        both = corruption.corrupt(batch.data["waveform"], batch.data.get("noise"))
        return self._features(both.input, batch), self._features(both.target, batch)

    def _stored(self, batch: Batch) -> Features:
        values = batch.data["features"].transpose(1, 2)
        lengths = 1 + batch.data["n_samples"] // self.representation.hop_length
        return Features(self.model.normaliser.normalise(values), lengths.clamp(max=values.shape[2]))

    def _features(self, waveform: Tensor, batch: Batch) -> Features:
        return segment_features(self.representation, self.model, waveform, batch.data["n_samples"], self.margin)

    def _grain_by_grain(self, change: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        """Normalised features with changed grains."""
        assert isinstance(self.representation, Granular)
        normaliser = self.model.normaliser
        grains = self.representation.grains(normaliser.restore(values))
        changed = rearrange(change(rearrange(grains, "b n t -> (b t) n")), "(b t) n -> b n t", b=len(grains))
        return normaliser.normalise(self.representation.features_of(changed))

    def _measure(self, batch: Batch, weight: float, posterior_sample: bool) -> _Measured:
        given, target = self.pair(batch)
        frames = target.values.shape[2]
        posterior = None
        if isinstance(self.model.network, Skipping):
            output = self.model.network.reconstruct(given.values, given.lengths)
        else:
            posterior = self.model.encode_normalised(given.values, given.lengths)
            latents: Latents = posterior.sample() if posterior_sample else posterior.mode()
            output = self.model.decode_normalised(latents)[:, :, :frames]
        inside = frame_mask(target.lengths, frames)
        error = masked_l1(output, target.values, inside)
        loss = self.value_weight * error
        if self.delta_weight:
            loss = loss + self.delta_weight * masked_delta_l1(output, target.values, inside)
        deviation = self.model.normaliser.deviation
        figures = (
            {"error_db": error * deviation * DB_PER_NEPER} if self.representation.log_magnitude else {"error": error}
        )
        if self.magnitude_weight:
            assert isinstance(self.representation, HasMagnitude)
            heard = output
            if self.corruption is not None and self.corruption.works_on_grains:
                heard = self._grain_by_grain(self.corruption.perturb, output)
            restore = self.model.normaliser.restore
            magnitude = self.representation.magnitude_distance(restore(heard), restore(target.values), inside)
            loss = loss + self.magnitude_weight * magnitude
            figures["magnitude_error"] = magnitude
        kl = None if posterior is None else self._kl(posterior)
        if kl is not None:
            loss = loss + weight * free_bits(kl, self.free_bits_nats)
            figures["kbit_per_s"] = kl.sum() / math.log(2) * self.model.latent_rate / 1000
            figures["active_dims"] = (kl > ACTIVE_NATS).sum().float()
        codes = None if posterior is None else posterior.mean[frame_mask(posterior.lengths, posterior.mean.shape[1])]
        return _Measured(loss, {"loss": loss, **figures}, codes)

    @staticmethod
    def _kl(posterior: Posterior) -> Tensor | None:
        kl = posterior.kl()
        return None if kl is None else kl_per_dimension(kl, frame_mask(posterior.lengths, kl.shape[1]))

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The loss with β at its present value; and that of the adjudicator, on codes that stand still."""
        weight = self.kl_weight * (min(1.0, batch.progress / self.kl_warmup) if self.kl_warmup > 0 else 1.0)
        measured = self._measure(batch, weight, posterior_sample=True)
        found, loss, told = measured.figures, measured.loss, {}
        if self.adjudication is not None and measured.codes is not None:
            fooled = self.adjudication.encoder_loss(measured.codes)
            loss = loss + fooled.total
            told = {"adjudicator": self.adjudication.discriminator_loss(measured.codes.detach())}
            found = found | {"loss": loss, **fooled.figures}
        return {"autoencoder": Loss(loss, {name: value.detach() for name, value in found.items()}), **told}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The same at full β and from the posterior's mean, as in use; without the adjudicator, who changes his mind."""
        measured = self._measure(batch, self.kl_weight, posterior_sample=False)
        if self.adjudication is None or measured.codes is None:
            return measured.figures
        matching = self.adjudication.matching(measured.codes)
        loss = measured.loss + self.adjudication.matching_weight * matching
        return measured.figures | {"loss": loss, "matching": matching}


def segment_features(
    representation: Representation, model: Autoencoder, waveform: Tensor, n_samples: Tensor, margin: int
) -> Features:
    """Normalised features of crops that carry `margin` samples to either side: analysed with them, then cut to size."""
    hop = representation.hop_length
    everything = torch.full((len(waveform),), waveform.shape[1], device=waveform.device)
    values = representation.analyse(waveform, everything).values
    first = margin // hop
    frames = 1 + (waveform.shape[1] - 2 * margin) // hop
    values = model.normaliser.normalise(values[:, :, first : first + frames])
    return Features(values, (1 + n_samples // hop).clamp(max=frames))
