"""What happens to a clip after the decoder.

The members of this family are functions: given the keys of an effect they check them, which costs nothing and is done
wherever a configuration is read, and return what prepares the effect; that loads what it needs and returns what clips
are sent through. A clip is sent through as a whole, so it is held in memory. In between it may exceed ±1. Reverb,
convolution and chorus make it longer by what still sounds, `trim` makes it shorter, all others keep its length. Nothing
is drawn by chance: the same clip gives the same bytes.

Reverb, chorus, compressor, limiter and the band of an equaliser are those of pedalboard, which is GPL-3 and therefore
only an extra, imported when one of them is prepared.
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
"""A tail sounds as long as it is above this, relative to the peak."""
TAIL_SECONDS = 20.0
"""Bound of the tail of reverb and chorus."""
IMPULSE_SECONDS = 60.0
"""Bound of an impulse response, and so of the tail of a convolution."""
LOUDNESS_RATE = 48000
STEP, BLOCK_STEPS = 4800, 4
"""Loudness is measured in overlapping blocks of four steps of 100 ms."""
OFFSET_LU = 0.691
ABSOLUTE_GATE, RELATIVE_GATE = 10 ** ((-70.0 + OFFSET_LU) / 10), 10.0
"""Powers: of −70 LUFS, and 10 LU."""
K_WEIGHTING = (
    (1.53512485958697, -2.69169618940638, 1.19839281085285, 1.0, -1.69065929318241, 0.73248077421585),
    (1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621),
)
"""Second-order sections: the acoustics of a head, and a high-pass."""


def chain(effects: Iterable[Effect]) -> Process:
    """All of them, prepared, in order.

    Raises:
        ConfigError, AudioError: as `Effect`.
    """
    prepared = [prepare() for prepare in effects]

    def process(waveform: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " changed"]:
        for one in prepared:
            waveform = one(waveform)
        return waveform

    return process


# -- filters ------------------------------------------------------------------------------------------------------------


def high_pass(sample_rate: int, *, cutoff_hz: float, slope_db_per_octave: int = 12) -> Effect:
    """A Butterworth filter that attenuates what lies below `cutoff_hz`; −3 dB there, with every slope.

    Args:
        sample_rate: Hz.
        cutoff_hz: below half of the sample rate.
        slope_db_per_octave: a multiple of 6 up to 48.
    """
    return _butterworth("highpass", sample_rate, cutoff_hz, slope_db_per_octave)


def low_pass(sample_rate: int, *, cutoff_hz: float, slope_db_per_octave: int = 12) -> Effect:
    """The same for what lies above `cutoff_hz`."""
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
        # In single precision a steep filter at a low frequency is another one.
        return lambda waveform: np.asarray(sosfilt(sections, waveform.astype(np.float64)), np.float32)

    return prepare


def eq_band(sample_rate: int, *, frequency_hz: float, gain_db: float, q: float = 1.0) -> Effect:
    """A band of a parametric equaliser.

    Args:
        sample_rate: Hz.
        frequency_hz: its centre, below half of the sample rate.
        gain_db: at the centre; negative attenuates.
        q: centre over width; more is narrower.
    """
    _within(sample_rate, frequency_hz=frequency_hz)
    _between(0.01, 100, q=q)
    _between(-60, 60, gain_db=gain_db)
    return lambda: _plugin("PeakFilter", sample_rate, cutoff_frequency_hz=frequency_hz, gain_db=gain_db, q=q)


# -- level --------------------------------------------------------------------------------------------------------------


def gain(sample_rate: int, *, gain_db: float) -> Effect:
    """Louder or quieter, in dB."""
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
    """Turns down what is louder than a threshold; what that takes from the level is not made up for.

    Args:
        sample_rate: Hz.
        threshold_db: dBFS.
        ratio: dB above the threshold that become one.
        attack_ms: time constant in which it turns down.
        release_ms: time constant in which it lets go.
    """
    _between(-120, 0, threshold_db=threshold_db)
    _between(1, 1000, ratio=ratio)
    _between(0, 10_000, attack_ms=attack_ms, release_ms=release_ms)
    keys = {"threshold_db": threshold_db, "ratio": ratio, "attack_ms": attack_ms, "release_ms": release_ms}
    return lambda: _plugin("Compressor", sample_rate, **keys)


def limiter(sample_rate: int, *, ceiling_db: float = -1.0, release_ms: float = 100.0) -> Effect:
    """No sample is louder than a ceiling; it looks 5 ms ahead, and leaves alone what stays below.

    Args:
        sample_rate: Hz.
        ceiling_db: dBFS.
        release_ms: time constant in which it lets go.
    """
    _between(-120, 0, ceiling_db=ceiling_db)
    _between(0.1, 10_000, release_ms=release_ms)
    return lambda: _plugin("BrickwallLimiter", sample_rate, ceiling_db=ceiling_db, release_ms=release_ms)


def loudness(sample_rate: int, *, lufs: float) -> Effect:
    """Brings a clip to an integrated loudness; what no one hears stays as it is.

    Args:
        sample_rate: Hz.
        lufs: target. Where the peak then exceeds full scale, a `limiter` after it gives up less of it than turning the clip
            down as a whole does, which is what happens when it is written.
    """
    _between(-60, 0, lufs=lufs)

    def process(waveform: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " samples"]:
        peak = float(np.abs(waveform).max(initial=0.0))
        if peak == 0.0:
            return waveform
        # Measured at full scale, so that the absolute gate does not take a quiet clip for silence.
        scaled = waveform / np.float32(peak)
        powers = _block_powers(scaled, sample_rate)
        gain_db = lufs - _gated(powers)
        if np.isinf(gain_db):
            return waveform
        # The louder a decaying clip, the more of its decay passes the absolute gate. Every round moves the gain the same
        # way, from one set of blocks that pass to the next, so there are not many.
        while abs(missing := lufs - _gated(powers * 10 ** (gain_db / 10))) > 1e-3:
            gain_db += missing
        return scaled * np.float32(units.db_to_amplitude(gain_db))

    return lambda: process


def integrated_loudness(waveform: Float32[np.ndarray, " samples"], sample_rate: int) -> float:
    """Programme loudness of one channel in LUFS: −3.01 for a sine of 997 Hz at full scale; −∞ for silence.

    A clip shorter than a gating block, 400 ms, is followed by silence up to that length: its loudness is the highest that a
    meter of momentary loudness shows when it is played. The same is done where all sound lies behind the last whole block.

    Source: ITU-R BS.1770-5, annex 1.
    """
    return _gated(_block_powers(waveform, sample_rate))


def _gated(powers: Float64[np.ndarray, " blocks"]) -> float:
    powers = powers[powers > ABSOLUTE_GATE]
    if not len(powers):
        return -np.inf
    return 10 * float(np.log10(powers[powers > powers.mean() / RELATIVE_GATE].mean())) - OFFSET_LU


def _block_powers(waveform: Float32[np.ndarray, " samples"], sample_rate: int) -> Float64[np.ndarray, " blocks"]:
    """Mean square of every gating block after the weighting."""
    # The standard gives its filters for this rate only; transformed to a low one they are others.
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
    """Mean square of every whole step after the weighting, minute by minute as that takes double precision."""
    from scipy.signal import sosfilt

    state, powers = np.zeros((len(K_WEIGHTING), 2)), []
    whole = len(waveform) // STEP * STEP
    for start in range(0, whole, 600 * STEP):
        weighted, state = sosfilt(K_WEIGHTING, waveform[start : min(whole, start + 600 * STEP)], zi=state)
        powers.append(np.square(weighted).reshape(-1, STEP).mean(axis=1))
    return np.concatenate(powers)


# -- space --------------------------------------------------------------------------------------------------------------


def reverb(
    sample_rate: int, *, room_size: float = 0.5, damping: float = 0.5, wet: float = 0.3, dry: float = 1.0
) -> Effect:
    """An algorithmic reverb (Freeverb). The clip becomes longer by what still sounds, up to 20 s.

    Args:
        sample_rate: Hz.
        room_size: 0 to 1; 0.5 sounds for a second and a half, 1 for more than ten.
        damping: of high frequencies, 0 to 1.
        wet: of the reverb, 0 to 1; at 1 it is about as loud as the clip, in a large room louder.
        dry: amplitude of the clip itself, 0 to 1.
    """
    _between(0, 1, room_size=room_size, damping=damping, wet=wet, dry=dry)
    # Its dry level of 1 is a gain of 2.
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
    """The clip and a copy of it whose delay swings. The clip becomes longer by what still sounds, up to 20 s.

    Args:
        sample_rate: Hz.
        rate_hz: how often it swings in a second.
        depth: of the swing, 0 to 1.
        delay_ms: around which it swings, 1 to 100.
        feedback: from −0.95 to 0.95.
        mix: share of the copy, 0 to 1.
    """
    _between(0, 100, rate_hz=rate_hz)
    _between(0, 1, depth=depth, mix=mix)
    _between(1, 100, delay_ms=delay_ms)
    _between(-0.95, 0.95, feedback=feedback)
    keys = {"rate_hz": rate_hz, "depth": depth, "centre_delay_ms": delay_ms, "feedback": feedback, "mix": mix}
    return lambda: _ringing(_plugin("Chorus", sample_rate, **keys), sample_rate)


def convolution(sample_rate: int, *, impulse_response: str, wet: float = 1.0, dry: float = 0.0) -> Effect:
    """Convolution with a recorded room, plate or loudspeaker. The clip becomes longer by what still sounds.

    Args:
        sample_rate: Hz.
        impulse_response: a file of at most 60 s, of any format and rate, mixed to mono. Its level does not matter: its gain
            is brought to 1 in the mean square over the frequencies that both have, so a click leaves the clip as it is.
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
        # A second of silence before it keeps what resampling adds before its first sample.
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


# -- ends ---------------------------------------------------------------------------------------------------------------


def fade(sample_rate: int, *, in_seconds: float = 0.0, out_seconds: float = 0.0) -> Effect:
    """Linear ramps from and to silence.

    Args:
        sample_rate: Hz.
        in_seconds: of the first sample, which becomes 0, to full amplitude; the whole clip where that is shorter.
        out_seconds: of full amplitude to the last sample, which becomes 0; the whole clip where that is shorter.
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
    """Cuts silence off the ends; a clip that is silent throughout stays as it is.

    Args:
        sample_rate: Hz.
        threshold_db: relative to the peak; what is below it is silence.
        ends: `both`, `start` or `end`.
    """
    _between(-120, 0, threshold_db=threshold_db)

    def process(waveform: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " shorter"]:
        start, stop = audio.trim_bounds(waveform, threshold_db)
        if stop == 0:
            return waveform
        return waveform[0 if ends == "end" else start : len(waveform) if ends == "start" else stop]

    return lambda: process


# -- what they share ----------------------------------------------------------------------------------------------------


def _plugin(name: str, sample_rate: int, **keys: float) -> Process:
    """An effect of pedalboard; it forgets one clip before the next.

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
    """The same with time to ring out."""
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
