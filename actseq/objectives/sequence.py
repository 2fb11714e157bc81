"""`sequence`: likelihood of latent sequences, drawn from their posterior again for every batch."""

import math

import torch
from torch import Tensor, nn

from actseq.errors import require
from actseq.modules.gaussian import draw
from actseq.objectives.base import Batch, Loss
from actseq.priors.labels import LabelledPrior
from actseq.priors.sequence import SequencePrior, with_noise

GROUPS = 3
"""Number of groups of similar length in a batch; each group is padded by itself."""


class SequenceLikelihood(nn.Module):
    """Negative log-likelihood of the next latent and of the end.

    Batches hold `mean` and `log_variance (batch, frames, latent_dim)` (−inf where latents are points), `previous`
    likewise with one frame, `lengths`, `begins`, `ends (batch,)` and `label (batch,)`; and where labels have times,
    `frame_label (batch, frames)` and `frame_place (batch, frames, n_place)`.

    Args:
        model: prior and label table.
        label_dropout: fraction of sequences that are shown without their label. Where labels have times, the same
            fraction of the others is shown without the places of the frames in their spans.
        input_noise: half of the sequences get noise of a uniformly drawn level up to this, and the prior knows the
            level.
        posterior: draw latents from their posterior for every batch; false: learn its mean.
        end_weight: weight of the likelihood of the end.
        balance: a frame of a sequence of n frames weighs n^−balance; 0 weights frames alike, 1 sequences.
        start_weight: weight of the first frame of a sequence; what exceeds 1 halves with each later frame.
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
        balance: float = 0.0,
        start_weight: float = 1.0,
    ) -> None:
        super().__init__()
        require(0, balance=balance, start_weight=start_weight)
        self.model, self.label_dropout, self.end_weight = model, label_dropout, end_weight
        self.input_noise, self.posterior = input_noise, posterior
        self.balance, self.start_weight = balance, start_weight

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
        level, shown = values.new_zeros(len(values)), (values, previous)
        named = placed = None
        if training:
            dice = torch.rand(3, len(values), device=values.device)
            named = dice[0] >= self.label_dropout
            if self.input_noise:
                level = self.input_noise * dice[1] * (dice[2] < 0.5)
                shown = (with_noise(values, level), with_noise(previous, level))
            if self.model.place is not None:
                placed = torch.rand(len(values), device=values.device) >= self.label_dropout
        condition, lengths, begins = self.model.condition_of(data, named, placed), data["lengths"], data["begins"]
        weights = self._weights(lengths, begins, values.shape[1], training)
        latent = end = asked = values.new_zeros(())
        groups = lengths.argsort().chunk(GROUPS)
        if not prior.everywhere:
            # Batches of a prior of an older run stay as they were.
            groups = (torch.arange(len(lengths), device=lengths.device),)
        for rows in groups:
            frames = int(lengths[rows].max())
            # One condition for a whole sequence has no axis of frames.
            own = condition[rows, :frames] if condition.shape[1] > 1 else condition[rows, 0]
            given = (shown[0][rows, :frames], own, shown[1][rows], begins[rows], level[rows])
            prediction = prior.forward(*given)
            losses = prior.losses(prediction, values[rows, :frames], lengths[rows], data["ends"][rows])
            latent = latent + (losses.latent * weights[rows, :frames]).sum()
            end, asked = end + losses.end.sum(), asked + losses.asked.sum()
        latent, end = latent / (weights.sum() * values.shape[2]), end / asked.clamp(min=1)
        figures = {"loss": latent + self.end_weight * end, "end_nats": end}
        return figures | ({"bits_per_dim": latent / math.log(2)} if prior.has_likelihood else {"latent_loss": latent})

    def _weights(self, lengths: Tensor, begins: Tensor, frames: int, training: bool) -> Tensor:
        """Weight of each frame, 0 beyond the lengths; in validation all frames weigh alike."""
        at = torch.arange(frames, device=lengths.device)
        inside = (at < lengths[:, None]).float()
        if not training:
            return inside
        early = 1 + (self.start_weight - 1) * 0.5**at * begins[:, None]
        return inside * early * lengths[:, None].float() ** -self.balance

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The loss with labels dropped at random and noise on what is shown."""
        figures = self._measure(batch, training=True)
        return {"prior": Loss(figures["loss"], {name: value.detach() for name, value in figures.items()})}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The same with every label and no noise."""
        return self._measure(batch, training=False)
