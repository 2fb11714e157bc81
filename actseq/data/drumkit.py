"""A drum machine in numpy, which makes the default corpus, so that a demo needs no download.

Tuning, decay, brightness, velocity, noise colour and drive of each hit are random. They do not depend on the sample
rate: a seed gives the same drum at every rate. Noise is shaped in the frequency domain before its envelope is applied,
where it is stationary; it has its full level from sample 0, and no filter has to settle.
"""

import difflib
import io
from collections.abc import Callable
from math import ceil, pi, sqrt
from pathlib import Path

import numpy as np
import soundfile  # type: ignore[import-untyped,unused-ignore]
from jaxtyping import Complex128, Float32, Float64

from actseq.errors import ConfigError
from actseq.units import db_to_amplitude, seconds_to_samples

KINDS: tuple[str, ...] = ("snare", "kick", "hat", "tom", "clap")

_SHORTEST, _LONGEST, _FADE = 0.08, 0.9, 0.008  # seconds
_FLOOR = db_to_amplitude(-60.0)
_LOWEST_RATE = 8_000
# Modes of an ideal circular membrane: zeros of the Bessel functions J01 J11 J21 J02 J31 J12 J41 J22 over the first.
_MEMBRANE = np.array([1.0, 1.594, 2.136, 2.296, 2.653, 2.918, 3.156, 3.501])
# Oscillators of the Roland TR-808's cymbal circuit, in Hz.
_METAL = np.array([205.3, 304.4, 369.6, 522.7, 540.0, 800.0])


def _log_uniform(draw: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(draw.uniform(np.log(low), np.log(high))))


def _decay(time: Float64[np.ndarray, " samples"], t60: float) -> Float64[np.ndarray, " samples"]:
    """Exponential decay that falls by 60 dB in `t60` seconds."""
    return np.asarray(10.0 ** (-3.0 * time / t60))


def _band(
    frequencies: Float64[np.ndarray, " bins"], low: float, high: float, nyquist: float, order: int = 2
) -> Float64[np.ndarray, " bins"]:
    """Magnitude of a Butterworth band-pass; a lower edge above 0.75 Nyquist is pulled down to it."""
    low = min(low, 0.75 * nyquist)
    ratio = (frequencies / low) ** (2 * order)
    return np.asarray(np.sqrt(ratio / (1.0 + ratio) / (1.0 + (frequencies / high) ** (2 * order))))


def _tilt(grid: Float64[np.ndarray, " bins"], db_per_octave: float) -> Float64[np.ndarray, " bins"]:
    return np.asarray(10.0 ** (db_per_octave / 20.0 * np.log2(np.maximum(grid, 20.0) / 1_000.0)))


def _noise(hiss: np.random.Generator, response: Float64[np.ndarray, " bins"]) -> Float64[np.ndarray, " samples"]:
    """Stationary Gaussian noise with this magnitude response and a standard deviation of 1; 2 (bins - 1) samples."""
    n = 2 * (len(response) - 1)
    shaped = np.fft.irfft(np.fft.rfft(hiss.standard_normal(n)) * response, n)
    return np.asarray(shaped / shaped.std())


def _modes(
    time: Float64[np.ndarray, " samples"],
    nyquist: float,
    pitch: float,
    bend: float,
    bend_time: float,
    ratios: Float64[np.ndarray, " modes"],
    t60: Float64[np.ndarray, " modes"],
    levels: Float64[np.ndarray, " modes"],
) -> Float64[np.ndarray, " samples"]:
    """Damped sines whose common pitch falls exponentially from pitch (1 + bend) to pitch, all below Nyquist."""
    phase = 2.0 * pi * pitch * (time + bend * bend_time * (1.0 - np.exp(-time / bend_time)))
    keep = ratios * pitch * (1.0 + bend) < nyquist
    sines = np.sin(ratios[keep, None] * phase) * 10.0 ** (-3.0 * time / t60[keep, None])
    return np.asarray(levels[keep] @ sines)


