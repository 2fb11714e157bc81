"""Priors that need no training: frames of the corpus drawn one by one, or a random walk with its statistics.

`Iid` and `RandomWalk` are made from a corpus's latents when they are needed. Their condition has one value for each
label, the first for "no label". The largest value selects the label, so a glide changes in its middle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actseq.errors import ConfigError
from actseq.priors.base import Chunk, SamplingRequest
from actseq.priors.heads import normal

CONTROLS = ("temperature", "noise_temperature", "bias", "noise_clamp")


@dataclass(frozen=True)
class TrainingFrames:
    """Training frames for priors without training.

    Attributes:
        mean: mean of each frame's posterior.
        log_variance: log-variance of each frame's posterior; −inf for point latents.
        label: index of each frame's label from 1 on, 0 for none; in ascending order.
        follows: whether a frame directly follows the row before it, in the same sequence.
        lengths: lengths of whole sequences: of all, then of each label.
        deviation: of the bottleneck's own prior N(0, deviation²); None if it has none.
        whole_clips: whether each frame is a whole clip.
    """

    mean: Float[np.ndarray, "frames latent_dim"]
    log_variance: Float[np.ndarray, "frames latent_dim"]
    label: Int[np.ndarray, " frames"]
    follows: Bool[np.ndarray, " frames"]
    lengths: list[Int[np.ndarray, " _sequences"]]
    deviation: float | None = None
    whole_clips: bool = False


class Iid(nn.Module):
    """`iid`: draws every frame independently: a random training frame, then a draw from its posterior.

    Args:
        frames: frames of the corpus.
    """

    has_likelihood = False
    takes_spans: Literal[True] = True
    controls: tuple[str, ...] = CONTROLS
    mean: Tensor
    deviation: Tensor
    first: Tensor
    number: Tensor

    def __init__(self, frames: TrainingFrames) -> None:
        super().__init__()
        self.latent_dim, self.lengths = frames.mean.shape[1], frames.lengths
        number = np.bincount(frames.label, minlength=len(frames.lengths))
        first = number.cumsum() - number
        # No label: all frames, with and without label.
        first[0], number[0] = 0, len(frames.mean)
        self.register_buffer("mean", torch.from_numpy(frames.mean))
        self.register_buffer("deviation", torch.from_numpy(np.exp(0.5 * frames.log_variance)))
        self.register_buffer("first", torch.from_numpy(first))
        self.register_buffer("number", torch.from_numpy(number))

    def sample(self, request: SamplingRequest) -> Iterator[Chunk]:
        """See `Prior.sample`. A prompt changes only the length; temperatures scale the noise of the posterior.

        Raises:
            ConfigError: the request has a control that it cannot use, or a condition of another prior.
        """
        request.sampling.require_supported(self.controls, "prior iid")
        return in_chunks(request, self._frames(request), _lengths(request, self.lengths))

    def _frames(self, request: SamplingRequest) -> Iterator[Tensor]:
        device = self.mean.device
        generator = torch.Generator(device).manual_seed(request.seed)
        for frame in count():
            label = label_at(request, frame, len(self.lengths)).to(device)
            # The remainder of a number this large is nearly uniform.
            drawn = torch.randint(2**62, (request.n,), generator=generator, device=device)
            row = self.first[label] + drawn % self.number[label]
            noise = normal((request.n, self.latent_dim), request.sampling, generator, device)
            yield self.mean[row] + self.deviation[row] * noise


class Normal(nn.Module):
    """`normal`: draws every frame from the prior that the bottleneck has its latents follow, N(0, deviation²).

    Latents follow it only roughly, and those of one label lie in a part of it. Where a frame is a whole clip, draws of
    N(0, I) are therefore moved to where the latents of their label lie: by the affine map that gives them the mean and
    the covariance of these latents, or of all latents for no label. Both are those of the training clips and include
    the variance of the posterior.

    Args:
        frames: frames of the corpus; of whole clips all is used, of others only lengths and deviation.

    Raises:
        ConfigError: the bottleneck has no prior.

    Source: Ghosh et al., From Variational to Deterministic Autoencoders (2020), section 4, for the fit after training.
    """

    has_likelihood = False
    controls: tuple[str, ...] = CONTROLS
    centre: Tensor
    spread: Tensor

    def __init__(self, frames: TrainingFrames) -> None:
        super().__init__()
        if frames.deviation is None:
            raise ConfigError(
                "prior normal with a bottleneck whose latents follow no distribution",
                "bottleneck variational or adversarial",
                "use another prior",
            )
        self.latent_dim, self.lengths, self.deviation = frames.mean.shape[1], frames.lengths, frames.deviation
        self.knows_labels = frames.whole_clips
        if frames.whole_clips:
            centre, spread = _places(frames)
        else:
            centre = torch.zeros(len(frames.lengths), self.latent_dim)
            spread = (self.deviation * torch.eye(self.latent_dim)).expand(len(centre), -1, -1)
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread.contiguous())

    def sample(self, request: SamplingRequest) -> Iterator[Chunk]:
        """See `Prior.sample`. A prompt changes only the length; temperatures scale the distance from the centre.

        Raises:
            ConfigError: the request has a control that it cannot use, or a condition of another prior.
        """
        request.sampling.require_supported(self.controls, "prior normal")
        return in_chunks(request, self._frames(request), _lengths(request, self.lengths))

    def _frames(self, request: SamplingRequest) -> Iterator[Tensor]:
        generator = torch.Generator(self.centre.device).manual_seed(request.seed)
        for frame in count():
            label = label_at(request, frame, len(self.lengths)).to(self.centre.device)
            noise = normal((request.n, self.latent_dim), request.sampling, generator, self.centre.device)
            yield self.centre[label] + _apply(self.spread, label, noise)


def _places(frames: TrainingFrames) -> tuple[Float[Tensor, "labels dims"], Float[Tensor, "labels dims dims"]]:
    """Mean of the latents of all labels and of each, and the symmetric root of their covariance."""
    centres, spreads = [], []
    for k in range(len(frames.lengths)):
        rows = frames.label == k if k else np.ones(len(frames.label), dtype=bool)
        mean = frames.mean[rows].astype(np.float64)
        drawn = np.exp(frames.log_variance[rows], dtype=np.float64).mean(axis=0)
        variance, basis = np.linalg.eigh(np.cov(mean.T, bias=True).reshape(2 * mean.shape[1:]) + np.diag(drawn))
        centres.append(mean.mean(axis=0))
        spreads.append(basis * np.sqrt(variance.clip(min=0)) @ basis.T)
    return torch.from_numpy(np.stack(centres)).float(), torch.from_numpy(np.stack(spreads)).float()


class RandomWalk(nn.Module):
    """`random-walk`: an Ornstein-Uhlenbeck process with the mean, covariance and autocorrelation of the corpus.

    Each principal component decays towards the mean at its own rate, given by its autocorrelation from one frame to the
    next. The noise of the posterior is uncorrelated and part of it. The process is discretised exactly, so covariance
    and autocorrelation are those of the corpus. A negative autocorrelation is treated as 0. The statistics of a label
    are those of its frames and `latent_dim` more frames like the corpus, so a label with few frames resembles the
    corpus.

    Args:
        frames: frames of the corpus.

    Source: Uhlenbeck, Ornstein 1930; Gillespie 1996 for the exact discretisation.
    """

    has_likelihood = False
    takes_spans: Literal[True] = True
    controls: tuple[str, ...] = CONTROLS
    centre: Tensor
    spread: Tensor
    decay: Tensor
    push: Tensor

    def __init__(self, frames: TrainingFrames) -> None:
        super().__init__()
        self.latent_dim, self.lengths = frames.mean.shape[1], frames.lengths
        origin = frames.mean.mean(axis=0, dtype=np.float64)
        corpus = _moments(frames, np.ones(len(frames.mean), dtype=bool), origin)
        alike = corpus * self.latent_dim / len(frames.mean)
        own = [_moments(frames, frames.label == k, origin) + alike for k in range(1, len(frames.lengths))]
        fitted = [_fit(moments) for moments in (corpus, *own)]
        centre, spread, decay, push = (torch.from_numpy(np.stack(part)).float() for part in zip(*fitted, strict=True))
        self.register_buffer("centre", centre + torch.from_numpy(origin).float())
        self.register_buffer("spread", spread)
        self.register_buffer("decay", decay)
        self.register_buffer("push", push)

    def sample(self, request: SamplingRequest) -> Iterator[Chunk]:
        """See `Prior.sample`. A prompt is continued from its last frame; temperatures scale the deviation.

        Raises:
            ConfigError: the request has a control that it cannot use, or a condition of another prior.
        """
        request.sampling.require_supported(self.controls, "prior random-walk")
        generator = torch.Generator(self.centre.device).manual_seed(request.seed)
        return in_chunks(request, self.path(request, generator), _lengths(request, self.lengths))

    def path(self, request: SamplingRequest, generator: torch.Generator) -> Iterator[Float[Tensor, "n latent_dim"]]:
        """Frames of the walk, without end."""
        value = None if request.prompt is None else request.prompt[:, -1].expand(request.n, -1)
        for frame in count():
            label = label_at(request, frame, len(self.lengths)).to(self.centre.device)
            centre = self.centre[label]
            noise = normal((request.n, self.latent_dim), request.sampling, generator, centre.device)
            if value is None:
                value = centre + _apply(self.spread, label, noise)
            else:
                value = centre + _apply(self.decay, label, value - centre) + _apply(self.push, label, noise)
            yield value


def label_at(request: SamplingRequest, frame: int, n: int) -> Int[Tensor, " n"]:
    """The index of each sequence's label."""
    condition = request.condition_at(frame)
    if condition is None:
        return torch.zeros(request.n, dtype=torch.long)
    if condition.shape[1] != n:
        raise ConfigError(
            f"a condition of {condition.shape[1]} numbers", f"{n}, one a label and one for none", "ask its own prior"
        )
    return condition.argmax(1)


