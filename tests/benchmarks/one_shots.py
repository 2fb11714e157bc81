"""How good generated one-shots are: `python tests/benchmarks/one_shots.py RUN [PRIOR …]`; `--help` lists its options.

A row for real clips, for training clips drawn from their posterior and decoded (the oracle: what a perfect prior has
with this autoencoder), for `iid` frames, and for each prior. In each row, label by label: how many clips a judge
takes for the label that was asked for, the unbiased MMD² × 1000 to all real clips of the label, whose statistics have
mean 0 and deviation 1, and how many clips have not ended: their last fifth lies above −50 dB of their peak.

The judge is linear discriminants with a shrunken covariance. Its shrinkage is chosen by cross-validation on real
clips. Real clips and those of the oracle are judged by discriminants that have not learned from the clip in question
or its source.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist

from actseq import audio
from actseq.data.corpus import Corpus
from actseq.evaluation.clip_features import BANDS, mfcc
from actseq.evaluation.generated_clips import independent
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import load_latents
from actseq.representations.mel import Mel

RATE = 22050
START_FRAMES = 4
ENDED_DB = -50.0
FOLDS = 10
SHRINKAGES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
FLOOR = 1e-4
"""Amplitude that counts as silence: what digital silence and quiet noise differ in is not heard."""
Waveform = NDArray[np.float32]
MEL = Mel(RATE, n_fft=1024, hop_length=256, n_mels=BANDS, floor=FLOOR)


@dataclass(frozen=True)
class Shots:
    """Some clips of known labels, measured.

    Attributes:
        statistics: see `statistics`.
        labels: number of each clip's label.
        ended: whether the last fifth lies under −50 dB of the peak.
        folds: fold of each clip's source; −1 where it has none.
    """

    statistics: Float[np.ndarray, "clips numbers"]
    labels: Int[np.ndarray, " clips"]
    ended: NDArray[np.bool_]
    folds: Int[np.ndarray, " clips"]


def statistics(waveform: Waveform, rate: int) -> tuple[Float[np.ndarray, " numbers"], bool]:
    """What is compared of a clip, at 22.05 kHz and peak 1, and whether it has ended.

    Returns:
        Means, deviations and means of the first four frames of 20 MFCC; means and deviations of log centroid and log
        flatness; log of the length; time of the loudest frame; 1 / RMS.
    """
    sound = audio.resample(waveform, rate, RATE) if rate != RATE else waveform
    sound = (sound / max(1e-9, float(np.abs(sound).max(initial=0.0)))).astype(np.float32)
    with torch.inference_mode():
        levels = MEL.analyse(torch.from_numpy(sound)[None], torch.tensor([len(sound)])).values[0].double().numpy()
    coefficients = mfcc(20 / np.log(10) * levels)
    padded = np.pad(sound, 512)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 1024)[::256] * np.hanning(1024)
    power = np.square(np.abs(np.fft.rfft(frames))) + (FLOOR * 256) ** 2
    centroid = np.log((power * np.fft.rfftfreq(1024, 1 / RATE)).sum(1) / power.sum(1) + 1.0)
    flatness = np.log(power).mean(1) - np.log(power.mean(1))
    rms = float(np.sqrt(np.square(sound, dtype=np.float64).mean())) + 1e-9
    last = float(np.sqrt(np.square(sound[-max(1, len(sound) // 5) :], dtype=np.float64).mean()))
    found = [
        coefficients.mean(1),
        coefficients.std(1),
        coefficients[:, :START_FRAMES].mean(1),
        [centroid.mean(), centroid.std(), flatness.mean(), flatness.std()],
        [np.log(len(sound)), power.sum(1).argmax() * 256 / RATE, 1 / rms],
    ]
    return np.concatenate(found), 20 * np.log10(last + 1e-9) < ENDED_DB


def measure(clips: Iterator[tuple[Waveform, int, int]], rate: int) -> Shots:
    """Clips, each with the numbers of its label and its fold."""
    rows, labels, ended, folds = [], [], [], []
    for waveform, label, fold in clips:
        row, has_ended = statistics(waveform, rate)
        rows.append(row)
        labels.append(label)
        ended.append(has_ended)
        folds.append(fold)
    return Shots(np.array(rows), np.array(labels), np.array(ended), np.array(folds))


def discriminants(
    values: Float[np.ndarray, "clips numbers"], labels: Int[np.ndarray, " clips"], shrinkage: float
) -> tuple[Float[np.ndarray, "numbers labels"], Float[np.ndarray, " labels"]]:
    """Weights and offsets of the labels' scores; all labels are held equally likely."""
    means = np.stack([values[labels == label].mean(0) for label in np.unique(labels)])
    rest = values - means[labels]
    covariance = rest.T @ rest / len(rest)
    mixed = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    weights = np.linalg.solve(mixed, means.T)
    return weights, -0.5 * (means.T * weights).sum(0)


