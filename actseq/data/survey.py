"""A look at a folder of sounds, to choose the preset that fits: all headers, and the sound of some files.

The bounds were set on real drums, spoken digits, sentences, textures, single notes and loops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile

from actseq import audio, units
from actseq.arrays import Waveform
from actseq.data import hits
from actseq.data.excerpts import spread
from actseq.errors import AudioError

HEARD = 40
"""Most files that are decoded."""
HEARD_SECONDS = 10.0
"""Longest part of a file that is decoded."""
RATE = 8000
"""Sample rate in Hz at which levels and pitch are measured."""
FRAME, HOP = 400, 80
PITCHES_HZ = (70.0, 400.0)
"""Range of a voice."""
PERIODIC = 0.8
"""A frame is voiced if it correlates at least this much with itself one period later."""
LOUD_DB = -25.0
"""Only frames above this level relative to the loudest are asked for a pitch."""
VOICED = 0.2
"""A voice is voiced in at least this fraction of its loud frames."""
EARLY = 0.27
"""The energy of struck and plucked sounds has its centre before this fraction of the time from the first to the last
loud frame, that of a voice later."""
STEADY_DB = 15.0
"""The level of a texture varies by less than this."""
TEXTURE_SECONDS = 2.0
"""Steady sounds that are shorter are one-shots."""
WORD_SECONDS, WORD_HZ = 1.5, 5000.0
"""Voices are words if most last no longer and reach no higher."""
LAGS_SECONDS = (0.25, 2.0)
"""A beat, or a bar, repeats after a time in this range."""
REPEATING = 0.45
"""The rise of the spectrum of a loop correlates at least this much with itself one beat or bar later: that of 10 in 17
real loops, one in 23 textures and none of twelve sentences."""
LOOP_SECONDS = 1.5
"""Shorter sounds are not loops."""
MIXED = 0.3
"""A folder is mixed if at least this fraction of its files is of another kind."""
LITTLE_SECONDS = 60.0
"""With less sound, a model mostly repeats it."""
KINDS = {
    "one-shot": ("one-shots", "single sounds that are struck and die away"),
    "voice": ("voices", "speech or singing"),
    "texture": ("textures", "sound of an even level"),
    "loop": ("loops", "sound with a beat that repeats"),
    "phrase": ("phrases", "several events in a row"),
}
"""Each kind of sound in the plural, and what it is."""


@dataclass(frozen=True)
class Heard:
    """What was measured of one file.

    Attributes:
        kind: a key of `KINDS`.
        bandwidth: frequency in Hz below which 99.9 % of the power above 100 Hz lies.
    """

    kind: str
    bandwidth: float


@dataclass(frozen=True)
class Survey:
    """What a folder of sounds looks like.

    Attributes:
        labels: number of files of each label.
        rates: number of files of each sample rate in Hz.
        seconds: length of each file whose header can be read.
        unread: number of files whose header cannot be read.
        heard: measurements of some of the files.
    """

    labels: Counter[str]
    rates: Counter[int]
    seconds: list[float]
    unread: int
    heard: list[Heard]

    @cached_property
    def kinds(self) -> list[tuple[str, int]]:
        """Kinds of the files that were decoded, the most frequent first, with their numbers."""
        return Counter(one.kind for one in self.heard).most_common()

    @property
    def bandwidth(self) -> float:
        """Median bandwidth of the most frequent kind, in Hz."""
        return float(np.median([one.bandwidth for one in self.heard if one.kind == self.kinds[0][0]]))

    @property
    def preset(self) -> str:
        """Name of the preset that fits."""
        return self._choice[0]

    @cached_property
    def _choice(self) -> tuple[str, str]:
        """The preset, and why."""
        kind = self.kinds[0][0]
        if kind == "one-shot":
            return "drums", "it is made for one-shots and learns each label's sound"
        if kind == "texture":
            return "ambience", "it is made for textures and field recordings"
        if kind == "loop":
            return "music", "it is made for loops and learns several bars at once"
        if kind == "phrase":
            return "ambience", "no preset is made for phrases, and this one goes on for as long as one likes"
        if np.quantile(self.seconds, 0.9) > WORD_SECONDS:
            return "speech", "it is made for sentences of a voice"
        if self.bandwidth > WORD_HZ:
            return "speech", "it is made for voices, and the preset for words ends at 4 kHz"
        return "digits", "it is made for short words at 8 kHz"

    def lines(self) -> list[str]:
        """What was seen, and which preset is taken and why, as sentences."""
        low, middle, high = (_length(float(q)) for q in np.quantile(self.seconds, [0, 0.5, 1]))
        named = {label: n for label, n in self.labels.most_common() if label}
        labels = f" with {len(named)} labels ({_listed(named)})" if len(named) > 1 else ""
        rates = _listed({f"{rate / 1000:g} kHz": n for rate, n in self.rates.most_common()})
        unread = f" {self.unread} more cannot be opened." if self.unread else ""
        seen = (
            f"{len(self.seconds)} files{labels}, {_length(sum(self.seconds))} in all, {low} to {high} long, half up to "
            f"{middle}, at {rates}; the sound reaches about {self.bandwidth / 1000:.2g} kHz.{unread}"
        )
        (first, n), *others = self.kinds
        of = len(self.heard)
        listened = f"all {of} files" if of == len(self.seconds) else f"{of} of the files, spread over the folder"
        found = f"listened to {listened}: {n} sound like {KINDS[first][0]} ({KINDS[first][1]})"
        rest = "".join(f", {count} like {KINDS[kind][0]}" for kind, count in others)
        mixed = "; separate folders and runs for them would sound better" if self._mixed else ""
        preset, reason = self._choice
        return [seen, f"{found}{rest}{mixed}.", f"preset {preset}: {reason} (--preset takes another)."]

    @property
    def _mixed(self) -> bool:
        return sum(count for _, count in self.kinds[1:]) >= MIXED * len(self.heard)


def little(seconds: float, n_files: int) -> str:
    """A warning about too little sound; empty if there is enough."""
    if seconds >= LITTLE_SECONDS:
        return ""
    files = "file" if n_files == 1 else "files"
    return f"{_length(seconds)} of sound in {n_files} {files} is little: the model will mostly repeat it"


def survey(sounds: audio.SoundFolder) -> Survey:
    """Look at a folder of sounds: the headers of all files, and up to 10 s of up to 40 files, spread over the folder.

    Raises:
        AudioError: no file can be opened.
    """
    found = read_headers(sounds)
    heard = list(_heard(sounds.files[name] for name in spread(list(found), HEARD)))
    if not heard:
        raise AudioError(
            f"none of the {len(sounds.files)} sound files in {sounds.path} can be opened and heard",
            action="choose the preset yourself with --preset; the run will say what is wrong with each file",
        )
    labels = Counter(sounds.labels[name] for name in found)
    rates = Counter(header.sample_rate for header in found.values())
    seconds = [header.seconds for header in found.values()]
    return Survey(labels, rates, seconds, len(sounds.files) - len(found), heard)


@dataclass(frozen=True)
class Header:
    """What the header of a file says: its sample rate in Hz and its length in seconds."""

    sample_rate: int
    seconds: float


def read_headers(sounds: audio.SoundFolder) -> dict[str, Header]:
    """The headers of the files of a folder, by relative path; files that cannot be opened are left out."""
    found = {}
    for name, path in sounds.files.items():
        # Opening a pipe or a device may never end.
        if path.is_file():
            try:
                header = soundfile.info(path)
            except (soundfile.LibsndfileError, OSError):
                continue
            found[name] = Header(header.samplerate, header.duration)
    return found


def _heard(paths: Iterator[Path]) -> Iterator[Heard]:
    """Measurements of the files that can be decoded; the scan of the corpus names the others."""
    for path in paths:
        try:
            waveform, sample_rate = audio.beginning(path, HEARD_SECONDS)
        except AudioError:
            continue
        if peak := float(np.abs(waveform).max(initial=0.0)):
            yield hear((waveform / peak).astype(np.float32), sample_rate)


def hear(waveform: Waveform, sample_rate: int) -> Heard:
    """Measure a sound with a peak of 1."""
    power = np.square(np.abs(np.fft.rfft(waveform[: 1 << 17])))
    frequencies = np.fft.rfftfreq(min(len(waveform), 1 << 17), 1 / sample_rate)
    below = np.cumsum(np.where(frequencies >= 100.0, power, 0.0))
    bandwidth = float(frequencies[int(np.searchsorted(below, 0.999 * below[-1]))])
    low = audio.resample(waveform, sample_rate, RATE) if sample_rate != RATE else waveform
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(low, FRAME // 2), FRAME)[::HOP].astype(np.float64)
    level = np.asarray(units.power_to_db(np.square(frames).mean(axis=1), units.db_to_power(-80.0)))
    loud = np.flatnonzero(level > level.max() + LOUD_DB)
    energy = units.db_to_power(level)
    centre = (float(energy @ np.arange(len(energy)) / energy.sum()) - loud[0]) / (loud[-1] - loud[0] + 1)
    if len(low) >= LOOP_SECONDS * RATE and _repetition(frames) >= REPEATING:
        return Heard("loop", bandwidth)
    quiet_db, loud_db = np.percentile(level, [10, 95])
    if loud_db - quiet_db < STEADY_DB and len(waveform) > TEXTURE_SECONDS * sample_rate:
        return Heard("texture", bandwidth)
    if centre >= EARLY and _voiced(frames[loud]) >= VOICED:
        return Heard("voice", bandwidth)
    return Heard("one-shot" if hits.onsets(waveform, sample_rate) <= 1 else "phrase", bandwidth)


def _repetition(frames: np.ndarray) -> float:
    """How much the rise of the spectrum from frame to frame correlates with itself one beat or bar later.

    Args:
        frames: (frames, samples).
    """
    spectra = np.abs(np.fft.rfft(frames * np.hanning(FRAME), axis=1))
    rise = np.maximum(np.diff(np.log(np.maximum(spectra, 1e-4 * FRAME)), axis=0), 0).mean(axis=1)
    rise -= rise.mean()
    low, high = (round(seconds * RATE / HOP) for seconds in LAGS_SECONDS)
    lags = np.arange(low, min(high, len(rise) // 2) + 1)
    products = np.array([rise[lag:] @ rise[:-lag] / (len(rise) - lag) for lag in lags])
    return float(products.max() / max(rise @ rise / len(rise), 1e-12))


def _voiced(frames: np.ndarray) -> float:
    """Fraction of frames (frames, samples) that have a pitch within the range of a voice.

    The measure is the normalised autocorrelation. A frame whose best period is the shortest or longest of the range has
    its pitch outside it.
    """
    shortest, longest = (int(RATE / pitch) for pitch in PITCHES_HZ[::-1])
    spectra = np.fft.rfft(frames, 2 * FRAME, axis=1)
    products = np.fft.irfft(np.square(np.abs(spectra)), axis=1)
    energy = np.cumsum(np.square(frames), axis=1)
    lags = np.arange(shortest, longest + 1)
    before, after = energy[:, FRAME - 1 - lags], energy[:, -1:] - energy[:, lags - 1]
    alike = products[:, lags] / np.sqrt(before * after + 1e-9)
    best = alike.argmax(axis=1)
    return float(((alike.max(axis=1) > PERIODIC) & (best > 0) & (best < len(lags) - 1)).mean())


def _length(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds / 60:.3g} minutes"


def _listed(counts: dict[str, int], most: int = 4) -> str:
    """Names with their numbers, the first few of these; a single name stands without its number."""
    if len(counts) == 1:
        return next(iter(counts))
    shown = [f"{name} {n}" for name, n in list(counts.items())[:most]]
    return ", ".join(shown) + (", …" if len(counts) > most else "")