def _lengths(request: SamplingRequest, lengths: Sequence[Int[np.ndarray, " _sequences"]]) -> list[int]:
    """Number of new frames of each sequence, drawn from the possible lengths of its first label.

    A label without lengths uses those of all labels. If there are none, or all are too short, the limits decide.
    """
    if not request.until_stop or not len(lengths[0]):
        return [request.max_frames] * request.n
    given = 0 if request.prompt is None else request.prompt.shape[1]
    least = max(request.min_frames, 1 if request.prompt is None else 0)
    rng = np.random.default_rng(request.seed)
    new = []
    for label in label_at(request, 0, len(lengths)).tolist():
        known = lengths[label] if len(lengths[label]) else lengths[0]
        possible = known[known >= given + least] - given
        new.append(min(request.max_frames, int(rng.choice(possible)) if len(possible) else least))
    return new


def in_chunks(request: SamplingRequest, frames: Iterator[Tensor], lengths: list[int]) -> Iterator[Chunk]:
    """Chunks of frames (n, latent_dim), until the longest sequence has ended."""
    for start in range(0, max(lengths), request.chunk_frames):
        stop = min(start + request.chunk_frames, max(lengths))
        latents = torch.stack(list(islice(frames, stop - start)), dim=1)
        positions = torch.arange(start, stop, device=latents.device)
        yield Chunk(latents, positions >= torch.tensor(lengths, device=latents.device)[:, None])


