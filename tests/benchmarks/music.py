"""Beat and harmony of generated music: `python tests/benchmarks/music.py loops|score|continue …`; see `--help`.

`loops DIR` makes loops, in DIR/loops, and the first chord of each, in DIR/chords.json. Every loop is in 4/4 at 120
beats a minute: kick on 1 and 3, snare on 2 and 4, hat on the eighths, bass on 1 and 3, one chord a bar, C, Am, F and G
in this order from a drawn one on. Sounds and levels are drawn for each loop. They are synthesised, or with
`--played DATA` taken from drums, bass notes and single piano notes (DATA/drums/kick, snare, hat;
DATA/instruments/bass_staccato, piano), which are resampled to the pitch. The same seed gives the same bytes.

`score RUN DIR [PRIOR …]` measures what a run that was trained on DIR/loops generates.

- Beat: the autocorrelation of the onset strength (librosa's defaults, mean removed) at 1 s over that at 0, for real
  loops of each length, loops that were reconstructed, and new sound of the same length, from nothing and after the
  first 6 s of a held-out loop (only what is new is measured).
- Harmony: the chroma of each bar against the four chords; the bar lines are at the best of 16 offsets. Printed are how
  many reconstructed bars have their chord recognised, how many generated bars fit their best chord at least as well as
  the worst tenth of the reconstructed ones, and how often the next bar has the next chord (1 of 4 at random).

`continue RUN FOLDER [PRIOR …]` continues each recording of FOLDER after its first 4 s, for 12 s. Printed are the
strongest lag of the onset strength between 0.25 and 2 s in the recording and in what is new, and how strong the
recording's lag is in both.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import librosa
import numpy as np
import soundfile
import soxr
from jaxtyping import Float
from numpy.random import Generator
from scipy.signal import butter, sosfilt

from actseq import audio, units
from actseq.arrays import Waveform
from actseq.data.corpus import Corpus
from actseq.inference.loaded_run import LoadedRun
from actseq.plots.contact_sheet import Panel, contact_sheet

RATE = 22050
BAR_SECONDS, BEATS = 2.0, 4
PERIOD_SECONDS = 1.0
"""Kick and snare repeat after half a bar."""
CHORDS = {"C": (0, 4, 7), "Am": (9, 0, 4), "F": (5, 9, 0), "G": (7, 11, 2)}
"""Pitch classes of the chords, the root first, in their order."""
N_OFFSETS = 16
TONES_HZ = (110.0, 1500.0)
"""Range of the chroma: above most of the kick and below most of the hat."""
SUSTAINED = 0.3
"""The chroma of a bar is this quantile over its frames, so that hits of drums do not count."""
WORST = 0.1
FFT, HOP = 4096, 512
"""Window of the chroma, and librosa's step from one onset strength to the next, in samples at `RATE`."""
LENGTHS_SECONDS, SEED_SECONDS = (12.0, 30.0), 6.0
CONTINUED_SECONDS, GIVEN_SECONDS = 12.0, 4.0
LAGS_SECONDS, SAME_LAG = (0.25, 2.0), 0.03
SHEET_PANELS = 4
PIANO_GAIN = 2.0
"""Recorded piano notes have short peaks: with a peak of 1 they are too quiet beside the drums."""
Voice = Callable[[float, float], Waveform]
"""A note of a MIDI pitch and a length in seconds."""


@dataclass(frozen=True)
class Band:
    """The sounds of a loop: drum hits, and voices of chord and bass."""

    kick: Waveform
    snare: Waveform
    hat: Waveform
    chord: Voice
    bass: Voice


def synthesised(rng: Generator) -> Band:
    """A drawn band of oscillators and noise."""
    return Band(_kick(rng), _snare(rng), _hat(rng), _voice(rng, rng.uniform(0.5, 1.6)), _voice(rng, 0.4))


def _times(seconds: float) -> Float[np.ndarray, " samples"]:
    return np.arange(round(seconds * RATE)) / RATE


def _kick(rng: Generator) -> Waveform:
    at, low, high = _times(0.4), rng.uniform(42, 60), rng.uniform(90, 220)
    phase = 2 * np.pi * np.cumsum(low + high * np.exp(-at / rng.uniform(0.015, 0.04))) / RATE
    return (np.sin(phase) * np.exp(-at / rng.uniform(0.06, 0.13))).astype(np.float32)


