"""Priors that need no training: what a corpus's frames say by themselves, and ways through or around given sequences.

`Iid` and `RandomWalk` are made on the spot from a corpus's latents. Their condition is one number a label, the first for no
label in particular; what is largest is meant, so that a glide flips in its middle. `Interpolate` and `Vary` are made from
given sounds, and are as long as those.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actseq.errors import ConfigError
from actseq.priors.base import Chunk, Request
from actseq.priors.baselines import RIDGE
from actseq.priors.heads import normal

CONTROLS = ("temperature", "noise_temperature", "bias", "noise_clamp")
MAX_CELLS = 2**22
"""Frames of one sequence times frames of the other that are aligned at most: 2048 and 2048, 80 MB."""
POSTERIOR_AMOUNT = 0.2
"""Amount of variation from which on a sound's whole posterior is drawn from."""
PARALLEL = 1e-5
"""Sine of an angle under which a great circle is not told from its chord."""


@dataclass(frozen=True)
class TrainingFrames:
    """What priors without training are made from.

    Attributes:
        mean: of the posterior of each frame.
        log_variance: of the same; −inf where the code is a point.
        label: 0 for none, else the number of the label from 1 on; never falling.
        follows: whether a frame comes right after the row before it, in the same sequence.
        lengths: of whole sequences, for each label; those of all come first.
    """

    mean: Float[np.ndarray, "frames latent_dim"]
    log_variance: Float[np.ndarray, "frames latent_dim"]
    label: Int[np.ndarray, " frames"]
    follows: Bool[np.ndarray, " frames"]
    lengths: list[Int[np.ndarray, " _sequences"]]


class Iid(nn.Module):
    """`iid`: every frame is one of the training frames, drawn anew from its posterior, whatever came before.

    Args:
        frames: of the corpus.
    """

    has_likelihood = False
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
        # No label in particular: all of them, and those without.
        first[0], number[0] = 0, len(frames.mean)
        self.register_buffer("mean", torch.from_numpy(frames.mean))
        self.register_buffer("deviation", torch.from_numpy(np.exp(0.5 * frames.log_variance)))
        self.register_buffer("first", torch.from_numpy(first))
        self.register_buffer("number", torch.from_numpy(number))

    def sample(self, request: Request) -> Iterator[Chunk]:
        """See `Prior.sample`. A prompt matters only for how long it goes on; temperatures scale the posterior's noise.

        Raises:
            ConfigError: a control that it does not know, or a condition of another prior.
        """
        request.sampling.only(self.controls, "prior iid")
        return _chunks(request, self._frames(request), _lengths(request, self.lengths))

    def _frames(self, request: Request) -> Iterator[Tensor]:
        device = self.mean.device
        generator = torch.Generator(device).manual_seed(request.seed)
        for frame in count():
            label = _label(request, frame, len(self.lengths)).to(device)
            # The remainder of so large a number is as good as uniform.
            drawn = torch.randint(2**62, (request.n,), generator=generator, device=device)
            row = self.first[label] + drawn % self.number[label]
            noise = normal((request.n, self.latent_dim), request.sampling, generator, device)
            yield self.mean[row] + self.deviation[row] * noise


class RandomWalk(nn.Module):
    """`random-walk`: an Ornstein-Uhlenbeck process with the corpus's mean, covariance and slowness.

    Each component of the covariance decays towards the mean at a rate of its own: that of its autocorrelation from a frame
    to the next, the posterior's noise included, which is not correlated. The process is discretised exactly, so its
    covariance and that autocorrelation are those of the corpus; it cannot alternate, and where a component does, it is
    white. The statistics of a label are taken from its frames and `latent_dim` more that are like the corpus: a label with
    many frames has its own, one with few resembles the corpus.

    Args:
        frames: of the corpus.

    Source: Uhlenbeck, Ornstein 1930; Gillespie 1996 for the exact discretisation.
    """

    has_likelihood = False
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

    def sample(self, request: Request) -> Iterator[Chunk]:
        """See `Prior.sample`. After a prompt it goes on from the last frame; temperatures scale the deviation.

        Raises:
            ConfigError: a control that it does not know, or a condition of another prior.
        """
        request.sampling.only(self.controls, "prior random-walk")
        generator = torch.Generator(self.centre.device).manual_seed(request.seed)
        return _chunks(request, self.path(request, generator), _lengths(request, self.lengths))

    def path(self, request: Request, generator: torch.Generator) -> Iterator[Float[Tensor, "n latent_dim"]]:
        """Frames without end."""
        value = None if request.prompt is None else request.prompt[:, -1].expand(request.n, -1)
        for frame in count():
            label = _label(request, frame, len(self.lengths)).to(self.centre.device)
            centre = self.centre[label]
            noise = normal((request.n, self.latent_dim), request.sampling, generator, centre.device)
            if value is None:
                value = centre + _apply(self.spread, label, noise)
            else:
                value = centre + _apply(self.decay, label, value - centre) + _apply(self.push, label, noise)
            yield value


