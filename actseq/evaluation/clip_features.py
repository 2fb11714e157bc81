"""Features of single clips, by which sets of clips are compared.

The analysis is always the same, whatever a run's own representation: 64 mel bands and a hop of about 12 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.fft import dct
from torch.nn.functional import adaptive_avg_pool1d

from actseq import audio, units
from actseq.arrays import Waveform
from actseq.data import hits
from actseq.evaluation import metrics
from actseq.representations.mel import Mel

BANDS = 64
HOP_SECONDS = 0.012
COEFFICIENTS = 20
THUMBNAIL_FRAMES = 32
RANGE_DB = 60.0
"""Levels further below a clip's peak count as silence."""
LOUD_DB = 30.0
"""The thumbnail of a clip begins and ends at this level below its peak."""
STATISTICS_RATE = 22050
START_FRAMES = 4


@dataclass(frozen=True)
class ClipFeatures:
    """A row for each clip.

    Attributes:
        level_db: RMS in dB relative to an amplitude of 1.
        level_drift_db: difference between the RMS of the first and the last third, in dB.
        mfcc_drift: difference between the means of these thirds, averaged over the coefficients without the level, in
            dB.
        mfcc: means, standard deviations, and mean absolute changes from frame to frame, of all coefficients.
        envelope: see `envelope_statistics`.
        thumbnail: levels of the clip's mel spectrogram, stretched to one duration, in dB relative to its loudest value.
        statistics: see `sound_statistics`.
        end_db: RMS of the last fifth in dB relative to the peak.
        onsets: number of onsets, see `actseq.evaluation.hits`.
    """

    level_db: Float[np.ndarray, " clips"]
    level_drift_db: Float[np.ndarray, " clips"]
    mfcc_drift: Float[np.ndarray, " clips"]
    mfcc: Float[np.ndarray, "clips statistics"]
    envelope: Float[np.ndarray, "clips numbers"]
    thumbnail: Float[np.ndarray, "clips levels"]
    statistics: Float[np.ndarray, "clips values"]
    end_db: Float[np.ndarray, " clips"]
    onsets: Float[np.ndarray, " clips"]

    def chosen(self, rows: Int[np.ndarray, " _"]) -> ClipFeatures:
        """Features of some of the clips."""
        return ClipFeatures(*(getattr(self, field.name)[rows] for field in fields(self)))


def joined(parts: Sequence[ClipFeatures]) -> ClipFeatures:
    """Features of all clips, one part after the other."""
    return ClipFeatures(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(ClipFeatures))
    )


def analysis(sample_rate: int) -> Mel:
    """64 mel bands; the hop is the power of two nearest to 12 ms, the window four hops."""
    hop = int(2 ** round(np.log2(HOP_SECONDS * sample_rate)))
    return Mel(sample_rate, n_fft=4 * hop, hop_length=hop, n_mels=BANDS, floor=metrics.FLOOR)


@torch.inference_mode()
def describe(waveforms: Sequence[Waveform], sample_rate: int) -> ClipFeatures:
    """Features of clips of at least one sample each."""
    mel = analysis(sample_rate)
    rows = [_describe(waveform, mel) for waveform in waveforms]
    return ClipFeatures(*(np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)))


