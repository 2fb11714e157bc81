"""Charts of the output of a run, and of the learning-rate finder: plain arrays → pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from actseq.plots import style
from actseq.plots.spectra import decibels, hann, magnitude_spectra

if TYPE_CHECKING:
    import matplotlib.axes

FRAME_FLOOR_DB = -80.0
_PAIR = {"original": style.WAVE, "output": style.ORANGE}


@dataclass(frozen=True)
class Frame:
    """A single feature frame, before and after.

    Attributes:
        name: name of its clip.
        seconds: position in the clip.
        features: original and output.
        waveforms: original and output around the frame's centre.
    """

    name: str
    seconds: float
    features: Float[np.ndarray, "2 channels"]
    waveforms: Float[np.ndarray, "2 samples"]


def frame_spectra(frame: Frame, sample_rate: int) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, "2 bins"]]:
    """Frequencies in Hz, and Hann-windowed spectra of a frame's waveforms in dB below the original's strongest."""
    n = frame.waveforms.shape[1]
    [magnitudes] = magnitude_spectra(frame.waveforms, hann(n))
    power = magnitudes**2
    return np.fft.rfftfreq(n, 1 / sample_rate), decibels(power, power[0])


def _pair(axes: "matplotlib.axes.Axes", x: Float[np.ndarray, " n"], both: Float[np.ndarray, "2 n"]) -> None:
    for line, colour, width in zip(both, _PAIR.values(), (1.3, 0.6), strict=True):
        axes.plot(x, line, color=colour, linewidth=width)


def frames(path: Path, shown: Sequence[Frame], sample_rate: int, unit: str, about: str) -> Path:
    """Single frames before and after: features, waveform and spectrum below each other."""
    sentence = (
        "Single frames, drawn at random where there is sound. Above: the features before and after the autoencoder. "
        "Below: their sound after the vocoder, as waveform and spectrum. Where features hold no phase (mel, linear), "
        "waveforms may differ inaudibly; the outline of the spectrum "
        "may not."
    )
    n = len(shown)
    sheet = style.Sheet(f"{about}: frames", sentence, 3 * n, n, (2.2, 1.35), (0.42, 0.48), legend=_PAIR)
    for k, frame in enumerate(shown):
        axes = sheet.axes(k, style.fit(f"{frame.name}", 1.7, 7.0) + f" {frame.seconds:.2f} s")
        _pair(axes, np.arange(frame.features.shape[1], dtype=float), frame.features)
        style.names(axes, "channel", f"features, {unit}" if k == 0 else "")
        axes = sheet.axes(n + k)
        size = frame.waveforms.shape[1]
        _pair(axes, 1000 * (np.arange(size) - size // 2) / sample_rate, frame.waveforms)
        style.names(axes, "ms", "waveform" if k == 0 else "")
        axes = sheet.axes(2 * n + k)
        hertz, levels = frame_spectra(frame, sample_rate)
        _pair(axes, hertz / 1000, levels)
        axes.set_ylim(FRAME_FLOOR_DB, 10.0)
        style.names(axes, "kHz", "spectrum, dB" if k == 0 else "")
    return sheet.write(path)


def spectra(path: Path, hertz: Float[np.ndarray, " bins"], levels: Float[np.ndarray, "3 bins"], about: str) -> Path:
    """Mean power spectra of original, output and their difference."""
    sentence = (
        "Mean power over all clips, in dB below the strongest of the original. The output should match the original: "
        "below it, something is lost; above it, added. The error is the spectrum of output − original; where a vocoder "
        "invents the phase (mel, linear), it is as loud as the sound itself and does not show audible differences."
    )
    colours = _PAIR | {"error": style.SOFT}
    sheet = style.Sheet(f"{about}: spectrum", sentence, 1, 1, (7.0, 3.0), legend=colours)
    axes = sheet.axes(0)
    for line, (name, colour) in zip(levels, colours.items(), strict=True):
        axes.plot(hertz[1:], line[1:], color=colour, linewidth=0.8 if name == "error" else 1.2)
    axes.set_xscale("log")
    axes.set_xlim(max(float(hertz[1]), 20.0), float(hertz[-1]))
    axes.set_ylim(max(-100.0, float(levels[:2, 1:].min()) - 5), max(5.0, float(levels[:, 1:].max()) + 3))
    _hertz(axes, float(hertz[1]), float(hertz[-1]))
    style.names(axes, "Hz", "dB")
    return sheet.write(path)


def octaves(path: Path, columns: Mapping[str, Any], about: str) -> Path:
    """Level difference and error by octave band."""
    sentence = (
        "Left: how much louder the output is than the original in each octave; ±1 dB is hardly audible. Right: the "
        "error relative to the original;\nnegative where the waveform is kept, about +3 dB where the phase is new "
        "(mel, linear)."
    )
    sheet = style.Sheet(f"{about}: octaves", sentence, 2, 2, (4.0, 1.9))
    names = [f"{hz / 1000:g}k" if hz >= 1000 else f"{hz:.4g}" for hz in columns["centre_hz"]]
    charts = {"output − original": "difference_db", "error to original": "error_to_original_db"}
    for place, (title, name) in enumerate(charts.items()):
        axes = sheet.axes(place, title)
        values = columns[name]
        axes.bar(np.arange(len(values)), values, width=0.7, color=(style.ORANGE, style.SOFT)[place])
        axes.axhline(0.0, color=style.INK, linewidth=0.6)
        # Octaves with hardly any sound may differ by any amount: their bars leave the chart, their values are still
        # written.
        reach = min(20.0, max(3.0, 1.25 * float(np.abs(values).max())))
        axes.set_ylim(-reach, reach)
        for k, value in enumerate(values):
            inside, up = abs(value) > 0.9 * reach, value >= 0
            axes.annotate(
                style.signed(value, "+.1f"), (k, np.clip(value, -reach, reach)), (0, 2 if up != inside else -2),
                textcoords="offset points", ha="center", va="bottom" if up != inside else "top", fontsize=6,
                color="white" if inside else style.SOFT, fontfamily=style.FONT,
            )  # fmt: skip
        axes.set_xticks(range(len(names)), names)
        axes.grid(visible=False, axis="x")
        style.names(axes, "octave around, Hz", "dB")
    return sheet.write(path)


def _hertz(axes: "matplotlib.axes.Axes", low: float, high: float) -> None:
    marks = [hz for hz in (30, 100, 300, 1_000, 3_000, 10_000, 30_000) if low <= hz <= high]
    axes.set_xticks(marks, [f"{hz / 1000:g}k" if hz >= 1000 else str(hz) for hz in marks])
    axes.set_xticks([], minor=True)


def learning_rates(
    path: Path,
    rates: Float[np.ndarray, " n"],
    losses: Float[np.ndarray, " n"],
    smooth: Float[np.ndarray, " n"],
    suggested: float | None,
    about: str,
) -> Path:
    """The loss of trial steps against their rising learning rate."""
    sentence = (
        "The loss of trial steps while the learning rate rises from step to step. On the left it is too low to learn, "
        "on the right so high that the loss rises again. The suggested rate is where the smoothed loss falls fastest; "
        "beyond its minimum (dot) steps are too large, at least without a warm-up."
    )
    legend = {"steps": style.FAINT, "smoothed": style.BLUE}
    legend |= {} if suggested is None else {f"suggested {suggested:.2g}": style.ORANGE}
    sheet = style.Sheet(f"{about}: learning rate", sentence, 1, 1, (6.5, 2.8), legend=legend)
    axes = sheet.axes(0)
    axes.plot(rates, losses, color=style.FAINT, linewidth=0.8)
    axes.plot(rates, smooth, color=style.BLUE, linewidth=1.2)
    axes.set_xscale("log")
    axes.plot(rates[smooth.argmin()], smooth.min(), "o", color=style.BLUE, markersize=4)
    if suggested is not None:
        axes.axvline(suggested, color=style.ORANGE, linewidth=1.1)
    low, high = float(losses.min()), float(np.quantile(losses, 0.9))
    room = max(high - low, 1e-3 * abs(high), 1e-9)
    axes.set_ylim(low - 0.1 * room, high + 0.3 * room)
    axes.tick_params(which="minor", bottom=False)
    style.names(axes, "learning rate", "loss")
    return sheet.write(path)
