"""Measures of an output waveform against its original, and of the audibility of a join.

Each measure has one definition, used wherever two waveforms are compared. The waveforms are a clip and an output made
from it, on the same time axis: they are not aligned, and the output is cut or zero-padded to the length of the
original.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from actseq import units
from actseq.errors import AudioError, ConfigError
from actseq.modules.numba_cache import import_cached
from actseq.plots.spectra import hann, magnitude_spectra

FLOOR = 1e-4
"""Amplitude (−80 dB) below which spectra count as silent."""

ENVELOPE_SECONDS = 0.005
"""Frames of the energy envelope."""

_BLOCK = 4096  # spectra in memory at a time, so that long clips need no more than short ones
_RESAMPLED = 2**20  # random numbers drawn at a time


class MultiResolutionStft(NamedTuple):
    """Spectral distances, each averaged over n_fft 256, 512, 1024 and 2048.

    Attributes:
        log_l1_db: mean absolute difference of log-magnitude spectra, dB.
        spectral_convergence: ‖|X| − |Y|‖ / ‖|X|‖, without unit.
    """

    log_l1_db: float
    spectral_convergence: float


class Jump(NamedTuple):
    """Changes at one sample.

    Attributes:
        waveform: amplitude step from the sample before.
        spectral: mean absolute difference, in dB, of the spectra before and after.
    """

    waveform: float
    spectral: float


class ClipJumps(NamedTuple):
    """The measures of `Jump` all along a clip.

    Attributes:
        waveform: entry i is the step at sample i + 1.
        spectral: entry k is the spectral jump at sample n + k · n / 4, n being the window's length, dB.
    """

    waveform: Float[np.ndarray, " steps"]
    spectral: Float[np.ndarray, " positions"]


def mel_l1_db(original: Float[np.ndarray, " samples"], output: Float[np.ndarray, " _"], sample_rate: int) -> float:
    """Log-mel distance: mean absolute difference of 64-band magnitude mel spectrograms floored at −80 dB.

    Both waveforms are divided by the original's peak; n_fft is 512 up to 16 kHz and 1024 above, hop n_fft / 4, power 1,
    the rest librosa's defaults. A silent original is not scaled.

    Returns:
        The distance in dB, 0 for identical waveforms.

    Raises:
        AudioError: the original is empty, or a sample of either is not a finite number.
    """
    spectral = import_cached("librosa.feature.spectral")
    n_fft = 512 if sample_rate <= 16000 else 1024
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_fft=", UserWarning)  # a clip shorter than a window is zero-padded
        levels = [
            units.amplitude_to_db(mel, FLOOR)
            for mel in (
                spectral.melspectrogram(
                    y=waveform, sr=sample_rate, n_fft=n_fft, hop_length=n_fft // 4, n_mels=64, power=1
                )
                for waveform in _scaled_pair(original, output)
            )
        ]
    return float(np.mean(np.abs(levels[0] - levels[1]), dtype=np.float64))


def multi_resolution_stft(
    original: Float[np.ndarray, " samples"], output: Float[np.ndarray, " _"]
) -> MultiResolutionStft:
    """Log-STFT distance and spectral convergence at four resolutions, hop n_fft / 4, centred Hann windows.

    Magnitudes are relative to a sine at the original's peak and, for the logarithm only, floored at −80 dB. Against a
    silent original the convergence is 0 if the output is silent too, else infinite.

    Raises:
        AudioError: the original is empty, or a sample of either is not a finite number.

    Source: Yamamoto, Song, Kim 2020 (Parallel WaveGAN), eqs. 6 and 7; Arık, Jun, Diamos 2018.
    """
    reference, other = _scaled_pair(original, output)
    log_l1, convergence = [], []
    for n_fft in (256, 512, 1024, 2048):
        count, distance, difference, energy = 0, 0.0, 0.0, 0.0
        for x, y in zip(_magnitudes(reference, n_fft), _magnitudes(other, n_fft), strict=True):
            count += x.size
            distance += float(np.abs(_level_db(x) - _level_db(y)).sum())
            difference += float(np.square(x - y).sum())
            energy += float(np.square(x).sum())
        log_l1.append(distance / count)
        convergence.append((difference / energy) ** 0.5 if energy else (float("inf") if difference else 0.0))
    return MultiResolutionStft(float(np.mean(log_l1)), float(np.mean(convergence)))


def pesq_mos(
    original: Float[np.ndarray, " samples"], output: Float[np.ndarray, " _"], sample_rate: int, *, wide: bool = False
) -> float | None:
    """PESQ of speech, a mean opinion score from about 1 (bad) to 4.55, or wide-band 4.64 (identical).

    Narrow-band PESQ is computed at 8 or 16 kHz, wide-band PESQ at 16 kHz; other rates are resampled to 16 kHz. PESQ
    refuses clips under a quarter of a second, so these are padded with silence to that length; longer ones are not
    padded, since PESQ itself adds 300 ms of silence on either side. A clip needs one stretch of at least 200 ms that
    PESQ detects as speech. PESQ equalises levels, so it ignores loudness. It has memory for 50 utterances and does not
    check that bound: clips over 20 s, which could have more, are cut into equal parts and the scores averaged.

    Args:
        original: the clip.
        output: the output made from it.
        sample_rate: sample rate of both in Hz.
        wide: use 50 to 7000 Hz, as through headphones, instead of a telephone's 300 to 3400 Hz.

    Returns:
        The score; None where PESQ gives none: the original has no utterance, or the output is silent. Report with an
        average how many clips had a score.

    Raises:
        ConfigError: the package pesq is missing, or wide-band is asked for under 16 kHz.
        AudioError: the original is empty, or a sample of either is not a finite number.

    Source: ITU-T P.862 (2001) with the scales of P.862.1 (narrow-band) and P.862.2 (wide-band).
    """
    if wide and sample_rate < 16000:
        raise ConfigError(f"wide-band PESQ at {sample_rate} Hz", "16000 Hz or more", "use the narrow-band one")
    pesq = _extra("pesq")
    pair = _scaled_pair(original, output)
    rate = sample_rate
    if rate not in (8000, 16000):
        import soxr

        rate = 16000
        pair = [soxr.resample(waveform, sample_rate, rate) for waveform in pair]
    missing = units.seconds_to_samples(0.25, rate) - len(pair[0])
    if missing > 0:
        pair = [np.pad(waveform, (0, missing)) for waveform in pair]
    n_parts = -(-len(pair[0]) // units.seconds_to_samples(20.0, rate))
    scores = []
    for reference, degraded in zip(*(np.array_split(waveform, n_parts) for waveform in pair), strict=True):
        if not reference.any() or not degraded.any():
            continue  # PESQ would divide by the level
        try:
            scores.append(float(pesq.pesq(rate, reference, degraded, "wb" if wide else "nb")))
        except pesq.NoUtterancesError:
            continue
    return float(np.mean(scores)) if scores else None


def stoi(original: Float[np.ndarray, " samples"], output: Float[np.ndarray, " _"], sample_rate: int) -> float | None:
    """Short-time objective intelligibility of speech: 1 for the same clip, about 0 for an unrelated one.

    It is computed at 10 kHz, in 15 third octaves centred at 150 Hz to 3.8 kHz, over stretches of 384 ms of the frames
    within 40 dB of the original's loudest frame. A silent output has 0.

    Returns:
        The score; None where the original has no such stretch: it is silent or, without its pauses, under about 0.4 s.

    Raises:
        ConfigError: the package pystoi is missing.
        AudioError: the original is empty, or a sample of either is not a finite number.

    Source: Taal, Hendriks, Heusdens, Jensen 2011, An Algorithm for Intelligibility Prediction of Time-Frequency
    Weighted Noisy Speech.
    """
    pystoi = _extra("pystoi")
    reference, other = _scaled_pair(original, output)
    # A clip shorter than one stretch of 30 frames is refused here: without any frame the package fails instead of
    # warning.
    if not reference.any() or units.samples_to_seconds(len(reference), sample_rate) < 0.384:
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
        try:
            return float(pystoi.stoi(reference, other, sample_rate))
        except RuntimeWarning:
            return None


def si_sdr_db(original: Float[np.ndarray, " samples"], output: Float[np.ndarray, " _"]) -> float | None:
    """Scale-invariant signal-to-distortion ratio in dB: the part of the output that is a multiple of the original, over
    the rest; infinite for the original itself.

    Returns:
        The ratio; None where one of them is silent.

    Raises:
        AudioError: the original is empty, or a sample of either is not a finite number.

    Source: Le Roux, Wisdom, Erdogan, Hershey 2019, SDR – Half-baked or Well Done?, eq. 3.
    """
    reference, other = (waveform.astype(np.float64) for waveform in _scaled_pair(original, output))
    if not reference.any() or not other.any():
        return None
    part = float(reference @ other) / float(reference @ reference) * reference
    rest = float(np.square(other - part).sum())
    return float(units.power_to_db(max(float(part @ part), 1e-300) / rest)) if rest else float("inf")


def envelope_correlation(
    original: Float[np.ndarray, " samples"], output: Float[np.ndarray, " _"], sample_rate: int
) -> float | None:
    """Pearson correlation of the RMS in consecutive frames of 5 ms: whether attacks and decays are at the right time.

    It does not depend on the level of either waveform, nor on samples after the last whole frame. Silence counts as a
    level of 0; an output whose envelope is constant, such as silence, has 0.

    Returns:
        The correlation, from −1 to 1; None where the original's envelope is constant, as in silence or a steady tone,
        or the clip has fewer than two frames.

    Raises:
        AudioError: the original is empty, or a sample of either is not a finite number.
    """
    frame = max(1, units.seconds_to_samples(ENVELOPE_SECONDS, sample_rate))
    n = len(original) // frame
    x, y = (
        np.sqrt(np.square(waveform[: n * frame].reshape(n, frame), dtype=np.float64).mean(axis=1))
        for waveform in _scaled_pair(original, output)
    )
    changes = [n > 1 and float(np.ptp(levels)) > 1e-6 * float(levels.max()) for levels in (x, y)]
    if not changes[0]:
        return None
    return float(np.corrcoef(x, y)[0, 1]) if changes[1] else 0.0


def crest_factor_db(waveform: Float[np.ndarray, " samples"]) -> float | None:
    """Peak over RMS in dB: 3.01 for a sine, about 12 for noise, more for a click; None for silence."""
    rms = float(np.sqrt(np.square(waveform, dtype=np.float64).mean())) if len(waveform) else 0.0
    return float(units.amplitude_to_db(_peak(waveform) / rms)) if rms else None


def crest_difference_db(original: Float[np.ndarray, " samples"], output: Float[np.ndarray, " _"]) -> float | None:
    """Crest factor of the output minus that of the original, in dB; below 0 where peaks are smeared.

    Returns:
        The difference; None where one of them is silent.

    Raises:
        AudioError: the original is empty, or a sample of either is not a finite number.
    """
    before, after = (crest_factor_db(waveform) for waveform in _scaled_pair(original, output))
    return None if before is None or after is None else after - before


def bootstrap_interval(values: ArrayLike, n: int = 2000, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the mean of `values` at `level`, by the percentile bootstrap with `n` seeded resamples.

    Raises:
        ValueError: there are no values.
    """
    sample = np.asarray(values, dtype=np.float64).ravel()
    if not sample.size:
        raise ValueError("no values to bootstrap")
    rng = np.random.default_rng(seed)
    block = max(1, _RESAMPLED // sample.size)
    means = [
        sample[rng.integers(sample.size, size=(min(block, n - start), sample.size))].mean(axis=1)
        for start in range(0, n, block)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def spectral_jump(waveform: Float[np.ndarray, " samples"], sample_rate: int, at: int) -> Jump:
    """Changes at the join between sample `at` − 1 and sample `at`.

    The spectral change is that between the log-magnitude spectra of the Hann windows that end and that start at the
    join. Their length is the power of two nearest to 10 ms; levels are relative to a sine at the clip's peak, with a
    floor of −80 dB, and the clip is silent outside. Hann windows are zero at the join, so a click there shows only in
    the waveform measure.

    Raises:
        AudioError: `at` is not inside the clip.
    """
    if not 0 < at < len(waveform):
        raise AudioError(
            f"a join at sample {at}", f"one from 1 to {len(waveform) - 1}", "give the index of its first new sample"
        )
    n = _join_window(sample_rate)
    padded = np.pad(waveform.astype(np.float64), n)
    spectra = _join_spectra(padded[at : at + 2 * n].reshape(2, n), _peak(waveform))
    return Jump(float(abs(waveform[at] - waveform[at - 1])), float(np.abs(spectra[1] - spectra[0]).mean()))


def clip_jumps(waveform: Float[np.ndarray, " samples"], sample_rate: int) -> ClipJumps:
    """Changes at every sample of a clip, for comparison: a join should be under the clip's 99th percentile.

    Use the clip before the join, not the joined one, unless it is long: windows that contain a click change more than
    those that meet at it, and in a short clip they are the top hundredth themselves.

    The waveform step is taken at every sample, the spectral jump of `spectral_jump` at every quarter of a window where
    both windows lie inside the clip. A clip shorter than two windows is padded with silence to one such place.
    """
    n = _join_window(sample_rate)
    padded = np.pad(waveform.astype(np.float64), (0, max(0, 2 * n - len(waveform))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, n)[:: n // 4]
    peak = _peak(waveform)
    # Blocks overlap by the four hops between the two windows of a join.
    distances = [
        np.abs(spectra[4:] - spectra[:-4]).mean(axis=1)
        for start in range(0, len(windows) - 4, _BLOCK)
        for spectra in [_join_spectra(windows[start : start + _BLOCK + 4], peak)]
    ]
    return ClipJumps(np.abs(np.diff(waveform.astype(np.float64))), np.concatenate(distances))


def _extra(package: str) -> Any:
    """Import a package of the extra `evaluate`."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigError(f"the package {package} is not installed", action="pip install 'actseq[evaluate]'") from error


def _scaled_pair(
    original: Float[np.ndarray, " samples"], output: Float[np.ndarray, " _"]
) -> list[Float[np.ndarray, " samples"]]:
    """Both waveforms divided by the original's peak, the output as long as the original."""
    if not len(original):
        raise AudioError("an empty original", "a clip of at least one sample", "leave it out")
    for name, waveform in (("original", original), ("output", output)):
        if not np.isfinite(waveform).all():
            raise AudioError(f"an {name} with samples that are not numbers", "finite samples", "leave it out")
    fitted = np.pad(output[: len(original)], (0, max(0, len(original) - len(output))))
    scale = 1 / (_peak(original) or 1.0)
    return [(waveform * scale).astype(np.float32) for waveform in (original, fitted)]


def _peak(waveform: Float[np.ndarray, " samples"]) -> float:
    return float(np.abs(waveform).max(initial=0.0))


def _level_db(magnitude: Float[np.ndarray, "frames bins"]) -> Float[np.ndarray, "frames bins"]:
    return np.asarray(units.amplitude_to_db(magnitude, FLOOR))


def _magnitudes(waveform: Float[np.ndarray, " samples"], n_fft: int) -> Iterator[Float[np.ndarray, "frames bins"]]:
    """Blocks of centred magnitude spectra at a hop of n_fft / 4; a sine of amplitude 1 has magnitude 1."""
    window = hann(n_fft)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(waveform, n_fft // 2), n_fft)[:: n_fft // 4]
    for part in magnitude_spectra(frames, window, _BLOCK):
        yield part * (2 / window.sum())


def _join_window(sample_rate: int) -> int:
    """The power of two nearest to 10 ms, in samples."""
    return int(2 ** round(np.log2(units.seconds_to_samples(0.01, sample_rate))))


def _join_spectra(segments: Float[np.ndarray, "n window"], peak: float) -> Float[np.ndarray, "n bins"]:
    """Levels in dB relative to a sine at `peak`; the window is symmetric, so neither side of a join is favoured."""
    window = np.hanning(segments.shape[1])
    return _level_db(np.abs(np.fft.rfft(segments * window)) * (2 / window.sum() / (peak or 1.0)))
