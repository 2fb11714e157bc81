"""How near generated speech is to recordings: `python tests/benchmarks/speech.py RUN [PRIOR …]`; see `--help`.

A row for training clips, for all of them drawn from their posterior and decoded (the oracle), and for the clips of each
prior, eight minutes in clips of 30 s:

- MMD² × 1000 of windows of 2 s to the training windows: statistics of MFCC and envelope, standardised by the training
  windows; the bandwidth is their median distance;
- median harmonics-to-noise ratio of voiced frames in dB, and its Kolmogorov-Smirnov distance to the oracle;
- pauses a minute, and the distance of their lengths to those of the training clips.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from scipy.stats import ks_2samp

from actseq import units
from actseq.arrays import Waveform
from actseq.data.corpus import Corpus
from actseq.evaluation import set_distances, stretches
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.loading import load_latents

WINDOW_SECONDS = 2.0
LEAST_WINDOWS = 8
"""Sets of fewer windows are not compared."""


class Speech:
    """Some clips, measured."""

    def __init__(self, clips: list[Waveform], rate: int) -> None:
        cut = stretches.windows(clips, rate, WINDOW_SECONDS, WINDOW_SECONDS)
        self.windows = stretches.shape_statistics(cut, rate) if cut else np.zeros((0, 1))
        self.ratios = np.concatenate([stretches.harmonics_to_noise_db(clip, rate) for clip in clips])
        self.pauses = [pause for clip in clips for pause in stretches.pause_seconds(clip, rate)]
        self.minutes = units.samples_to_seconds(sum(map(len, clips)), rate) / 60


def distance(one: Sequence[float], other: Sequence[float]) -> str:
    """Kolmogorov-Smirnov distance of two samples; a dash where one is empty."""
    return f"{ks_2samp(one, other).statistic:.2f}" if len(one) and len(other) else "–"


def row(name: str, own: Speech, real: Speech, oracle: Speech) -> str:
    """A line of the table."""
    apart = "–"
    if own is not real and min(len(own.windows), len(real.windows)) >= LEAST_WINDOWS:
        reference, candidate = set_distances.standardised(real.windows, own.windows)
        found = set_distances.discrepancy(reference, candidate, np.zeros(len(candidate), int)).estimate
        apart = f"{1000 * found.value:.0f} ({1000 * found.low:.0f} to {1000 * found.high:.0f})"
    median = f"{np.median(own.ratios):.1f}" if len(own.ratios) else "–"
    return (
        f"{name:16} {len(own.windows):7} {apart:22} {median:>5} ({distance(own.ratios, oracle.ratios)})"
        f"{len(own.pauses) / own.minutes:12.0f} ({distance(own.pauses, real.pauses)})"
    )


def generated(run: LoadedRun, minutes: float, seconds: float, seed: int) -> list[Waveform]:
    """Clips of equal length, in equal shares of the labels."""
    labels = run.labels or [None]
    count = max(1, round(60 * minutes / seconds))
    clips = []
    for number, label in enumerate(labels):
        own = len(range(number, count, len(labels)))
        if own:
            clips += run.generate(own, seconds=seconds, label=label, seed=seed + number)
    return clips


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("priors", nargs="*")
    parser.add_argument("--minutes", type=float, default=8.0, help="of generated sound for each prior")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a generated clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args(arguments)
    run = LoadedRun.open(given.run, device="cpu")
    corpus, latents = Corpus(run.run.corpus, run.config.corpus.level_dbfs), load_latents(run.run)[0]
    real = Speech([corpus.waveform(index) for index in corpus.indices("train")], run.sample_rate)
    drawn = run.codec.decode([latents.draw(index, given.seed) for index in latents.indices("train")])
    oracle = Speech(drawn, run.sample_rate)
    print(f"{'clips':16} windows MMD² × 1000            HNR dB (KS)  pauses a minute (KS)")
    print(row("real", real, real, oracle), flush=True)
    print(row("oracle", oracle, real, oracle), flush=True)
    for name in given.priors:
        loaded = LoadedRun.open(given.run, prior=name, device="cpu", overrides=given.overrides)
        made = generated(loaded, given.minutes, given.seconds, given.seed)
        print(row(name, Speech(made, run.sample_rate), real, oracle), flush=True)


if __name__ == "__main__":
    main()