def _partials(
    n: int,
    nyquist: float,
    frequencies: Float64[np.ndarray, " partials"],
    t60: Float64[np.ndarray, " partials"],
    levels: Float64[np.ndarray, " partials"],
    phases: Float64[np.ndarray, " partials"],
) -> Float64[np.ndarray, " samples"]:
    """Damped sines of constant frequency; those above Nyquist are left out."""
    keep = frequencies < nyquist
    rate = (2j * pi * frequencies[keep] - 3.0 * np.log(10.0) / t60[keep]) / (2.0 * nyquist)
    # exp(r (a·block + b)) = exp(r a·block) exp(r b): a matrix product instead of n exponentials per partial.
    block = ceil(sqrt(n))
    start: Complex128[np.ndarray, "partials blocks"] = np.exp(np.outer(rate, block * np.arange(ceil(n / block))))
    start *= (levels[keep] * np.exp(1j * phases[keep]))[:, None]
    within: Complex128[np.ndarray, "partials block"] = np.exp(np.outer(rate, np.arange(block)))
    return np.asarray((start.T @ within).imag.ravel()[:n])


def _saturate(body: Float64[np.ndarray, " samples"], drive: float) -> Float64[np.ndarray, " samples"]:
    """Soft clipping of a low-pitched body, scaled to a peak of 1; at 22.05 kHz its aliases are below -55 dB."""
    return np.asarray(np.tanh(drive * body / np.abs(body).max()) / np.tanh(drive))


def _kick(
    draw: np.random.Generator,
    hiss: np.random.Generator,
    time: Float64[np.ndarray, " samples"],
    grid: Float64[np.ndarray, " bins"],
    velocity: float,
) -> Float64[np.ndarray, " samples"]:
    nyquist = float(grid[-1])
    pitch = _log_uniform(draw, 38.0, 72.0)
    bend = _log_uniform(draw, 1.2, 6.0) * (0.6 + 0.4 * velocity)
    bend_time = _log_uniform(draw, 0.010, 0.050)
    t60 = _log_uniform(draw, 0.20, 0.74)
    overtone, overtone_level = draw.uniform(1.5, 2.3), draw.uniform(0.0, 0.3)
    drive = _log_uniform(draw, 0.3, 3.0)
    click_centre, click_t60 = _log_uniform(draw, 1_200.0, 5_000.0), _log_uniform(draw, 0.004, 0.018)
    click_level = _log_uniform(draw, 0.02, 0.35) * (0.3 + 0.7 * velocity)
    thump_edge, thump_t60 = _log_uniform(draw, 200.0, 900.0), _log_uniform(draw, 0.03, 0.12)
    thump_level = _log_uniform(draw, 0.01, 0.12)

    body = _modes(
        time, nyquist, pitch, bend, bend_time,
        np.array([1.0, overtone]), np.array([t60, 0.35 * t60]), np.array([1.0, overtone_level]),
    )  # fmt: skip
    click = _noise(hiss, _band(grid, 0.6 * click_centre, 1.6 * click_centre, nyquist)) * _decay(time, click_t60)
    thump = _noise(hiss, _band(grid, 60.0, thump_edge, nyquist)) * _decay(time, thump_t60)
    return np.asarray(_saturate(body, drive) + click_level * click + thump_level * thump)


def _snare(
    draw: np.random.Generator,
    hiss: np.random.Generator,
    time: Float64[np.ndarray, " samples"],
    grid: Float64[np.ndarray, " bins"],
    velocity: float,
) -> Float64[np.ndarray, " samples"]:
    nyquist = float(grid[-1])
    pitch = _log_uniform(draw, 145.0, 280.0)
    bend, bend_time = _log_uniform(draw, 0.05, 0.6) * (0.5 + 0.5 * velocity), _log_uniform(draw, 0.006, 0.030)
    ratios = np.array([1.0, draw.uniform(1.5, 1.9), draw.uniform(2.1, 2.9), draw.uniform(3.2, 5.0)])
    head_t60 = _log_uniform(draw, 0.07, 0.30)
    t60 = head_t60 * np.array([1.0, draw.uniform(0.5, 0.9), draw.uniform(0.3, 0.8), draw.uniform(0.4, 1.4)])
    # The fourth mode is the ring of an undamped head: most snares have hardly any.
    levels = np.array([1.0, draw.uniform(0.2, 0.9), draw.uniform(0.0, 0.5), 0.35 * draw.uniform(0.0, 1.0) ** 3])
    drive = _log_uniform(draw, 0.2, 2.0)
    low, high = _log_uniform(draw, 700.0, 3_000.0), _log_uniform(draw, 5_500.0, 13_000.0) * (0.7 + 0.3 * velocity)
    colour = draw.uniform(-4.0, 2.0)
    wires_t60 = _log_uniform(draw, 0.12, 0.75)
    wires_level = _log_uniform(draw, 0.2, 1.1) * (0.7 + 0.3 * velocity)
    stick_t60, stick_level = _log_uniform(draw, 0.008, 0.040), _log_uniform(draw, 0.1, 0.5) * velocity

    head = _saturate(_modes(time, nyquist, pitch, bend, bend_time, ratios, t60, levels), drive)
    wires = _noise(hiss, _band(grid, low, high, nyquist) * _tilt(grid, colour)) * _decay(time, wires_t60)
    stick = _noise(hiss, _band(grid, 0.5 * low, 1.3 * high, nyquist)) * _decay(time, stick_t60)
    return np.asarray(head + wires_level * wires + stick_level * stick)


