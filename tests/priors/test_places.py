"""Labels in time as numbers for each frame, and the condition vectors that they become."""

import math

import members
import numpy as np
import pytest
import torch
from torch import nn

from actseq.priors.labels import LabelledPrior, OneHot
from actseq.priors.places import N_PLACE, REACHES, frame_places, frame_rows
from actseq.priors.sequence import SequencePrior

RATE = 10.0
SPANS = [(0.0, 0.32, 2), (0.5, 0.9, 1)]


def test_a_frame_has_the_label_of_its_middle() -> None:
    # The middles of the frames are 0.05, 0.15, …; 0.35 and 0.45 lie in no span.
    assert frame_rows(SPANS, RATE, 0, 11).tolist() == [2, 2, 2, 0, 0, 1, 1, 1, 1, 0, 0]
    assert frame_rows(SPANS, RATE, 4, 3).tolist() == [0, 1, 1]
    assert frame_rows([(-1.0, 5.0, 3)], RATE, 0, 2).tolist() == [3, 3]
    assert frame_rows([], RATE, 0, 2).tolist() == [0, 0]


def test_a_frame_has_its_place_in_the_span() -> None:
    places = frame_places(SPANS, RATE, 0, 11)
    assert places.shape == (11, N_PLACE)
    assert (places[:, 0] == 1).all(), "it is known that there is a label, or none"
    assert (places[[3, 4, 9, 10], 1:] == 0).all()
    n = len(REACHES)
    # Frame 6 is 1.5 frames after the beginning of its span and 2.5 before the end.
    np.testing.assert_allclose(places[6, 1 : 1 + n], np.exp(-1.5 / np.array(REACHES)), rtol=1e-5)
    np.testing.assert_allclose(places[6, 1 + n : 1 + 2 * n], np.exp(-2.5 / np.array(REACHES)), rtol=1e-5)
    np.testing.assert_allclose(places[6, 1 + 2 * n], math.cos(math.pi * 1.5 / 4), rtol=1e-5)
    np.testing.assert_allclose(places[5:9, -1], math.log(4) - 2, rtol=1e-5)


def test_a_place_does_not_depend_on_where_the_window_begins() -> None:
    whole = frame_places(SPANS, RATE, 0, 11)
    np.testing.assert_array_equal(frame_places(SPANS, RATE, 3, 5), whole[3:8])


def labelled(timed: bool) -> LabelledPrior[SequencePrior]:
    torch.manual_seed(0)
    return LabelledPrior(members.prior("gru", "gaussian"), ["a", "b"], nn.Embedding(3, 4), 4 if timed else 0)


def test_label_and_place_make_the_condition_of_a_frame() -> None:
    model = labelled(timed=True)
    condition = model.condition_in_time([SPANS, []], RATE, 11)
    assert condition.shape == (2, 11, 4)
    assert model.place is not None
    place = torch.from_numpy(frame_places(SPANS, RATE, 0, 11))
    torch.testing.assert_close(condition[0, 6], model.table(torch.tensor(1)) + model.place(place[6]))
    assert (condition[0, 6] - condition[0, 7]).abs().max() > 1e-3
    torch.testing.assert_close(condition[1], (model.table(torch.tensor(0)) + model.place.weight[:, 0]).expand(11, -1))


@pytest.mark.parametrize("table", ["embedding", "one-hot"])
def test_a_prior_of_single_labels_uses_the_label_alone(table: str) -> None:
    model = labelled(timed=False)
    if table == "one-hot":
        model.table = OneHot(3)
    condition = model.condition_in_time([SPANS], RATE, 11)[0]
    rows = torch.from_numpy(frame_rows(SPANS, RATE, 0, 11))
    assert torch.equal(condition, model.condition(rows))


def test_what_is_not_shown_is_not_known() -> None:
    model = labelled(timed=True)
    rows, places = (torch.from_numpy(make(SPANS, RATE, 0, 6))[None] for make in (frame_rows, frame_places))
    data = {"frame_label": rows.repeat(3, 1), "frame_place": places.repeat(3, 1, 1), "label": torch.zeros(3).long()}
    flags = torch.tensor([True, True, False]), torch.tensor([True, False, True])
    made = model.condition_of(data, *flags)
    assert torch.equal(made[0], model.condition_of(data)[0])
    assert torch.equal(made[1], model.table(rows[0])), "the label without its place"
    assert torch.equal(made[2], model.table(torch.zeros(6).long()))
    assert torch.equal(model.condition_of({"label": torch.tensor([2])})[:, 0], model.condition(torch.tensor([2])))
