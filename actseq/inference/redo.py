"""Regenerating a region of a recording: a prior fills the latent frames between a prefix and a suffix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from actseq import registry, units
from actseq.arrays import LatentArray, Waveform
from actseq.errors import ConfigError
from actseq.inference.codec import Codec
from actseq.inference.generation import (
    BATCH_CLIPS,
    End,
    Piece,
    ResolvedRequest,
    SeedAudio,
    candidates,
    derived_seed,
    fade_out,
    sampling_request,
    settling_frames,
)
from actseq.inference.joins import patch
from actseq.priors.base import Prior, TakesSuffix


@dataclass(frozen=True)
class Region:
    """A part of a recording, in latent frames.

    Attributes:
        first: first frame.
        stop: frame after the last.
        samples: the part in samples: the first, and the one after the last.
    """

    first: int
    stop: int
    samples: tuple[int, int]

    @staticmethod
    def of(codec: Codec, n_samples: int, begin: float, end: float | None) -> Region:
        """A part given in seconds, rounded outward to latent frames.

        Args:
            codec: its latent frames.
            n_samples: length of the recording.
            begin: where the part begins.
            end: where it ends; None: where the recording ends.

        Raises:
            ConfigError: the part is not inside the recording.
        """
        rate, size = codec.sample_rate, codec.samples_per_latent
        start = units.seconds_to_samples(begin, rate)
        last = n_samples if end is None else units.seconds_to_samples(end, rate)
        if start >= n_samples or last > n_samples:
            found = f"--redo {begin:g}:{'-' if end is None else f'{end:g}'} is not inside the recording"
            length = units.samples_to_seconds(n_samples, rate)
            raise ConfigError(found, f"seconds from 0 to {length:.3f}", "end it with - for the recording's end")
        first, stop = start // size, units.n_hops(last, size)
        if stop * size >= n_samples:
            # A frame may be centred just after the last sample.
            stop = units.n_latent_frames(
                units.n_frames(n_samples, codec.representation.hop_length), codec.autoencoder.stride
            )
        return Region(first, stop, (first * size, min(stop * size, n_samples)))


def require_suffix(prior: Prior, name: str | None) -> None:
    """Refuse a prior that cannot lead to given latents.

    Raises:
        ConfigError: the prior takes no suffix; the kinds that take one are named.
    """
    if not isinstance(prior, TakesSuffix):
        kinds = [kind for kind, made in registry.PRIOR_NETWORKS.items() if hasattr(made, "takes_suffix")]
        raise ConfigError(
            f"prior {name} cannot regenerate a region: it knows nothing of what follows",
            f"a prior of kind {' or '.join(kinds)}",
            f"train one: actseq train-prior RUN --name NAME --set prior.network.kind={kinds[0]}",
        )


def regenerate(codec: Codec, prior: Prior, wanted: ResolvedRequest, region: Region) -> Iterator[Piece]:
    """Yield the recording again and again, each time with other sound in a region; one piece is a whole clip.

    Args:
        codec: encoder, decoder and vocoder.
        prior: a prior that takes a suffix.
        wanted: what to make; `seed_audio` is the recording.
        region: what is made.

    Raises:
        ConfigError: the prior does not support the request.
    """
    seed = wanted.seed_audio
    assert isinstance(seed, SeedAudio)
    latents = codec.encode([seed.waveform * np.float32(seed.gain)])[0][0]
    given = torch.from_numpy(latents).to(codec.device)[None]
    prompt, suffix = given[:, : region.first], given[:, region.stop :]
    for first in range(0, wanted.n, BATCH_CLIPS):
        n, frames = min(BATCH_CLIPS, wanted.n - first), region.stop - region.first
        request = sampling_request(
            codec, prior, wanted, prompt if region.first else None, n, derived_seed(wanted.seed, first)
        )
        request = replace(
            request,
            max_frames=frames,
            min_frames=frames,
            until_stop=False,
            suffix=suffix if suffix.shape[1] else None,
        )
        chunks = [chunk.latents for chunk in candidates(prior, request, wanted.settings.best_of)]
        for row, new in enumerate(torch.cat(chunks, dim=1).cpu().numpy()):
            yield Piece(first + row, _inserted(codec, seed, latents, new, region), new, End(True, None, region.samples))


def _inserted(codec: Codec, seed: SeedAudio, latents: LatentArray, new: LatentArray, region: Region) -> Waveform:
    """The recording with the sound of new latents in a region."""
    reach = settling_frames(codec)
    start = 0 if reach is None else max(0, region.first - reach)
    stop = len(latents) if reach is None else region.stop + reach
    [made] = codec.decode([np.concatenate([latents[start : region.first], new, latents[region.stop : stop]])])
    whole = patch(
        seed.waveform, made / np.float32(seed.gain), start * codec.samples_per_latent, region.samples, codec.sample_rate
    )
    return fade_out(whole, codec.sample_rate) if region.samples[1] == len(whole) else whole
