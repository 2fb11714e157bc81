"""Time and memory of each stage by the size of the corpus and the length of sound: `python tests/benchmarks/growth.py
[PICTURE]`.

Corpora of 40, 400 and 4,000 seconds; sounds of 1 second to 1 hour. Every command is a process of its own, on one
thread, with the preset `smoke` (8 kHz). Time is that of the processor, memory the peak above `import actseq` with
torch, both of the process and of the workers that it started. The exponent is the slope of time over size between the
last two sizes, both in logarithms, less the shortest time, that of starting: 1 is linear.
"""

import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile  # type: ignore[import-untyped, unused-ignore]

RATE = 8000
CLIP = 4
"""Seconds of a file of the corpora."""
CORPORA = (10, 100, 1000)
"""Files in a corpus."""
LENGTHS = (1, 10, 100, 1000, 3600)
"""Seconds of generated and reconstructed sound."""
CPU = ("--device", "cpu", "--threads", 1)


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds of the processor and its largest memory in MB."""

    seconds: float
    megabytes: float


def measured(folder: Path, *words: object) -> Cost:
    """Run Python with these arguments in a folder.

    Raises:
        RuntimeError: it fails.
    """
    process = subprocess.Popen([sys.executable, *map(str, words)], cwd=folder, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(map(str, words))} failed")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def exponent(costs: dict[int, Cost]) -> float:
    """Slope of time over size between the two largest sizes, without the shortest time, which is that of the start."""
    *_, before, last = sorted(costs)
    start = min(cost.seconds for cost in costs.values())
    taken = [max(costs[size].seconds - start, 0.01) for size in (before, last)]
    return math.log(taken[1] / taken[0]) / math.log(last / before)


def sound(seconds: int, seed: int) -> np.ndarray:
    """A tone in noise that comes and goes."""
    rng, at = np.random.default_rng(seed), np.arange(RATE * seconds) / RATE
    tone = np.sin(2 * np.pi * rng.uniform(80, 800) * at) + 0.3 * rng.standard_normal(len(at))
    return np.asarray(0.3 * tone * (1.1 + np.sin(2 * np.pi * at / 3)), np.float32)


def of_corpora(folder: Path) -> dict[str, dict[int, Cost]]:
    """Costs of each stage by the seconds of sound in the corpus; the runs stay in the folder."""
    found: dict[str, dict[int, Cost]] = {}
    for files in CORPORA:
        sounds = folder / f"sounds{files}"
        sounds.mkdir()
        for i in range(files):
            soundfile.write(sounds / f"{i:04d}.wav", sound(CLIP, i), RATE)
        run, size = f"r{files}", files * CLIP
        for stage, words in (
            ("train-ae", ("train-ae", sounds, "--preset", "smoke", "--run", run, "--steps", 1)),
            ("extract-latents", ("extract-latents", run)),
            ("train-prior", ("train-prior", run, "--steps", 1)),
        ):
            found.setdefault(stage, {})[size] = measured(folder, "-m", "actseq", *words, *CPU)
    return found


def of_generated(folder: Path, run: str) -> dict[int, Cost]:
    """Costs of `generate` by the seconds of sound that are generated."""
    found = {}
    for seconds in LENGTHS:
        words = ("generate", run, "--n", 1, "--seconds", seconds, "--out", f"made{seconds}", *CPU)
        limit = ("--set", f"generate.max_seconds={seconds}")
        found[seconds] = measured(folder, "-m", "actseq", *words, *limit)
    return found


def of_reconstructed(folder: Path, run: str) -> dict[int, Cost]:
    """Costs of `reconstruct` by the seconds of sound."""
    found = {}
    for seconds in LENGTHS:
        # In pieces: the peak of this process would count as that of the command, which is forked from it.
        with soundfile.SoundFile(folder / f"{seconds}.wav", "w", RATE, 1) as file:
            for at in range(0, seconds, 10):
                file.write(sound(min(10, seconds - at), 0))
        words = ("reconstruct", run, f"{seconds}.wav", "--out", "again", *CPU)
        found[seconds] = measured(folder, "-m", "actseq", *words)
    return found


def table(found: dict[str, dict[int, Cost]], base: Cost) -> list[str]:
    """A line of Markdown for each stage."""
    lines = ["| stage | seconds of sound | seconds | MB above import | exponent |", "|---|---|---|---|---|"]
    for stage, costs in found.items():
        sizes = sorted(costs)
        cells = (
            " / ".join(f"{size:,}" for size in sizes),
            " / ".join(f"{costs[size].seconds:.1f}" for size in sizes),
            " / ".join(f"{costs[size].megabytes - base.megabytes:.0f}" for size in sizes),
        )
        lines.append(f"| {stage} | {' | '.join(cells)} | {exponent(costs):.2f} |")
    return lines


def draw(found: dict[str, dict[int, Cost]], base: Cost, path: Path) -> None:
    """Time and memory over seconds of sound."""
    from matplotlib.ticker import NullFormatter

    from actseq.plots.style import BLUE, INK, MARK, ORANGE, RED, Sheet, names

    colours = dict(zip(found, (BLUE, ORANGE, INK, MARK, RED), strict=True))
    sheet = Sheet(
        "Growth",
        "Processor seconds and peak memory above import, by seconds of sound. Trainings are of one step.",
        2,
        2,
        (3.0, 2.2),
        legend=colours,
    )
    time, memory = sheet.axes(0, "seconds"), sheet.axes(1, "MB")
    for stage, costs in found.items():
        sizes = sorted(costs)
        time.plot(sizes, [costs[size].seconds for size in sizes], color=colours[stage], marker=".")
        memory.plot(sizes, [costs[size].megabytes - base.megabytes for size in sizes], color=colours[stage], marker=".")
    for axes in (time, memory):
        axes.set_xscale("log")
        names(axes, "seconds of sound")
    time.set_yscale("log")
    time.yaxis.set_minor_formatter(NullFormatter())
    sheet.write(path)


def main() -> None:
    """Measure, print the table and draw the picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = measured(folder, "-c", "import torch, actseq.pipeline")
        found, run = of_corpora(folder), f"r{CORPORA[1]}"
        found |= {"generate": of_generated(folder, run), "reconstruct": of_reconstructed(folder, run)}
    print("\n".join(table(found, base)))
    if len(sys.argv) > 1:
        draw(found, base, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
