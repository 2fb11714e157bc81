"""What presses latents towards their prior, and what takes out the rest."""

import math

import members
import numpy as np
import pytest
import torch

from actseq.autoencoders.base import Posterior
from actseq.autoencoders.bottlenecks import Adversarial
from actseq.autoencoders.dense import Dense, EnergyFilterbank
from actseq.objectives.latent_discriminator import LatentDiscriminator
from actseq.representations.base import Features

DIM = 4


def draws(n: int, deviation: float = 5.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed)) * deviation


def judge(latent_dim: int = DIM) -> LatentDiscriminator:
    model = members.autoencoder("dense", "adversarial", {"width": 4}, latent_dim)
    torch.manual_seed(0)
    return LatentDiscriminator(model, adversarial_weight=0.5, matching_weight=2.0, adjudicator_width=32)


def posterior(latents: torch.Tensor) -> Posterior:
    """All in one clip."""
    return Posterior(latents[None], None, torch.tensor([len(latents)]))


def test_draws_match_and_others_do_not() -> None:
    matching = judge().matching
    fits = float(matching(draws(2000)))
    assert fits < 0.02
    assert float(matching(draws(2000) + 5)) > 0.5
    assert float(matching(draws(2000, 4.0))) > 2 * fits
    mixed = draws(2000)
    mixed[:, 1] = mixed[:, 0]
    assert float(matching(mixed)) > 0.3
    two_heaps = draws(2000).sign() * 5
    assert float(matching(two_heaps)) > 5 * fits


def test_the_matching_of_one_dimension_is_its_distance_from_sorted_draws() -> None:
    one = judge(1)
    latents = np.random.default_rng(0).uniform(-7, 7, 5000).astype(np.float32)
    expected = np.mean(
        (np.sort(latents) / 5 - np.sort(np.random.default_rng(1).standard_normal((400, 5000))).mean(0)) ** 2
    )
    assert float(one.matching(torch.from_numpy(latents)[:, None])) == pytest.approx(expected, rel=0.03)


def test_the_discriminator_and_the_encoder_learn_against_each_other() -> None:
    judged = judge()
    optimiser = torch.optim.Adam(judged.parameters(), 1e-2)
    wrong = draws(512, seed=1) * 0.3
    first = float(judged.losses(posterior(wrong))["adjudicator"].figures["adjudicator"])
    for step in range(60):
        torch.manual_seed(step)
        loss = judged.losses(posterior(wrong))["adjudicator"]
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    assert float(loss.figures["adjudicator"]) < 0.8 * first
    latents = wrong.clone().requires_grad_()
    judged.zero_grad()
    judged.penalty(posterior(latents), 0.5).total.backward()
    assert latents.grad is not None
    # Too narrow latents are pushed outwards, and the discriminator itself is left alone.
    assert float((latents.grad * latents.detach()).sum()) < 0
    assert all(parameter.grad is None for parameter in judged.parameters())
    assert all(parameter.requires_grad for parameter in judged.parameters())


def test_without_a_weight_the_discriminator_does_not_learn() -> None:
    model = members.autoencoder("dense", "adversarial", {"width": 4}, DIM)
    idle = LatentDiscriminator(model, adversarial_weight=0.0, adjudicator_width=8)
    assert not idle.losses(posterior(draws(16)))
    assert "fooled" not in idle.penalty(posterior(draws(16)), 0.5).figures


def test_the_gradient_penalty_is_part_of_the_discriminators_loss() -> None:
    judged, steep = judge(), judge()
    steep.gradient_penalty, latents = 0.0, draws(64, 2.0)
    torch.manual_seed(0)
    one = judged.losses(posterior(latents))["adjudicator"]
    torch.manual_seed(0)
    other = steep.losses(posterior(latents))["adjudicator"]
    assert float(other.total.detach()) == float(other.figures["adjudicator"]) == float(one.figures["adjudicator"])
    assert float(one.total.detach()) > float(other.total.detach())


def test_codes_stay_as_they_are_unless_they_are_whitened() -> None:
    bottleneck = Adversarial(DIM, whiten=False)
    numbers = 2 * draws(3000, 1.0)[None] + 1
    bottleneck.calibrate(iter([bottleneck.encode(numbers, torch.tensor([3000])).mean[0]]))
    torch.testing.assert_close(bottleneck.encode(numbers, torch.tensor([3000])).mean, 5 * numbers)


