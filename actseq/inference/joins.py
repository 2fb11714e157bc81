"""Where a recording and sound that a model made meet: a crossfade, after a shift in time to where both fit best."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from actseq import units
from actseq.arrays import Waveform

CROSSFADE_SECONDS = 0.03
ALIGN_SECONDS = 0.008
WINDOW_SECONDS = 0.01
FLOOR = 1e-4
"""Amplitude, as a share of the recording's peak, that counts as silence in spectra."""
COST_PER_DB = 0.05
"""Agreement that is given up for a spectrum that changes by 1 dB less at the join."""


def splice(original: Waveform, made: Waveform, sample_rate: int) -> Waveform:
    """Crossfade the original at its end into `made`, which starts at the same time.

    `made` is shifted by up to 8 ms to where it fits best; see `_best_lag`. The crossfade keeps the power constant.
    """
    at = len(original)
    fade = min(units.seconds_to_samples(CROSSFADE_SECONDS, sample_rate), at, max(0, len(made) - at))
    if fade < 2:
        return np.concatenate([original, made[at:]]).astype(np.float32)
    reach = min(units.seconds_to_samples(ALIGN_SECONDS, sample_rate), at - fade, len(made) - at)
    end, begin = original[at - fade : at], at - fade
    lag = _best_lag([_Side(end, begin, at)], made, (-reach, reach), original, sample_rate)
    return np.concatenate([original[:begin], _crossfade(end, made[begin + lag : at + lag]), made[at + lag :]])


def patch(recording: Waveform, made: Waveform, offset: int, region: tuple[int, int], sample_rate: int) -> Waveform:
    """The recording with a region replaced by made sound, and crossfades on either side of the region.

    `made` is shifted by up to 8 ms, as a whole, to where it fits best on both sides; see `_best_lag`. The crossfades
    keep the power constant. A region that begins or ends with the recording has no crossfade there.

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
    sides = [_Side(before, first - offset, begin - offset), _Side(after, end - offset, end - offset)]
    lag = _best_lag([side for side in sides if len(side.sound)], made, (low, high), recording, sample_rate)
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


def cycle(made: Waveform, samples: int, fade: int) -> Waveform:
    """A cycle out of longer sound: what lies beyond it is crossfaded into its beginning, with constant power.

    The cycle begins where both agree best; of places that agree equally the earliest.

    Args:
        made: at least `samples` + `fade` samples; what is longer is room for the beginning.
        samples: length of the cycle.
        fade: length of the crossfade, at most that of the cycle.
    """
    windows = np.lib.stride_tricks.sliding_window_view(made.astype(np.float64), fade)
    ends = windows[samples:]
    begins = windows[: len(ends)]
    agreement = np.einsum("ij,ij->i", begins, ends)
    agreement /= np.linalg.norm(begins, axis=1) * np.linalg.norm(ends, axis=1) + 1e-12
    agreement -= 1e-3 * np.arange(len(ends)) / len(ends)
    at = int(agreement.argmax())
    mixed = _crossfade(made[at + samples : at + samples + fade], made[at : at + fade])
    return np.concatenate([mixed, made[at + fade : at + samples]])


class _Side(NamedTuple):
    """Sound of the recording that is crossfaded with made sound.

    Attributes:
        sound: the piece of the recording.
        at: the sample of the made sound at the same time as its first, before a shift.
        join: the sample of the made sound where the region begins or ends, before a shift.
    """

    sound: Waveform
    at: int
    join: int


def _best_lag(sides: list[_Side], made: Waveform, lags: tuple[int, int], recording: Waveform, sample_rate: int) -> int:
    """The shift for which made sound agrees best with the recording and changes least at the joins.

    Args:
        sides: where it is crossfaded.
        made: the made sound; it reaches over all sides at every shift.
        lags: the smallest and the largest shift.
        recording: its peak is the reference of levels.
        sample_rate: sample rate in Hz.

    Returns:
        The shift; of equally good ones the smallest.
    """
    low, high = lags
    shifts = np.arange(low, high + 1)
    scores = -1e-3 * np.abs(shifts) / max(1, high, -low)
    floor = FLOOR * max(1e-9, float(np.abs(recording).max(initial=0.0)))
    size = 2 ** round(np.log2(WINDOW_SECONDS * sample_rate))
    for side in sides:
        reached = made[side.at + low : side.at + high + len(side.sound)].astype(np.float64)
        agreement = _agreement(np.lib.stride_tricks.sliding_window_view(reached, len(side.sound)), side.sound)
        scores += (agreement - COST_PER_DB * _change_db(made, side.join + shifts, size, floor)) / len(sides)
    return int(shifts[scores.argmax()])


def _change_db(
    made: Waveform, places: Int[np.ndarray, " places"], size: int, floor: float
) -> Float[np.ndarray, " places"]:
    """Mean difference between the spectra of the windows that end and that begin at each place."""
    padded = np.pad(made.astype(np.float64), size)
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)
    window = np.hanning(size + 1)[:-1]
    # A window that ends at a place begins a window's length earlier, and so does the padding.
    spectra = [np.fft.rfft(windows[places + shift] * window) for shift in (0, size)]
    levels = [units.amplitude_to_db(2 * np.abs(one) / window.sum(), floor) for one in spectra]
    return np.asarray(np.abs(levels[1] - levels[0]).mean(axis=1))


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
