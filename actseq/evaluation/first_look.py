"""One sentence about what a run generates: how often its labels are recognised, or whether it is told from real sound.

It is the evaluation of a prior in small: a few clips, judged by linear discriminants that have learned from real ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actseq.data.corpus import SPLITS, Corpus
from actseq.data.excerpts import excerpts, spread
from actseq.data.latents import LatentSequences
from actseq.evaluation.clip_features import sound_statistics
from actseq.evaluation.clip_sources import ClipSources
from actseq.evaluation.discriminants import Discriminants, folds_of
from actseq.evaluation.verdict import MOSTLY_RIGHT, RIGHT
from actseq.inference.loaded_run import LoadedRun
from actseq.storage.run_folder import RunFolder

FILE = "first-look.json"
"""In the folder of a run: what `run` saw at its end."""
GENERATED = 24
"""Clips that are generated, spread evenly over the labels."""
REAL = 160
"""Most real clips that are compared with."""
FEWEST = 10
"""With fewer real clips there is no verdict."""
EASILY = 0.9
"""A judge tells generated clips easily from this accuracy on."""


@dataclass(frozen=True)
class FirstLook:
    """What a few generated clips are like.

    Attributes:
        verdict: one sentence.
        clips: number of clips that were generated; 0 where there is no verdict.
        poor: whether more time or more sound is needed.
    """

    verdict: str
    clips: int = 0
    poor: bool = False


def fingerprints(run: RunFolder, prior: str | None) -> dict[str, str | None]:
    """Fingerprints of the models that a first look belongs to; that of a prior without training is None."""
    trained = prior is not None and prior in run.priors.names
    return {
        "autoencoder": run.trained_autoencoder.fingerprint,
        "prior": run.priors.read(prior).fingerprint if trained else None,
    }


def first_look(loaded: LoadedRun, corpus: Corpus, latents: LatentSequences) -> FirstLook:
    """The verdict on the clips that the prior of a run generates.

    Args:
        loaded: a run with a prior.
        corpus: corpus of the run.
        latents: latents of the run.
    """
    sources, rate = ClipSources(loaded, corpus, latents, 0), loaded.sample_rate
    known = [one for split in SPLITS for one in excerpts(corpus, split, rate, sources.seconds)]
    chosen = spread(known, REAL)
    if len(chosen) < FEWEST:
        return FirstLook(f"no verdict on the generated clips: there are only {len(chosen)} real ones to compare with")
    real = np.array([sound_statistics(one.read(corpus), rate) for one in chosen])
    made, wanted = [], []
    for group in sources.generated(GENERATED):
        made += [sound_statistics(waveform, rate) for waveform in group.waveforms]
        wanted += group.labels
    labels = [one.label for one in chosen]
    files = [str(corpus.store.records[one.index].extra["source"]) for one in chosen]
    indices = [one.index for one in chosen]
    if len(loaded.usable_labels) > 1 and all(labels):
        judge = Discriminants(real, labels, folds_of(labels, files, indices))
        found = judge.predict(np.array(made), np.full(len(made), -1))
        return _by_label(sum(a == b for a, b in zip(found, wanted, strict=True)), len(made), judge.accuracy)
    sides = ["real"] * len(real) + ["generated"] * len(made)
    numbers = [*indices, *range(-1, -1 - len(made), -1)]
    folds = folds_of(sides, [*files, *(f"generated {k}" for k in range(len(made)))], numbers)
    return _by_side(Discriminants(np.concatenate([real, made]), sides, folds).accuracy, len(made))


def _by_label(right: int, n: int, of_real: float) -> FirstLook:
    share = right / n / max(of_real, 1e-9)
    words = "their labels are right" if share >= RIGHT else "most of their labels are right"
    if poor := share < MOSTLY_RIGHT:
        words = "many of their labels are wrong, and more time or more sound is needed"
    found = f"{right} of {n} generated clips are recognised by their label (of real clips {of_real:.0%}): {words}"
    return FirstLook(found, n, poor)


def _by_side(accuracy: float, n: int) -> FirstLook:
    easily = accuracy >= EASILY
    hint = ": more time or more sound is needed" if easily else ""
    found = f"a simple judge tells generated clips from real ones in {accuracy:.0%} of cases, where 50% is chance{hint}"
    return FirstLook(found, n, easily)
