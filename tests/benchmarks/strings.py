"""Strings of digits: does each digit that is asked for come at the time that it is asked for?

    python tests/benchmarks/strings.py make FOLDER DIGITS [--strings N]
    python tests/benchmarks/strings.py measure RUN DIGITS [--prior NAME] [--strings N] [--control NAME=VALUE]…
        [--sheet PNG]

`make` joins single digits, `digit_speaker_take.wav`, to strings of three to six digits of one speaker, with small gaps
between them, and writes the table of labels. Each take is in one string. Takes 5 to 9 of each digit and speaker are in
none.

`measure` asks a run that was trained on such strings for strings of digits, with durations drawn from those of the
digits. A small network that learned single real takes, those of the strings, names the digit in each span; it is kept
in the run. It also names the takes that were held out; and the same strings joined from takes as they are, and from
draws of the posteriors of these takes, decoded: what a perfect prior has with this autoencoder.
"""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import librosa
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from actseq import audio, load_run
from actseq.arrays import Waveform
from actseq.data.corpus import level_gain
from actseq.inference.loaded_run import LoadedRun
from actseq.modules.gaussian import draw
from actseq.plots.contact_sheet import Panel, contact_sheet

RATE = 8000
HELD_OUT = range(5, 10)
"""Takes that no string holds."""
FEWEST, MOST = 3, 6
GAP_SECONDS = 0.15
"""Longest gap between two digits, and at both ends."""
PEAK = 0.7
FADE_SECONDS = 0.002
STEPS, BATCH = 500, 64
"""Training of the network that names digits."""
HEARD_SECONDS = 1.0
"""It hears this much around the middle of a sound."""
N_FFT, HOP, N_MELS = 256, 80, 40
BLEED_SECONDS = 0.06
"""In training a sound has up to this much of other sounds around it, or lacks up to half as much."""
SHOWN = 6
"""Strings on the sheet."""


@dataclass(frozen=True)
class Take:
    """A recording of a digit.

    Attributes:
        digit: what is said.
        speaker: who says it.
        number: number of the take.
        waveform: (samples,), with the peak of all takes.
    """

    digit: str
    speaker: str
    number: int
    waveform: Waveform


def read_takes(folder: Path) -> list[Take]:
    """All takes of a folder, in the order of their names."""
    takes = []
    for path in audio.find(folder):
        digit, speaker, number = path.stem.split("_")
        waveform = audio.load(path, RATE)[0]
        takes.append(Take(digit, speaker, int(number), waveform * np.float32(PEAK / np.abs(waveform).max())))
    return takes


def faded(waveform: Waveform) -> Waveform:
    """A copy with short fades at both ends."""
    n = min(round(FADE_SECONDS * RATE), len(waveform) // 2)
    made = waveform.copy()
    made[:n] *= np.linspace(0, 1, n, dtype=np.float32)
    made[len(made) - n :] *= np.linspace(1, 0, n, dtype=np.float32)
    return made


def joined(parts: Sequence[Waveform], gaps: Sequence[int]) -> tuple[Waveform, list[tuple[int, int]]]:
    """Sounds in a row, with silence before each and after the last; first sample of each, and the one after its last.

    Args:
        parts: the sounds.
        gaps: samples of silence, one more than sounds.
    """
    made, spans, at = [np.zeros(gaps[0], np.float32)], [], gaps[0]
    for part, gap in zip(parts, gaps[1:], strict=True):
        made += [faded(part), np.zeros(gap, np.float32)]
        spans.append((at, at + len(part)))
        at += len(part) + gap
    return np.concatenate(made), spans


def groups(takes: Sequence[Take], rng: np.random.Generator) -> list[list[Take]]:
    """Takes of one speaker in a random order, cut into strings; what is left over is in none."""
    order, found, at = rng.permutation(len(takes)), [], 0
    while len(takes) - at >= FEWEST:
        n = min(int(rng.integers(FEWEST, MOST + 1)), len(takes) - at)
        found.append([takes[i] for i in order[at : at + n]])
        at += n
    return found


def make(folder: Path, digits: Path, most: int | None, seed: int) -> None:
    """Write strings of digits and their table of labels."""
    takes = [take for take in read_takes(digits) if take.number not in HELD_OUT]
    rng, rows, longest = np.random.default_rng(seed), [], round(GAP_SECONDS * RATE)
    strings: list[list[Take]] = []
    for speaker in sorted({take.speaker for take in takes}):
        strings += groups([take for take in takes if take.speaker == speaker], rng)
    # The speakers in turn, so that a few strings are not all of one of them.
    strings = [strings[i] for i in rng.permutation(len(strings))][:most]
    for number, string in enumerate(strings):
        gaps = rng.integers(0, longest + 1, len(string) + 1).tolist()
        waveform, spans = joined([take.waveform for take in string], gaps)
        name = f"{number:04d}_{string[0].speaker}_{''.join(take.digit for take in string)}.wav"
        audio.write(folder / "sounds" / name, waveform, RATE)
        rows += [
            (name, f"{begin / RATE:.6f}", f"{end / RATE:.6f}", take.digit)
            for take, (begin, end) in zip(string, spans, strict=True)
        ]
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "start", "end", "label"), *rows])
    print(f"{len(strings)} strings, {len(rows)} digits")


