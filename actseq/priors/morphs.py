"""Interpolation and variation of given sounds: `Interpolate` and `Vary`. Their output is as long as those sounds.

`Given` gives back latents that are known.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from actseq.errors import ConfigError
from actseq.modules.numba_cache import import_cached
from actseq.priors.base import Chunk, Prior, SamplingRequest
from actseq.priors.heads import normal
from actseq.priors.untrained import CONTROLS, RandomWalk, in_chunks, label_at

MAX_CELLS = 2**22
"""Largest product of the frames of two sequences that are aligned: 2048 · 2048 frames need 80 MB."""
POSTERIOR_AMOUNT = 0.2
"""Smallest amount of variation with the full deviation of the posterior."""
PARALLEL = 1e-5
"""Sine of an angle below which the great circle and its chord are the same."""


class Interpolate:
    """`interpolate`: passes through given sequences, from the first to the last.

    A passage leads from each sequence to the next. Dynamic time warping aligns similar frames of the two. Aligned
    frames are mixed while the weight moves from one to the other, so a passage begins exactly like one sequence and
    ends exactly like the other. Its natural length is the mean of their lengths. The mixture is spherical about the
    origin: the direction moves along the great circle, the norm changes linearly.

    Args:
        sequences: two or more sequences.

    Raises:
        ConfigError: there are fewer than two sequences.

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

    def sample(self, request: SamplingRequest) -> Iterator[Chunk]:
        """See `Prior.sample`; all sequences are the same.

        With `until_stop` the length is the natural one, limited by the request.

        Raises:
            ConfigError: the request has a prompt, a label or a control, or less than two frames for each passage.
        """
        _refuse_prompt(request, "an interpolation")
        if request.condition is not None:
            raise ConfigError("an interpolation takes no label", action="leave out the label")
        request.sampling.require_supported(self.controls, "an interpolation")
        total = request.max_frames
        if request.until_stop:
            total = min(max(self.natural_frames, request.min_frames), request.max_frames)
        return in_chunks(request, self._frames(request.n, self._split(total)), [total] * request.n)

    def _split(self, total: int) -> list[int]:
        """Frames of each passage: two, and a part of the rest in proportion to its natural length."""
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


class Steps:
    """`interpolate` for one vector a clip: vectors at equal steps from the first of some vectors to the last.

    The mixture is spherical, as in `Interpolate`.

    Args:
        vectors: two or more vectors.

    Raises:
        ConfigError: there are fewer than two vectors.
    """

    has_likelihood = False
    controls: tuple[str, ...] = ()

    def __init__(self, vectors: Sequence[Float[Tensor, " latent_dim"]]) -> None:
        if len(vectors) < 2:
            raise ConfigError(f"an interpolation through {len(vectors)} sounds", "at least 2")
        self.device, self.latent_dim = vectors[0].device, len(vectors[0])
        self.vectors = np.stack([vector.cpu().double().numpy() for vector in vectors])

    def sample(self, request: SamplingRequest) -> Iterator[Chunk]:
        """One frame for each of `request.n` sequences: the sequences are the steps."""
        places = np.linspace(0, len(self.vectors) - 1, request.n)
        rows = np.stack([_between(self.vectors, float(place)) for place in places]).astype(np.float32)
        latents = torch.from_numpy(rows).to(self.device)[:, None]
        yield Chunk(latents, torch.zeros(request.n, 1, dtype=torch.bool, device=self.device))


class Given:
    """Latents that are given, as they are; used to decode latents that neither a prior nor an encoder made.

    Args:
        sequences: one or more sequences of one length.
    """

    has_likelihood = False
    controls: tuple[str, ...] = ()

    def __init__(self, sequences: Float[Tensor, "n frames latent_dim"]) -> None:
        self.sequences, self.latent_dim = sequences, sequences.shape[2]

    def sample(self, request: SamplingRequest) -> Iterator[Chunk]:
        """All of the sequences, in chunks; nothing else of the request counts."""
        for start in range(0, self.sequences.shape[1], request.chunk_frames):
            chunk = self.sequences[:, start : start + request.chunk_frames]
            yield Chunk(chunk, torch.zeros(chunk.shape[:2], dtype=torch.bool, device=chunk.device))


class _Passage:
    """A passage from one sequence to the other."""

    def __init__(self, one: Float[np.ndarray, "_frames dims"], other: Float[np.ndarray, "_frames2 dims"]) -> None:
        self.one, self.other = one, other
        path = warping_path(one, other)
        self.in_one, self.in_other = path.T
        # Time at the mean pace of the two.
        self.clock = path.mean(axis=1)
        self.natural_frames = max(2.0, (len(one) + len(other)) / 2)

    def at(self, fraction: float) -> Float[np.ndarray, " dims"]:
        """The frame at a fraction of the passage, 0 to 1."""
        time = fraction * self.clock[-1]
        one = _between(self.one, float(np.interp(time, self.clock, self.in_one)))
        other = _between(self.other, float(np.interp(time, self.clock, self.in_other)))
        return spherical(one, other, fraction)


