"""The contract of a prior: what is asked of it, and the chunks of latents that it answers with."""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actseq.errors import ConfigError

State = Any
"""A network's memory: a tuple of tensors, the batch along axis 1, and of plain numbers. Passed in and returned, never kept;
a step may write over the memory of the state that it is given."""


@dataclass(frozen=True)
class Sampling:
    """How to draw from what was learned; the defaults draw from just that.

    Attributes:
        temperature: of the choice among components and of the noise; 0 takes the likeliest.
        mixture_temperature: of the choice among components alone; None: `temperature`.
        noise_temperature: factor to the deviation of the noise alone; None: `temperature`.
        top_p: choose among the likeliest components that together have this probability.
        bias: b ≥ 0 sharpens: logits of components times 1 + b, deviations times exp(−b).
        noise_clamp: the noise is kept within so many deviations (drawn again from the normal cut off there); None: all of it.
        guidance: 1 follows the condition as learned, more exaggerates what sets it apart from no condition, 0 ignores it.

    Sources: Holtzman et al. 2020 (top-p); Graves 2013, section 5.4 (bias); Ho, Salimans 2022 (guidance).
    """

    temperature: float = 1.0
    mixture_temperature: float | None = None
    noise_temperature: float | None = None
    top_p: float = 1.0
    bias: float = 0.0
    noise_clamp: float | None = None
    guidance: float = 1.0

    @property
    def of_components(self) -> float:
        """Temperature of the choice among components."""
        return self.temperature if self.mixture_temperature is None else self.mixture_temperature

    @property
    def of_noise(self) -> float:
        """Factor to the deviation of the noise, `bias` included."""
        factor = self.temperature if self.noise_temperature is None else self.noise_temperature
        return factor * math.exp(-self.bias)

    def require_supported(self, known: Collection[str], who: str) -> None:
        """Refuse what a prior cannot do.

        Raises:
            ConfigError: a control other than `known` is not at its default.
        """
        set_to = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        foreign = [name for name in set_to if name not in known]
        if foreign:
            raise ConfigError(
                f"{who} knows no {' nor '.join(foreign)}",
                f"only {', '.join(known)}" if known else "no sampling controls",
                "leave it out, or use another prior",
            )


PLAIN = Sampling()


@dataclass(frozen=True)
class SamplingRequest:
    """What to sample.

    Attributes:
        n: sequences, made as one batch.
        max_frames: latent frames at most, the prompt not counted.
        min_frames: the prior may not end earlier; without a prompt there is at least one frame.
        until_stop: let the prior end sequences; otherwise each has `max_frames`.
        condition: (n, condition_dim), or None for no condition.
        condition_end: (n, condition_dim) to glide to, in a straight line over `max_frames`; None stays.
        unconditional: (1, condition_dim), the condition that says nothing; for guidance.
        prompt: (n, prompt_frames, latent_dim) to continue from, or one for all; None starts from nothing.
        sampling: how to draw.
        seed: of the random numbers.
        chunk_frames: latent frames handed out at a time.
    """

    n: int
    max_frames: int
    min_frames: int = 1
    until_stop: bool = False
    condition: Tensor | None = None
    condition_end: Tensor | None = None
    unconditional: Tensor | None = None
    prompt: Tensor | None = None
    sampling: Sampling = PLAIN
    seed: int = 0
    chunk_frames: int = 64

    def condition_at(self, frame: int) -> Tensor | None:
        """(n, condition_dim) for a frame from the first new one on."""
        if self.condition is None or self.condition_end is None:
            return self.condition
        return torch.lerp(self.condition, self.condition_end, min(1.0, frame / max(1, self.max_frames - 1)))


@dataclass(frozen=True)
class Chunk:
    """A piece of n growing sequences.

    Attributes:
        latents: (n, frames, latent_dim).
        stopped: (n, frames); True from the frame on that no longer belongs to the sequence.
    """

    latents: Float[Tensor, "n frames latent_dim"]
    stopped: Bool[Tensor, "n frames"]