class Names(nn.Module):
    """Names the digit of a sound: four convolutions over its log-mel spectrogram."""

    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        mel = librosa.filters.mel(sr=RATE, n_fft=N_FFT, n_mels=N_MELS)
        self.register_buffer("mel", torch.from_numpy(mel))
        sizes = (1, 32, 64, 64, 128)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(one, two, 3, stride=2, padding=1), nn.BatchNorm2d(two), nn.ReLU())
                for one, two in pairwise(sizes)
            )
        )
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(sizes[-1], 10)

    def activations(self, waveforms: Tensor) -> Tensor:
        """Activations (batch, 128) before the decision, of waveforms (batch, samples) with the peak of all takes."""
        window = torch.hann_window(N_FFT, device=waveforms.device)
        power = torch.stft(waveforms, N_FFT, HOP, window=window, return_complex=True).abs().square()
        log = (self.mel @ power).clamp(min=1e-5).log()
        hidden: Tensor = self.layers(((log + 4) / 4)[:, None]).mean((2, 3))
        return hidden

    def forward(self, waveforms: Tensor) -> Tensor:
        """Logits (batch, 10) of waveforms (batch, samples) with the peak of all takes."""
        logits: Tensor = self.last(self.drop(self.activations(waveforms)))
        return logits

    @torch.no_grad()
    def embedding(self, sounds: Sequence[Waveform]) -> np.ndarray:
        """Activations of each sound (sounds, 128)."""
        self.eval()
        cut = [np.stack([middle(one) for one in sounds[i : i + 256]]) for i in range(0, len(sounds), 256)]
        found = [self.activations(torch.from_numpy(some)).double().numpy() for some in cut]
        return np.concatenate([np.zeros((0, self.last.in_features)), *found])

    @torch.no_grad()
    def named(self, sounds: Sequence[Waveform]) -> list[str]:
        """The digit of each sound."""
        activations = torch.from_numpy(self.embedding(sounds)).float()
        return [str(digit) for digit in self.last(activations).argmax(1).tolist()]


