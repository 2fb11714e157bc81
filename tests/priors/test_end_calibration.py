"""The calibration of ends, against chances that are known."""

import members
import numpy as np
import pytest
import torch
from torch import nn

from actseq.errors import TrainingError
from actseq.priors import end_calibration
from actseq.priors.base import SamplingRequest
from actseq.priors.labels import LabelledPrior


def lengths_of(hazard: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Draws, row by row in turn, from hazards of ending (rows, frames); what outlives them has one frame more."""
    rng = np.random.default_rng(seed)
    rows = hazard[np.arange(n) % len(hazard)]
    ended = np.concatenate([rng.random(rows.shape) < rows, np.ones((n, 1), bool)], axis=1)
    return ended.argmax(axis=1) + 1


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.5, -1.0), (1.6, 0.7)])
def test_a_known_slope_and_offset_are_found(slope: float, offset: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 1)) + np.linspace(-5, 4, 30) + rng.normal(size=(200, 30))
    made = np.repeat([1, 2], 100)
    logits[made == 2] -= 1.5
    lengths = np.concatenate(
        [lengths_of(1 / (1 + np.exp(-slope * logits[made == k] - offset)), 2000, k) for k in (1, 2)]
    )
    found = end_calibration.fit(logits, made, lengths, np.repeat([1, 2], 2000))
    assert found == pytest.approx((slope, offset), abs=0.15)


def test_a_prior_that_ends_too_early_is_mended() -> None:
    prior = members.prior("lstm", "mixture")
    prior.end.bias.data.fill_(1.0)
    model = LabelledPrior(prior, ["a", "b"], nn.Embedding(3, 8))
    wanted = np.clip(np.random.default_rng(0).geometric(0.1, 400), 2, 60)
    labels = np.resize([1, 2], 400)

    def mean_length() -> float:
        chunks = list(
            prior.sample(
                SamplingRequest(
                    n=400, max_frames=80, until_stop=True, condition=model.condition(torch.from_numpy(labels))
                )
            )
        )
        return float((~torch.cat([chunk.stopped for chunk in chunks], 1)).sum(1).float().mean())

    with torch.no_grad():
        before = mean_length()
        assert end_calibration.calibrate(model, wanted, labels, seed=0)
        after = mean_length()
    assert before < 4
    assert after == pytest.approx(wanted.mean(), rel=0.15)


def test_a_rare_label_does_not_switch_the_calibration_off() -> None:
    prior = members.prior("lstm", "mixture")
    prior.end.bias.data.fill_(1.0)
    model = LabelledPrior(prior, ["common", "rare"], nn.Embedding(3, 8))
    wanted = np.clip(np.random.default_rng(0).geometric(0.2, 1200), 2, 20)
    labels = np.array([1] * 1199 + [2])
    assert end_calibration.calibrate(model, wanted, labels, seed=0)
    slope, offset = prior.end_calibration.tolist()
    # The prior ends with a logit of about 1, the clips with a chance of one in five.
    assert 0.1 < 1 / (1 + np.exp(-slope - offset)) < 0.3


def test_a_prior_that_is_not_finite_is_not_called_calibrated() -> None:
    prior = members.prior("lstm", "mixture")
    prior.end.bias.data.fill_(np.nan)
    model = LabelledPrior(prior, ["a"], nn.Embedding(2, 8))
    with pytest.raises(TrainingError, match="ends cannot be calibrated"):
        end_calibration.calibrate(model, np.full(30, 5), np.ones(30, np.int64), seed=0)


def test_few_lengths_and_other_priors_are_left_alone() -> None:
    model = LabelledPrior(members.prior("lstm", "mixture"), ["a"], nn.Embedding(2, 8))
    few = np.full(end_calibration.SMALLEST - 1, 5)
    assert not end_calibration.calibrate(model, few, np.ones(len(few), np.int64), seed=0)
    assert model.prior.end_calibration.tolist() == [1.0, 0.0]
