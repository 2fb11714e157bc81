"""The `flow` head where the right answer is known: an untrained one, and one that has learned a distribution."""

import itertools
import math

import pytest
import torch
from scipy import stats

from actseq.priors.base import PLAIN, Sampling
from actseq.priors.flow import N_CHECKS, Flow


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed))


@torch.no_grad()
def test_untrained_it_carries_the_noise_as_it_is() -> None:
    head = Flow(6).eval()
    parameters = noise(5000, head.n_params)
    drawn = head.sample(parameters, PLAIN, seeded(3))
    assert torch.equal(drawn, torch.randn((5000, 6), generator=seeded(3)))
    assert not head.sample(parameters, Sampling(temperature=0.0), seeded(3)).any()


@torch.no_grad()
def test_loss_of_no_velocity() -> None:
    """E |cos θ v − sin θ n|² over angles and noise is (|v|² + dims) / 2."""
    head, value = Flow(6), noise(4000, 6, seed=5)
    parameters = torch.zeros(4000, head.n_params)
    expected = (value.square().sum(1) + 6) / 2
    for training in (True, False):
        torch.manual_seed(0)
        loss = head.train(training).loss(parameters, value)
        assert loss.shape == (4000,)
        assert float(loss.mean()) == pytest.approx(float(expected.mean()), rel=0.01)
        assert float(torch.corrcoef(torch.stack([loss, expected]))[0, 1]) > 0.7


@torch.no_grad()
def test_loss_is_drawn_anew_in_training_only() -> None:
    head, value = Flow(6), noise(3, 5, 6)
    parameters = noise(3, 5, head.n_params)
    head.write.weight.normal_()
    torch.manual_seed(0)
    first = head.loss(parameters, value)
    assert not torch.equal(head.loss(parameters, value), first)
    torch.manual_seed(0)
    assert torch.equal(head.loss(parameters, value), first)
    head.eval()
    assert torch.equal(head.loss(parameters, value), head.loss(parameters, value))


@torch.no_grad()
def test_what_is_known_exactly_leaves_the_noise_sooner() -> None:
    head = Flow(3, information=0.5)
    head.keep_precision(torch.tensor([0.01, 0.25, 1.0]))
    wide = torch.tensor([10.0, 2.0, 1.0]) / 20 ** (1 / 3)  # roots of 100, 4 and 1, over their geometric mean
    assert head.deviation is not None
    torch.testing.assert_close(head.deviation, wide)
    # What a value and noise come to on a path to the value times its width, brought back to deviation 1.
    value, start, angle = noise(3, seed=1), noise(3, seed=2), torch.tensor([0.0, 0.4, 1.2, math.pi / 2])
    path = angle.cos()[:, None] * start + angle.sin()[:, None] * wide * value
    path = path / (angle.cos()[:, None].square() + (angle.sin()[:, None] * wide).square()).sqrt()
    own = head._own_angles(angle)
    torch.testing.assert_close(own.cos() * start + own.sin() * value, path)


@torch.no_grad()
def test_its_loss_is_that_of_a_flow_to_wider_values() -> None:
    """An untrained head stays at deviation 1: of the wider path it knows how its deviation grows, and no more."""
    head = Flow(2, information=0.5).eval()
    head.keep_precision(torch.tensor([0.05, 0.8]))
    assert head.deviation is not None
    value, parameters = noise(6, 2, seed=1), torch.zeros(6, head.n_params)
    start, wide = noise(N_CHECKS, 6, 2), head.deviation * value
    angle = ((torch.arange(N_CHECKS) + 0.5) / N_CHECKS * math.pi / 2)[:, None, None]
    sine, cosine = angle.sin(), angle.cos()
    power = cosine.square() + (head.deviation * sine).square()
    growth = sine * cosine * (head.deviation.square() - 1) / power
    error = growth * (cosine * start + sine * wide) - (cosine * wide - sine * start)
    torch.testing.assert_close(head.loss(parameters, value), error.square().sum(-1).mean(0))


