"""Effects on a clip after the decoder.

The members of this family are functions. A function checks the keys of its effect, which is cheap and happens whenever
a configuration is read, and returns an `Effect`. Calling the `Effect` loads what it needs and returns the `Process` for
clips. A process gets a whole clip, so the clip is held in memory; its result may exceed ±1. Reverb, convolution and
chorus lengthen a clip by their tail, `trim` shortens it, all others keep its length. Nothing is random: the same clip
gives the same bytes.

Reverb, chorus, compressor, limiter and equaliser band come from pedalboard. It is GPL-3 and therefore an extra; it is
imported when one of them is prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Float64

from actseq import audio, units
from actseq.errors import AudioError, ConfigError

Process = Callable[[Float32[np.ndarray, " samples"]], Float32[np.ndarray, " changed"]]
Effect = Callable[[], Process]
"""Prepares an effect.

Raises:
    ConfigError: a package is not installed.
    AudioError: a file cannot be used.
"""

TAIL_DB = -80.0
"""A tail ends where it stays below this level, relative to the peak."""
TAIL_SECONDS = 20.0
"""Longest tail of reverb and chorus."""
IMPULSE_SECONDS = 60.0
"""Longest impulse response, and so the longest tail of a convolution."""
LOUDNESS_RATE = 48000
STEP, BLOCK_STEPS = 4800, 4
"""Samples of a step (100 ms), and steps of a block: loudness is measured in overlapping blocks of 400 ms."""
OFFSET_LU = 0.691
ABSOLUTE_GATE, RELATIVE_GATE = units.db_to_power(-70.0 + OFFSET_LU), 10.0
"""The power of −70 LUFS, and the power ratio of 10 LU."""
K_WEIGHTING = (
    (1.53512485958697, -2.69169618940638, 1.19839281085285, 1.0, -1.69065929318241, 0.73248077421585),
    (1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621),
)
"""Second-order sections: a shelf for the acoustics of the head, and a high-pass."""


def chain(effects: Iterable[Effect]) -> Process:
    """Prepare effects and apply them in order.

    Raises:
        ConfigError, AudioError: as `Effect`.
    """
    prepared = [prepare() for prepare in effects]

    def process(waveform: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " changed"]:
        for one in prepared:
            waveform = one(waveform)
        return waveform

    return process


# -- filters -----------------------------------------------------------------------------------------------------------


def high_pass(sample_rate: int, *, cutoff_hz: float, slope_db_per_octave: int = 12) -> Effect:
    """Butterworth filter that attenuates frequencies below `cutoff_hz`; −3 dB at `cutoff_hz` for every slope.

    Args:
        sample_rate: Hz.
        cutoff_hz: frequency of −3 dB, below half the sample rate.
        slope_db_per_octave: attenuation per octave, a multiple of 6 up to 48.
    """
    return _butterworth("highpass", sample_rate, cutoff_hz, slope_db_per_octave)


def low_pass(sample_rate: int, *, cutoff_hz: float, slope_db_per_octave: int = 12) -> Effect:
    """Butterworth filter that attenuates frequencies above `cutoff_hz`; arguments as in `high_pass`."""
    return _butterworth("lowpass", sample_rate, cutoff_hz, slope_db_per_octave)


def _butterworth(
    side: Literal["highpass", "lowpass"], sample_rate: int, cutoff_hz: float, slope_db_per_octave: int
) -> Effect:
    _within(sample_rate, cutoff_hz=cutoff_hz)
    if slope_db_per_octave not in range(6, 49, 6):
        raise ValueError(f"slope_db_per_octave is {slope_db_per_octave}, expected a multiple of 6 from 6 to 48")

    def prepare() -> Process:
        from scipy.signal import butter, sosfilt

        sections = butter(slope_db_per_octave // 6, cutoff_hz, side, output="sos", fs=sample_rate)
        # Single precision changes steep filters at low frequencies.
        return lambda waveform: np.asarray(sosfilt(sections, waveform.astype(np.float64)), np.float32)

    return prepare


def eq_band(sample_rate: int, *, frequency_hz: float, gain_db: float, q: float = 1.0) -> Effect:
    """A band of a parametric equaliser.

    Args:
        sample_rate: Hz.
        frequency_hz: centre frequency, below half the sample rate.
        gain_db: gain at the centre; negative attenuates.
        q: centre frequency over bandwidth; higher is narrower.
    """
    _within(sample_rate, frequency_hz=frequency_hz)
    _between(0.01, 100, q=q)
    _between(-60, 60, gain_db=gain_db)
    return lambda: _plugin("PeakFilter", sample_rate, cutoff_frequency_hz=frequency_hz, gain_db=gain_db, q=q)


# -- level -------------------------------------------------------------------------------------------------------------


def gain(sample_rate: int, *, gain_db: float) -> Effect:
    """A gain.

    Args:
        sample_rate: Hz.
        gain_db: gain in dB; negative attenuates.
    """
    _between(-120, 120, gain_db=gain_db)
    factor = np.float32(units.db_to_amplitude(gain_db))
    return lambda: lambda waveform: waveform * factor


def compressor(
    sample_rate: int,
    *,
    threshold_db: float = -18.0,
    ratio: float = 4.0,
    attack_ms: float = 5.0,
    release_ms: float = 100.0,
) -> Effect:
    """Turns down levels above a threshold, without make-up gain.

    Args:
        sample_rate: Hz.
        threshold_db: level in dBFS above which it turns down.
        ratio: dB above the threshold that become one dB.
        attack_ms: time constant of turning down.
        release_ms: time constant of returning to the original level.
    """
    _between(-120, 0, threshold_db=threshold_db)
    _between(1, 1000, ratio=ratio)
    _between(0, 10_000, attack_ms=attack_ms, release_ms=release_ms)
    keys = {"threshold_db": threshold_db, "ratio": ratio, "attack_ms": attack_ms, "release_ms": release_ms}
    return lambda: _plugin("Compressor", sample_rate, **keys)


def limiter(sample_rate: int, *, ceiling_db: float = -1.0, release_ms: float = 100.0) -> Effect:
    """Keeps every sample below a ceiling; it looks 5 ms ahead. A clip below the ceiling is not changed.

    Args:
        sample_rate: Hz.
        ceiling_db: highest level of a sample, in dBFS.
        release_ms: time constant of returning to the original level.
    """
    _between(-120, 0, ceiling_db=ceiling_db)
    _between(0.1, 10_000, release_ms=release_ms)
    return lambda: _plugin("BrickwallLimiter", sample_rate, ceiling_db=ceiling_db, release_ms=release_ms)


def loudness(sample_rate: int, *, lufs: float) -> Effect:
    """Brings a clip to an integrated loudness; inaudible clips are not changed.

    Args:
        sample_rate: Hz.
        lufs: target loudness. If the peak then exceeds full scale, the whole clip is turned down when it is written. A
            `limiter` after this effect loses less loudness.
    """
    _between(-60, 0, lufs=lufs)

    def process(waveform: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " samples"]:
        peak = float(np.abs(waveform).max(initial=0.0))
        if peak == 0.0:
            return waveform
        # Measured at full scale, so that the absolute gate does not treat a quiet clip as silence.
        scaled = waveform / np.float32(peak)
        powers = _block_powers(scaled, sample_rate)
        gain_db = lufs - _gated(powers)
        if np.isinf(gain_db):
            return waveform
        # The louder a decaying clip, the more of its decay passes the absolute gate. Every round moves the gain in the
        # same direction, from one set of passing blocks to the next, so there are few rounds.
        while abs(missing := lufs - _gated(powers * units.db_to_power(gain_db))) > 1e-3:
            gain_db += missing
        return scaled * np.float32(units.db_to_amplitude(gain_db))

    return lambda: process


def integrated_loudness(waveform: Float32[np.ndarray, " samples"], sample_rate: int) -> float:
    """Programme loudness of one channel in LUFS: −3.01 for a sine of 997 Hz at full scale; −∞ for silence.

    A clip shorter than a gating block (400 ms) is padded with silence to that length. Its loudness is then the highest
    value that a meter of momentary loudness shows. A clip with all its sound after the last whole block is padded too.

    Source: ITU-R BS.1770-5, annex 1.
    """
    return _gated(_block_powers(waveform, sample_rate))


def _gated(powers: Float64[np.ndarray, " blocks"]) -> float:
    powers = powers[powers > ABSOLUTE_GATE]
    if not len(powers):
        return -np.inf
    return float(units.power_to_db(powers[powers > powers.mean() / RELATIVE_GATE].mean())) - OFFSET_LU


def _block_powers(waveform: Float32[np.ndarray, " samples"], sample_rate: int) -> Float64[np.ndarray, " blocks"]:
    """Mean square of every gating block of the weighted clip."""
    # The standard defines its filters for this rate only; a transformation to low rates would change them.
    if sample_rate != LOUDNESS_RATE:
        waveform = audio.resample(waveform, sample_rate, LOUDNESS_RATE)
    block = BLOCK_STEPS * STEP
    powers = np.zeros(0)
    for silence in (max(0, block - len(waveform)), block):
        if not (powers > ABSOLUTE_GATE).any():
            steps = _step_powers(np.pad(waveform, (0, silence)))
            powers = np.lib.stride_tricks.sliding_window_view(steps, BLOCK_STEPS).mean(axis=1)
    return powers


def _step_powers(waveform: Float32[np.ndarray, " samples"]) -> Float64[np.ndarray, " steps"]:
    """Mean square of every whole step of the weighted clip; minute by minute, because it needs double precision."""
    from scipy.signal import sosfilt

    state, powers = np.zeros((len(K_WEIGHTING), 2)), []
    whole = len(waveform) // STEP * STEP
    for start in range(0, whole, 600 * STEP):
        weighted, state = sosfilt(K_WEIGHTING, waveform[start : min(whole, start + 600 * STEP)], zi=state)
        powers.append(np.square(weighted).reshape(-1, STEP).mean(axis=1))
    return np.concatenate(powers)


# -- space -------------------------------------------------------------------------------------------------------------


def reverb(
    sample_rate: int, *, room_size: float = 0.5, damping: float = 0.5, wet: float = 0.3, dry: float = 1.0
) -> Effect:
    """An algorithmic reverb (Freeverb). The clip becomes longer by the tail, up to 20 s.

    Args:
        sample_rate: Hz.
        room_size: size of the room, 0 to 1; the tail of 0.5 lasts 1.5 s, that of 1 more than 10 s.
        damping: damping of high frequencies, 0 to 1.
        wet: level of the reverb, 0 to 1; at 1 it is about as loud as the clip, in a large room louder.
        dry: amplitude of the clip itself, 0 to 1.
    """
    _between(0, 1, room_size=room_size, damping=damping, wet=wet, dry=dry)
    # A dry level of 1 in pedalboard is a gain of 2.
    keys = {"room_size": room_size, "damping": damping, "wet_level": wet, "dry_level": dry / 2}
    return lambda: _ringing(_plugin("Reverb", sample_rate, **keys), sample_rate)


def chorus(
    sample_rate: int,
    *,
    rate_hz: float = 1.0,
    depth: float = 0.25,
    delay_ms: float = 7.0,
    feedback: float = 0.0,
    mix: float = 0.5,
) -> Effect:
    """The clip mixed with a copy of varying delay. The clip becomes longer by the tail, up to 20 s.

    Args:
        sample_rate: Hz.
        rate_hz: frequency of the variation.
        depth: depth of the variation, 0 to 1.
        delay_ms: middle of the delay, 1 to 100 ms.
        feedback: feedback of the delayed copy, −0.95 to 0.95.
        mix: fraction of the copy in the result, 0 to 1.
    """
    _between(0, 100, rate_hz=rate_hz)
    _between(0, 1, depth=depth, mix=mix)
    _between(1, 100, delay_ms=delay_ms)
    _between(-0.95, 0.95, feedback=feedback)
    keys = {"rate_hz": rate_hz, "depth": depth, "centre_delay_ms": delay_ms, "feedback": feedback, "mix": mix}
    return lambda: _ringing(_plugin("Chorus", sample_rate, **keys), sample_rate)


def convolution(sample_rate: int, *, impulse_response: str, wet: float = 1.0, dry: float = 0.0) -> Effect:
    """Convolution with the impulse response of a room, plate or loudspeaker. The clip becomes longer by the tail.

    Args:
        sample_rate: Hz.
        impulse_response: a file of at most 60 s in any format and rate; it is mixed to mono. It is scaled to a gain of
            1 in the mean square over the frequencies of both files, so a click does not change the clip.
        wet: amplitude of the convolved clip, 0 to 1.
        dry: amplitude of the clip itself, 0 to 1.
    """
    _between(0, 1, wet=wet, dry=dry)

    def prepare() -> Process:
        from scipy.signal import oaconvolve

        impulse, own_rate = audio.load(Path(impulse_response))
        if len(impulse) > units.seconds_to_samples(IMPULSE_SECONDS, own_rate):
            raise AudioError(
                f"{impulse_response} lasts {units.samples_to_seconds(len(impulse), own_rate):.0f} s",
                f"an impulse response of at most {IMPULSE_SECONDS:g} s",
                "cut it",
            )
        # Resampling rings before the first sample; a second of silence in front keeps that part.
        early = 0
        if own_rate != sample_rate:
            silence = np.zeros(own_rate, np.float32)
            impulse, early = audio.resample(np.concatenate([silence, impulse]), own_rate, sample_rate), sample_rate
        energy = float(np.square(impulse, dtype=np.float64).sum()) * max(1.0, sample_rate / own_rate)
        impulse *= np.float32(wet / np.sqrt(energy))

        def process(waveform: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " longer"]:
            whole = np.asarray(oaconvolve(waveform, impulse), np.float32)[early:]
            whole[: len(waveform)] += waveform * np.float32(dry)
            return _without_silent_tail(whole, len(waveform))

        return process

    return prepare


# -- ends --------------------------------------------------------------------------------------------------------------


def fade(sample_rate: int, *, in_seconds: float = 0.0, out_seconds: float = 0.0) -> Effect:
    """Linear ramps from and to silence.

    Args:
        sample_rate: Hz.
        in_seconds: length of the ramp from 0 at the first sample; at most the whole clip.
        out_seconds: length of the ramp to 0 at the last sample; at most the whole clip.
    """
    _between(0, 3600, in_seconds=in_seconds, out_seconds=out_seconds)

    def process(waveform: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " samples"]:
        faded = waveform.copy()
        for seconds, ordered in ((in_seconds, faded), (out_seconds, faded[::-1])):
            samples = min(len(faded), units.seconds_to_samples(seconds, sample_rate))
            ordered[:samples] *= np.arange(samples, dtype=np.float32) / np.float32(max(1, samples))
        return faded

    return lambda: process


def trim(sample_rate: int, *, threshold_db: float = -60.0, ends: Literal["both", "start", "end"] = "both") -> Effect:
    """Cuts silence off the ends; a completely silent clip is not changed.

    Args:
        sample_rate: Hz.
        threshold_db: level below which sound counts as silence, relative to the peak.
        ends: which ends are cut, `both`, `start` or `end`.
    """
    _between(-120, 0, threshold_db=threshold_db)

    def process(waveform: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " shorter"]:
        start, stop = audio.trim_bounds(waveform, threshold_db)
        if stop == 0:
            return waveform
        return waveform[0 if ends == "end" else start : len(waveform) if ends == "start" else stop]

    return lambda: process


# -- shared ----------------------------------------------------------------------------------------------------


def _plugin(name: str, sample_rate: int, **keys: float) -> Process:
    """An effect of pedalboard; its state is reset for every clip.

    Raises:
        ConfigError: pedalboard is not installed.
    """
    try:
        pedalboard: Any = import_module("pedalboard")
    except ImportError as error:
        raise ConfigError(
            "the package pedalboard is not installed, which chorus, compressor, eq-band, limiter and reverb need",
            action="pip install 'actseq[effects]'",
        ) from error
    plugin = getattr(pedalboard, name)(**keys)
    return lambda waveform: np.asarray(plugin(waveform, sample_rate, reset=True), np.float32)


def _ringing(process: Process, sample_rate: int) -> Process:
    """A process that also returns the tail of its effect."""
    silence = np.zeros(units.seconds_to_samples(TAIL_SECONDS, sample_rate), np.float32)
    return lambda waveform: _without_silent_tail(process(np.concatenate([waveform, silence])), len(waveform))


def _without_silent_tail(waveform: Float32[np.ndarray, " samples"], at_least: int) -> Float32[np.ndarray, " kept"]:
    return waveform[: max(at_least, audio.trim_bounds(waveform, TAIL_DB)[1])]


def _between(low: float, high: float, **values: float) -> None:
    for name, value in values.items():
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}, expected {low:g} to {high:g}")


def _within(sample_rate: int, **frequencies: float) -> None:
    for name, value in frequencies.items():
        if not 0 < value < sample_rate / 2:
            raise ValueError(f"{name} is {value}, expected above 0 and below {sample_rate / 2:g}, half the sample rate")
