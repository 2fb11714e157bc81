"""Everything at once: one model of several folders beside a small model for each of them.

    python tests/benchmarks/diversity.py make FOLDER DATA [KIND …]
    python tests/benchmarks/diversity.py measure RUN [--small KIND=RUN …] [--control KEY=VALUE …] [--sheet PNG]

`make` puts links to the folders DATA/KIND into FOLDER/sounds, and a table of labels into FOLDER/labels.csv: the label
of a file is the name of the last folder that it lies in. A small model that is trained on DATA/KIND by its folders then
has the same labels and holds out the same files.

`measure` takes a run that was trained with both. For each kind it gives the rate of the latents and the log-mel L1
distance of reconstructed test clips, for speech wide-band PESQ too, and the same of the small run. The two are compared
at the lower of their sample rates, clip by clip. Where the large model has the higher rate, its latents also pass a
Gaussian channel with the rate of the small run: noise in proportion to that of the posterior, so much that the mutual
information is that rate, and the best linear estimate of the latents, both by the training clips of the kind.

Then linear discriminants, as `actseq evaluate` has them for labels of few clips, judge clips of every label that has
enough: real and reconstructed ones of the test split, training clips drawn from their posteriors, new ones, and those
of the small run. They learn from the real training clips of all kinds. A drawn clip is judged by discriminants that
have not learned from its recording.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

from actseq import audio, load_run
from actseq.arrays import Waveform
from actseq.autoencoders.base import Posterior
from actseq.data.corpus import Corpus
from actseq.data.excerpts import spread
from actseq.evaluation import fidelity, metrics
from actseq.evaluation.clip_features import sound_statistics
from actseq.evaluation.clip_sources import ClipSources
from actseq.evaluation.discriminants import Discriminants, folds_of
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import load_latents
from actseq.plots.contact_sheet import Panel, contact_sheet
from actseq.progress import SILENT

KINDS = ("ambience", "digits_fsdd", "drums", "instruments", "speech")
SPEECH = "speech"
"""The kind of which PESQ is given."""
LEAST = 50
"""A label with fewer clips is not judged."""
CHANNEL_CLIPS = 200
"""Training clips, at most, that give the variances of the channel."""


def make(folder: Path, data: Path, kinds: Sequence[str]) -> None:
    """Write links to the folders of some kinds, and a table of the labels of their files."""
    sounds = folder / "sounds"
    sounds.mkdir(parents=True)
    for kind in kinds:
        (sounds / kind).symlink_to((data / kind).resolve(), target_is_directory=True)
    names = sorted(path.relative_to(sounds) for path in audio.find(sounds))
    rows = [(name.as_posix(), name.parent.name) for name in names]
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "label"), *rows])
    print(f"{len(rows)} files, {len({label for _, label in rows})} labels")


@dataclass(frozen=True)
class Model:
    """A run with its corpus.

    Attributes:
        run: the run.
        within: folder of the corpus that is looked at, with its slash; empty for all.
    """

    run: LoadedRun
    within: str = ""

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus of the run."""
        return Corpus(self.run.run.corpus, self.run.codec.level_dbfs)

    @cached_property
    def test(self) -> dict[str, int]:
        """Index of each test clip of the folder, by its key in the folder."""
        keys = {i: self.corpus.store.records[i].key for i in self.corpus.indices("test")}
        return {key.removeprefix(self.within): i for i, key in keys.items() if key.startswith(self.within)}

    def label(self, index: int) -> str:
        """The label of a clip."""
        return str(self.corpus.store.records[index].extra["label"])

    def kbit_per_s(self) -> float:
        """Rate of the latents of the test clips; NaN where the bottleneck has none."""
        found = fidelity.latent_rate(self.run.codec, self.corpus, list(self.test.values()), SILENT)["kbit_per_s"]
        return float("nan") if found is None else float(found)

    def reconstructed(
        self, names: Sequence[str], rate: int, channel: Callable[[Posterior], Tensor]
    ) -> Iterator[tuple[Waveform, Waveform]]:
        """Test clips and what the run makes of them, at a sample rate; the latents pass the channel."""
        for name in names:
            clean = self.corpus.waveform(self.test[name])
            [made] = fidelity.through(self.run.codec, [clean], channel)
            yield at_rate(clean, self.run.sample_rate, rate), at_rate(made, self.run.sample_rate, rate)

    def at_kbit_per_s(self, wanted: float) -> Callable[[Posterior], Tensor]:
        """What comes out of a Gaussian channel of that rate, see above."""
        keys = {i: self.corpus.store.records[i].key for i in self.corpus.indices("train")}
        train = spread([i for i, key in keys.items() if key.startswith(self.within)], CHANNEL_CLIPS)
        encoded = [self.run.codec.encode([self.corpus.waveform(i)])[0] for i in train]
        means = np.concatenate([mean for mean, _ in encoded]).astype(np.float64)
        noise = np.mean(np.exp(np.concatenate([log for _, log in encoded if log is not None])), axis=0)
        power, rate = means.var(0), self.run.codec.autoencoder.latent_rate

        def missing(log_factor: float) -> float:
            return float(np.log2(1 + power / (np.exp(log_factor) * noise)).sum() / 2 * rate / 1000 - wanted)

        gain = power / (power + np.exp(brentq(missing, -20, 20)) * noise)
        middle, factor = (torch.from_numpy(part.astype(np.float32)) for part in (means.mean(0), gain))
        return lambda posterior: middle + factor * (posterior.mean - middle)

    def generated(self, label: str, n: int, seed: int, **controls: float) -> list[Waveform]:
        """New clips of a label, with controls of `generate` such as `guidance`."""
        return [clip.waveform for clip in self.run.generate_clips(n, label=label, seed=seed, **controls)]

    def drawn(self, label: str, n: int, seed: int) -> tuple[list[Waveform], list[int]]:
        """Training clips of a label, drawn from their posteriors and decoded; and which clips these are."""
        sources = ClipSources(self.run, self.corpus, load_latents(self.run.run)[0], seed)
        draws = list(sources.draws(self.corpus.indices("train", [label]), n, 0))
        return [clip for group in sources.decoded(draws) for clip in group.waveforms], [one.clip for one in draws]