def _snare(rng: Generator) -> Waveform:
    at, pitch, tone = _times(0.35), rng.uniform(170, 240), rng.uniform(0.2, 0.7)
    noise = _filtered(rng.standard_normal(len(at)), "bandpass", [rng.uniform(400, 1500), rng.uniform(5000, 9500)])
    made = noise * np.exp(-at / rng.uniform(0.04, 0.1)) + tone * np.sin(2 * np.pi * pitch * at) * np.exp(-at / 0.05)
    return (made / np.abs(made).max()).astype(np.float32)


def _hat(rng: Generator) -> Waveform:
    at = _times(0.2)
    noise = _filtered(rng.standard_normal(len(at)), "highpass", rng.uniform(5000, 8500))
    made = noise * np.exp(-at / rng.uniform(0.012, 0.04))
    return (made / np.abs(made).max()).astype(np.float32)


def _filtered(noise: np.ndarray, kind: str, cutoff: float | list[float]) -> np.ndarray:
    return np.asarray(sosfilt(butter(2, cutoff, kind, fs=RATE, output="sos"), noise))


def _voice(rng: Generator, decay: float) -> Voice:
    """Harmonics whose amplitudes fall with their number."""
    slope, even, attack = rng.uniform(1.2, 2.5), rng.uniform(0.2, 1.0), rng.uniform(0.004, 0.04)

    def note(pitch: float, seconds: float) -> Waveform:
        at, hertz = _times(seconds), float(librosa.midi_to_hz(pitch))
        numbers = np.arange(1, min(12, int(0.4 * RATE / hertz)) + 1)
        made = sum(
            np.sin(2 * np.pi * hertz * k * at + k) * (1.0 if k % 2 else even) / k**slope for k in numbers.tolist()
        )
        shape = np.minimum(1, at / attack) * np.exp(-at / decay) * np.minimum(1, (seconds - at) / 0.02)
        return np.asarray(made * shape, np.float32)

    return note


def played(rng: Generator, data: Path) -> Band:
    """A drawn band of recorded drums and notes."""
    kick, snare, hat = (
        _recording(rng.choice(sorted((data / "drums" / kind).iterdir()))) for kind in ("kick", "snare", "hat")
    )
    piano = {float(path.stem[-3:]): path for path in sorted((data / "instruments" / "piano").iterdir())}
    basses = sorted((data / "instruments" / "bass_staccato").glob(f"*_rr{rng.integers(1, 6)}.*"))
    bass = {float(librosa.note_to_midi(path.stem.split("_")[2])): path for path in basses}
    return Band(kick, snare, hat, _resampled(piano, PIANO_GAIN), _resampled(bass, 1.0))


def _recording(path: Path, semitones: float = 0.0) -> Waveform:
    """A recorded sound, played this much higher, from its onset and with a peak of 1."""
    waveform, rate = audio.beginning(path, 4.0)
    waveform = np.asarray(soxr.resample(waveform, rate * 2 ** (semitones / 12), RATE), np.float32)
    peak = np.abs(waveform).max()
    first = int(np.argmax(np.abs(waveform) > units.db_to_amplitude(-40.0) * peak))
    return waveform[first:] / peak


def _resampled(notes: dict[float, Path], gain: float) -> Voice:
    """The recorded note nearest in pitch, resampled."""

    def note(pitch: float, seconds: float) -> Waveform:
        nearest = min(notes, key=lambda own: (abs(own - pitch), own))
        made = _recording(notes[nearest], pitch - nearest)[: round(seconds * RATE)]
        fade = np.minimum(1, np.arange(len(made), 0, -1) / (0.02 * RATE))
        return (gain * made * fade).astype(np.float32)

    return note


def loop(band: Band, first: int, seconds: float, rng: Generator) -> Waveform:
    """The score, played from bar 1 on.

    Args:
        band: the sounds.
        first: number of the first chord.
        seconds: length; what sounds longer is cut.
        rng: draws levels.
    """
    mixed = np.zeros(round(seconds * RATE), np.float32)
    levels = units.db_to_amplitude(np.array([0.0, -3.0, -12.0, -12.0, -8.0]) + rng.uniform(-3, 3, 5))
    kick, snare, hat, chord, bass = levels.tolist()
    off_beat, octave = float(units.db_to_amplitude(rng.uniform(-6, 0))), 12 * int(rng.integers(2))

    def play(at: float, sound: Waveform, level: float) -> None:
        start = round(at * RATE)
        mixed[start : start + len(sound)] += level * sound[: max(0, len(mixed) - start)]

    beat = BAR_SECONDS / BEATS
    for bar in range(int(np.ceil(seconds / BAR_SECONDS))):
        start, tones = bar * BAR_SECONDS, list(CHORDS.values())[(first + bar) % len(CHORDS)]
        for tone in tones:
            play(start, band.chord(48 + octave + tone, BAR_SECONDS), chord)
        low = band.bass(36 + tones[0], 0.9 * BAR_SECONDS / 2)
        for half in range(2):
            play(start + 2 * half * beat, band.kick, kick)
            play(start + (2 * half + 1) * beat, band.snare, snare)
            play(start + 2 * half * beat, low, bass)
        for eighth in range(2 * BEATS):
            play(start + eighth * beat / 2, band.hat, hat * (off_beat if eighth % 2 else 1.0))
    return 0.9 * mixed / np.abs(mixed).max()