def middle(sound: Waveform) -> Waveform:
    """What is heard of a sound, with silence around it, at the peak of all takes."""
    n = round(HEARD_SECONDS * RATE)
    spare = max(0, len(sound) - n)
    kept = sound[spare // 2 : spare // 2 + n]
    peak = float(np.abs(kept).max(initial=0.0))
    before = (n - len(kept)) // 2
    return np.pad(kept * np.float32(PEAK / peak if peak else 1.0), (before, n - len(kept) - before)).astype(np.float32)


def trained(takes: Sequence[Take], steps: int, seed: int) -> Names:
    """The network, learned from single takes: moved, cut or with a little of other takes around, and with noise."""
    rng, bleed = np.random.default_rng(seed), round(BLEED_SECONDS * RATE)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Names()
        optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, steps)
        for _ in range(steps):
            rows = rng.integers(len(takes), size=BATCH)
            sounds = [altered(takes[row].waveform, takes, bleed, rng) for row in rows]
            digits = torch.tensor([int(takes[row].digit) for row in rows])
            loss = F.cross_entropy(model(torch.from_numpy(np.stack(sounds))), digits, label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model


def kept(file: Path, takes: Sequence[Take], steps: int, seed: int) -> Names:
    """The network in a file, learned and written there if it is not yet."""
    if file.is_file():
        model = Names()
        model.load_state_dict(load_file(file))
        return model
    model = trained(takes, steps, seed)
    save_file(model.state_dict(), file)
    return model


def altered(sound: Waveform, takes: Sequence[Take], bleed: int, rng: np.random.Generator) -> Waveform:
    """A take as the network is shown it."""
    before, after = (int(n) for n in rng.integers(-bleed // 2, bleed, 2))
    others = [takes[row].waveform for row in rng.integers(len(takes), size=2)]
    kept = sound[max(0, -before) : len(sound) - max(0, -after)]
    parts = [others[0][len(others[0]) - max(0, before) :], kept, others[1][: max(0, after)]]
    made = middle(np.concatenate(parts))
    made = np.roll(made, int(rng.integers(-bleed, bleed)))
    noise = rng.standard_normal(len(made)) * 10 ** rng.uniform(-4, -1.5)
    return (made + noise).astype(np.float32)


@dataclass(frozen=True)
class Made:
    """Strings of one kind.

    Attributes:
        sounds: each string.
        spans: first sample and the one after the last of each of its digits.
    """

    sounds: list[Waveform]
    spans: list[list[tuple[int, int]]]

    def named(self, model: Names) -> list[list[str]]:
        """The digit that is heard in each span of each string."""
        parts = [sound[a:b] for sound, own in zip(self.sounds, self.spans, strict=True) for a, b in own]
        names = iter(model.named(parts))
        return [[next(names) for _ in own] for own in self.spans]


def asked(n: int, rng: np.random.Generator) -> list[list[str]]:
    """Random strings of three to six digits."""
    return [[str(d) for d in rng.integers(10, size=rng.integers(FEWEST, MOST + 1))] for _ in range(n)]


def chosen(strings: Sequence[Sequence[str]], takes: Sequence[Take], rng: np.random.Generator) -> list[list[Take]]:
    """For each string takes of one speaker."""
    of: dict[tuple[str, str], list[Take]] = {}
    for take in takes:
        of.setdefault((take.speaker, take.digit), []).append(take)
    speakers = sorted({take.speaker for take in takes})
    found = []
    for string in strings:
        speaker = speakers[int(rng.integers(len(speakers)))]
        own = [of[speaker, digit] for digit in string]
        found.append([some[int(rng.integers(len(some)))] for some in own])
    return found


def in_a_row(strings: Sequence[Sequence[Waveform]]) -> Made:
    """Strings joined without gaps, as they are asked for."""
    both = [joined(string, [0] * (len(string) + 1)) for string in strings]
    return Made([sound for sound, _ in both], [spans for _, spans in both])


def from_posteriors(run: LoadedRun, strings: Sequence[Sequence[Take]], rng: np.random.Generator) -> Made:
    """Strings joined from decoded draws of the posteriors of takes."""
    made = []
    for string in strings:
        gains = [np.float32(level_gain(float(np.abs(one.waveform).max()), run.codec.level_dbfs)) for one in string]
        encoded = run.codec.encode([one.waveform * gain for one, gain in zip(string, gains, strict=True)])
        drawn = [
            mean
            if log_variance is None
            else draw(mean, log_variance, rng.standard_normal(mean.shape).astype(np.float32))
            for mean, log_variance in encoded
        ]
        decoded = run.codec.decode(drawn)
        made.append([sound[: len(one.waveform)] for sound, one in zip(decoded, string, strict=True)])
    return in_a_row(made)


def generated(run: LoadedRun, strings: Sequence[Sequence[str]], seed: int, controls: dict[str, float]) -> Made:
    """Strings that the run makes when it is asked for them."""
    sounds, spans = [], []
    for number, string in enumerate(strings):
        [clip] = run.generate_clips(1, labels=" ".join(string), seed=seed + number, **controls)
        assert clip.spans is not None
        sounds.append(clip.waveform)
        spans.append([(round(span.begin * RATE), round(span.last * RATE)) for span in clip.spans])
    return Made(sounds, spans)


def share(flags: Sequence[bool]) -> str:
    """How many are right."""
    return f"{sum(flags)}/{len(flags)} ({sum(flags) / max(1, len(flags)):.1%})"


def report(what: str, found: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> None:
    """Print how many digits and how many whole strings are right."""
    digits = [one == two for own, given in zip(found, wanted, strict=True) for one, two in zip(own, given, strict=True)]
    strings = [list(own) == list(given) for own, given in zip(found, wanted, strict=True)]
    print(f"{what}: digits {share(digits)}, whole strings {share(strings)}", flush=True)


def measure(run: LoadedRun, digits: Path, given: argparse.Namespace) -> None:
    """Print the shares of digits and strings that are right."""
    takes = read_takes(digits)
    train = [take for take in takes if take.number not in HELD_OUT]
    held_out = [take for take in takes if take.number in HELD_OUT]
    model = kept(run.run.path / f"names-{given.steps}-{given.seed}.safetensors", train, given.steps, given.seed)
    names = model.named([take.waveform for take in held_out])
    right = [name == take.digit for name, take in zip(names, held_out, strict=True)]
    print(f"held-out takes, one by one: digits {share(right)}", flush=True)
    rng = np.random.default_rng(given.seed)
    wanted = asked(given.strings, rng)
    sources = chosen(wanted, train, rng)
    real = in_a_row([[take.waveform for take in string] for string in sources])
    report("joined takes", real.named(model), wanted)
    oracle = from_posteriors(run, sources, rng)
    report("joined draws of posteriors", oracle.named(model), wanted)
    controls = {name: float(value) for name, value in (text.split("=") for text in given.control)}
    made = generated(run, wanted, given.seed, controls)
    found = made.named(model)
    report("generated", found, wanted)
    for digit in sorted({one for string in wanted for one in string}):
        pairs = zip(chain.from_iterable(found), chain.from_iterable(wanted), strict=True)
        print(f"  {digit}: {share([one == two for one, two in pairs if two == digit])}")
    if given.sheet:
        rows = {}
        for number in range(min(SHOWN, len(wanted))):
            heard = "".join(found[number])
            panels = [Panel("real", real.sounds[number]), Panel("posterior", oracle.sounds[number])]
            rows["".join(wanted[number])] = [*panels, Panel(f"heard {heard}", made.sounds[number])]
        contact_sheet(given.sheet, rows, run.sample_rate)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write strings of digits, or measure a run that learned them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    made = ways.add_parser("make")
    made.add_argument("folder", type=Path)
    made.add_argument("digits", type=Path)
    made.add_argument("--strings", type=int, help="no more than this many")
    made.add_argument("--seed", type=int, default=0)
    one = ways.add_parser("measure")
    one.add_argument("run")
    one.add_argument("digits", type=Path)
    one.add_argument("--prior")
    one.add_argument("--strings", type=int, default=200)
    one.add_argument("--steps", type=int, default=STEPS, help="of the network that names digits")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--control", action="append", default=[], help="a control of generate, such as guidance=2")
    one.add_argument("--sheet", type=Path)
    given = parser.parse_args(arguments)
    if given.way == "make":
        make(given.folder, given.digits, given.strings, given.seed)
    else:
        measure(load_run(given.run, prior=given.prior, device="cpu"), given.digits, given)


if __name__ == "__main__":
    main()
