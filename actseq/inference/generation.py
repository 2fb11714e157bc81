"""From a request to sound: prior → latents → decoder → vocoder, and the join of a continuation with its recording.

Everything is a stream: the prior yields chunks of latents, each clip decodes its share, and samples that are final are
yielded. An hour needs no more memory than a minute, and a whole clip is the concatenation of its pieces.
`actseq.inference.redo` makes a region of a recording again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from actseq import units
from actseq.arrays import LatentArray, Waveform
from actseq.audio import Span
from actseq.config import GenerateConfig
from actseq.errors import ConfigError
from actseq.inference.codec import Codec
from actseq.inference.joins import ALIGN_SECONDS, CROSSFADE_SECONDS, splice
from actseq.inference.streams import Encoded
from actseq.priors.base import Chunk, DensityPrior, KeepsLengths, Prior, Sampling, SamplingRequest
from actseq.representations.base import margin_hops

END_FADE_SECONDS = 0.005
SILENT_DB, SILENT_SECONDS = -60.0, 0.01
"""A clip that was decoded from one vector ends where it stays under this level, relative to its peak."""
SETTLE_SECONDS = 0.5
"""This much of the seed is decoded before the join, beyond the decoder's context: the vocoder's phases settle."""
GAP_SECONDS = 0.25
"""Silence between clips in a row."""
PRIOR_FRAMES = 64
"""Most latent frames that a prior samples before they are decoded; the clips do not depend on it."""
BATCH_CLIPS = 64
"""Number of clips that are sampled together."""


@dataclass(frozen=True)
class SeedAudio:
    """A recording that is continued.

    Attributes:
        waveform: (samples,) at the model's sample rate, as recorded.
        gain: gain that brings the recording to the level that the model knows.
        in_output: put the recording itself before what continues it.
    """

    waveform: Waveform
    gain: float
    in_output: bool = True

    @property
    def samples(self) -> int:
        """Number of samples in the recording."""
        return len(self.waveform)


@dataclass(frozen=True)
class SeedLatents:
    """Latents that are continued.

    Attributes:
        mean: (frames, latent_dim).
        samples: number of samples that they stand for; what continues them begins after these.
        gain: gain that brought their sound to the level that the model knows; it is undone in the clips.
        in_output: put the sound of the latents before what continues them.
    """

    mean: LatentArray
    samples: int
    gain: float
    in_output: bool = True


@dataclass(frozen=True)
class ResolvedRequest:
    """A `GenerationRequest` with the run's settings filled in, as tensors where the prior needs them.

    Attributes:
        settings: how long and how to draw. `seconds` is the length of what is new, None lets the prior end each clip;
            `after_end` counts only where `seconds` is given.
        n: number of clips.
        seed: seed of all random numbers.
        condition: (1, condition_dim); (n, frames, condition_dim) where labels have times; or None.
        condition_end: (1, condition_dim) to glide to over the clip; None stays.
        unconditional: (1, condition_dim), the condition that stands for no label.
        label: row of the label table, for priors that keep something for each label; 0 for none.
        label_end: row of the label that `condition_end` belongs to.
        spans: labels in time of each clip, which also say how long it is; None: one label, or none, and one length.
        decoder_label: row of the autoencoder's table of labels, for decoders that are given the label; 0 for none.
        seed_audio: recording to continue, or latents.
        gain: gain that brought a sound to the level that the model knows; it is undone in the clips.
        samples: number of samples after which a clip that the prior ends is complete; None: all that is decoded.
    """

    settings: GenerateConfig
    n: int = 1
    seed: int = 0
    condition: Tensor | None = None
    condition_end: Tensor | None = None
    unconditional: Tensor | None = None
    label: int = 0
    label_end: int = 0
    spans: tuple[tuple[Span, ...], ...] | None = None
    decoder_label: int = 0
    seed_audio: SeedAudio | SeedLatents | None = None
    gain: float = 1.0
    samples: int | None = None

    def seconds(self, clip: int) -> float | None:
        """Length of what is new in a clip; None lets the prior end it."""
        return self.settings.seconds if self.spans is None else self.spans[clip][-1].last


class End(NamedTuple):
    """How a clip ended.

    Attributes:
        stopped: the prior, or the recording around a new region, ended the clip; otherwise it was cut at the requested
            length.
        join: sample at which the continuation begins; None if nothing is continued, or the recording is left out.
        redone: the new region of a recording: its first sample and the one after its last; None if there is none.
        spans: labels of what is new, in seconds from its beginning; None if they have no times.
    """

    stopped: bool
    join: int | None
    redone: tuple[int, int] | None = None
    spans: tuple[Span, ...] | None = None


class Piece(NamedTuple):
    """The next part of one clip.

    Attributes:
        clip: index of the clip.
        waveform: (samples,), final.
        latents: (frames, latent_dim) that were sampled; their sound may come in later pieces.
        end: how the clip ended, in its last piece; None before.
    """

    clip: int
    waveform: Waveform
    latents: LatentArray
    end: End | None


@dataclass(frozen=True)
class Generated:
    """One new clip.

    Attributes:
        waveform: (samples,).
        latents: (frames, latent_dim) that were sampled.
        stopped: as in `End`.
        join: as in `End`.
        redone: as in `End`.
        spans: as in `End`.
    """

    waveform: Waveform
    latents: LatentArray
    stopped: bool
    join: int | None
    redone: tuple[int, int] | None = None
    spans: tuple[Span, ...] | None = None


def generate(codec: Codec, prior: Prior, request: ResolvedRequest) -> Iterator[Piece]:
    """Yield new clips piece by piece; up to `BATCH_CLIPS` clips grow side by side.

    Args:
        codec: decoder and vocoder.
        prior: prior over the codec's latents.
        request: what to make.

    Raises:
        ConfigError: the prior does not support the request.
    """
    prompt = None
    if request.seed_audio is not None:
        seed = request.seed_audio
        latents = seed.mean if isinstance(seed, SeedLatents) else encode_seed(codec, seed)[0]
        prompt = torch.from_numpy(latents).to(codec.device)[None]
    for first in range(0, request.n, BATCH_CLIPS):
        yield from _batch(codec, prior, request, prompt, first, min(BATCH_CLIPS, request.n - first))


def collect(pieces: Iterator[Piece], n: int) -> list[Generated]:
    """The `n` whole clips that the pieces belong to."""
    waveforms: list[list[Waveform]] = [[] for _ in range(n)]
    latents: list[list[LatentArray]] = [[] for _ in range(n)]
    ends: dict[int, End] = {}
    for piece in pieces:
        waveforms[piece.clip].append(piece.waveform)
        latents[piece.clip].append(piece.latents)
        if piece.end is not None:
            ends[piece.clip] = piece.end
    return [Generated(np.concatenate(waveforms[i]), np.concatenate(latents[i]), *ends[i]) for i in range(n)]


def sampled(codec: Codec, prior: Prior, request: ResolvedRequest) -> list[LatentArray]:
    """Latents (frames, latent_dim) of new clips that continue nothing, without their sound.

    Args, Raises: as `generate`.
    """
    parts: list[list[LatentArray]] = [[] for _ in range(request.n)]
    for first in range(0, request.n, BATCH_CLIPS):
        for row, taken, _ in _grown(codec, prior, request, None, (first, min(BATCH_CLIPS, request.n - first))):
            parts[first + row].append(taken)
    return [np.concatenate(own) for own in parts]


def _batch(
    codec: Codec, prior: Prior, wanted: ResolvedRequest, prompt: Tensor | None, first: int, n: int
) -> Iterator[Piece]:
    clips = [_Clip(codec, wanted, prompt, first + row) for row in range(n)]
    for row, taken, stopped in _grown(codec, prior, wanted, prompt, (first, n)):
        if stopped is None:
            yield Piece(first + row, clips[row].push(taken), taken, None)
        else:
            yield clips[row].end(stopped)


def _grown(
    codec: Codec, prior: Prior, wanted: ResolvedRequest, prompt: Tensor | None, batch: tuple[int, int]
) -> Iterator[tuple[int, LatentArray, bool | None]]:
    """The latents of a batch (its first clip, its size) as they are sampled.

    Yields:
        Row of the clip in the batch, and its new latents with None; or no latents with whether the prior ended the
        clip, once for each clip.
    """
    first, n = batch
    until_stop = wanted.settings.seconds is None
    nothing = np.zeros((0, codec.autoencoder.latent_dim), np.float32)
    request = sampling_request(codec, prior, wanted, prompt, n, derived_seed(wanted.seed, first), first)
    left = [request.max_frames] * n if request.lengths is None else request.lengths.tolist()
    done = [False] * n
    for again in itertools.count():
        grew = False
        for chunk in candidates(prior, request, wanted.settings.best_of):
            latents, inside = chunk.latents.cpu().numpy(), (~chunk.stopped).sum(1).tolist()
            for row in range(n):
                taken = latents[row, : 0 if done[row] else min(inside[row], left[row])]
                if len(taken):
                    grew = True
                    left[row] -= len(taken)
                    yield row, taken, None
                if until_stop and not done[row] and inside[row] < latents.shape[1]:
                    done[row] = True
                    yield row, nothing, True
        if until_stop or not request.until_stop or not any(left) or (again and not grew):
            break
        # Clips that ended before their time start again; the others are full, and what is sampled for them is not used.
        seed = derived_seed(wanted.seed, first, again + 1)
        request = replace(request, prompt=None, min_frames=max(1, request.min_frames), seed=seed)
    for row in range(n):
        if not done[row]:
            yield row, nothing, until_stop and left[row] > 0


def sampling_request(
    codec: Codec, prior: Prior, wanted: ResolvedRequest, prompt: Tensor | None, n: int, seed: int, first: int = 0
) -> SamplingRequest:
    """What a prior is asked for: `n` clips, of which the first has the number `first`."""
    rate, settings, seeded = codec.autoencoder.latent_rate, wanted.settings, wanted.seed_audio
    # Where the seed is part of the clip, there is sound without anything new.
    at_least = 0 if seeded is not None and seeded.in_output else 1
    seconds = settings.max_seconds if settings.seconds is None else settings.seconds
    # A join may shift what is new by a little: there must be enough to fill the requested length.
    spare = ALIGN_SECONDS if seeded is not None and settings.seconds is not None else 0.0
    max_frames = units.seconds_to_frames(seconds + spare, rate)
    min_frames = units.seconds_to_frames(settings.min_seconds, rate) if settings.min_seconds else 0
    restart = settings.after_end == "restart" and wanted.condition_end is None and wanted.spans is None
    if codec.autoencoder.whole_clips:
        # Each clip is one vector, whatever is known of lengths.
        max_frames, restart = 1, False
    if isinstance(prior, KeepsLengths):
        # It makes one sequence of the requested length, unless no training sequence is as long.
        before = 0 if prompt is None else prompt.shape[1]
        restart = restart and 0 < prior.longest(wanted.label) < before + max_frames
    condition, lengths = wanted.condition, None
    if wanted.spans is not None and condition is not None:
        # The clips of a batch have lengths of their own.
        own = [units.seconds_to_frames((wanted.seconds(first + row) or 0.0) + spare, rate) for row in range(n)]
        condition, lengths, max_frames = condition[first : first + n], torch.tensor(own), max(own)
    elif condition is not None:
        condition = condition.expand(n, -1)
    return SamplingRequest(
        n=n,
        max_frames=max_frames,
        min_frames=min(max(at_least, min_frames), max_frames),
        until_stop=settings.seconds is None or restart,
        ends=settings.after_end == "restart",
        condition=condition,
        condition_end=None if wanted.condition_end is None else wanted.condition_end.expand(n, -1),
        unconditional=wanted.unconditional,
        label=wanted.label,
        label_end=wanted.label_end,
        lengths=lengths,
        prompt=prompt,
        sampling=Sampling(**{field.name: getattr(settings, field.name) for field in fields(Sampling)}),
        seed=seed,
        # A codec with short chunks is for sound that is heard while it grows: it must not wait for many latents.
        chunk_frames=min(PRIOR_FRAMES, units.n_latent_frames(codec.chunk_frames, codec.autoencoder.stride)),
    )


def derived_seed(seed: int, *path: int) -> int:
    """The seed of a further draw: other than that of any neighbouring seed. A path of zeros gives the seed itself."""
    if not any(path):
        return seed
    return int(np.random.SeedSequence([seed, *path]).generate_state(1, np.uint64)[0]) >> 2


def candidates(prior: Prior, request: SamplingRequest, best_of: int) -> Iterator[Chunk]:
    """Chunks of what a prior samples, or of the best of several."""
    return prior.sample(request) if best_of == 1 else best(prior, request, best_of)


@torch.no_grad()
def best(prior: Prior, request: SamplingRequest, best_of: int) -> Iterator[Chunk]:
    """For each sequence the likeliest of `best_of` candidates, by mean log-density of the new frames; a single chunk.

    Raises:
        ConfigError: the prior has no likelihood, or the condition changes over the clip.
    """
    if not isinstance(prior, DensityPrior) or not prior.has_likelihood or request.changes:
        raise ConfigError(
            "the likeliest of several cannot be chosen here",
            "a sequence prior with head mixture or gaussian, and one label",
            "leave out best_of",
        )

    def repeated(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.repeat_interleave(best_of, dim=0)

    n, condition = request.n * best_of, repeated(request.condition)
    chunks = list(prior.sample(replace(request, n=n, condition=condition)))
    if not chunks:
        return
    latents = torch.cat([chunk.latents for chunk in chunks], dim=1)
    stopped = torch.cat([chunk.stopped for chunk in chunks], dim=1)
    lengths = (~stopped).sum(1)
    before = 0 if request.prompt is None else request.prompt.shape[1]
    whole = latents if request.prompt is None else torch.cat([request.prompt.expand(n, -1, -1), latents], dim=1)
    density = prior.log_prob(whole, before + lengths, condition)[:, before:].sum(1) / lengths.clamp(min=1)
    # A continuation without any new frame has no density to compare, and would always seem the likeliest.
    density = density.masked_fill(lengths == 0, -torch.inf)
    rows = density.reshape(-1, best_of).argmax(1) + torch.arange(request.n, device=density.device) * best_of
    yield Chunk(latents[rows], stopped[rows])


class _Clip:
    """One growing clip: decodes, joins what is new to the recording, keeps the length, fades where the clip is cut."""

    def __init__(self, codec: Codec, request: ResolvedRequest, prompt: Tensor | None, number: int) -> None:
        rate, seconds, seed = codec.sample_rate, request.seconds(number), request.seed_audio
        self.number, self.spans = number, None if request.spans is None else request.spans[number]
        self.rate, self.seed = rate, seed
        self.decoder, self.whole = codec.decode_stream(label=request.decoder_label), codec.autoencoder.whole_clips
        self.gain = np.float32(request.gain if seed is None else seed.gain)
        self.waiting: list[Any] = []
        self.nothing = np.zeros((0, codec.autoencoder.latent_dim), np.float32)
        self.tail = np.zeros(0, np.float32)
        self.fade = units.seconds_to_samples(END_FADE_SECONDS, rate)
        self.left = request.samples if seconds is None else units.seconds_to_samples(seconds, rate)
        self.join: int | None = None
        self.joined = seed is None
        if seed is None or prompt is None:
            return
        # Latents are decoded from the start where their sound is part of the clip.
        reach = None if seed.in_output and isinstance(seed, SeedLatents) else settling_frames(codec)
        start = 0 if reach is None else max(0, prompt.shape[1] - reach)
        self.begin = start * codec.samples_per_latent
        self.before = seed.samples - self.begin
        if seed.in_output:
            self.join = seed.samples
            self.left = None if self.left is None else self.left + seed.samples
        self.waiting = [self.decoder.push(prompt[0, start:].cpu().numpy()) / self.gain]

    def push(self, latents: LatentArray) -> Waveform:
        """Decode latents; the samples that are final."""
        return self._shape(self.decoder.push(latents), False)

    def end(self, stopped: bool) -> Piece:
        """The last piece of the clip."""
        made = np.concatenate([self._shape(self.decoder.finish(), True), self.tail])
        if self.whole:
            made, stopped = self._ended(np.concatenate([*self.waiting, made]))
        if not stopped:
            made = fade_out(made, self.rate)
        return Piece(self.number, made, self.nothing, End(stopped, self.join, spans=self.spans))

    def _shape(self, made: Waveform, last: bool) -> Waveform:
        made = made / self.gain
        if self.whole:
            # The end of a clip is where it has died away, which is known when all of it is there.
            self.waiting.append(made)
            return np.zeros(0, np.float32)
        if not self.joined:
            self.waiting.append(made)
            enough = units.seconds_to_samples(CROSSFADE_SECONDS + ALIGN_SECONDS, self.rate)
            if sum(map(len, self.waiting)) < self.before + enough and not last:
                return np.zeros(0, np.float32)
            made, self.joined = self._begin(np.concatenate(self.waiting)), True
        if self.left is not None:
            made = made[: self.left]
            self.left -= len(made)
        made = np.concatenate([self.tail, made])
        cut = max(0, len(made) - self.fade)
        self.tail = made[cut:]
        return made[:cut]

    def _ended(self, made: Waveform) -> tuple[Waveform, bool]:
        """A whole clip up to the requested length, or to where it stays under −60 dB of its peak; whether it did."""
        if self.left is not None:
            return made[: self.left], False
        end = audible_samples(made, self.rate)
        return made[:end], end < len(made)

    def _begin(self, made: Waveform) -> Waveform:
        """The seed and its continuation, or only the continuation."""
        assert self.seed is not None
        if not self.seed.in_output:
            return made[self.before :]
        if isinstance(self.seed, SeedLatents):
            return made
        recording = self.seed.waveform
        joined = splice(recording[self.begin :], made, self.rate)
        return np.concatenate([recording[: self.begin], joined])


def audible_samples(waveform: Waveform, sample_rate: int) -> int:
    """Samples up to where a clip stays under −60 dB of its peak, by the level over 10 ms; a silent clip has all."""
    size = units.seconds_to_samples(SILENT_SECONDS, sample_rate)
    power = np.square(np.pad(waveform, (0, -len(waveform) % size))).reshape(-1, size).mean(axis=1)
    loud = np.flatnonzero(power > np.square(waveform).max(initial=0.0) * units.db_to_power(SILENT_DB))
    return min(len(waveform), (int(loud[-1]) + 1) * size) if len(loud) else len(waveform)


def untouched_samples(codec: Codec, samples: int) -> int:
    """Samples at the beginning of a recording that its continuation leaves as they are, known before it is made."""
    reach = settling_frames(codec)
    frames = -(-samples // codec.samples_per_latent)
    return 0 if reach is None else max(0, frames - reach) * codec.samples_per_latent


def settling_frames(codec: Codec) -> int | None:
    """Latent frames after which decoded sound is settled, whatever came before; None: never."""
    if codec.autoencoder.context_frames is None:
        return None
    context = units.n_latent_frames(codec.autoencoder.context_frames, codec.autoencoder.stride)
    return context + units.seconds_to_frames(SETTLE_SECONDS, codec.autoencoder.latent_rate)


def fade_out(waveform: Waveform, sample_rate: int) -> Waveform:
    """A copy with a fade at its end."""
    n = min(len(waveform), units.seconds_to_samples(END_FADE_SECONDS, sample_rate))
    return np.concatenate(
        [waveform[: len(waveform) - n], waveform[len(waveform) - n :] * np.linspace(1, 0, n, dtype=np.float32)]
    )


def encode_seed(codec: Codec, seed_audio: SeedAudio) -> Encoded:
    """Mean and log-variance (frames, latent_dim) of a recording that is to be continued.

    The recording is mirrored at its end before it is encoded: with silence there, the encoder, and so the prior, would
    find that the sound ends where the recording was cut.
    """
    waveform = seed_audio.waveform * np.float32(seed_audio.gain)
    frames = -(-len(waveform) // codec.samples_per_latent)
    hop, reach = codec.representation.hop_length, codec.representation.context_samples
    reach = margin_hops(codec.representation) * hop if reach is None else reach
    context = (codec.autoencoder.context_frames or 64) * hop + reach
    extended = np.pad(
        waveform, (0, context + codec.samples_per_latent), mode="reflect" if len(waveform) > 1 else "edge"
    )
    mean, log_variance = codec.encode([extended.astype(np.float32)])[0]
    return mean[:frames], None if log_variance is None else log_variance[:frames]


def compile_clips(waveforms: list[Waveform], sample_rate: int, gap_seconds: float = GAP_SECONDS) -> Waveform:
    """All clips in a row with silence between them; a clip beyond full scale is turned down, as in its file."""
    gap = np.zeros(units.seconds_to_samples(gap_seconds, sample_rate), dtype=np.float32)
    parts: list[Any] = []
    for waveform in waveforms:
        peak = float(np.abs(waveform).max(initial=0.0))
        parts += [waveform * np.float32(1 / peak) if peak > 1 else waveform, gap]
    return np.concatenate(parts[:-1]) if parts else gap[:0]