def loops(n: int, seconds: float, seed: int, data: Path | None) -> Iterable[tuple[Waveform, int]]:
    """Loops, each with the number of its first chord; one of another length has the same sounds, levels and chords.

    Args:
        n: number of loops.
        seconds: length of each.
        seed: seed of all draws.
        data: folder of recorded sounds; None: they are synthesised.
    """
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        first = int(rng.integers(len(CHORDS)))
        band = synthesised(rng) if data is None else played(rng, data)
        yield loop(band, first, seconds, np.random.default_rng([seed, number, 1])), first


def strength(waveform: Waveform, rate: int) -> Float[np.ndarray, " frames"]:
    """Onset strength with librosa's defaults, its mean removed."""
    found = librosa.onset.onset_strength(y=_at_rate(waveform, rate), sr=RATE)
    return np.asarray(found - found.mean(), np.float64)


def _at_rate(waveform: Waveform, rate: int) -> Waveform:
    return waveform if rate == RATE else np.asarray(soxr.resample(waveform, rate, RATE), np.float32)


def repetition(waveform: Waveform, rate: int) -> float:
    """Autocorrelation of the onset strength after half a bar, over that at 0; 0 for silence."""
    own, lag = strength(waveform, rate), round(PERIOD_SECONDS * RATE / HOP)
    return float(own[lag:] @ own[:-lag] / max(own @ own, 1e-12))