class Interpolate:
    """`interpolate`: through given sequences, from the first to the last.

    From each to the next leads a passage. The two are warped on to each other in time, so that what is alike in them
    coincides, and mixed frame by frame, the weight gliding from the one to the other: a passage begins exactly as the one
    begins and ends exactly as the other ends. Its natural length is the mean of their lengths. The mixture is spherical,
    about the origin: the direction moves along the great circle, the norm in a straight line.

    Args:
        sequences: two or more.

    Raises:
        ConfigError: fewer than two.

    Source: Sakoe, Chiba 1978 (dynamic time warping); Shoemake 1985 (spherical interpolation).
    """

    has_likelihood = False
    controls: tuple[str, ...] = ()

    def __init__(self, sequences: Sequence[Float[Tensor, "_frames latent_dim"]]) -> None:
        if len(sequences) < 2:
            raise ConfigError(f"an interpolation through {len(sequences)} sounds", "at least 2")
        self.device, self.latent_dim = sequences[0].device, sequences[0].shape[1]
        arrays = [sequence.cpu().double().numpy() for sequence in sequences]
        self.passages = [_Passage(one, other) for one, other in pairwise(arrays)]

    @property
    def natural_frames(self) -> int:
        """Length with `until_stop`."""
        return round(sum(passage.natural_frames for passage in self.passages))

    def sample(self, request: Request) -> Iterator[Chunk]:
        """See `Prior.sample`; all sequences are the same.

        With `until_stop` it has its natural length where the request allows, else the nearest that it does.

        Raises:
            ConfigError: a prompt, a label, a control, or less than two frames for each passage.
        """
        _refuse_prompt(request, "an interpolation")
        if request.condition is not None:
            raise ConfigError("an interpolation knows no label", action="leave out the label")
        request.sampling.only(self.controls, "an interpolation")
        total = request.max_frames
        if request.until_stop:
            total = min(max(self.natural_frames, request.min_frames), request.max_frames)
        return _chunks(request, self._frames(request.n, self._split(total)), [total] * request.n)

    def _split(self, total: int) -> list[int]:
        """Frames of each passage: two, and of the rest its share by natural length."""
        least = 2 * len(self.passages)
        if total < least:
            raise ConfigError(
                f"an interpolation through {len(self.passages) + 1} sounds was given {total} latent frames",
                f"at least {least}",
                "ask for more seconds",
            )
        surplus = np.array([passage.natural_frames - 2 for passage in self.passages])
        share = surplus / surplus.sum() if surplus.any() else np.full(len(surplus), 1 / len(surplus))
        ends = np.floor((2 + share * (total - least)).cumsum() + 1e-6).astype(int)
        return [int(frames) for frames in np.diff(ends, prepend=0)]

    def _frames(self, n: int, split: list[int]) -> Iterator[Tensor]:
        for passage, frames in zip(self.passages, split, strict=True):
            for k in range(frames):
                value = torch.from_numpy(passage.at(k / (frames - 1)).astype(np.float32))
                yield value.to(self.device).expand(n, -1)


class _Passage:
    """From one sequence to the other."""

    def __init__(self, one: Float[np.ndarray, "_frames dims"], other: Float[np.ndarray, "_frames2 dims"]) -> None:
        self.one, self.other = one, other
        path = warping_path(one, other)
        self.in_one, self.in_other = path.T
        # Time that runs at the mean pace of the two.
        self.clock = path.mean(axis=1)
        self.natural_frames = max(2.0, (len(one) + len(other)) / 2)

    def at(self, share: float) -> Float[np.ndarray, " dims"]:
        """The frame where so much of the passage is over, 0 to 1."""
        time = share * self.clock[-1]
        one = _between(self.one, float(np.interp(time, self.clock, self.in_one)))
        other = _between(self.other, float(np.interp(time, self.clock, self.in_other)))
        return spherical(one, other, share)


