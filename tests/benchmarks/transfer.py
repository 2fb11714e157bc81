"""Timbre transfer: is a sound told as the label it was given, and is what happens in it kept?

    python tests/benchmarks/transfer.py table FOLDER TABLE [--pattern REGEX] [--rest]
    python tests/benchmarks/transfer.py measure RUN [--prior NAME] [--amount A] [--clips N] [--splits SPLIT …]
        [--sheet PNG]

`table` writes the labels of a folder: what the group of the pattern finds in a file's name, by default the speaker in
`digit_speaker_take.wav`. With `--rest` a file without a match has no label. `measure` takes a run that was trained with
them. For every ordered pair of labels it gives clips of some splits that have the first label the second. A
classifier of labels says whose they are, and one of contents, the names of the folders that the files lie in, whether
these are kept. Both learn from training clips, real ones and reconstructed ones; they are kept in the run. The same
clips real and reconstructed are the reference.
"""

import argparse
import csv
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path, PurePosixPath

from actseq import audio, load_run
from actseq.arrays import Waveform
from actseq.data.corpus import Corpus
from actseq.data.excerpts import spread
from actseq.evaluation.classifier import STEPS, Classifier, trained_classifier
from actseq.inference.loaded_run import LoadedRun
from actseq.plots.contact_sheet import Panel, contact_sheet
from actseq.progress import SILENT
from actseq.storage.artifacts import read_json
from actseq.storage.store import Record

PATTERN = r"_([a-z]+)_"
SHOWN = 5
"""Sources on the sheet, each with all other labels."""


def write_table(folder: Path, table: Path, pattern: str, *, rest: bool) -> None:
    """A table of labels for the files of a folder; with `rest` files without a match have an empty label."""
    names = sorted(path.relative_to(folder).as_posix() for path in audio.find(folder))
    rows = []
    for name in names:
        found = re.search(pattern, PurePosixPath(name).name)
        if found is None and not rest:
            sys.exit(f"{name}: no match for {pattern}")
        rows.append((name, found[1] if found else ""))
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "label"), *rows])


def content(record: Record) -> str:
    """The folder that the source of a clip lies in."""
    return PurePosixPath(str(record.extra["source"])).parent.name


def label(record: Record) -> str:
    """The label of a clip."""
    return str(record.extra["label"])


@dataclass(frozen=True)
class Judge:
    """A classifier and what it is to find."""

    model: Classifier
    of: Callable[[Record], str]

    @staticmethod
    def trained(run: LoadedRun, name: str, of: Callable[[Record], str], steps: int) -> "Judge":
        """Learned from the training clips of a run, and kept in it."""
        corpus = opened(run)
        corpus.store.records = [replace(one, extra={**one.extra, "label": of(one)}) for one in corpus.store.records]
        corpus_fingerprint = read_json(run.run.corpus / "corpus.json")["fingerprint"]
        inputs = {"corpus": corpus_fingerprint, "autoencoder": run.autoencoder, "what": name}
        folder = run.run.path / f"classifier-{name}"
        return Judge(trained_classifier(run.run, run.codec, corpus, inputs, SILENT, steps=steps, folder=folder)[0], of)

    def named(self, clips: Sequence[Waveform]) -> list[str]:
        """What it takes clips for."""
        return [self.model.labels[row] for row in self.model.classify(list(clips)).probabilities.argmax(1)]


def opened(run: LoadedRun) -> Corpus:
    """The corpus of a run."""
    return Corpus(run.run.corpus, run.codec.level_dbfs)


def share(found: Sequence[str], wanted: Sequence[str]) -> str:
    """How many are what they should be."""
    right = sum(one == other for one, other in zip(found, wanted, strict=True))
    return f"{right}/{len(found)} ({right / max(1, len(found)):.1%})"


@dataclass(frozen=True)
class Case:
    """A clip, and the label that it is given."""

    index: int
    record: Record
    given: str


