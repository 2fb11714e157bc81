"""The contract of a prior: the request to it, and the chunks of latents that it returns."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actseq.errors import ConfigError
from actseq.priors.summaries import TrainingClip
from actseq.priors.transfer import TransferStream

State = Any
"""A network's memory: a tuple of tensors with the batch along axis 1, and of plain numbers. It is passed in and
returned, never stored in the network. A step may overwrite the state that it is given."""


@dataclass(frozen=True)
class Sampling:
    """How to draw; the defaults draw from the learned distribution.

    Attributes:
        temperature: temperature of the choice between components and of the noise; 0 takes the most likely.
        mixture_temperature: temperature of the choice between components only; None: `temperature`.
        noise_temperature: factor to the deviation of the noise only; None: `temperature`.
        top_p: choose between the most likely components that together have this probability.
        bias: b ≥ 0 sharpens: logits of components times 1 + b, deviations times exp(−b).
        noise_clamp: the noise is drawn from a normal distribution truncated at this many deviations; None: no limit.
        guidance: 1 follows the condition as learned, more exaggerates its difference from no condition, 0 ignores it.

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
        """Refuse controls that a prior cannot use.

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
        n: number of sequences, made as one batch.
        max_frames: largest number of latent frames, without the prompt.
        min_frames: smallest number of latent frames; without a prompt there is at least one.
        until_stop: let the prior end sequences; otherwise each has `max_frames`.
        ends: a sequence of `max_frames` is also to be like a whole training clip, from its beginning to its end.
        goes_on: sound follows the last frame that is asked for, so the sequence does not end there. Only a prior that
            knows how long sequences are before it makes them needs to be told.
        condition: condition vectors (n, condition_dim), or (n, frames, condition_dim) for the new frames where they
            change in time; later frames have those of the last. None: no condition.
        condition_end: (n, condition_dim) that the condition moves to linearly over `max_frames`; None: no change.
        unconditional: (1, condition_dim), the condition "no label"; for guidance.
        label: row of the label table, for priors that keep something for each label; 0: no label.
        label_end: row of the label that `condition_end` belongs to.
        lengths: new frames (n,) of each sequence, at most `max_frames`, where they differ; frames beyond are not used.
        prompt: latents (n or 1, prompt_frames, latent_dim) to continue; None: start from nothing.
        suffix: latents (n or 1, suffix_frames, latent_dim) to lead to; None: no such end. Only a prior that
            `TakesSuffix` knows it.
        guess: latents (n or 1, max_frames, latent_dim) that the new ones are to be like; None: no such guess. A hint
            that only a flow follows.
        nearness: how much, from 0, not at all, to 1, where they are the guess.
        sampling: how to draw.
        seed: seed of all draws.
        chunk_frames: latent frames in a chunk.
    """

    n: int
    max_frames: int
    min_frames: int = 1
    until_stop: bool = False
    ends: bool = False
    goes_on: bool = False
    condition: Tensor | None = None
    condition_end: Tensor | None = None
    unconditional: Tensor | None = None
    label: int = 0
    label_end: int = 0
    lengths: Tensor | None = None
    prompt: Tensor | None = None
    suffix: Tensor | None = None
    guess: Tensor | None = None
    nearness: float = 0.0
    sampling: Sampling = PLAIN
    seed: int = 0
    chunk_frames: int = 64

    @property
    def in_time(self) -> bool:
        """Whether the condition is given for each frame."""
        return self.condition is not None and self.condition.ndim == 3

    @property
    def changes(self) -> bool:
        """Whether the condition changes over the sequence."""
        return self.in_time or self.condition_end is not None

    def condition_at(self, frame: int) -> Tensor | None:
        """Condition (n, condition_dim) of a frame; frame 0 is the first new one."""
        if self.condition is not None and self.condition.ndim == 3:
            return self.condition[:, min(frame, self.condition.shape[1] - 1)]
        if self.condition is None or self.condition_end is None:
            return self.condition
        return torch.lerp(self.condition, self.condition_end, min(1.0, frame / max(1, self.max_frames - 1)))


@dataclass(frozen=True)
class Chunk:
    """A piece of n growing sequences.

    Attributes:
        latents: latents (n, frames, latent_dim).
        stopped: (n, frames), True for frames after the end of the sequence.
    """

    latents: Float[Tensor, "n frames latent_dim"]
    stopped: Bool[Tensor, "n frames"]