@runtime_checkable
class Prior(Protocol):
    """Anything that makes sequences of latents."""

    latent_dim: int

    @property
    def has_likelihood(self) -> bool:
        """Whether it is a `DensityPrior` whose `log_prob` can be used."""

    @property
    def controls(self) -> tuple[str, ...]:
        """Attributes of `Sampling` that mean something to it."""

    def sample(self, request: SamplingRequest) -> Iterator[Chunk]:
        """Chunks in time order, until all sequences have stopped or `max_frames` is reached."""


@runtime_checkable
class DensityPrior(Prior, Protocol):
    """A prior that can have a likelihood."""

    def log_prob(
        self,
        latents: Float[Tensor, "batch frames latent_dim"],
        lengths: Int[Tensor, " batch"],
        condition: Float[Tensor, "batch condition_dim"] | None = None,
    ) -> Float[Tensor, "batch frames"]:
        """Log-density in nats of each latent frame given those before; 0 beyond `lengths`."""


@runtime_checkable
class CausalNetwork(Protocol):
    """A causal network over inputs (batch, frames, input_dim): it gives one hidden vector a position."""

    input_dim: int
    hidden_dim: int

    def init_state(self, batch: int, device: torch.device) -> State:
        """The state before anything was consumed."""

    def forward(
        self, inputs: Float[Tensor, "batch positions input_dim"], state: State
    ) -> tuple[Float[Tensor, "batch positions hidden_dim"], State]:
        """All positions at once."""

    def step(
        self, inputs: Float[Tensor, "batch input_dim"], state: State
    ) -> tuple[Float[Tensor, "batch hidden_dim"], State]:
        """One position; the same numbers as `forward`."""


@runtime_checkable
class Head(Protocol):
    """A distribution over the next latent, given a hidden vector."""

    n_params: int
    """Number of its parameters; a linear map from the hidden vector makes them."""
    controls: tuple[str, ...]
    """Attributes of `Sampling` that mean something to it."""

    def sample(
        self, numbers: Float[Tensor, "batch n_params"], sampling: Sampling, generator: torch.Generator
    ) -> Float[Tensor, "batch dims"]:
        """One draw each."""


@runtime_checkable
class DensityHead(Head, Protocol):
    """A head with a likelihood: training minimises −`log_prob`."""

    def log_prob(
        self, numbers: Float[Tensor, "*batch n_params"], value: Float[Tensor, "*batch dims"]
    ) -> Float[Tensor, "*batch"]:
        """Log-density in nats."""


@runtime_checkable
class LossHead(Head, Protocol):
    """A head without a likelihood: training minimises `loss`."""

    def loss(
        self, numbers: Float[Tensor, "*batch n_params"], value: Float[Tensor, "*batch dims"]
    ) -> Float[Tensor, "*batch"]:
        """Loss of each value."""


class Standardiser(nn.Module):
    """The informative dimensions of the latents, at zero mean and unit deviation."""

    mean: Tensor
    deviation: Tensor
    active: Tensor

    def __init__(self, latent_dim: int, n_active: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("mean", torch.zeros(n_active))
        self.register_buffer("deviation", torch.ones(n_active))
        self.register_buffer("active", torch.arange(n_active))

    def standardise(self, latents: Float[Tensor, "*batch latent_dim"]) -> Float[Tensor, "*batch dims"]:
        """Latents → standardised active dimensions."""
        return (latents[..., self.active] - self.mean) / self.deviation

    def restore(
        self, values: Float[Tensor, "*batch dims"], generator: torch.Generator
    ) -> Float[Tensor, "*batch latent_dim"]:
        """Back to latents; what carries no information is drawn from N(0, 1)."""
        latents = torch.randn((*values.shape[:-1], self.latent_dim), generator=generator, device=values.device)
        latents[..., self.active] = values * self.deviation + self.mean
        return latents
