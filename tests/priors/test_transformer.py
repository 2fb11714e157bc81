"""The `transformer` network against the papers' formulas, and what its window promises."""

import math

import numpy as np
import pytest
import torch

from actseq import build, registry
from actseq.config import Member
from actseq.errors import ConfigError
from actseq.priors.transformer import SLOWEST, Transformer

CPU = torch.device("cpu")


def network(**options: int) -> Transformer:
    """Weights large enough to matter."""
    torch.manual_seed(0)
    made = Transformer(**({"width": 16, "inner": 24, "layers": 2, "heads": 4, "window": 5} | options)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def normalised(x: np.ndarray, norm: torch.nn.LayerNorm) -> np.ndarray:
    centred = x - x.mean()
    return centred / math.sqrt((centred**2).mean() + 1e-5) * norm.weight.double().numpy() + norm.bias.double().numpy()


def linear(x: np.ndarray, layer: torch.nn.Linear) -> np.ndarray:
    out = layer.weight.double().numpy() @ x
    return out if layer.bias is None else out + layer.bias.double().numpy()


def by_the_papers(made: Transformer, inputs: np.ndarray, heads: int, memory_heads: int, window: int) -> np.ndarray:
    """Position by position, head by head; a pair of numbers is turned by a matrix of its position."""
    x, size = inputs.astype(np.float64), inputs.shape[1] // heads
    frequency = SLOWEST ** -np.linspace(0, 1, size // 2)

    def turned(vector: np.ndarray, position: int) -> np.ndarray:
        out = np.empty_like(vector)
        for i, angle in enumerate(position * frequency):
            turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            out[2 * i : 2 * i + 2] = turn @ vector[2 * i : 2 * i + 2]
        return out

    for layer in made.layers:
        rows = [linear(normalised(row, layer.before), layer.qkv).reshape(-1, size) for row in x]
        after = []
        for t, row in enumerate(rows):
            attended = []
            for head in range(heads):
                own = heads + head * memory_heads // heads
                past = range(max(0, t - window + 1), t + 1)
                score = np.array([turned(row[head], t) @ turned(rows[s][own], s) for s in past]) / math.sqrt(size)
                weight = np.exp(score) / np.exp(score).sum()
                attended.append(sum(w * rows[s][own + memory_heads] for w, s in zip(weight, past, strict=True)))
            y = x[t] + linear(np.concatenate(attended), layer.out)
            inner = linear(normalised(y, layer.between), layer.up)
            after.append(y + linear(inner / (1 + np.exp(-inner)), layer.down))
        x = np.stack(after)
    return np.stack([normalised(row, made.norm) for row in x])


@pytest.mark.parametrize("memory_heads", [1, 2, 4])
@torch.no_grad()
def test_it_is_what_the_papers_say(memory_heads: int) -> None:
    made, inputs = network(memory_heads=memory_heads), noise(1, 13, 16)
    expected = torch.from_numpy(by_the_papers(made, inputs[0].numpy(), 4, memory_heads, 5)).float()
    torch.testing.assert_close(made.forward(inputs, made.init_state(1, CPU))[0][0], expected, atol=2e-5, rtol=1e-5)
    state = made.init_state(2, CPU)
    for t in range(13):
        hidden, state = made.step(inputs[:, t].expand(2, -1), state)
        torch.testing.assert_close(hidden, expected[t].expand(2, -1), atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_a_position_sees_its_window_and_no_more() -> None:
    made, inputs = network(layers=1), noise(1, 20, 16)
    moved = inputs.clone()
    moved[:, 9] += noise(16, seed=1)
    change = (made.forward(moved, made.init_state(1, CPU))[0] - made.forward(inputs, made.init_state(1, CPU))[0]).abs()
    assert change[0].amax(1).gt(1e-4).tolist() == [9 <= t < 14 for t in range(20)]
    assert not change[0, :9].any()
    assert not change[0, 14:].any()


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 5, 8, 64])
def test_pieces_of_any_length_make_the_whole(window: int) -> None:
    made, inputs = network(window=window), noise(2, 40, 16)
    whole, _ = made.forward(inputs, made.init_state(2, CPU))
    state, said, begin = made.init_state(2, CPU), [], 0
    for length in (1, 3, 5, 12, 2, 6, 11):
        hidden, state = made.forward(inputs[:, begin : begin + length], state)
        said.append(hidden)
        begin += length
        assert state[1] == begin
    torch.testing.assert_close(torch.cat(said, 1), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_after_hours_a_step_is_exact() -> None:
    """What two layers see of a stream are the last 2 · window frames; a position does not mind how late it is."""
    hours, more = 200_000, 6
    made = network(window=64, heads=1)
    inputs = noise(1, hours + more, 16)
    _, state = made.forward(inputs[:, :hours], made.init_state(1, CPU))
    assert state[1] == hours
    for t in range(hours, hours + more):
        hidden, state = made.step(inputs[:, t], state)
        fresh, _ = made.forward(inputs[:, t - 128 : t + 1], made.init_state(1, CPU))
        torch.testing.assert_close(hidden, fresh[:, -1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_was_never_written_is_never_read() -> None:
    made, inputs = network(), noise(1, 9, 16)
    expected, _ = made.forward(inputs, made.init_state(1, CPU))
    memory, _ = made.init_state(1, CPU)
    state = (torch.full_like(memory, math.nan), 0)
    for t in range(3):
        hidden, state = made.step(inputs[:, t], state)
        torch.testing.assert_close(hidden, expected[:, t], atol=1e-5, rtol=1e-5)
    hidden, _ = made.forward(inputs[:, 3:], state)
    torch.testing.assert_close(hidden, expected[:, 3:], atol=1e-5, rtol=1e-5)


def test_dropout_is_for_training() -> None:
    made, inputs = network(), noise(1, 6, 16)
    fresh = made.init_state(1, CPU)
    assert torch.equal(made(inputs, fresh)[0], made(inputs, fresh)[0])
    made = Transformer(width=16, inner=24, layers=2, heads=4, window=5, dropout=0.5).train()
    assert not torch.equal(made(inputs, fresh)[0], made(inputs, fresh)[0])


@pytest.mark.parametrize(
    ("options", "named"),
    [({"heads": 5}, "width"), ({"heads": 3, "memory_heads": 2}, "memory_heads"), ({"window": 0}, "window")],
)
def test_sizes_that_do_not_fit_are_named(options: dict[str, int], named: str) -> None:
    member = Member(kind="transformer", **({"width": 12} | options))
    with pytest.raises(ConfigError, match=f"transformer: {named} is"):
        build.construct(registry.PRIOR_NETWORKS, member, "prior.network")
