"""Losses over padded sequences. All means are over valid frames only."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

STEEPEST = 10.0
"""Power ratio above which `itakura_saito` continues as a straight line, so that gradients stay bounded."""


def masked_l1(
    output: Float[Tensor, "batch channels frames"],
    target: Float[Tensor, "batch channels frames"],
    inside: Bool[Tensor, "batch frames"],
) -> Float[Tensor, ""]:
    """Mean absolute difference over valid frames; 0 if there are none."""
    return ((output - target).abs().mean(1) * inside).sum() / inside.sum().clamp(min=1)


def masked_delta_l1(
    output: Float[Tensor, "batch channels frames"],
    target: Float[Tensor, "batch channels frames"],
    inside: Bool[Tensor, "batch frames"],
) -> Float[Tensor, ""]:
    """Mean absolute difference of the changes from frame to frame; it keeps transients sharp."""
    error = (output - target).diff(dim=2).abs().mean(1)
    both = inside[:, 1:] & inside[:, :-1]
    return (error * both).sum() / both.sum().clamp(min=1)


def itakura_saito(
    output: Float[Tensor, "batch bands frames"],
    target: Float[Tensor, "batch bands frames"],
    inside: Bool[Tensor, "batch frames"],
) -> Float[Tensor, ""]:
    """Mean of P/Q − ln(P/Q) − 1 over valid frames, for target powers P and output powers Q as natural logarithms.

    For random powers the best constant output is their mean, so levels are right. The absolute difference of logarithms
    would give the median, some decibels lower. If P exceeds `STEEPEST` times Q, the distance continues as a straight
    line.

    Source: Itakura and Saito (1968); as a likelihood Févotte, Bertin, Durrieu (2009), section 2.
    """
    difference = target - output
    near = difference.clamp(max=math.log(STEEPEST))
    distance = near.exp() - near - 1 + (STEEPEST - 1) * (difference - near)
    return (distance.mean(1) * inside).sum() / inside.sum().clamp(min=1)


def kl_per_dimension(
    kl: Float[Tensor, "batch frames latent_dim"], inside: Bool[Tensor, "batch frames"]
) -> Float[Tensor, " latent_dim"]:
    """KL divergence of every dimension, as a mean over valid frames, in nats."""
    return (kl * inside[:, :, None]).sum((0, 1)) / inside.sum()


def free_bits(kl: Float[Tensor, " latent_dim"], free: float) -> Float[Tensor, ""]:
    """Mean over dimensions, each counted as at least `free` nats, so that smaller values have no gradient.

    Source: Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow (2016), on batch means.
    """
    return torch.clamp(kl, min=free).mean()


def log_magnitude_l1(
    output: Float[Tensor, "batch bins frames"],
    target: Float[Tensor, "batch bins frames"],
    inside: Bool[Tensor, "batch frames"],
    floor: float,
) -> Float[Tensor, ""]:
    """Mean absolute difference of log-magnitudes over valid frames, in nepers; lower magnitudes count as `floor`."""
    return masked_l1(output.clamp(min=floor).log(), target.clamp(min=floor).log(), inside)


def spectral_convergence(
    output: Float[Tensor, "batch bins frames"],
    target: Float[Tensor, "batch bins frames"],
    inside: Bool[Tensor, "batch frames"],
) -> Float[Tensor, ""]:
    """‖output − target‖ / ‖target‖ over all valid frames of the batch, so that a silent segment has no weight.

    Source: Arık, Jun, Diamos, Fast Spectrogram Inversion using Multi-head CNN (2018).
    """
    difference = ((output - target).square().sum(1) * inside).sum()
    return ((difference + 1e-12) / ((target.square().sum(1) * inside).sum() + 1e-12)).sqrt()


def hinge_of_discriminators(real: list[Tensor], made: list[Tensor]) -> Float[Tensor, ""]:
    """Loss of discriminators: 0 if scores of real sound exceed 1 and scores of generated sound are below −1.

    Source: Lim and Ye, Geometric GAN (2017), eq. 12; mean over discriminators.
    """
    losses = [(1 - r).relu().mean() + (1 + m).relu().mean() for r, m in zip(real, made, strict=True)]
    return torch.stack(losses).mean()


def hinge_of_generator(made: list[Tensor]) -> Float[Tensor, ""]:
    """Loss of a generator: 0 if scores of generated sound exceed 1.

    Source: Zeghidour et al., SoundStream (2021), eq. 2; mean over discriminators.
    """
    return torch.stack([(1 - m).relu().mean() for m in made]).mean()


def feature_matching(real: list[list[Tensor]], made: list[list[Tensor]]) -> Float[Tensor, ""]:
    """Mean absolute difference of discriminator activations between real and generated sound; all layers count equally.

    Source: Kumar et al., MelGAN (2019), eq. 4.
    """
    differences = [
        (r.detach() - m).abs().mean()
        for layers_r, layers_m in zip(real, made, strict=True)
        for r, m in zip(layers_r, layers_m, strict=True)
    ]
    return torch.stack(differences).mean()
