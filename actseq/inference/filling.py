"""Filling the gaps of a recording with sound that a prior makes, while the recording passes by.

The samples in a gap carry no information. So before the surroundings are encoded, the sound from either side is
mirrored into the gap: an encoder that sees silence there would find that the sound ends. The latents of what is
mirrored are a guess, from which the prior sets out at temperature 0; a draw at temperature 1 is free of it. Latent
frames that touch the gap are regenerated. Of their sound only what lies in the gap is used, with crossfades on either
side, so that no more of the recording changes than must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from actseq import units
from actseq.arrays import Waveform
from actseq.data.corpus import level_gain
from actseq.inference.codec import Codec
from actseq.inference.generation import ResolvedRequest, fade_out
from actseq.inference.joins import patch
from actseq.inference.redo import Region, between, decoded_around
from actseq.priors.base import Prior

AROUND_SECONDS = 5.0
"""This much of the recording on either side of a gap is encoded: more than half a window of the priors."""
NEARNESS = 0.6
"""How much the guess is followed at temperature 0; with 0.3 and 0.8 gaps of 50 ms in speech are filled less well."""


@dataclass(frozen=True)
class Gap:
    """A gap, in samples of the recording.

    Attributes:
        begin: its first sample.
        end: the one after its last.
        frames: the latent frames that are regenerated for it: the first, and the one after the last.
        regenerated: the samples of these frames.
    """

    begin: int
    end: int
    frames: tuple[int, int]
    regenerated: tuple[int, int]


def gaps_of(codec: Codec, parts: Sequence[tuple[int, int]], n_samples: int) -> list[Gap]:
    """Parts of a recording as gaps, in order; those that touch or overlap are one.

    Args:
        codec: its latent frames.
        parts: the first sample of each, and the one after its last.
        n_samples: length of the recording.
    """
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(parts):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((begin, end))
    made = []
    for begin, end in merged:
        region = Region.around(codec, n_samples, begin, end)
        made.append(Gap(begin, end, (region.first, region.stop), region.samples))
    return made


@dataclass
class FillingStream:
    """Recording → the same with other sound in its gaps; as little of it is held as a gap needs around it.

    What comes out does not depend on the sizes of the pieces that are pushed.

    Attributes:
        codec: encoder, decoder and vocoder.
        prior: a prior that takes a suffix.
        wanted: how to draw, and the seed.
        gaps: where, in order.
        held: samples that are kept for the surroundings of gaps.
        first: number of the first sample that is held.
        returned: number of samples that have been returned.
        done: number of gaps that have been filled.
    """

    codec: Codec
    prior: Prior
    wanted: ResolvedRequest
    gaps: Sequence[Gap]
    held: Waveform = field(default_factory=lambda: np.zeros(0, np.float32))
    first: int = 0
    returned: int = 0
    done: int = 0

    def push(self, waveform: Waveform) -> Waveform:
        """Take more samples; return those that are now final."""
        self.held = np.concatenate([self.held, waveform])
        while self.done < len(self.gaps) and self.gaps[self.done].end + self._around <= self._stop:
            self._fill()
        return self._final(self._stop if self.done == len(self.gaps) else self.gaps[self.done].begin - self._around)

    def finish(self) -> Waveform:
        """Return the rest."""
        while self.done < len(self.gaps):
            self._fill()
        return self._final(self._stop)

    @property
    def _around(self) -> int:
        """Samples around a gap, a whole number of latent frames."""
        size = self.codec.samples_per_latent
        return units.n_hops(units.seconds_to_samples(AROUND_SECONDS, self.codec.sample_rate), size) * size

    @property
    def _stop(self) -> int:
        return self.first + len(self.held)

    def _final(self, stop: int) -> Waveform:
        """The samples up to `stop` that were not returned yet; what no later gap needs is dropped."""
        stop = min(self._stop, max(self.returned, stop))
        made = self.held[self.returned - self.first : stop - self.first]
        self.returned = stop
        keep = stop if self.done == len(self.gaps) else max(self.first, min(stop, self._begin(self.gaps[self.done])))
        self.held, self.first = self.held[keep - self.first :], keep
        return made

    def _begin(self, gap: Gap) -> int:
        """First sample of the surroundings of a gap, where a latent frame begins."""
        return max(0, gap.regenerated[0] - self._around)

    def _fill(self) -> None:
        gap, begin = self.gaps[self.done], self._begin(self.gaps[self.done])
        stop = min(self._stop, gap.end + self._around)
        window = self.held[begin - self.first : stop - self.first]
        later = [one for one in self.gaps[self.done :] if one.begin < stop]
        parts = [(one.begin - begin, min(one.end, stop) - begin) for one in later]
        filled = fill(self.codec, self.prior, self.wanted, window, parts, self.done)
        self.held[begin - self.first : stop - self.first] = filled
        self.done += 1


def fill(
    codec: Codec,
    prior: Prior,
    wanted: ResolvedRequest,
    sound: Waveform,
    gaps: Sequence[tuple[int, int]],
    number: int,
) -> Waveform:
    """A sound with its first gap filled; silence stays as it is.

    Args:
        codec: encoder, decoder and vocoder.
        prior: a prior that takes a suffix.
        wanted: how to draw, and the seed.
        sound: (samples,).
        gaps: in order, first sample and the one after the last; what lies in the others is not used.
        number: number of the gap in its recording, from which the seed of the draw is derived.

    Raises:
        ConfigError: the prior does not support the request.
    """
    whole = bridged(sound, gaps)
    peak = float(np.abs(whole).max(initial=0.0))
    if not peak:
        return sound
    gain = np.float32(level_gain(peak, codec.level_dbfs))
    begin, end = gaps[0]
    latents = codec.encode([whole * gain])[0][0]
    region = Region.around(codec, len(sound), begin, end)
    nearness = NEARNESS * max(0.0, 1 - wanted.settings.temperature)
    [new] = between(codec, prior, replace(wanted, n=1), latents, region, number, nearness=nearness)
    made, offset = decoded_around(codec, latents, new, region)
    filled = patch(whole, made / gain, offset, (begin, end), codec.sample_rate)
    for other, after in gaps[1:]:
        filled[other:after] = sound[other:after]
    return fade_out(filled, codec.sample_rate) if end == len(sound) else filled


def bridged(sound: Waveform, gaps: Sequence[tuple[int, int]]) -> Waveform:
    """A sound with what lies beside each gap mirrored into it; what lies in the gaps is not used.

    Args:
        sound: (samples,).
        gaps: in order, first sample and the one after the last; they do not overlap.
    """
    made = sound.copy()
    nexts = [*(begin for begin, _ in gaps[1:]), len(sound)]
    for (begin, end), next_begin in zip(gaps, nexts, strict=True):
        made[begin:end] = mirrored(made[:begin], made[end:next_begin], end - begin)
    return made


def mirrored(before: Waveform, after: Waveform, n_samples: int) -> Waveform:
    """Sound for a gap: what lies before it, mirrored, fading into what lies after it, mirrored."""
    angle = np.linspace(0, np.pi / 2, n_samples, dtype=np.float32)
    made = np.zeros(n_samples, np.float32)
    if len(before):
        made += np.cos(angle) * _reflected(before[-n_samples - 1 :], n_samples)
    if len(after):
        made += np.sin(angle) * _reflected(after[n_samples::-1], n_samples)[::-1]
    return made


def _reflected(sound: Waveform, n_samples: int) -> Waveform:
    """What follows a sound that is mirrored at its end, again and again if it is short."""
    return np.pad(sound, (0, n_samples), mode="reflect" if len(sound) > 1 else "edge")[-n_samples:]
