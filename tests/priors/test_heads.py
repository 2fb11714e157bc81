"""Heads against densities and moments worked out another way."""

import numpy as np
import pytest
import torch

from actseq.priors.base import Sampling
from actseq.priors.heads import Mixture


def mixture(dims: int, blocks: int) -> tuple[Mixture, torch.Tensor]:
    torch.manual_seed(dims + blocks)
    head = Mixture(dims, n_components=3, blocks=blocks, hidden=8).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return head, torch.randn(1, head.n_params)


@pytest.mark.parametrize("blocks", [1, 2])
@torch.no_grad()
def test_the_density_integrates_to_one_and_is_what_is_drawn(blocks: int) -> None:
    """Over a plane: total, means and covariance by the sum over a grid, against 60,000 draws."""
    head, numbers = mixture(2, blocks)
    at = torch.linspace(-30, 30, 701)
    grid = torch.cartesian_prod(at, at)
    density = head.log_prob(numbers.expand(len(grid), -1), grid).double().exp() * (at[1] - at[0]).double() ** 2
    assert float(density.sum()) == pytest.approx(1, abs=1e-3)
    mean = (density[:, None] * grid).sum(0)
    covariance = (density[:, None, None] * (grid - mean)[:, :, None] * (grid - mean)[:, None]).sum(0)
    drawn = head.sample(numbers.expand(60_000, -1), Sampling(), torch.Generator().manual_seed(0)).double()
    scale = covariance.diagonal().sqrt()
    assert float(((drawn.mean(0) - mean) / scale).abs().max()) < 0.02
    assert float(((drawn.T.cov() - covariance) / scale / scale[:, None]).abs().max()) < 0.03


@torch.no_grad()
def test_a_component_is_a_gaussian_with_a_full_covariance() -> None:
    """One component v = m + T v + s·e has the covariance (1 − T)⁻¹ s² (1 − T)⁻ᵀ and SciPy's log-density."""
    from scipy.stats import multivariate_normal

    torch.manual_seed(0)
    head = Mixture(4, n_components=1)
    head.triangle[0].data.normal_()
    numbers = torch.randn(1, head.n_params)
    mean, raw = numbers[0, 1:5].double().numpy(), numbers[0, 5:]
    deviation = (-1.5 + 3.5 * torch.tanh((raw + 1.5) / 3.5)).exp().double().numpy()
    inverse = np.linalg.inv(np.eye(4) - np.tril(head.triangle[0][0].double().numpy(), -1))
    reference = multivariate_normal(inverse @ mean, inverse @ np.diag(deviation**2) @ inverse.T)
    values = torch.randn(50, 4)
    np.testing.assert_allclose(head.log_prob(numbers.expand(50, -1), values), reference.logpdf(values), atol=1e-3)


@torch.no_grad()
def test_without_correlations_it_is_a_mixture_of_independent_dimensions() -> None:
    from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

    torch.manual_seed(0)
    head, numbers, values = Mixture(4, n_components=3, correlated=False), torch.randn(6, 27), torch.randn(6, 4)
    assert not list(head.parameters())
    logits, mean, raw = numbers.split([3, 12, 12], dim=-1)
    deviation = (-1.5 + 3.5 * torch.tanh((raw + 1.5) / 3.5)).exp()
    components = Independent(Normal(mean.reshape(6, 3, 4), deviation.reshape(6, 3, 4)), 1)
    reference = MixtureSameFamily(Categorical(logits=logits), components)
    torch.testing.assert_close(head.log_prob(numbers, values), reference.log_prob(values))
    drawn = head.sample(numbers[:1].expand(40_000, -1), Sampling(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), reference.mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.var(0), reference.variance[0], atol=0, rtol=0.06)


def test_blocks_are_told_what_came_before() -> None:
    head, numbers = mixture(6, 3)
    value = torch.randn(1, 6, requires_grad=True)
    head.log_prob(numbers, value).sum().backward()
    assert value.grad is not None
    assert bool((value.grad.abs() > 1e-6).all())
