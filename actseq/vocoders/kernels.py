"""The loops of `phase`, compiled by numba once and cached on disk. Importing this module imports numba.

The first sound waits for the compilation. So the loops are plain: numba takes seconds to compile a slice that is
assigned or an expression of arrays. Arrays of spectra are (frames, bins), so that a frame is a row.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

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


def integrate(magnitude: Array, known: Array, n_fft: int, hop_length: int, first_frame: int, out: Array) -> None:
    """Give every bin a phase, going from the loudest to the softest along the gradients that the magnitudes imply.

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
    size = (frames + 2, bins + 2)
    floor = max(np.float32(float(magnitude.max(initial=0)) * TOLERANCE), np.float32(1e-30))
    along, level, done = np.zeros((2, *size), np.float32), np.zeros(size, np.int16), np.ones(size, np.bool_)
    ratio = np.float32(hop_length / (GAUSSIAN * n_fft))
    measure(magnitude, floor, ratio, np.empty_like(magnitude), along, level, done)
    order = np.flatnonzero(~done)
    order = order[np.argsort(level.ravel()[order], kind="stable")]
    phase, links = np.zeros(size), np.empty((2, max(BUCKETS, level.size)), np.int32)
    links[0, :BUCKETS] = -1
    turn = 2 * math.pi * hop_length / n_fft
    spread(along.reshape(2, -1), level.ravel(), order, known, turn, links, phase.ravel(), done.ravel())
    compose(magnitude, floor, phase, first_frame - len(known), out)
    out[: len(known)] = known


@cached_njit()
def measure(magnitude, floor, ratio, log, along, level, done):  # type: ignore[no-untyped-def]
    """Gradients of the phase, and the level of each bin, on a grid whose border is marked as done.

    Args:
        magnitude: (frames, bins).
        floor: bins that are not above it have no gradient.
        ratio: of a hop and the width of the window, in the time-frequency plane.
        log: (frames, bins); written.
        along: (2, frames + 2, bins + 2), zeros: half the phase advance per frame and per bin, so that the trapezoid
            rule is a sum; written.
        level: (frames + 2, bins + 2): bucket of each bin; written.
        done: (frames + 2, bins + 2), all true: whether a bin is to have no phase; written.
    """
    frames, bins = magnitude.shape
    loudest = math.log(floor)
    for t in range(frames):
        for k in range(bins):
            log[t, k] = math.log(magnitude[t, k] if magnitude[t, k] > floor else floor)
            if log[t, k] > loudest:
                loudest = log[t, k]
    scale = np.float32(BUCKETS / -math.log(TOLERANCE))
    for t in range(frames):
        before, after = t - 1 if t > 0 else 0, t + 1 if t < frames - 1 else t
        for k in range(bins):
            lower, upper = k - 1 if k > 0 else 0, k + 1 if k < bins - 1 else k
            along[0, t + 1, k + 1] = 0.25 * ratio * (log[t, upper] - log[t, lower])
            along[1, t + 1, k + 1] = -0.25 / ratio * (log[after, k] - log[before, k])
            if magnitude[t, k] > floor:
                bucket = int((loudest - log[t, k]) * scale)
                level[t + 1, k + 1] = bucket if bucket < BUCKETS else BUCKETS - 1
                done[t + 1, k + 1] = False


@cached_njit()
def compose(magnitude, floor, phase, first_frame, out):  # type: ignore[no-untyped-def]
    """Spectra (frames, bins) of magnitudes and of phases that have a border; the softest bins have random phases."""
    for t in range(magnitude.shape[0]):
        for k in range(magnitude.shape[1]):
            if magnitude[t, k] > floor:
                angle = np.float32(phase[t + 1, k + 1] % (2 * math.pi))
            else:
                # A hash of frame and bin: the same noise whatever block contains the frame.
                mixed = np.uint64(first_frame + t) * np.uint64(0x9E3779B97F4A7C15)
                mixed += np.uint64(k) * np.uint64(0xC2B2AE3D27D4EB4F)
                mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
                angle = np.float32(2 * math.pi / 16777216 * (mixed >> np.uint64(40)))
            out[t, k] = complex(magnitude[t, k] * math.cos(angle), magnitude[t, k] * math.sin(angle))


@cached_njit()
def spread(along, level, order, known, turn, links, phase, done):  # type: ignore[no-untyped-def]
    """Spread phases over a grid, from the known frames, else from the loudest bin that has none.

    The heap is a row of buckets, each a stack of the bins of one level: the bin that is taken is the loudest to within
    a quarter of a decibel, and adding a bin takes constant time. The grid is flat; its rows have a border.

    Args:
        along: (2, grid), half the phase advance per frame and per bin.
        level: (grid,), bucket of each bin.
        order: bins that are to have a phase, from the loudest to the softest.
        known: (n, bins), spectra of the first n frames.
        turn: radians by which bin 1 advances in a hop.
        links: the top of each stack, −1 where it is empty, and (grid,) the bin under each bin; written.
        phase: (grid,), radians; written.
        done: (grid,), whether a bin has its phase, or is to have none; written.
    """
    top, under = links[0], links[1]
    width = known.shape[1] + 2
    lowest = BUCKETS
    for t in range(known.shape[0]):
        for k in range(known.shape[1]):
            i = (t + 1) * width + 1 + k
            if not done[i]:
                done[i] = True
                phase[i] = math.atan2(known[t, k].imag, known[t, k].real)
                under[i] = top[level[i]]
                top[level[i]] = i
                if level[i] < lowest:
                    lowest = level[i]
    for start in range(-1, order.shape[0]):
        if start >= 0:
            i = order[start]
            if done[i]:
                continue
            done[i] = True
            lowest = level[i]
            under[i] = top[lowest]
            top[lowest] = i
        while lowest < BUCKETS:
            i = top[lowest]
            if i < 0:
                lowest += 1
                continue
            top[lowest] = under[i]
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
                step = along[0, i] + along[0, j] + advance if side < 2 else along[1, i] + along[1, j] - math.pi
                phase[j] = phase[i] + step if side % 2 == 0 else phase[i] - step
                b = level[j]
                under[j] = top[b]
                top[b] = j
                if b < lowest:
                    lowest = b


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
    for i in range(signal.shape[0]):
        signal[i] = 0
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
    b, y = np.zeros((bands + 1, FRAMES_AT_A_TIME), np.float32), np.zeros((bands + 1, FRAMES_AT_A_TIME), np.float32)
    part = np.zeros((bins, FRAMES_AT_A_TIME), np.float32)
    for start in range(0, frames, FRAMES_AT_A_TIME):
        n = min(FRAMES_AT_A_TIME, frames - start)
        for t in range(n):
            for band in range(bands):
                b[band, t] = target[band, start + t]
            for k in range(bins):
                part[k, t] = x[k, start + t]
        for _ in range(n_updates):
            for band in range(bands + 1):
                for t in range(n):
                    y[band, t] = 0
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
        for k in range(bins):
            for t in range(n):
                x[k, start + t] = part[k, t]
