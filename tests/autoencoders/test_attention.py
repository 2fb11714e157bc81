"""Local attention in blocks against all frames with all frames, in numpy."""

import numpy as np
import pytest
import torch

from actseq.modules.attention import LocalAttention

WIDTH, HEADS = 12, 3


def awake(radius: int) -> LocalAttention:
    """No weight is left at zero."""
    torch.manual_seed(radius)
    layer = LocalAttention(WIDTH, radius, HEADS)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return layer.double()


def dense(layer: LocalAttention, x: np.ndarray, length: int) -> np.ndarray:
    """x + attention of one clip, by the definition."""
    weights = {name: value.detach().numpy() for name, value in layer.state_dict().items()}
    centred = x - x.mean(1, keepdims=True)
    normed = centred / np.sqrt(x.var(1, keepdims=True) + 1e-5) * weights["norm.weight"] + weights["norm.bias"]
    queries, keys, values = np.split(normed @ weights["qkv.weight"].T + weights["qkv.bias"], 3, axis=1)
    frames, size = np.arange(length), WIDTH // HEADS
    distance = frames - frames[:, None]
    near = np.abs(distance) <= layer.radius
    heads = []
    for h in range(HEADS):
        own = slice(h * size, (h + 1) * size)
        scores = queries[:, own] @ keys[:, own].T / np.sqrt(size)
        scores += weights["bias"][h, np.clip(distance, -layer.radius, layer.radius) + layer.radius]
        shares = np.where(near, np.exp(scores - scores.max(1, keepdims=True)), 0)
        heads.append(shares / shares.sum(1, keepdims=True) @ values[:, own])
    return x + np.concatenate(heads, axis=1) @ weights["out.weight"].T + weights["out.bias"]


@pytest.mark.parametrize("radius", [1, 2, 5, 30])
def test_blocks_are_the_definition(radius: int) -> None:
    """Clips of all lengths in one batch, noise beyond each."""
    layer, lengths = awake(radius), [23, 20, 10, 5, 2, 1]
    batch = np.random.default_rng(0).standard_normal((len(lengths), 25, WIDTH))
    for row, length in zip(batch, lengths, strict=True):
        row[length:] *= 50
    mask = (np.arange(25) < np.array(lengths)[:, None])[..., None]
    with torch.no_grad():
        made = layer(torch.from_numpy(batch), torch.from_numpy(mask).double()).numpy()
    assert np.isfinite(made).all()
    for i, length in enumerate(lengths):
        np.testing.assert_allclose(made[i, :length], dense(layer, batch[i, :length], length), atol=1e-10)


def test_the_bias_of_a_distance_is_that_of_its_side() -> None:
    """With one distance made overwhelming, a frame takes the values of the frame there and nothing else."""
    layer, x = awake(3), torch.randn(1, 12, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        values = layer.qkv(layer.norm(x))[..., 2 * WIDTH :]
        for distance in (-3, -1, 0, 2, 3):
            layer.bias.zero_()
            layer.bias[:, distance + 3] = 1e4
            made = layer(x, torch.ones(1, 12, 1, dtype=torch.float64))[0, 5]
            torch.testing.assert_close(made, x[0, 5] + layer.out(values[0, 5 + distance]))


def test_it_starts_as_nothing() -> None:
    layer, x = LocalAttention(WIDTH, 4, HEADS), torch.randn(2, 9, WIDTH)
    assert torch.equal(layer(x, torch.ones(2, 9, 1)), x)
