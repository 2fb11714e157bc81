"""What the prior of whole sequences promises, and its training: packed frames, honest refusals, exact repetition."""

import copy
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.special
import torch
from torch import Tensor

from actseq import build, pipeline
from actseq.config import Config, Member, TrainingConfig, load_preset
from actseq.data.latents import SequenceSource
from actseq.errors import ConfigError
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import load_latents
from actseq.objectives.adversarial_sequence import (
    WAVES,
    AdversarialSequences,
    Discriminator,
    energy_distance,
    time_courses,
)
from actseq.objectives.base import Batch, Loss
from actseq.priors.base import Prior, Sampling, SamplingRequest
from actseq.priors.gan import Gan, GeneratorNoise, PackedPositions
from actseq.priors.labels import LabelledPrior
from actseq.priors.places import N_PLACE
from actseq.progress import Silent
from actseq.training.conduct import Conduct
from actseq.training.loop import Outcome, train

CPU = pipeline.Compute("cpu", 1)

LATENT_DIM, DIMS, CONDITION_DIM, FRAMES, LONGEST, BATCH = 5, 3, 8, 12, 9, 3
SMALL = {"width": 12, "blocks": 2, "noise_dim": 4, "frame_noise_dim": 3}
SMALL_OBJECTIVE = {"discriminator_width": 10, "discriminator_blocks": 2}
WORDS = [
    f"prior.network={json.dumps({'kind': 'gan', **SMALL})}",
    "prior.head=null",
    f"train_prior.objective={json.dumps({'kind': 'gan', **SMALL_OBJECTIVE})}",
]


def config(*more: str) -> Config:
    return build.complete(load_preset("smoke", [*WORDS, f"train_prior.frames={FRAMES}", *more]))


