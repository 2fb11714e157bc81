"""The contract of a prior, and the sequence prior: a causal network, a head over latents, and a hazard of ending.

Order of events: the state after consuming z_0 … z_{t−1} says first whether the sequence has ended with length t, and if it
has not, how z_t is distributed. Position 0 has consumed a learned start vector only. A sequence of T frames therefore has
T + 1 positions, the last of which can only say "ended".

A sequence prior lives in standardised coordinates of the dimensions that carry information; the others are drawn from
N(0, 1). All of that is kept in its buffers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

State = Any
"""A network's memory: a tensor, or a tuple of them, the batch along axis 1. Passed in and returned, never kept."""


@dataclass(frozen=True)
class Request:
    """What to sample.

    Attributes:
        n: sequences, made as one batch.
        max_frames: latent frames at most, the prompt not counted.
        min_frames: the prior may not end earlier; without a prompt there is at least one frame.
        until_stop: let the prior end sequences; otherwise each has `max_frames`.
        condition: (n, condition_dim), or None for no condition.
        prompt: (n, prompt_frames, latent_dim) to continue from, or None to start from nothing.
        temperature: 1 samples what was learned, 0 takes the likeliest.
        seed: of the random numbers.
        chunk_frames: latent frames handed out at a time.
    """

    n: int
    max_frames: int
    min_frames: int = 1
    until_stop: bool = False
    condition: Tensor | None = None
    prompt: Tensor | None = None
    temperature: float = 1.0
    seed: int = 0
    chunk_frames: int = 64


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

    def sample(self, request: Request) -> Iterator[Chunk]:
        """Chunks in time order, until all sequences have stopped or `max_frames` is reached."""


@runtime_checkable
class Network(Protocol):
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

    n_numbers: int
    """Of parameters; a linear map from the hidden vector makes them."""

    def log_prob(
        self, numbers: Float[Tensor, "*batch n_numbers"], value: Float[Tensor, "*batch dims"]
    ) -> Float[Tensor, "*batch"]:
        """Log-density in nats."""

    def sample(
        self, numbers: Float[Tensor, "batch n_numbers"], temperature: float, generator: torch.Generator
    ) -> Float[Tensor, "batch dims"]:
        """One draw each."""


@dataclass(frozen=True)
class Prediction:
    """What the network says at each position.

    Attributes:
        numbers: (batch, positions, n_numbers), parameters of the head for the next latent.
        end_logit: (batch, positions), hazard of having ended before it.
    """

    numbers: Float[Tensor, "batch positions n_numbers"]
    end_logit: Float[Tensor, "batch positions"]


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


