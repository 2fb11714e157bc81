"""`autoencoding`: reconstruct the features of random crops; a variational bottleneck also pays for its bits."""

import math

import torch
from torch import Tensor, nn

from actseq.autoencoders.base import Autoencoder, Posterior, frame_mask
from actseq.errors import require
from actseq.losses import free_bits, kl_per_dimension, masked_delta_l1, masked_l1, masked_magnitude_l1
from actseq.objectives.base import Batch, Loss
from actseq.representations.base import Features, Representation
from actseq.representations.stft import Stft

DB_PER_NEPER = 20 / math.log(10)
ACTIVE_NATS = 0.01


class Autoencoding(nn.Module):
    """L1 + `delta_weight` · L1 of the time difference + `magnitude_weight` · L1 of the magnitude + β · KL.

    Batches hold `waveform (batch, margin + samples + margin)` and `n_samples (batch,)`, as `SegmentSource` makes them.

    Args:
        model: the autoencoder.
        representation: of its features.
        margin: samples around each crop, a multiple of the hop.
        kl_weight: β at its full value; KL is the mean over dimensions in nats.
        kl_warmup: share of the training over which β rises from 0.
        free_bits_nats: a dimension is charged at least this much.
        delta_weight: of the time difference.
        magnitude_weight: of the compressed magnitude; only for `stft`.

    Raises:
        ValueError: a weight of the magnitude with another representation.
    """

    monitor = "loss"

    def __init__(
        self,
        model: Autoencoder,
        representation: Representation,
        margin: int,
        *,
        kl_weight: float = 1e-2,
        kl_warmup: float = 0.2,
        free_bits_nats: float = 0.25,
        delta_weight: float = 0.25,
        magnitude_weight: float = 0.0,
    ) -> None:
        super().__init__()
        require(0, magnitude_weight=magnitude_weight)
        if magnitude_weight and not isinstance(representation, Stft):
            raise ValueError(f"magnitude_weight is {magnitude_weight}, expected 0 with any representation but stft")
        self.model, self.representation, self.margin = model, representation, margin
        self.kl_weight, self.kl_warmup, self.free_bits_nats = kl_weight, kl_warmup, free_bits_nats
        self.delta_weight, self.magnitude_weight = delta_weight, magnitude_weight

    def kept(self) -> nn.Module:
        """The model."""
        return self.model

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group: all of the autoencoder."""
        return {"autoencoder": list(self.model.parameters())}

    @torch.no_grad()
    def features(self, batch: Batch) -> Features:
        """Normalised features of the crops: analysed with what lies around them, then cut to size."""
        return crop_features(self.representation, self.model, batch, self.margin)

    def _measure(self, batch: Batch, weight: float, posterior_sample: bool) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.features(batch)
        posterior = self.model.encode_normalised(features.values, features.lengths)
        latents = posterior.sample() if posterior_sample else posterior.mode()
        output = self.model.decode_normalised(latents)[:, :, : features.values.shape[2]]
        inside = frame_mask(features.lengths, features.values.shape[2])
        error = masked_l1(output, features.values, inside)
        delta = masked_delta_l1(output, features.values, inside)
        loss = error + self.delta_weight * delta
        deviation = self.model.normaliser.deviation
        figures = (
            {"error_db": error * deviation * DB_PER_NEPER} if self.representation.log_magnitude else {"error": error}
        )
        if self.magnitude_weight:
            magnitude = masked_magnitude_l1(self._complex(output), self._complex(features.values), inside) / deviation
            loss = loss + self.magnitude_weight * magnitude
            figures["magnitude_error"] = magnitude
        kl = self._kl(posterior)
        if kl is not None:
            loss = loss + weight * free_bits(kl, self.free_bits_nats)
            figures["kbit_per_s"] = kl.sum() / math.log(2) * self.model.latent_rate / 1000
            figures["active_dims"] = (kl > ACTIVE_NATS).sum().float()
        return loss, {"loss": loss, **figures}

    def _complex(self, values: Tensor) -> Tensor:
        assert isinstance(self.representation, Stft)
        return self.representation.compressed(self.model.normaliser.restore(values))

    @staticmethod
    def _kl(posterior: Posterior) -> Tensor | None:
        kl = posterior.kl()
        return None if kl is None else kl_per_dimension(kl, frame_mask(posterior.lengths, kl.shape[1]))

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The loss with β at its present value."""
        weight = self.kl_weight * (min(1.0, batch.progress / self.kl_warmup) if self.kl_warmup > 0 else 1.0)
        loss, figures = self._measure(batch, weight, posterior_sample=True)
        return {"autoencoder": Loss(loss, {name: value.detach() for name, value in figures.items()})}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The same at full β and from the posterior's mean, as in use."""
        return self._measure(batch, self.kl_weight, posterior_sample=False)[1]


def crop_features(representation: Representation, model: Autoencoder, batch: Batch, margin: int) -> Features:
    """Normalised features of crops that carry `margin` samples to either side."""
    waveform, n_samples = batch.data["waveform"], batch.data["n_samples"]
    hop = representation.hop_length
    everything = torch.full((len(waveform),), waveform.shape[1], device=waveform.device)
    values = representation.analyse(waveform, everything).values
    first = margin // hop
    frames = 1 + (waveform.shape[1] - 2 * margin) // hop
    values = model.normaliser.normalise(values[:, :, first : first + frames])
    return Features(values, (1 + n_samples // hop).clamp(max=frames))