def _describe(waveform: Waveform, mel: Mel) -> tuple[float | Float[np.ndarray, " _"], ...]:
    levels = mel.analyse(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])).values[0]
    levels_db = 20 / np.log(10) * levels.double().numpy()
    levels_db = np.maximum(levels_db, levels_db.max() - RANGE_DB)
    coefficients = mfcc(levels_db)
    frames, samples = max(1, coefficients.shape[1] // 3), max(1, len(waveform) // 3)
    return (
        level_db(waveform),
        abs(level_db(waveform[-samples:]) - level_db(waveform[:samples])),
        float(np.abs(coefficients[1:, -frames:].mean(axis=1) - coefficients[1:, :frames].mean(axis=1)).mean()),
        mfcc_statistics(coefficients),
        envelope_statistics(waveform, mel.sample_rate),
        thumbnail(levels_db),
        sound_statistics(waveform, mel.sample_rate),
        hits.end_db(waveform),
        hits.onsets(waveform, mel.sample_rate),
    )


def level_db(waveform: Float[np.ndarray, " samples"]) -> float:
    """RMS in dB relative to an amplitude of 1, −80 for silence."""
    return float(units.amplitude_to_db(float(np.sqrt(np.square(waveform, dtype=np.float64).mean())), metrics.FLOOR))


def mfcc(levels_db: Float[np.ndarray, "bands frames"]) -> Float[np.ndarray, "coefficients frames"]:
    """Mel-frequency cepstral coefficients, the first of which is the level: an orthonormal cosine transform of levels.

    Source: Davis and Mermelstein, Comparison of parametric representations for monosyllabic word recognition (1980).
    """
    return np.asarray(dct(levels_db, axis=0, norm="ortho")[:COEFFICIENTS])


def mfcc_statistics(coefficients: Float[np.ndarray, "coefficients frames"]) -> Float[np.ndarray, " statistics"]:
    """Mean, standard deviation and mean absolute change of each coefficient from frame to frame (0 for one frame)."""
    change = np.abs(np.diff(coefficients, axis=1)).sum(axis=1) / max(1, coefficients.shape[1] - 1)
    return np.concatenate([coefficients.mean(axis=1), coefficients.std(axis=1), change])


def envelope_statistics(waveform: Float[np.ndarray, " samples"], sample_rate: int) -> Float[np.ndarray, " numbers"]:
    """Shape of the RMS in frames of 5 ms, independent of the level. Silence counts as a constant sound.

    Returns:
        log2 of the duration, of the attack (from 10 % to 90 % of the peak) and of the decay (from the peak to the last
        frame at 10 % of it), all in seconds; position of the peak, temporal centroid and spread around it, as fractions
        of the duration; crest factor, mean level under the peak, and mean absolute change from frame to frame, all in
        dB.

    Source: Peeters et al., The Timbre Toolbox (2011), section II D, for attack, decay and centroid.
    """
    size = max(1, units.seconds_to_samples(metrics.ENVELOPE_SECONDS, sample_rate))
    n = max(1, len(waveform) // size)
    frames = np.pad(waveform, (0, max(0, size - len(waveform))))[: n * size].reshape(n, size)
    envelope = np.sqrt(np.square(frames, dtype=np.float64).mean(axis=1))
    envelope = envelope / envelope.max() if envelope.any() else np.ones(n)
    peak = int(envelope.argmax())
    attack = int(np.argmax(envelope >= 0.9)) - int(np.argmax(envelope >= 0.1)) + 1
    decay = int(np.flatnonzero(envelope >= 0.1)[-1]) - peak + 1
    at = (np.arange(n) + 0.5) / n
    weights = envelope / envelope.sum()
    centroid = float(weights @ at)
    under_peak = units.amplitude_to_db(envelope, units.db_to_amplitude(-RANGE_DB))
    seconds = np.array([len(waveform), attack * size, decay * size]) / sample_rate
    return np.array(
        [
            *np.log2(seconds),
            at[peak],
            centroid,
            np.sqrt(weights @ np.square(at - centroid)),
            -units.power_to_db(np.square(envelope).mean()),
            under_peak.mean(),
            np.abs(np.diff(under_peak)).sum() / max(1, n - 1),
        ]
    )


def thumbnail(levels_db: Float[np.ndarray, "bands frames"]) -> Float[np.ndarray, " levels"]:
    """A mel spectrogram stretched to 32 frames, one after the other, with levels relative to its loudest value.

    It reaches from the first to the last frame within 30 dB of that value. The same clip louder, slower or with more
    silence around it has a similar thumbnail; at another pitch it has not.
    """
    loud = np.flatnonzero(levels_db.max(axis=0) >= levels_db.max() - LOUD_DB)
    stretched = adaptive_avg_pool1d(torch.from_numpy(levels_db[:, loud[0] : loud[-1] + 1]), THUMBNAIL_FRAMES).numpy()
    return np.asarray((stretched - stretched.max()).ravel())


@cache
def _statistics_mel() -> Mel:
    return Mel(STATISTICS_RATE, n_fft=1024, hop_length=256, n_mels=BANDS, floor=metrics.FLOOR)


@torch.inference_mode()
def sound_statistics(waveform: Waveform, sample_rate: int) -> Float[np.ndarray, " numbers"]:
    """67 numbers that tell short sounds apart, taken at 22.05 kHz and a peak of 1.

    Returns:
        Means, deviations and means of the first four frames of 20 MFCC; means and deviations of log centroid and log
        flatness; log of the length; time of the loudest frame; 1 / RMS.
    """
    sound = audio.resample(waveform, sample_rate, STATISTICS_RATE) if sample_rate != STATISTICS_RATE else waveform
    sound = (sound / max(1e-9, float(np.abs(sound).max(initial=0.0)))).astype(np.float32)
    levels = _statistics_mel().analyse(torch.from_numpy(sound)[None], torch.tensor([len(sound)])).values[0]
    coefficients = mfcc(20 / np.log(10) * levels.double().numpy())
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(sound, 512), 1024)[::256] * np.hanning(1024)
    # Digital silence and quiet noise sound alike, so all frames have at least the power of faint noise.
    power = np.square(np.abs(np.fft.rfft(frames))) + (metrics.FLOOR * 256) ** 2
    centroid = np.log((power * np.fft.rfftfreq(1024, 1 / STATISTICS_RATE)).sum(1) / power.sum(1) + 1.0)
    flatness = np.log(power).mean(1) - np.log(power.mean(1))
    rms = float(np.sqrt(np.square(sound, dtype=np.float64).mean())) + 1e-9
    return np.concatenate(
        [
            coefficients.mean(1),
            coefficients.std(1),
            coefficients[:, :START_FRAMES].mean(1),
            [centroid.mean(), centroid.std(), flatness.mean(), flatness.std()],
            [np.log(max(1, len(sound))), power.sum(1).argmax() * 256 / STATISTICS_RATE, 1 / rms],
        ]
    )
