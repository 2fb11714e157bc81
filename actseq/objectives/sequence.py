"""`sequence`: likelihood of latent sequences, drawn anew from their posterior for every batch."""

import math

import torch
from torch import Tensor, nn

from actseq.objectives.base import Batch, Loss
from actseq.priors.conditions import ConditionedPrior


class SequenceLikelihood(nn.Module):
    """Negative log-likelihood of the next latent and of the end.

    Batches hold `mean` and `log_variance (batch, frames, latent_dim)` (−inf where the code is a point), `previous` likewise
    with one frame, `lengths`, `begins`, `ends (batch,)` and `label (batch,)`.

    Args:
        model: prior and label table.
        label_dropout: share of sequences that are shown without their label.
        end_weight: of the end's likelihood.
    """

    monitor = "loss"

    def __init__(self, model: ConditionedPrior, *, label_dropout: float = 0.1, end_weight: float = 0.1) -> None:
        super().__init__()
        self.model, self.label_dropout, self.end_weight = model, label_dropout, end_weight

    def kept(self) -> nn.Module:
        """The model."""
        return self.model

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group: all of the prior."""
        return {"prior": list(self.model.parameters())}

    def _measure(self, batch: Batch, label_dropout: float) -> dict[str, Tensor]:
        data, prior = batch.data, self.model.prior
        values = prior.standardiser.standardise(draw(data["mean"], data["log_variance"]))
        previous = prior.standardiser.standardise(draw(data["previous_mean"], data["previous_log_variance"]))
        shown = torch.rand(len(values), device=values.device) >= label_dropout
        condition = self.model.condition(data["label"] * shown)
        prediction = prior.forward(values, condition, previous, data["begins"])
        latent, end = prior.sequence_loss(prediction, values, data["lengths"], data["ends"])
        return {"loss": latent + self.end_weight * end, "bits_per_dim": latent / math.log(2), "end_nats": end}

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The loss with labels dropped at random."""
        figures = self._measure(batch, self.label_dropout)
        return {"prior": Loss(figures["loss"], {name: value.detach() for name, value in figures.items()})}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The same with every label shown."""
        return self._measure(batch, 0.0)


def draw(mean: Tensor, log_variance: Tensor) -> Tensor:
    """One draw from the posterior."""
    return mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
