"""Sound of a minute to an hour, from disk to disk: `python tests/benchmarks/hour.py PRESET…`.

For each preset a run of one step is made from 100 files of 4 seconds, since time and memory do not depend on the
training. `generate` then makes one clip of each length in a process of its own, on one thread. Time is that of the
processor, memory the peak above `import actseq` with torch.
"""

import sys
import tempfile
from pathlib import Path

import soundfile  # type: ignore[import-untyped, unused-ignore]
from growth import CLIP, CPU, RATE, Cost, measured, sound

FILES = 100
LENGTHS = (60, 600, 3600)
"""Seconds of sound."""


def run_of(folder: Path, preset: str) -> str:
    """A run of one step."""
    for words in (
        ("train-ae", "sounds", "--preset", preset, "--run", preset, "--steps", 1),
        ("extract-latents", preset),
        ("train-prior", preset, "--steps", 1),
    ):
        measured(folder, "-m", "actseq", *words, *CPU)
    return preset


def generated(folder: Path, run: str, seconds: int) -> Cost:
    """Cost of a clip."""
    words = ("generate", run, "--n", 1, "--seconds", seconds, "--out", f"{run}-{seconds}", *CPU)
    return measured(folder, "-m", "actseq", *words, "--set", f"generate.max_seconds={seconds}")


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sounds").mkdir()
        for i in range(FILES):
            soundfile.write(folder / "sounds" / f"{i:04d}.wav", sound(CLIP, i), RATE)
        base = measured(folder, "-c", "import torch, actseq.pipeline").megabytes
        for preset in sys.argv[1:]:
            run = run_of(folder, preset)
            for seconds in LENGTHS:
                cost = generated(folder, run, seconds)
                above = cost.megabytes - base
                print(
                    f"{preset}: {seconds} s of sound in {cost.seconds:.1f} s, {above:.0f} MB above import", flush=True
                )


if __name__ == "__main__":
    main()
