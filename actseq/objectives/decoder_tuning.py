"""`decoder-tuning`: the decoder learns to decode what a prior makes.

Latents that a prior makes have small errors that differ from frame to frame, and a decoder that has seen only exact
latents turns each into a jump of level. So latents of training clips are mixed with noise and made again by the prior,
and the decoder learns to give the clip's features from them. It sees neighbouring frames and evens the errors out. A
part of the clips keeps its own latents, so the decoder stays good at them.

Source: Qiu et al., Robust Latent Matters: Boosting Image Generation with Sampling Error Synthesis (2025).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actseq.autoencoders.base import Autoencoder, Latents
from actseq.errors import require
from actseq.losses import masked_delta_l1, masked_l1
from actseq.objectives.autoencoding import decoded_frames, segment_features
from actseq.objectives.base import Batch, Loss
from actseq.objectives.flow_matching import drawn
from actseq.priors.base import Remakes
from actseq.priors.labels import LabelledPrior
from actseq.representations.base import Representation


class DecoderTuning(nn.Module):
    """L1 distance between the features of clips and what the decoder makes of latents that the prior made again.

    Batches are those of `DecoderSource`.

    Args:
        autoencoder: its decoder is tuned, in place.
        model: prior and label table.
        representation: the representation of the autoencoder's features.
        margin: samples around each waveform, a multiple of the hop.
        frames: latent frames that are decoded of each window.
        real: fraction of windows that keep the latents of their clip.
        earliest: the earliest time of the path to which latents are taken back, 0 being noise.
        latest: the latest such time.
        delta_weight: weight of the L1 distance between changes from frame to frame.

    Raises:
        ValueError: a fraction or weight under 0, or an empty interval.
    """

    monitor = "loss"

    def __init__(
        self,
        autoencoder: Autoencoder,
        model: LabelledPrior[Any],
        representation: Representation,
        margin: int,
        frames: int,
        *,
        real: float,
        earliest: float,
        latest: float,
        delta_weight: float = 0.25,
    ) -> None:
        super().__init__()
        require(0, real=real, earliest=earliest, delta_weight=delta_weight)
        if not earliest <= latest < 1:
            raise ValueError(f"earliest is {earliest} and latest {latest}, expected earliest ≤ latest < 1")
        self.autoencoder, self.model, self.representation = (
            autoencoder,
            model.eval().requires_grad_(False),
            representation,
        )
        self.margin, self.frames, self.real = margin, frames, real
        self.earliest, self.latest, self.delta_weight = earliest, latest, delta_weight
        self.decoding = decoding_parameters(autoencoder)

    @property
    def prior(self) -> Remakes:
        """The prior, a part of the model."""
        found: Remakes = self.model.prior
        return found

    def exported(self) -> nn.Module:
        """The autoencoder; only `decoding` differs from what it was."""
        return self.autoencoder

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group: what decoding uses."""
        return {"decoder": list(self.decoding.values())}

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The loss with times, and which windows keep their latents, drawn at random."""
        share = torch.rand(2, len(batch.data["lengths"]), device=batch.data["lengths"].device)
        times = self.earliest + (self.latest - self.earliest) * share[0]
        loss = self._error(batch, times, share[1] < self.real)
        return {"decoder": Loss(loss, {"loss": loss.detach()})}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The loss where all windows are made again from the middle of the interval; and where none is, `real_loss`."""
        times = torch.full_like(batch.data["lengths"], 0, dtype=torch.float32) + (self.earliest + self.latest) / 2
        none = torch.zeros_like(times, dtype=torch.bool)
        return {"loss": self._error(batch, times, none), "real_loss": self._error(batch, times, ~none)}

    def _error(self, batch: Batch, times: Float[Tensor, " batch"], real: Tensor) -> Float[Tensor, ""]:
        data = batch.data
        latents, again = drawn(data), (~real).nonzero()[:, 0]
        if len(again):
            own = {name: part[again] for name, part in data.items()}
            with torch.no_grad():
                condition = self.model.condition_of(own)
                latents[again] = self.prior.remake(own, latents[again], times[again], condition)
        at = data["crop"][:, None] + torch.arange(self.frames, device=latents.device)
        there = at < data["lengths"][:, None]
        at = at.clamp(max=latents.shape[1] - 1)[..., None].expand(-1, -1, latents.shape[2])
        crop = latents.gather(1, at).masked_fill(~there[..., None], 0)
        samples = data["n_samples"].clamp(max=data["waveform"].shape[1] - 2 * self.margin)
        target = segment_features(self.representation, self.autoencoder, data["waveform"], samples, self.margin)
        output = self.autoencoder.decode_normalised(Latents(crop, there.sum(1)))
        frames = min(output.shape[2], target.values.shape[2])
        output, features, inside = (
            output[:, :, :frames],
            target.values[:, :, :frames],
            decoded_frames(target.lengths, self.autoencoder.stride, frames),
        )
        error = masked_l1(output, features, inside)
        return error + self.delta_weight * masked_delta_l1(output, features, inside)


def decoding_parameters(autoencoder: Autoencoder) -> dict[str, nn.Parameter]:
    """The parameters that decoding uses, by name: those that get a gradient from it."""
    parameters = dict(autoencoder.named_parameters())
    device = next(iter(parameters.values())).device
    latents = Latents(torch.zeros(1, 2, autoencoder.latent_dim, device=device), torch.tensor([2], device=device))
    output = autoencoder.decode_normalised(latents).sum()
    slopes = torch.autograd.grad(output, list(parameters.values()), allow_unused=True)
    return {
        name: parameter
        for (name, parameter), slope in zip(parameters.items(), slopes, strict=True)
        if slope is not None
    }
