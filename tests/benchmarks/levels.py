"""How the level of long sound rises and falls, beside a recording: `python tests/benchmarks/levels.py RUN FILE …`.

The level is the RMS of 0.25 s in decibels. Its autocorrelation, mean removed and divided by that at lag 0, tells swells
from noise. For each prior the program generates some minutes from one draw and cuts them into stretches as long as
the recording. It prints

- the deviation of the level within a stretch, and the swells in a minute (peaks that rise by 6 dB at least),
- the mean absolute difference between the autocorrelation of the recording and the mean one of the stretches, over
  lags of 0.25 to 5 s and of 5 to 15 s,
- the same for each stretch by itself, 5 to 15 s, as a mean. One stretch says little about a random sound.

Three rows come before the priors. `reconstructed` is the recording after autoencoder and vocoder. `blocks` are random
parts of 4.5 s of the recording's level one after another: each swell is right, and they have nothing to do with each
other. `shuffled` is the recording's level in random order: there are no swells.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.signal import find_peaks

from actseq import audio, units
from actseq.arrays import Waveform
from actseq.inference.loaded_run import LoadedRun
from actseq.inference.request import GenerationRequest

STEP_SECONDS = 0.25
NEAR_SECONDS, FAR_SECONDS = (0.25, 5.0), (5.0, 15.0)
SWELL_DB = 6.0
BLOCK_SECONDS = 4.5
N_REFERENCES = 200
FLOOR = 1e-5
Levels = Float[np.ndarray, " steps"]


def levels(waveform: Waveform, rate: int) -> Levels:
    """Level of each 0.25 s, in dB."""
    size = units.seconds_to_samples(STEP_SECONDS, rate)
    parts = waveform[: len(waveform) // size * size].reshape(-1, size).astype(np.float64)
    return units.amplitude_to_db(np.sqrt(np.square(parts).mean(axis=1)), FLOOR)


def autocorrelation(course: Levels, seconds: tuple[float, float]) -> Float[np.ndarray, " lags"]:
    """Autocorrelation over that at lag 0, at the lags from one time to another."""
    rest = course - course.mean()
    first, last = (round(second / STEP_SECONDS) for second in seconds)
    found = [float(rest[: len(rest) - lag] @ rest[lag:]) for lag in range(first, last + 1)]
    return np.array(found) / max(float(rest @ rest), FLOOR)


def blocks(course: Levels, rng: np.random.Generator) -> Levels:
    """Random parts of a course, one after another."""
    size = min(round(BLOCK_SECONDS / STEP_SECONDS), len(course))
    starts = rng.integers(0, len(course) - size + 1, -(-len(course) // size))
    return np.concatenate([course[at : at + size] for at in starts])[: len(course)]


def row(name: str, stretches: list[Levels], recording: Levels) -> str:
    """A line of the table."""
    deviation = np.mean([one.std() for one in stretches])
    minutes = sum(map(len, stretches)) * STEP_SECONDS / 60
    swells = sum(len(find_peaks(one, prominence=SWELL_DB)[0]) for one in stretches) / minutes
    apart = []
    for seconds in (NEAR_SECONDS, FAR_SECONDS):
        wanted = autocorrelation(recording, seconds)
        found = np.stack([autocorrelation(one, seconds) for one in stretches])
        apart.append(np.abs(found.mean(axis=0) - wanted).mean())
    each = np.abs(found - wanted).mean()
    return (
        f"  {name:16} {len(stretches):3} stretches: {deviation:4.1f} dB, {swells:4.1f} swells a minute, "
        f"apart {apart[0]:.2f} near, {apart[1]:.2f} far, each {each:.2f}"
    )


def generated(run: LoadedRun, seconds: float, label: str | None, seed: int) -> Waveform:
    """New sound from one draw."""
    request = GenerationRequest(seconds=seconds, label=label, seed=seed)
    return np.concatenate([piece.waveform for piece in run.stream(request)])


def stretches_of(course: Levels, size: int) -> list[Levels]:
    """Successive parts; what is left is left out."""
    return [course[at : at + size] for at in range(0, len(course) - size + 1, size)]


def draw(courses: dict[str, Levels], path: str) -> None:
    """A picture of some courses, one under another."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(courses), sharex=True, sharey=True, figsize=(14, 1.7 * len(courses)), squeeze=False)
    for axis, (name, course) in zip(axes[:, 0], courses.items(), strict=True):
        axis.plot(np.arange(len(course)) * STEP_SECONDS, course - course.mean())
        axis.set_ylabel(name)
    axes[-1, 0].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(path, dpi=60)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each sound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("file", help="the recording")
    parser.add_argument("priors", nargs="*")
    parser.add_argument("--label", help="default: the folder of the recording")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--sheet", metavar="FILE", help="draw the courses of the levels")
    given = parser.parse_args(arguments)
    rng = np.random.default_rng(given.seed)
    label = given.label or Path(given.file).parent.name
    waveform, rate = audio.load(Path(given.file))
    courses: dict[str, Levels] = {}
    for name in given.priors or [None]:
        run = LoadedRun.open(given.run, prior=name, device="cpu", overrides=given.overrides, need_prior=True)
        if not courses:
            waveform = audio.resample(waveform, rate, run.sample_rate)
            recording = levels(waveform, run.sample_rate)
            again = levels(run.reconstruct(waveform), run.sample_rate)
            courses = {"recording": recording, "reconstructed": again}
            print(row("recording", [recording], recording))
            print(row("reconstructed", [again], recording))
            print(row("blocks", [blocks(recording, rng) for _ in range(N_REFERENCES)], recording))
            print(row("shuffled", [rng.permutation(recording) for _ in range(N_REFERENCES)], recording))
        made = levels(generated(run, 60 * given.minutes, label, given.seed), run.sample_rate)
        stretches = stretches_of(made, len(recording))
        courses |= {f"{run.prior_name} {at + 1}": one for at, one in enumerate(stretches[:3])}
        print(row(str(run.prior_name), stretches, recording), flush=True)
    if given.sheet:
        draw(courses, given.sheet)


if __name__ == "__main__":
    main()