def _between(sequence: Float[np.ndarray, "_frames dims"], at: float) -> Float[np.ndarray, " dims"]:
    before = min(int(at), len(sequence) - 1)
    return spherical(sequence[before], sequence[min(before + 1, len(sequence) - 1)], at - before)


def warping_path(
    one: Float[np.ndarray, "_frames dims"], other: Float[np.ndarray, "_frames2 dims"]
) -> Int[np.ndarray, "steps 2"]:
    """Pairs of frames that belong together, from the first two to the last two.

    No frame of either is left out; but of sequences that make more than `MAX_CELLS` pairs only every second frame, third
    frame and so on is aligned.
    """
    from librosa.sequence import dtw

    step = math.ceil(math.sqrt(len(one) * len(other) / MAX_CELLS))
    rows = [np.unique([*range(0, len(sequence), step), len(sequence) - 1]) for sequence in (one, other)]
    path = dtw(one[rows[0]].T, other[rows[1]].T, metric="euclidean")[1][::-1]
    aligned: Int[np.ndarray, "steps 2"] = np.stack([rows[0][path[:, 0]], rows[1][path[:, 1]]], axis=1)
    return aligned


def spherical(
    one: Float[np.ndarray, " dims"], other: Float[np.ndarray, " dims"], weight: float
) -> Float[np.ndarray, " dims"]:
    """The direction on the great circle from one to the other, the norm on a straight line; exact at both ends.

    In a straight line altogether where there is no circle: next to parallel or opposite, or one of them next to nothing.
    """
    norms = np.linalg.norm(one), np.linalg.norm(other)
    norm = (1 - weight) * norms[0] + weight * norms[1]
    if min(norms) > 1e-6:
        angle = np.arccos(np.clip(one @ other / (norms[0] * norms[1]), -1, 1))
        if np.sin(angle) > PARALLEL:
            shares = np.sin(np.array([1 - weight, weight]) * angle) / np.sin(angle) * (norm / np.array(norms))
            return np.asarray(shares[0] * one + shares[1] * other)
    return np.asarray((1 - weight) * one + weight * other)


class Vary:
    """`vary`: variations of a sound, of its length, between the sound itself and any of the corpus.

    z = m + √(1 − a²) (x − m) + a (w − m) for an amount a, with the mean m of the corpus or label, a draw x from the sound's
    posterior and a random walk w. A sum of such squares keeps the covariance of the corpus whatever the amount. The walk is
    smooth in time, so what changes is a gesture and not the noise of single frames. The noise of x has min(1, a / 0.2) times
    the posterior's deviation: 0 is the mean of the posterior exactly, small amounts stay near what the autoencoder holds for
    the same sound, and of 1 nothing is left of it.

    Args:
        mean: of the sound's posterior.
        log_variance: of the same; None where the code is a point.
        walk: of the corpus.
        amount: 0 to 1.

    Raises:
        ConfigError: another amount.

    Source: Cotter et al. 2013, MCMC Methods for Functions, section 4 (the proposal that keeps a Gaussian).
    """

    has_likelihood = False
    controls: tuple[str, ...] = CONTROLS

    def __init__(
        self,
        mean: Float[Tensor, "frames latent_dim"],
        log_variance: Float[Tensor, "frames latent_dim"] | None,
        walk: RandomWalk,
        *,
        amount: float,
    ) -> None:
        if not 0 <= amount <= 1:
            raise ConfigError(f"amount of variation {amount:g}", "0 (the sound itself) to 1 (nothing of it left)")
        self.latent_dim, self.mean, self.walk, self.amount = mean.shape[1], mean, walk, amount
        self.deviation = torch.zeros_like(mean) if log_variance is None else (0.5 * log_variance).exp()

    @property
    def natural_frames(self) -> int:
        """Length of the sound."""
        return len(self.mean)

    def sample(self, request: Request) -> Iterator[Chunk]:
        """See `Prior.sample`; a condition says which label's statistics to go to, as of the walk.

        Raises:
            ConfigError: a prompt, a control that the walk does not know, or more frames than the sound has.
        """
        _refuse_prompt(request, "a variation")
        request.sampling.only(self.controls, "a variation")
        asked = request.min_frames if request.until_stop else request.max_frames
        if asked > len(self.mean):
            raise ConfigError(
                f"a variation was asked for {asked} latent frames",
                f"at most {len(self.mean)}, as many as the sound has",
                "leave out the length",
            )
        total = min(len(self.mean), request.max_frames)
        return _chunks(request, self._frames(request), [total] * request.n)

    def _frames(self, request: Request) -> Iterator[Tensor]:
        generator = torch.Generator(self.mean.device).manual_seed(request.seed)
        walk = self.walk.path(request, generator)
        for frame, (mean, deviation) in enumerate(zip(self.mean, self.deviation, strict=True)):
            noise = normal((request.n, self.latent_dim), request.sampling, generator, mean.device)
            drawn = mean + min(1.0, self.amount / POSTERIOR_AMOUNT) * deviation * noise
            centre = self.walk.centre[_label(request, frame, len(self.walk.lengths)).to(mean.device)]
            kept = torch.lerp(centre, drawn, (1 - self.amount**2) ** 0.5)
            yield kept + self.amount * (next(walk) - centre)