@pytest.mark.parametrize(("wide", "narrow"), [(3.0, 0.5), (5.0, 0.5), (0.4, 0.5), (5.0, 1.0)])
@torch.no_grad()
def test_eight_steps_are_enough_for_wide_dimensions(
    wide: float, narrow: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the exact velocity to a Gaussian of mean 1 and a deviation, drawn 4,000 times."""
    head = Flow(1, steps=8, information=0.5).eval()
    assert head.deviation is not None
    head.deviation.fill_(wide)
    middles = [(begin + end) / 2 for begin, end in itertools.pairwise(head.angles)]
    angles = iter(angle for pair in zip(head.angles, middles, strict=False) for angle in pair)

    def exact(place: torch.Tensor, modulation: object) -> torch.Tensor:
        own = math.atan2(wide * math.sin(angle := next(angles)), math.cos(angle))
        sine, cosine = math.sin(own), math.cos(own)
        slope = sine * cosine * (narrow**2 - 1) / (cosine**2 + narrow**2 * sine**2)
        return cosine + slope * (place - sine)

    monkeypatch.setattr(head, "_velocity", exact)
    drawn = head.sample(torch.zeros(4000, head.n_params), PLAIN, seeded())
    assert float(drawn.mean()) == pytest.approx(1, abs=0.05)
    assert float(drawn.std()) == pytest.approx(narrow, rel=0.12)


@pytest.mark.parametrize("posterior", [(1.0, 1.0), (0.0, 0.0)])
@torch.no_grad()
def test_dimensions_known_alike_are_treated_alike(posterior: tuple[float, float]) -> None:
    even, plain = Flow(2, information=0.5).eval(), Flow(2).eval()
    even.keep_precision(torch.tensor(posterior))
    assert "deviation" not in plain.state_dict()
    plain.keep_precision(torch.tensor(posterior))
    for head in (even, plain):
        torch.manual_seed(0)
        head.write.weight.normal_()
    plain.load_state_dict({name: value for name, value in even.state_dict().items() if name != "deviation"})
    parameters, value = noise(5, even.n_params), noise(5, 2, seed=1)
    torch.testing.assert_close(even.loss(parameters, value), plain.loss(parameters, value))
    drawn = [head.sample(parameters, PLAIN, seeded()) for head in (even, plain)]
    torch.testing.assert_close(*drawn)


@pytest.fixture(scope="module", params=[0.0, 0.5], ids=["alike", "information"])
def learned(request: pytest.FixtureRequest) -> Flow:
    """Two conditions: 0 is a tilted Gaussian around (1, −0.5), 1 two narrow places left and right."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = Flow(2, width=32, blocks=2, dropout=0.0, information=request.param)
        head.keep_precision(torch.tensor([0.05, 0.8]))
        optimiser = torch.optim.Adam(head.parameters(), lr=4e-3)
        steps = 400
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            loss = head.loss(condition(head, 256), torch.cat([tilted(128), two_places(128)])).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return head.eval()


def condition(head: Flow, n: int) -> torch.Tensor:
    """The first half 0, the second half 1."""
    return torch.eye(2).repeat_interleave(n // 2, 0) @ noise(2, head.n_params, seed=9)


FACTOR = torch.tensor([[0.8, 0.0], [0.5, 0.3]])


def tilted(n: int) -> torch.Tensor:
    return torch.tensor([1.0, -0.5]) + torch.randn(n, 2) @ FACTOR.T


def two_places(n: int) -> torch.Tensor:
    side = torch.where(torch.rand(n, 1) < 0.3, -1.0, 1.0)
    return torch.tensor([1.0, 0.0]) * side + torch.tensor([0.2, 1.0]) * torch.randn(n, 2)


@torch.no_grad()
def test_it_draws_what_it_learned(learned: Flow) -> None:
    n = 20000
    gaussian, places = learned.sample(condition(learned, 2 * n), PLAIN, seeded()).chunk(2)
    torch.testing.assert_close(gaussian.mean(0), torch.tensor([1.0, -0.5]), atol=0.05, rtol=0)
    torch.testing.assert_close(gaussian.T.cov(), FACTOR @ FACTOR.T, atol=0.06, rtol=0)
    left = places[:, 0] < 0
    assert float(left.float().mean()) == pytest.approx(0.3, abs=0.03)
    for rows, centre in ((places[left], -1.0), (places[~left], 1.0)):
        assert float(rows[:, 0].median()) == pytest.approx(centre, abs=0.06)
        assert stats.iqr(rows[:, 0].numpy()) == pytest.approx(
            stats.iqr(stats.norm(0, 0.2).rvs(n, random_state=0)), abs=0.08
        )
        assert float(rows[:, 1].std()) == pytest.approx(1, abs=0.08)


@torch.no_grad()
def test_temperature_scales_the_deviation_of_a_gaussian(learned: Flow) -> None:
    """Where the velocity is affine, so is the way from noise to value."""
    n = 4000
    parameters = condition(learned, 2 * n)[:n]
    warm = learned.sample(parameters, PLAIN, seeded())
    cool = learned.sample(parameters, Sampling(temperature=0.5), seeded())
    cold = learned.sample(parameters, Sampling(temperature=0.0), seeded())
    torch.testing.assert_close(cold, cold[:1].expand(n, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(cold[0], torch.tensor([1.0, -0.5]), atol=0.1, rtol=0)
    torch.testing.assert_close(cool.std(0) / warm.std(0), torch.full((2,), 0.5), atol=0.05, rtol=0)


@torch.no_grad()
def test_the_least_loss_is_that_of_theory(learned: Flow) -> None:
    """For a Gaussian the sum of its deviations along its axes: ∫ s² / (cos² θ + s² sin² θ) dθ = s π/2.

    With `information` it is the Gaussian that is wider where the autoencoder is exact.
    """
    torch.manual_seed(1)
    loss = learned.loss(condition(learned, 8000)[:4000], tilted(4000)).mean()
    wide = torch.ones(2) if learned.deviation is None else learned.deviation
    axes = torch.linalg.svdvals(wide[:, None] * FACTOR).sum()
    assert float(axes) - 0.02 < float(loss) < 1.12 * float(axes)


@torch.no_grad()
def test_more_steps_converge_as_the_midpoint_rule_does(learned: Flow) -> None:
    """The error falls with the square of the steps."""
    parameters, drawn = condition(learned, 400), {}
    for steps in (16, 32, 256):
        finer = Flow(2, width=32, blocks=2, steps=steps, information=learned.information).eval()
        finer.load_state_dict(learned.state_dict())
        drawn[steps] = finer.sample(parameters, PLAIN, seeded())
    error = {steps: float((drawn[steps] - drawn[256]).square().mean()) ** 0.5 for steps in (16, 32)}
    assert math.log2(error[16] / error[32]) == pytest.approx(2, abs=0.5)
