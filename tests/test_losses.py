"""Losses against plain loops, divergences and cells against torch's own, statistics against numpy."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from actseq import losses
from actseq.autoencoders.base import Posterior
from actseq.autoencoders.bottlenecks import Variational
from actseq.modules.frames import frame_mask
from actseq.priors.recurrent import Gru, Lstm
from actseq.representations.base import Features
from actseq.representations.normaliser import Normaliser

LENGTHS = (7, 1, 4)


def pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output, target (3, 5, 9) and what is inside; outside the lengths they differ wildly."""
    output, target = torch.randn((2, 3, 5, 9), generator=torch.Generator().manual_seed(0))
    inside = frame_mask(torch.tensor(LENGTHS), 9)
    return output + 1e3 * ~inside[:, None], target, inside


def test_mask_is_true_inside() -> None:
    assert frame_mask(torch.tensor([2, 0, 3]), 3).tolist() == [[True, True, False], [False] * 3, [True] * 3]


def test_l1_is_a_loop() -> None:
    output, target, inside = pair()
    total, count = 0.0, 0
    for row, length in enumerate(LENGTHS):
        for frame in range(length):
            for channel in range(5):
                total += abs(float(output[row, channel, frame]) - float(target[row, channel, frame]))
                count += 1
    assert float(losses.masked_l1(output, target, inside)) == pytest.approx(total / count, rel=1e-5)


def test_delta_l1_is_a_loop() -> None:
    output, target, inside = pair()
    error = (output - target).numpy()
    steps = [
        abs(error[row, channel, frame + 1] - error[row, channel, frame])
        for row, length in enumerate(LENGTHS)
        for frame in range(length - 1)
        for channel in range(5)
    ]
    assert float(losses.masked_delta_l1(output, target, inside)) == pytest.approx(np.mean(steps), rel=1e-5)
    single = frame_mask(torch.tensor([1, 1, 1]), 9)
    assert float(losses.masked_delta_l1(output, target, single)) == 0


def test_kl_is_torchs() -> None:
    mean, log_variance = torch.randn((2, 3, 9, 4), generator=torch.Generator().manual_seed(1))
    posterior = Posterior(mean, log_variance, torch.tensor(LENGTHS))
    kl = posterior.kl()
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(torch.zeros(()), torch.ones(())))
    assert kl is not None
    torch.testing.assert_close(kl, expected, atol=1e-5, rtol=1e-5)
    inside = frame_mask(torch.tensor(LENGTHS), 9)
    rows = np.concatenate([expected[i, :n].numpy() for i, n in enumerate(LENGTHS)])
    np.testing.assert_allclose(losses.kl_per_dimension(kl, inside), rows.mean(0), rtol=1e-5)


def test_draws_follow_the_posterior() -> None:
    log_variance = torch.tensor([-4.0, 0.0, 1.0]).expand(1, 20000, 3)
    mean = torch.tensor([3.0, 0.0, -2.0]).expand(1, 20000, 3)
    torch.manual_seed(0)
    draw = Posterior(mean, log_variance, torch.tensor([20000])).sample().values[0]
    np.testing.assert_allclose(draw.mean(0), [3, 0, -2], atol=0.05)
    np.testing.assert_allclose(draw.std(0), np.exp([-2, 0, 0.5]), rtol=0.03)


