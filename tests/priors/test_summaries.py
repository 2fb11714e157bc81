"""Summaries of clips: what they are, which are kept, and that new clips follow them."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from actseq import build
from actseq.config import Config, load_preset
from actseq.objectives.base import Batch
from actseq.objectives.flow_matching import FlowMatching
from actseq.priors.base import SamplingRequest
from actseq.priors.clip_flow import N_LENGTHS, ClipFlow
from actseq.priors.labels import LabelledPrior
from actseq.priors.summaries import N_SUMMARIES, Summaries, TrainingClip

DIMS, SIZE, CONDITION_DIM, FRAMES = 3, 2, 8, 12
SMALL = {"kind": "clip-flow", "width": 24, "layers": 2, "heads": 2, "inner": 32, "steps": 2, "summary": SIZE}


def config() -> Config:
    network = f"prior.network={json.dumps(SMALL)}"
    return build.complete(load_preset("smoke", [network, "prior.head=null", f"train_prior.frames={FRAMES}"]))


def clips() -> list[TrainingClip]:
    """Forty clips of two labels. Their levels grow with their lengths, and b is longer and louder."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(40):
        label, length = 1 + i % 2, 2 + i // 8 + 5 * (i % 2)
        level = length * torch.tensor([1.0, -0.5, 0.0])
        latents = level + 0.3 * torch.randn(length, DIMS, generator=generator)
        made.append(TrainingClip(latents, label, True))
    return made


def fitted() -> Summaries:
    summaries = Summaries(DIMS, SIZE, 0.3)
    summaries.fit(((clip, [clip.latents]) for clip in clips()), 2)
    return summaries