def strongest(waveform: Waveform, rate: int) -> tuple[float, float]:
    """Lag in seconds at which the onset strength is most like itself, and its normalised autocorrelation there.

    Each lag is weighted by its number of pairs, so that sounds of different lengths compare. Between lags the peak is
    that of a parabola.
    """
    own, (low, high) = strength(waveform, rate), (round(seconds * RATE / HOP) for seconds in LAGS_SECONDS)
    lags = np.arange(low - 1, high + 2)
    found = np.array([own[lag:] @ own[:-lag] / (len(own) - lag) for lag in lags]) / max(own @ own / len(own), 1e-12)
    best = 1 + int(found[1:-1].argmax())
    before, at, after = found[best - 1 : best + 2]
    bend = before - 2 * at + after
    shift = float(np.clip((before - after) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0
    return (lags[best] + shift) * HOP / RATE, float(at - (before - after) * shift / 4)


@dataclass(frozen=True)
class Bars:
    """The bars of a clip at the offset where they fit the chords best.

    Attributes:
        offset: sixteenth of a bar at which the first one begins.
        fits: correlation of each bar's chroma with each of the four chords.
    """

    offset: int
    fits: Float[np.ndarray, "bars 4"]

    @property
    def chords(self) -> list[int]:
        """The chord that each bar fits best."""
        return [int(chord) for chord in self.fits.argmax(axis=1)]

    @property
    def steps(self) -> list[bool]:
        """Of each bar but the first, whether its chord is the next one in order."""
        return [
            (after - before) % len(CHORDS) == 1 for before, after in zip(self.chords, self.chords[1:], strict=False)
        ]

    def true(self, first: int) -> list[int]:
        """The chords in the middle of the bars in a loop that begins with chord `first`."""
        middles = np.arange(len(self.fits)) + 0.5 + self.offset / N_OFFSETS
        return [(first + int(middle)) % len(CHORDS) for middle in middles]


def bars(waveform: Waveform, rate: int) -> Bars:
    """Find the bars of a clip of two bars at least."""
    power = np.square(np.abs(librosa.stft(_at_rate(waveform, rate), n_fft=FFT, hop_length=HOP)))
    hertz = librosa.fft_frequencies(sr=RATE, n_fft=FFT)
    power[(hertz < TONES_HZ[0]) | (hertz > TONES_HZ[1])] = 0
    chroma = librosa.feature.chroma_stft(S=power, sr=RATE, n_fft=FFT, norm=None, tuning=0.0)
    size = BAR_SECONDS * RATE / HOP
    found = []
    for offset in range(N_OFFSETS):
        starts = np.arange(offset * size / N_OFFSETS, chroma.shape[1] - size + 0.5, size)
        cut = [chroma[:, round(start) : round(start + size)] for start in starts]
        found.append(Bars(offset, _correlations(np.array([np.quantile(one, SUSTAINED, axis=1) for one in cut]))))
    return max(found, key=lambda own: own.fits.max(axis=1).mean())


def _correlations(chroma: Float[np.ndarray, "bars 12"]) -> Float[np.ndarray, "bars 4"]:
    """Pearson's correlation with each chord, 1 for its pitch classes and 0 for the others."""
    templates = np.array([[float(k in tones) for k in range(12)] for tones in CHORDS.values()])
    centred = [own - own.mean(axis=1, keepdims=True) for own in (chroma, templates)]
    one, other = (own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12) for own in centred)
    return one @ other.T


@dataclass(frozen=True)
class Clips:
    """Clips of one length, measured.

    Args:
        name: what they are.
        waveforms: the clips.
        rate: sample rate in Hz.
    """

    name: str
    waveforms: Sequence[Waveform]
    rate: int

    @cached_property
    def beat(self) -> Float[np.ndarray, " clips"]:
        """Repetition of each."""
        return np.array([repetition(clip, self.rate) for clip in self.waveforms])

    @cached_property
    def bars(self) -> list[Bars]:
        """The bars of each."""
        return [bars(clip, self.rate) for clip in self.waveforms]

    @cached_property
    def best(self) -> Float[np.ndarray, " bars"]:
        """Correlation of each bar with the chord that it fits best."""
        return np.concatenate([own.fits.max(axis=1) for own in self.bars])

    def line(self, real: float | None = None, least: float | None = None) -> str:
        """A line of the table.

        Args:
            real: repetition of real loops of this length.
            least: correlation that counts as a good fit.
        """
        of_real = "" if real is None else f" ({self.beat.mean() / real:.2f} of real)"
        fitting = "" if least is None else f", {np.mean(self.best >= least):.0%} fit a chord"
        steps = [step for own in self.bars for step in own.steps]
        seconds = units.samples_to_seconds(len(self.waveforms[0]), self.rate)
        return (
            f"  {self.name:26} {len(self.waveforms):3} of {seconds:4.1f} s: beat {self.beat.mean():.2f}{of_real}, from "
            f"{self.beat.min():.2f}; {len(self.best)} bars{fitting}, next chord right {np.mean(steps):.0%}"
        )

    def panels(self, most: int) -> list[Panel]:
        """The first clips with a line at every half of a bar, as their bars were found."""
        panels = []
        for clip, own in list(zip(self.waveforms, self.bars, strict=True))[:most]:
            first = own.offset / N_OFFSETS * BAR_SECONDS % PERIOD_SECONDS
            marks = np.arange(first, units.samples_to_seconds(len(clip), self.rate), PERIOD_SECONDS)
            chords = " ".join(list(CHORDS)[chord] for chord in own.chords)
            panels.append(Panel(chords, _at_rate(clip, self.rate), tuple(marks.tolist())))
        return panels


def score(run: LoadedRun, folder: Path, most: int, lengths: Sequence[float], seed: int) -> Iterable[tuple[Clips, str]]:
    """Clips and their lines: real ones, reconstructed ones, and new sound in comparison to them.

    Args:
        run: was trained on the loops of `folder`.
        folder: what `make` wrote.
        most: clips in a line, at most.
        lengths: seconds of new sound.
        seed: of what is generated.
    """
    made = json.loads((folder / "chords.json").read_text())
    data, rate, real = None if made["data"] is None else Path(made["data"]), run.sample_rate, {}
    for seconds in lengths:
        own = Clips("real", [waveform for waveform, _ in loops(most, seconds, made["seed"], data)], RATE)
        real[seconds] = float(own.beat.mean())
        yield own, own.line()
    corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
    held_out = corpus.indices("test") + corpus.indices("validation")
    chosen = (held_out + corpus.indices("train"))[:most]
    again = Clips("reconstructed", [run.reconstruct(corpus.waveform(index)) for index in chosen], rate)
    firsts = [made["first"][corpus.store.records[index].key] for index in chosen]
    right = [np.equal(own.chords, own.true(first)) for own, first in zip(again.bars, firsts, strict=True)]
    least = float(np.quantile(again.best, WORST))
    known = f"{np.concatenate(right).mean():.0%} of the chords recognised, good fit from {least:.2f} on"
    yield again, f"{again.line(real[lengths[0]], least)}; {known}"
    for seconds in lengths:
        new = Clips("from nothing", run.generate(most, seconds=seconds, seed=seed), rate)
        yield new, new.line(real[seconds], least)
    given = [corpus.waveform(index, 0, units.seconds_to_samples(SEED_SECONDS, rate)) for index in held_out[:most]]
    for seconds in lengths:
        continuations = [
            run.generate(1, seed_audio=own, include_seed=False, seconds=seconds, seed=seed + number)[0]
            for number, own in enumerate(given)
        ]
        new = Clips(f"after {SEED_SECONDS:g} s of held-out", continuations, rate)
        yield new, new.line(real[seconds], least)


def continued(run: LoadedRun, recordings: Sequence[Path], seed: int) -> Iterable[str]:
    """Lines on the continuations of recordings; shorter ones are named and left out."""
    same, strong, n = 0, 0, 0
    for path in recordings:
        waveform, rate = audio.beginning(path, 600.0)
        waveform = np.asarray(soxr.resample(waveform, rate, run.sample_rate), np.float32)
        given = waveform[: units.seconds_to_samples(GIVEN_SECONDS, run.sample_rate)]
        if units.samples_to_seconds(len(waveform), run.sample_rate) < GIVEN_SECONDS:
            yield f"  {path.stem:30} is shorter than {GIVEN_SECONDS:g} s"
            continue
        [new] = run.generate(1, seed_audio=given, include_seed=False, seconds=CONTINUED_SECONDS, seed=seed)
        (lag, own), (new_lag, new_own) = strongest(waveform, run.sample_rate), strongest(new, run.sample_rate)
        within, enough = abs(new_lag / lag - 1) <= SAME_LAG, new_own >= 0.7 * own
        same, strong, n = same + within, strong + (within and enough), n + 1
        yield f"  {path.stem:30} lag {lag:.3f} s ({own:.2f}), continued {new_lag:.3f} s ({new_own:.2f})"
    yield f"  the same lag in {same} of {n}, at 0.7 of its strength in {strong}"


def make(folder: Path, n: int, seconds: float, seed: int, data: Path | None) -> None:
    """Write loops, and the number of each one's first chord."""
    (folder / "loops").mkdir(parents=True)
    first = {}
    for number, (waveform, chord) in enumerate(loops(n, seconds, seed, data)):
        name = f"loop-{number:02}.wav"
        soundfile.write(folder / "loops" / name, waveform, RATE, "PCM_16")
        first[name] = chord
    text = {"seed": seed, "data": None if data is None else str(data), "first": first}
    (folder / "chords.json").write_text(json.dumps(text, indent=1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Make loops, or print lines for each prior."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("loops")
    making.add_argument("folder", type=Path)
    making.add_argument("--played", type=Path, metavar="DATA")
    making.add_argument("--loops", type=int, default=40)
    making.add_argument("--seconds", type=float, default=12.0)
    for name in ("score", "continue"):
        one = commands.add_parser(name)
        one.add_argument("run")
        one.add_argument("folder", type=Path)
        one.add_argument("priors", nargs="*")
        one.add_argument("--set", action="append", default=[], dest="overrides")
    scoring = commands.choices["score"]
    scoring.add_argument("--clips", type=int, default=8, help="most clips in each line")
    scoring.add_argument("--sheet", type=Path, help="PNG of the first clips, a line at every half of a bar")
    scoring.add_argument("--lengths", type=float, nargs="+", default=LENGTHS_SECONDS, help="seconds of new sound")
    for one in commands.choices.values():
        one.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.command == "loops":
        make(given.folder, given.loops, given.seconds, given.seed, given.played)
        return
    for name in given.priors or [None]:
        run = LoadedRun.open(given.run, prior=name, device="cpu", overrides=given.overrides, need_prior=True)
        print(f"{given.run} {run.prior_name}")
        if given.command == "continue":
            for text in continued(run, list(audio.SoundFolder(given.folder).files.values()), given.seed):
                print(text, flush=True)
            continue
        rows = {}
        for clips, text in score(run, given.folder, given.clips, given.lengths, given.seed):
            print(text, flush=True)
            rows[f"{clips.name}, {len(clips.waveforms[0]) / clips.rate:.0f} s"] = clips.panels(SHEET_PANELS)
        if given.sheet is not None:
            contact_sheet(given.sheet, rows, RATE, title=f"{given.run} {run.prior_name}", seconds=given.lengths[0])


if __name__ == "__main__":
    main()
