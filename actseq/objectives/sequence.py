"""`sequence`: likelihood of latent sequences, drawn from their posterior again for every batch."""

import math

import torch
from torch import Tensor, nn

from actseq.modules.gaussian import draw
from actseq.objectives.base import Batch, Loss
from actseq.priors.labels import LabelledPrior
from actseq.priors.sequence import SequencePrior


class SequenceLikelihood(nn.Module):
    """Negative log-likelihood of the next latent and of the end.

    Batches hold `mean` and `log_variance (batch, frames, latent_dim)` (−inf where latents are points), `previous`
    likewise with one frame, `lengths`, `begins`, `ends (batch,)` and `label (batch,)`.

    Args:
        model: prior and label table.
        label_dropout: fraction of sequences that are shown without their label.
        input_noise: half of the sequences get noise of a uniformly drawn level up to this, and the prior knows the
            level.
        posterior: draw latents from their posterior for every batch; false: learn its mean.
        end_weight: weight of the likelihood of the end.
    """

    monitor = "loss"

    def __init__(
        self,
        model: LabelledPrior[SequencePrior],
        *,
        label_dropout: float = 0.1,
        input_noise: float = 0.3,
        posterior: bool = True,
        end_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.model, self.label_dropout, self.end_weight = model, label_dropout, end_weight
        self.input_noise, self.posterior = input_noise, posterior

    def exported(self) -> nn.Module:
        """The model."""
        return self.model

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group: all of the prior."""
        return {"prior": list(self.model.parameters())}

    def _measure(self, batch: Batch, training: bool) -> dict[str, Tensor]:
        data, prior = batch.data, self.model.prior
        drawn = self.posterior or not training
        values, previous = (
            prior.standardiser.standardise(
                draw(data[mean], data[log_variance], torch.randn_like(data[mean])) if drawn else data[mean]
            )
            for mean, log_variance in (("mean", "log_variance"), ("previous_mean", "previous_log_variance"))
        )
        label, noise_level = data["label"], None
        if training:
            dice = torch.rand(3, len(values), device=values.device)
            label = label * (dice[0] >= self.label_dropout)
            noise_level = self.input_noise * dice[1] * (dice[2] < 0.5) if self.input_noise else None
        prediction = prior.forward(values, self.model.condition(label), previous, data["begins"], noise_level)
        latent, end = prior.sequence_loss(prediction, values, data["lengths"], data["ends"])
        figures = {"loss": latent + self.end_weight * end, "end_nats": end}
        return figures | ({"bits_per_dim": latent / math.log(2)} if prior.has_likelihood else {"latent_loss": latent})

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The loss with labels dropped at random and noise on what is shown."""
        figures = self._measure(batch, training=True)
        return {"prior": Loss(figures["loss"], {name: value.detach() for name, value in figures.items()})}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The same with every label and no noise."""
        return self._measure(batch, training=False)
