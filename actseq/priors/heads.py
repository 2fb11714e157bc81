"""Heads: distributions of the next standardised latent frame."""

import itertools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from actseq.errors import require
from actseq.priors.base import Sampling

LOG_DEVIATION_MIN, LOG_DEVIATION_MAX = -5.0, 2.0
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def _bounded(raw: Tensor) -> Tensor:
    """Log-deviation within its bounds, with a slope that is never zero."""
    middle, half = (LOG_DEVIATION_MAX + LOG_DEVIATION_MIN) / 2, (LOG_DEVIATION_MAX - LOG_DEVIATION_MIN) / 2
    return middle + half * torch.tanh((raw - middle) / half)


def normal(shape: tuple[int, ...], sampling: Sampling, generator: torch.Generator, device: torch.device) -> Tensor:
    """Noise of deviation 1, clamped, times its temperature."""
    noise = torch.randn(shape, generator=generator, device=device)
    if sampling.noise_clamp is not None:
        # Draws from the truncated normal distribution, by quantiles. Clipping would pile up values at the bounds.
        half = math.erf(sampling.noise_clamp / math.sqrt(2))
        noise = torch.erfinv(torch.erf(noise / math.sqrt(2)) * half) * math.sqrt(2)
    return noise * sampling.of_noise


class Gaussian(nn.Module):
    """`gaussian`: independent dimensions given the past.

    Args:
        dims: values per latent frame.
    """

    controls = ("temperature", "noise_temperature", "bias", "noise_clamp")

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.n_params, self.n_choices = 2 * dims, (0, 0)

    def log_prob(
        self, numbers: Float[Tensor, "*batch n_params"], value: Float[Tensor, "*batch dims"]
    ) -> Float[Tensor, "*batch"]:
        """Log-density in nats."""
        mean, raw = numbers.chunk(2, dim=-1)
        log_deviation = _bounded(raw)
        z = (value - mean) * (-log_deviation).exp()
        return (-0.5 * z.square() - log_deviation - HALF_LOG_TAU).sum(-1)

    def sample(
        self, numbers: Float[Tensor, "batch n_params"], sampling: Sampling, generator: torch.Generator
    ) -> Float[Tensor, "batch dims"]:
        """One draw for each row."""
        noise = normal((len(numbers), self.n_params // 2), sampling, generator, numbers.device)
        return self.drawn(numbers, noise, noise.new_zeros(len(numbers), 0, 0), sampling)

    def drawn(
        self,
        numbers: Float[Tensor, "batch n_params"],
        noise: Float[Tensor, "batch dims"],
        preference: Float[Tensor, "batch choices components"],
        sampling: Sampling,
    ) -> Float[Tensor, "batch dims"]:
        """As `sample`, from random numbers that are given; see `DrawsFromNoise.drawn`."""
        mean, raw = numbers.chunk(2, dim=-1)
        return mean + noise * _bounded(raw).exp()


class Mixture(nn.Module):
    """`mixture`: Gaussian components with correlated dimensions.

    A value v of component k fulfils v = mean + T_k v + deviation · noise with a strictly lower triangular matrix T_k.
    Mean and deviation depend on the past, T_k is learned once. With `blocks`, the dimensions are drawn in groups, and a
    small network conditions each group on the groups before it.

    Args:
        dims: values per latent frame.
        n_components: Gaussian components of each block.
        blocks: groups of dimensions, each drawn given those before it. More are sharper, and slower to sample.
        hidden: width of the networks between blocks.
        dropout: fraction of their values that is dropped in training.
        correlated: whether T_k is learned; otherwise it is 0, and the dimensions of a component are independent.
    """

    controls = (
        "temperature",
        "mixture_temperature",
        "noise_temperature",
        "top_p",
        "bias",
        "noise_clamp",
    )

    def __init__(
        self,
        dims: int,
        *,
        n_components: int = 8,
        blocks: int = 1,
        hidden: int = 256,
        dropout: float = 0.1,
        correlated: bool = True,
    ) -> None:
        super().__init__()
        require(1, n_components=n_components, blocks=blocks, hidden=hidden)
        self.n_components, self.correlated = n_components, correlated
        blocks = min(blocks, dims)
        self.n_choices = blocks, n_components
        cuts = [round(dims * i / blocks) for i in range(blocks + 1)]
        self.slices = [slice(a, b) for a, b in itertools.pairwise(cuts)]
        sizes = [b - a for a, b in itertools.pairwise(cuts)]
        direct = [n_components * (1 + 2 * size) for size in sizes]
        contexts = [hidden] * blocks if blocks > 1 else []
        self.parts = contexts + direct
        self.n_params = sum(self.parts)
        kept = sizes if correlated else []
        self.triangle = nn.ParameterList(torch.zeros(n_components, size, size) for size in kept)
        self.drop = nn.Dropout(dropout)
        self.read, self.write, self.skip = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        if blocks > 1:
            self.write.extend(nn.Linear(hidden, n) for n in direct)
            # There is nothing before the first block.
            self.read.extend(nn.Linear(cut, hidden, bias=False) for cut in cuts[1:-1])
            for cut, n in zip(cuts[1:-1], direct[1:], strict=True):
                skip = nn.Linear(cut, n, bias=False)
                nn.init.zeros_(skip.weight)
                self.skip.append(skip)

    def _block(self, block: int, parts: tuple[Tensor, ...], before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (…, components), means and log-deviations (…, components, size) of a block after the values before."""
        n_blocks, size = len(self.slices), self.slices[block].stop - self.slices[block].start
        numbers = parts[-n_blocks + block]
        if n_blocks > 1:
            context = parts[block]
            if block:
                context = context + self.read[block - 1](before)
                numbers = numbers + self.skip[block - 1](before)
            numbers = numbers + self.write[block](self.drop(F.silu(context)))
        k = self.n_components
        logits, mean, raw = torch.split(numbers, [k, k * size, k * size], dim=-1)
        shape = (*logits.shape, size)
        return logits, mean.reshape(shape), _bounded(raw.reshape(shape))

    def log_prob(
        self, numbers: Float[Tensor, "*batch n_params"], value: Float[Tensor, "*batch dims"]
    ) -> Float[Tensor, "*batch"]:
        """Log-density in nats."""
        parts = torch.split(numbers, self.parts, dim=-1)
        total = torch.zeros((), device=value.device)
        for block, where in enumerate(self.slices):
            inside = value[..., where]
            logits, mean, log_deviation = self._block(block, parts, value[..., : where.start])
            own = inside[..., None, :]
            if self.correlated:
                own = own - (inside @ self.triangle[block].tril(-1).flatten(0, 1).T).reshape(mean.shape)
            z = (own - mean) * (-log_deviation).exp()
            component = (-0.5 * z.square() - log_deviation - HALF_LOG_TAU).sum(-1)
            total = total + torch.logsumexp(F.log_softmax(logits, dim=-1) + component, dim=-1)
        return total

    def sample(
        self, numbers: Float[Tensor, "batch n_params"], sampling: Sampling, generator: torch.Generator
    ) -> Float[Tensor, "batch dims"]:
        """One draw for each row."""
        n, device = len(numbers), numbers.device
        noise = normal((n, self.slices[-1].stop), sampling, generator, device)
        preference = [gumbel((n, self.n_components), sampling, generator, device) for _ in self.slices]
        return self.drawn(numbers, noise, torch.stack(preference, dim=1), sampling)

    def drawn(
        self,
        numbers: Float[Tensor, "batch n_params"],
        noise: Float[Tensor, "batch dims"],
        preference: Float[Tensor, "batch choices components"],
        sampling: Sampling,
    ) -> Float[Tensor, "batch dims"]:
        """As `sample`, from random numbers that are given; see `DrawsFromNoise.drawn`."""
        rows = torch.arange(len(numbers), device=numbers.device)
        parts, value = torch.split(numbers, self.parts, dim=-1), noise[:, :0]
        for block, where in enumerate(self.slices):
            logits, mean, log_deviation = self._block(block, parts, value)
            chosen = choose(logits, preference[:, block], sampling)
            own = mean[rows, chosen] + noise[:, where] * log_deviation[rows, chosen].exp()
            value = torch.cat([value, self._correlate(block, chosen, own) if self.correlated else own], dim=-1)
        return value

    def _correlate(self, block: int, chosen: Tensor, own: Tensor) -> Tensor:
        """The v of (1 − T_k) v = own, for the chosen components k."""
        triangle = self.triangle[block].tril(-1)[chosen]
        if not torch.onnx.is_in_onnx_export():
            # The triangular solver assumes ones on the diagonal.
            solve = torch.linalg.solve_triangular
            found: Tensor = solve(-triangle, own[..., None], upper=False, unitriangular=True)
            return found.squeeze(-1)
        solved = own[:, :1]  # ONNX has no such solver
        for row in range(1, own.shape[1]):
            here = own[:, row] + (triangle[:, row, :row] * solved).sum(1)
            solved = torch.cat([solved, here[:, None]], dim=1)
        return solved


def gumbel(shape: tuple[int, ...], sampling: Sampling, generator: torch.Generator, device: torch.device) -> Tensor:
    """Gumbel noise times the temperature of the choice between components."""
    uniform = torch.rand(shape, generator=generator, device=device).clamp(1e-9, 1 - 1e-7)
    return -torch.log(-torch.log(uniform)) * sampling.of_components


def draw_component(
    logits: Float[Tensor, "batch components"], sampling: Sampling, generator: torch.Generator
) -> Int[Tensor, " batch"]:
    """Draw one component for each row."""
    return choose(logits, gumbel(tuple(logits.shape), sampling, generator, logits.device), sampling)


def choose(
    logits: Float[Tensor, "batch components"], preference: Float[Tensor, "batch components"], sampling: Sampling
) -> Int[Tensor, " batch"]:
    """The component of each row with the largest sum of logit and `preference`, which is noise from `gumbel`.

    Source: Gumbel, Statistical Theory of Extreme Values and Some Practical Applications (1954).
    """
    logits = logits * (1 + sampling.bias)
    if sampling.top_p < 1:
        probabilities, order = torch.softmax(logits, -1).sort(-1, descending=True)
        # Leave out components after the first that together have the probability; keep the most likely in any case.
        late = probabilities.cumsum(-1) - probabilities >= sampling.top_p
        late[:, 0] = False
        logits = logits.masked_fill(torch.zeros_like(late).scatter(-1, order, late), -math.inf)
    return (logits + preference).argmax(-1)
