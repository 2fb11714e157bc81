"""What the whole-clip flow promises, and its training: windows, blocks, known frames, lengths, exact repetition."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from actseq import build, pipeline
from actseq.config import Config, TrainingConfig, load_preset
from actseq.data.latents import SequenceSource
from actseq.errors import ConfigError
from actseq.inference.generation import Generated
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import load_latents
from actseq.objectives.base import Batch
from actseq.objectives.flow_matching import FlowMatching, regions
from actseq.priors.base import Prior, Sampling, SamplingRequest, TransferRequest
from actseq.priors.clip_flow import N_LENGTHS, TRANSFER_GUIDANCE, TRANSFER_STEPS, ClipFlow, Window, _context
from actseq.priors.labels import LabelledPrior
from actseq.progress import Silent
from actseq.training.conduct import Conduct
from actseq.training.loop import Outcome, train

CPU = pipeline.Compute("cpu", 1)
LATENT_DIM, DIMS, CONDITION_DIM, FRAMES, BATCH = 5, 3, 8, 12, 3
ACTIVE = [0, 2, 4]
SMALL = {"width": 24, "layers": 2, "heads": 2, "inner": 32, "patch": 2, "steps": 2}
WORDS = [
    f"prior.network={json.dumps({'kind': 'clip-flow', **SMALL})}",
    "prior.head=null",
    "train_prior.objective.kind=flow-matching",
]


def config(*more: str) -> Config:
    return build.complete(load_preset("smoke", [*WORDS, f"train_prior.frames={FRAMES}", *more]))


def conditioned(seed: int = 0) -> LabelledPrior[Any]:
    """Seeded weights that matter, statistics away from zero and one, every other dimension active; b is longer."""
    torch.manual_seed(seed)
    model = build.build_prior(config(), LATENT_DIM, DIMS, ["a", "b"]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    prior = model.prior
    assert isinstance(prior, ClipFlow)
    prior.standardiser.active.copy_(torch.tensor(ACTIVE))
    prior.standardiser.mean.copy_(torch.linspace(-1, 2, DIMS))
    prior.standardiser.deviation.copy_(torch.linspace(0.4, 1.8, DIMS))
    prior.keep_lengths(np.array([2, 3, 4, 5, 20, 30, 40]), np.array([1, 1, 1, 1, 2, 2, 2]), 2)
    return model


def flow() -> ClipFlow:
    prior = conditioned().prior
    assert isinstance(prior, ClipFlow)
    return prior


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sampled(prior: ClipFlow, **settings: Any) -> tuple[Tensor, Tensor]:
    given: dict[str, Any] = {"n": BATCH, "max_frames": 9, "condition": numbers(1, CONDITION_DIM, seed=7)}
    given |= settings
    if given["condition"] is not None:
        given["condition"] = given["condition"].expand(given["n"], -1)
    chunks = list(prior.sample(SamplingRequest(**given)))
    return torch.cat([chunk.latents for chunk in chunks], 1), torch.cat([chunk.stopped for chunk in chunks], 1)


# -- what is sampled -------------------------------------------------------------------------------------------------


def test_it_is_a_prior_without_likelihood() -> None:
    prior = flow()
    assert isinstance(prior, Prior)
    assert not prior.has_likelihood
    assert not hasattr(prior, "log_prob")
    assert prior.latent_dim == LATENT_DIM


@pytest.mark.parametrize("settings", [{}, {"until_stop": True, "label": 2, "max_frames": 100}, {"max_frames": 50}])
def test_the_same_seed_gives_the_same_bytes(settings: dict[str, Any]) -> None:
    prior = flow()
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
def test_chunks_do_not_change_what_is_made(until_stop: bool) -> None:
    prior = flow()
    settings: dict[str, Any] = {"n": 4, "seed": 5, "until_stop": until_stop, "max_frames": 35, "label": 2}
    whole = sampled(prior, **settings)
    assert whole[0].shape[1] == 35
    condition = numbers(1, CONDITION_DIM, seed=7).expand(4, -1)
    for chunk_frames in (1, 7, 12, 100):
        chunks = list(prior.sample(SamplingRequest(chunk_frames=chunk_frames, condition=condition, **settings)))
        assert all(chunk.latents.shape[1] == chunk_frames for chunk in chunks[:-1])
        assert 0 < chunks[-1].latents.shape[1] <= chunk_frames
        assert torch.equal(torch.cat([chunk.latents for chunk in chunks], 1), whole[0])
        assert torch.equal(torch.cat([chunk.stopped for chunk in chunks], 1), whole[1])


def test_a_clip_does_not_depend_on_how_many_there_are() -> None:
    prior = flow()
    for settings in ({"max_frames": 40}, {"max_frames": 100, "until_stop": True, "label": 2}):
        few, few_stopped = sampled(prior, n=2, seed=5, **settings)
        many, many_stopped = sampled(prior, n=7, seed=5, **settings)
        n = few.shape[1]
        assert torch.equal(few_stopped, many_stopped[:2, :n])
        torch.testing.assert_close(few[~few_stopped], many[:2, :n][~few_stopped], atol=1e-4, rtol=1e-4)


def test_the_asked_length_is_what_comes() -> None:
    prior = flow()
    for frames in (1, 5, FRAMES, FRAMES + 1, 50):
        latents, stopped = sampled(prior, max_frames=frames)
        assert latents.shape == (BATCH, frames, LATENT_DIM)
        assert not stopped.any()
    assert not list(prior.sample(SamplingRequest(n=2, max_frames=0)))


def test_lengths_are_those_of_the_label() -> None:
    prior, n = flow(), 600
    for label, expected in ((1, {2, 3, 4, 5}), (2, {20, 30, 40}), (0, {2, 3, 4, 5, 20, 30, 40})):
        _, stopped = sampled(prior, n=n, max_frames=100, until_stop=True, label=label)
        lengths = (~stopped).sum(1)
        assert set(lengths.tolist()) == expected
        assert not (stopped[:, :-1] & ~stopped[:, 1:]).any()
        shares = np.unique(lengths, return_counts=True)[1] / n
        np.testing.assert_allclose(shares, 1 / len(expected), atol=0.06)
    latents, _ = sampled(prior, n=20, max_frames=100, until_stop=True, label=2)
    cut, stopped = sampled(prior, n=20, max_frames=15, until_stop=True, label=2)
    assert not stopped.any()
    assert torch.equal(cut, latents[:, :15]), "cut, not made in another way"
    _, stopped = sampled(prior, n=50, max_frames=100, min_frames=4, until_stop=True, label=1)
    assert set((~stopped).sum(1).tolist()) == {4, 5}
    _, stopped = sampled(prior, n=5, max_frames=100, min_frames=60, until_stop=True, label=1)
    assert set((~stopped).sum(1).tolist()) == {60}


def test_the_lengths_of_a_corpus_are_kept_in_their_shares() -> None:
    prior, rng = flow(), np.random.default_rng(0)
    lengths, labels = rng.integers(3, 60, 400), np.repeat([0, 1], 200)
    prior.keep_lengths(lengths, labels, 2)
    for row, own in enumerate([lengths, lengths[labels == 1], lengths]):
        kept = prior.likely_lengths[row].numpy()
        assert set(kept) <= set(own)
        at = np.arange(60)
        gap = np.abs((kept[:, None] <= at).mean(0) - (own[:, None] <= at).mean(0)).max()
        assert gap < 1.5 / N_LENGTHS


def test_without_known_lengths_nothing_ends() -> None:
    prior = flow()
    prior.likely_lengths.zero_()
    latents, stopped = sampled(prior, max_frames=30, until_stop=True)
    assert latents.shape[1] == 30
    assert not stopped.any()


def test_the_other_dimensions_are_standard_normal() -> None:
    latents, _ = sampled(flow(), n=400, max_frames=20)
    rest = latents[:, :, [1, 3]]
    assert rest.mean().abs() < 0.05
    assert (rest.std() - 1).abs() < 0.05
    correlation = torch.corrcoef(latents.flatten(0, 1).T)
    assert (correlation[[1, 3]] - torch.eye(LATENT_DIM)[[1, 3]]).abs().max() < 0.1


def test_the_condition_matters_and_may_glide() -> None:
    model = conditioned()
    prior = model.prior
    assert isinstance(prior, ClipFlow)
    with torch.no_grad():
        none, a, b = model.condition(torch.arange(3))[:, None]
    made = [sampled(prior, condition=condition)[0] for condition in (none, a, b)]
    for one, other in itertools.combinations(made, 2):
        assert (one - other)[:, :, ACTIVE].abs().amax((0, 2)).min() > 1e-3
    stays = sampled(prior, condition=a, condition_end=a.expand(BATCH, -1))[0]
    torch.testing.assert_close(stays, made[1], atol=1e-5, rtol=1e-5)
    glides = sampled(prior, condition=a, condition_end=b.expand(BATCH, -1), max_frames=40)[0]
    assert glides.isfinite().all()
    assert (glides[:, :9] - made[1]).abs().max() > 1e-3
    assert sampled(prior, condition=None)[0].isfinite().all()


def test_guidance_moves_away_from_no_condition_and_only_inside_its_interval() -> None:
    model = conditioned()
    prior = model.prior
    assert isinstance(prior, ClipFlow)
    with torch.no_grad():
        none, a = model.condition(torch.tensor([0, 1]))[:, None]

    def at(guidance: float) -> Tensor:
        return sampled(prior, condition=a, unconditional=none, sampling=Sampling(guidance=guidance))[0][:, :, ACTIVE]

    prior.guided_from, prior.guided_until = 0.0, 1.0
    torch.testing.assert_close(at(0.0), sampled(prior, condition=none)[0][:, :, ACTIVE], atol=1e-4, rtol=1e-4)
    everywhere = at(2.0)
    prior.guided_from, prior.guided_until = 0.3, 0.6
    between = at(2.0)
    assert (everywhere - at(1.0)).abs().max() > (between - at(1.0)).abs().max() > 1e-4
    prior.guided_from, prior.guided_until = 0.51, 0.52
    assert torch.equal(at(2.0), at(1.0)), "no evaluation lies there"


def test_temperature_scales_the_starting_noise() -> None:
    prior = flow()

    def at(**controls: float) -> Tensor:
        return sampled(prior, sampling=Sampling(**controls))[0][:, :, ACTIVE]

    cold = at(temperature=0.0)
    assert torch.equal(cold[0], cold[1])
    assert torch.equal(at(noise_temperature=0.5), at(temperature=0.5))
    torch.testing.assert_close(at(noise_clamp=100.0), at(), atol=1e-4, rtol=1e-4)
    assert (at(noise_clamp=0.1) - cold).abs().mean() < 0.5 * (at() - cold).abs().mean()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"sampling": Sampling(top_p=0.9, bias=1.0)}, "clip-flow knows no top_p nor bias"),
        ({"sampling": Sampling(mixture_temperature=0.5)}, "knows no mixture_temperature"),
        ({"suffix": torch.zeros(1, 4, LATENT_DIM), "until_stop": True}, "cannot choose the length.*before a suffix"),
    ],
)
def test_what_it_cannot_do_is_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        sampled(flow(), **settings)


# -- what is given ---------------------------------------------------------------------------------------------------


def window(lengths: list[int], frames: int, known: Tensor | None = None, clean: Tensor | None = None) -> Window:
    flags = torch.ones(len(lengths), dtype=torch.bool)
    mask = torch.zeros(len(lengths), frames, dtype=torch.bool) if known is None else known
    values = torch.zeros(len(lengths), frames, DIMS) if clean is None else clean
    return Window(torch.tensor(lengths), flags, flags, mask, values)


def test_padding_never_changes_what_lies_inside() -> None:
    prior, lengths = flow(), [9, 4, 1]
    place, condition, time = numbers(3, 9, DIMS), numbers(3, 1, CONDITION_DIM), torch.tensor([0.1, 0.5, 0.9])
    inside = window(lengths, 9).inside
    with torch.no_grad():
        together = prior(place, time, window(lengths, 9), condition)
        for fill in (1e3, math.nan):
            filled = torch.where(inside[..., None], place, fill)
            clean = torch.where(inside[..., None], torch.zeros(()), torch.tensor(fill)).expand(-1, -1, DIMS)
            again = prior(filled, time, window(lengths, 9, clean=clean), condition)
            assert torch.equal(again[inside], together[inside])
        for row, length in enumerate(lengths):
            one = slice(row, row + 1)
            alone = prior(place[one, :length], time[one], window([length], length), condition[one])
            torch.testing.assert_close(alone, together[one, :length], atol=1e-5, rtol=1e-5)


def test_it_looks_both_ways() -> None:
    prior = flow()
    place = numbers(1, 9, DIMS).requires_grad_()
    velocity = prior(place, torch.tensor([0.5]), window([9], 9), numbers(1, 1, CONDITION_DIM))
    for frame in (0, 8):
        (slope,) = torch.autograd.grad(velocity[0, frame].sum(), place, retain_graph=True)
        assert (slope[0].abs().sum(1) > 0).all()


def test_known_frames_are_returned_as_they_are_and_matter() -> None:
    prior = flow()
    clean, other = numbers(1, 9, DIMS, seed=1), numbers(1, 9, DIMS, seed=2)
    known = torch.zeros(1, 9, dtype=torch.bool)
    known[:, :3] = known[:, 7:] = True
    request = SamplingRequest(n=1, max_frames=9, condition=numbers(1, CONDITION_DIM, seed=7))
    made = [
        prior._carried(numbers(1, 9, DIMS), window([9], 9, known, values), request, torch.arange(1), 0)
        for values in (clean, other, torch.where(known[..., None], clean, other))
    ]
    assert torch.equal(made[0][known], clean[known])
    assert (made[0] - made[1])[~known].abs().min() > 1e-5
    assert torch.equal(made[0], made[2]), "only what is known of it is looked at"


@pytest.mark.parametrize("new", [5, 30])
def test_a_guess_is_followed_as_much_as_is_asked(new: int) -> None:
    """In one window, and through several."""
    prior = flow()
    given = {"prompt": numbers(1, 4, LATENT_DIM, seed=1), "suffix": numbers(1, 4, LATENT_DIM, seed=2)}
    guess = numbers(1, new, LATENT_DIM, seed=3)

    def made(nearness: float) -> Tensor:
        return sampled(prior, **given, guess=guess, nearness=nearness, max_frames=new)[0]

    free = sampled(prior, **given, max_frames=new)[0]
    torch.testing.assert_close(made(0.0), free, rtol=0, atol=0)
    expected = guess[..., ACTIVE].expand(len(free), -1, -1)
    torch.testing.assert_close(made(1.0)[..., ACTIVE], expected, rtol=0, atol=1e-5)
    distances = [float((made(nearness)[..., ACTIVE] - expected).square().mean()) for nearness in (0.0, 0.5, 0.9)]
    assert distances[0] > distances[1] > distances[2] > 0


def test_prompts_and_suffixes_of_any_length() -> None:
    prior = flow()
    for before, new, after in itertools.product((0, 3, 6, 20), (1, 6, 7, 30), (0, 1, 20)):
        prompt = numbers(1, before, LATENT_DIM, seed=1) if before else None
        suffix = numbers(1, after, LATENT_DIM, seed=2) if after else None
        latents, stopped = sampled(prior, prompt=prompt, suffix=suffix, max_frames=new)
        assert latents.shape == (BATCH, new, LATENT_DIM)
        assert latents.isfinite().all()
        assert not stopped.any()
        for name, given in (("prompt", prompt), ("suffix", suffix)):
            if given is not None:
                changed = sampled(prior, **{"prompt": prompt, "suffix": suffix, name: given + 1}, max_frames=new)[0]
                assert (changed - latents)[:, :, ACTIVE].abs().max() > 1e-5


def test_the_last_half_window_of_a_prompt_is_what_counts() -> None:
    prior, prompt = flow(), numbers(1, 20, LATENT_DIM)
    changed = prompt.clone()
    changed[:, : -FRAMES // 2] += 1
    assert torch.equal(sampled(prior, prompt=prompt)[0], sampled(prior, prompt=changed)[0])
    each = sampled(prior, prompt=prompt.expand(BATCH, -1, -1))[0]
    assert torch.equal(each, sampled(prior, prompt=prompt)[0])


def test_what_is_looked_at_fits_into_a_window() -> None:
    for before, new, after, frames in itertools.product((0, 2, 50), (1, 5, 6, 40), (0, 1, 3, 50), (12, 13)):
        kept, kept_after = _context(before, new, after, frames)
        assert kept <= before
        assert kept_after <= after
        assert not after or kept_after
        if new <= frames // 2:
            assert kept + new + kept_after <= frames
            if min(before, after) == 50:
                assert kept + new + kept_after == frames
                assert abs(kept - kept_after) <= 1


def continued(prior: ClipFlow, before: int, label: int, **settings: Any) -> set[int]:
    """Lengths of what follows a prompt."""
    prompt = numbers(1, before, LATENT_DIM)
    settings = {"n": 60, "max_frames": 100, "until_stop": True, "min_frames": 0} | settings
    _, stopped = sampled(prior, prompt=prompt, label=label, **settings)
    return set((~stopped).sum(1).tolist())


def test_a_prompt_takes_its_time_off_the_whole_length() -> None:
    prior = flow()
    assert continued(prior, 18, 2) == {2, 12, 22}
    assert continued(prior, 20, 2) == {10, 20}, "the length that is reached is no longer possible"
    assert continued(prior, 18, 2, min_frames=5) == {12, 22}


def test_something_new_follows_every_prompt() -> None:
    """Around the longest length of the label, what follows neither vanishes nor becomes a whole sequence."""
    prior = flow()
    assert continued(prior, 39, 2) == {1}
    assert continued(prior, 40, 2) == continued(prior, 41, 2) == continued(prior, 90, 2) == {1}
    assert continued(prior, 40, 2, min_frames=7) == {7}
    # One of the 128 kept lengths is 120 and the rest 1 to 60: the longest eighth is that from 56 on.
    prior.likely_lengths[1] = torch.cat([torch.arange(1, 61).repeat_interleave(3)[-127:], torch.tensor([120])])
    for before in (60, 61, 119, 120, 121):
        assert continued(prior, before, 1, n=300) == {1, 2, 3, 4, 64}


def test_an_hour_takes_the_windows_of_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, seen = flow(), []
    forward = ClipFlow.forward

    def watched(self: ClipFlow, place: Tensor, time: Tensor, given: Window, condition: Tensor) -> Tensor:
        seen.append((tuple(place.shape), given))
        return forward(self, place, time, given, condition)

    monkeypatch.setattr(ClipFlow, "forward", watched)
    sampled(prior, n=1, max_frames=42)
    assert all(shape == (1, FRAMES, DIMS) for shape, _ in seen)
    blocks = [given for _, given in seen[:: 2 * SMALL["steps"]]]
    assert len(blocks) == 6
    assert [bool(given.begins) for given in blocks] == [True, *[False] * 5]
    assert [bool(given.ends) for given in blocks] == [*[False] * 5, True]
    assert [int(given.known.sum()) for given in blocks] == [0, *[FRAMES // 2] * 5]
    seen.clear()
    first = next(prior.sample(SamplingRequest(n=1, max_frames=10**6, chunk_frames=FRAMES)))
    assert first.latents.shape == (1, FRAMES, LATENT_DIM)
    assert len(seen) == 2 * SMALL["steps"], "made as it is asked for"


# -- another label ----------------------------------------------------------------------------------------------------


def transferred(prior: ClipFlow, latents: Tensor, request: TransferRequest, size: int = 5) -> Tensor:
    stream = prior.transfer(request)
    pieces = [stream.push(piece.numpy()) for piece in latents.split(size)]
    return torch.from_numpy(np.concatenate([*pieces, stream.finish()]))


def test_a_sound_moves_by_what_its_label_and_the_wanted_one_differ_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a velocity that is its condition the sum over any steps is known."""
    prior, latents = flow(), numbers(31, LATENT_DIM)
    conditions = torch.stack([torch.full((CONDITION_DIM,), value) for value in (0.0, 0.1, 4.0, 1.5)])

    def constant(self: ClipFlow, place: Tensor, time: Tensor, given: Window, condition: Tensor) -> Tensor:
        return condition[:, :, :DIMS].expand_as(place)

    monkeypatch.setattr(ClipFlow, "forward", constant)
    for label, amount, distance in ((2, 1.0, 7.9), (3, 0.5, 1.45), (1, 1.0, 0.0), (2, 0.0, 0.0)):
        made = transferred(prior, latents, TransferRequest(conditions, label, amount))
        expected = latents.clone()
        expected[:, ACTIVE] += distance * prior.standardiser.deviation
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


