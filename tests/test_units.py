"""Conversions: the same for a number, an array and a tensor."""

import math

import numpy as np
import pytest
import torch

from actseq import units
from actseq.modules import gaussian


def test_counts_of_tensors_are_those_of_their_items() -> None:
    counts = [0, 1, 63, 64, 65, 4000]
    tensor = torch.tensor(counts)
    assert units.n_frames(tensor, 64).tolist() == [units.n_frames(n, 64) for n in counts] == [1, 1, 1, 2, 2, 63]
    latent = [units.n_latent_frames(n, 3) for n in counts]
    assert units.n_latent_frames(tensor, 3).tolist() == latent == [math.ceil(n / 3) for n in counts]
    assert [units.n_hops(n, 64) for n in counts] == [math.ceil(n / 64) for n in counts]


def test_decibels_there_and_back() -> None:
    levels = np.array([-80.0, -6.0, 0.0, 12.5])
    amplitudes, powers = units.db_to_amplitude(levels), units.db_to_power(levels)
    np.testing.assert_allclose(units.amplitude_to_db(amplitudes), levels, atol=1e-12)
    np.testing.assert_allclose(units.power_to_db(powers), levels, atol=1e-12)
    np.testing.assert_allclose(powers, amplitudes**2)
    assert units.db_to_amplitude(-20.0) == 0.1
    assert type(units.db_to_amplitude(-20.0)) is float
    assert torch.equal(units.db_to_amplitude(torch.tensor([-20.0])), torch.tensor([0.1]))
    assert np.allclose([units.amplitude_to_db(0.0, 1e-4), units.power_to_db(0.0, 1e-8)], -80)
    assert math.isclose(units.amplitude_to_db(math.e), units.DB_PER_NEPER)


def test_gaussians_of_tensors_are_those_of_arrays_and_of_torch() -> None:
    mean, log_variance, noise = torch.randn((3, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kl, drawn = gaussian.kl_nats(mean, log_variance), gaussian.draw(mean, log_variance, noise)
    arrays = mean.numpy(), log_variance.numpy(), noise.numpy()
    np.testing.assert_allclose(gaussian.kl_nats(*arrays[:2]), kl.numpy())
    np.testing.assert_allclose(gaussian.draw(*arrays), drawn.numpy())
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    reference = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl, reference)
    torch.testing.assert_close(drawn, mean + noise * posterior.scale)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0621, "62.1 ms"), (1.0, "1 seconds"), (95.04, "95 seconds"), (119.9, "120 seconds"), (150.0, "2.5 minutes")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert units.duration(seconds) == words
