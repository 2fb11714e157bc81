"""How well new sound joins a recording: `python tests/benchmarks/joins.py RUN [PRIOR …]`; `--help` lists its options.

Of held-out clips a region is made again, 20 to 50 % of the clip and at least two latent frames; its length and place
follow from seed 0, and it lies inside the clip, so there are two joins. A clip is also continued from its first half.
At each join the jumps of the short-time spectrum and of the waveform are divided by the 99th percentile of such jumps
in the recording. A clip is within where no join exceeds 1; the recording itself, measured at the same places, shows how
often that is so without any join. A prior that takes no suffix is only measured on continuations.
"""

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from actseq import units
from actseq.arrays import Waveform
from actseq.data.corpus import Corpus
from actseq.evaluation import metrics
from actseq.inference.loaded_run import LoadedRun
from actseq.priors.base import TakesSuffix

SHARES = (0.2, 0.5)
LEAST_FRAMES = 2


def region(n_samples: int, size: int, rng: np.random.Generator) -> tuple[int, int] | None:
    """First sample of a region of whole latent frames and the one after its last; None where the clip is too short.

    Args:
        n_samples: length of the clip.
        size: samples in a latent frame.
        rng: draws length and place.
    """
    share, place = rng.uniform(*SHARES), rng.random()
    frames = units.n_hops(n_samples, size)
    count = max(LEAST_FRAMES, min(round(share * n_samples / size), int(SHARES[1] * frames)))
    places = frames - 1 - count
    if places < 1:
        return None
    first = 1 + int(place * places)
    return first * size, (first + count) * size


def ratios(clip: Waveform, recording: Waveform, rate: int, joins: Sequence[int]) -> Float[np.ndarray, "2 joins"]:
    """Spectral and waveform jumps of a clip at its joins, over the 99th percentile of those of the recording."""
    own = metrics.clip_jumps(recording, rate)
    found = [metrics.spectral_jump(clip, rate, at) for at in joins]
    spectral = [jump.spectral / max(1e-9, float(np.percentile(own.spectral, 99))) for jump in found]
    waveform = [jump.waveform / max(1e-9, float(np.percentile(own.waveform, 99))) for jump in found]
    return np.array([spectral, waveform])


Rows = list[Float[np.ndarray, "2 joins"]]


def clips_of(run: LoadedRun, wanted: int) -> Iterator[tuple[Waveform, str | None]]:
    """Held-out clips, spread evenly over test and then validation, with their labels."""
    corpus = Corpus(run.run.corpus, run.config.corpus.level_dbfs)
    left = wanted
    for split in ("test", "validation"):
        indices = corpus.indices(split)
        for index in indices[:: max(1, len(indices) // max(1, left))][:left]:
            left -= 1
            yield corpus.waveform(index), str(corpus.store.records[index].extra["label"]) or None


def measure(run: LoadedRun, wanted: int, seed: int) -> dict[str, Rows]:
    """Jumps at the joins of regions, of continuations, and of the recordings at the places of both."""
    assert run.prior is not None
    rows: dict[str, Rows] = {"regions": [], "recordings there": [], "continuations": [], "recordings there too": []}
    takes, rate, size = isinstance(run.prior.prior, TakesSuffix), run.sample_rate, run.codec.samples_per_latent
    rng = np.random.default_rng(seed)
    for number, (recording, label) in enumerate(clips_of(run, wanted)):
        place = region(len(recording), size, rng)
        label = label if label in run.labels else None
        if takes and place is not None:
            redo = tuple(units.samples_to_seconds(at, rate) for at in place)
            [made] = run.generate_clips(1, seed_audio=recording, redo=redo, label=label, seed=seed + number)
            assert made.redone == place
            rows["regions"].append(ratios(made.waveform, recording, rate, place))
            rows["recordings there"].append(ratios(recording, recording, rate, place))
        half = len(recording) // 2
        seconds = units.samples_to_seconds(len(recording) - half, rate)
        [made] = run.generate_clips(
            1, seed_audio=recording[:half], seconds=seconds, label=label, seed=seed + number, best_of=1
        )
        rows["continuations"].append(ratios(made.waveform, recording, rate, [half]))
        rows["recordings there too"].append(ratios(recording, recording, rate, [half]))
    return rows


def line(name: str, rows: Rows) -> str:
    """How many clips are within, and the ratios."""
    largest = np.array([row.max(axis=1) for row in rows])
    within = (largest <= 1).sum(axis=0)
    spectral, waveform = ((np.median(column), column.max()) for column in largest.T)
    return (
        f"  {name:22} within by spectrum {within[0]:3} of {len(rows)} (median {spectral[0]:.2f}, largest "
        f"{spectral[1]:.2f}), by waveform {within[1]:3} (median {waveform[0]:.2f}, largest {waveform[1]:.2f})"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print some lines for each prior."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("priors", nargs="*")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args(arguments)
    for name in given.priors or [None]:
        run = LoadedRun.open(given.run, prior=name, device="cpu", overrides=given.overrides, need_prior=True)
        print(f"{given.run} {run.prior_name}")
        for what, rows in measure(run, given.clips, given.seed).items():
            if rows:
                print(line(what, rows), flush=True)


if __name__ == "__main__":
    main()
