"""Compares clips that a prior generates with the corpus: as a set, next to real, reconstructed and memoryless clips.

All sets are measured in the same way. For measures that depend on the size of a set, they are reduced to the same
number of clips of each label. Clips are made and measured group by group; only the measurements are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.stats import ks_2samp

from actseq import units
from actseq.arrays import LatentArray, Waveform
from actseq.data.corpus import Corpus
from actseq.data.excerpts import Excerpt, excerpts, spread
from actseq.data.latents import LatentSequences
from actseq.evaluation import metrics, set_distances
from actseq.evaluation.classifier import STEPS, Classifier, trained_classifier
from actseq.evaluation.clip_features import ClipFeatures, describe, joined
from actseq.evaluation.set_distances import Estimate
from actseq.inference.codec import BATCH_FRAMES, Codec, in_batches
from actseq.inference.loaded_run import LoadedRun
from actseq.modules.gaussian import draw
from actseq.progress import Reporter
from actseq.storage.artifacts import content_hash, read_json

Render = Callable[[list[Waveform]], list[Waveform]]
CLIPS = 300
"""Default number of generated clips."""
REFERENCE = 2000
"""Most training clips with which sets are compared."""
SMALLEST = 10
"""Sets of fewer clips are not compared."""
GROUP = 32
"""Number of clips generated at a time."""


@dataclass(frozen=True)
class Group:
    """Some clips of a set.

    Attributes:
        waveforms: the clips.
        labels: label of each clip, or the requested one; empty where there is none.
        frames: number of latent frames of each clip.
    """

    waveforms: list[Waveform]
    labels: list[str]
    frames: list[int]


@dataclass(frozen=True)
class ClipSet:
    """Measurements of a set of clips.

    Attributes:
        labels: as in `Group`.
        frames: as in `Group`.
        of_clip: features of each clip.
        embedding: embedding of the classifier; without one it has no columns.
        predicted: labels that the classifier predicts; empty without a classifier.
    """

    labels: list[str]
    frames: Int[np.ndarray, " clips"]
    of_clip: ClipFeatures
    embedding: Float[np.ndarray, "clips dims"]
    predicted: list[str]

    def __len__(self) -> int:
        return len(self.frames)

    def chosen(self, rows: Int[np.ndarray, " _"]) -> ClipSet:
        """Measurements of some of the clips."""
        return ClipSet(
            [self.labels[row] for row in rows],
            self.frames[rows],
            self.of_clip.chosen(rows),
            self.embedding[rows],
            [self.predicted[row] for row in rows] if self.predicted else [],
        )


@dataclass(frozen=True)
class PriorEvaluation:
    """Results.

    Attributes:
        figures: plain data, for `evaluation-NAME.json`.
        notes: what was left out, and why.
    """

    figures: dict[str, Any]
    notes: list[str]


def evaluate_prior(
    loaded: LoadedRun,
    corpus: Corpus,
    latents: LatentSequences,
    split: str,
    n: int,
    seed: int,
    reporter: Reporter,
    *,
    steps: int = STEPS,
) -> PriorEvaluation:
    """Measure the clips that the loaded prior generates.

    Args:
        loaded: a run with a prior.
        corpus: corpus of the run.
        latents: latents of the run.
        split: split of the real clips.
        n: number of generated clips, spread evenly over the labels.
        seed: seed of the generated clips.
        reporter: receives the progress.
        steps: number of training steps of the classifier.
    """
    notes: list[str] = []
    rate, seconds = loaded.sample_rate, loaded.config.generate.seconds
    train, held_out = (excerpts(corpus, name, rate, seconds) for name in ("train", split))
    classifier, training = None, None
    if len(set(corpus.labels) - {""}) > 1:
        classifier, training = trained_classifier(
            loaded.run, loaded.codec, corpus, _made_from(loaded), reporter, steps=steps
        )
        if split == "validation":
            notes.append("the classifier's weights were chosen on the validation clips")
    else:
        notes.append(
            "there are fewer than two labels: accuracy and all measures on the embedding of a classifier are left out"
        )
    if seconds is not None:
        notes.append(
            f"generated clips have the {seconds:g} s of generate.seconds: real ones are cut into pieces of that "
            "length, and lengths are not compared"
        )
        short = sum(excerpt.samples < units.seconds_to_samples(seconds, rate) for excerpt in held_out)
        if short:
            notes.append(
                f"{short} of {len(held_out)} held-out pieces are shorter than that, which alone sets them apart"
            )
    codec = loaded.codec
    sources = {
        "train": (len(train), _real(codec, corpus, train)),
        "real": (len(held_out), _real(codec, corpus, held_out)),
        "reconstructed": (len(held_out), _real(codec, corpus, held_out, codec.reconstruct)),
        "reconstructed from a draw": (len(held_out), _real(codec, corpus, held_out, _drawing(codec, seed))),
        "generated": (n, _generated(loaded, n, seed, notes)),
        "iid": (n, independent(loaded, latents, n, seed)),
        "copies": (min(n, len(train)), _real(codec, corpus, spread(train, n), codec.reconstruct)),
    }
    if codec.encode([held_out[0].read(corpus)])[0][1] is None:
        del sources["reconstructed from a draw"]
    found = {}
    for name, (size, groups) in sources.items():
        reporter.begin(f"clips: {name}", size, unit="clips")
        found[name] = _measured(groups, rate, classifier, reporter)
        reporter.end()
    reporter.say("comparing sets of clips")
    return _compared(found, training, seconds, notes, seed)


def _made_from(loaded: LoadedRun) -> dict[str, str]:
    """Fingerprints of the inputs of the classifier."""
    vocoder = [loaded.config.vocoder.model_dump(mode="json"), loaded.fingerprints.get("vocoder")]
    return {
        "corpus": str(read_json(loaded.run.corpus / "corpus.json")["fingerprint"]),
        "autoencoder": loaded.autoencoder,
        "vocoder": content_hash(vocoder),
    }


# -- sets of clips
# ------------------------------------------------------------------------------------------------------


def _real(codec: Codec, corpus: Corpus, chosen: Sequence[Excerpt], render: Render | None = None) -> Iterator[Group]:
    """Clips of the corpus, unchanged or rendered."""
    hop, stride = codec.representation.hop_length, codec.autoencoder.stride
    frames = [units.n_frames(excerpt.samples, hop) for excerpt in chosen]
    for group in in_batches(frames, BATCH_FRAMES):
        waveforms = [chosen[i].read(corpus) for i in group]
        yield Group(
            waveforms if render is None else render(waveforms),
            [chosen[i].label for i in group],
            [units.n_latent_frames(frames[i], stride) for i in group],
        )


def _drawing(codec: Codec, seed: int) -> Render:
    """Clips through the codec, from a draw of the posterior: the sound of a perfect prior."""
    rng = np.random.default_rng([seed, 2])

    def render(waveforms: list[Waveform]) -> list[Waveform]:
        made = codec.decode([_drawn(mean, log_variance, rng) for mean, log_variance in codec.encode(waveforms)])
        return [new[: len(old)] for new, old in zip(made, waveforms, strict=True)]

    return render


def _drawn(mean: LatentArray, log_variance: LatentArray | None, rng: np.random.Generator) -> LatentArray:
    """One draw from a posterior."""
    assert log_variance is not None
    return draw(mean, log_variance, rng.standard_normal(mean.shape, np.float32))


def _generated(loaded: LoadedRun, n: int, seed: int, notes: list[str]) -> Iterator[Group]:
    """New clips, with each label in turn."""
    endless = 0
    for number, (label, count) in enumerate(evenly(loaded.labels or [""], n)):
        for start in range(0, count, GROUP):
            # Each group has its own seed: the same seed would give the same clips again.
            own = int(np.random.SeedSequence([seed, number, start]).generate_state(1)[0])
            made = loaded.generate_clips(min(GROUP, count - start), label=label or None, seed=own)
            endless += sum(not clip.stopped for clip in made)
            yield Group([clip.waveform for clip in made], [label] * len(made), [len(clip.latents) for clip in made])
    if endless and loaded.config.generate.seconds is None:
        bound = loaded.config.generate.max_seconds
        notes.append(f"{endless} of {n} generated clips had not ended after max_seconds = {bound:g} and were cut")


def independent(loaded: LoadedRun, latents: LatentSequences, n: int, seed: int) -> Iterator[Group]:
    """Clips without memory: each frame is a draw from the posterior of a random training frame of the label.

    A clip is as long as a random training clip of its label, `generate.max_seconds` at most; or `generate.seconds` long
    where that is set.
    """
    settings, codec, rng = loaded.config.generate, loaded.codec, np.random.default_rng([seed, 1])
    bound = units.seconds_to_frames(settings.seconds or settings.max_seconds, codec.autoencoder.latent_rate)
    of_label: dict[str, list[int]] = {}
    for index in latents.indices("train"):
        of_label.setdefault(str(latents.records[index].extra["label"]), []).append(index)
    for label, count in evenly(sorted(of_label), n):
        means, log_variances = (
            np.concatenate(part) for part in zip(*(latents.read(index) for index in of_label[label]), strict=True)
        )
        lengths = [min(bound, latents.records[index].length) for index in of_label[label]]
        for start in range(0, count, GROUP):
            drawn = rng.choice(lengths if settings.seconds is None else [bound], min(GROUP, count - start))
            rows = [rng.integers(len(means), size=frames) for frames in drawn]
            made = codec.decode([_drawn(means[row], log_variances[row], rng) for row in rows])
            if settings.seconds is not None:
                samples = units.seconds_to_samples(settings.seconds, codec.sample_rate)
                made = [waveform[:samples] for waveform in made]
            yield Group(made, [label] * len(made), [len(row) for row in rows])


def evenly(labels: Sequence[str], n: int) -> list[tuple[str, int]]:
    """Number of clips of each label, `n` in total."""
    bounds = [k * n // len(labels) for k in range(len(labels) + 1)]
    return [(label, stop - start) for label, start, stop in zip(labels, bounds, bounds[1:], strict=False)]


def _measured(groups: Iterable[Group], sample_rate: int, classifier: Classifier | None, reporter: Reporter) -> ClipSet:
    labels: list[str] = []
    frames: list[int] = []
    parts, embedding, predicted = [], [], []
    for group in groups:
        labels += group.labels
        frames += group.frames
        parts.append(describe(group.waveforms, sample_rate))
        if classifier is None:
            embedding.append(np.zeros((len(group.waveforms), 0)))
        else:
            found = classifier.classify(group.waveforms)
            embedding.append(found.embedding)
            predicted += [classifier.labels[k] for k in found.probabilities.argmax(axis=1)]
        reporter.advance(len(labels))
    return ClipSet(labels, np.array(frames), joined(parts), np.concatenate(embedding), predicted)


def equal_sized(found: Mapping[str, ClipSet], model: str) -> dict[str, ClipSet]:
    """Sets reduced evenly to the same number of clips of each label, in the proportions of the set `model`.

    Labels that are missing in a set are left out. Where a set has no labels, labels are ignored.
    """
    known = all(any(clips.labels) for clips in found.values())
    labels = {name: clips.labels if known else [""] * len(clips) for name, clips in found.items()}
    counts = {name: Counter(own) for name, own in labels.items()}
    common = [label for label in counts[model] if all(label in own for own in counts.values())]
    share = min((own[label] / counts[model][label] for own in counts.values() for label in common), default=0.0)
    thinned = {}
    for name, clips in found.items():
        rows: list[int] = []
        for label in common:
            own_rows = [row for row, own in enumerate(labels[name]) if own == label]
            rows += spread(own_rows, int(share * counts[model][label] + 1e-9))
        thinned[name] = clips.chosen(np.array(rows, dtype=np.int64))
    return thinned


# -- figures
# ------------------------------------------------------------------------------------------------------------


def _compared(
    found: Mapping[str, ClipSet], training: dict[str, Any] | None, seconds: float | None, notes: list[str], seed: int
) -> PriorEvaluation:
    train, real = found["train"], found["real"]
    candidates = {name: clips for name, clips in found.items() if name not in ("train", "copies")}
    rows = {name: _alone(clips, real) for name, clips in candidates.items()}
    if seconds is None:
        for name, clips in candidates.items():
            rows[name]["length_p"] = float(ks_2samp(clips.frames, train.frames, method="asymp").pvalue)

    thinned = equal_sized(candidates, "real")
    reference = train.chosen(np.array(spread(range(len(train)), REFERENCE)))
    compared = len(thinned["real"])
    if min(compared, len(reference)) >= SMALLEST:
        for name, clips in thinned.items():
            rows[name] |= _beside(reference, clips, seed)
    else:
        notes.append(
            f"{compared} clips and {len(reference)} training clips are too few to compare sets, which takes {SMALLEST} "
            "of each: distances, precision, recall, density and coverage are left out"
        )

    from_train = {
        name: set_distances.nearest_distances(train.of_clip.thumbnail, found[name].of_clip.thumbnail)
        for name in (*candidates, "copies")
    }
    figures: dict[str, Any] = {}
    if np.median(from_train["real"]) > 0:
        ratios = {
            name: set_distances.ratio_of_medians(own, from_train["real"], seed)._asdict()
            for name, own in from_train.items()
        }
        for name in candidates:
            rows[name]["memorisation"] = ratios[name]
        figures["memorisation_of_copies"] = ratios["copies"]
    else:
        notes.append("most held-out clips are also training clips: memorisation is left out")

    if rows["reconstructed"].get("mmd_mfcc", {"value": 1.0})["value"] <= 0:
        notes.append("MMD² of the reconstructed is not above 0: no other is given in multiples of it")
    figures |= {
        "clips": {name: len(clips) for name, clips in found.items()},
        "compared": compared,
        "reference": len(reference),
        "seconds": seconds,
        "classifier": training,
        "rows": rows,
        "relative": {name: _relative(rows[name], rows["reconstructed"]) for name in ("generated", "iid")},
    }
    return PriorEvaluation(figures, notes)


def _alone(clips: ClipSet, real: ClipSet) -> dict[str, Any]:
    """Metrics that do not depend on the size of the set."""
    hits = [own == label for own, label in zip(clips.predicted, clips.labels, strict=False) if label]
    level = clips.of_clip.level_db
    return ({"accuracy": _mean(hits)} if hits else {}) | {
        "level_db": float(level.mean()),
        "level_deviation_db": float(level.std()),
        "level_difference_db": float(level.mean() - real.of_clip.level_db.mean()),
        "level_drift_db": _mean(clips.of_clip.level_drift_db),
        "mfcc_drift_db": _mean(clips.of_clip.mfcc_drift),
    }


def _beside(reference: ClipSet, clips: ClipSet, seed: int) -> dict[str, Any]:
    """Distances of a set from the reference."""
    row: dict[str, Any] = {}
    strata = np.unique(clips.labels, return_inverse=True)[1]
    if clips.predicted:
        row["frechet"] = set_distances.frechet(reference.embedding, clips.embedding, strata, seed)._asdict()
        row["mmd_embedding"] = set_distances.discrepancy(reference.embedding, clips.embedding, strata, seed)._asdict()
    mfcc = set_distances.standardised(reference.of_clip.mfcc, clips.of_clip.mfcc)
    envelope = set_distances.standardised(reference.of_clip.envelope, clips.of_clip.envelope)
    row["mmd_mfcc"] = set_distances.discrepancy(*mfcc, strata, seed)._asdict()
    row["mmd_envelope"] = set_distances.discrepancy(*envelope, strata, seed)._asdict()
    # Of equal size, which these measures need.
    rows = spread(range(len(reference)), len(clips))
    if clips.predicted:
        row["overlap_embedding"] = set_distances.overlap(reference.embedding[rows], clips.embedding)._asdict()
    return row | {"overlap_mfcc": set_distances.overlap(mfcc[0][rows], mfcc[1])._asdict()}


def _relative(row: Mapping[str, Any], reconstructed: Mapping[str, Any]) -> dict[str, float | None]:
    """Distances relative to those of real clips through the codec."""
    found: dict[str, float | None] = {}
    if "accuracy" in row and "accuracy" in reconstructed:
        found["accuracy_difference"] = row["accuracy"]["value"] - reconstructed["accuracy"]["value"]
    for measure in ("frechet", "mmd_mfcc"):
        if measure in row:
            bound = reconstructed[measure]["value"]
            found[f"{measure}_ratio"] = row[measure]["value"] / bound if bound > 0 else None
    return found


def _mean(values: ArrayLike) -> dict[str, float]:
    sample = np.asarray(values, dtype=np.float64)
    return Estimate(float(sample.mean()), *metrics.bootstrap_interval(sample))._asdict()