def _hat(
    draw: np.random.Generator,
    hiss: np.random.Generator,
    time: Float64[np.ndarray, " samples"],
    grid: Float64[np.ndarray, " bins"],
    velocity: float,
) -> Float64[np.ndarray, " samples"]:
    nyquist = float(grid[-1])
    fundamentals = _METAL * _log_uniform(draw, 0.75, 1.7) * draw.uniform(0.95, 1.05, len(_METAL))
    mix = draw.uniform(0.4, 1.0, len(_METAL))
    # Most hats are closed or open, few are in between.
    t60 = _log_uniform(draw, 0.05, 0.18) if draw.uniform() < 0.6 else _log_uniform(draw, 0.25, 0.85)
    damping = draw.uniform(0.0, 0.7)
    edge = _log_uniform(draw, 5_200.0, 8_000.0) * (1.1 - 0.1 * velocity)
    colour = draw.uniform(-3.0, 3.0)
    metal_level = draw.uniform(0.15, 1.0)
    chick_t60, chick_level = _log_uniform(draw, 0.006, 0.025), _log_uniform(draw, 0.15, 1.0) * velocity
    # Odd harmonics of squares, as many as the highest rate can hold, so that the draws do not depend on the rate.
    odd = np.arange(1.0, 160.0, 2.0)
    phases = draw.uniform(0.0, 2.0 * pi, (len(_METAL), len(odd))).ravel()

    frequencies = np.outer(fundamentals, odd).ravel()
    levels = np.outer(mix, 1.0 / odd).ravel() * _band(frequencies, edge, 20_000.0, nyquist, order=4)
    heard = levels > 1e-3 * levels.max()
    frequencies, levels, phases = frequencies[heard], levels[heard], phases[heard]
    faster = np.maximum(frequencies / min(edge, 0.75 * nyquist), 1.0) ** damping
    metal = _partials(len(time), nyquist, frequencies, t60 / faster, levels, phases)
    metal /= metal[: seconds_to_samples(0.02, round(2.0 * nyquist))].std()
    shape = _band(grid, edge, 20_000.0, nyquist, order=4)
    sizzle = _noise(hiss, shape * _tilt(grid, colour)) * _decay(time, t60)
    chick = _noise(hiss, _band(grid, 0.8 * edge, 20_000.0, nyquist, order=3)) * _decay(time, chick_t60)
    return np.asarray(metal_level * metal + (1.05 - metal_level) * sizzle + chick_level * chick)


