"""The objective `sequence`: weights of frames, and groups of similar length."""

import math
from dataclasses import replace

import members
import pytest
import torch
from torch import nn

from actseq.objectives.base import Batch
from actseq.objectives.sequence import SequenceLikelihood
from actseq.priors.labels import LabelledPrior

LATENT_DIM, DIMS, LENGTHS = 5, 3, [9, 2, 5, 1, 7]


def model(condition: str = "everywhere") -> LabelledPrior:
    torch.manual_seed(0)
    prior = members.prior("lstm", "gaussian", latent_dim=LATENT_DIM, n_active=DIMS, condition=condition)
    return LabelledPrior(prior, ["a", "b"], nn.Embedding(3, 8))


def batch(begins: bool = True) -> Batch:
    n, generator = len(LENGTHS), torch.Generator().manual_seed(1)
    mean = torch.randn((n, max(LENGTHS), LATENT_DIM), generator=generator)
    previous = torch.randn((n, LATENT_DIM), generator=generator)
    data = {
        "mean": mean,
        "log_variance": torch.full_like(mean, -math.inf),
        "previous_mean": previous,
        "previous_log_variance": torch.full_like(previous, -math.inf),
        "lengths": torch.tensor(LENGTHS),
        "begins": torch.full((n,), begins),
        "ends": torch.tensor([True, True, False, True, False]),
        "label": torch.tensor([0, 1, 2, 1, 2]),
    }
    return Batch(data, 0.0)


def by_hand(given: LabelledPrior, told: Batch, balance: float, start_weight: float) -> float:
    """The weighted mean of the loss per value, sequence by sequence."""
    data, prior, total, weights = told.data, given.prior, 0.0, 0.0
    with torch.no_grad():
        values = prior.standardiser.standardise(data["mean"])
        previous = prior.standardiser.standardise(data["previous_mean"])
        for i, length in enumerate(LENGTHS):
            own = values[i : i + 1, :length]
            condition, begins = given.condition(data["label"][i : i + 1]), data["begins"][i : i + 1]
            said = prior.forward(own, condition, previous[i : i + 1], begins).numbers[:, :-1]
            for t, loss in enumerate(-prior.head.log_prob(said, own)[0]):
                early = 1 + (start_weight - 1) / 2**t if begins else 1.0
                weight = length**-balance * early
                total, weights = total + weight * float(loss), weights + weight
    return total / weights / DIMS / math.log(2)


@pytest.mark.parametrize("condition", ["everywhere", "input"])
@pytest.mark.parametrize("begins", [True, False])
def test_frames_weigh_what_the_keys_say(condition: str, begins: bool) -> None:
    given, told = model(condition), batch(begins)
    for balance, start_weight in ((0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (0.0, 4.0), (0.5, 3.0)):
        objective = SequenceLikelihood(
            given, label_dropout=0.0, input_noise=0.0, balance=balance, start_weight=start_weight
        )
        found = float(objective.losses(told)["prior"].figures["bits_per_dim"])
        assert found == pytest.approx(by_hand(given, told, balance, start_weight), rel=1e-4)
        # Held-out figures can be compared, whatever the weights.
        assert float(objective.validate(told)["bits_per_dim"]) == pytest.approx(by_hand(given, told, 0, 1), rel=1e-4)


def test_padding_and_order_change_nothing() -> None:
    objective, told = SequenceLikelihood(model(), label_dropout=0.0, input_noise=0.0, balance=0.5), batch()
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = {name: values[order] for name, values in told.data.items()}
    shuffled["mean"] = torch.cat([shuffled["mean"], torch.full((5, 4, LATENT_DIM), 1e3)], dim=1)
    shuffled["log_variance"] = torch.full_like(shuffled["mean"], -math.inf)
    found = [objective.losses(one)["prior"].total for one in (told, replace(told, data=shuffled))]
    torch.testing.assert_close(found[0], found[1])
