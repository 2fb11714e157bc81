"""What every sequence prior promises: each network with each head."""

import copy
import math
from dataclasses import fields, replace
from typing import Any

import members
import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from actseq import build, registry
from actseq.config import Member
from actseq.errors import ConfigError
from actseq.priors import sequence
from actseq.priors.base import PLAIN, Chunk, Sampling, SamplingRequest, State
from actseq.priors.flow import Flow
from actseq.priors.sequence import Prediction, SequencePrior

DENSITIES = [kind for kind, head in sorted(registry.HEADS.items()) if hasattr(head, "log_prob")]
PAIRS = [(network, head) for network in members.SEQUENCE_NETWORKS for head in sorted(registry.HEADS)]
every_prior = pytest.mark.parametrize(("network", "head"), PAIRS)
every_prior_with_a_density = pytest.mark.parametrize(("network", "head"), [p for p in PAIRS if p[1] in DENSITIES])
every_prior_without = pytest.mark.parametrize(("network", "head"), [p for p in PAIRS if p[1] not in DENSITIES])
every_way = pytest.mark.parametrize("way", ["everywhere", "input"])
every_network = pytest.mark.parametrize("network", members.SEQUENCE_NETWORKS)
every_head = pytest.mark.parametrize("kind", sorted(registry.HEADS))
every_density = pytest.mark.parametrize("kind", DENSITIES)
COLD = Sampling(temperature=0.0)
CONTROLS = {
    "temperature": 0.5,
    "mixture_temperature": 0.5,
    "noise_temperature": 0.5,
    "top_p": 0.5,
    "bias": 0.5,
    "noise_clamp": 1.0,
    "guidance": 1.5,
}
LATENT_DIM, DIMS, CONDITION_DIM, FRAMES, BATCH = 5, 3, 8, 9, 3


def test_every_control_is_tested() -> None:
    assert set(CONTROLS) == {field.name for field in fields(Sampling)}


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def conditions() -> list[torch.Tensor | None]:
    return [None, numbers(BATCH, CONDITION_DIM, seed=7)]


def same(actual: Prediction, expected: Prediction, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual.numbers, expected.numbers, atol=atol, rtol=1e-5)
    torch.testing.assert_close(actual.end_logit, expected.end_logit, atol=atol, rtol=1e-5)


def at(prediction: Prediction, position: int) -> Prediction:
    return Prediction(prediction.numbers[:, position : position + 1], prediction.end_logit[:, position : position + 1])