def _tom(
    draw: np.random.Generator,
    hiss: np.random.Generator,
    time: Float64[np.ndarray, " samples"],
    grid: Float64[np.ndarray, " bins"],
    velocity: float,
) -> Float64[np.ndarray, " samples"]:
    nyquist = float(grid[-1])
    pitch = _log_uniform(draw, 85.0, 230.0)
    bend, bend_time = _log_uniform(draw, 0.04, 0.6) * (0.5 + 0.5 * velocity), _log_uniform(draw, 0.02, 0.10)
    t60 = _log_uniform(draw, 0.28, 0.78)
    damping, brightness = _log_uniform(draw, 0.4, 2.5), draw.uniform(0.25, 0.75) * (0.7 + 0.3 * velocity)
    ratios = np.append(1.0, _MEMBRANE[1:] * draw.uniform(0.97, 1.03, len(_MEMBRANE) - 1))
    # Where the stick lands decides which modes it excites.
    levels = brightness ** (ratios - 1.0) * np.append(1.0, draw.uniform(0.1, 1.2, len(_MEMBRANE) - 1))
    drive = _log_uniform(draw, 0.2, 1.5)
    low, high = _log_uniform(draw, 150.0, 600.0), _log_uniform(draw, 1_500.0, 6_000.0)
    colour = draw.uniform(-6.0, 0.0)
    stick_t60 = _log_uniform(draw, 0.010, 0.060)
    stick_level = _log_uniform(draw, 0.03, 0.3) * (0.4 + 0.6 * velocity)

    decays = t60 / (1.0 + damping * (ratios - 1.0))
    skin = _saturate(_modes(time, nyquist, pitch, bend, bend_time, ratios, decays, levels), drive)
    stick = _noise(hiss, _band(grid, low, high, nyquist) * _tilt(grid, colour)) * _decay(time, stick_t60)
    return np.asarray(skin + stick_level * stick)


def _clap(
    draw: np.random.Generator,
    hiss: np.random.Generator,
    time: Float64[np.ndarray, " samples"],
    grid: Float64[np.ndarray, " bins"],
    velocity: float,
) -> Float64[np.ndarray, " samples"]:
    nyquist = float(grid[-1])
    n_bursts = int(draw.integers(3, 6))
    gaps, levels = draw.uniform(0.008, 0.015, 4), draw.uniform(0.55, 1.0, 5)
    burst_t60 = _log_uniform(draw, 0.012, 0.028)
    centre, quality = _log_uniform(draw, 750.0, 1_900.0), _log_uniform(draw, 1.2, 5.0)
    air_level = _log_uniform(draw, 0.05, 0.5) * (0.4 + 0.6 * velocity)
    colour = draw.uniform(-3.0, 2.0)
    tail_t60, tail_level = _log_uniform(draw, 0.12, 0.70), _log_uniform(draw, 0.12, 0.6)
    tail_high = _log_uniform(draw, 2_500.0, 8_000.0)

    starts = np.append(0.0, np.cumsum(gaps))[:n_bursts]
    since = time - starts[:, None]
    bursts = levels[:n_bursts] @ np.where(since >= 0.0, 10.0 ** (-3.0 * np.maximum(since, 0.0) / burst_t60), 0.0)
    after = time - starts[-1]
    tail = np.where(after >= 0.0, _decay(np.maximum(after, 0.0), tail_t60), 0.0)
    bins = np.maximum(grid, 1.0)
    resonance = 1.0 / np.sqrt(1.0 + (quality * (bins / centre - centre / bins)) ** 2)
    palm = _noise(hiss, resonance * _band(grid, 200.0, 12_000.0, nyquist))
    air = _noise(hiss, _band(grid, 1.5 * centre, 11_000.0, nyquist) * _tilt(grid, colour))
    room = _noise(hiss, (resonance + 0.1) * _band(grid, 400.0, tail_high, nyquist))
    return np.asarray((palm + air_level * air) * bursts + tail_level * room * tail)


_VOICES: dict[str, Callable[..., Float64[np.ndarray, " samples"]]] = {
    "snare": _snare,
    "kick": _kick,
    "hat": _hat,
    "tom": _tom,
    "clap": _clap,
}


def _block_dc(waveform: Float64[np.ndarray, " samples"], sample_rate: int) -> Float64[np.ndarray, " samples"]:
    """Two first-order high-passes at 18 Hz, causal: by FFT over twice the length, where they have died out."""
    n = len(waveform)
    pole = np.exp(-2.0 * pi * 18.0 / sample_rate)
    delay = np.exp(-2j * pi * np.fft.rfftfreq(2 * n))
    response = (0.5 * (1.0 + pole) * (1.0 - delay) / (1.0 - pole * delay)) ** 2
    return np.asarray(np.fft.irfft(np.fft.rfft(waveform, 2 * n) * response, 2 * n)[:n])