@runtime_checkable
class Prior(Protocol):
    """Anything that makes sequences of latents."""

    latent_dim: int

    @property
    def has_likelihood(self) -> bool:
        """Whether it is a `DensityPrior` whose `log_prob` works."""

    @property
    def controls(self) -> tuple[str, ...]:
        """Attributes of `Sampling` that it uses."""

    def sample(self, request: SamplingRequest) -> Iterator[Chunk]:
        """Chunks in time order, until all sequences have stopped or `max_frames` is reached.

        The condition of a frame is `request.condition_at(frame)`.
        """


@runtime_checkable
class KeepsLengths(Protocol):
    """A prior that knows how long sequences are before it makes them.

    It makes one sequence of the length that is asked for, or of one of the lengths that it keeps; it does not end
    sequences earlier.
    """

    def longest(self, label: int) -> int:
        """Latent frames of the longest sequence that it keeps for a row of the label table; 0: it keeps none."""

    def keep_lengths(self, lengths: Int[np.ndarray, " m"], labels: Int[np.ndarray, " m"], n_labels: int) -> None:
        """Keep the lengths of sequences that begin and end.

        Args:
            lengths: lengths in latent frames; without any it makes room for them, so that they can be loaded.
            labels: their rows of the label table, 0 for no label.
            n_labels: number of labels.
        """


@runtime_checkable
class TakesSuffix(Protocol):
    """A prior that leads to `SamplingRequest.suffix`: a network that has this attribute, and sees both ways.

    It makes exactly `max_frames` frames between prompt and suffix. A prompt or a suffix may be missing.
    """

    takes_suffix: Literal[True]


@runtime_checkable
class TakesSpans(Protocol):
    """A prior that follows a condition which is given for each frame: a class that has this attribute.

    So it can be asked for labels in time. Each frame follows `SamplingRequest.condition_at` of its number.
    """

    takes_spans: Literal[True]


@dataclass(frozen=True)
class TransferRequest:
    """How to give the latents of a sound another label.

    Attributes:
        conditions: condition vectors of all labels, the rows of the label table; row 0 is "no label".
        label: row of the wanted label.
        amount: from 0, where the latents stay as they are, to 1, where all of their path is gone.
        seed: seed of all draws.
    """

    conditions: Float[Tensor, "rows condition_dim"]
    label: int
    amount: float
    seed: int = 0


@runtime_checkable
class Transfers(Protocol):
    """A prior that gives the latents of a sound another label and keeps what else they hold."""

    def transfer(self, request: TransferRequest) -> TransferStream:
        """A stream that changes the latents of one sound; it returns as many as it is given."""


@runtime_checkable
class KeepsPrecision(Protocol):
    """A prior or a head that can treat dimensions according to how exactly the autoencoder knows them."""

    def keep_precision(self, posterior: Float[Tensor, " dims"]) -> None:
        """Keep how exactly each active dimension is known. A prior has the standardiser of the latents already.

        Args:
            posterior: root mean square of the posterior's standard deviation over the training frames, as a fraction of
                the deviation of the dimension.
        """


MOST_EXACT = 1e3
"""The largest ratio of the deviation of a dimension to that of its posterior that counts. Without a variational
bottleneck every dimension has it."""


def deviations_by_precision(posterior: Float[Tensor, " dims"], information: float) -> Float[Tensor, " dims"]:
    """How wide each dimension is on a path from noise to values, so that exact ones leave the noise sooner.

    Args:
        posterior: deviation of the posterior as a fraction of that of the dimension.
        information: the width grows with the inverse of `posterior` to this power; the geometric mean is 1.
    """
    log = information * posterior.reciprocal().clamp(max=MOST_EXACT).log()
    return (log - log.mean()).exp()


@runtime_checkable
class KeepsSummaries(Protocol):
    """A prior that can keep what training clips are like as a whole, for new clips to follow."""

    def keep_summaries(self, clips: Iterable[TrainingClip], n_labels: int) -> None:
        """Keep summaries of clips.

        Args:
            clips: training sequences; without any it makes room for their summaries, so that they can be loaded.
            n_labels: number of labels.
        """


