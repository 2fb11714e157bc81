"""Regenerating a region of a recording: a prior fills the latent frames between a prefix and a suffix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32

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
from actseq.inference.request import no_part, part_text, require_part
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
            ConfigError: the part is not inside the recording, or shorter than a sample.
        """
        rate = codec.sample_rate
        return Region.around(codec, n_samples, *part_in_samples("--redo", (begin, end), n_samples, rate))

    @staticmethod
    def around(codec: Codec, n_samples: int, start: int, last: int) -> Region:
        """A part given in samples, rounded outward to latent frames.

        Args:
            codec: its latent frames.
            n_samples: length of the recording.
            start: first sample of the part.
            last: the sample after its last.
        """
        size = codec.samples_per_latent
        first, stop = start // size, units.n_hops(last, size)
        if stop * size >= n_samples:
            # A frame may be centred just after the last sample.
            stop = units.n_latent_frames(
                units.n_frames(n_samples, codec.representation.hop_length), codec.autoencoder.stride
            )
        return Region(first, stop, (first * size, min(stop * size, n_samples)))


def part_in_samples(option: str, part: tuple[float, float | None], n_samples: int, rate: int) -> tuple[int, int]:
    """First sample of a part of a recording that is given in seconds, and the one after its last.

    Args:
        option: what the part was given by, for the message.
        part: where it begins and ends in seconds; an end of None is that of the recording.
        n_samples: length of the recording.
        rate: sample rate in Hz.

    Raises:
        ConfigError: the part is not inside the recording, does not begin before it ends, or is shorter than a sample.
    """
    require_part(option, part)
    begin, end = part
    length = units.samples_to_seconds(n_samples, rate)
    # A time far beyond the recording, such as an infinite one, has no number of samples.
    start = units.seconds_to_samples(min(begin, length + 1), rate)
    last = n_samples if end is None else units.seconds_to_samples(min(end, length + 1), rate)
    if start >= n_samples or last > n_samples:
        found = f"{option} {part_text(part)} is not inside the recording"
        raise ConfigError(found, f"seconds from 0 to {length:.3f}", "end it with - for the recording's end")
    if not 0 <= start < last:
        raise no_part(option, part)
    return start, last


def require_suffix(prior: Prior, name: str | None, run: str) -> None:
    """Refuse a prior that cannot lead to given latents.

    Args:
        prior: the prior.
        name: its name.
        run: the run, as commands name it.

    Raises:
        ConfigError: the prior takes no suffix; the kinds that take one are named.
    """
    if not isinstance(prior, TakesSuffix):
        kinds = registry.prior_kinds("takes_suffix")
        raise ConfigError(
            f"prior {name} cannot regenerate a region: it knows nothing of what follows",
            f"a prior of kind {' or '.join(kinds)}",
            f"train one: actseq train-prior {run} --name NAME --set prior.network.kind={kinds[0]}",
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
    for first in range(0, wanted.n, BATCH_CLIPS):
        n = min(BATCH_CLIPS, wanted.n - first)
        for row, new in enumerate(between(codec, prior, replace(wanted, n=n), latents, region, first)):
            yield Piece(first + row, _inserted(codec, seed, latents, new, region), new, End(True, None, region.samples))


def between(
    codec: Codec,
    prior: Prior,
    wanted: ResolvedRequest,
    latents: LatentArray,
    region: Region,
    *path: int,
    nearness: float = 0.0,
) -> Float32[np.ndarray, "n frames latent_dim"]:
    """Latents that a prior makes for a region, given those around it.

    Args:
        codec: autoencoder and device.
        prior: a prior that takes a suffix.
        wanted: how many to draw, and how.
        latents: those of the recording.
        region: the region.
        path: numbers that the draw's seed is derived from, beside that of `wanted`.
        nearness: how much those inside the region are followed as a guess; at 0 they are not used.

    Raises:
        ConfigError: the prior does not support the request.
    """
    given = torch.from_numpy(latents).to(codec.device)[None]
    prompt, suffix, frames = given[:, : region.first], given[:, region.stop :], region.stop - region.first
    seed = derived_seed(wanted.seed, *path)
    request = sampling_request(codec, prior, wanted, prompt if region.first else None, wanted.n, seed)
    request = replace(
        request,
        max_frames=frames,
        min_frames=frames,
        until_stop=False,
        suffix=suffix if suffix.shape[1] else None,
        guess=given[:, region.first : region.stop] if nearness else None,
        nearness=nearness,
    )
    chunks = [chunk.latents for chunk in candidates(prior, request, wanted.settings.best_of)]
    return torch.cat(chunks, dim=1).cpu().numpy()


def _inserted(codec: Codec, seed: SeedAudio, latents: LatentArray, new: LatentArray, region: Region) -> Waveform:
    """The recording with the sound of new latents in a region."""
    made, offset = decoded_around(codec, latents, new, region)
    whole = patch(seed.waveform, made / np.float32(seed.gain), offset, region.samples, codec.sample_rate)
    return fade_out(whole, codec.sample_rate) if region.samples[1] == len(whole) else whole


def decoded_around(codec: Codec, latents: LatentArray, new: LatentArray, region: Region) -> tuple[Waveform, int]:
    """The sound of new latents in a region and of those around it as far as they matter, and its first sample."""
    reach = settling_frames(codec)
    start = 0 if reach is None else max(0, region.first - reach)
    stop = len(latents) if reach is None else region.stop + reach
    [made] = codec.decode([np.concatenate([latents[start : region.first], new, latents[region.stop : stop]])])
    return made, start * codec.samples_per_latent