def test_the_own_label_is_found_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact velocity of sounds of one label that are normal around its mean, for every time."""
    prior, means = flow(), torch.tensor([0.0, -2.0, 0.5, 3.0])

    def exact(self: ClipFlow, place: Tensor, time: Tensor, given: Window, condition: Tensor) -> Tensor:
        at, mean = time[:, None, None], condition[:, :, :1]
        power = (1 - at).square() + at.square()
        return mean + (2 * at - 1) / power * (place - at * mean)

    monkeypatch.setattr(ClipFlow, "forward", exact)
    conditions = means[:, None].expand(-1, CONDITION_DIM)
    for own, other in itertools.permutations((1, 2, 3), 2):
        latents = torch.zeros(8, LATENT_DIM)
        values = means[own] + numbers(8, DIMS, seed=own)
        latents[:, ACTIVE] = values * prior.standardiser.deviation + prior.standardiser.mean
        same = transferred(prior, latents, TransferRequest(conditions, own, 1.0))
        torch.testing.assert_close(same, latents, atol=1e-5, rtol=1e-5)
        made = prior.standardiser.standardise(transferred(prior, latents, TransferRequest(conditions, other, 1.0)))
        # What the two labels have in common, the place around the mean, stays.
        shift = TRANSFER_GUIDANCE * means[other] - means[own]
        torch.testing.assert_close(made, values + shift, atol=1e-4, rtol=1e-4)


def test_windows_of_a_sound_know_what_was_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, latents, seen = conditioned(), numbers(40, LATENT_DIM), []
    prior = model.prior
    assert isinstance(prior, ClipFlow)
    forward = ClipFlow.forward

    def watched(self: ClipFlow, place: Tensor, time: Tensor, given: Window, condition: Tensor) -> Tensor:
        seen.append(given)
        return forward(self, place, time, given, condition)

    monkeypatch.setattr(ClipFlow, "forward", watched)
    with torch.no_grad():
        conditions = model.condition(torch.arange(3))
    # The own label is compared for both labels first; then each of six windows takes six midpoint steps.
    made = transferred(prior, latents, TransferRequest(conditions, 1, 1.0))
    windows = seen[2 :: 2 * TRANSFER_STEPS]
    assert len(seen) == 2 + len(windows) * 2 * TRANSFER_STEPS
    assert [bool(one.begins[0]) for one in windows] == [True, *[False] * 5]
    assert [bool(one.ends[0]) for one in windows] == [*[False] * 5, True]
    for number, one in enumerate(windows):
        first, given = number * FRAMES // 2, 0 if number == 0 else FRAMES // 2
        assert one.known.sum(1).tolist() == [given] * 6
        became, was = (prior.standardiser.standardise(z[first : first + given]) for z in (made, latents))
        for row, expected in enumerate((became,) * 4 + (was,) * 2):
            torch.testing.assert_close(one.clean[row, :given], expected, atol=1e-5, rtol=1e-5)


# -- what is learned -------------------------------------------------------------------------------------------------


def batch(lengths: list[int], frames: int, fill: float = 0.0, point: bool = False) -> Batch:
    """A batch whose padding is noise of a deviation."""
    shape = (len(lengths), frames, LATENT_DIM)
    mean, log_variance = numbers(*shape), numbers(*shape, seed=1) - 2
    outside = torch.arange(frames) >= torch.tensor(lengths)[:, None]
    mean[outside] = fill * numbers(int(outside.sum()), LATENT_DIM, seed=2)
    log_variance[outside] = fill
    if point:
        log_variance.fill_(-math.inf)
    flags = torch.arange(len(lengths)) % 2 == 0
    label = torch.arange(len(lengths)) % 3
    return Batch(
        {
            "mean": mean,
            "log_variance": log_variance,
            "lengths": torch.tensor(lengths),
            "begins": flags,
            "ends": ~flags,
            "label": label,
        },
        0.5,
    )


def test_padding_never_reaches_the_loss() -> None:
    found = []
    for fill in (0.0, 1e3, math.nan):
        trained = FlowMatching(conditioned())
        torch.manual_seed(1)
        loss = trained.losses(batch([9, 4, 1, 6], 9, fill))["prior"].total
        torch.manual_seed(2)
        found.append(torch.stack([loss, *trained.validate(batch([9, 4, 1, 6], 9, fill)).values()]))
    assert found[0].isfinite().all()
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_validations_can_be_compared_and_points_can_be_learned() -> None:
    trained = FlowMatching(conditioned())
    held_out = batch([9, 4, 1, 6], 9, point=True)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(float(trained.validate(held_out)["loss"]))
    assert found[0] == found[1]
    assert trained.losses(held_out)["prior"].total.isfinite()


def test_untrained_it_says_what_a_normal_distribution_would() -> None:
    """With values of N(0, 1) the best velocity is linear, and is there before anything was learned."""
    torch.manual_seed(0)
    prior = build.build_prior(config(), LATENT_DIM, DIMS, []).prior
    assert isinstance(prior, ClipFlow)
    noise, values = numbers(200, 9, DIMS), numbers(200, 9, DIMS, seed=1)
    for time in (0.2, 0.5, 0.9):
        place = (1 - time) * noise + time * values
        slope = float(((values - noise) * place).sum() / place.square().sum())
        with torch.no_grad():
            said = prior(place, torch.full((200,), time), window([9] * 200, 9), torch.zeros(200, 1, CONDITION_DIM))
        torch.testing.assert_close(said, slope * place, atol=0.1, rtol=0.1)


def exact(*posterior: float, information: float = 0.5) -> ClipFlow:
    """A prior whose dimensions are known with these standard deviations."""
    torch.manual_seed(0)
    prior = build.build_prior(config(f"prior.network.information={information}"), LATENT_DIM, DIMS, []).prior
    assert isinstance(prior, ClipFlow)
    prior.standardiser.mean.copy_(torch.linspace(-1, 2, DIMS))
    prior.standardiser.deviation.copy_(torch.tensor([0.5, 1.0, 2.0]))
    prior.keep_precision(torch.tensor(posterior) / prior.standardiser.deviation)
    return prior


def test_what_is_known_exactly_spreads_wider() -> None:
    found = exact(0.5 / 100, 1.0 / 4, 2.0)
    assert found.deviation is not None
    wanted = torch.tensor([10.0, 2.0, 1.0]) / 20 ** (1 / 3)  # roots of 100, 4 and 1, over their geometric mean
    torch.testing.assert_close(found.deviation, wanted)
    latents = numbers(4, LATENT_DIM)
    plain = (latents[:, :DIMS] - torch.linspace(-1, 2, DIMS)) / torch.tensor([0.5, 1.0, 2.0])
    torch.testing.assert_close(found.standardiser.standardise(latents), plain * wanted)
    for posterior in ((0.5, 1.0, 2.0), (0.0, 0.0, 0.0)):  # as much of each dimension, and a plain bottleneck
        even = exact(*posterior)
        assert even.deviation is not None
        torch.testing.assert_close(even.deviation, torch.ones(DIMS))


def test_without_information_nothing_changes() -> None:
    prior = exact(0.005, 0.25, 2.0, information=0)
    assert prior.deviation is None
    assert not [name for name in prior.state_dict() if name == "deviation"]
    torch.testing.assert_close(prior.standardiser.deviation, torch.tensor([0.5, 1.0, 2.0]))


def test_untrained_it_says_what_dimensions_of_any_deviation_would() -> None:
    prior = exact(0.005, 0.25, 2.0)
    assert prior.deviation is not None
    noise, values = numbers(200, 9, DIMS), numbers(200, 9, DIMS, seed=1) * prior.deviation
    for time in (0.0, 0.2, 0.5, 0.9):
        place = (1 - time) * noise + time * values
        slope = ((values - noise) * place).sum((0, 1)) / place.square().sum((0, 1))
        with torch.no_grad():
            said = prior(place, torch.full((200,), time), window([9] * 200, 9), torch.zeros(200, 1, CONDITION_DIM))
        torch.testing.assert_close(said, slope * place, atol=0.2, rtol=0.1)


def test_untrained_its_latents_have_the_deviations_of_the_corpus() -> None:
    prior = exact(0.005, 0.25, 2.0)
    prior.steps = 40
    made, _ = sampled(prior, n=300, condition=None, until_stop=False)
    frames = made[..., :DIMS].flatten(0, 1)
    torch.testing.assert_close(frames.std(0), torch.tensor([0.5, 1.0, 2.0]), atol=0, rtol=0.08)
    torch.testing.assert_close(frames.mean(0), torch.linspace(-1, 2, DIMS), atol=0.1, rtol=0)


def test_known_frames_are_seen_with_deviation_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the network reads of a known frame is the value over its deviation, at every time."""
    prior = exact(0.005, 0.25, 2.0)
    read: list[Tensor] = []
    monkeypatch.setattr(prior.read, "forward", lambda x: (read.append(x), torch.zeros(*x.shape[:2], SMALL["width"]))[1])
    clean = numbers(1, 2, DIMS)
    given = window([2], 2, torch.ones(1, 2, dtype=torch.bool), clean)
    for time in (0.1, 0.9):
        prior(numbers(1, 2, DIMS, seed=3), torch.tensor([time]), given, torch.zeros(1, 1, CONDITION_DIM))
    assert prior.deviation is not None
    shown = [one[0, 0, : 2 * (DIMS + 1)].reshape(2, DIMS + 1)[:, :DIMS] for one in read]
    for one in shown:
        torch.testing.assert_close(one, clean[0] / prior.deviation)


