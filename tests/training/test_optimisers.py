"""Which weights learn by which optimiser, and how far a step of each goes."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from actseq.config import TrainingConfig
from actseq.objectives.base import Batch, Loss
from actseq.training.learner import Learner
from actseq.training.optimisers import optimisers_of

RATE, MUON_RATE = 0.01, 3.0


class Stack(nn.Module):
    """Two layers between a first and a last one; both layers hold a matrix, a bias, and a matrix of few rows."""

    monitor = "loss"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read, self.write = nn.Linear(20, 32), nn.Linear(32, 20)
        self.small = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
        self.layers = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(32, 48), "down": nn.Linear(48, 32), "few": nn.Linear(32, 4)})
            for _ in range(2)
        )

    def exported(self) -> nn.Module:
        return self

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"model": list(self.parameters())}

    def losses(self, batch: Batch) -> dict[str, Loss]:
        x = self.small(self.read(torch.sin(torch.arange(200.0)).reshape(10, 20)))
        for layer in self.layers:
            x = x + layer["down"](torch.tanh(layer["up"](x))) + layer["few"](x).sum()
        return {"model": Loss(self.write(x).square().mean())}

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": torch.zeros(())}


def settings(muon_rate: float | None) -> TrainingConfig:
    return TrainingConfig(steps=10, batch_size=1, learning_rate=RATE, muon_rate=muon_rate)


def stepped(learner: Learner, steps: int) -> None:
    for step in range(steps):
        losses = learner.losses(Batch({}, 0.0))
        learner.step({name: learner.backward(name, loss, step) for name, loss in losses.items()}, RATE, step)


def test_matrices_of_stacked_layers_learn_by_muon() -> None:
    stack = Stack()
    found = optimisers_of(stack, stack.parameters(), settings(MUON_RATE))
    names = {id(parameter): name for name, parameter in stack.named_parameters()}
    of = {kind: {names[id(p)] for g in each.param_groups for p in g["params"]} for kind, each in found.items()}
    assert of["muon"] == {f"layers.{layer}.{name}.weight" for layer in (0, 1) for name in ("up", "down")}
    assert of["muon"] | of["adamw"] == set(names.values())
    assert not of["muon"] & of["adamw"]


def test_without_a_rate_everything_learns_by_adamw() -> None:
    assert list(optimisers_of(Stack(), Stack().parameters(), settings(None))) == ["adamw"]


def test_a_group_of_matrices_alone_has_no_other_optimiser() -> None:
    stack = Stack()
    assert list(optimisers_of(stack, [stack.layers[0]["up"].weight], settings(MUON_RATE))) == ["muon"]


def test_a_step_of_muon_is_an_orthogonal_matrix_of_the_size_of_a_step_of_adamw() -> None:
    learner = Learner(Stack(), settings(MUON_RATE), torch.device("cpu"))
    weight = learner.objective.layers[0]["up"].weight  # type: ignore[attr-defined]
    before = weight.detach().clone()
    losses = learner.losses(Batch({}, 0.0))
    gradients = {name: learner.backward(name, loss, 0) for name, loss in losses.items()}
    own = weight.grad.detach().double()
    learner.step(gradients, RATE, 0)
    change = (before - weight.detach()).double()
    sizes = torch.linalg.svdvals(change) / (RATE * MUON_RATE * 0.2 * 48**0.5)
    # The gradient has rank 10, the number of rows of the batch; five turns make its singular values 1 ± 0.35.
    rank = int(torch.linalg.matrix_rank(own, rtol=1e-3))
    assert 1 < rank <= 10
    assert 0.5 < float(sizes[0]) < 1.35
    left, _, right = torch.linalg.svd(own)
    across = left[:, :rank].T @ change @ right[:rank].T
    assert float(across.trace() / across.norm() / rank**0.5) > 0.9


def test_a_training_goes_on_as_if_it_had_not_stopped() -> None:
    whole = Learner(Stack(), settings(MUON_RATE), torch.device("cpu"))
    stepped(whole, 3)
    kept = copy.deepcopy(whole.state())
    stepped(whole, 2)
    again = Learner(Stack(), settings(MUON_RATE), torch.device("cpu"))
    again.load_state(kept)
    stepped(again, 2)
    for name, value in whole.state().items():
        assert torch.equal(value, again.state()[name]), name
    assert any(name.startswith("optimiser.model-muon.") for name in kept)


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_rate_is_above_zero(rate: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="muon_rate"):
        settings(rate)