class SequencePrior(nn.Module):
    """A causal network with a head, a condition and a learned start and end.

    Args:
        network: a causal network.
        head: a distribution over `n_active` numbers.
        latent_dim: of the autoencoder.
        n_active: dimensions that carry information.
        condition_dim: size of the condition vector.
    """

    def __init__(self, network: Network, head: Head, *, latent_dim: int, n_active: int, condition_dim: int) -> None:
        super().__init__()
        input_dim = network.input_dim
        self.network, self.head = network, head
        self.latent_dim = latent_dim
        self.standardiser = Standardiser(latent_dim, n_active)
        self.read = nn.Linear(n_active, input_dim)
        self.start = nn.Parameter(torch.randn(input_dim) * 0.1)
        self.condition = nn.Linear(condition_dim, input_dim, bias=False)
        self.numbers = nn.Linear(network.hidden_dim, head.n_numbers)
        # Straight from the last latent to the next one's parameters: what a vector autoregression knows need not pass the
        # network, and its dropout.
        self.skip = nn.Linear(n_active, head.n_numbers, bias=False)
        nn.init.zeros_(self.skip.weight)
        self.end = nn.Linear(network.hidden_dim, 1)
        nn.init.constant_(self.end.bias, -4.0)

    def init_state(self, batch: int) -> State:
        """The state before anything was consumed."""
        return self.network.init_state(batch, self.start.device)

    def _inputs(self, values: Tensor, condition: Tensor | None) -> Tensor:
        inputs: Tensor = self.read(values)
        if condition is not None:
            shift = self.condition(condition)
            inputs = inputs + (shift[:, None] if inputs.ndim == 3 else shift)
        return inputs

    def _start(self, batch: int, condition: Tensor | None) -> Tensor:
        start = self.start.expand(batch, -1)
        return start if condition is None else start + self.condition(condition)

    def _predict(self, hidden: Tensor, last: Tensor) -> Prediction:
        return Prediction(self.numbers(hidden) + self.skip(last), self.end(hidden).squeeze(-1))

    def forward(
        self,
        values: Float[Tensor, "batch frames dims"],
        condition: Float[Tensor, "batch condition_dim"] | None,
        previous: Float[Tensor, "batch dims"] | None = None,
        begins: Bool[Tensor, " batch"] | None = None,
    ) -> Prediction:
        """Predictions at frames + 1 positions, in parallel; for training.

        Args:
            values: standardised latents.
            condition: condition vectors.
            previous: the standardised latent before `values`, for sequences that do not begin at their start.
            begins: which sequences begin at their start; None means all.
        """
        first = self._start(len(values), condition)
        before = torch.zeros_like(values[:, :1])
        if previous is not None and begins is not None:
            first = torch.where(begins[:, None], first, self._inputs(previous, condition))
            before = torch.where(begins[:, None, None], before, previous[:, None])
        inputs = torch.cat([first[:, None], self._inputs(values, condition)], dim=1)
        hidden, _ = self.network.forward(inputs, self.init_state(len(values)))
        return self._predict(hidden, torch.cat([before, values], dim=1))

    def step(
        self,
        value: Float[Tensor, "batch dims"] | None,
        condition: Float[Tensor, "batch condition_dim"] | None,
        state: State,
        batch: int,
    ) -> tuple[Prediction, State]:
        """Consume one standardised latent (None: the start) and predict the next; positions = 1."""
        inputs = self._start(batch, condition) if value is None else self._inputs(value, condition)
        hidden, state = self.network.step(inputs, state)
        last = hidden.new_zeros(batch, len(self.standardiser.mean)) if value is None else value
        return self._predict(hidden[:, None], last[:, None]), state

    def prefill(
        self,
        values: Float[Tensor, "batch frames dims"],
        condition: Float[Tensor, "batch condition_dim"] | None,
    ) -> tuple[Prediction, State]:
        """Consume the start and a whole prompt at once; the prediction after its last frame, and the state."""
        first = self._start(len(values), condition)[:, None]
        inputs = torch.cat([first, self._inputs(values, condition)], dim=1)
        hidden, state = self.network.forward(inputs, self.init_state(len(values)))
        return self._predict(hidden[:, -1:], values[:, -1:]), state

    def log_prob(
        self,
        latents: Float[Tensor, "batch frames latent_dim"],
        lengths: Int[Tensor, " batch"],
        condition: Float[Tensor, "batch condition_dim"] | None = None,
    ) -> Float[Tensor, "batch frames"]:
        """Log-density in nats of each latent frame given those before, active dimensions only; 0 beyond `lengths`."""
        values = self.standardiser.standardise(latents)
        prediction = self.forward(values, condition)
        density = self.head.log_prob(prediction.numbers[:, :-1], values) - self.standardiser.deviation.log().sum()
        inside = torch.arange(latents.shape[1], device=latents.device) < lengths[:, None]
        return density * inside

    def sample(self, request: Request) -> Iterator[Chunk]:
        """Sample frame by frame; see `Prior.sample`."""
        device, n = self.start.device, request.n
        generator = torch.Generator(device).manual_seed(request.seed)
        # Of its own, so that dimensions without information take no draws from those with.
        filler = torch.Generator(device).manual_seed(request.seed + 1)
        earliest = max(request.min_frames, 1 if request.prompt is None else 0)
        stopped = torch.zeros(n, dtype=torch.bool, device=device)
        prediction, state = self._begin(request)
        latents: list[Tensor] = []
        ends: list[Tensor] = []
        for frame in range(request.max_frames):
            if request.until_stop:
                hazard = torch.sigmoid(prediction.end_logit[:, 0])
                drawn = torch.rand(n, generator=generator, device=device) < hazard
                if frame >= earliest:
                    stopped = stopped | drawn
                if bool(stopped.all()):
                    break
            latent, prediction, state = self._advance(prediction, state, request, generator, filler)
            latents.append(latent)
            ends.append(stopped)
            if len(latents) == request.chunk_frames:
                yield Chunk(torch.stack(latents, dim=1), torch.stack(ends, dim=1))
                latents, ends = [], []
        if latents:
            yield Chunk(torch.stack(latents, dim=1), torch.stack(ends, dim=1))

    @torch.no_grad()
    def _begin(self, request: Request) -> tuple[Prediction, State]:
        if request.prompt is None:
            return self.step(None, request.condition, self.init_state(request.n), request.n)
        return self.prefill(self.standardiser.standardise(request.prompt), request.condition)

    @torch.no_grad()
    def _advance(
        self,
        prediction: Prediction,
        state: State,
        request: Request,
        generator: torch.Generator,
        filler: torch.Generator,
    ) -> tuple[Tensor, Prediction, State]:
        """Draw one frame and consume it."""
        value = self.head.sample(prediction.numbers[:, 0], request.temperature, generator)
        latent = self.standardiser.restore(value, filler)
        prediction, state = self.step(value, request.condition, state, request.n)
        return latent, prediction, state

    def sequence_loss(
        self,
        prediction: Prediction,
        values: Float[Tensor, "batch frames dims"],
        lengths: Int[Tensor, " batch"],
        ends: Bool[Tensor, " batch"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Negative log-likelihoods: of a latent number in nats, and of the end in nats per position.

        Args:
            prediction: at frames + 1 positions.
            values: standardised latents.
            lengths: valid frames.
            ends: whether the sequence really ends after its last frame, or was cut there.
        """
        frames = values.shape[1]
        positions = torch.arange(frames + 1, device=values.device)
        inside = positions[:-1] < lengths[:, None]
        density = self.head.log_prob(prediction.numbers[:, :-1], values)
        latent_nll = -(density * inside).sum() / (inside.sum() * values.shape[2])
        # Positions 1 … length − 1 did not end; position `length` did, where the end is known.
        asked = (positions >= 1) & ((positions < lengths[:, None]) | ((positions == lengths[:, None]) & ends[:, None]))
        ended = (positions == lengths[:, None]).to(values.dtype)
        end_nll = F.binary_cross_entropy_with_logits(prediction.end_logit, ended, reduction="none")
        return latent_nll, (end_nll * asked).sum() / asked.sum().clamp(min=1)
