"""`latent-discriminator`: latents are pushed towards the prior of an adversarial bottleneck, N(0, deviation²).

A discriminator learns to tell latents from draws of the prior, and the encoder learns that it cannot. In addition,
latents and draws are compared sorted, along every dimension and along random directions: that distance needs no
opponent, and corrects what the discriminator is slow to find.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from actseq.autoencoders.base import Autoencoder, Posterior
from actseq.errors import require
from actseq.modules.frames import valid_frames
from actseq.objectives.base import Loss

DIRECTIONS = 64


class LatentDiscriminator(nn.Module):
    """A discriminator with two hidden layers, and the sliced distance.

    Args:
        model: the autoencoder; its bottleneck has a `deviation`.
        adversarial_weight: weight of the discriminator's score in the loss of the encoder.
        matching_weight: weight there of the distance between the sorted latents of a batch and sorted draws of the
            prior.
        adjudicator_width: units in each hidden layer of the discriminator.
        gradient_penalty: weight of the discriminator's squared gradient at latents and draws in its own loss
            (Mescheder et al. 2018, equation 9).
        in_turn: the encoder learns what is weighted here by an optimiser of its own, beside the one for the
            reconstruction, in place of a weighted sum.

    Sources: Makhzani et al., Adversarial Autoencoders (2015); Kolouri et al., Sliced Wasserstein Auto-Encoders (2018).
    """

    def __init__(
        self,
        model: Autoencoder,
        *,
        adversarial_weight: float = 1.0,
        matching_weight: float = 1.0,
        adjudicator_width: int = 1000,
        gradient_penalty: float = 0.1,
        in_turn: bool = False,
    ) -> None:
        super().__init__()
        require(0, adversarial_weight=adversarial_weight, matching_weight=matching_weight)
        require(0, gradient_penalty=gradient_penalty)
        require(1, adjudicator_width=adjudicator_width)
        assert model.bottleneck.deviation is not None
        self.deviation, width = model.bottleneck.deviation, adjudicator_width
        self.adversarial_weight, self.matching_weight = adversarial_weight, matching_weight
        self.gradient_penalty, self.in_turn = gradient_penalty, in_turn
        # The word of checkpoints.
        self.adjudicator = nn.Sequential(
            nn.Linear(model.latent_dim, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 1),
        )

    def penalty(self, posterior: Posterior, progress: float | None) -> Loss:
        """How clearly the discriminator tells latents from draws, and their distance; in validation the distance alone.

        The discriminator changes all the time, so its score says nothing about which weights are best.
        """
        latents = valid_frames(posterior.mean, posterior.lengths)
        if progress is None:
            matching = self.matching(latents)
            return Loss(self.matching_weight * matching, {"matching": matching})
        matching = self.matching(latents)
        total, figures = self.matching_weight * matching, {"matching": matching.detach()}
        if self.adversarial_weight:
            self.adjudicator.requires_grad_(False)
            fooled = F.softplus(-self.adjudicator(latents / self.deviation)).mean()
            self.adjudicator.requires_grad_(True)
            total, figures = self.adversarial_weight * fooled + total, {"fooled": fooled.detach(), **figures}
        return Loss(total, figures)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The discriminator, under the name that checkpoints have for it."""
        return {"adjudicator": list(self.parameters())}

    def losses(self, posterior: Posterior) -> dict[str, Loss]:
        """What the discriminator loses by mistaking latents for draws and draws for latents.

        Nothing where its score has no weight: it need not learn then.
        """
        if not self.adversarial_weight:
            return {}
        latents = valid_frames(posterior.mean, posterior.lengths).detach()
        both = torch.cat([torch.randn_like(latents), latents / self.deviation]).requires_grad_()
        score = self.adjudicator(both)[:, 0]
        drawn, encoded = score.chunk(2)
        told = F.softplus(-drawn).mean() + F.softplus(encoded).mean()
        loss = told
        if self.gradient_penalty:
            (slope,) = torch.autograd.grad(score.sum(), both, create_graph=True)
            loss = told + self.gradient_penalty * slope.square().sum(1).mean()
        return {"adjudicator": Loss(loss, {"adjudicator": told.detach()})}

    def matching(self, latents: Float[Tensor, "frames latent_dim"]) -> Float[Tensor, ""]:
        """Mean squared distance of sorted latents from sorted draws, over all directions, plus covariances.

        All in deviations of the prior. Random directions alone are slow to show that two dimensions are correlated.
        """
        dims, latents = latents.shape[1], latents / self.deviation
        directions = F.normalize(torch.randn(dims, DIRECTIONS, device=latents.device), dim=0)
        directions = torch.cat([torch.eye(dims, device=latents.device), directions], dim=1)
        along = (latents @ directions).sort(dim=0).values
        # Sorted draws along any direction are those of one Gaussian: its quantiles need no draws.
        share = (torch.arange(len(latents), device=latents.device) + 0.5) / len(latents)
        quantiles = torch.special.ndtri(share)[:, None]
        centred = latents - latents.mean(0)
        covariance = centred.T @ centred / max(1, len(latents) - 1)
        together: Tensor = (covariance - torch.diag(covariance.diagonal())).square().sum() / dims
        distance: Tensor = (along - quantiles).square().mean() + together
        return distance
