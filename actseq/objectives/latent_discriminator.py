"""What presses the codes of an adversarial bottleneck towards their prior, N(0, deviation²) in every dimension.

An adjudicator learns to tell codes from draws, the encoder to fool it. Beside it, codes and draws are compared sorted, along
every dimension and along random directions: that distance never plays a game, and mends what the adjudicator is slow to see.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from actseq.objectives.base import Loss

PENALTY = 0.1
"""Weight of the adjudicator's squared gradient at codes and draws, by which it stays smooth (Mescheder et al. 2018, eq. 9)."""
DIRECTIONS = 64


class LatentDiscriminator(nn.Module):
    """An adjudicator of two hidden layers, and the sliced distance.

    Args:
        latent_dim: numbers of a code.
        deviation: of the prior.
        width: units of a hidden layer.
        adversarial_weight: of the adjudicator's opinion in the encoder's loss.
        matching_weight: of the sliced distance there.

    Sources: Makhzani et al., Adversarial Autoencoders (2015); Kolouri et al., Sliced Wasserstein Auto-Encoders (2018).
    """

    def __init__(
        self, latent_dim: int, deviation: float, width: int, adversarial_weight: float, matching_weight: float
    ) -> None:
        super().__init__()
        self.deviation, self.adversarial_weight, self.matching_weight = deviation, adversarial_weight, matching_weight
        self.adjudicator = nn.Sequential(
            nn.Linear(latent_dim, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 1),
        )

    def encoder_loss(self, codes: Float[Tensor, "frames latent_dim"]) -> Loss:
        """What the encoder pays for codes that are told from draws; the adjudicator stands still."""
        self.adjudicator.requires_grad_(False)
        fooled = F.softplus(-self.adjudicator(codes / self.deviation)).mean()
        self.adjudicator.requires_grad_(True)
        matching = self.matching(codes)
        total = self.adversarial_weight * fooled + self.matching_weight * matching
        return Loss(total, {"fooled": fooled.detach(), "matching": matching.detach()})

    def discriminator_loss(self, codes: Float[Tensor, "frames latent_dim"]) -> Loss:
        """What the adjudicator pays for taking codes for draws and draws for codes."""
        both = torch.cat([torch.randn_like(codes), codes / self.deviation]).requires_grad_()
        score = self.adjudicator(both)[:, 0]
        (slope,) = torch.autograd.grad(score.sum(), both, create_graph=True)
        drawn, coded = score.chunk(2)
        told = F.softplus(-drawn).mean() + F.softplus(coded).mean()
        return Loss(told + PENALTY * slope.square().sum(1).mean(), {"adjudicator": told.detach()})

    def matching(self, codes: Float[Tensor, "frames latent_dim"]) -> Float[Tensor, ""]:
        """Mean squared distance of sorted codes and sorted draws, over dimensions and random directions, + covariances.

        All in deviations of the prior. Random directions alone are slow to see that two dimensions go together.
        """
        dims, codes = codes.shape[1], codes / self.deviation
        directions = F.normalize(torch.randn(dims, DIRECTIONS, device=codes.device), dim=0)
        directions = torch.cat([torch.eye(dims, device=codes.device), directions], dim=1)
        along = (codes @ directions).sort(dim=0).values
        # Sorted draws along any direction are those of one Gaussian: its quantiles need no draws.
        share = (torch.arange(len(codes), device=codes.device) + 0.5) / len(codes)
        quantiles = torch.special.ndtri(share)[:, None]
        centred = codes - codes.mean(0)
        covariance = centred.T @ centred / max(1, len(codes) - 1)
        together: Tensor = (covariance - torch.diag(covariance.diagonal())).square().sum() / dims
        distance: Tensor = (along - quantiles).square().mean() + together
        return distance