def conditioned(seed: int = 0) -> LabelledPrior[Any]:
    """Seeded weights that matter, statistics not 0 and 1, every other dimension active, lengths 2 to 9 seen."""
    torch.manual_seed(seed)
    model = build.build_prior(config(), LATENT_DIM, DIMS, ["a", "b"]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    prior = model.prior
    prior.standardiser.active.copy_(torch.arange(0, LATENT_DIM, 2))
    prior.standardiser.mean.copy_(torch.linspace(-1, 2, DIMS))
    prior.standardiser.deviation.copy_(torch.linspace(0.4, 1.8, DIMS))
    assert isinstance(prior, Gan)
    prior.lengths_seen[1:LONGEST] = True
    return model


def gan() -> Gan:
    prior = conditioned().prior
    assert isinstance(prior, Gan)
    return prior


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sampled(prior: Gan, **settings: Any) -> tuple[Tensor, Tensor]:
    given: dict[str, Any] = {"n": BATCH, "max_frames": LONGEST, "condition": numbers(1, CONDITION_DIM, seed=7)}
    given |= settings
    if given["condition"] is not None:
        given["condition"] = given["condition"].expand(given["n"], -1)
    chunks = list(prior.sample(SamplingRequest(**given)))
    return torch.cat([chunk.latents for chunk in chunks], 1), torch.cat([chunk.stopped for chunk in chunks], 1)


# -- what is sampled ---------------------------------------------------------------------------------------------------


def test_it_is_a_prior_without_likelihood() -> None:
    prior = gan()
    assert isinstance(prior, Prior)
    assert not prior.has_likelihood
    assert not hasattr(prior, "log_prob")
    assert prior.latent_dim == LATENT_DIM


@pytest.mark.parametrize("until_stop", [False, True])
def test_the_same_seed_gives_the_same_bytes(until_stop: bool) -> None:
    prior, settings = gan(), {"n": 20, "until_stop": until_stop}
    torch.manual_seed(1)
    first = sampled(prior, seed=3, **settings)
    torch.manual_seed(2)
    again = sampled(prior, seed=3, **settings)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    other = sampled(prior, seed=4, **settings)
    n = min(first[0].shape[1], other[0].shape[1])
    assert (first[0][:, :n] - other[0][:, :n]).abs().max() > 0.1
    assert (first[0][0] - first[0][1]).abs().max() > 0.1
    assert first[0].isfinite().all()
    assert not first[0].requires_grad


@pytest.mark.parametrize("until_stop", [False, True])
def test_chunks_do_not_change_what_is_said(until_stop: bool) -> None:
    prior, settings = gan(), {"n": 4, "seed": 5, "until_stop": until_stop, "max_frames": 8}
    whole = sampled(prior, **settings)
    for chunk_frames in (1, 3, 8):
        chunks = list(
            prior.sample(
                SamplingRequest(chunk_frames=chunk_frames, condition=numbers(1, 8, seed=7).expand(4, -1), **settings)
            )
        )
        assert all(chunk.latents.shape[1] == chunk_frames for chunk in chunks[:-1])
        assert 0 < chunks[-1].latents.shape[1] <= chunk_frames
        assert torch.equal(torch.cat([chunk.latents for chunk in chunks], 1), whole[0])
        assert torch.equal(torch.cat([chunk.stopped for chunk in chunks], 1), whole[1])


def test_limits_of_the_length() -> None:
    prior = gan()
    for frames in (1, 4, LONGEST):
        latents, stopped = sampled(prior, max_frames=frames)
        assert latents.shape == (BATCH, frames, LATENT_DIM)
        assert not stopped.any()
    latents, stopped = sampled(prior, n=300, max_frames=100, until_stop=True)
    lengths = (~stopped).sum(1)
    assert set(lengths.tolist()) == set(range(2, LONGEST + 1)), "those seen, and no others"
    assert latents.shape[1] == LONGEST
    assert not (stopped[:, :-1] & ~stopped[:, 1:]).any()
    _, stopped_late = sampled(prior, n=300, max_frames=100, min_frames=7, until_stop=True)
    assert set((~stopped_late).sum(1).tolist()) == {7, 8, 9}
    cut, stopped_cut = sampled(prior, n=300, max_frames=4, until_stop=True)
    assert cut.shape[1] == 4
    assert torch.equal((~stopped_cut).sum(1), lengths.clamp(max=4))
    assert torch.equal(cut[:, :, ::2][~stopped_cut], latents[:, :4, ::2][~stopped_cut]), "cut, not said in other words"
    assert not list(prior.sample(SamplingRequest(n=2, max_frames=0)))
    prior.lengths_seen[:] = False
    prior.lengths_seen[4] = True
    assert sampled(prior, n=5, max_frames=100, until_stop=True)[0].shape[1] == 5


def test_lengths_are_drawn_as_learned() -> None:
    prior, condition, n = gan(), numbers(1, CONDITION_DIM, seed=7), 4000
    for temperature in (1.0, 0.0):
        _, stopped = sampled(
            prior, n=n, max_frames=20, until_stop=True, condition=condition, sampling=Sampling(temperature=temperature)
        )
        share = np.bincount((~stopped).sum(1).numpy(), minlength=FRAMES + 1)[1:] / n
        with torch.no_grad():
            logits = prior.length(condition)[0].double().numpy()
        expected = np.where(prior.lengths_seen.numpy(), np.exp(logits), 0)
        expected /= expected.sum()
        assert expected.max() < 0.9
        np.testing.assert_allclose(share, expected, atol=4.5 * math.sqrt(0.25 / n))


def test_the_other_dimensions_are_standard_normal() -> None:
    latents, _ = sampled(gan(), n=400, chunk_frames=4)
    rest = latents[:, :, [1, 3]]
    assert rest.mean().abs() < 0.05
    assert (rest.std() - 1).abs() < 0.05
    correlation = torch.corrcoef(latents.flatten(0, 1).T)
    assert (correlation[[1, 3]] - torch.eye(LATENT_DIM)[[1, 3]]).abs().max() < 0.1


def test_the_condition_matters_and_may_glide() -> None:
    model = conditioned()
    prior = model.prior
    assert isinstance(prior, Gan)
    with torch.no_grad():
        none, a, b = model.condition(torch.arange(3))[:, None]
    said = [sampled(prior, condition=condition)[0] for condition in (none, a, b)]
    for one, other in itertools.combinations(said, 2):
        assert (one - other)[:, :, ::2].abs().amax((0, 2)).min() > 0.01
    stays = sampled(prior, condition=a, condition_end=a.expand(BATCH, -1))[0]
    torch.testing.assert_close(stays, said[1], atol=1e-5, rtol=1e-5)
    glides = sampled(prior, condition=a, condition_end=b.expand(BATCH, -1))[0]
    assert (glides - said[1]).abs().max() > 0.01
    # The last frame has the other label's own condition; only its neighbours are different.
    ends = [(glides[:, -1] - one[:, -1]).abs().max() for one in said[1:]]
    assert ends[1] < ends[0]
    assert sampled(prior, condition=None)[0].isfinite().all()


def test_temperatures() -> None:
    prior, active = gan(), [0, 2, 4]

    def at(**controls: float) -> Tensor:
        return sampled(prior, sampling=Sampling(**controls))[0][:, :, active]

    cold = at(temperature=0.0)
    assert torch.equal(cold[0], cold[1])
    assert torch.equal(cold, sampled(prior, seed=1, sampling=Sampling(temperature=0.0))[0][:, :, active])
    # The noise of frames has a temperature of its own: without it sequences still differ.
    bare, little, full = (at(noise_temperature=t) for t in (0.0, 0.1, 1.0))
    assert torch.equal(full, at())
    assert torch.equal(bare, at(noise_temperature=0.0, temperature=1.0))
    assert (bare[0] - bare[1]).abs().max() > 0.01
    assert 0 < (little - bare).abs().mean() < 0.3 * (full - bare).abs().mean()
    torch.testing.assert_close(at(noise_clamp=100.0), full, atol=1e-4, rtol=1e-4)
    assert (at(noise_clamp=0.1) - cold).abs().mean() < 0.5 * (full - cold).abs().mean()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"prompt": torch.zeros(1, 4, LATENT_DIM)}, "gan cannot continue a recording; use a sequence prior"),
        ({"sampling": Sampling(guidance=2.0)}, "prior gan knows no guidance"),
        ({"sampling": Sampling(top_p=0.9, bias=1.0)}, "knows no top_p nor bias"),
        ({"sampling": Sampling(mixture_temperature=0.5)}, "knows no mixture_temperature"),
        ({"max_frames": LONGEST + 1}, "asked for 10 latent frames.*at most 9.*until-stop.*lstm"),
        ({"max_frames": 20, "min_frames": 10, "until_stop": True}, "asked for 10 latent frames.*at most 9"),
    ],
)
def test_what_it_cannot_do_is_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        sampled(gan(), **settings)