def _between(sequence: Float[np.ndarray, "_frames dims"], at: float) -> Float[np.ndarray, " dims"]:
    before = min(int(at), len(sequence) - 1)
    return spherical(sequence[before], sequence[min(before + 1, len(sequence) - 1)], at - before)


def warping_path(
    one: Float[np.ndarray, "_frames dims"], other: Float[np.ndarray, "_frames2 dims"]
) -> Int[np.ndarray, "steps 2"]:
    """Pairs of aligned frames, from the two first to the two last.

    Every frame of both sequences is in a pair. If the sequences have more than `MAX_CELLS` pairs in all, only every
    second frame, third frame and so on is aligned.
    """
    sequences = import_cached("librosa.sequence")
    step = math.ceil(math.sqrt(len(one) * len(other) / MAX_CELLS))
    rows = [np.unique([*range(0, len(sequence), step), len(sequence) - 1]) for sequence in (one, other)]
    path = sequences.dtw(one[rows[0]].T, other[rows[1]].T, metric="euclidean")[1][::-1]
    aligned: Int[np.ndarray, "steps 2"] = np.stack([rows[0][path[:, 0]], rows[1][path[:, 1]]], axis=1)
    return aligned


def spherical(
    one: Float[np.ndarray, " dims"], other: Float[np.ndarray, " dims"], weight: float
) -> Float[np.ndarray, " dims"]:
    """Direction on the great circle between two vectors, norm on a straight line; exact at both ends.

    Where the circle is undefined, both are on a straight line: for nearly parallel or opposite vectors, or one near 0.
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
    """`vary`: variations of a sound with its length.

    z = m + √(1 − a²) (x − m) + a (w − m) for an amount a, with the mean m of the corpus or label, a draw x from the
    sound's posterior and a random walk w. The weights keep the covariance of the corpus for every amount. The walk is
    smooth in time, so a variation changes the course of the sound and not the noise of single frames. The noise of x
    has min(1, a / 0.2) times the posterior's deviation: 0 gives exactly the mean of the posterior, small amounts stay
    within the posterior, and with 1 nothing of the sound is left.

    Args:
        mean: mean of the sound's posterior.
        log_variance: log-variance of the sound's posterior; None for point latents.
        walk: the random walk over the latents of the corpus.
        amount: amount of variation, 0 to 1.

    Raises:
        ConfigError: the amount is out of range.

    Source: Cotter et al. 2013, MCMC Methods for Functions, section 4 (the proposal that keeps a Gaussian).
    """

    has_likelihood = False
    controls: tuple[str, ...] = CONTROLS

    def __init__(
        self,
        mean: Float[Tensor, "frames latent_dim"],
        log_variance: Float[Tensor, "frames latent_dim"] | None,
        walk: Prior,
        *,
        amount: float,
    ) -> None:
        if not 0 <= amount <= 1:
            raise ConfigError(f"amount of variation {amount:g}", "0 (the sound itself) to 1 (nothing of it left)")
        assert isinstance(walk, RandomWalk)
        self.latent_dim, self.mean, self.walk, self.amount = mean.shape[1], mean, walk, amount
        self.deviation = torch.zeros_like(mean) if log_variance is None else (0.5 * log_variance).exp()

    @property
    def natural_frames(self) -> int:
        """Length of the sound."""
        return len(self.mean)

    def sample(self, request: SamplingRequest) -> Iterator[Chunk]:
        """See `Prior.sample`; a condition selects the label whose statistics the walk has.

        Raises:
            ConfigError: the request has a prompt, a control that the walk cannot use, or more frames than the sound.
        """
        _refuse_prompt(request, "a variation")
        request.sampling.require_supported(self.controls, "a variation")
        asked = request.min_frames if request.until_stop else request.max_frames
        if asked > len(self.mean):
            raise ConfigError(
                f"a variation was asked for {asked} latent frames",
                f"at most {len(self.mean)}, as many as the sound has",
                "leave out the length",
            )
        total = min(len(self.mean), request.max_frames)
        return in_chunks(request, self._frames(request), [total] * request.n)

    def _frames(self, request: SamplingRequest) -> Iterator[Tensor]:
        generator = torch.Generator(self.mean.device).manual_seed(request.seed)
        walk = self.walk.path(request, generator)
        for frame, (mean, deviation) in enumerate(zip(self.mean, self.deviation, strict=True)):
            noise = normal((request.n, self.latent_dim), request.sampling, generator, mean.device)
            drawn = mean + min(1.0, self.amount / POSTERIOR_AMOUNT) * deviation * noise
            centre = self.walk.centre[label_at(request, frame, len(self.walk.lengths)).to(mean.device)]
            kept = torch.lerp(centre, drawn, (1 - self.amount**2) ** 0.5)
            yield kept + self.amount * (next(walk) - centre)


def _refuse_prompt(request: SamplingRequest, who: str) -> None:
    if request.prompt is not None:
        raise ConfigError(f"{who} cannot continue a recording", action="leave out the seed audio")
