"""`flow-matching`: the velocity from noise to latents that are drawn from their posterior for every batch.

The input is a mixture of noise and latents at a random time. The network predicts the direction from the noise to the
latents. In some sequences a part is given without noise, a prefix or a prefix and a suffix: from these the network
learns to continue and to fill.

The times of a batch are spread evenly over their distribution rather than drawn one by one, which lowers the noise of
the gradient and does not change its mean.

Sources: Liu et al., Flow Straight and Fast (2023), equation 1; Esser et al., Scaling Rectified Flow Transformers
(2024), section 3.1, for logit-normal times.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actseq.errors import require
from actseq.modules.gaussian import draw
from actseq.objectives.base import Batch, Loss
from actseq.priors.clip_flow import GROUPS, ClipFlow, Window
from actseq.priors.labels import LabelledPrior

N_CHECKS = 4
"""Times at which each held-out sequence is measured."""


class FlowMatching(nn.Module):
    """Squared error of the velocity from noise to latents.

    Batches are those of `SequenceLikelihood`.

    Args:
        model: prior and label table.
        label_dropout: fraction of sequences without their label. Where labels have times, the same fraction of the
            others is without the places of the frames in their spans.
        given: fraction of sequences of which a part is given without noise: half have a prefix, half a prefix and a
            suffix.
        balance: the weight of a frame is the length of its sequence to the power of −balance: 0 weights all frames
            equally, 1 all sequences.
        posterior: learn draws from the posterior; otherwise its mean.
        time_mean: mean of the logit of the time; above 0 the times are nearer to the latents than to the noise.
        time_deviation: standard deviation of that logit.
        summary_dropout: fraction of sequences without their summary; only for a prior with summaries.

    Raises:
        ValueError: a fraction, a power or a deviation under 0.
    """

    monitor = "loss"
    keeps_last: Literal[True] = True

    def __init__(
        self,
        model: LabelledPrior[ClipFlow],
        *,
        label_dropout: float = 0.1,
        given: float = 0.3,
        balance: float = 0.5,
        posterior: bool = True,
        time_mean: float = 0.0,
        time_deviation: float = 1.0,
        summary_dropout: float = 0.15,
    ) -> None:
        super().__init__()
        require(0, label_dropout=label_dropout, given=given, balance=balance, time_deviation=time_deviation)
        require(0, summary_dropout=summary_dropout)
        self.model = model
        self.label_dropout, self.given, self.balance, self.posterior = label_dropout, given, balance, posterior
        self.time_mean, self.time_deviation, self.summary_dropout = time_mean, time_deviation, summary_dropout

    @property
    def prior(self) -> ClipFlow:
        """The velocity field, a part of the model."""
        return self.model.prior

    def exported(self) -> nn.Module:
        """The model."""
        return self.model

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group: all of the prior."""
        return {"prior": list(self.model.parameters())}

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The loss with labels dropped and parts given at random."""
        data, lengths = batch.data, batch.data["lengths"]
        dice = torch.rand(3, len(lengths), device=lengths.device)
        shown = dice[0] >= self.label_dropout
        known = regions(lengths, data["mean"].shape[1], dice[1] < self.given, dice[2] < 0.5)
        times = self.times(torch.rand((), device=lengths.device), len(lengths))
        times = times[torch.randperm(len(times), device=times.device)]
        values = drawn(data) if self.posterior else data["mean"]
        condition = self.model.condition_of(data, shown, self._placed(data))
        window = self.prior.window(data, self.prior.standardiser.standardise(values), self.summary_dropout)
        loss = self._error(replace(window, known=known), times, condition)
        return {"prior": Loss(loss, {"loss": loss.detach()})}

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The same from noise alone, with every label; the times are always the same."""
        data, n = batch.data, len(batch.data["lengths"])
        values = self.prior.standardiser.standardise(drawn(data))
        window = self.prior.window(data, values, 0.0)
        times = self.times(torch.tensor(0.5, device=values.device), N_CHECKS)
        condition = self.model.condition_of(data)
        losses = [self._error(window, time.expand(n), condition) for time in times]
        return {"loss": torch.stack(losses).mean()}

    def _placed(self, data: Mapping[str, Tensor]) -> Bool[Tensor, " batch"] | None:
        """Which sequences know the places of their frames; None where labels have no times."""
        if self.model.place is None:
            return None
        return torch.rand(len(data["lengths"]), device=data["lengths"].device) >= self.label_dropout

    def times(self, shift: Tensor, n: int) -> Float[Tensor, " n"]:
        """Evenly spread over their distribution, in order."""
        share = (torch.arange(n, device=shift.device) + shift) / n
        logit = self.time_mean + self.time_deviation * torch.special.ndtri(share.clamp(1e-4, 1 - 1e-4))
        return torch.sigmoid(logit)

    def _error(
        self,
        whole: Window,
        times: Float[Tensor, " batch"],
        condition: Float[Tensor, "batch frames_or_1 condition_dim"],
    ) -> Float[Tensor, ""]:
        """Mean squared error over the values of all frames that are neither padding nor known, balanced."""
        values, noise = whole.clean, torch.randn_like(whole.clean)
        total, weights = values.new_zeros(()), values.new_zeros(())
        for rows in whole.lengths.argsort().chunk(GROUPS):
            window = whole.of(rows)
            asked = (window.inside & ~window.known)[..., None]
            own = window.clean.masked_fill(~window.inside[..., None], 0)
            source = noise[rows, : own.shape[1]]
            place = torch.lerp(source, own, times[rows, None, None])
            velocity = self.prior(place, times[rows], window, condition[rows, : own.shape[1]])
            error = (velocity - (own - source)).square().mean(2, keepdim=True).masked_fill(~asked, 0).sum(1)
            weight = window.lengths.to(own.dtype)[:, None] ** -self.balance
            total = total + (weight * error).sum()
            weights = weights + (weight * asked.sum(1)).sum()
        return total / weights.clamp(min=1e-9)


def drawn(data: Mapping[str, Tensor]) -> Float[Tensor, "batch frames latent_dim"]:
    """A draw from the posteriors."""
    return draw(data["mean"], data["log_variance"], torch.randn_like(data["mean"]))


def regions(
    lengths: Int[Tensor, " batch"], frames: int, given: Bool[Tensor, " batch"], suffix: Bool[Tensor, " batch"]
) -> Bool[Tensor, "batch frames"]:
    """Which frames are given: all but a region of random place and length, of one frame at least.

    Args:
        lengths: valid frames.
        frames: of the batch.
        given: sequences of which anything is given.
        suffix: those of which a suffix may be given as well as a prefix; in the others the region reaches to the end.
    """
    share = torch.rand(2, len(lengths), device=lengths.device)
    start = (share[0] * lengths).long().clamp(max=lengths - 1)
    stop = torch.where(suffix, start + 1 + (share[1] * (lengths - start)).long(), lengths)
    at = torch.arange(frames, device=lengths.device)
    asked = (at >= start[:, None]) & (at < stop[:, None])
    return given[:, None] & ~asked & (at < lengths[:, None])
