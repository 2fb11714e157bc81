"""The power of sound over frequency: mean spectra, octave bands and spectrograms."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
from jaxtyping import Float

from actseq import units

NOTHING_DB = -100.0
"""Floor of levels relative to the strongest, so that silence has a level too."""
FLOOR_DB = -80.0
"""Floor of spectrograms relative to their strongest point."""
_N_BANDS = 144
_LOWEST_HZ = 40.0


def window_length(sample_rate: int) -> int:
    """The power of two nearest to 50 ms, in samples."""
    return max(64, 1 << max(0, round(float(np.log2(0.05 * sample_rate)))))


def hann(n: int) -> Float[np.ndarray, " n"]:
    """Periodic Hann window."""
    return np.hanning(n + 1)[:-1]


def magnitude_spectra(
    frames: Float[np.ndarray, "frames samples"], window: Float[np.ndarray, " samples"], block: int = 256
) -> Iterator[Float[np.ndarray, "part bins"]]:
    """Magnitudes of windowed frames, `block` frames at a time."""
    for start in range(0, len(frames), block):
        yield np.abs(np.fft.rfft(frames[start : start + block] * window))


def power(waveform: Float[np.ndarray, " samples"], n_fft: int) -> tuple[Float[np.ndarray, " bins"], int]:
    """One-sided power of every bin, summed over half-overlapping Hann windows, and the number of windows.

    The powers of one window add up to the mean square of its samples, normalised for the window. The end is
    zero-padded.

    Source: Welch, The use of fast Fourier transform for the estimation of power spectra (1967).
    """
    hop = n_fft // 2
    n = max(1, -(-max(0, len(waveform) - n_fft) // hop) + 1)
    padded = np.pad(waveform.astype(np.float64), (0, (n - 1) * hop + n_fft - len(waveform)))
    framed = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    window = hann(n_fft)
    total = np.zeros(n_fft // 2 + 1)
    for part in magnitude_spectra(framed, window):
        total += (part**2).sum(0)
    total[1:-1] *= 2
    return total / (n_fft * (window**2).sum()), n


def decibels(
    powers: Float[np.ndarray, "*shape"], reference: Float[np.ndarray, "*other"]
) -> Float[np.ndarray, "*shape"]:
    """Levels in dB relative to the strongest of a reference; at least `NOTHING_DB`."""
    strongest = float(reference.max(initial=0.0))
    ratio = powers / strongest if strongest > 0 else np.zeros_like(powers)
    return units.power_to_db(ratio, units.db_to_power(NOTHING_DB))


@dataclass(frozen=True)
class Octaves:
    """Octave bands around 1 kHz · 2^k, from 20 Hz to half the sample rate, where the last band is cut.

    Attributes:
        centre: centres in Hz.
        low: lower edges in Hz.
        high: upper edges in Hz.
        power: power of each spectrum in each band.
    """

    centre: Float[np.ndarray, " bands"]
    low: Float[np.ndarray, " bands"]
    high: Float[np.ndarray, " bands"]
    power: Float[np.ndarray, "spectra bands"]


def octaves(spectra: Float[np.ndarray, "spectra bins"], sample_rate: int) -> Octaves:
    """Power of each band; bands without a bin are left out."""
    bins = spectra.shape[1]
    frequencies = np.linspace(0.0, sample_rate / 2, bins)
    centres = 1000.0 * 2.0 ** np.arange(-6, 8)
    lows, highs = centres / np.sqrt(2), np.minimum(centres * np.sqrt(2), sample_rate / 2)
    inside = [(frequencies >= low) & (frequencies < high) for low, high in zip(lows, highs, strict=True)]
    kept = [k for k, chosen in enumerate(inside) if lows[k] >= 20.0 and chosen.any()]
    powers = np.stack([spectra[:, inside[k]].sum(1) for k in kept], axis=1)
    return Octaves(centres[kept], lows[kept], highs[kept], powers)


@dataclass(frozen=True)
class LogBands:
    """Triangular bands, evenly spaced in log frequency, that average power; at least as wide as the window resolves.

    Attributes:
        low: lowest frequency in Hz.
        high: highest frequency in Hz: half the sample rate.
        n_fft: length of the window in samples: the power of two nearest to 50 ms.
        weights: weight of every bin in every band.
    """

    low: float
    high: float
    n_fft: int
    weights: Float[np.ndarray, "bins bands"]

    @staticmethod
    def of(sample_rate: int) -> "LogBands":
        """The bands for a sample rate in Hz."""
        low, high = min(_LOWEST_HZ, sample_rate / 16), sample_rate / 2
        n_fft = window_length(sample_rate)
        frequencies = np.fft.rfftfreq(n_fft, 1 / sample_rate)[:, None]
        centres = np.geomspace(low, high, _N_BANDS)
        half_width = np.maximum(centres * np.log(high / low) / (_N_BANDS - 1), sample_rate / n_fft)
        weights = np.maximum(0.0, 1.0 - np.abs(frequencies - centres) / half_width)
        return LogBands(low, high, n_fft, (weights / weights.sum(axis=0)).astype(np.float32))

    def spectrogram(self, waveform: Float[np.ndarray, " samples"], hop: int) -> Float[np.ndarray, "bands columns"]:
        """Level of every band in dB below the strongest, one column per `hop` samples; a constant offset is removed.

        Hops longer than half a window are divided and the loudest part is shown; otherwise clicks in a long clip would
        be between the windows.
        """
        n_fft = self.n_fft
        parts = ceil(hop / (n_fft // 2))
        step = ceil(hop / parts)
        # The median, since the mean of a short thump is not an offset: removing it would add a step at both ends.
        padded = np.pad(waveform - np.median(waveform), (n_fft // 2, n_fft // 2 + step))
        framed = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::step][: units.n_frames(len(waveform), step)]
        spectra = magnitude_spectra(framed, hann(n_fft).astype(np.float32))
        power = np.concatenate([np.square(part).astype(np.float32) @ self.weights for part in spectra])
        power = np.maximum.reduceat(power, np.arange(0, len(power), parts))
        # Rounding errors of a constant offset are below this, a single sample at the peak is far above.
        strongest = max(float(power.max()), (1e-6 * n_fft) ** 2)
        return units.power_to_db(power.T / strongest, units.db_to_power(FLOOR_DB))
