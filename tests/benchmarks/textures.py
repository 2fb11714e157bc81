"""How glides from one texture to another proceed: `python tests/benchmarks/textures.py RUN [PRIOR …]`; see `--help`.

For each pair of labels A and B some glides of 12 s are generated. Windows of 1 s have the mean and the deviation of
log-mel levels as statistics, in units of their deviation within the labels. They are projected on the line from the
mean of A's training windows to that of B's: 0 is A and 1 is B. The program prints, as medians over the glides, where
they begin and end, and the time from 10 to 90 % of their way (at least 4 s is wanted). It compares windows half-way,
at 0.35 to 0.65, with as many windows of A, of B and of sums of one of A and one of B: the median distance to the
nearest window of each, and how many windows are nearest to a sum (more than half is a cross-fade).
`stability.py` measures whether a prior stays in the range of the corpus.
"""

import argparse
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from actseq.arrays import Waveform
from actseq.data.corpus import Corpus
from actseq.evaluation import stretches
from actseq.inference.loaded_run import LoadedRun

WINDOW_SECONDS, HOP_SECONDS = 1.0, 0.25
HALF_WAY = (0.35, 0.65)
Statistics = Float[np.ndarray, "windows numbers"]


class Line:
    """The line between two labels, from windows of their training clips."""

    def __init__(self, clips: tuple[list[Waveform], list[Waveform]], rate: int, most: int, seed: int) -> None:
        self.rate, rng = rate, np.random.default_rng(seed)
        cut = [stretches.windows(own, rate, WINDOW_SECONDS, WINDOW_SECONDS) for own in clips]
        count = min(most, *map(len, cut))
        if count < 2:
            raise SystemExit("each label needs two seconds of training sound at least")
        a, b = ([own[i] for i in rng.permutation(len(own))[:count]] for own in cut)
        sums = [(np.float32(np.sqrt(0.5)) * (one + other)) for one, other in zip(a, b, strict=True)]
        found = [stretches.level_statistics(own, rate) for own in (a, b, sums)]
        within = np.sqrt((found[0].var(axis=0) + found[1].var(axis=0)) / 2)
        self.deviation = np.maximum(within, 1e-3 * within.max() + 1e-9)
        self.a, self.b, self.sums = (own / self.deviation for own in found)
        self.origin, self.way = self.a.mean(axis=0), self.b.mean(axis=0) - self.a.mean(axis=0)

    def course(self, clip: Waveform) -> tuple[Statistics, Float[np.ndarray, " windows"]]:
        """Statistics of a clip's windows, and where each is on the line."""
        cut = stretches.windows([clip], self.rate, WINDOW_SECONDS, HOP_SECONDS)
        found = stretches.level_statistics(cut, self.rate) / self.deviation
        return found, (found - self.origin) @ self.way / (self.way @ self.way)


def glides(run: LoadedRun, line: Line, label: str, draws: int, seconds: float, seed: int) -> str:
    """A line of the table."""
    measured = [line.course(clip) for clip in run.generate(draws, label=label, seconds=seconds, seed=seed)]
    ends = [(course[:2].mean(), course[-2:].mean()) for _, course in measured]
    way = [stretches.way_seconds(course, HOP_SECONDS) for _, course in measured]
    middle = np.concatenate([found[(course >= HALF_WAY[0]) & (course <= HALF_WAY[1])] for found, course in measured])
    begin, end = np.median(np.array(ends), axis=0)
    text = f"{label:24} from {begin:5.2f} to {end:5.2f}; 10–90 % in {np.median(way):4.1f} s"
    if not len(middle):
        return f"{text}; no window half-way"
    nearest = np.stack([cdist(middle, own).min(axis=1) for own in (line.sums, line.a, line.b)])
    far = np.median(nearest, axis=1)
    return (
        f"{text}; {len(middle)} windows half-way: distance {far[0]:.1f} to sums, {far[1]:.1f} to A, {far[2]:.1f} to B, "
        f"nearest to a sum {100 * (nearest.argmin(axis=0) == 0).mean():.0f} %"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each prior and pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("priors", nargs="*")
    parser.add_argument("--pair", action="append", default=[], metavar="A:B", help="default: every pair, in one order")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--windows", type=int, default=200, help="most training windows of a label")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args(arguments)
    for name in given.priors or [None]:
        run = LoadedRun.open(given.run, prior=name, device="cpu", overrides=given.overrides, need_prior=True)
        corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
        print(f"{given.run} {run.prior_name}")
        pairs = [tuple(pair.split(":")) for pair in given.pair] or list(itertools.combinations(run.labels, 2))
        for a, b in pairs:
            own = tuple([corpus.waveform(index) for index in corpus.indices("train", [one])] for one in (a, b))
            line = Line((own[0], own[1]), run.sample_rate, given.windows, given.seed)
            print("  " + glides(run, line, f"{a}:{b}", given.draws, given.seconds, given.seed), flush=True)


if __name__ == "__main__":
    main()
