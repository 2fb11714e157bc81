"""The parts of a trained run as networks from tensors to tensors: what is exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from actseq.autoencoders.base import Autoencoder, Latents
from actseq.errors import ConfigError
from actseq.priors.base import DrawsFromNoise, Sampling
from actseq.priors.clip_flow import ClipFlow, Window
from actseq.priors.sequence import SequencePrior
from actseq.representations.base import Features

FRAMES = 12
"""Latent frames of the examples that a network is traced with."""


@dataclass(frozen=True)
class Graph:
    """A network that is exported by itself.

    Attributes:
        name: name of its file.
        module: the network; it takes the inputs in order, and returns as many tensors as there are outputs.
        inputs: an example of each input.
        outputs: names of the outputs.
        free: names of the axes of inputs whose size is not fixed.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    free: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs."""
        with torch.no_grad():
            made = self.module(*inputs)
        return list(made) if isinstance(made, tuple) else [made]


class Encoder(nn.Module):
    """Features (batch, channels, frames) and their lengths → posterior.

    Args:
        autoencoder: its encoder is used.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Mean (batch, latent frames, latent_dim), and the log-variance if the bottleneck has one."""
        posterior = self.autoencoder.encode(Features(features, lengths))
        return (posterior.mean,) if posterior.log_variance is None else (posterior.mean, posterior.log_variance)


class Decoder(nn.Module):
    """Latents (batch, frames, latent_dim), and the condition (batch, dims) of a decoder that takes one → features.

    Args:
        autoencoder: its decoder is used.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        """Features (batch, channels, frames · stride)."""
        lengths = torch.ones_like(latents[:, 0, 0], dtype=torch.long) * latents.shape[1]
        shown = None if condition is None else condition[:, None].expand(-1, latents.shape[1], -1)
        return self.autoencoder.decode(Latents(latents, lengths), shown).values


