"""Peak memory of the stages on long sounds, above that of `import torch`: 10 hours in 60 files, 3 hours in one file,
and 8 hours of silence in a FLAC of a few kilobytes.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile  # type: ignore[import-untyped, unused-ignore]
from common import CPU, Row
from growth import measured

LIMIT = 400
"""MB above `import torch`."""
FAST = 44_100


def _long(path: Path, seconds: int, seed: int) -> None:
    """A slowly changing tone in noise, second after second, from disk to disk."""
    rng, at = np.random.default_rng(seed), np.arange(FAST) / FAST
    path.parent.mkdir(parents=True, exist_ok=True)
    grain = 0.01 * rng.standard_normal(FAST)
    with soundfile.SoundFile(path, "w", FAST, 1, "PCM_16") as file:
        for second in range(seconds):
            file.write((0.3 * np.sin(2 * np.pi * (100 + second % 300) * at) + grain).astype(np.float32))


def _silent(path: Path, hours: int) -> None:
    # Frames of 65,535 samples take 11 bytes each.
    with soundfile.SoundFile(path, "w", FAST, 1, "PCM_16", compression_level=1.0) as file:
        for _ in range(3600 * hours):
            file.write(np.zeros(FAST, np.int16))


def trial() -> Iterator[Row]:
    """Every stage that reads long sounds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = measured(folder, "-c", "import torch").megabytes
        _long(folder / "sounds" / "one" / "long.flac", 3 * 3600, 0)
        for i in range(60):
            _long(folder / "sounds" / "many" / f"{i:02d}.flac", 600, i)
        _silent(folder / "sounds" / "silent.flac", 8)
        size = (folder / "sounds" / "silent.flac").stat().st_size // 1024
        what = f"13 hours in 61 files, one of 3 hours, and 8 silent hours in {size} kB"
        commands = (
            ("scan, corpus and 20 steps", ("train-ae", "sounds", "--preset", "smoke", "--run", "r", "--steps", 20)),
            ("extract-latents", ("extract-latents", "r")),
            ("reconstruct of 3 hours", ("reconstruct", "r", "sounds/one/long.flac", "--out", "out")),
        )
        for stage, words in commands:
            above = measured(folder, "-m", "actseq", *words, *CPU).megabytes - base
            yield Row(f"memory of {stage}", 1, int(above <= LIMIT), f"{above:.0f} MB above import torch; {what}")