class Judge:
    """Discriminants of real clips: of all of them, and of all but those of each fold."""

    def __init__(self, real: Shots) -> None:
        self.mean, self.deviation = real.statistics.mean(0), real.statistics.std(0) + 1e-9
        values = self.standardised(real)

        def without(shrinkage: float) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
            outside = [real.folds != fold for fold in range(FOLDS)]
            return [discriminants(values[rows], real.labels[rows], shrinkage) for rows in outside]

        def score(shrinkage: float) -> float:
            self.without = without(shrinkage)
            return float(np.mean(self.right(real)))

        self.whole = discriminants(values, real.labels, 0.1)
        self.shrinkage = max(SHRINKAGES, key=score)
        self.without = without(self.shrinkage)
        self.whole = discriminants(values, real.labels, self.shrinkage)

    def standardised(self, shots: Shots) -> Float[np.ndarray, "clips numbers"]:
        """Statistics in deviations of the real clips."""
        return np.asarray((shots.statistics - self.mean) / self.deviation)

    def right(self, shots: Shots) -> NDArray[np.bool_]:
        """Whether each clip is taken for what it is, or was asked to be."""
        values, found = self.standardised(shots), np.zeros(len(shots.labels), np.int64)
        for fold in np.unique(shots.folds):
            rows = shots.folds == fold
            weights, offsets = self.whole if fold < 0 else self.without[fold]
            found[rows] = (values[rows] @ weights + offsets).argmax(1)
        return np.asarray(found == shots.labels)


def discrepancy(reference: Float[np.ndarray, "m numbers"], candidate: Float[np.ndarray, "n numbers"]) -> float:
    """Unbiased MMD² with the kernel exp(−d² / median d²), the median being that within the reference."""
    own = pdist(reference, "sqeuclidean")
    scale = float(np.median(own))
    within = np.exp(-pdist(candidate, "sqeuclidean") / scale).mean()
    across = np.exp(-cdist(reference, candidate, "sqeuclidean") / scale).mean()
    return float(np.exp(-own / scale).mean() + within - 2 * across)


def row(shots: Shots, real: Shots, judge: Judge, n_labels: int) -> list[str]:
    """Accuracy, MMD² · 1000 and clips that have not ended, label by label."""
    right = judge.right(shots)
    own = [shots.labels == label for label in range(n_labels)]
    distances = []
    for label, rows in enumerate(own):
        reference = real.statistics[real.labels == label]
        mean, deviation = reference.mean(0), reference.std(0) + 1e-9
        values = (shots.statistics[rows] - mean) / deviation
        distances.append(0.0 if shots is real else 1000 * discrepancy((reference - mean) / deviation, values))
    return [
        " / ".join(f"{right[rows].mean():.2f}" for rows in own),
        " / ".join(f"{distance:.0f}" for distance in distances),
        " / ".join(f"{100 * (~shots.ended[rows]).mean():.0f} %" for rows in own),
    ]


def real_clips(run: LoadedRun, labels: Sequence[str]) -> Iterator[tuple[Waveform, int, int]]:
    """All clips of the corpus."""
    corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
    for index, record in enumerate(corpus.store.records):
        yield corpus.waveform(index), labels.index(str(record.extra["label"])), index % FOLDS


def oracle_clips(run: LoadedRun, labels: Sequence[str], n: int, seed: int) -> Iterator[tuple[Waveform, int, int]]:
    """Training clips drawn from their posterior and decoded."""
    latents = load_latents(run.run)[0]
    corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
    fold = {record.key: index % FOLDS for index, record in enumerate(corpus.store.records)}
    for number, label in enumerate(labels):
        own = [i for i in latents.indices("train") if latents.records[i].extra["label"] == label]
        order = np.random.default_rng([seed, number]).permutation(len(own))
        for k in range(n):
            index = own[order[k % len(own)]]
            made = run.codec.decode([latents.draw(index, seed + k // len(own))])[0]
            yield made, number, fold[latents.records[index].key]


def generated_clips(run: LoadedRun, labels: Sequence[str], n: int, seed: int) -> Iterator[tuple[Waveform, int, int]]:
    """New clips, label by label, until the prior ends them."""
    for number, label in enumerate(labels):
        for clip in run.generate_clips(n, label=label, until_stop=True, seed=seed + number):
            yield clip.waveform, number, -1


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("priors", nargs="*")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args()
    run = LoadedRun.open(given.run, device="cpu")
    corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
    labels, rate = sorted(set(corpus.labels)), run.sample_rate
    real = measure(real_clips(run, labels), rate)
    judge = Judge(real)
    print(f"{len(real.labels)} real clips; shrinkage {judge.shrinkage:g}")
    print(f"{given.clips} clips of each of {', '.join(labels)}")
    print(f"{'clips':24} {'of the label':24} {'MMD² × 1000':20} not ended")

    def show(name: str, shots: Shots) -> None:
        print(f"{name:24} {{:24}} {{:20}} {{}}".format(*row(shots, real, judge, len(labels))), flush=True)

    show("real", real)
    show("oracle", measure(oracle_clips(run, labels, given.clips, given.seed), rate))
    latents = load_latents(run.run)[0]
    groups = independent(run, latents, given.clips * len(labels), given.seed)
    alone = ((clip, label) for group in groups for clip, label in zip(group.waveforms, group.labels, strict=True))
    show("iid", measure(((clip, labels.index(label), -1) for clip, label in alone), rate))
    for name in given.priors:
        loaded = LoadedRun.open(given.run, prior=name, device="cpu", overrides=given.overrides)
        show(name, measure(generated_clips(loaded, labels, given.clips, given.seed), rate))


if __name__ == "__main__":
    main()
