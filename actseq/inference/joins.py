"""Where a recording and sound that a model made meet: a crossfade, after a shift in time to where both agree best."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from actseq import units
from actseq.arrays import Waveform

CROSSFADE_SECONDS = 0.03
ALIGN_SECONDS = 0.008


def splice(original: Waveform, made: Waveform, sample_rate: int) -> Waveform:
    """Crossfade the original at its end into `made`, which starts at the same time.

    `made` is shifted by up to 8 ms to where it correlates best with the original; the crossfade keeps the power
    constant for that correlation.
    """
    at = len(original)
    fade = min(units.seconds_to_samples(CROSSFADE_SECONDS, sample_rate), at, max(0, len(made) - at))
    if fade < 2:
        return np.concatenate([original, made[at:]]).astype(np.float32)
    reach = min(units.seconds_to_samples(ALIGN_SECONDS, sample_rate), at - fade, len(made) - at)
    end, begin = original[at - fade : at], at - fade
    lag = _best_lag([(end, begin)], made, -reach, reach)
    return np.concatenate([original[:begin], _crossfade(end, made[begin + lag : at + lag]), made[at + lag :]])


def patch(recording: Waveform, made: Waveform, offset: int, region: tuple[int, int], sample_rate: int) -> Waveform:
    """The recording with a region replaced by made sound, and crossfades on either side of the region.

    `made` is shifted by up to 8 ms, as a whole, to where it correlates best with the recording on both sides; the
    crossfades keep the power constant for these correlations. A region that begins or ends with the recording has no
    crossfade there.

    Args:
        recording: the recording.
        made: sound for the region and, where it allows, for its surroundings.
        offset: sample of the recording at which `made` begins.
        region: first sample of the region and the one after its last.
        sample_rate: sample rate in Hz.
    """
    begin, end = region
    longest = units.seconds_to_samples(CROSSFADE_SECONDS, sample_rate)
    first = begin - min(longest, begin - offset)
    last = end + min(longest, len(recording) - end, max(0, offset + len(made) - end))
    reach = units.seconds_to_samples(ALIGN_SECONDS, sample_rate)
    # The shifted sound must still reach over the region and both crossfades.
    low, high = -min(reach, first - offset), min(reach, max(0, offset + len(made) - last))
    before, after = recording[first:begin], recording[end:last]
    sides = [(side, at - offset) for side, at in ((before, first), (after, end)) if len(side)]
    lag = _best_lag(sides, made, low, high) if sides else 0
    shifted = made[first - offset + lag : last - offset + lag]
    count = end - first
    parts = [
        recording[:first],
        _crossfade(before, shifted[: begin - first]),
        shifted[begin - first : count],
        _crossfade(shifted[count:], after),
        recording[last:],
    ]
    return np.concatenate(parts)


def _best_lag(sides: list[tuple[Waveform, int]], made: Waveform, low: int, high: int) -> int:
    """The shift for which `made` agrees best with pieces of sound, each given with its place; the smallest if equal."""
    lags = np.arange(low, high + 1)
    scores = -1e-3 * np.abs(lags) / max(1, high, -low)
    for side, at in sides:
        reached = made[at + low : at + high + len(side)].astype(np.float64)
        scores += _agreement(np.lib.stride_tricks.sliding_window_view(reached, len(side)), side) / len(sides)
    return int(lags[scores.argmax()])


def _agreement(
    pieces: Float[np.ndarray, "*batch samples"], side: Float[np.ndarray, " samples"]
) -> Float[np.ndarray, "*batch"]:
    """Cosine of the angle between each piece and another, as vectors; 0 where one is silent."""
    own = side.astype(np.float64)
    return np.asarray(pieces @ own / (np.linalg.norm(pieces, axis=-1) * np.linalg.norm(own) + 1e-12))


def _crossfade(old: Waveform, new: Waveform) -> Waveform:
    """From one to the other, with constant power for their agreement."""
    agreement = _agreement(old.astype(np.float64), new).clip(0, 1)
    angle = np.linspace(0, np.pi / 2, len(old))
    out, inn = np.cos(angle), np.sin(angle)
    mixed: Waveform = ((out * old + inn * new) / np.sqrt(1 + 2 * agreement * out * inn)).astype(np.float32)
    return mixed
