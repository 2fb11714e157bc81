"""Contact sheets: spectrograms and waveforms of many sounds in one picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from actseq import units
from actseq.errors import ConfigError
from actseq.plots import style
from actseq.plots.spectra import FLOOR_DB, LogBands

if TYPE_CHECKING:
    import matplotlib.axes

MAX_COLUMNS = 10
_N_TIMES = 320
_SILENCE = 1e-7
CLIPPED = ", red beyond full scale (files of sound are turned down so as not to clip)"
"""What is said where a waveform goes beyond full scale."""


@dataclass(frozen=True)
class Panel:
    """One sound of a contact sheet.

    Args:
        title: short text above the panel.
        waveform: mono, in [-1, 1].
        marks: times in seconds drawn as vertical lines, such as the join of a continuation.
    """

    title: str
    waveform: Float[np.ndarray, " samples"]
    marks: tuple[float, ...] = ()


def contact_sheet(
    path: Path,
    rows: Mapping[str, Sequence[Panel]],
    sample_rate: int,
    *,
    title: str = "",
    seconds: float | None = None,
) -> Path:
    """Draws rows of sounds, each as its waveform above its log-frequency spectrogram.

    All panels share the time axis, the frequency axis and the colours. Each is drawn relative to its own peak, so that
    quiet sounds are visible too: the waveform fills its height, with the peak in dB of full scale written above it
    (red if it clips), and 0 dB is the strongest point of the spectrogram. Rows of more than ten panels continue on the
    next lines.

    Args:
        path: the PNG to write; its folder is created if missing.
        rows: row name to panels, such as real, reconstructed, generated.
        sample_rate: sample rate of all waveforms in Hz.
        title: text above the sheet.
        seconds: length of the time axis, at which longer waveforms are cut; None for the longest waveform.

    Returns:
        `path`.

    Raises:
        ConfigError: there are no panels, or `sample_rate` or `seconds` is not positive.
    """
    rows = {name: panels for name, panels in rows.items() if len(panels)}
    if not rows:
        raise ConfigError("a contact sheet without panels", "at least one", "give it some sounds")
    if sample_rate <= 0:
        raise ConfigError(f"sample_rate {sample_rate}", "a positive number of Hz")
    if seconds is not None and not (isfinite(seconds) and seconds > 0):
        raise ConfigError(f"seconds {seconds:g}", "a positive length")
    longest = max(len(panel.waveform) for panels in rows.values() for panel in panels)
    total = (
        max(1, longest if seconds is None else units.seconds_to_samples(seconds, sample_rate))
        if longest
        else sample_rate
    )
    duration = units.samples_to_seconds(total, sample_rate)
    waveforms = {
        name: [
            np.nan_to_num(panel.waveform[:total].astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
            for panel in panels
        ]
        for name, panels in rows.items()
    }

    loud = any(np.abs(waveform).max(initial=0.0) > 1 for row in waveforms.values() for waveform in row)

    # Lines of equal length: twelve panels look better as six and six than as ten and two.
    n_widest = max(map(len, rows.values()))
    columns = ceil(n_widest / ceil(n_widest / MAX_COLUMNS))
    lines = [
        (name, start, row[start : start + columns])
        for name, row in waveforms.items()
        for start in range(0, len(row), columns)
    ]

    # All sizes are in inches; matplotlib needs fractions only when the axes are made.
    left, right, top, bottom = 0.72, 0.15, 0.6 if title else 0.4, 0.3
    gap, row_gap, head, wave_height, band_height = 0.09, 0.16, 0.2, 0.36, 0.95
    panel_width = min(2.8, max(1.3, (13.0 - left - right) / columns - gap))
    titles = {name: [_title(panel.title, panel_width - 0.42) for panel in panels] for name, panels in rows.items()}
    head += 0.1 * any(len(title) > 1 for row in titles.values() for title in row)
    line_height = head + wave_height + 0.02 + band_height + 0.06
    width = max(left + columns * (panel_width + gap) - gap + right, 4.2)
    height = top + len(lines) * line_height + (len(rows) - 1) * row_gap + bottom
    figure = style.figure(width, height)

    def axes(x: float, y: float, w: float, h: float) -> "matplotlib.axes.Axes":
        made = figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height), facecolor=style.PAPER)
        style.quiet(made)
        return made

    if title:
        style.text(
            figure, left / width, 1 - 0.24 / height, style.fit(title, width - left - right, 11.0), 11.0, weight="bold"
        )
    _colour_bar(axes(width - right - 1.1, top - 0.27, 1.1, 0.07))
    style.text(
        figure, (width - right - 1.22) / width, 1 - (top - 0.235) / height,
        f"peak above each panel{CLIPPED if loud else ''}; colours relative to it, dB", 6.0, color=style.SOFT,
        ha="right", va="center",
    )  # fmt: skip

    ticks, tick_labels = _time_ticks(duration, panel_width)
    bands = LogBands.of(sample_rate)
    hop = max(1, round(total / _N_TIMES))
    y = top
    for index, (name, start, row) in enumerate(lines):
        if start == 0:
            y += row_gap * (index > 0)
            span = ceil(len(rows[name]) / columns) * line_height - head - 0.06
            style.text(
                figure, 0.2 / width, 1 - (y + head + span / 2) / height, style.fit(name, span, 9.0), 9.0,
                weight="bold", rotation=90, ha="center", va="center",
            )  # fmt: skip
        n_below = len(lines[index + 1][2]) if index + 1 < len(lines) else 0
        for column, waveform in enumerate(row):
            panel = rows[name][start + column]
            x = left + column * (panel_width + gap)
            upper = axes(x, y + head, panel_width, wave_height)
            lower = axes(x, y + head + wave_height + 0.02, panel_width, band_height)
            loudest = float(np.abs(waveform).max(initial=0.0))
            for above, words in enumerate(reversed(titles[name][start + column])):
                style.text(figure, x / width, 1 - (y + head - 0.05 - 0.1 * above) / height, words, 6.5)
            if loudest > _SILENCE:
                level = round(units.amplitude_to_db(loudest), 1) + 0.0  # no −0.0
                style.text(
                    figure, (x + panel_width) / width, 1 - (y + head - 0.05) / height,
                    f"{style.signed(level, '.1f')} dB", 5.5, color=style.RED if level > 0 else style.SOFT, ha="right",
                )  # fmt: skip
                waveform = waveform / loudest
                _draw_waveform(upper, waveform, sample_rate, total)
                levels = bands.spectrogram(waveform, hop)
                lower.imshow(
                    levels, origin="lower", aspect="auto", cmap="magma_r", vmin=FLOOR_DB, vmax=0.0,
                    extent=(0.0, units.samples_to_seconds(len(waveform), sample_rate), 0.0, 1.0),
                )  # fmt: skip
            else:
                word = "silent" if len(waveform) else "empty"
                style.text(
                    lower, 0.5, 0.5, word, 6.5, color=style.SOFT, ha="center", va="center", transform=lower.transAxes
                )
            upper.axhline(0.0, color=style.FAINT, linewidth=0.5, zorder=0)
            upper.set_ylim(-1.05, 1.05)
            lower.set_ylim(0.0, 1.0)
            for part in (upper, lower):
                part.set_xlim(0.0, duration)
                for mark in panel.marks:
                    part.axvline(mark, color=style.MARK, linewidth=1.1)
            if column == 0:
                _frequency_axis(lower, bands.low, bands.high)
            if column >= n_below:
                lower.set_xticks(ticks, tick_labels)
                # Labels centred at the edges would overlap those of the next panel.
                for tick, label in zip(ticks, lower.get_xticklabels(), strict=True):
                    label.set_horizontalalignment(
                        "left" if tick < 0.05 * duration else "right" if tick > 0.92 * duration else "center"
                    )
        y += line_height
    return style.write(figure, path)


def _title(words: str, inches: float) -> list[str]:
    """A title in one line, or in two where it is long; the middle of a longer one is left out."""
    if style.fit(words, inches, 6.5) == style.fit(words, 2 * inches, 6.5):
        return [style.fit(words, inches, 6.5)]
    fitted = style.fit(words, 2 * inches - 0.1, 6.5)
    half = (len(fitted) + 1) // 2
    return [fitted[:half], fitted[half:]]


def _draw_waveform(
    axes: "matplotlib.axes.Axes", waveform: Float[np.ndarray, " samples"], sample_rate: int, total: int
) -> None:
    """Minimum and maximum of each stretch of samples, or the samples themselves where there are few."""
    step = ceil(total / (2 * _N_TIMES))
    starts = np.arange(0, len(waveform), step)
    times = units.samples_to_seconds(1, sample_rate) * (starts + (step - 1) / 2)
    if step == 1:
        axes.plot(times, waveform, color=style.WAVE, linewidth=0.6)
    else:
        lowest, highest = np.minimum.reduceat(waveform, starts), np.maximum.reduceat(waveform, starts)
        axes.fill_between(times, lowest, highest, color=style.WAVE, linewidth=0.4)


def _frequency_axis(axes: "matplotlib.axes.Axes", low: float, high: float) -> None:
    hertz = [hz for hz in (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000) if low <= hz <= high]
    axes.set_yticks([np.log(hz / low) / np.log(high / low) for hz in hertz], [f"{hz / 1000:g}" for hz in hertz])
    axes.set_ylabel("kHz", fontsize=6, color=style.SOFT, fontfamily=style.FONT, labelpad=1)


def _time_ticks(duration: float, panel_width: float) -> tuple[list[float], list[str]]:
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(max(2, round(panel_width * 2.2)), steps=[1, 2, 2.5, 5, 10]).tick_values(0.0, duration)
    ticks = [float(tick) for tick in found if 0 <= tick <= duration * (1 + 1e-9)]
    return ticks, [f"{tick:g}" for tick in ticks[:-1]] + [f"{ticks[-1]:g} s"]


def _colour_bar(axes: "matplotlib.axes.Axes") -> None:
    axes.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap="magma_r", extent=(FLOOR_DB, 0.0, 0.0, 1.0))
    ticks = [FLOOR_DB, FLOOR_DB / 2, 0.0]
    axes.set_xticks(ticks, [style.signed(tick, "g") for tick in ticks])
