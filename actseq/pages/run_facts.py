"""What a run is made of, as plain data for its page: corpus, trainings, latents, settings and provenance."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np

from actseq import units
from actseq.data.corpus import SPLITS, Corpus
from actseq.data.excerpts import spread
from actseq.data.latents import LatentSequences
from actseq.modules.gaussian import ACTIVE_NATS, kl_nats
from actseq.pages.charts import BarChart, Dot, LineChart, bar_chart, dots, training_charts
from actseq.plots.latent_statistics import principal
from actseq.storage.artifacts import Artifact, read_json
from actseq.storage.files import read_whole
from actseq.storage.run_folder import RunFolder, versions

MOST_LABELS, MOST_FILES, MOST_DOTS = 40, 100, 1200
COLOURS = 10
"""Number of colours of labels; the rarest labels share the last one."""


@dataclass(frozen=True)
class LabelFacts:
    """Clips of a label: number, total seconds, shortest, median and longest in seconds, and clips of each split."""

    label: str
    clips: int
    seconds: float
    lengths: tuple[float, float, float]
    splits: tuple[int, ...]


@dataclass(frozen=True)
class CorpusFacts:
    """The corpus.

    Attributes:
        found: number of files found.
        usable: number of files used.
        seconds: total length of the files used.
        sample_rate: sample rate of the corpus in Hz.
        rates: sample rates of the files, with the number of files of each, the most frequent first.
        mixed: number of files that were mixed to mono.
        labels: the labels with the most clips.
        more_labels: number of other labels.
        skipped: path and reason of files that were not used.
        unusual: path and peculiarity of files that were used.
        more: number of skipped and unusual files that are not listed.
    """

    found: int
    usable: int
    seconds: float
    sample_rate: int
    rates: list[tuple[int, int]]
    mixed: int
    labels: list[LabelFacts]
    more_labels: int
    skipped: list[tuple[str, str]]
    unusual: list[tuple[str, str]]
    more: tuple[int, int]


def corpus_facts(run: RunFolder, sample_rate: int) -> CorpusFacts:
    """What `scan.csv` and the manifest of a run say.

    Raises:
        ArtifactError: one is missing or damaged.
    """
    text = read_whole(run.corpus / "scan.csv").decode("utf-8", "surrogateescape")
    rows = list(csv.DictReader(StringIO(text, newline="")))
    usable = [row for row in rows if row["status"] == "usable"]
    skipped = [(row["path"], row["reason"]) for row in rows if row["status"] != "usable"]
    unusual = [(row["path"], row["reason"]) for row in usable if row["reason"]]
    labels = _labels(Corpus(run.corpus, None), sample_rate)
    return CorpusFacts(
        found=len(rows),
        usable=len(usable),
        seconds=sum(float(row["seconds"]) for row in usable),
        sample_rate=sample_rate,
        rates=Counter(int(row["sample_rate"]) for row in usable).most_common(),
        mixed=sum(int(row["channels"]) > 1 for row in usable),
        labels=labels[:MOST_LABELS],
        more_labels=max(0, len(labels) - MOST_LABELS),
        skipped=skipped[:MOST_FILES],
        unusual=unusual[:MOST_FILES],
        more=(max(0, len(skipped) - MOST_FILES), max(0, len(unusual) - MOST_FILES)),
    )


def _labels(corpus: Corpus, sample_rate: int) -> list[LabelFacts]:
    """Facts of each label, that with the most clips first."""
    lengths: dict[str, list[int]] = {}
    splits: dict[str, Counter[str]] = {}
    for record in corpus.store.records:
        label = str(record.extra["label"])
        lengths.setdefault(label, []).append(record.length)
        splits.setdefault(label, Counter())[str(record.extra["split"])] += 1
    found = []
    for label, own in sorted(lengths.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        seconds = sorted(units.samples_to_seconds(length, sample_rate) for length in own)
        middle = float(np.median(seconds))
        counts = tuple(splits[label][split] for split in SPLITS)
        found.append(LabelFacts(label, len(own), sum(seconds), (seconds[0], middle, seconds[-1]), counts))
    return found


# -- trainings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """A trained model: its name, what it is, its size, its steps, its held-out figures and its curves."""

    name: str
    kind: str
    n_parameters: int
    total_steps: int
    best_step: int
    figures: Mapping[str, float]
    charts: list[LineChart]
    settings: list[tuple[str, str]]
    fingerprint: str


def trainings(run: RunFolder) -> list[Training]:
    """The autoencoder, all priors and all vocoders of a run.

    Raises:
        ArtifactError: a model is unfinished or damaged.
    """
    made = [_training("autoencoder", run.trained_autoencoder, ("autoencoder", "network"), ())]
    for name in run.priors.names:
        made.append(_training(f"prior {name}", run.priors.read(name), ("prior", "network"), ("prior", "train_prior")))
    for name in run.vocoders.names:
        made.append(
            _training(f"vocoder {name}", run.vocoders.read(name), ("train_vocoder", "network"), ("train_vocoder",))
        )
    return made


def _training(name: str, artifact: Artifact, network: Sequence[str], sections: Sequence[str]) -> Training:
    meta = artifact.meta
    kind: Any = meta["config"]
    for key in network:
        kind = kind[key]
    metrics = artifact.folder / "metrics.csv"
    return Training(
        name=name,
        kind=str(kind["kind"]),
        n_parameters=meta["n_parameters"],
        total_steps=meta["total_steps"],
        best_step=meta["best_step"],
        figures=meta["figures"],
        charts=training_charts(metrics) if metrics.is_file() else [],
        settings=[pair for section in sections for pair in flat(meta["config"][section], section)],
        fingerprint=artifact.fingerprint,
    )


# -- latents -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LatentFacts:
    """The latents of the corpus.

    Attributes:
        dims: number of dimensions.
        active: number of dimensions that carry information; None where the bottleneck gives no variance.
        rate: latent frames in a second.
        bars: information in each dimension, or its standard deviation where `active` is None; largest first.
        dots: a dot for each clip, on the two principal components of the means of clips.
        explained: fraction of the variance on each of the two axes.
        key: labels with the number of their colour.
        clips: number of clips in the map, and in the corpus.
    """

    dims: int
    active: int | None
    rate: float
    bars: BarChart
    dots: list[Dot]
    explained: tuple[float, float]
    key: list[tuple[str, int]]
    clips: tuple[int, int]


def latent_facts(run: RunFolder) -> LatentFacts | None:
    """Active dimensions and map of a run's latents, from at most `MOST_DOTS` clips; None where there are none yet.

    Raises:
        ArtifactError: they are damaged.
    """
    if not (run.latents / "latents.json").is_file():
        return None
    meta = read_json(run.latents / "latents.json")
    latents = LatentSequences(run.latents, meta["latent_dim"], meta["latent_rate"])
    whole = [i for i, record in enumerate(latents.records) if record.extra["split"] in SPLITS and record.length]
    chosen = spread(whole, MOST_DOTS)
    pairs = [latents.read(index) for index in chosen]
    mean, log_variance = (np.concatenate(parts).astype(np.float64) for parts in zip(*pairs, strict=True))
    point = not np.isfinite(log_variance).all()
    values = mean.std(0) if point else kl_nats(mean, log_variance).mean(0)
    order = np.argsort(-values, kind="stable")
    strong = [bool(point or values[k] >= ACTIVE_NATS) for k in order]
    texts = [f"dimension {k}: {values[k]:.3g} {'deviation' if point else 'nats a frame'}" for k in order]
    places, explained = principal(np.array([own.mean(0, dtype=np.float64) for own, _ in pairs]))
    labels = [str(latents.records[index].extra["label"]) for index in chosen]
    key = _colours(labels)
    names = [str(latents.records[index].key) for index in chosen]
    return LatentFacts(
        dims=meta["latent_dim"],
        active=None if point else sum(strong),
        rate=float(meta["latent_rate"]),
        bars=bar_chart(values[order], texts, strong),
        dots=dots(places, [key[label] for label in labels], names),
        explained=(float(explained[0]), float(explained[1])),
        key=[(label or "no label", colour) for label, colour in key.items()] if len(key) > 1 else [],
        clips=(len(chosen), len(whole)),
    )


def _colours(labels: Sequence[str]) -> dict[str, int]:
    """The number of the colour of each label; the most frequent labels have their own."""
    ordered = [label for label, _ in sorted(Counter(labels).items(), key=lambda pair: (-pair[1], pair[0]))]
    own = sorted(ordered[: COLOURS - 1]) if len(ordered) > COLOURS else sorted(ordered)
    return {label: own.index(label) if label in own else COLOURS - 1 for label in sorted(ordered)}


# -- settings and provenance -------------------------------------------------------------------------------------------


def flat(tree: Any, name: str) -> list[tuple[str, str]]:
    """The keys of a part of a configuration, with points between them, and their values as text."""
    if isinstance(tree, Mapping) and tree:
        return [pair for key, value in tree.items() for pair in flat(value, f"{name}.{key}")]
    return [(name, "none" if tree is None else str(tree))]


def settings(run: RunFolder) -> dict[str, list[tuple[str, str]]]:
    """The configuration of a run, by section."""
    tree = run.trained_autoencoder.meta["config"]
    return {section: flat(value, section) for section, value in tree.items() if isinstance(value, Mapping)}


def provenance(run: RunFolder) -> list[tuple[str, str]]:
    """Where a run comes from: source, seed, versions, and the fingerprints of what it is made of."""
    about = run.read_provenance()
    rows = [
        ("sounds", str(about["source"])),
        ("seed", str(about["seed"])),
        ("commit of actseq", str(about["commit"] or "an installed package")),
        ("fingerprint of the corpus", str(about["corpus_fingerprint"])),
        ("fingerprint of the autoencoder", run.trained_autoencoder.fingerprint),
    ]
    if (run.latents / "latents.json").is_file():
        rows.append(("fingerprint of the latents", str(read_json(run.latents / "latents.json")["fingerprint"])))
    for models in (run.priors, run.vocoders):
        rows += [(f"fingerprint of {models.kind} {name}", models.read(name).fingerprint) for name in models.names]
    made, now = about["versions"], versions()
    rows += [(f"version of {name}", str(version)) for name, version in made.items()]
    rows.append(("this page was written by", f"actseq {now['actseq']}"))
    return rows