class Step(nn.Module):
    """A sequence prior consumes a frame.

    Args:
        prior: the prior.
    """

    def __init__(self, prior: SequencePrior) -> None:
        super().__init__()
        self.prior = prior

    def state(self) -> tuple[Tensor, ...]:
        """The state of one sequence before its first frame."""
        first = self.prior.init_state(1)
        return tuple(torch.zeros_like(part) if isinstance(part, Tensor) else torch.tensor(part) for part in first)

    def forward(self, value: Tensor, begins: Tensor, condition: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """What the next frame depends on (batch, seen), and the new state.

        Args:
            value: (batch, dims), the standardised frame; where a sequence begins it is not used.
            begins: (batch,), 1 where a sequence begins, and 0 elsewhere.
            condition: (batch, condition_dim).
            state: what the step before has returned.
        """
        begin = begins[:, None]
        inputs = begin * self.prior.start + (1 - begin) * self.prior.read(value)
        hidden, state = self.prior.advance(inputs, condition, state)
        return (hidden[:, 0], *state)


class Draw(nn.Module):
    """A sequence prior draws the frame that follows.

    Args:
        prior: the prior.
        sampling: its `bias` and `top_p` become part of the network.

    Raises:
        ConfigError: the head can draw only by itself.
    """

    def __init__(self, prior: SequencePrior, sampling: Sampling) -> None:
        super().__init__()
        head = prior.head
        if not isinstance(head, DrawsFromNoise):
            raise ConfigError(f"head {type(head).__name__.lower()} cannot be exported: it takes no noise from outside")
        self.prior, self.head, self.sampling = prior, head, sampling

    def forward(
        self, hidden: Tensor, value: Tensor, noise: Tensor, preference: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The next standardised frame (batch, dims), and the calibrated logit of having ended before it (batch,).

        Args:
            hidden: what the step has returned; with guidance, a mixture of that with and without a label.
            value: the frame that the step consumed, zeros where the sequence begins.
            noise: as for `DrawsFromNoise.drawn`.
            preference: as for `DrawsFromNoise.drawn`; None for a head without choices.
        """
        made = self.prior.predict(hidden[:, None], value[:, None])
        chosen = noise.new_zeros(len(noise), 0, 0) if preference is None else preference
        slope, offset = self.prior.end_calibration
        ended = slope * made.end_logit[:, 0] + offset
        return self.head.drawn(made.numbers[:, 0], noise, chosen, self.sampling), ended


class Velocity(nn.Module):
    """The velocity of `clip-flow` in one window.

    Args:
        prior: the prior.
    """

    def __init__(self, prior: ClipFlow) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self, place: Tensor, time: Tensor, clean: Tensor, known: Tensor, ends: Tensor, condition: Tensor, *about: Tensor
    ) -> Tensor:
        """The velocity (batch, frames, dims); see `ClipFlow.forward`.

        Args:
            place: (batch, frames, dims), all frames of a window.
            time: (batch,).
            clean: (batch, frames, dims).
            known: (batch, frames), 1 for frames that are given, and 0 for the others.
            ends: (batch, 2), 1 if the sequence begins at the first frame, and if it ends after the last; 0 if not.
            condition: (batch, condition_dim).
            about: summary (batch, size + 1), if the prior follows summaries.
        """
        lengths = torch.ones_like(time, dtype=torch.long) * place.shape[1]
        begins, stops = ends[:, 0] > 0.5, ends[:, 1] > 0.5
        window = Window(lengths, begins, stops, known > 0.5, clean, about[0] if about else None)
        made: Tensor = self.prior(place, time, window, condition[:, None])
        return made


def codec_graphs(autoencoder: Autoencoder, channels: int) -> list[Graph]:
    """Encoder and decoder.

    Args:
        autoencoder: a generative one.
        channels: feature channels.

    Raises:
        ConfigError: its network reads packed sequences or attends to neighbours, which cannot be exported.
    """
    if getattr(autoencoder.network, "attention", None) is not None:
        raise ConfigError("a decoder with attention cannot be exported", "autoencoder.network.attention 0")
    if not autoencoder.whole_clips and autoencoder.context_frames is None:
        kind = type(autoencoder.network).__name__.lower()
        raise ConfigError(
            f"autoencoder network {kind} cannot be exported: it reads each sequence as a whole, in packed form",
            "network conv, dense, pca or clip",
        )
    frames = autoencoder.stride if autoencoder.whole_clips else FRAMES * autoencoder.stride
    features, lengths = torch.randn(2, channels, frames), torch.tensor([frames, max(1, frames - 3)])
    inner = {} if autoencoder.whole_clips else {2: "frames"}
    posterior = ["mean", "log_variance"][: len(Encoder(autoencoder)(features, lengths))]
    free: dict[str, dict[int, str]] = {"features": {0: "batch", **inner}, "lengths": {0: "batch"}}
    encoder = Graph("encoder", Encoder(autoencoder), {"features": features, "lengths": lengths}, posterior, free)
    inputs = {"latents": torch.randn(2, 1 if autoencoder.whole_clips else FRAMES, autoencoder.latent_dim)}
    if autoencoder.table is not None:
        inputs["condition"] = torch.randn(2, autoencoder.table.embedding_dim)
    free = {name: {0: "batch"} for name in inputs} | {"latents": {0: "batch", 1: "latent_frames"}}
    return [encoder, Graph("decoder", Decoder(autoencoder), inputs, ["features"], free)]


def sequence_graphs(prior: SequencePrior, sampling: Sampling) -> list[Graph]:
    """Step and draw of a sequence prior.

    Raises:
        ConfigError: as `Draw`.
    """
    step, draw = Step(prior).eval(), Draw(prior, sampling).eval()
    dims, state = len(prior.standardiser.mean), step.state()
    value, noise = torch.randn(1, dims), torch.randn(1, dims)
    inputs = {"value": value, "begins": torch.zeros(1), "condition": torch.randn(1, prior.condition_dim)}
    states = [f"state_{i}" for i in range(len(state))]
    outputs = ["hidden", *(f"new_{name}" for name in states)]
    given = {"hidden": torch.randn(1, prior.numbers.in_features), "value": value, "noise": noise}
    choices = draw.head.n_choices
    if choices[0]:
        given["preference"] = torch.randn(1, *choices)
    drawn = Graph("draw", draw, given, ["next", "ended"])
    return [Graph("step", step, inputs | dict(zip(states, state, strict=True)), outputs), drawn]


def flow_graphs(prior: ClipFlow) -> list[Graph]:
    """The velocity of `clip-flow`."""
    dims = len(prior.standardiser.mean)
    frames = FRAMES * prior.patch
    inputs = {
        "place": torch.randn(1, frames, dims),
        "time": torch.full((1,), 0.3),
        "clean": torch.randn(1, frames, dims),
        "known": (torch.arange(frames) < 3).float()[None],
        "ends": torch.ones(1, 2),
        "condition": torch.randn(1, prior.condition_dim),
    }
    if prior.summaries is not None:
        inputs["summary"] = torch.randn(1, prior.summaries.size + 1)
    free = {name: {1: "frames"} for name in ("place", "clean", "known")}
    return [Graph("velocity", Velocity(prior), inputs, ["velocity"], free)]


def prior_graphs(prior: Any, name: str, sampling: Sampling) -> list[Graph]:
    """What a prior needs; nothing for `normal`, which is noise.

    Args:
        prior: the prior, without its labels.
        name: its name, for messages.
        sampling: how the run draws.

    Raises:
        ConfigError: a prior that cannot be exported.
    """
    if isinstance(prior, SequencePrior):
        return sequence_graphs(prior, sampling)
    if getattr(prior, "objective", None) == "flow-matching":
        return flow_graphs(prior)
    if name == "normal":
        return []
    raise ConfigError(
        f"prior {name} cannot be exported",
        "a sequence prior (lstm, gru, transformer), clip-flow or normal",
        "name another with --prior",
    )