def _apply(matrices: Tensor, label: Tensor, values: Tensor) -> Tensor:
    """Multiply each row by the matrix of its label."""
    out = torch.empty_like(values)
    for k in set(label.tolist()):
        out[label == k] = values[label == k] @ matrices[k].T
    return out


def _moments(
    frames: TrainingFrames, rows: Bool[np.ndarray, " frames"], origin: Float[np.ndarray, " latent_dim"]
) -> Float[np.ndarray, "3 dims dims"]:
    """Sums of products y yᵀ with y = (z − origin, 1): of frames, of neighbours, and of the frames of such pairs.

    The first and the last include the posterior's variance, which is not correlated between frames.
    """
    chosen = np.flatnonzero(rows)
    y = np.append(frames.mean[chosen] - origin, np.ones((len(chosen), 1)), axis=1)
    variance = np.pad(np.exp(frames.log_variance[chosen], dtype=np.float64), ((0, 0), (0, 1)))
    after = np.flatnonzero(frames.follows[chosen])
    # The frame before the first one may have another label.
    after = after[after > 0]
    before = after - 1

    def power(of: Int[np.ndarray, " _frames"] | slice) -> Float[np.ndarray, "dims dims"]:
        return np.asarray(y[of].T @ y[of] + np.diag(variance[of].sum(axis=0)))

    cross = y[before].T @ y[after]
    return np.stack([power(slice(None)), (cross + cross.T) / 2, (power(before) + power(after)) / 2])


def _fit(moments: Float[np.ndarray, "3 dims dims"]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centre, spread, decay, push: z₀ = centre + spread ε, z − centre = decay (z₋₁ − centre) + push ε."""
    centre = moments[0, :-1, -1] / moments[0, -1, -1]
    dims = len(centre)
    centring = np.append(np.eye(dims), -centre[:, None], axis=1)
    frames, cross, pairs = centring @ moments @ centring.T
    covariance = frames / moments[0, -1, -1]
    ridge = RIDGE * np.trace(covariance) / dims + np.finfo(np.float32).tiny
    variance, basis = np.linalg.eigh(covariance + ridge * np.eye(dims))
    likeness = np.diag(basis.T @ cross @ basis) / (np.diag(basis.T @ pairs @ basis) + np.finfo(np.float64).tiny)
    rate = np.clip(likeness, 0, 1)
    deviation = np.sqrt(variance)
    return centre, basis * deviation, basis * rate @ basis.T, basis * (deviation * np.sqrt(1 - rate**2))


RIDGE = 1e-6
"""Fraction of the mean variance that is added to the variance of every dimension."""
