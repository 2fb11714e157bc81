"""Examples of what a run does: real clips, their reconstructions, generated clips and continuations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from actseq import units
from actseq.arrays import Waveform
from actseq.data.corpus import Corpus
from actseq.errors import ConfigError
from actseq.inference.loaded_run import LoadedRun
from actseq.progress import Reporter

CLIPS = 20
LONGEST = 8.0
"""Longest part of a clip that is shown, in seconds."""
CONTINUATIONS = 5
KINDS = ("real", "reconstructed", "generated", "continued")


@dataclass(frozen=True)
class Example:
    """A sound that is shown.

    Attributes:
        kind: one of `KINDS`.
        name: name of the clip, or the label with a number.
        waveform: the sound, (samples,).
        cut: it is only the beginning of a longer sound.
        join: time in seconds at which a continuation begins; None for other sounds.
    """

    kind: str
    name: str
    waveform: Waveform
    cut: bool = False
    join: float | None = None


@dataclass(frozen=True)
class LabelExamples:
    """Examples of a label.

    Attributes:
        label: the label; None in a corpus without labels.
        seed: seed of its generated clips.
        rows: examples that are shown next to each other, at most one of each kind.
    """

    label: str | None
    seed: int
    rows: list[list[Example]] = field(default_factory=list)


@dataclass(frozen=True)
class Examples:
    """All examples of a run, and what was left out and why."""

    labels: list[LabelExamples]
    notes: list[str]

    def of_kind(self, kind: str) -> list[Example]:
        """All examples of a kind, in order."""
        return [one for label in self.labels for row in label.rows for one in row if one.kind == kind]


def make_examples(loaded: LoadedRun, n_per_label: int | None, seed: int, reporter: Reporter) -> Examples:
    """Reconstruct, generate and continue some clips.

    Args:
        loaded: a run; without a prior nothing is generated.
        n_per_label: number of clips of each label; None makes about 20 in total.
        seed: seed of the generation.
        reporter: receives the progress.
    """
    corpus = Corpus(loaded.run.corpus, loaded.config.corpus.level_dbfs)
    known = loaded.labels or [label for label in loaded.config.train_ae.targets or corpus.labels if label]
    labels: list[str | None] = list(known[:CLIPS]) or [None]
    each = n_per_label or max(1, CLIPS // len(labels))
    notes = [] if len(known) <= CLIPS else [f"examples are of the first {CLIPS} of {len(known)} labels"]
    if loaded.prior is None:
        notes.append(_why_nothing_is_generated(loaded))
    found: list[LabelExamples] = []
    reporter.begin("examples", len(labels), unit="labels")
    for number, label in enumerate(labels):
        # Each label has its own seed: the same seed would make similar clips of every label.
        own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        made = _Maker(loaded, corpus, label, own_seed)
        real = made.real(each)
        generated = made.generated(each) if loaded.prior is not None else []
        rows = [
            [*(real[k] if k < len(real) else []), *generated[k : k + 1]] for k in range(max(len(real), len(generated)))
        ]
        if real and loaded.prior is not None and number < CONTINUATIONS and not loaded.codec.autoencoder.whole_clips:
            try:
                rows[0].append(made.continued(real[0][0].waveform))
            except ConfigError as error:
                notes += [f"continuations are left out: {error}"] if number == 0 else []
        found.append(LabelExamples(label, own_seed, rows))
        reporter.advance(number + 1)
    reporter.end()
    return Examples(found, notes)


def _why_nothing_is_generated(loaded: LoadedRun) -> str:
    if not loaded.codec.autoencoder.generative:
        return "nothing is generated: this run restores sounds, and its latents do not hold them"
    if names := loaded.run.priors.names:
        return f"nothing is generated: the run has the priors {', '.join(names)}, and --prior names the one to use"
    return f"nothing is generated: the run has no prior yet; actseq train-prior {loaded.run.name} trains one"


@dataclass(frozen=True)
class _Maker:
    """Makes the examples of one label."""

    loaded: LoadedRun
    corpus: Corpus
    label: str | None
    seed: int

    @property
    def asked(self) -> str | None:
        """The label that the prior is asked for; None where labels change nothing of what is generated."""
        return self.label if self.label in self.loaded.usable_labels else None

    def real(self, n: int) -> list[list[Example]]:
        """Real clips with their reconstructions, held-out clips first."""
        corpus, loaded = self.corpus, self.loaded
        wanted = None if self.label is None else [self.label]
        ordered = [i for split in ("test", "validation", "train") for i in corpus.indices(split, wanted)]
        longest = units.seconds_to_samples(LONGEST, loaded.sample_rate)
        if loaded.codec.autoencoder.whole_clips:
            longest = min(longest, loaded.codec.samples_per_latent)
        found = []
        for index in ordered[:n]:
            record = corpus.store.records[index]
            waveform = corpus.waveform(index, 0, min(longest, record.length))
            name, cut = Path(record.key).name, record.length > longest
            made = loaded.reconstruct(waveform)
            found.append([Example("real", name, waveform, cut), Example("reconstructed", name, made, cut)])
        return found

    def generated(self, n: int) -> list[Example]:
        """New clips."""
        longest = units.seconds_to_samples(LONGEST, self.loaded.sample_rate)
        made = self.loaded.generate(n, label=self.asked, seed=self.seed)
        return [
            Example("generated", f"{self.label or 'new'} {k}", waveform[:longest], len(waveform) > longest)
            for k, waveform in enumerate(made, 1)
        ]

    def continued(self, whole: Waveform) -> Example:
        """The first half of a clip, continued for as long, unless the prior ends it earlier."""
        half = whole[: max(1, len(whole) // 2)]
        seconds = units.samples_to_seconds(len(half), self.loaded.sample_rate)
        [made] = self.loaded.generate(
            1,
            until_stop=True,
            max_seconds=max(0.25, seconds),
            label=self.asked,
            seed_audio=half,
            seed=self.seed,
        )
        return Example("continued", f"{self.label or 'real'} + new", made, join=seconds)
