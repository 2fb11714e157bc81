"""What long sound is compared by: windows of fixed length, voiced frames, pauses, and the course of a glide."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view
from scipy.optimize import isotonic_regression

from actseq import units
from actseq.arrays import Waveform
from actseq.evaluation.clip_features import RANGE_DB, analysis, describe
from actseq.evaluation.metrics import FLOOR

FRAME_SECONDS = 0.04
HOP_SECONDS = 0.01
PITCHES_HZ = (75.0, 400.0)
"""Fundamental frequencies that are looked for: those of speech."""
VOICED = 0.45
"""Smallest correlation at a period's distance in a voiced frame."""
QUIET_DB = 30.0
"""Frames further below the loudest are not voiced."""
FINER = 4
"""Lags in a sample: the correlation of high harmonics changes within one."""
BLOCK = 256
"""Frames that are transformed at a time."""
PAUSE_FRAME_SECONDS = 0.02
PAUSE_DB = 35.0
PAUSE_SECONDS = 0.08


def windows(clips: Iterable[Waveform], sample_rate: int, seconds: float, hop_seconds: float) -> list[Waveform]:
    """Windows of each clip, one every `hop_seconds`; what is left at a clip's end is left out."""
    size, hop = (units.seconds_to_samples(one, sample_rate) for one in (seconds, hop_seconds))
    return [clip[at : at + size] for clip in clips for at in range(0, len(clip) - size + 1, hop)]


def shape_statistics(clips: list[Waveform], sample_rate: int) -> Float[np.ndarray, "clips numbers"]:
    """Statistics of MFCC, and of the envelope; see `clip_features.describe`."""
    found = describe(clips, sample_rate)
    return np.concatenate([found.mfcc, found.envelope], axis=1)


@torch.inference_mode()
def level_statistics(clips: list[Waveform], sample_rate: int) -> Float[np.ndarray, "clips numbers"]:
    """Mean and deviation in time of the levels of 64 mel bands, in dB; levels 60 dB under the loudest are silence."""
    mel, rows = analysis(sample_rate), []
    for clip in clips:
        levels = mel.analyse(torch.from_numpy(clip)[None], torch.tensor([len(clip)])).values[0].double().numpy()
        levels = 20 / np.log(10) * levels
        levels = np.maximum(levels, levels.max() - RANGE_DB)
        rows.append(np.concatenate([levels.mean(axis=1), levels.std(axis=1)]))
    return np.array(rows)


def harmonics_to_noise_db(waveform: Waveform, sample_rate: int) -> Float[np.ndarray, " voiced"]:
    """Ratio of the periodic part to the rest in each voiced frame, in dB.

    The autocorrelation of a frame is divided by that of its Hann window. Its largest value r at the distance of a
    period gives 10 · log10(r / (1 − r)); a frame is voiced where r is at least 0.45.

    Source: Boersma, Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
    sampled sound (1993), eqs. 4 and 9.
    """
    size, hop = (units.seconds_to_samples(one, sample_rate) for one in (FRAME_SECONDS, HOP_SECONDS))
    if len(waveform) < size:
        return np.zeros(0)
    frames = sliding_window_view(waveform.astype(np.float64), size)[::hop]
    power = frames.var(axis=1)
    frames = frames[power > units.db_to_power(-QUIET_DB) * max(float(power.max()), FLOOR**2)]
    shortest, longest = (round(FINER * sample_rate / pitch) for pitch in reversed(PITCHES_HZ))
    window = np.hanning(size + 1)[:-1]
    of_window = _autocorrelation(window[None], longest + 2)
    best = [np.zeros(0)]
    for start in range(0, len(frames), BLOCK):
        block = frames[start : start + BLOCK]
        found = _autocorrelation((block - block.mean(axis=1, keepdims=True)) * window, longest + 2) / of_window
        inner = found[:, shortest : longest + 1]
        peaks = (inner >= found[:, shortest - 1 : longest]) & (inner >= found[:, shortest + 1 : longest + 2])
        best.append(np.where(peaks, inner, 0).max(axis=1))
    periodic = np.concatenate(best)
    periodic = periodic[periodic >= VOICED].clip(max=1 - 1e-6)
    return np.asarray(units.power_to_db(periodic / (1 - periodic)))


def _autocorrelation(rows: Float[np.ndarray, "rows samples"], count: int) -> Float[np.ndarray, "rows lags"]:
    """Autocorrelation over that at lag 0, at lags of a quarter of a sample."""
    length = 2 * rows.shape[1]
    found = np.fft.irfft(np.square(np.abs(np.fft.rfft(rows, length, axis=1))), FINER * length, axis=1)
    return np.asarray(found[:, :count] / found[:, :1])


def pause_seconds(waveform: Waveform, sample_rate: int) -> list[float]:
    """Lengths of pauses: at least 80 ms in which the RMS of 20 ms lies 35 dB under the clip's peak.

    Silence before the first sound and after the last is no pause.
    """
    size = units.seconds_to_samples(PAUSE_FRAME_SECONDS, sample_rate)
    n = len(waveform) // size
    rms = np.sqrt(np.square(waveform[: n * size].reshape(n, size), dtype=np.float64).mean(axis=1))
    quiet = rms < units.db_to_amplitude(-PAUSE_DB) * float(np.abs(waveform).max(initial=0.0))
    edges = np.flatnonzero(np.diff(quiet.astype(int)))
    # From a change to quiet to the next change; sound comes before the first of them and after the last.
    starts = edges[~quiet[edges]]
    ends = [int(edges[edges > start][0]) for start in starts if (edges > start).any()]
    least = round(PAUSE_SECONDS / PAUSE_FRAME_SECONDS)
    lengths = [end - int(start) for start, end in zip(starts, ends, strict=False)]
    return [units.samples_to_seconds(length * size, sample_rate) for length in lengths if length >= least]


def way_seconds(course: Float[np.ndarray, " windows"], hop_seconds: float) -> float:
    """Time from 10 to 90 % of a course's way, which is the nearest rising course; 0 where it does not rise.

    Args:
        course: where each window is on the way.
        hop_seconds: time from one window to the next.
    """
    rising = isotonic_regression(course).x
    low, high = rising[0], rising[-1]
    if not high > low:
        return 0.0
    passed = [int((rising < low + share * (high - low)).sum()) for share in (0.1, 0.9)]
    return (passed[1] - passed[0]) * hop_seconds