@runtime_checkable
class Remakes(Protocol):
    """A prior that can take latents part of the way back to noise and make them again, with its own errors."""

    def remake(
        self,
        data: Mapping[str, Tensor],
        latents: Float[Tensor, "batch frames latent_dim"],
        time: Float[Tensor, " batch"],
        condition: Float[Tensor, "batch frames_or_1 condition_dim"],
    ) -> Float[Tensor, "batch frames latent_dim"]:
        """Latents like the given ones, as the prior makes them.

        Args:
            data: a batch of `SequenceSource`: lengths, beginnings, ends and posteriors of the windows.
            latents: draws from these posteriors.
            time: how far back: 0 is noise, at 1 the latents stay as they are.
            condition: condition vectors, one for each frame or one for all.
        """


@runtime_checkable
class DensityPrior(Prior, Protocol):
    """A prior that can have a likelihood."""

    def log_prob(
        self,
        latents: Float[Tensor, "batch frames latent_dim"],
        lengths: Int[Tensor, " batch"],
        condition: Float[Tensor, "batch condition_dim"] | None = None,
    ) -> Float[Tensor, "batch frames"]:
        """Log-density in nats of each latent frame given the frames before; 0 beyond `lengths`."""


def beside(
    values: Float[Tensor, "*batch size"], condition: Float[Tensor, "*batch condition_dim"] | None
) -> Float[Tensor, "*batch both"]:
    """Values with their condition appended; unchanged where there is none."""
    return values if condition is None else torch.cat([values, condition], dim=-1)


@runtime_checkable
class CausalNetwork(Protocol):
    """A causal network over inputs (batch, positions, input_dim), with one hidden vector for each position."""

    input_dim: int
    hidden_dim: int
    condition_dim: int
    """Size of the condition that each of its layers takes; 0: it takes none."""

    def init_state(self, batch: int, device: torch.device) -> State:
        """The state before the first input."""

    def forward(
        self,
        inputs: Float[Tensor, "batch positions input_dim"],
        state: State,
        condition: Float[Tensor, "batch positions condition_dim"] | None = None,
    ) -> tuple[Float[Tensor, "batch positions hidden_dim"], State]:
        """All positions at once. The condition is None exactly if `condition_dim` is 0."""

    def step(
        self,
        inputs: Float[Tensor, "batch input_dim"],
        state: State,
        condition: Float[Tensor, "batch condition_dim"] | None = None,
    ) -> tuple[Float[Tensor, "batch hidden_dim"], State]:
        """One position; the same result as `forward`."""


@runtime_checkable
class Head(Protocol):
    """A distribution of the next latent frame, given a hidden vector."""

    n_params: int
    """Number of its parameters; a linear map from the hidden vector makes them."""
    controls: tuple[str, ...]
    """Attributes of `Sampling` that it uses."""

    def sample(
        self, numbers: Float[Tensor, "batch n_params"], sampling: Sampling, generator: torch.Generator
    ) -> Float[Tensor, "batch dims"]:
        """One draw for each row."""


@runtime_checkable
class DrawsFromNoise(Head, Protocol):
    """A head that can draw from random numbers that it is given, as an exported model has to."""

    n_choices: tuple[int, int]
    """Choices that a draw makes, and between how many components each; zeros where it makes none."""

    def drawn(
        self,
        numbers: Float[Tensor, "batch n_params"],
        noise: Float[Tensor, "batch dims"],
        preference: Float[Tensor, "batch choices components"],
        sampling: Sampling,
    ) -> Float[Tensor, "batch dims"]:
        """As `sample`, from random numbers that are given.

        Args:
            numbers: parameters of the distribution.
            noise: normal noise, times its temperature.
            preference: Gumbel noise, times the temperature of the choice.
            sampling: its `bias` and `top_p` change the choice; temperatures and the noise's clamp are not used.
        """


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
    """Maps latents to their informative dimensions with zero mean and unit deviation, and back."""

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
        """Back to latents; dimensions without information are drawn from N(0, 1)."""
        latents = torch.randn((*values.shape[:-1], self.latent_dim), generator=generator, device=values.device)
        latents[..., self.active] = values * self.deviation + self.mean
        return latents
