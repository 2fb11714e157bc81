"""Sounds as a page shows them: the sound as FLAC, and a picture of its spectrum over time."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import numpy as np

from actseq import units
from actseq.arrays import Waveform
from actseq.audio import as_flac
from actseq.plots.spectra import FLOOR_DB, LogBands

COLUMNS = 240
"""Columns of a picture whose sound fills the time axis."""
_SHADES = 64
_SILENCE = 1e-7


@dataclass(frozen=True)
class ShownSound:
    """A sound with its picture, both as `data:` addresses.

    Attributes:
        title: what the sound is.
        detail: more about it, such as a figure; may be empty.
        seconds: its length.
        width: fraction of the time axis that it fills.
        audio: FLAC of 16 bits.
        picture: PNG of `spectrogram_png`.
    """

    title: str
    detail: str
    seconds: float
    width: float
    audio: str
    picture: str

    @staticmethod
    def of(waveform: Waveform, sample_rate: int, title: str, detail: str = "", axis: int | None = None) -> ShownSound:
        """A waveform (samples,), shown on a time axis of `axis` samples; None: of its own length."""
        picture = spectrogram_png(waveform, sample_rate, axis)
        return ShownSound(
            title,
            detail,
            units.samples_to_seconds(len(waveform), sample_rate),
            len(waveform) / max(axis or 0, len(waveform)),
            data_uri("audio/flac", as_flac(waveform, sample_rate)),
            data_uri("image/png", picture),
        )

    @property
    def size(self) -> int:
        """Bytes of the two addresses."""
        return len(self.audio) + len(self.picture)


def data_uri(kind: str, content: bytes) -> str:
    """A `data:` address of some content of a MIME type."""
    return f"data:{kind};base64,{b64encode(content).decode()}"


def spectrogram_png(waveform: Waveform, sample_rate: int, axis: int | None = None) -> bytes:
    """A grey picture of the spectrum over time: low frequencies below, the strongest point white, 80 dB below it black.

    A page gives it the colours of `colours`.

    Args:
        waveform: the sound, (samples,).
        sample_rate: its sample rate in Hz.
        axis: number of samples that `COLUMNS` columns are for; None: those of the waveform.

    Returns:
        A PNG.
    """
    from PIL import Image

    bands = LogBands.of(sample_rate)
    hop = max(1, round(max(axis or 0, len(waveform)) / COLUMNS))
    loud = float(np.abs(waveform).max(initial=0.0)) > _SILENCE
    levels = bands.spectrogram(waveform, hop) if loud else np.full((bands.weights.shape[1], 2), FLOOR_DB)
    shades = np.round((1 - levels[::-1] / FLOOR_DB) * (_SHADES - 1)).clip(0, _SHADES - 1)
    written = BytesIO()
    Image.fromarray((shades * (255 // (_SHADES - 1))).astype(np.uint8)).save(written, "PNG", optimize=True)
    return written.getvalue()


@cache
def colours(*, dark: bool, n: int = 17) -> tuple[str, str, str]:
    """Red, green and blue for pictures of spectra, from silence to the strongest point, as tables of an SVG filter."""
    from matplotlib import colormaps

    shades = np.asarray(colormaps["magma"](np.linspace(0, 1, n)))[:: 1 if dark else -1]
    red, green, blue = (" ".join(f"{value:.3f}" for value in shades[:, k]) for k in range(3))
    return red, green, blue
