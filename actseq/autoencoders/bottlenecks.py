"""Bottlenecks: what the values of an encoder mean."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq.autoencoders.base import Posterior
from actseq.errors import require

CONSTANT = 1e-12
"""Latents with less variance than this in every direction count as equal."""


class Plain(nn.Module):
    """`plain`: the values of the encoder are the latents.

    Args:
        latent_dim: values per latent frame.
    """

    params_per_dim = 1
    deviation = None

    def __init__(self, latent_dim: int) -> None:
        super().__init__()

    def encode(self, numbers: Float[Tensor, "batch frames out"], lengths: Int[Tensor, " batch"]) -> Posterior:
        """A point posterior."""
        return Posterior(numbers, None, lengths)

    def decode(self, latents: Float[Tensor, "*batch latent_dim"]) -> Float[Tensor, "*batch latent_dim"]:
        """The latents themselves."""
        return latents

    def calibrate(self, codes: Iterator[Float[Tensor, "frames latent_dim"]]) -> None:
        """Nothing."""


class Adversarial(nn.Module):
    """`adversarial`: the values are the latents, and a discriminator pushes their distribution to N(0, deviation²).

    Args:
        latent_dim: values per latent frame.
        deviation: standard deviation of the prior in every dimension.
        whiten: after training, remove what is left of mean, scale and correlation with statistics of the training
            clips, which are stored in the model.

    Source: Makhzani et al., Adversarial Autoencoders (2015).
    """

    params_per_dim = 1
    regulariser = "latent-discriminator"
    centre: Tensor
    whitening: Tensor
    colouring: Tensor

    def __init__(self, latent_dim: int, *, deviation: float = 5.0, whiten: bool = True) -> None:
        super().__init__()
        require(1e-3, deviation=deviation)
        self.deviation, self.whiten = deviation, whiten
        self.register_buffer("centre", torch.zeros(latent_dim))
        self.register_buffer("whitening", torch.eye(latent_dim))
        self.register_buffer("colouring", torch.eye(latent_dim))

    def encode(self, numbers: Float[Tensor, "batch frames out"], lengths: Int[Tensor, " batch"]) -> Posterior:
        """A point posterior."""
        return Posterior((numbers - self.centre) @ self.whitening * self.deviation, None, lengths)

    def decode(self, latents: Float[Tensor, "*batch latent_dim"]) -> Float[Tensor, "*batch latent_dim"]:
        """The values that latents were made from."""
        return latents / self.deviation @ self.colouring + self.centre

    def calibrate(self, codes: Iterator[Float[Tensor, "frames latent_dim"]]) -> None:
        """Give the latents zero mean, the prior's standard deviation, and no correlation, if they are to be whitened.

        Of all such maps it is the one that moves the latents least. Equal latents only get zero mean.
        """
        if not self.whiten:
            return
        numbers = self.decode(torch.cat(list(codes))).double()
        centred = numbers - numbers.mean(0)
        variances, vectors = torch.linalg.eigh(centred.T @ centred / len(numbers))
        largest = float(variances.max())
        scale = variances.clamp(min=1e-6 * largest).sqrt() if largest > CONSTANT else torch.ones_like(variances)
        self.centre.copy_(numbers.mean(0))
        self.whitening.copy_(vectors / scale @ vectors.T)
        self.colouring.copy_(vectors * scale @ vectors.T)


class Variational(nn.Module):
    """`variational`: mean and log-variance of a diagonal Gaussian.

    Args:
        latent_dim: values per latent frame.
        min_log_variance: lower bound of the log-variance: no dimension becomes free of noise.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes (2014).
    """

    params_per_dim = 2
    deviation = 1.0
    regulariser = "kl"

    def __init__(self, latent_dim: int, *, min_log_variance: float = -10.0) -> None:
        super().__init__()
        self.min_log_variance = min_log_variance

    def encode(self, numbers: Float[Tensor, "batch frames out"], lengths: Int[Tensor, " batch"]) -> Posterior:
        """The first half of the values is the mean, the second the log-variance."""
        mean, log_variance = numbers.chunk(2, dim=2)
        return Posterior(mean, log_variance.clamp(self.min_log_variance, 4.0), lengths)

    def decode(self, latents: Float[Tensor, "*batch latent_dim"]) -> Float[Tensor, "*batch latent_dim"]:
        """The latents themselves."""
        return latents

    def calibrate(self, codes: Iterator[Float[Tensor, "frames latent_dim"]]) -> None:
        """Nothing."""