def test_regions_leave_something_to_learn() -> None:
    torch.manual_seed(0)
    lengths = torch.randint(1, 10, (500,))
    given, suffix = torch.rand(500) < 0.7, torch.rand(500) < 0.5
    known = regions(lengths, 9, given, suffix)
    inside = torch.arange(9) < lengths[:, None]
    assert not (known & ~inside).any()
    assert (inside & ~known).any(1).all()
    assert not known[~given].any()
    last = known.gather(1, lengths[:, None] - 1)[:, 0]
    assert not last[~suffix].any()
    assert last[given & suffix].any()
    for row in inside & ~known:
        at = row.nonzero()[:, 0]
        assert at[-1] - at[0] + 1 == len(at), "one region"
    assert known[:, 0].any()


def test_times_are_spread_evenly() -> None:
    trained = FlowMatching(conditioned(), time_mean=0.5, time_deviation=0.8)
    times = torch.cat([trained.times(torch.rand(()), 32) for _ in range(200)])
    logits = torch.logit(times)
    assert float(logits.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(logits.std()) == pytest.approx(0.8, abs=0.03)
    assert (trained.times(torch.tensor(0.5), 8).diff() > 0).all()


class _Toy:
    """Two labels: a rises and is short, b falls and is long; with a little noise."""

    def batch(self, step: int, rank: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([step, rank])
        label = rng.integers(1, 3, 32)
        lengths = np.where(label == 1, 4, 8)
        at = np.arange(8)[None, :, None] / lengths[:, None, None]
        mean = np.where(label == 1, 1.0, -1.0)[:, None, None] * (2 * at - 0.8) * np.ones(LATENT_DIM)
        mean = (mean + 0.1 * rng.standard_normal(mean.shape)).astype(np.float32)
        flags = np.ones(32, bool)
        return {
            "mean": mean,
            "log_variance": np.full_like(mean, -5.0),
            "lengths": lengths,
            "begins": flags,
            "ends": flags,
            "label": label,
        }


def learn(folder: Path, steps: int) -> tuple[LabelledPrior[Any], Outcome]:
    model = conditioned()
    prior = model.prior
    assert isinstance(prior, ClipFlow)
    prior.standardiser.mean.zero_()
    prior.standardiser.deviation.fill_(0.7)
    prior.keep_lengths(np.repeat([4, 8], 10), np.repeat([1, 2], 10), 2)
    settings = TrainingConfig.model_validate(
        {
            "objective": {"kind": "flow-matching"},
            "steps": steps,
            "batch_size": 32,
            "learning_rate": 0.004,
            "final_learning_rate": 0.0001,
            "validations": 2,
            "validation_batches": 1,
        }
    )
    outcome = train(
        FlowMatching(model),
        (_Toy(), _Toy()),
        settings,
        folder,
        name="toy",
        seed=0,
        conduct=Conduct(torch.device("cpu"), Silent()),
    )
    model.load_state_dict(outcome.tensors)
    return model.eval(), outcome


def test_a_toy_is_learned(tmp_path: Path) -> None:
    model, outcome = learn(tmp_path, 300)
    prior = model.prior
    assert isinstance(prior, ClipFlow)
    prior.steps = 8
    for label, length, sign in ((1, 4, 1.0), (2, 8, -1.0)):
        with torch.no_grad():
            condition = model.condition(torch.tensor([label]))
        latents, stopped = sampled(prior, n=64, max_frames=20, until_stop=True, label=label, condition=condition)
        assert ((~stopped).sum(1) == length).all()
        course = sign * (2 * np.arange(length) / length - 0.8)
        active = latents[:, :, ACTIVE]
        np.testing.assert_allclose(active.mean((0, 2)), course, atol=0.2)
        assert 0.03 < float(active.std(0).mean()) < 0.4
        # The first half of a sequence is continued with the second.
        prompt = torch.from_numpy(course[: length // 2]).float()[None, :, None].expand(1, -1, LATENT_DIM)
        rest, _ = sampled(prior, n=64, max_frames=length - length // 2, prompt=prompt, condition=condition)
        np.testing.assert_allclose(rest[:, :, ACTIVE].mean((0, 2)), course[length // 2 :], atol=0.25)
    assert outcome.figures["loss"] < 1.0


def test_a_training_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = learn(tmp_path / "one", 6)[1], learn(tmp_path / "other", 6)[1]
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


# -- in a run --------------------------------------------------------------------------------------------------------


def test_its_kind_alone_suffices() -> None:
    completed = build.complete(load_preset("smoke", ["prior.network.kind=clip-flow"]))
    assert completed.prior.head is None
    assert completed.train_prior.objective.kind == "flow-matching"


@pytest.mark.parametrize(
    "text",
    [
        "prior.network.width=25",
        "prior.network.layers=0",
        "prior.network.guided_from=0.9",
        "prior.network.information=-1",
        "train_prior.objective.given=-1",
    ],
)
def test_a_value_that_does_not_fit_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match=text.split("=")[0].split(".")[-1]):
        build.build_sequence(config(text), build.build_prior(config(text), 4, 4, []))


def clips_of(loaded: LoadedRun, seed: int) -> list[Generated]:
    """Two clips of their own length."""
    return loaded.generate_clips(2, until_stop=True, label="7", seed=seed)


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
    result = pipeline.train_prior(
        run, name="flow", overrides=[*WORDS, "train_prior.frames=12", "train_prior.steps=6"], compute=CPU
    )
    assert result["labels"] == ["3", "7"]
    assert math.isfinite(result["figures"]["loss"])
    assert pipeline.info(run)["priors"]["flow"]["network"] == "clip-flow"
    loaded = LoadedRun.open(run, prior="flow", device="cpu")
    clips = loaded.generate_clips(6, until_stop=True, label="7", seed=1, guidance=1.5)
    assert all(clip.stopped and np.isfinite(clip.waveform).all() and clip.waveform.any() for clip in clips)
    latents = load_latents(loaded.run)[0]
    records = [latents.records[index] for index in latents.indices("train")]
    assert {len(clip.latents) for clip in clips} <= {r.length for r in records if r.extra["label"] == "7"}
    long = loaded.generate_clips(1, seconds=3.0, label="3:7")[0]
    assert len(long.waveform) == 3 * loaded.sample_rate, "one sequence of the asked length"
    assert not long.stopped
    # No training clip is as long: clips follow each other, and the first is what the seed gives without a length.
    row, alone = loaded.generate_clips(2, seconds=3.0, label="7", seed=3), clips_of(loaded, seed=3)
    for clip, first in zip(row, alone, strict=True):
        assert len(clip.waveform) == 3 * loaded.sample_rate
        assert len(first.latents) < len(clip.latents)
        np.testing.assert_array_equal(clip.latents[: len(first.latents)], first.latents)
    seed = clips[0].waveform
    continued = loaded.generate_clips(2, seconds=0.3, seed_audio=seed, label="7")
    for clip in continued:
        assert clip.join is not None
        assert len(clip.waveform) == len(seed) + round(0.3 * loaded.sample_rate)
        early = clip.join - 400
        np.testing.assert_array_equal(clip.waveform[:early], seed[:early])
    with pytest.raises(ConfigError, match="knows no top_p"):
        loaded.generate(1, seconds=0.3, top_p=0.5)
    assert loaded.prior is not None
    source = SequenceSource(latents, "train", loaded.labels, 32, 8, seed=0)
    trained = FlowMatching(loaded.prior)
    ready = Batch({name: torch.from_numpy(array) for name, array in source.batch(0).items()}, 0.5)
    assert trained.losses(ready)["prior"].total.isfinite()


# -- labels in time ----------------------------------------------------------------------------------------------------


def test_every_frame_has_its_condition() -> None:
    prior = flow()
    changing = numbers(2, 9, CONDITION_DIM, seed=7)
    made = torch.cat(
        [chunk.latents for chunk in prior.sample(SamplingRequest(n=2, max_frames=9, condition=changing))], 1
    )
    seen: list[Tensor] = []
    forward = prior.forward

    def record(place: Tensor, time: Tensor, window: Window, condition: Tensor) -> Tensor:
        seen.append(condition)
        return forward(place, time, window, condition)

    prior.forward = record  # type: ignore[method-assign]
    again = torch.cat(
        [chunk.latents for chunk in prior.sample(SamplingRequest(n=2, max_frames=9, condition=changing))], 1
    )
    assert torch.equal(made, again)
    assert all(torch.equal(condition, changing[:1]) or torch.equal(condition, changing[1:]) for condition in seen)


def test_sequences_of_a_batch_may_have_lengths_of_their_own() -> None:
    prior = flow()
    changing, lengths = numbers(3, 40, CONDITION_DIM, seed=7), torch.tensor([40, 5, 17])
    request = SamplingRequest(n=3, max_frames=40, condition=changing, lengths=lengths, seed=5)
    chunks = list(prior.sample(request))
    latents, stopped = torch.cat([c.latents for c in chunks], 1), torch.cat([c.stopped for c in chunks], 1)
    assert (~stopped).sum(1).tolist() == lengths.tolist()
    alone = replace(request, n=2, max_frames=5, condition=changing[:2], lengths=torch.tensor([5, 5]))
    second = torch.cat([chunk.latents for chunk in prior.sample(alone)], 1)[1]
    torch.testing.assert_close(latents[1, :5], second, atol=1e-4, rtol=1e-4)


def test_labels_in_time_begin_after_a_prompt() -> None:
    prior = flow()
    changing, bare = numbers(1, 6, CONDITION_DIM, seed=7), numbers(1, CONDITION_DIM, seed=8)
    prompt = numbers(1, 4, LATENT_DIM, seed=9)
    request = SamplingRequest(n=1, max_frames=6, condition=changing, unconditional=bare, prompt=prompt)
    given = prior._condition(request, torch.tensor([0]), range(-4, 6))
    assert torch.equal(given[:, :4], bare[:, None].expand(-1, 4, -1))
    assert torch.equal(given[:, 4:], changing)
