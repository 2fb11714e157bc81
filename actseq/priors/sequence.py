"""The sequence prior: a causal network, a head over latents, and a hazard of ending.

Order of events: the state after z_0 … z_{t−1} first gives the probability that the sequence has ended with length t,
and then the distribution of z_t if it has not. Position 0 has only a learned start vector as input. A sequence of T
frames therefore has T + 1 positions; the last one has only a probability of the end.

A condition of the frame that a position predicts enters every layer of a network that takes one, and the linear maps to
the head's parameters and to the end's logit. To the inputs of a network that takes none, its image is added.

A sequence prior works on standardised values of the dimensions that carry information; the others are drawn from
N(0, 1). The statistics are in its buffers.

Training may add noise to the inputs; the noise level is an input too. A prior's own output is never as clean as the
training latents, and a prior that sees only clean latents drifts. Sources: Ho et al. 2022 (the level as input); Pasini
et al. 2024 (Continuous Autoregressive Models).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actseq.errors import ConfigError
from actseq.priors.base import (
    CausalNetwork,
    Chunk,
    DensityHead,
    KeepsPrecision,
    LossHead,
    SamplingRequest,
    Standardiser,
    State,
    beside,
)

PREFILL_FRAMES = 1024
"""Frames of a prompt in one pass, so that a long prompt needs no more memory than a short one."""


@dataclass(frozen=True)
class Prediction:
    """Output of the network at each position.

    Attributes:
        numbers: (batch, positions, n_params), parameters of the head for the next latent frame.
        end_logit: (batch, positions), logit of the hazard: the sequence has ended before that frame.
    """

    numbers: Float[Tensor, "batch positions n_params"]
    end_logit: Float[Tensor, "batch positions"]


@dataclass(frozen=True)
class Losses:
    """Losses of every position of some sequences; 0 where there is nothing to predict.

    Attributes:
        latent: loss of the head, in nats if it has a likelihood, summed over the dimensions.
        end: loss of the end, in nats.
        asked: whether it is known if the sequence ended before that frame.
    """

    latent: Float[Tensor, "batch frames"]
    end: Float[Tensor, "batch positions"]
    asked: Bool[Tensor, "batch positions"]


class SequencePrior(nn.Module):
    """A causal network with a head, a condition and a learned start and end.

    Args:
        network: a causal network.
        head: a distribution of `n_active` values.
        latent_dim: values per latent frame of the autoencoder.
        n_active: number of dimensions that carry information.
        condition_dim: size of the condition vector.
    """

    takes_spans: Literal[True] = True

    def __init__(
        self,
        network: CausalNetwork,
        head: DensityHead | LossHead,
        *,
        latent_dim: int,
        n_active: int,
        condition_dim: int,
    ) -> None:
        super().__init__()
        input_dim = network.input_dim
        self.network, self.head = network, head
        self.latent_dim = latent_dim
        self.standardiser = Standardiser(latent_dim, n_active)
        self.read = nn.Linear(n_active, input_dim)
        self.start = nn.Parameter(torch.randn(input_dim) * 0.1)
        self.everywhere = network.condition_dim > 0
        self.condition_dim = condition_dim
        if not self.everywhere:
            self.condition = nn.Linear(condition_dim, input_dim, bias=False)
        # Noise level of the input latents; sampling uses 0, which adds nothing.
        self.noise_level = nn.Linear(1, input_dim, bias=False)
        seen = network.hidden_dim + network.condition_dim
        self.numbers = nn.Linear(seen, head.n_params)
        # A linear path from the last latent frame to the parameters of the next. It can do what a vector autoregression
        # does, without the network's dropout.
        self.skip = nn.Linear(n_active, head.n_params, bias=False)
        nn.init.zeros_(self.skip.weight)
        self.end = nn.Linear(seen, 1)
        nn.init.constant_(self.end.bias, -4.0)
        # Slope and offset of the end's logit in sampling: see `actseq.priors.end_calibration`.
        self.end_calibration: Tensor
        self.register_buffer("end_calibration", torch.tensor([1.0, 0.0]))

    @property
    def has_likelihood(self) -> bool:
        """Whether `log_prob` works."""
        return isinstance(self.head, DensityHead)

    @property
    def controls(self) -> tuple[str, ...]:
        """The controls of its head, and guidance."""
        return (*self.head.controls, "guidance")

    def keep_precision(self, posterior: Float[Tensor, " dims"]) -> None:
        """See `KeepsPrecision.keep_precision`; it is the head that keeps it."""
        if isinstance(self.head, KeepsPrecision):
            self.head.keep_precision(posterior)

    def init_state(self, batch: int) -> State:
        """The state before the first input."""
        return self.network.init_state(batch, self.start.device)

    def _added(self, inputs: Tensor, condition: Tensor | None) -> Tensor:
        """Inputs of a network that takes no condition itself: with the condition's image."""
        if condition is None or self.everywhere:
            return inputs
        shift: Tensor = self.condition(condition)
        return inputs + (shift[:, None] if inputs.ndim > condition.ndim else shift)

    def _beside(self, condition: Tensor | None, inputs: Tensor) -> Tensor | None:
        """What a network that takes a condition is given beside its inputs (batch, …, input_dim)."""
        if not self.everywhere:
            return None
        if condition is None:
            return inputs.new_zeros(*inputs.shape[:-1], self.condition_dim)
        return condition[:, None].expand(*inputs.shape[:-1], -1) if inputs.ndim > condition.ndim else condition

    def predict(
        self, hidden: Float[Tensor, "batch positions seen"], last: Float[Tensor, "batch positions dims"]
    ) -> Prediction:
        """Predictions from hidden vectors and from the last standardised latents, which are zeros before the first."""
        return Prediction(self.numbers(hidden) + self.skip(last), self.end(hidden).squeeze(-1))

    def forward(
        self,
        values: Float[Tensor, "batch frames dims"],
        condition: Float[Tensor, "batch condition_dim"] | Float[Tensor, "batch frames condition_dim"] | None,
        previous: Float[Tensor, "batch dims"] | None = None,
        begins: Bool[Tensor, " batch"] | None = None,
        noise_level: Float[Tensor, " batch"] | None = None,
    ) -> Prediction:
        """Predictions at frames + 1 positions, in parallel; for training.

        Args:
            values: standardised latents.
            condition: condition vectors, one for the whole sequence or one for each frame.
            previous: the standardised latent frame before `values`, for sequences that do not begin at their start.
            begins: which sequences begin at their start; None means all.
            noise_level: level of the noise that `values` and `previous` have from `with_noise`; None: no noise.
        """
        batch = len(values)
        now, later = condition, condition
        if condition is not None and condition.ndim == 3:
            condition = torch.cat([condition, condition[:, -1:]], dim=1)
            now, later = condition[:, 0], condition[:, 1:]
        first = self._added(self.start.expand(batch, -1), now)
        before = torch.zeros_like(values[:, :1])
        if previous is not None and begins is not None:
            first = torch.where(begins[:, None], first, self._added(self.read(previous), now))
            before = torch.where(begins[:, None, None], before, previous[:, None])
        inputs = torch.cat([first[:, None], self._added(self.read(values), later)], dim=1)
        if noise_level is not None:
            inputs = inputs + self.noise_level(noise_level[:, None])[:, None]
        about = self._beside(condition, inputs)
        hidden, _ = self.network.forward(inputs, self.init_state(batch), about)
        return self.predict(beside(hidden, about), torch.cat([before, values], dim=1))

    def step(
        self,
        value: Float[Tensor, "batch dims"] | None,
        condition: Float[Tensor, "batch condition_dim"] | None,
        state: State,
        batch: int,
    ) -> tuple[Prediction, State]:
        """Consume one standardised latent frame (None: the start) and predict the next; positions = 1."""
        hidden, last, state = self._consume(value, condition, state, batch)
        return self.predict(hidden, last), state

    def _consume(
        self, value: Tensor | None, condition: Tensor | None, state: State, batch: int
    ) -> tuple[Tensor, Tensor, State]:
        """Hidden vectors and last latents (batch, 1, …), and the state."""
        inputs = self.start.expand(batch, -1) if value is None else self.read(value)
        hidden, state = self.advance(inputs, condition, state)
        last = hidden.new_zeros(batch, len(self.standardiser.mean)) if value is None else value
        return hidden, last[:, None], state

    def advance(
        self,
        inputs: Float[Tensor, "batch input_dim"],
        condition: Float[Tensor, "batch condition_dim"] | None,
        state: State,
    ) -> tuple[Float[Tensor, "batch 1 seen"], State]:
        """Consume one input, which is `start`, or `read` of a standardised latent frame.

        Returns:
            What `predict` is given, and the state.
        """
        inputs = self._added(inputs, condition)
        about = self._beside(condition, inputs)
        hidden, state = self.network.step(inputs, state, about)
        return beside(hidden, about)[:, None], state

    def prefill(
        self,
        values: Float[Tensor, "batch frames dims"],
        condition: Float[Tensor, "batch condition_dim"] | None,
    ) -> tuple[Prediction, State]:
        """Consume the start and a whole prompt; the prediction after its last frame, and the state."""
        hidden, last, state = self._consume_prompt(values, condition)
        return self.predict(hidden, last), state

    def _consume_prompt(self, values: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor, State]:
        in_time = condition is not None and condition.ndim == 3
        first = condition[:, 0] if condition is not None and in_time else condition
        hidden, last, state = self._consume(None, first, self.init_state(len(values)), len(values))
        for at, piece in enumerate(torch.split(values, PREFILL_FRAMES, dim=1)):
            now, begin = condition, 1 + at * PREFILL_FRAMES
            if condition is not None and in_time:
                now = condition[:, begin : begin + piece.shape[1]]
            inputs = self._added(self.read(piece), now)
            about = self._beside(now, inputs)
            hidden, state = self.network.forward(inputs, state, about)
            hidden, last = beside(hidden, about)[:, -1:], piece[:, -1:]
        return hidden, last, state

    def log_prob(
        self,
        latents: Float[Tensor, "batch frames latent_dim"],
        lengths: Int[Tensor, " batch"],
        condition: Float[Tensor, "batch condition_dim"] | None = None,
    ) -> Float[Tensor, "batch frames"]:
        """Log-density in nats of each latent frame given the frames before, active dimensions only; 0 beyond `lengths`.

        Raises:
            ConfigError: the head has no likelihood.
        """
        if not isinstance(self.head, DensityHead):
            raise ConfigError(
                f"a prior with head {type(self.head).__name__.lower()} has no likelihood",
                action="use one with head mixture or gaussian",
            )
        values = self.standardiser.standardise(latents)
        prediction = self.forward(values, condition)
        density = self.head.log_prob(prediction.numbers[:, :-1], values) - self.standardiser.deviation.log().sum()
        inside = torch.arange(latents.shape[1], device=latents.device) < lengths[:, None]
        return density * inside

    def sample(self, request: SamplingRequest) -> Iterator[Chunk]:
        """Sample frame by frame; see `Prior.sample`.

        Raises:
            ConfigError: the request has a control that the head cannot use.
        """
        sampling = request.sampling
        sampling.require_supported(self.controls, f"a prior with head {type(self.head).__name__.lower()}")
        device, n = self.start.device, request.n
        generator = torch.Generator(device).manual_seed(request.seed)
        # A separate generator, so that dimensions without information do not change the draws of the others.
        filler = torch.Generator(device).manual_seed(request.seed + 1)
        earliest = max(request.min_frames, 1 if request.prompt is None else 0)
        stopped = torch.zeros(n, dtype=torch.bool, device=device)
        prediction, state = self._begin(request)
        latents: list[Tensor] = []
        ends: list[Tensor] = []
        for frame in range(request.max_frames):
            if request.until_stop:
                slope, offset = self.end_calibration
                hazard = torch.sigmoid(slope * prediction.end_logit[:, 0] + offset)
                drawn = torch.rand(n, generator=generator, device=device) < hazard
                if frame >= earliest:
                    stopped = stopped | drawn
                if bool(stopped.all()):
                    break
            with torch.no_grad():
                value = self.head.sample(prediction.numbers[:, 0], sampling, generator)
                latents.append(self.standardiser.restore(value, filler))
                prediction, state = self._advance(value, state, request, frame + 1)
            ends.append(stopped)
            if len(latents) == request.chunk_frames:
                yield Chunk(torch.stack(latents, dim=1), torch.stack(ends, dim=1))
                latents, ends = [], []
        if latents:
            yield Chunk(torch.stack(latents, dim=1), torch.stack(ends, dim=1))

    @torch.no_grad()
    def _begin(self, request: SamplingRequest) -> tuple[Prediction, State]:
        """The prediction of the first new frame. A single prompt is consumed once for all its continuations."""
        condition = self._prompt_condition(request)
        alike = condition is None or bool((condition == condition[:1]).all())
        once = request.prompt is not None and len(request.prompt) == 1 and alike and not self._guided(request)
        n = 1 if once else request.n
        condition = self._doubled(None if condition is None else condition[:n], request)
        rows = 2 * n if self._guided(request) else n
        if request.prompt is None:
            hidden, last, state = self._consume(None, condition, self.init_state(rows), rows)
        else:
            values = self.standardiser.standardise(request.prompt).expand(n, -1, -1)
            values = values.repeat(2, 1, 1) if self._guided(request) else values
            hidden, last, state = self._consume_prompt(values, condition)
        if once:
            hidden, last, state = (
                _repeat(part, request.n, axis) for part, axis in ((hidden, 0), (last, 0), (state, 1))
            )
        return self.predict(*self._guide(hidden, last, request)), state

    def _prompt_condition(self, request: SamplingRequest) -> Tensor | None:
        """The condition of the first new frame, or one for each position of a prompt.

        Where the condition is given for each new frame, nothing is known of the frames of a prompt. The last position
        predicts the first new frame and has its condition.
        """
        first = request.condition_at(0)
        if first is None or request.prompt is None or not request.in_time or request.unconditional is None:
            return first
        before = request.unconditional.expand(request.n, request.prompt.shape[1], -1)
        return torch.cat([before, first[:, None]], dim=1)

    def _advance(self, value: Tensor, state: State, request: SamplingRequest, frame: int) -> tuple[Prediction, State]:
        """Consume one frame and predict the frame of the given index."""
        rows = request.n
        condition = self._doubled(request.condition_at(frame), request)
        if self._guided(request):
            value, rows = value.repeat(2, 1), 2 * rows
        hidden, last, state = self._consume(value, condition, state, rows)
        return self.predict(*self._guide(hidden, last, request)), state

    def _guided(self, request: SamplingRequest) -> bool:
        return request.sampling.guidance != 1 and request.condition is not None and request.unconditional is not None

    def _doubled(self, condition: Tensor | None, request: SamplingRequest) -> Tensor | None:
        """With guidance every sequence runs twice; the second half of the batch has no condition."""
        if condition is None or not self._guided(request):
            return condition
        assert request.unconditional is not None
        return torch.cat([condition, request.unconditional.expand_as(condition)])

    def _guide(self, hidden: Tensor, last: Tensor, request: SamplingRequest) -> tuple[Tensor, Tensor]:
        if not self._guided(request):
            return hidden, last
        given, bare = hidden.chunk(2)
        return torch.lerp(bare, given, request.sampling.guidance), last.chunk(2)[0]

    def losses(
        self,
        prediction: Prediction,
        values: Float[Tensor, "batch frames dims"],
        lengths: Int[Tensor, " batch"],
        ends: Bool[Tensor, " batch"],
    ) -> Losses:
        """The losses of predictions at frames + 1 positions.

        Args:
            prediction: what was predicted.
            values: standardised latents.
            lengths: valid frames of each sequence.
            ends: whether the sequence really ends after its last frame, or was cut there.
        """
        frames = values.shape[1]
        positions = torch.arange(frames + 1, device=values.device)
        head, given = self.head, (prediction.numbers[:, :-1], values)
        loss = -head.log_prob(*given) if isinstance(head, DensityHead) else head.loss(*given)
        # Positions 1 … length − 1 did not end; position `length` did if the end is known.
        asked = (positions >= 1) & ((positions < lengths[:, None]) | ((positions == lengths[:, None]) & ends[:, None]))
        ended = (positions == lengths[:, None]).to(values.dtype)
        end_nll = F.binary_cross_entropy_with_logits(prediction.end_logit, ended, reduction="none")
        return Losses(loss * (positions[:-1] < lengths[:, None]), end_nll * asked, asked)


def with_noise(values: Float[Tensor, "batch ..."], level: Float[Tensor, " batch"]) -> Float[Tensor, "batch ..."]:
    """Standardised values with noise of a level, its deviation; their power stays the same."""
    level = level.reshape(-1, *(1,) * (values.ndim - 1))
    return (1 - level.square()).sqrt() * values + level * torch.randn_like(values)


def _repeat(state: State, n: int, axis: int) -> State:
    """Repeat every row n times."""
    if isinstance(state, Tensor):
        return state.repeat_interleave(n, dim=axis)
    if isinstance(state, tuple):
        return tuple(_repeat(part, n, axis) for part in state)
    return state