def at_rate(waveform: Waveform, own: int, wanted: int) -> Waveform:
    """A waveform at another sample rate."""
    return waveform if own == wanted else audio.resample(waveform, own, wanted)


def posterior_mean(posterior: Posterior) -> Tensor:
    """The latents that a reconstruction has."""
    return posterior.mean


@dataclass(frozen=True)
class Fidelity:
    """How near reconstructed test clips are to the recordings.

    Attributes:
        kbit_per_s: rate of the latents.
        mel_l1_db: log-mel L1 distance of each clip, in dB.
        pesq: wide-band PESQ of each clip that has a score.
    """

    kbit_per_s: float
    mel_l1_db: Float[np.ndarray, " clips"]
    pesq: list[float]

    @staticmethod
    def of(
        model: Model, names: Sequence[str], rate: int, *, speech: bool, kbit_per_s: float | None = None
    ) -> "Fidelity":
        """Measured on some test clips, at a sample rate; through a channel where a rate is given."""
        distances, scores = [], []
        channel = posterior_mean if kbit_per_s is None else model.at_kbit_per_s(kbit_per_s)
        for clean, made in model.reconstructed(names, rate, channel):
            distances.append(metrics.mel_l1_db(clean, made, rate))
            score = metrics.pesq_mos(clean, made, rate, wide=True) if speech else None
            scores += [] if score is None else [score]
        own = model.kbit_per_s() if kbit_per_s is None else kbit_per_s
        return Fidelity(own, np.array(distances), scores)

    def line(self, name: str) -> str:
        """A line with all figures."""
        pesq = f", PESQ-wb {with_interval(self.pesq, 2)}" if self.pesq else ""
        return f"  {name:12} {self.kbit_per_s:5.2f} kbit/s, log-mel L1 {with_interval(self.mel_l1_db, 2)} dB{pesq}"


def with_interval(values: Sequence[float] | Float[np.ndarray, " n"], digits: int, sign: str = "") -> str:
    """A mean and its 95 % interval."""
    form = f"{sign}.{digits}f"
    low, high = metrics.bootstrap_interval(values)
    return f"{np.mean(values):{form}} [{low:{form}}, {high:{form}}]"


def compare(kind: str, large: Model, small: Model | None) -> None:
    """Print how near both models are to the test clips of a kind."""
    rate = min(one.run.sample_rate for one in (large, small) if one is not None)
    speech = kind == SPEECH and rate >= fidelity.WIDE_BAND_RATE
    names = sorted(large.test if small is None else large.test.keys() & small.test.keys())
    print(f"{kind}, {len(names)} test clips at {rate} Hz", flush=True)
    if not names:
        return
    one = Fidelity.of(large, names, rate, speech=speech)
    print(one.line("all at once"), flush=True)
    if small is not None:
        other = Fidelity.of(small, names, rate, speech=speech)
        print(other.line("by itself"), flush=True)
        print(f"  difference   {with_interval(one.mel_l1_db - other.mel_l1_db, 2, '+')} dB", flush=True)
        if one.kbit_per_s > other.kbit_per_s:
            same = Fidelity.of(large, names, rate, speech=speech, kbit_per_s=other.kbit_per_s)
            print(same.line("at its rate"), flush=True)
            print(f"  difference   {with_interval(same.mel_l1_db - other.mel_l1_db, 2, '+')} dB", flush=True)