def test_untrained_it_says_nothing() -> None:
    fresh = build.build_prior(config(), LATENT_DIM, DIMS, [])
    with pytest.raises(ConfigError, match="at most 0"):
        next(fresh.prior.sample(SamplingRequest(n=1, max_frames=3)))


def test_state_dict_makes_a_copy() -> None:
    prior = gan()
    other = copy.deepcopy(prior)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.zero_()
    other.load_state_dict(prior.state_dict())
    assert torch.equal(sampled(other)[0], sampled(prior)[0])


# -- packed frames -----------------------------------------------------------------------------------------------------


def test_places_are_those_of_a_loop() -> None:
    lengths = [3, 1, 5]
    places = PackedPositions.of(torch.tensor(lengths))
    expected = [(row, position) for row, length in enumerate(lengths) for position in range(length)]
    assert list(zip(places.row.tolist(), places.position.tolist(), strict=True)) == expected
    for distance in (1, 2, 4):
        for at, (row, position) in enumerate(expected):
            found = places.neighbours(distance)[at].tolist()
            for frame, offset in zip(found, (-distance, 0, distance), strict=True):
                other = (row, position + offset)
                assert frame == (expected.index(other) if other in expected else len(expected))
    values = numbers(9, 4)
    rows = torch.split(values, lengths)
    torch.testing.assert_close(places.mean(values), torch.stack([row.mean(0) for row in rows]))
    once, each = numbers(3, 1, 2), numbers(3, 5, 2)
    for at, (row, position) in enumerate(expected):
        assert torch.equal(places.pick(once)[at], once[row, 0])
        assert torch.equal(places.pick(each)[at], each[row, position])


