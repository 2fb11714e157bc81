"""`circular`: a rotation of a grain changes no latent, and nothing that is decoded from them."""

import members
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from actseq.autoencoders.base import Autoencoder
from actseq.autoencoders.circular import Circular
from actseq.errors import ConfigError
from actseq.representations.base import Features

SIZES = [(24, 6), (25, 25), (96, None), (97, 10)]
"""Samples of a grain and taps of a kernel."""


def model(samples: int, taps: int | None, bottleneck: str = "variational") -> Autoencoder:
    return members.autoencoder("circular", bottleneck, {"pairs": 5, "taps": taps, "width": 12}, n_mels=samples)


def grains(samples: int, n: int, seed: int = 0) -> torch.Tensor:
    """(1, samples, n), of different levels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, samples, n), generator=generator) * torch.logspace(-2, 1, n)


@pytest.mark.parametrize(("samples", "taps"), SIZES)
def test_a_rotation_by_any_number_of_samples_changes_no_latent(samples: int, taps: int | None) -> None:
    network = model(samples, taps)
    values, lengths = grains(samples, 4), torch.tensor([4])
    with torch.no_grad():
        still = network.encode(Features(values, lengths))
        assert still.log_variance is not None
        assert still.mean.std(1).min() > 1e-2, "grains have latents of their own"
        for by in range(1, samples):
            turned = network.encode(Features(values.roll(by, dims=1), lengths))
            assert turned.log_variance is not None
            torch.testing.assert_close(turned.mean, still.mean, atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(turned.log_variance, still.log_variance, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("samples", "taps"), SIZES)
def test_energies_are_those_of_a_circular_convolution(samples: int, taps: int | None) -> None:
    network = model(samples, taps).network
    assert isinstance(network, Circular)
    pairs, _, size = network.kernels.shape
    assert size == (samples if taps is None else taps)
    loops = grains(samples, 3)[0].T
    with torch.no_grad():
        found = network.log_energies(loops)
        # A convolution is the correlation with the kernel in reverse; circular padding of one kernel to the left.
        padded = F.pad(loops[:, None], (size - 1, 0), mode="circular") if size > 1 else loops[:, None]
        moved = F.conv1d(padded, network.kernels.flatten(0, 1)[:, None].flip(2)).unflatten(1, (pairs, 2))
        expected = moved.square().sum(2).mean(2)
    assert moved.shape[3] == samples, "every place, none left out"
    torch.testing.assert_close(found.exp(), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("samples", [24, 25])
def test_the_decoder_makes_a_loop_of_the_powers_that_it_is_told(samples: int) -> None:
    network = model(samples, None).network
    assert isinstance(network, Circular)
    latents = torch.randn((1, 3, members.LATENT_DIM), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made = network.decode(latents, torch.tensor([3]))
        told = network.decoded_powers(latents)
        assert made.shape == (1, samples, 3)
        torch.testing.assert_close(network.log_powers(made.transpose(1, 2)), told, atol=0.05, rtol=0.01)
        torch.testing.assert_close(made.square().mean(1), told.exp().sum(2), atol=1e-5, rtol=1e-4)
        wild = network.decode(1e6 * latents, torch.tensor([3]))
        most = network.decoded_powers(1e6 * latents).amax((0, 1))
    assert wild.isfinite().all()
    assert (most <= network.power_high + 1).all()


def test_all_rotations_of_a_grain_are_restored_as_the_same_grain() -> None:
    network = model(96, None, "plain")
    turned = torch.cat([grains(96, 1).roll(by, dims=1) for by in range(0, 96, 7)], dim=2)
    with torch.no_grad():
        made = network.reconstruct(Features(turned, torch.tensor([turned.shape[2]]))).values
    torch.testing.assert_close(made, made[:, :, :1].expand_as(made), atol=1e-4, rtol=1e-4)


def test_energies_and_powers_are_standardised_by_the_data() -> None:
    network = Circular(64, 3, 3, pairs=9)
    values = grains(64, 500)
    network.fit([Features(values, torch.tensor([400])), Features(values, torch.tensor([1]))])
    rows = values[0, :, :400].T
    with torch.no_grad():
        energies = (network.log_energies(rows) - network.energy_mean) / network.energy_deviation
        powers = (network.log_powers(rows) - network.power_mean) / network.power_deviation
    for found in (energies, powers):
        np.testing.assert_allclose(found.mean(0), 0, atol=0.02)
        np.testing.assert_allclose(found.std(0), 1, atol=0.02)


def test_kernels_are_no_longer_than_a_grain() -> None:
    with pytest.raises(ConfigError, match="taps is 25, expected at most the 24 samples of a grain"):
        model(24, 25)
