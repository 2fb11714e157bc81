"""What a bottleneck asks of its latents in training: the contract of a regulariser, and the price of information.

A bottleneck names its regulariser in its attribute `regulariser`; the objective `autoencoding` adds what it costs.
"""

import math
from typing import Protocol, runtime_checkable

from torch import nn

from actseq.autoencoders.base import Autoencoder, Posterior
from actseq.errors import require
from actseq.losses import free_bits, kl_per_dimension
from actseq.modules.frames import frame_mask
from actseq.modules.gaussian import ACTIVE_NATS
from actseq.objectives.base import Loss


@runtime_checkable
class Regulariser(Protocol):
    """An `nn.Module`. It may have parameters of its own, which learn beside the autoencoder."""

    def penalty(self, posterior: Posterior, progress: float | None) -> Loss:
        """What is added to the autoencoder's loss, or learned in turn with it.

        Args:
            posterior: latents of a batch, with the gradient of the encoder.
            progress: share of the training that is done, 0 to 1; None in validation, where the result must not depend
                on how far the training is.
        """

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Its own parameters, one optimiser each, stepped after the autoencoder."""

    def losses(self, posterior: Posterior) -> dict[str, Loss]:
        """A loss for each of its groups, without a gradient for the autoencoder."""


@runtime_checkable
class TakesTurns(Regulariser, Protocol):
    """A regulariser whose penalty may be learned apart from the reconstruction."""

    in_turn: bool
    """Whether the encoder learns from the penalty by an optimiser of its own, in place of a sum with other losses."""


class KlPrice(nn.Module):
    """`kl`: β · KL divergence from N(0, 1), the mean over dimensions in nats.

    Args:
        model: the autoencoder; its bottleneck has a variance.
        kl_weight: β at its full value. It grows with `latent_dim`.
        kl_warmup: share of the training over which β rises from 0.
        free_bits_nats: a dimension is charged at least this much: what it may carry for nothing.
    """

    def __init__(
        self, model: Autoencoder, *, kl_weight: float = 1e-2, kl_warmup: float = 0.2, free_bits_nats: float = 0.25
    ) -> None:
        super().__init__()
        require(0, kl_weight=kl_weight, kl_warmup=kl_warmup, free_bits_nats=free_bits_nats)
        self.kl_weight, self.kl_warmup, self.free_bits_nats = kl_weight, kl_warmup, free_bits_nats
        self.latent_rate = model.latent_rate

    def penalty(self, posterior: Posterior, progress: float | None) -> Loss:
        """The KL divergence, its bit rate, and how many dimensions carry anything; in validation at full β."""
        nats = posterior.kl()
        assert nats is not None
        kl = kl_per_dimension(nats, frame_mask(posterior.lengths, nats.shape[1]))
        rising = progress is not None and self.kl_warmup > 0
        weight = self.kl_weight * (min(1.0, (progress or 0.0) / self.kl_warmup) if rising else 1.0)
        figures = {
            "kbit_per_s": kl.sum() / math.log(2) * self.latent_rate / 1000,
            "active_dims": (kl > ACTIVE_NATS).sum().float(),
        }
        return Loss(weight * free_bits(kl, self.free_bits_nats), figures)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """None."""
        return {}

    def losses(self, posterior: Posterior) -> dict[str, Loss]:
        """None."""
        return {}