def conditioned() -> LabelledPrior[ClipFlow]:
    torch.manual_seed(0)
    model = build.build_prior(config(), DIMS, DIMS, ["a", "b"]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.prior.standardiser.mean.copy_(torch.tensor([6.0, -3.0, 0.0]))
    model.prior.standardiser.deviation.copy_(torch.tensor([3.0, 1.5, 0.5]))
    model.prior.keep_lengths(np.array([len(c.latents) for c in clips()]), np.array([c.label for c in clips()]), 2)
    model.prior.keep_summaries(clips(), 2)
    return model


def test_they_are_principal_components_of_mean_and_deviation() -> None:
    summaries, made = fitted(), clips()
    raw = np.array([np.concatenate([c.latents.mean(0), np.sqrt(c.latents.numpy().var(0) + 1e-4)]) for c in made])
    centred = (raw - raw.mean(0)).astype(np.float64)
    values, axes = np.linalg.eigh(centred.T @ centred / len(raw))
    expected = centred @ axes[:, ::-1][:, :SIZE] / np.sqrt(values[::-1][:SIZE])
    found = torch.cat(
        [summaries.summarise(c.latents[None], torch.ones(1, len(c.latents), dtype=torch.bool)) for c in made]
    )
    signs = np.sign((found.numpy() * expected).sum(0))
    np.testing.assert_allclose(found, expected * signs, atol=1e-3)
    np.testing.assert_allclose(found.square().mean(0), 1, atol=1e-3)


def test_padding_is_not_looked_at() -> None:
    summaries, latents = fitted(), clips()[-1].latents
    for fill in (0.0, 1e3, math.nan):
        padded = torch.cat([latents, torch.full((3, DIMS), fill)])[None]
        found = summaries.summarise(padded, (torch.arange(len(latents) + 3) < len(latents))[None])
        alone = summaries.summarise(latents[None], torch.ones(1, len(latents), dtype=torch.bool))
        torch.testing.assert_close(found, alone)


def test_a_place_belongs_to_a_clip_of_the_length_in_that_place() -> None:
    prior, own = conditioned().prior, clips()
    assert prior.summaries is not None
    for label in (1, 2):
        by_length: dict[int, list[Tensor]] = {}
        for clip in own:
            values = prior.standardiser.standardise(clip.latents)[None]
            summary = prior.summaries.summarise(values, torch.ones(1, len(clip.latents), dtype=torch.bool))[0]
            if clip.label == label:
                by_length.setdefault(len(clip.latents), []).append(summary)
        for place in range(N_LENGTHS):
            choices = torch.stack(by_length[int(prior.likely_lengths[label, place])])
            assert float((choices - prior.summaries.kept[label, place]).abs().amax(1).min()) < 1e-4


def test_pieces_of_recordings_are_kept_only_where_a_label_has_no_whole_clip() -> None:
    made = clips()
    pieces = [TrainingClip(c.latents + 50, 1, False) for c in made[:4]]
    summaries = Summaries(DIMS, SIZE, 0.3)
    summaries.fit(((clip, [clip.latents]) for clip in made + pieces), 2)
    inside = torch.ones(1, len(pieces[0].latents), dtype=torch.bool)
    piece = summaries.summarise(pieces[0].latents[None], inside)[0]
    assert (summaries.kept[1] - piece).abs().amax(1).min() > 0.5
    summaries.fit(((clip, [clip.latents]) for clip in pieces), 2)
    assert bool(summaries.kept[1].any())
    torch.testing.assert_close(summaries.kept[2], summaries.kept[0])


def test_the_noise_has_the_deviation_that_was_asked_for() -> None:
    summaries = fitted()
    noised = summaries.noised(torch.zeros(2000, SIZE), torch.randn(2000, SIZE))
    assert float(noised[:, :SIZE].std()) == pytest.approx(0.3, abs=0.02)
    assert (noised[:, SIZE] == 1).all()
    assert not summaries.unknown(3).any()


def sampled(prior: ClipFlow, **given: int | Tensor | None) -> Tensor:
    request = {"n": 3, "max_frames": 9, "until_stop": False, "label": 1, "seed": 5} | given
    return torch.cat([chunk.latents for chunk in prior.sample(SamplingRequest(**request))], 1)  # type: ignore[arg-type]


def test_new_clips_follow_the_summaries_of_their_label() -> None:
    prior = conditioned().prior
    assert prior.summaries is not None
    before = sampled(prior)
    assert torch.equal(before, sampled(prior)), "the same seed, the same summary"
    prompt = torch.zeros(1, 2, DIMS)
    continued = sampled(prior, prompt=prompt)
    condition = torch.zeros(3, CONDITION_DIM)
    gliding = sampled(prior, condition=condition, condition_end=condition + 1)
    prior.summaries.kept[2] += 1
    assert torch.equal(before, sampled(prior)), "summaries of another label do not matter"
    prior.summaries.kept[1] += 1
    assert not torch.equal(before, sampled(prior))
    assert torch.equal(continued, sampled(prior, prompt=prompt)), "a recording says what follows it"
    assert torch.equal(gliding, sampled(prior, condition=condition, condition_end=condition + 1))


def test_a_clip_does_not_depend_on_how_many_there_are() -> None:
    prior = conditioned().prior
    torch.testing.assert_close(sampled(prior, n=1)[0], sampled(prior, n=3)[0])


def test_they_are_loaded_with_the_weights() -> None:
    model = conditioned()
    again = build.build_prior(config(), DIMS, DIMS, ["a", "b"]).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(sampled(model.prior), sampled(again.prior))
    assert model.prior.summaries is not None
    assert model.prior.summaries.kept.shape == (3, N_SUMMARIES, SIZE)


def test_training_gives_them_and_sometimes_leaves_them_out() -> None:
    model = conditioned()
    made = clips()[:8]
    frames = max(len(clip.latents) for clip in made)
    mean = torch.stack([torch.nn.functional.pad(c.latents, (0, 0, 0, frames - len(c.latents))) for c in made])
    flags = torch.ones(8, dtype=torch.bool)
    lengths, labels = torch.tensor([len(c.latents) for c in made]), torch.tensor([c.label for c in made])
    data = {"mean": mean, "log_variance": torch.full_like(mean, -3.0), "lengths": lengths, "label": labels}
    data |= {"begins": flags, "ends": flags}
    window = model.prior.window(data, model.prior.standardiser.standardise(mean), 0.5)
    assert window.summary is not None
    assert set(window.summary[:, SIZE].tolist()) == {0.0, 1.0}
    assert not window.summary[window.summary[:, SIZE] == 0].any()
    loss = FlowMatching(model).losses(Batch(data, 0.5))["prior"].total
    loss.backward()
    assert model.prior.summary is not None
    assert model.prior.summary.weight.grad is not None
    assert bool(model.prior.summary.weight.grad.any())


def test_latents_of_few_active_dimensions_have_shorter_summaries() -> None:
    network = f"prior.network={json.dumps(SMALL | {'summary': 12})}"
    wide = build.complete(load_preset("smoke", [network, "prior.head=null"]))
    prior = build.build_prior(wide, DIMS, DIMS, ["a", "b"]).prior.eval()
    prior.keep_lengths(np.array([len(c.latents) for c in clips()]), np.array([c.label for c in clips()]), 2)
    prior.keep_summaries(clips(), 2)
    assert prior.summaries.kept.shape == (3, N_SUMMARIES, 2 * DIMS)
    assert sampled(prior).isfinite().all()