def cases(corpus: Corpus, n: int, splits: Sequence[str]) -> list[Case]:
    """Clips of some splits, spread over each label, each given every other label.

    Raises:
        SystemExit: a label has fewer than `n` of these clips.
    """
    found = []
    for first, second in permutations([one for one in corpus.labels if one], 2):
        indices = [index for split in splits for index in corpus.indices(split, [first])]
        if len(indices) < n:
            names = " and ".join(splits)
            sys.exit(f"{first} has {len(indices)} {names} clips; expected at least {n}: --clips {len(indices)}")
        found += [Case(i, corpus.store.records[i], second) for i in spread(indices, n)]
    return found


def measure(run: LoadedRun, given: argparse.Namespace) -> None:
    """Print both shares for the sources, real and reconstructed, and for what they become."""
    corpus = opened(run)
    chosen = cases(corpus, given.clips, given.splits)
    judges = {"label": Judge.trained(run, "label", label, given.steps)}
    judges["content"] = Judge.trained(run, "content", content, given.steps)
    sources = {one.index: corpus.waveform(one.index) for one in chosen}
    records = [corpus.store.records[i] for i in sources]
    real = list(sources.values())
    for what, clips in (("real", real), ("reconstructed", [run.reconstruct(one) for one in real])):
        shares = [share(judge.named(clips), [judge.of(one) for one in records]) for judge in judges.values()]
        print(f"{what}: label {shares[0]}, content {shares[1]}")
    how = {"prior": given.prior, "amount": given.amount, "seed": given.seed}
    made = [run.reconstruct(sources[one.index], one.given, **how) for one in chosen]
    found = {name: judge.named(made) for name, judge in judges.items()}
    for second in dict.fromkeys(one.given for one in chosen):
        report(f"to {second}", [i for i, one in enumerate(chosen) if one.given == second], chosen, found)
    report("transferred", range(len(chosen)), chosen, found)
    if given.sheet:
        sheet(given.sheet, run.sample_rate, chosen, sources, made)


def report(what: str, rows: Sequence[int], chosen: Sequence[Case], found: dict[str, list[str]]) -> None:
    """Print the shares of some of the cases."""
    told, kept = ([found[name][i] for i in rows] for name in ("label", "content"))
    asked = share(told, [chosen[i].given for i in rows])
    own = share(told, [label(chosen[i].record) for i in rows])
    same = share(kept, [content(chosen[i].record) for i in rows])
    print(f"{what}: given label {asked}, own label {own}, content {same}")


def sheet(
    path: Path, rate: int, chosen: Sequence[Case], sources: dict[int, Waveform], made: Sequence[Waveform]
) -> None:
    """Draw some sources, each with what it becomes."""
    rows = {}
    for index in spread(list(sources), SHOWN):
        own = [(one, clip) for one, clip in zip(chosen, made, strict=True) if one.index == index]
        panels = [Panel(label(own[0][0].record), sources[index]), *(Panel(one.given, clip) for one, clip in own)]
        rows[f"{content(own[0][0].record)} ({PurePosixPath(own[0][0].record.key).stem})"] = panels
    contact_sheet(path, rows, rate)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a table of labels, or measure a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    table = ways.add_parser("table")
    table.add_argument("folder", type=Path)
    table.add_argument("table", type=Path)
    table.add_argument("--pattern", default=PATTERN)
    table.add_argument("--rest", action="store_true", help="files without a match have no label")
    one = ways.add_parser("measure")
    one.add_argument("run")
    one.add_argument("--prior")
    one.add_argument("--amount", type=float)
    one.add_argument("--seed", type=int)
    one.add_argument("--clips", type=int, default=30, help="of each pair of labels")
    one.add_argument("--splits", nargs="+", default=["test"], help="splits that the clips are from")
    one.add_argument("--steps", type=int, default=STEPS, help="of each classifier")
    one.add_argument("--sheet", type=Path)
    given = parser.parse_args(arguments)
    if given.way == "table":
        write_table(given.folder, given.table, given.pattern, rest=given.rest)
    else:
        measure(load_run(given.run, prior=given.prior, device="cpu"), given)


if __name__ == "__main__":
    main()