def synthesise(kind: str, seed: int, sample_rate: int = 22_050) -> Float32[np.ndarray, " samples"]:
    """One drum hit. It starts at sample 0, ends when it has fallen by 60 dB, and peaks at -9 to -1 dBFS by velocity.

    Args:
        kind: one of `KINDS`.
        seed: 0 or more; each seed is another drum of this kind.
        sample_rate: 8000 Hz or more. A seed gives the same drum at every rate, without what lies above Nyquist.

    Returns:
        Waveform (samples,) of 0.08 to 0.9 s. The same arguments give the same samples.

    Raises:
        ConfigError: the kind is unknown, the seed negative, or the sample rate too low.

    Source:
        Modes of a circular membrane: Fletcher and Rossing, The Physics of Musical Instruments, chapter 3.
    """
    if kind not in KINDS:
        near = difflib.get_close_matches(kind.lower(), KINDS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown drum '{kind}'", f"one of {', '.join(KINDS)}", f"did you mean '{near}'?")
    if seed < 0:
        raise ConfigError(f"seed {seed}", "0 or more", "choose another seed")
    if sample_rate < _LOWEST_RATE:
        raise ConfigError(f"sample rate {sample_rate} Hz", f"at least {_LOWEST_RATE} Hz", "choose a higher one")
    draw, hiss = np.random.default_rng([seed, KINDS.index(kind)]).spawn(2)
    velocity = float(draw.uniform())
    n = 2 * (seconds_to_samples(_LONGEST, sample_rate) // 2)
    time = np.arange(n) / sample_rate
    hit = _block_dc(_VOICES[kind](draw, hiss, time, np.fft.rfftfreq(n, 1.0 / sample_rate), velocity), sample_rate)

    level = np.abs(hit)
    last = int(np.flatnonzero(level > _FLOOR * level.max())[-1])
    fade = seconds_to_samples(_FADE, sample_rate)
    hit = hit[: max(last + 1 + fade, ceil(_SHORTEST * sample_rate))]
    hit[-fade:] *= 0.5 + 0.5 * np.cos(np.linspace(0.0, pi, fade))
    return np.asarray(hit / np.abs(hit).max() * db_to_amplitude(-9.0 + 8.0 * velocity), dtype=np.float32)


def write_drumkit(folder: Path, *, n_per_kind: int = 60, sample_rate: int = 22_050, seed: int = 0) -> list[Path]:
    """Write a corpus of drum hits, one folder per kind: `<kind>/<kind>-000.wav`, mono, 16 bit.

    Each file is written under a temporary name and renamed: no file is ever incomplete, and a second call writes the
    files that are missing. The same arguments write the same bytes. A file that exists is never replaced.

    Args:
        folder: folder to write to; made if missing. It may hold some of the files to be written, but no others.
        n_per_kind: hits of each kind.
        sample_rate: sample rate in Hz.
        seed: 0 or more; each seed is another kit.

    Returns:
        The paths, kind by kind.

    Raises:
        ConfigError: the folder holds other files, or other content under one of the names; it is a file; or a value is
            out of range.
    """
    if n_per_kind < 1:
        raise ConfigError(f"{n_per_kind} hits per kind", "1 or more", "choose a larger number")
    if seed < 0:
        raise ConfigError(f"seed {seed}", "0 or more", "choose another seed")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file", "a folder", "name another folder")
    names = [(kind, i, folder / kind / f"{kind}-{i:03d}.wav") for kind in KINDS for i in range(n_per_kind)]
    partial = {path: path.with_name(path.name + ".part") for _, _, path in names}
    ours = {*partial, *partial.values()}
    foreign = next((path for path in folder.rglob("*") if not path.is_dir() and path not in ours), None)
    if foreign is not None:
        raise ConfigError(f"{folder} holds {foreign.relative_to(folder)}", "an empty folder", "name another folder")
    # What exists is compared before anything is written.
    for there in (True, False):
        for kind, i, path in names:
            if path.exists() != there:
                continue
            # Kits of different seeds share no hit.
            content = _wav(synthesise(kind, (seed << 32) + i, sample_rate), sample_rate)
            if not there:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial[path].write_bytes(content)
                partial[path].replace(path)
            elif path.is_dir() or path.read_bytes() != content:
                raise ConfigError(
                    f"{path} is not the hit that would be written there", "an empty folder", "name another folder"
                )
    return list(partial)


def _wav(waveform: Float32[np.ndarray, " samples"], sample_rate: int) -> bytes:
    """The bytes of a 16-bit WAV file."""
    made = io.BytesIO()
    soundfile.write(made, waveform, sample_rate, subtype="PCM_16", format="WAV")
    return made.getvalue()