def _refuse_prompt(request: Request, who: str) -> None:
    if request.prompt is not None:
        raise ConfigError(f"{who} cannot continue a recording", action="leave out the seed audio")


def _label(request: Request, frame: int, n: int) -> Int[Tensor, " n"]:
    """The number of each sequence's label."""
    condition = request.condition_at(frame)
    if condition is None:
        return torch.zeros(request.n, dtype=torch.long)
    if condition.shape[1] != n:
        raise ConfigError(
            f"a condition of {condition.shape[1]} numbers", f"{n}, one a label and one for none", "ask its own prior"
        )
    return condition.argmax(1)


def _lengths(request: Request, lengths: Sequence[Int[np.ndarray, " _sequences"]]) -> list[int]:
    """New frames of each sequence: drawn from those lengths of its first label that it can still have.

    A label without any takes those of all; without any at all, and where all are too short, the limits decide.
    """
    if not request.until_stop or not len(lengths[0]):
        return [request.max_frames] * request.n
    given = 0 if request.prompt is None else request.prompt.shape[1]
    least = max(request.min_frames, 1 if request.prompt is None else 0)
    rng = np.random.default_rng(request.seed)
    new = []
    for label in _label(request, 0, len(lengths)).tolist():
        known = lengths[label] if len(lengths[label]) else lengths[0]
        possible = known[known >= given + least] - given
        new.append(min(request.max_frames, int(rng.choice(possible)) if len(possible) else least))
    return new


def _chunks(request: Request, frames: Iterator[Tensor], lengths: list[int]) -> Iterator[Chunk]:
    """Frames (n, latent_dim) in pieces, until the longest sequence has ended."""
    for start in range(0, max(lengths), request.chunk_frames):
        stop = min(start + request.chunk_frames, max(lengths))
        latents = torch.stack(list(islice(frames, stop - start)), dim=1)
        positions = torch.arange(start, stop, device=latents.device)
        yield Chunk(latents, positions >= torch.tensor(lengths, device=latents.device)[:, None])


def _apply(matrices: Tensor, label: Tensor, values: Tensor) -> Tensor:
    """To each row the matrix of its label."""
    out = torch.empty_like(values)
    for k in set(label.tolist()):
        out[label == k] = values[label == k] @ matrices[k].T
    return out


def _moments(
    frames: TrainingFrames, rows: Bool[np.ndarray, " frames"], origin: Float[np.ndarray, " latent_dim"]
) -> Float[np.ndarray, "3 dims dims"]:
    """Sums of products y yᵀ, y = (z − origin, 1): of frames, of each with the next, and of both of such a pair by themselves.

    The posterior's variance is in the first and the last: from one frame to the next it is not correlated.
    """
    chosen = np.flatnonzero(rows)
    y = np.append(frames.mean[chosen] - origin, np.ones((len(chosen), 1)), axis=1)
    variance = np.pad(np.exp(frames.log_variance[chosen], dtype=np.float64), ((0, 0), (0, 1)))
    after = np.flatnonzero(frames.follows[chosen])
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