def joined(chunks: list[Chunk]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([chunk.latents for chunk in chunks], 1), torch.cat([chunk.stopped for chunk in chunks], 1)


@torch.no_grad()
def sampled(model: SequencePrior, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return joined(list(model.sample(SamplingRequest(**settings))))


def values_of(model: SequencePrior, **settings: Any) -> torch.Tensor:
    """What was sampled, standardised; the dimensions without information are left out."""
    return model.standardiser.standardise(sampled(model, **settings)[0])


@torch.no_grad()
def by_hand(
    model: SequencePrior, frames: int, conditions: list[list[torch.Tensor | None]], weights: list[float]
) -> torch.Tensor:
    """Stepping from nothing with a condition for every frame, in several worlds whose predictions are added up."""
    generator, rows = torch.Generator().manual_seed(0), []
    states: list[State] = [model.init_state(BATCH) for _ in weights]
    value = None
    for frame in range(frames):
        said = torch.zeros(())
        for world, weight in enumerate(weights):
            prediction, states[world] = model.step(value, conditions[world][frame], states[world], BATCH)
            said = said + weight * prediction.numbers[:, 0]
        value = model.head.sample(said, PLAIN, generator)
        rows.append(value)
    return torch.stack(rows, dim=1)


@every_way
@every_prior
def test_step_is_forward(network: str, head: str, way: str) -> None:
    model, values = members.prior(network, head, condition=way), numbers(BATCH, FRAMES, DIMS)
    with torch.no_grad():
        for condition in conditions():
            parallel = model.forward(values, condition)
            assert parallel.numbers.shape == (BATCH, FRAMES + 1, model.head.n_params)
            assert parallel.end_logit.shape == (BATCH, FRAMES + 1)
            prediction, state = model.step(None, condition, model.init_state(BATCH), BATCH)
            same(prediction, at(parallel, 0))
            for t in range(FRAMES):
                prediction, state = model.step(values[:, t], condition, state, BATCH)
                same(prediction, at(parallel, t + 1))


@every_way
@every_prior
def test_a_condition_for_every_frame(network: str, head: str, way: str) -> None:
    """The prediction of a frame follows the conditions of the frames before and its own, and no later one."""
    model, values = members.prior(network, head, condition=way), numbers(BATCH, FRAMES, DIMS)
    changing = numbers(BATCH, FRAMES, CONDITION_DIM, seed=7)
    with torch.no_grad():
        parallel = model.forward(values, changing)
        prediction, state = model.step(None, changing[:, 0], model.init_state(BATCH), BATCH)
        same(prediction, at(parallel, 0))
        for t in range(FRAMES):
            # Whether the sequence ended with its last frame is said under that frame's condition.
            prediction, state = model.step(values[:, t], changing[:, min(t + 1, FRAMES - 1)], state, BATCH)
            same(prediction, at(parallel, t + 1))
        same(model.forward(values, changing[:, :1].expand(-1, FRAMES, -1)), model.forward(values, changing[:, 0]))
        changing[:, 4] += 1
        moved = (model.forward(values, changing).numbers - parallel.numbers).abs().amax((0, 2))
    assert not moved[:4].any()
    assert moved[4:6].min() > 1e-4


@every_network
def test_a_condition_enters_every_layer_and_the_head(network: str) -> None:
    """Of the weights that read it, none is without effect: each layer's, those of the parameters, those of the end."""
    model, values = members.prior(network, "gaussian"), numbers(BATCH, FRAMES, DIMS)
    assert model.network.condition_dim == CONDITION_DIM
    prediction = model.forward(values, numbers(BATCH, CONDITION_DIM, seed=7))
    (prediction.numbers.square().sum() + prediction.end_logit.square().sum()).backward()
    readers = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.ndim == 2 and weight.shape[1] == model.network.hidden_dim + CONDITION_DIM and "down" not in name
    }
    per_layer = {"lstm": 1, "gru": 1, "transformer": 2}[network]
    assert len(readers) == 2 * per_layer + 2, readers.keys()
    for name, weight in readers.items():
        assert weight.grad is not None
        assert weight.grad[:, -CONDITION_DIM:].abs().amax(0).min() > 0, name
    assert members.prior(network, "gaussian", condition="input").network.condition_dim == 0


@every_way
@every_prior
def test_prefill_then_step_is_forward(network: str, head: str, way: str) -> None:
    model, values = members.prior(network, head, condition=way), numbers(BATCH, FRAMES, DIMS)
    with torch.no_grad():
        for condition in conditions():
            parallel = model.forward(values, condition)
            prediction, state = model.prefill(values[:, :4], condition)
            same(prediction, at(parallel, 4))
            for t in range(4, FRAMES):
                prediction, state = model.step(values[:, t], condition, state, BATCH)
                same(prediction, at(parallel, t + 1))


@every_prior
def test_a_long_prompt_is_consumed_in_pieces(network: str, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces longer and shorter than what a network remembers."""
    model, values, condition = members.prior(network, head), numbers(BATCH, 23, DIMS), conditions()[1]
    with torch.no_grad():
        parallel = model.forward(values, condition)
        for piece in (1, 3, 4, 7, 22):
            monkeypatch.setattr(sequence, "PREFILL_FRAMES", piece)
            prediction, state = model.prefill(values[:, :21], condition)
            same(prediction, at(parallel, 21))
            for t in (21, 22):
                prediction, state = model.step(values[:, t], condition, state, BATCH)
                same(prediction, at(parallel, t + 1))


@every_network
def test_a_prompt_longer_than_a_piece(network: str) -> None:
    model, values = members.prior(network, "gaussian"), numbers(1, sequence.PREFILL_FRAMES + 6, DIMS)
    with torch.no_grad():
        same(model.prefill(values, None)[0], at(model.forward(values, None), values.shape[1]))


@every_network
def test_states_are_values(network: str) -> None:
    """Going on from one state twice, as a batch or one by one, gives the same twice; only a step may write over it."""
    model = members.prior(network, "gaussian").network
    inputs, others = numbers(1, 6, model.input_dim), numbers(2, 3, model.input_dim, seed=1)
    about = numbers(1, 1, CONDITION_DIM, seed=7)
    early, late = about.expand(-1, 6, -1), about.expand(-1, 3, -1)
    with torch.no_grad():
        fresh = model.init_state(1, torch.device("cpu"))
        first = model.forward(inputs, fresh, early)
        model.forward(others[:1], fresh, late)
        again = model.forward(inputs, fresh, early)
        assert torch.equal(first[0], again[0])
        alone = [model.forward(other[None], first[1], late)[0][0] for other in others]
        copies = sequence._repeat(first[1], 2, 1)
        for t in range(3):
            hidden, copies = model.step(others[:, t], copies, about[0].expand(2, -1))
            torch.testing.assert_close(hidden, torch.stack([row[t] for row in alone]), atol=1e-5, rtol=1e-5)
        # Neither the copies nor the other continuation have touched it.
        torch.testing.assert_close(model.forward(others[:1], first[1], late)[0][0], alone[0], atol=0, rtol=0)


@every_prior
def test_the_condition_and_the_past_matter(network: str, head: str) -> None:
    model, values = members.prior(network, head), numbers(BATCH, FRAMES, DIMS)
    with torch.no_grad():
        plain = model.forward(values, None).numbers
        conditioned = model.forward(values, conditions()[1]).numbers
        moved = model.forward(values + torch.eye(FRAMES)[0][:, None], None).numbers
    assert (conditioned - plain).abs().amax(2).min() > 1e-4
    assert torch.equal(moved[:, 0], plain[:, 0])
    assert (moved - plain)[:, 1:3].abs().amax(2).min() > 1e-4


@every_prior
def test_a_window_starts_from_what_came_before(network: str, head: str) -> None:
    model, values, previous = members.prior(network, head), numbers(BATCH, FRAMES, DIMS), numbers(BATCH, DIMS, seed=1)
    begins = torch.tensor([True, False, True])
    with torch.no_grad():
        for condition in conditions():
            window = model.forward(values, condition, previous, begins)
            fresh = model.forward(values, condition)
            # Its own start in place of the learned one: one step without history.
            first, _ = model.step(previous, condition, model.init_state(BATCH), BATCH)
            assert torch.equal(window.numbers[begins], fresh.numbers[begins])
            torch.testing.assert_close(window.numbers[1, :1], first.numbers[1], atol=1e-5, rtol=1e-5)
            assert (window.numbers[1, 0] - fresh.numbers[1, 0]).abs().max() > 1e-4


@every_network
def test_noise_on_what_is_shown(network: str) -> None:
    model, frames = members.prior(network, "gaussian"), 1000
    shown: list[torch.Tensor] = []
    model.read.register_forward_hook(lambda module, given, made: shown.append(given[0]))
    values, previous, begins = numbers(4, frames, DIMS), numbers(4, DIMS, seed=1), torch.tensor([True, False] * 2)
    level = torch.tensor([0.0, 0.0, 0.6, 1.0])
    with torch.no_grad():
        torch.manual_seed(5)
        clean = model.forward(values, None, previous, begins)
        same(model.forward(values, None, previous, begins, torch.zeros(4)), clean, atol=0)
        shown.clear()
        given = (sequence.with_noise(values, level), sequence.with_noise(previous, level))
        noisy = model.forward(given[0], None, given[1], begins, level)
    before, seen = shown
    assert torch.equal(seen[:2], values[:2])
    assert torch.equal(before[:2], previous[:2])
    assert (before[2:] - previous[2:]).abs().min() > 0
    same(Prediction(noisy.numbers[:2], noisy.end_logit[:2]), Prediction(clean.numbers[:2], clean.end_logit[:2]))
    # The power is kept, and what is left of the values is √(1 − level²) of them.
    kept = (seen * values).mean((1, 2)) / values.square().mean((1, 2))
    torch.testing.assert_close(seen.square().mean((1, 2)), values.square().mean((1, 2)), atol=0.1, rtol=0)
    torch.testing.assert_close(kept, (1 - level**2).sqrt(), atol=0.08, rtol=0)


@every_network
def test_the_level_of_noise_is_told(network: str) -> None:
    model, values = members.prior(network, "gaussian"), torch.zeros(1, FRAMES, DIMS)
    with torch.no_grad():
        # Nothing else can tell.
        model.read.weight.zero_()
        model.skip.weight.zero_()
        said = [model.forward(values, None, noise_level=torch.tensor([level])).numbers for level in (0.0, 0.5, 1.0)]
        torch.testing.assert_close(said[0], model.forward(values, None).numbers)
        model.noise_level.weight.zero_()
        untold = model.forward(values, None, noise_level=torch.tensor([1.0])).numbers
    torch.testing.assert_close(untold, said[0])
    assert min((said[0] - said[1]).abs().min(), (said[1] - said[2]).abs().min()) > 1e-5


@every_prior
def test_no_gradient_comes_from_the_future(network: str, head: str) -> None:
    """Position t has consumed z_0 … z_{t−1}: it may depend on those and on nothing later."""
    model, values = members.prior(network, head), numbers(1, FRAMES, DIMS).requires_grad_()
    prediction = model.forward(values, None)
    for t in range(FRAMES + 1):
        target = prediction.numbers[:, t].square().sum() + prediction.end_logit[:, t].sum()
        (slope,) = torch.autograd.grad(target, values, retain_graph=True, allow_unused=True)
        slope = torch.zeros_like(values) if slope is None else slope
        assert not slope[:, t:].any()
        assert t == 0 or slope[:, t - 1].abs().max() > 0


@every_prior
def test_rows_of_a_batch_do_not_meet(network: str, head: str) -> None:
    model, values = members.prior(network, head), numbers(BATCH, FRAMES, DIMS).requires_grad_()
    model.forward(values, conditions()[1]).numbers[1].square().sum().backward()
    assert values.grad is not None
    assert values.grad[1].abs().max() > 0
    assert not values.grad[[0, 2]].any()


@every_prior_with_a_density
def test_padding_changes_no_log_prob(network: str, head: str) -> None:
    model, latents, lengths = members.prior(network, head), numbers(BATCH, FRAMES, LATENT_DIM), torch.tensor([9, 4, 1])
    with torch.no_grad():
        expected = [model.log_prob(latents[i : i + 1, :n], lengths[i : i + 1])[0] for i, n in enumerate((9, 4, 1))]
        padded = torch.cat([latents, latents], dim=1)
        for i, n in enumerate((9, 4, 1)):
            padded[i, n:] = 1e3 * numbers(18 - n, LATENT_DIM, seed=i)
        together = model.log_prob(padded, lengths)
    for i, n in enumerate((9, 4, 1)):
        torch.testing.assert_close(together[i, :n], expected[i], atol=1e-4, rtol=1e-5)
        assert not together[i, n:].any()


@every_prior_with_a_density
def test_log_prob_is_a_density_of_the_latents_themselves(network: str, head: str) -> None:
    """Change of variables by hand, and the integral over one latent number."""
    model, latents = members.prior(network, head), numbers(BATCH, FRAMES, LATENT_DIM)
    active, deviation, mean = model.standardiser.active, model.standardiser.deviation, model.standardiser.mean
    with torch.no_grad():
        values = (latents[:, :, active] - mean) / deviation
        inner = model.head.log_prob(model.forward(values, None).numbers[:, :-1], values)
        expected = inner - deviation.log().sum()
        actual = model.log_prob(latents, torch.tensor([FRAMES] * BATCH))
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-5)
        # The other dimensions carry no information.
        latents[:, :, [1, 3]] += 5
        assert torch.equal(model.log_prob(latents, torch.tensor([FRAMES] * BATCH)), actual)

        narrow = members.prior(network, head, latent_dim=1, n_active=1)
        narrow.standardiser.mean.fill_(5.0)
        narrow.standardiser.deviation.fill_(0.3)
        grid = torch.linspace(-20, 30, 20001)
        density = narrow.log_prob(grid[:, None, None], torch.ones(len(grid), dtype=torch.long))[:, 0].exp()
    assert float(torch.trapezoid(density.double(), grid.double())) == pytest.approx(1, abs=1e-3)


@every_prior_without
def test_without_a_density_there_is_no_log_prob(network: str, head: str) -> None:
    model = members.prior(network, head)
    assert not model.has_likelihood
    with pytest.raises(ConfigError, match=f"{head}.*mixture"):
        model.log_prob(numbers(BATCH, FRAMES, LATENT_DIM), torch.tensor([FRAMES] * BATCH))


@every_prior_with_a_density
def test_with_a_density_there_is(network: str, head: str) -> None:
    assert members.prior(network, head).has_likelihood


@every_prior
def test_the_same_seed_gives_the_same_bytes(network: str, head: str) -> None:
    model, condition = members.prior(network, head), conditions()[1]
    settings = {"n": BATCH, "max_frames": 20, "condition": condition, "until_stop": True}
    torch.manual_seed(1)
    first = sampled(model, seed=3, **settings)
    torch.manual_seed(2)
    again = sampled(model, seed=3, **settings)
    other = sampled(model, seed=4, **settings)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    n = min(first[0].shape[1], other[0].shape[1])
    assert not torch.equal(first[0][:, :n], other[0][:, :n])
    assert (first[0][0] - first[0][1]).abs().max() > 1e-3


@every_prior
def test_samples_carry_no_gradient(network: str, head: str) -> None:
    assert not next(members.prior(network, head).sample(SamplingRequest(n=1, max_frames=2))).latents.requires_grad


@every_prior
@pytest.mark.parametrize("until_stop", [False, True])
def test_chunks_do_not_change_what_is_said(network: str, head: str, until_stop: bool) -> None:
    """In the active dimensions; the others carry nothing."""
    model = members.prior(network, head)
    model.end.bias.data.fill_(-2.0)
    active = model.standardiser.active
    settings = {"n": BATCH, "max_frames": 25, "seed": 5, "until_stop": until_stop}
    whole = sampled(model, chunk_frames=64, **settings)
    for chunk_frames in (1, 7, 25):
        with torch.no_grad():
            chunks = list(model.sample(SamplingRequest(chunk_frames=chunk_frames, **settings)))
        assert all(chunk.latents.shape[1] == chunk_frames for chunk in chunks[:-1])
        assert 0 < chunks[-1].latents.shape[1] <= chunk_frames
        latents, stopped = joined(chunks)
        assert torch.equal(stopped, whole[1])
        assert torch.equal(latents[:, :, active], whole[0][:, :, active])


@every_prior
def test_the_other_dimensions_are_standard_normal(network: str, head: str) -> None:
    latents, _ = sampled(members.prior(network, head), n=200, max_frames=20, chunk_frames=7)
    assert latents.shape == (200, 20, LATENT_DIM)
    rest = latents[:, :, [1, 3]]
    assert rest.mean().abs() < 0.05
    assert (rest.std() - 1).abs() < 0.05


def always_ending(network: str, head: str, hazard: float) -> SequencePrior:
    """A prior whose hazard of ending is the same everywhere."""
    model = members.prior(network, head)
    model.end.weight.data.zero_()
    model.end.bias.data.fill_(math.log(hazard / (1 - hazard)))
    return model


@every_prior
def test_limits_of_the_length(network: str, head: str) -> None:
    eager = always_ending(network, head, 1 - 1e-7)
    latents, stopped = sampled(eager, n=BATCH, max_frames=12, until_stop=True)
    assert latents.shape[1] == 1
    assert not stopped.any()
    latents, _ = sampled(eager, n=BATCH, max_frames=12, min_frames=4, until_stop=True)
    assert latents.shape[1] == 4
    latents, stopped = sampled(eager, n=BATCH, max_frames=12)
    assert latents.shape[1] == 12
    assert not stopped.any()
    latents, stopped = sampled(always_ending(network, head, 1e-6), n=BATCH, max_frames=12, until_stop=True)
    assert latents.shape[1] == 12
    assert not stopped.any()
    prompt = numbers(BATCH, 6, LATENT_DIM)
    assert not list(eager.sample(SamplingRequest(n=BATCH, max_frames=12, min_frames=0, until_stop=True, prompt=prompt)))
    assert sampled(eager, n=BATCH, max_frames=12, min_frames=2, until_stop=True, prompt=prompt)[0].shape[1] == 2


@every_prior
def test_what_has_stopped_stays_stopped(network: str, head: str) -> None:
    n, hazard = 2000, 0.3
    _, stopped = sampled(always_ending(network, head, hazard), n=n, max_frames=40, until_stop=True)
    assert not stopped[:, 0].any()
    assert not (stopped[:, :-1] & ~stopped[:, 1:]).any()
    # Sampling ends with the last sequence that goes on.
    assert not stopped[:, -1].all()
    lengths = (~stopped).sum(1)
    for length in (1, 2, 3):
        p = hazard * (1 - hazard) ** (length - 1)
        share = float((lengths == length).float().mean())
        assert share == pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / n))


@every_prior
def test_sampled_lengths_follow_the_hazard(network: str, head: str) -> None:
    """At temperature 0 all rows say the same, so that the lengths implied by `end_logit` are known."""
    model, n, longest = members.prior(network, head), 4000, 12
    with torch.no_grad():
        spoken = model.standardiser.standardise(sampled(model, n=1, max_frames=longest, sampling=COLD)[0])
        logit = model.forward(spoken, None).end_logit[0] - model.end.bias
        # A hazard that moves, about one in five.
        model.end.weight.div_(logit.std())
        model.end.bias.fill_(-1.5 - float(logit.mean() / logit.std()))
    latents, stopped = sampled(model, n=n, max_frames=longest, until_stop=True, sampling=COLD)
    frames = latents.shape[1]
    spoken = latents[(~stopped).sum(1).argmax()][None]
    with torch.no_grad():
        hazard = torch.sigmoid(model.forward(model.standardiser.standardise(spoken), None).end_logit[0]).numpy()
    assert hazard.std() > 0.01
    lengths = (~stopped).sum(1).numpy()
    alive = 1.0
    for length in range(1, frames):
        p = alive * hazard[length]
        assert (lengths == length).mean() == pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / n) + 1e-3)
        alive *= 1 - hazard[length]


@every_prior
def test_temperature_zero_is_deterministic(network: str, head: str) -> None:
    model = members.prior(network, head)
    active = model.standardiser.active
    cold = [sampled(model, n=2, max_frames=15, sampling=COLD, seed=seed)[0][:, :, active] for seed in (0, 1)]
    assert torch.equal(cold[0], cold[1])
    torch.testing.assert_close(cold[0][0], cold[0][1], atol=1e-5, rtol=1e-5)
    warm = sampled(model, n=2, max_frames=15)[0][:, :, active]
    assert (warm - cold[0]).abs().max() > 0.05


@every_prior
def test_a_prompt_is_continued(network: str, head: str) -> None:
    model, prompt = members.prior(network, head), numbers(BATCH, 6, LATENT_DIM)
    for condition in conditions():
        latents, stopped = sampled(model, n=BATCH, max_frames=30, prompt=prompt, condition=condition)
        assert latents.shape == (BATCH, 30, LATENT_DIM)
        assert stopped.shape == (BATCH, 30)
        assert latents.isfinite().all()
        cold = sampled(model, n=BATCH, max_frames=1, prompt=prompt, condition=condition, sampling=COLD)[0]
        # The first new frame is what stepping through the prompt predicts.
        with torch.no_grad():
            prediction, state = model.step(None, condition, model.init_state(BATCH), BATCH)
            for t in range(6):
                value = model.standardiser.standardise(prompt[:, t])
                prediction, state = model.step(value, condition, state, BATCH)
            expected = model.head.sample(prediction.numbers[:, 0], COLD, torch.Generator())
        said = model.standardiser.standardise(cold[:, 0])
        torch.testing.assert_close(said, expected, atol=1e-4, rtol=1e-4)


@every_prior
def test_one_prompt_serves_all(network: str, head: str) -> None:
    """Alike or different conditions, with and without guidance."""
    model, prompt = members.prior(network, head), numbers(1, 6, LATENT_DIM)
    different = numbers(BATCH, CONDITION_DIM, seed=7)
    for condition, guidance in (
        (None, 1.0),
        (different[:1].expand(BATCH, -1), 1.0),
        (different, 1.0),
        (different, 1.5),
    ):
        settings = {"n": BATCH, "max_frames": 8, "condition": condition, "sampling": Sampling(guidance=guidance)}
        settings["unconditional"] = different[:1] - 1
        one = values_of(model, prompt=prompt, **settings)
        torch.testing.assert_close(
            one, values_of(model, prompt=prompt.expand(BATCH, -1, -1), **settings), atol=1e-4, rtol=1e-4
        )
        assert (one[0] - one[1]).abs().max() > 1e-2


@every_prior
def test_guidance(network: str, head: str) -> None:
    """Predictions are affine in the hidden vector, so mixing the one mixes the other."""
    model, frames = members.prior(network, head), 6
    condition, bare = numbers(BATCH, CONDITION_DIM, seed=7), numbers(1, CONDITION_DIM, seed=8)
    settings = {"n": BATCH, "max_frames": frames, "condition": condition}
    plain = values_of(model, **settings)
    assert torch.equal(values_of(model, unconditional=bare, **settings), plain)
    worlds: list[list[torch.Tensor | None]] = [[condition] * frames, [bare.expand(BATCH, -1)] * frames]
    torch.testing.assert_close(by_hand(model, frames, worlds[:1], [1.0]), plain, atol=1e-4, rtol=1e-4)
    for guidance in (0.0, 2.0):
        guided = values_of(model, unconditional=bare, sampling=Sampling(guidance=guidance), **settings)
        expected = by_hand(model, frames, worlds, [guidance, 1 - guidance])
        torch.testing.assert_close(guided, expected, atol=1e-3, rtol=1e-3)
        assert (guided - plain).abs().max() > 1e-2
        if guidance == 0:
            ignoring = values_of(model, n=BATCH, max_frames=frames, condition=bare.expand(BATCH, -1))
            torch.testing.assert_close(guided, ignoring, atol=1e-4, rtol=1e-4)


@every_prior
def test_a_condition_glides(network: str, head: str) -> None:
    model, frames = members.prior(network, head), 6
    begin, end = numbers(BATCH, CONDITION_DIM, seed=7), numbers(BATCH, CONDITION_DIM, seed=8)
    gliding = values_of(model, n=BATCH, max_frames=frames, condition=begin, condition_end=end)
    on_the_way: list[torch.Tensor | None] = [begin + (end - begin) * (frame / 5) for frame in range(frames)]
    torch.testing.assert_close(gliding, by_hand(model, frames, [on_the_way], [1.0]), atol=1e-4, rtol=1e-4)
    staying = values_of(model, n=BATCH, max_frames=frames, condition=begin)
    assert torch.equal(values_of(model, n=BATCH, max_frames=frames, condition=begin, condition_end=begin), staying)
    torch.testing.assert_close(gliding[:, 0], staying[:, 0], atol=1e-5, rtol=1e-5)
    assert (gliding - staying)[:, 1:].abs().max() > 1e-2


@every_prior
def test_unknown_controls_are_refused(network: str, head: str) -> None:
    model = members.prior(network, head)
    for control, value in CONTROLS.items():
        request = SamplingRequest(n=1, max_frames=1, sampling=replace(PLAIN, **{control: value}))
        if control in (*model.head.controls, "guidance"):
            next(model.sample(request))
        else:
            with pytest.raises(ConfigError, match=f"{head}.*{control}"):
                next(model.sample(request))


@every_prior
def test_state_dict_makes_a_copy(network: str, head: str) -> None:
    model = members.prior(network, head)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.fill_(0)
    other.load_state_dict(model.state_dict())
    assert torch.equal(sampled(other, n=2, max_frames=5)[0], sampled(model, n=2, max_frames=5)[0])


@every_prior
def test_losses_are_a_loop(network: str, head: str) -> None:
    model, values = members.prior(network, head), numbers(BATCH, FRAMES, DIMS)
    lengths, ends = torch.tensor([9, 4, 1]), torch.tensor([True, False, True])
    with torch.no_grad():
        prediction = model.forward(values, None)
        losses = model.losses(prediction, values, lengths, ends)
        given = (prediction.numbers[:, :-1], values)
        loss = -model.head.log_prob(*given) if model.has_likelihood else model.head.loss(*given)
        loss = loss.double().numpy()
    hazard = torch.sigmoid(prediction.end_logit.double()).numpy()
    latent, end, asked = np.zeros((BATCH, FRAMES)), np.zeros((BATCH, FRAMES + 1)), np.zeros((BATCH, FRAMES + 1), bool)
    for row, length in enumerate(lengths.tolist()):
        latent[row, :length] = loss[row, :length]
        for t in range(1, length):
            end[row, t], asked[row, t] = -math.log(1 - hazard[row, t]), True
        if ends[row]:
            end[row, length], asked[row, length] = -math.log(hazard[row, length]), True
    np.testing.assert_allclose(losses.latent, latent, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(losses.end, end, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(losses.asked, asked)


@every_prior
def test_probabilities_of_all_lengths_sum_to_one(network: str, head: str) -> None:
    """e^(−loss) is the probability of a length; those of all lengths and of going on make 1."""
    model, values = members.prior(network, head), numbers(1, FRAMES, DIMS)
    model.end.bias.data.fill_(-1.0)
    total = 0.0
    with torch.no_grad():
        prediction = model.forward(values, None)
        for length in range(1, FRAMES + 1):
            losses = model.losses(prediction, values, torch.tensor([length]), torch.tensor([True]))
            total += math.exp(-float(losses.end.sum()))
        going_on = (1 - torch.sigmoid(prediction.end_logit[0, 1:])).prod()
    assert 0.001 < float(going_on) < 0.95
    assert total + float(going_on) == pytest.approx(1, abs=1e-5)


def head_of(kind: str, dims: int, **options: Any) -> Any:
    """With weights that matter; one without a density stays as it is before training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        member = Member(kind=kind, **(members.HEADS[kind] | options))
        head = build.construct(registry.HEADS, member, "prior.head", dims).eval()
        if kind in DENSITIES:
            for parameter in head.parameters():
                parameter.data.add_(0.5 * torch.randn_like(parameter))
    return head


def bounded(raw: torch.Tensor) -> torch.Tensor:
    """Log-deviation, squashed smoothly into [−5, 2]."""
    return -1.5 + 3.5 * torch.tanh((raw + 1.5) / 3.5)


def gaussian(head: Any, parameters: torch.Tensor, dims: int) -> Any:
    return Independent(Normal(parameters[..., :dims], bounded(parameters[..., dims:]).exp()), 1)


def mixture(head: Any, parameters: torch.Tensor, dims: int) -> Any:
    """v = m + T v + σ ε is (1 − T)⁻¹ (m + σ ε)."""
    n = head.n_components
    logits, means, raw = parameters.split([n, n * dims, n * dims], dim=-1)
    shape = (*parameters.shape[:-1], n, dims)
    inverse = torch.linalg.inv(torch.eye(dims) - head.triangle[0].detach().tril(-1)).tril()
    centre = (inverse @ means.reshape(shape)[..., None])[..., 0]
    components = MultivariateNormal(centre, scale_tril=inverse * bounded(raw.reshape(shape)).exp()[..., None, :])
    return MixtureSameFamily(Categorical(logits=logits), components)


REFERENCE = {"gaussian": gaussian, "mixture": mixture}


@every_density
@torch.no_grad()
def test_log_prob_is_that_of_torch_distributions(kind: str) -> None:
    head = head_of(kind, 4)
    parameters, value = 2 * numbers(6, 5, head.n_params), 2 * numbers(6, 5, 4, seed=1)
    expected = REFERENCE[kind](head, parameters, 4).log_prob(value)
    torch.testing.assert_close(head.log_prob(parameters, value), expected, atol=1e-4, rtol=1e-5)


@every_density
@torch.no_grad()
def test_density_integrates_to_one(kind: str) -> None:
    head, grid = head_of(kind, 1).double(), torch.linspace(-60, 60, 60001, dtype=torch.float64)
    for seed in range(5):
        parameters = numbers(head.n_params, seed=seed).double()
        density = head.log_prob(parameters.expand(len(grid), -1), grid[:, None]).exp()
        assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-3)


@every_density
@torch.no_grad()
def test_samples_follow_the_density(kind: str) -> None:
    """Kolmogorov–Smirnov in one dimension."""
    head, n, grid = head_of(kind, 1), 20000, torch.linspace(-60, 60, 60001, dtype=torch.float64)
    exact = copy.deepcopy(head).double()
    for seed in range(3):
        parameters = numbers(head.n_params, seed=seed)
        drawn = head.sample(parameters.expand(n, -1), PLAIN, torch.Generator().manual_seed(seed))
        assert drawn.shape == (n, 1)
        density = exact.log_prob(parameters.double().expand(len(grid), -1), grid[:, None]).exp()
        cumulative = torch.cumulative_trapezoid(density, grid)
        order = np.sort(drawn[:, 0].numpy())
        expected = np.interp(order, grid[1:].numpy(), cumulative.numpy())
        assert np.abs(expected - (np.arange(n) + 0.5) / n).max() < 1.95 / math.sqrt(n)


@pytest.mark.parametrize(
    ("kind", "options"), [*((kind, {}) for kind in DENSITIES), ("mixture", {"blocks": 2, "hidden": 8})]
)
@torch.no_grad()
def test_samples_of_several_dimensions_belong_together(kind: str, options: dict[str, Any]) -> None:
    """Mean and covariance of the samples are those of the density: a mixture's components are joint."""
    head, n = head_of(kind, 2, **options), 40000
    parameters = 1.5 * numbers(head.n_params, seed=4)
    axis = torch.linspace(-30, 30, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    weight = copy.deepcopy(head).double().log_prob(parameters.double().expand(len(grid), -1), grid).exp()
    weight = weight / weight.sum()
    mean = (weight[:, None] * grid).sum(0)
    covariance = ((grid - mean) * weight[:, None]).T @ (grid - mean)
    drawn = head.sample(parameters.expand(n, -1), PLAIN, torch.Generator().manual_seed(0)).double()
    scale = float(covariance.diagonal().max())
    torch.testing.assert_close(drawn.mean(0), mean, atol=5 * math.sqrt(scale / n), rtol=0)
    torch.testing.assert_close(drawn.T.cov(), covariance, atol=0.05 * scale, rtol=0)
    if kind == "mixture":
        assert covariance[0, 1].abs() > 0.02 * scale


@every_head
def test_temperature_zero_takes_the_likeliest(kind: str) -> None:
    head = head_of(kind, 3)
    parameters = numbers(50, head.n_params)
    drawn = [head.sample(parameters, COLD, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    spread = [
        (head.sample(parameters, Sampling(temperature=heat), torch.Generator().manual_seed(2)) - drawn[0]).abs().mean()
        for heat in (0.1, 1.0)
    ]
    assert 0 < spread[0] < spread[1]


LOGITS = torch.tensor([2.0, 0.3, 0.9])


def three_places(n: int) -> torch.Tensor:
    """Parameters of a one-dimensional mixture at −100, 0 and 100, of deviation 2, and weights e^`LOGITS`."""
    raw = 3.5 * math.atanh((math.log(2.0) + 1.5) / 3.5) - 1.5
    return torch.cat([LOGITS, torch.tensor([-100.0, 0.0, 100.0]), torch.full((3,), raw)]).expand(n, -1)


def one_place(kind: str, n: int) -> tuple[Any, torch.Tensor]:
    """A head and parameters whose samples have mean 0 and deviation 2 (1 for an untrained `flow`)."""
    head = head_of(kind, 1)
    if kind == "flow":
        return head, torch.zeros(n, head.n_params)
    raw = torch.full((n, 1), 3.5 * math.atanh((math.log(2.0) + 1.5) / 3.5) - 1.5)
    return head, torch.cat([torch.zeros(n, 1), raw], 1) if kind == "gaussian" else three_places(n)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (PLAIN, softmax(LOGITS.numpy())),
        (Sampling(temperature=0.5), softmax(2 * LOGITS.numpy())),
        (Sampling(mixture_temperature=2.0), softmax(LOGITS.numpy() / 2)),
        (Sampling(temperature=0.1, mixture_temperature=1.0), softmax(LOGITS.numpy())),
        (Sampling(noise_temperature=0.1), softmax(LOGITS.numpy())),
        (Sampling(bias=0.7), softmax(1.7 * LOGITS.numpy())),
        # The first has 0.66 and the last 0.22; sharpened, 0.83 and 0.13.
        (Sampling(top_p=0.6), np.array([1.0, 0.0, 0.0])),
        (Sampling(top_p=0.7), np.append(softmax(LOGITS.numpy()[[0, 2]]), 0.0)[[0, 2, 1]]),
        (Sampling(top_p=0.9, bias=0.7), np.append(softmax(1.7 * LOGITS.numpy()[[0, 2]]), 0.0)[[0, 2, 1]]),
        (Sampling(mixture_temperature=0.0), np.array([1.0, 0.0, 0.0])),
    ],
)
def test_components_are_chosen_as_asked(sampling: Sampling, expected: np.ndarray) -> None:
    n = 20000
    drawn = head_of("mixture", 1).sample(three_places(n), sampling, torch.Generator().manual_seed(0))[:, 0].detach()
    share = np.bincount((drawn / 100).round().long().numpy() + 1, minlength=3) / n
    assert np.all(np.abs(share - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / n))


@every_head
def test_noise_is_as_asked(kind: str) -> None:
    """Against the distribution itself, by Kolmogorov and Smirnov."""
    n = 20000
    head, parameters = one_place(kind, n)
    scale = 1.0 if kind == "flow" else 2.0
    for sampling, expected in (
        (PLAIN, stats.norm(scale=scale)),
        (Sampling(temperature=0.3), stats.norm(scale=0.3 * scale)),
        (Sampling(noise_temperature=1.4), stats.norm(scale=1.4 * scale)),
        (Sampling(temperature=0.0, noise_temperature=0.5), stats.norm(scale=0.5 * scale)),
        (Sampling(noise_clamp=1.2), stats.truncnorm(-1.2, 1.2, scale=scale)),
        (Sampling(noise_clamp=2.0, noise_temperature=0.5), stats.truncnorm(-2, 2, scale=0.5 * scale)),
        *([(Sampling(bias=0.7), stats.norm(scale=scale * math.exp(-0.7)))] if "bias" in head.controls else []),
    ):
        drawn = head.sample(parameters, sampling, torch.Generator().manual_seed(0))[:, 0].detach().double()
        around = drawn - 100 * (drawn / 100).round()
        assert stats.kstest(around.numpy(), expected.cdf).statistic < 1.95 / math.sqrt(n)


@pytest.mark.parametrize(("network", "head"), [("lstm", "gaussian"), ("gru", "mixture"), ("transformer", "flow")])
def test_a_tiny_prior_learns_an_autoregression_and_its_length(network: str, head: str) -> None:
    """z_t = ρ z_{t−1} + e for 5 frames: the loss of the process, frames with its correlation, clips of 5 frames."""
    rho, frames, dims, batch = 0.9, 5, 2, 64
    model = members.prior(network, head, latent_dim=dims, n_active=dims).train()
    model.standardiser.active.copy_(torch.arange(dims))
    model.standardiser.mean.zero_()
    model.standardiser.deviation.fill_(1.0)
    generator = torch.Generator().manual_seed(0)

    def process() -> torch.Tensor:
        value = torch.randn((batch, dims), generator=generator)
        rows = [value]
        for _ in range(frames - 1):
            value = rho * value + math.sqrt(1 - rho**2) * torch.randn((batch, dims), generator=generator)
            rows.append(value)
        return torch.stack(rows, dim=1)

    lengths, ends = torch.full((batch,), frames), torch.ones(batch, dtype=torch.bool)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    steps = 150
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        values = process()
        losses = model.losses(model.forward(values, None), values, lengths, ends)
        optimiser.zero_grad()
        (losses.latent.mean() / dims + losses.end[losses.asked].mean()).backward()
        optimiser.step()
        schedule.step()
    model.eval()
    deviations = np.array([1.0] + [math.sqrt(1 - rho**2)] * (frames - 1))
    # The least squared error of a velocity, averaged over the arc, is the deviation of the value on the path, which is
    # d times as large with `information`: ∫ s² / (cos² θ + s² sin² θ) dθ = s π/2.
    wider = 1.0
    if isinstance(model.head, Flow):
        assert model.head.deviation is not None
        wider = float(model.head.deviation.mean())
    entropy = 0.5 * math.log(2 * math.pi * math.e) + np.log(deviations)
    expected = (entropy if model.has_likelihood else wider * deviations).mean()
    with torch.no_grad():
        made = (process() for _ in range(8))
        loss = [float(model.losses(model.forward(v, None), v, lengths, ends).latent.mean()) / dims for v in made]
    assert np.mean(loss) == pytest.approx(expected, abs=0.07)
    drawn = sampled(model, n=1000, max_frames=frames)[0].numpy()
    assert drawn.std() == pytest.approx(1, abs=0.1)
    assert (drawn[:, 1:] * drawn[:, :-1]).mean() / drawn.var() == pytest.approx(rho, abs=0.06)
    _, stopped = sampled(model, n=300, max_frames=30, until_stop=True)
    made = (~stopped).sum(1).float()
    assert abs(float(made.mean()) - frames) < 0.7
    assert float((made == frames).float().mean()) > 0.7


@every_prior
def test_a_condition_in_time(network: str, head: str) -> None:
    model, frames = members.prior(network, head), 6
    changing = numbers(BATCH, 4, CONDITION_DIM, seed=7)
    made = values_of(model, n=BATCH, max_frames=frames, condition=changing)
    # Later frames have the condition of the last.
    of_frames: list[torch.Tensor | None] = [changing[:, min(frame, 3)] for frame in range(frames)]
    torch.testing.assert_close(made, by_hand(model, frames, [of_frames], [1.0]), atol=1e-4, rtol=1e-4)
    staying = values_of(model, n=BATCH, max_frames=frames, condition=changing[:, 0])
    repeated = changing[:, :1].expand(-1, frames, -1)
    assert torch.equal(values_of(model, n=BATCH, max_frames=frames, condition=repeated), staying)


@every_prior
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_condition_in_time_begins_after_the_prompt(network: str, head: str, guidance: float) -> None:
    """The frames of a prompt have the condition of no label; the first new frame has its own."""
    model, frames = members.prior(network, head), 4
    prompt, bare = numbers(1, 5, LATENT_DIM, seed=9), numbers(1, CONDITION_DIM, seed=8)
    changing = numbers(BATCH, frames, CONDITION_DIM, seed=7)
    settings = {"n": BATCH, "prompt": prompt, "unconditional": bare, "sampling": Sampling(guidance=guidance)}
    made = values_of(model, max_frames=frames, condition=changing, **settings)
    values = model.standardiser.standardise(prompt).expand(BATCH, -1, -1)
    generator, before = torch.Generator().manual_seed(0), bare.expand(BATCH, -1)
    with torch.no_grad():
        worlds = []
        for own in (changing, before[:, None].expand(-1, frames, -1)):
            state, value = model.init_state(BATCH), None
            for t in range(5):
                _, state = model.step(value, before, state, BATCH)
                value = values[:, t]
            worlds.append((own, state))
        rows, value, states = [], values[:, -1], [state for _, state in worlds]
        for frame in range(frames):
            said = torch.zeros(())
            for k, weight in enumerate((guidance, 1 - guidance)):
                prediction, states[k] = model.step(value, worlds[k][0][:, frame], states[k], BATCH)
                said = said + weight * prediction.numbers[:, 0]
            value = model.head.sample(said, PLAIN, generator)
            rows.append(value)
    torch.testing.assert_close(made, torch.stack(rows, dim=1), atol=1e-3, rtol=1e-3)
