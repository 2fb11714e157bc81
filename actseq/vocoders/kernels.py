"""The loops of `phase`, compiled by numba once and cached on disk. Importing this module imports numba.

Arrays of spectra are (frames, bins), so that a frame is a row.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numba import njit

GAUSSIAN = 0.25645
"""Time-frequency ratio γ / n² of the Gaussian window nearest to a Hann window of n samples."""
TOLERANCE = 1e-6
"""Bins this far below the loudest one have a random phase."""
BUCKETS = 480
"""Number of levels between the loudest bin and the tolerance: 120 dB in steps of 0.25 dB."""
FRAMES_AT_A_TIME = 32
"""Frames that `update_magnitudes` processes together, so that they stay in the processor's cache."""


def cached_njit(
    error_model: Literal["python", "numpy"] = "python",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`njit` without the interpreter's lock, cached on disk where there is a folder that can be written to."""

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            made: Callable[..., Any] = njit(cache=True, nogil=True, error_model=error_model)(function)
        except RuntimeError:  # numba found no folder for its cache
            made = njit(nogil=True, error_model=error_model)(function)
        return made

    return compiled


@cached_njit()
def integrate(magnitude, known, n_fft, hop_length, first_frame, out):  # type: ignore[no-untyped-def]
    """Give every bin a phase, going from the loudest to the softest along the gradients that the magnitudes imply.

    The heap is a row of buckets, each a stack of the bins of one level: the bin that is taken is the loudest to within
    a quarter of a decibel, and adding a bin takes constant time. The grid has a border that is marked as done.

    Args:
        magnitude: (frames, bins).
        known: (n, bins), spectra of the first n frames, which are kept.
        n_fft: samples.
        hop_length: samples.
        first_frame: number of the first new frame in its sequence; random phases depend only on it and on the bin.
        out: (frames, bins), complex; the result is written into it.

    Source: Průša, Balazs and Søndergaard, A Noniterative Method for Reconstruction of Phase from STFT Magnitude (2017).
    """
    frames, bins = magnitude.shape
    n_known = known.shape[0]
    width = bins + 2
    size = (frames + 2) * width
    loudest = np.float32(0.0)
    for t in range(frames):
        for k in range(bins):
            loudest = max(loudest, magnitude[t, k])
    floor = max(np.float32(loudest * TOLERANCE), np.float32(1e-30))
    log = np.log(np.maximum(magnitude, floor))
    scale = np.float32(BUCKETS / -math.log(TOLERANCE))
    loudest_log = math.log(max(loudest, floor))

    # Half the phase advance per frame and per bin, so that the trapezoid rule is a sum; and the level of each bin.
    along_time, along_frequency = np.zeros(size, np.float32), np.zeros(size, np.float32)
    level, done = np.zeros(size, np.int16), np.ones(size, np.bool_)
    count = np.zeros(BUCKETS + 1, np.int64)
    ratio = np.float32(hop_length / (GAUSSIAN * n_fft))
    for t in range(frames):
        before, after = max(t - 1, 0), min(t + 1, frames - 1)
        row = (t + 1) * width + 1
        for k in range(bins):
            lower, upper = max(k - 1, 0), min(k + 1, bins - 1)
            along_time[row + k] = 0.25 * ratio * (log[t, upper] - log[t, lower])
            along_frequency[row + k] = -0.25 / ratio * (log[after, k] - log[before, k])
            if magnitude[t, k] > floor:
                level[row + k] = min(BUCKETS - 1, int((loudest_log - log[t, k]) * scale))
                done[row + k] = False
                count[level[row + k] + 1] += 1

    # Counting sort by level: the bins to start from when no bin with a phase has a neighbour without one.
    for b in range(BUCKETS):
        count[b + 1] += count[b]
    n_loud = count[BUCKETS]
    order = np.empty(n_loud, np.int32)
    for i in range(size):
        if not done[i]:
            order[count[level[i]]] = i
            count[level[i]] += 1

    phase = np.zeros(size, np.float64)
    head, under = np.full(BUCKETS, -1, np.int32), np.empty(size, np.int32)
    lowest = BUCKETS
    for t in range(n_known):
        for k in range(bins):
            i = (t + 1) * width + 1 + k
            if not done[i]:
                done[i] = True
                phase[i] = math.atan2(known[t, k].imag, known[t, k].real)
                under[i], head[level[i]] = head[level[i]], i
                lowest = min(lowest, level[i])
    turn = 2 * math.pi * hop_length / n_fft
    for start in range(-1, n_loud):
        if start >= 0:
            i = order[start]
            if done[i]:
                continue
            done[i] = True
            lowest = level[i]
            under[i], head[lowest] = head[lowest], i
        while lowest < BUCKETS:
            i = head[lowest]
            if i < 0:
                lowest += 1
                continue
            head[lowest] = under[i]
            advance = turn * (i % width - 1)
            for side in range(4):
                if side == 0:
                    j = i + width
                elif side == 1:
                    j = i - width
                elif side == 2:
                    j = i + 1
                else:
                    j = i - 1
                if done[j]:
                    continue
                done[j] = True
                if side < 2:
                    step = along_time[i] + along_time[j] + advance
                else:
                    step = along_frequency[i] + along_frequency[j] - math.pi
                phase[j] = phase[i] + step if side % 2 == 0 else phase[i] - step
                b = level[j]
                under[j], head[b] = head[b], j
                lowest = min(lowest, b)

    out[:n_known] = known
    for t in range(n_known, frames):
        for k in range(bins):
            if magnitude[t, k] > floor:
                angle = np.float32(phase[(t + 1) * width + 1 + k] % (2 * math.pi))
            else:
                # A hash of frame and bin: the same noise whatever block contains the frame.
                mixed = np.uint64(first_frame + t - n_known) * np.uint64(0x9E3779B97F4A7C15)
                mixed += np.uint64(k) * np.uint64(0xC2B2AE3D27D4EB4F)
                mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
                angle = np.float32(2 * math.pi / 16777216 * (mixed >> np.uint64(40)))
            out[t, k] = complex(magnitude[t, k] * math.cos(angle), magnitude[t, k] * math.sin(angle))


@cached_njit(error_model="numpy")
def project(magnitude, n_known, momentum, consistent, previous, spectra):  # type: ignore[no-untyped-def]
    """An iteration of fast Griffin-Lim, after the transforms: momentum, then projection to the given magnitudes.

    Args:
        magnitude: (frames, bins).
        n_known: number of first frames of `spectra` that are kept.
        momentum: fraction of the last change that is added again.
        consistent: (frames, bins), transform of the signal made from `spectra`.
        previous: `consistent` of the previous iteration; overwritten by the new one.
        spectra: (frames, bins), overwritten by the new spectra.

    Source: Perraudin, Balazs and Søndergaard, A Fast Griffin-Lim Algorithm (2013).
    """
    frames, bins = magnitude.shape
    for t in range(n_known, frames):
        for k in range(bins):
            real, imag = consistent[t, k].real, consistent[t, k].imag
            ahead_real = real + momentum * (real - previous[t, k].real)
            ahead_imag = imag + momentum * (imag - previous[t, k].imag)
            size = math.sqrt(ahead_real * ahead_real + ahead_imag * ahead_imag)
            gain = magnitude[t, k] / (size + np.float32(1e-20))
            spectra[t, k] = complex(gain * ahead_real, gain * ahead_imag)
            previous[t, k] = consistent[t, k]


@cached_njit()
def overlap_add(pieces, window, hop_length, signal):  # type: ignore[no-untyped-def]
    """Add windowed pieces (frames, n_fft) into a signal (samples,); piece t starts at t · hop_length."""
    signal[:] = 0
    for t in range(pieces.shape[0]):
        at = t * hop_length
        for i in range(pieces.shape[1]):
            signal[at + i] += pieces[t, i] * window[i]


@cached_njit()
def cut(signal, window, hop_length, pieces):  # type: ignore[no-untyped-def]
    """Cut windowed pieces (frames, n_fft) out of a signal."""
    for t in range(pieces.shape[0]):
        at = t * hop_length
        for i in range(pieces.shape[1]):
            pieces[t, i] = signal[at + i] * window[i]


@cached_njit(error_model="numpy")
def update_magnitudes(target, first, weight, next_weight, n_updates, x):  # type: ignore[no-untyped-def]
    """Multiplicative updates x ← x · Mᵀb / MᵀMx where a bin lies in at most two bands, which are neighbours.

    Args:
        target: (bands, frames), b.
        first: (bins,), lower band of each bin.
        weight: (bins,), its weight in that band.
        next_weight: (bins,), its weight in the band above.
        n_updates: number of updates.
        x: (bins, frames), updated in place except for bins outside every band.
    """
    bands, frames = target.shape
    bins = len(first)
    for start in range(0, frames, FRAMES_AT_A_TIME):
        n = min(FRAMES_AT_A_TIME, frames - start)
        b = np.zeros((bands + 1, n), np.float32)
        b[:bands] = target[:, start : start + n]
        part = x[:, start : start + n].copy()
        y = np.empty((bands + 1, n), np.float32)
        for _ in range(n_updates):
            y[:] = 0
            for k in range(bins):
                band, low, high = first[k], weight[k], next_weight[k]
                for t in range(n):
                    y[band, t] += low * part[k, t]
                    y[band + 1, t] += high * part[k, t]
            for k in range(bins):
                band, low, high = first[k], weight[k], next_weight[k]
                if low + high == 0:
                    continue
                for t in range(n):
                    part[k, t] *= (low * b[band, t] + high * b[band + 1, t]) / (
                        low * y[band, t] + high * y[band + 1, t] + np.float32(1e-20)
                    )
        x[:, start : start + n] = part
