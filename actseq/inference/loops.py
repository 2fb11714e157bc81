"""Cycles of sound that repeat without a seam.

Sound goes on beyond the end of the cycle, and what lies beyond is crossfaded into the beginning: after its last sample
the cycle goes on as the sound did. Where it begins is chosen so that both agree best.

A prior that knows what follows also closes the circle in the latents: the last part of the cycle is made to lead from
what comes before it to the beginning. What lies beyond the end is then the beginning itself, up to the rounding to
latent frames, and a short crossfade is enough.

Clips that end by themselves, such as hits and words, need none of this: a cycle of them is a clip with its end faded,
and then its beginning, which no crossfade may dull.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from actseq import units
from actseq.arrays import LatentArray, Waveform
from actseq.inference.codec import Codec
from actseq.inference.generation import (
    BATCH_CLIPS,
    End,
    Piece,
    ResolvedRequest,
    candidates,
    derived_seed,
    sampled,
    sampling_request,
    settling_frames,
)
from actseq.inference.joins import cycle
from actseq.priors.base import Prior, SamplingRequest, TakesSuffix

FADE_SECONDS = 0.3
"""Crossfade of sound that goes on beyond the cycle into its beginning; at most a quarter of the cycle."""
SHORT_FADE_SECONDS = 0.05
"""The same where the beginning comes again by itself."""
SHIFT_SECONDS = 0.1
"""The cycle may begin this much later than the sound."""


def loops(codec: Codec, prior: Prior, wanted: ResolvedRequest) -> Iterator[Piece]:
    """Yield cycles of exactly `settings.seconds`; one piece is a whole cycle.

    Args:
        codec: decoder and vocoder.
        prior: the prior.
        wanted: what to make; it continues nothing, and its condition does not change.

    Raises:
        ConfigError: the prior does not support the request.
    """
    rate, size, settings = codec.sample_rate, codec.samples_per_latent, wanted.settings
    assert settings.seconds is not None
    samples = units.seconds_to_samples(settings.seconds, rate)
    closed = isinstance(prior, TakesSuffix) and samples > size
    fade = units.seconds_to_samples(SHORT_FADE_SECONDS if closed else FADE_SECONDS, rate)
    fade = max(1, min(fade, samples // 4))
    beyond = fade + units.seconds_to_samples(SHIFT_SECONDS, rate)
    if closed:
        sequences = _circles(codec, prior, wanted, units.n_hops(samples, size))
    else:
        longer = settings.model_copy(update={"seconds": units.samples_to_seconds(samples + beyond + size, rate)})
        sequences = sampled(codec, prior, replace(wanted, settings=longer))
    for clip, latents in enumerate(sequences):
        made = _around(codec, latents, beyond, wanted.decoder_label) if closed else _decoded(codec, latents, wanted)
        yield Piece(clip, cycle(made[: samples + beyond], samples, fade), latents, End(False, None))


def _decoded(codec: Codec, latents: LatentArray, wanted: ResolvedRequest) -> Waveform:
    return codec.decode([latents], wanted.decoder_label)[0]


def _around(codec: Codec, circle: LatentArray, beyond: int, label: int) -> Waveform:
    """The sound of latents that repeat: at least once around and a number of samples beyond."""
    settling = settling_frames(codec)
    before = len(circle) if settling is None else settling
    places = np.arange(-before, len(circle) + units.n_hops(beyond, codec.samples_per_latent) + before)
    [made] = codec.decode([circle[places % len(circle)]], label)
    return made[before * codec.samples_per_latent :]


def _circles(codec: Codec, prior: Prior, wanted: ResolvedRequest, frames: int) -> list[LatentArray]:
    """Latents (frames, latent_dim) of clips whose last quarter leads to their beginning."""
    made: list[LatentArray] = []
    for first in range(0, wanted.n, BATCH_CLIPS):
        n, last = min(BATCH_CLIPS, wanted.n - first), max(1, frames // 4)
        request = sampling_request(codec, prior, wanted, None, n, derived_seed(wanted.seed, first))
        new = frames - last
        request = replace(request, max_frames=new, min_frames=new, until_stop=False, ends=False, goes_on=True)
        open_part = _drawn(prior, request, wanted.settings.best_of)
        seed = derived_seed(wanted.seed, first, 1)
        request = replace(request, max_frames=last, min_frames=last, prompt=open_part, suffix=open_part, seed=seed)
        whole = torch.cat([open_part, _drawn(prior, request, wanted.settings.best_of)], dim=1)
        made += list(whole.cpu().numpy())
    return made


def _drawn(prior: Prior, request: SamplingRequest, best_of: int) -> Tensor:
    return torch.cat([chunk.latents for chunk in candidates(prior, request, best_of)], dim=1)