def test_calibration_makes_codes_of_the_prior_and_decoding_undoes_it() -> None:
    bottleneck = Adversarial(DIM, deviation=5.0)
    mix = torch.tensor([[1.0, 0.8, 0, 0], [0, 0.5, 0.2, 0], [0, 0, 2.0, 0], [0.3, 0, 0, 1.0]])
    numbers = (draws(4000, 1.0) @ mix + torch.tensor([1.0, -2, 0, 3]))[None]
    before = bottleneck.encode(numbers, torch.tensor([4000])).mean
    torch.testing.assert_close(before, 5 * numbers)
    bottleneck.calibrate(iter([before[0]]))
    latents = bottleneck.encode(numbers, torch.tensor([4000])).mean
    np.testing.assert_allclose(latents[0].mean(0), np.zeros(DIM), atol=1e-3)
    np.testing.assert_allclose(np.cov(latents[0].numpy().T), 25 * np.eye(DIM), atol=0.05)
    torch.testing.assert_close(bottleneck.decode(latents), numbers, atol=1e-4, rtol=1e-4)
    again = Adversarial(DIM, deviation=5.0)
    again.load_state_dict(bottleneck.state_dict())
    torch.testing.assert_close(again.encode(numbers, torch.tensor([4000])).mean, latents)


def test_calibrating_twice_changes_nothing() -> None:
    bottleneck = Adversarial(DIM)
    numbers = draws(3000, 2.0)[None] + 1
    bottleneck.calibrate(iter([bottleneck.encode(numbers, torch.tensor([3000])).mean[0]]))
    once = bottleneck.encode(numbers, torch.tensor([3000])).mean
    bottleneck.calibrate(iter([once[0]]))
    torch.testing.assert_close(bottleneck.encode(numbers, torch.tensor([3000])).mean, once, atol=1e-3, rtol=1e-3)


def test_codes_that_are_all_the_same_stay_numbers() -> None:
    bottleneck = Adversarial(DIM)
    numbers = draws(20, 1.0)[None]
    bottleneck.calibrate(iter([bottleneck.encode(numbers[:, :1], torch.tensor([1])).mean[0]]))
    latents = bottleneck.encode(numbers, torch.tensor([20])).mean
    torch.testing.assert_close(latents, 5 * (numbers - numbers[:, :1]))
    torch.testing.assert_close(bottleneck.decode(latents), numbers)


def test_energies_do_not_mind_where_a_wave_begins() -> None:
    energies = EnergyFilterbank(200, 40)
    phase = torch.linspace(0, 2 * math.pi, 33)[:, None]
    waves = torch.sin(2 * math.pi * 0.113 * torch.arange(200) + phase)
    found = energies.logarithms(waves)
    strongest = int(found.mean(0).argmax())
    assert abs((strongest + 0.5) / 80 - 0.113) < 0.02
    assert float(found.detach()[:, strongest].std()) < 0.01


def test_energies_are_those_of_single_grains() -> None:
    with pytest.raises(ValueError, match="stride is 2 with energies, expected 1"):
        Dense(64, 3, 3, width=20, energies=True, stride=2)


def test_energies_are_standardised_by_the_data() -> None:
    network = Dense(64, 3, 3, width=20, energies=True)
    values = torch.randn(1, 64, 500, generator=torch.Generator().manual_seed(0))
    network.fit([Features(values, torch.tensor([400]))])
    assert network.energies is not None
    rows = network.energies(values[0, :, :400].T)
    np.testing.assert_allclose(rows.mean(0).detach(), 0, atol=1e-3)
    np.testing.assert_allclose(rows.std(0).detach(), 1, atol=1e-2)


def test_waves_have_the_energies_that_they_are_told() -> None:
    network = Dense(200, 3, 3, width=60, energies=True)
    assert network.energies is not None
    assert network.waves is not None
    network.energies.mean.fill_(-2.0)
    network.energies.deviation.fill_(0.7)
    told = torch.randn(2000, 30, generator=torch.Generator().manual_seed(0))
    made = network.waves(told)
    assert made.shape == (2000, 200)
    # A wave of energy e has the power e / 30; the one without a period is a constant, and twice as strong.
    energies = (5 * (told / 5).tanh() * 0.7 - 2.0).exp() / 30
    energies[:, 0] *= 2
    np.testing.assert_allclose(made.square().mean(), energies.sum(1).mean(), rtol=0.05)
    # Periods of a loop: nothing jumps where it closes.
    smooth = torch.full((1, 30), -100.0)
    smooth[:, :3] = 1.0
    wave = network.waves(smooth)[0]
    assert float((wave[0] - wave[-1]).abs()) < 2 * float(wave.diff().abs().max())


def test_waves_stay_finite_whatever_the_code() -> None:
    network = Dense(64, 3, 3, width=20, energies=True)
    with torch.no_grad():
        made = network.decode(torch.full((1, 4, 3), 1e6), torch.tensor([4]))
    assert made.isfinite().all()
    assert float(made.abs().max()) < 1e4