@dataclass(frozen=True)
class Judge:
    """Linear discriminants of all labels of a model.

    Attributes:
        of_statistics: the discriminants.
        fold_of: the fold of each training clip.
    """

    of_statistics: Discriminants
    fold_of: dict[int, int]

    @staticmethod
    def learned(model: Model) -> "Judge":
        """Learned from the training clips."""
        train = model.corpus.indices("train")
        records = [model.corpus.store.records[i] for i in train]
        labels, sources = ([str(one.extra[name]) for one in records] for name in ("label", "source"))
        folds = folds_of(labels, sources, train)
        values = statistics([model.corpus.waveform(i) for i in train], model.run.sample_rate)
        return Judge(Discriminants(values, labels, folds), dict(zip(train, folds.tolist(), strict=True)))

    def right(self, clips: Sequence[Waveform], rate: int, label: str, made_from: Sequence[int] = ()) -> list[bool]:
        """Which clips are taken for a label.

        Args:
            clips: the clips.
            rate: their sample rate.
            label: the label.
            made_from: the training clip that each is made from; empty: none.
        """
        folds = np.array([self.fold_of[i] for i in made_from] or [-1] * len(clips))
        return [name == label for name in self.of_statistics.predict(statistics(clips, rate), folds)]


def statistics(clips: Sequence[Waveform], rate: int) -> Float[np.ndarray, "clips numbers"]:
    """Statistics of clips."""
    return np.stack([sound_statistics(clip, rate) for clip in clips])


def judged(judge: Judge, large: Model, small: dict[str, Model], given: argparse.Namespace) -> None:
    """Print for every label that has enough clips how many of each sort are taken for it."""
    records = large.corpus.store.records
    counts = Counter(large.label(i) for i in range(len(records)))
    kind_of = {large.label(i): PurePosixPath(one.key).parts[0] for i, one in enumerate(records)}
    controls = {name: float(value) for name, _, value in (text.partition("=") for text in given.control)}
    totals: dict[str, list[bool]] = {}
    rows = {}
    for number, label in enumerate(sorted(counts, key=lambda one: (kind_of[one], one))):
        if counts[label] < given.least or not label:
            continue
        seed, rate = given.seed + number, large.run.sample_rate
        held_out = [large.corpus.waveform(i) for i in large.test.values() if large.label(i) == label]
        again = [large.run.reconstruct(clip) for clip in held_out]
        drawn, made_from = large.drawn(label, given.clips, seed)
        new = large.generated(label, given.clips, seed, **controls)
        found = {
            "real": judge.right(held_out, rate, label),
            "reconstructed": judge.right(again, rate, label),
            "drawn": judge.right(drawn, rate, label, made_from),
            "new": judge.right(new, rate, label),
        }
        own = small.get(kind_of[label])
        if own is not None and label in own.run.labels:
            made = own.generated(label, given.clips, seed)
            found["new, by itself"] = judge.right(made, own.run.sample_rate, label)
        name = f"{kind_of[label]}/{label}"
        print(f"  {name}: " + ", ".join(f"{what} {share(flags)}" for what, flags in found.items()), flush=True)
        for what, flags in found.items():
            totals.setdefault(what, []).extend(flags)
        panels = [Panel("real", held_out[0]), Panel("reconstructed", again[0])]
        rows[name] = [*panels, *(Panel("new", clip) for clip in spread(new, 2))]
    print("  all: " + ", ".join(f"{name} {share(flags)}" for name, flags in totals.items()))
    if given.sheet:
        contact_sheet(given.sheet, rows, large.run.sample_rate)


def share(flags: Sequence[bool]) -> str:
    """How many are right."""
    return f"{sum(flags)}/{len(flags)} ({sum(flags) / len(flags):.0%})"


def measure(given: argparse.Namespace) -> None:
    """Print both tables."""
    run = load_run(given.run, prior=given.prior, device="cpu")
    large = Model(run)
    small = {
        kind: Model(load_run(name, device="cpu")) for kind, _, name in (text.partition("=") for text in given.small)
    }
    for kind in sorted({PurePosixPath(one.key).parts[0] for one in large.corpus.store.records}):
        compare(kind, Model(run, f"{kind}/"), small.get(kind))
    if run.prior is not None:
        print(f"taken for their label, of labels with at least {given.least} clips", flush=True)
        judged(Judge.learned(large), large, small, given)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a folder of links and a table of labels, or measure a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    made = ways.add_parser("make")
    made.add_argument("folder", type=Path)
    made.add_argument("data", type=Path)
    made.add_argument("kinds", nargs="*", default=list(KINDS))
    one = ways.add_parser("measure")
    one.add_argument("run")
    one.add_argument("--prior")
    one.add_argument("--small", action="append", default=[], metavar="KIND=RUN", help="a run of that kind alone")
    one.add_argument("--clips", type=int, default=50, help="new clips of each label")
    one.add_argument("--control", action="append", default=[], help="a control of generate, such as guidance=2")
    one.add_argument("--least", type=int, default=LEAST, help="a label with fewer clips is not judged")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--sheet", type=Path)
    given = parser.parse_args(arguments)
    if given.way == "make":
        make(given.folder, given.data, given.kinds)
    else:
        measure(given)


if __name__ == "__main__":
    main()
