"""Outlines: which windows are kept, what follows what, and that long sequences follow them."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from actseq import build
from actseq.config import load_preset
from actseq.priors.base import SamplingRequest
from actseq.priors.clip_flow import ClipFlow
from actseq.priors.outline import Outline
from actseq.priors.summaries import TrainingClip

DIMS, SIZE, FRAMES, ROOM = 3, 2, 8, 24
NETWORK = {"kind": "clip-flow", "width": 24, "layers": 2, "heads": 2, "inner": 32, "steps": 2, "summary": SIZE}


def recording(label: int, *values: float, whole: bool = False) -> tuple[int, Tensor, bool]:
    return label, torch.tensor([[float(value), -float(value)] for value in values]), whole


def outline(room: int = 12) -> Outline:
    kept = Outline(SIZE, room)
    kept.keep([recording(1, 0, 1, 2), recording(1, 10, 11), recording(2, 5, 6, 7), recording(2, 20)])
    return kept


def course(kept: Outline, label: int, windows: int, share: float = 0.0) -> list[float]:
    places = [kept.begin(label, share)]
    while len(places) < windows:
        places.append(kept.after(places[-1], label, share))
    return kept.kept[places][:, 0].tolist()


def test_windows_follow_each_other_as_in_their_recording() -> None:
    assert course(outline(), 1, 3) == [0, 1, 2]
    assert course(outline(), 2, 3) == [5, 6, 7]


def test_a_recording_that_ends_goes_on_behind_a_similar_window_of_its_own() -> None:
    # Of the windows before the last, that with 1 is nearest to it, then that with 0.
    assert course(outline(), 1, 4) == [0, 1, 2, 2]
    assert course(outline(), 1, 4, share=0.99)[-1] == 11, "it begins in the other recording and stays in it"
    assert set(course(outline(), 2, 40)) == {5, 6, 7}
    assert course(outline(), 2, 4, share=0.99) == [20, 20, 20, 20], "a recording of a single window"


def test_a_sound_that_ends_begins_at_the_first_window_of_a_recording_of_its_length() -> None:
    kept = Outline(SIZE, 16)
    whole = [recording(1, *values, whole=True) for values in ((0, 1, 2), (10, 11), (20, 21))]
    kept.keep([*whole, recording(1, 30, 31, 32, 33), recording(2, 5, 6, 7)])

    def starts(label: int, n: int, longer: bool = False) -> set[float]:
        return {float(kept.kept[kept.whole(label, share, n, longer=longer), 0]) for share in (0.0, 0.3, 0.6, 0.99)}

    assert [starts(1, n) for n in (1, 2, 3, 9)] == [{10, 20}, {10, 20}, {0}, {0}], "a cut recording is not followed"
    assert [starts(1, n, longer=True) for n in (1, 2, 3, 9)] == [{0, 10, 20}, {0, 10, 20}, {0}, {0}]
    assert starts(0, 3) == {0}, "no label"
    assert starts(2, 3) == {5, 6, 7}, "a texture may begin anywhere"
    assert [kept.has_whole(label) for label in (0, 1, 2, 3)] == [True, True, False, True]
    assert not Outline(SIZE, 4).has_whole(0)
    assert Outline(SIZE, 4).whole(0, 0.5, 1) == -1


def test_a_recording_that_the_room_cuts_does_not_count_as_whole() -> None:
    kept = Outline(SIZE, 5)
    kept.keep([recording(1, 0, 1, 2, whole=True), recording(1, 10, 11, 12, whole=True)])
    assert kept.next.tolist() == [1, 2, -2, 4, -1]
    assert float(kept.kept[kept.whole(1, 0.99, 2), 0]) == 0


def test_what_is_continued_may_be_like_any_recording_of_the_label() -> None:
    assert float(outline().kept[outline().behind(torch.tensor([9.0, -9.0]), 1, 0.0), 0]) == 11
    assert float(outline().kept[outline().behind(torch.tensor([9.0, -9.0]), 2, 0.0), 0]) == 7


def test_without_a_label_all_windows_count_and_an_unknown_label_takes_them_too() -> None:
    starts = {float(outline().kept[outline().begin(0, share), 0]) for share in (0.0, 0.3, 0.6, 0.99)}
    assert len(starts) == 4
    assert outline().begin(3, 0.5) == outline().begin(0, 0.5)


def test_labels_share_the_room() -> None:
    kept = outline(room=7)
    assert kept.labels.tolist() == [1, 1, 1, 2, 2, 2, 1]
    assert kept.next.tolist() == [1, 2, -1, 4, 5, -1, -1], "a recording that is cut has no window after its last"


def test_single_windows_alone_follow_each_other() -> None:
    kept = Outline(SIZE, 4)
    kept.keep([recording(1, 3), recording(1, 4)])
    assert course(kept, 1, 3) == [3, 3, 3]


def clips() -> list[TrainingClip]:
    generator = torch.Generator().manual_seed(0)
    levels = [torch.linspace(-1, 1, 30), torch.linspace(2, 4, 30)]
    return [
        TrainingClip(levels[i % 2][:, None] + 0.2 * torch.randn(30, DIMS, generator=generator), 1 + i % 2, False)
        for i in range(6)
    ]


def prior(room: int = ROOM) -> ClipFlow:
    torch.manual_seed(0)
    network = json.dumps(NETWORK | {"outline": room})
    config = load_preset("smoke", [f"prior.network={network}", "prior.head=null", f"train_prior.frames={FRAMES}"])
    made: ClipFlow = build.build_prior(build.complete(config), DIMS, DIMS, ["a", "b"]).prior.eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    made.keep_summaries(clips(), 2)
    return made


def sampled(model: ClipFlow, **given: int | Tensor | None) -> Tensor:
    request = {"n": 2, "max_frames": 30, "label": 1, "seed": 5} | given
    return torch.cat([chunk.latents for chunk in model.sample(SamplingRequest(**request))], 1)  # type: ignore[arg-type]


def test_training_clips_are_cut_into_windows_half_a_window_apart() -> None:
    model = prior()
    assert model.outline is not None
    assert model.summaries is not None
    assert (model.outline.labels >= 0).sum() == min(ROOM, 6 * 7)
    clip = clips()[0]
    window = clip.latents[None, FRAMES // 2 : FRAMES // 2 + FRAMES]
    expected = model.summaries.summarise(window, torch.ones(1, FRAMES, dtype=torch.bool))[0]
    torch.testing.assert_close(model.outline.kept[1], expected)


def test_every_window_of_a_long_sequence_follows_the_outline() -> None:
    model = prior()
    assert model.outline is not None
    before = sampled(model)
    assert torch.equal(before, sampled(model))
    for share in range(2):
        rows = (model.outline.labels == 2 - share).nonzero()[:, 0]
        model.outline.kept[rows] += 1
        changed = (sampled(model) != before).any(2).any(0)
        # The other label's windows do not matter; those of the own label change each block.
        assert changed.all() if share else not changed.any()


def notes(*frames: int) -> list[TrainingClip]:
    return [
        TrainingClip(torch.linspace(-1, 1 + level, n)[:, None].expand(n, DIMS), 1, True)
        for level, n in enumerate(frames)
    ]


def followed(model: ClipFlow, **given: int | Tensor | None) -> list[int]:
    """Windows that change a clip when they change."""
    assert model.outline is not None
    kept, before, found = model.outline.kept.clone(), sampled(model, n=1, **given), []
    for row in range(int((model.outline.labels >= 0).sum())):
        model.outline.kept[row] += 1
        if not torch.equal(sampled(model, n=1, **given), before):
            found.append(row)
        model.outline.kept.copy_(kept)
    return found


def test_a_sequence_that_ends_follows_a_recording_of_its_length() -> None:
    model = prior()
    model.keep_summaries(notes(30, 18), 2)
    for n, rows in ((18, range(7, 11)), (30, range(7))):
        lengths = {"until_stop": True, "lengths": torch.tensor([n]), "max_frames": n}
        assert followed(model, **lengths) == list(rows)
    assert followed(model, max_frames=30, ends=True) == list(range(7)), "a length that is asked for"
    begun = {followed(model, max_frames=18, ends=True, seed=seed)[0] for seed in range(8)}
    assert begun == {0, 7}, "any recording that is long enough"
    assert {followed(model, max_frames=18, seed=seed)[0] for seed in range(8)} - {0, 7}, "a texture begins anywhere"
    cut = {"until_stop": True, "lengths": torch.tensor([30]), "max_frames": 18}
    assert followed(model, **cut) == list(range(4)), "the beginning of a long one"
    prompt = torch.ones(1, FRAMES, DIMS)
    assert [bool(followed(model, max_frames=FRAMES, prompt=prompt, ends=ends)) for ends in (True, False)] == [
        False,
        True,
    ]
    assert followed(model, max_frames=18, prompt=prompt, ends=True)


def test_all_recordings_of_a_length_are_followed() -> None:
    model = prior()
    model.keep_summaries(notes(18, 18, 18), 2)
    model.keep_lengths(np.array([18] * 3), np.ones(3, int), 2)
    found = {tuple(followed(model, until_stop=True, max_frames=18, seed=seed)) for seed in range(12)}
    assert found == {(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)}
    # The choice among recordings of one length does not follow from the choice of the length.
    model.keep_summaries(notes(*[n for n in (18, 22) for _ in range(2)]), 2)
    model.keep_lengths(np.array([18, 18, 22, 22]), np.ones(4, int), 2)
    found = {tuple(followed(model, until_stop=True, max_frames=22, seed=seed)) for seed in range(24)}
    assert len(found) == 4


def test_a_sequence_of_one_window_follows_the_summary_of_a_clip() -> None:
    model = prior()
    assert model.outline is not None
    before = sampled(model, max_frames=FRAMES)
    model.outline.kept += 1
    assert torch.equal(before, sampled(model, max_frames=FRAMES))


def test_a_prompt_says_where_the_outline_begins() -> None:
    model = prior()
    low, high = (sampled(model, prompt=torch.full((1, FRAMES, DIMS), level), label=0) for level in (-1.0, 3.0))
    assert not torch.equal(low, high)
    assert model.outline is not None
    model.outline.kept[(model.outline.labels == 2)] += 1
    again = [sampled(model, prompt=torch.full((1, FRAMES, DIMS), level), label=0) for level in (-1.0, 3.0)]
    assert torch.equal(low, again[0]), "its windows have label 1"
    assert not torch.equal(high, again[1])


def test_a_glide_follows_both_labels() -> None:
    model = prior()
    assert model.outline is not None
    condition = torch.zeros(2, model.condition_dim)
    glide = {"condition": condition, "condition_end": condition + 1, "label_end": 2}
    before = sampled(model, **glide)  # type: ignore[arg-type]
    for label, first in ((1, True), (2, False)):
        kept = model.outline.kept.clone()
        model.outline.kept[model.outline.labels == label] += 1
        difference = (sampled(model, **glide) - before).abs().mean((0, 2))  # type: ignore[arg-type]
        model.outline.kept.copy_(kept)
        assert (difference[:FRAMES].mean() > difference[-FRAMES:].mean()) == first


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_neither_chunks_nor_the_number_of_clips_change_a_clip(chunk: int) -> None:
    model = prior()
    torch.testing.assert_close(sampled(model, chunk_frames=chunk)[:1], sampled(model, n=1))


def test_it_is_loaded_with_the_weights() -> None:
    model, other = prior(), prior()
    assert other.outline is not None
    other.outline.kept.zero_()
    other.load_state_dict(model.state_dict())
    assert torch.equal(sampled(model), sampled(other))


def test_it_needs_a_summary() -> None:
    with pytest.raises(ValueError, match="outline is 4 and summary 0"):
        ClipFlow(DIMS, DIMS, 4, FRAMES, outline=4)