def test_variational_halves_and_bounds() -> None:
    numbers = torch.tensor([[[1.0, 2.0, -50.0, 50.0]]])
    posterior = Variational(len(numbers[0, 0]) // 2, min_log_variance=-6.0).encode(numbers, torch.tensor([1]))
    assert posterior.mean.tolist() == [[[1, 2]]]
    assert posterior.log_variance is not None
    assert posterior.log_variance.tolist() == [[[-6, 4]]]


def test_free_bits_charge_and_pull_only_above_the_floor() -> None:
    kl = torch.tensor([0.0, 0.1, 0.5, 2.0], requires_grad=True)
    loss = losses.free_bits(kl, 0.25)
    assert float(loss.detach()) == pytest.approx((0.25 + 0.25 + 0.5 + 2.0) / 4)
    loss.backward()
    assert kl.grad is not None
    np.testing.assert_allclose(kl.grad, [0, 0, 0.25, 0.25])


@pytest.mark.parametrize("layers", [1, 3])
def test_cells_are_torchs_modules(layers: int) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(4, 11, 6)
    for ours in (Lstm(width=6, layers=layers), Gru(width=6, layers=layers)):
        cell_type = nn.LSTMCell if isinstance(ours, Lstm) else nn.GRUCell
        cells = []
        for layer in range(layers):
            cell = cell_type(6, 6)
            for name, parameter in cell.named_parameters():
                parameter.data.copy_(getattr(ours.rnn, f"{name}_l{layer}"))
            cells.append(cell)
        state = ours.init_state(4, torch.device("cpu"))
        assert not any(part.any() for part in state)
        expected: list = [None] * layers
        with torch.no_grad():
            whole, last = ours.forward(inputs, state)
            for t in range(11):
                value = inputs[:, t]
                hidden, state = ours.step(value, state)
                for layer, cell in enumerate(cells):
                    expected[layer] = cell(value, expected[layer])
                    value = expected[layer][0] if isinstance(ours, Lstm) else expected[layer]
                torch.testing.assert_close(hidden, value, atol=1e-6, rtol=1e-5)
                torch.testing.assert_close(hidden, whole[:, t], atol=1e-6, rtol=1e-5)
        for stepped, fused in zip(state, last, strict=True):
            assert stepped.shape == (layers, 4, 6)
            torch.testing.assert_close(stepped, fused, atol=1e-6, rtol=1e-5)


def ragged() -> list[Features]:
    """Two batches far from zero; beyond the lengths there is nonsense."""
    generator = torch.Generator().manual_seed(3)
    out = []
    for lengths in ((7, 1, 4), (9, 2)):
        values = torch.randn((len(lengths), 5, 9), generator=generator) * torch.arange(1, 6)[:, None] - 300
        values += 1e6 * ~frame_mask(torch.tensor(lengths), 9)[:, None]
        out.append(Features(values, torch.tensor(lengths)))
    return out


def test_normaliser_is_numpys_over_what_is_real() -> None:
    batches = ragged()
    normaliser = Normaliser(5, log_magnitude=True)
    normaliser.fit(batches)
    frames = np.concatenate(
        [
            features.values[i, :, :n].double().numpy().T
            for features in batches
            for i, n in enumerate(features.lengths.tolist())
        ]
    )
    np.testing.assert_allclose(normaliser.mean[:, 0], frames.mean(0), rtol=1e-6)
    assert float(normaliser.deviation) == pytest.approx(math.sqrt(frames.var(0).mean()), rel=1e-4)
    assert float(normaliser.bounds[0]) == pytest.approx(frames.min(), rel=1e-6)
    assert float(normaliser.bounds[1]) == pytest.approx(frames.max() + 1, rel=1e-6)
    scaled = normaliser.normalise(torch.from_numpy(frames.T[None]).float())[0].numpy()
    np.testing.assert_allclose(scaled.mean(1), 0, atol=1e-4)
    assert scaled.var(1).mean() == pytest.approx(1, rel=1e-4)


def test_what_is_no_logarithm_may_be_twice_as_large() -> None:
    values = torch.tensor([[[0.5, -3.0, 1.0]]])
    normaliser = Normaliser(1, log_magnitude=False)
    normaliser.fit([Features(values, torch.tensor([3]))])
    assert normaliser.restore(torch.tensor([[[-1e9, 1e9]]])).tolist() == [[[-6.0, 6.0]]]
    torch.testing.assert_close(normaliser.restore(normaliser.normalise(2 * values)), 2 * values)


def test_normaliser_restores_what_lies_within_its_bounds() -> None:
    batches = ragged()
    normaliser = Normaliser(5, log_magnitude=True)
    normaliser.fit(batches)
    inside = batches[0].values[:1, :, :7]
    torch.testing.assert_close(normaliser.restore(normaliser.normalise(inside)), inside, atol=1e-3, rtol=0)
    wild = normaliser.restore(torch.tensor([-1e9, 1e9]).expand(1, 5, 2))[0]
    assert (wild[:, 0] == normaliser.bounds[0]).all()
    assert (wild[:, 1] == normaliser.bounds[1]).all()
    unfitted = Normaliser(5, log_magnitude=True)
    assert torch.equal(unfitted.restore(unfitted.normalise(inside)), inside)


def test_normaliser_survives_features_that_never_change() -> None:
    normaliser = Normaliser(2, log_magnitude=True)
    normaliser.fit([Features(torch.full((1, 2, 4), -11.5), torch.tensor([4]))])
    assert normaliser.normalise(torch.full((1, 2, 4), -11.5)).abs().max() < 1e-2