def test_sequences_of_a_batch_do_not_meet() -> None:
    """Generated and judged alone, a sequence is what it is among others."""
    prior, lengths = gan(), [4, 1, 9]
    torch.manual_seed(0)
    judge = Discriminator(DIMS, 3, 10, 2)
    places, condition, label = (
        PackedPositions.of(torch.tensor(lengths)),
        numbers(3, 1, CONDITION_DIM),
        torch.tensor([1, 0, 2]),
    )
    noise = GeneratorNoise(numbers(3, 4), numbers(14, 3, seed=1), numbers(14, DIMS, seed=2))
    with torch.no_grad():
        together = prior.generate(places, condition, noise)
        wholes, frames = judge(together, places, label)
        start = 0
        for row, length in enumerate(lengths):
            here = slice(start, start + length)
            start += length
            alone = PackedPositions.of(torch.tensor([length]))
            own = GeneratorNoise(noise.sequence[row : row + 1], noise.frame[here], noise.spread[here])
            said = prior.generate(alone, condition[row : row + 1], own)
            torch.testing.assert_close(said, together[here], atol=1e-5, rtol=1e-5)
            whole, frame = judge(together[here], alone, label[row : row + 1])
            torch.testing.assert_close(whole, wholes[row : row + 1], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(frame, frames[here], atol=1e-5, rtol=1e-5)


# -- what is learned ---------------------------------------------------------------------------------------------------


def objective(seed: int = 0, **options: Any) -> AdversarialSequences:
    model = conditioned(seed)
    return AdversarialSequences(model, **(SMALL_OBJECTIVE | options))


def batch(lengths: list[int], frames: int, fill: float = 0.0, point: bool = False) -> Batch:
    """A batch whose padding is noise of a deviation."""
    mean, log_variance = (
        numbers(len(lengths), frames, LATENT_DIM),
        numbers(len(lengths), frames, LATENT_DIM, seed=1) - 2,
    )
    outside = torch.arange(frames) >= torch.tensor(lengths)[:, None]
    mean[outside] = fill * numbers(int(outside.sum()), LATENT_DIM, seed=2)
    log_variance[outside] = fill
    if point:
        log_variance.fill_(-math.inf)
    label = torch.arange(len(lengths)) % 3
    return Batch({"mean": mean, "log_variance": log_variance, "lengths": torch.tensor(lengths), "label": label}, 0.5)


def total(losses: Mapping[str, Loss]) -> Tensor:
    return torch.stack([loss.total for loss in losses.values()])


def test_padding_never_reaches_a_judgement() -> None:
    lengths, found = [9, 4, 2, 6], []
    for fill in (0.0, 1e3, math.nan):
        torch.manual_seed(0)
        trained = objective()
        torch.manual_seed(1)
        losses = trained.losses(batch(lengths, 9, fill))
        torch.manual_seed(2)
        found.append(torch.cat([total(losses), torch.stack(list(trained.validate(batch(lengths, 9, fill)).values()))]))
    assert found[0].isfinite().all()
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_each_loss_is_for_its_own_group() -> None:
    trained = objective()
    groups = trained.parameter_groups()
    assert list(groups) == ["prior", "discriminator"]
    everything = [parameter for group in groups.values() for parameter in group]
    assert {id(parameter) for parameter in everything} == {id(parameter) for parameter in trained.parameters()}
    losses = trained.losses(batch([9, 4, 2, 6], 9))
    assert list(losses) == list(groups)
    for name, loss in losses.items():
        slopes = torch.autograd.grad(loss.total, everything, retain_graph=True, allow_unused=True)
        own = {id(parameter) for parameter in groups[name]}
        for parameter, slope in zip(everything, slopes, strict=True):
            if id(parameter) in own:
                assert slope is not None
                assert slope.isfinite().all()
            else:
                assert slope is None
    assert not any(name.startswith("discriminator") for name in trained.exported().state_dict())


def test_some_sequences_are_shown_with_labels_and_without_places(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build.build_prior(config(), LATENT_DIM, DIMS, ["a", "b"], timed=True)
    trained, n, frames = AdversarialSequences(model, **SMALL_OBJECTIVE, label_dropout=0.5), 40, 4
    given = batch([frames] * n, frames)
    label = (torch.arange(n) % 2 + 1)[:, None].expand(n, frames)
    place = numbers(n, frames, N_PLACE)
    conditions: list[Tensor] = []

    def generate(places: PackedPositions, condition: Tensor, noise: GeneratorNoise) -> Tensor:
        conditions.append(condition)
        return original(places, condition, noise)

    original = trained.prior.generate
    monkeypatch.setattr(trained.prior, "generate", generate)
    trained.losses(Batch(dict(given.data) | {"frame_label": label, "frame_place": place}, 0.5))
    [condition] = conditions
    kinds = [model.condition(0 * label), model.condition(label), model.condition(label, place)]
    of_kind = [int(sum(torch.allclose(one, own) for one, own in zip(condition, kind, strict=True))) for kind in kinds]
    assert sum(of_kind) == n
    assert min(of_kind) > 0, "without a label, with a label alone, and with its places"


def test_lengths_are_noted() -> None:
    trained = objective()
    trained.prior.lengths_seen[:] = False
    trained.losses(batch([7, 3, 7], 7))
    assert (trained.prior.lengths_seen.nonzero()[:, 0] + 1).tolist() == [3, 7]


def test_codes_without_a_variance_can_be_learned() -> None:
    trained = objective()
    assert total(trained.losses(batch([9, 4, 2], 9, point=True))).isfinite().all()
    assert all(value.isfinite() for value in trained.validate(batch([9, 4, 2], 9, point=True)).values())


def test_the_penalty_is_the_squared_gradient() -> None:
    trained, places, label = objective(), PackedPositions.of(torch.tensor([4, 2, 7])), torch.tensor([0, 1, 2])
    values = numbers(13, DIMS).requires_grad_()
    whole, frames = trained.discriminator(values, places, label)
    length = places.lengths[places.row]

    def squared(score: Tensor) -> float:
        (slope,) = torch.autograd.grad(score, values, retain_graph=True)
        return float(slope.square().sum())

    expected = squared(whole.sum()) + sum(
        squared(score) / int(frames_of) for score, frames_of in zip(frames, length, strict=True)
    )
    torch.manual_seed(0)
    drawn = [float(trained._judge(values, places, label)[1].detach()) for _ in range(200)]
    assert np.mean(drawn) == pytest.approx(expected / 3, abs=4 * np.std(drawn) / math.sqrt(200))
    assert np.std(drawn) < expected


def test_time_courses_are_cosine_transforms() -> None:
    lengths = [6, 2, 11]
    values = numbers(sum(lengths), DIMS)
    found = time_courses(values, PackedPositions.of(torch.tensor(lengths)))
    for row, sequence in zip(found, torch.split(values, lengths), strict=True):
        expected = np.zeros((WAVES, DIMS))
        whole = scipy.fft.dct(sequence.double().numpy(), norm="ortho", axis=0)[:WAVES]
        expected[: len(whole)] = whole
        np.testing.assert_allclose(row.reshape(WAVES, DIMS), expected, atol=1e-5)


def test_energy_distance_is_a_loop() -> None:
    real, made, label = numbers(5, 4), numbers(2, 5, 4, seed=1), torch.tensor([0, 1, 0, 0, 1])

    def mean(a: Tensor, b: Tensor, alike: bool) -> float:
        pairs = [(i, j) for i, j in itertools.permutations(range(5), 2) if not alike or label[i] == label[j]]
        return float(np.mean([np.linalg.norm(a[i].numpy() - b[j].numpy()) for i, j in pairs]))

    expected = 0.0
    for alike in (False, True):
        between = np.mean([mean(made[i], made[j], alike) for i, j in ((0, 0), (0, 1), (1, 1))])
        expected += np.mean([2 * mean(one, real, alike) for one in made]) - mean(real, real, alike) - between
    assert float(energy_distance(real, made, label)) == pytest.approx(expected, rel=1e-4)
    assert energy_distance(real, made, torch.arange(5)).isfinite(), "no two sequences of one label"
    same = made[:1].clone().requires_grad_()
    energy_distance(made[0], same, label).backward()
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_energy_distance_is_zero_on_average_for_the_same_and_knows_labels() -> None:
    label = torch.arange(64) % 4
    centre = 3 * numbers(4, 6, seed=9)

    def drawn(seed: int, shift: int = 0) -> Tensor:
        return numbers(64, 6, seed=seed) + centre[(label + shift) % 4]

    alike = [float(energy_distance(drawn(i), drawn(1000 + i)[None], label)) for i in range(100)]
    assert abs(np.mean(alike)) < 4 * np.std(alike) / 10
    swapped = [float(energy_distance(drawn(i), drawn(1000 + i, 1)[None], label)) for i in range(5)]
    assert min(swapped) > 1 + max(alike)


def test_likelihoods_of_lengths_and_of_the_noise() -> None:
    prior, condition, lengths = gan(), numbers(3, CONDITION_DIM), torch.tensor([2, 9, 5])
    log_deviation = numbers(16, DIMS, seed=3)
    length, _ = prior.likelihood_loss(lengths, condition, log_deviation)
    with torch.no_grad():
        probabilities = scipy.special.softmax(prior.length(condition).double().numpy(), axis=1)
    assert float(length.detach()) == pytest.approx(
        -np.log(probabilities[range(3), lengths.numpy() - 1]).mean(), rel=1e-5
    )
    # Least where the variance is the mean of the variances.
    best = 0.5 * (2 * log_deviation).exp().mean(0).log()
    prior.log_spread.data.copy_(best)
    spread = prior.likelihood_loss(lengths, condition, log_deviation)[1]
    (slope,) = torch.autograd.grad(spread, prior.log_spread)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    for step in (-0.3, 0.3):
        prior.log_spread.data.copy_(best + step)
        assert prior.likelihood_loss(lengths, condition, log_deviation)[1] > spread


class Made:
    """Sequences of label a: 3 frames around +2; of label b: 6 frames that rise from −2 to 0."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def batch(self, step: int, rank: int = 0) -> Mapping[str, np.ndarray]:
        rng = np.random.default_rng([self.seed, step, rank])
        label = rng.integers(1, 3, size=32)
        mean = np.full((32, 6, LATENT_DIM), 2.0)
        mean[label == 2] = np.linspace(-2, 0, 6)[:, None]
        mean += 0.1 * rng.standard_normal(mean.shape)
        return {
            "mean": mean.astype(np.float32),
            "log_variance": np.full(mean.shape, 2 * math.log(0.3), np.float32),
            "lengths": np.where(label == 1, 3, 6),
            "label": label,
        }


def learn(folder: Path, steps: int, trained: AdversarialSequences, **changes: Any) -> Outcome:
    given: dict[str, Any] = {
        "objective": Member(kind="gan"),
        "steps": steps,
        "batch_size": 32,
        "learning_rate": 0.015,
        "final_learning_rate": 0.001,
        "ema": 0.9,
        "validations": 3,
        "validation_batches": 2,
    }
    return train(
        trained,
        (Made(1), Made(2)),
        TrainingConfig(**(given | changes)),
        folder,
        name="gan",
        seed=3,
        conduct=Conduct(torch.device("cpu"), Silent()),
    )


def test_it_learns_what_is_said_and_how_long(tmp_path: Path) -> None:
    trained = objective()
    before = {name: float(value) for name, value in trained.validate(ready(Made(2).batch(0))).items()}
    trained.prior.lengths_seen[:] = False
    outcome = learn(tmp_path, 70, trained)
    assert outcome.figures["distance"] < 0.2 * before["distance"]
    trained.model.load_state_dict(outcome.tensors)
    with torch.no_grad():
        for label, length, course in ((1, 3, np.full(3, 2.0)), (2, 6, np.linspace(-2, 0, 6))):
            latents, stopped = sampled(
                trained.prior,
                n=200,
                max_frames=20,
                until_stop=True,
                condition=trained.model.condition(torch.tensor([label])),
            )
            right = (~stopped).sum(1) == length
            assert right.float().mean() > 0.8
            said = latents[right][:, :length, ::2]
            np.testing.assert_allclose(said.mean((0, 2)), course, atol=0.4)
            # That of the activations and of their posteriors.
            assert 0.2 < float(said.std(0).mean()) < 0.6


def ready(arrays: Mapping[str, np.ndarray]) -> Batch:
    return Batch({name: torch.from_numpy(array) for name, array in arrays.items()}, 0.5)


def test_a_killed_training_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = learn(tmp_path / "whole", 9, objective())
    losses, calls = AdversarialSequences.losses, itertools.count()

    def until_five(self: AdversarialSequences, given: Batch) -> dict[str, Loss]:
        if next(calls) == 5:
            raise RuntimeError("power cut")
        return losses(self, given)

    with monkeypatch.context() as patch:
        patch.setattr(AdversarialSequences, "losses", until_five)
        with pytest.raises(RuntimeError, match="power cut"):
            learn(tmp_path / "cut", 9, objective())
    # Weights that are there already are of no account.
    again = learn(tmp_path / "cut", 9, objective(seed=5))
    assert (whole.figures, whole.best_step) == (again.figures, again.best_step)
    assert all(torch.equal(whole.tensors[name], again.tensors[name]) for name in whole.tensors)
    files = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert files[0] == files[1]


# -- in a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["prior.network.width=0", "prior.network.noise_dim=0", "train_prior.objective.penalty=-1"]
)
def test_a_value_that_does_not_fit_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match=text.split("=")[0].split(".")[-1]):
        build.build_sequence(config(text), build.build_prior(config(text), 4, 4, []))


def test_a_run_of_real_digits(data_dir: Path, tmp_path: Path) -> None:
    for label in ("3", "7"):
        for path in sorted((data_dir / "digits_fsdd").rglob(f"{label}_jackson_*.wav"))[:12]:
            target = tmp_path / "sounds" / label
            target.mkdir(parents=True, exist_ok=True)
            (target / path.name).symlink_to(path)
    run = tmp_path / "run"
    pipeline.run_all(
        tmp_path / "sounds", "smoke", run=str(run), overrides=["train_ae.steps=2", "train_prior.steps=2"], compute=CPU
    )
    result = pipeline.train_prior(run, name="gan", overrides=[*WORDS, "train_prior.steps=6"], compute=CPU)
    assert result["labels"] == ["3", "7"]
    assert math.isfinite(result["figures"]["distance"])
    assert pipeline.info(run)["priors"]["gan"]["network"] == "gan"
    assert pipeline.info(run)["priors"]["gan"]["head"] is None
    loaded = LoadedRun.open(run, prior="gan", device="cpu")
    clips = loaded.generate_clips(6, until_stop=True, label="7", seed=1)
    assert all(clip.stopped and np.isfinite(clip.waveform).all() and clip.waveform.any() for clip in clips)
    latents = load_latents(loaded.run)[0]
    known = {latents.records[index].length for index in latents.indices("train")}
    assert {len(clip.latents) for clip in clips} <= known | {min(max(known), loaded.config.train_prior.frames)}
    with pytest.raises(ConfigError, match="cannot continue a recording"):
        loaded.generate(1, seconds=0.3, seed_audio=clips[0].waveform)
    # Real latents, as the loop gets them.
    assert loaded.prior is not None
    source = SequenceSource(latents, "train", loaded.labels, 32, 8, seed=0)
    trained = AdversarialSequences(loaded.prior, **SMALL_OBJECTIVE)  # type: ignore[arg-type]
    assert (
        total(trained.losses(Batch({k: torch.from_numpy(v) for k, v in source.batch(0).items()}, 0.5))).isfinite().all()
    )
