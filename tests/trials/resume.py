"""Trainings that are stopped at random moments, five times by each signal, end with the weights of one that was not."""

import hashlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common import CPU, Row, end, kit, must, start

TRIALS = 5
"""Trials of each signal."""
LIMIT = 10.0
"""Seconds within which a signal is obeyed."""
STAGES = {
    "train-ae": ("autoencoder", ("train-ae", "sounds", "--preset", "smoke", "--run", "r", "--steps", 400)),
    "train-prior": ("priors/p", ("train-prior", "r", "--name", "p", "--steps", 400)),
    "train-vocoder": ("vocoders/v", ("train-vocoder", "r", "--name", "v", "--steps", 400)),
}


def _weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def _stopped(at: Path, words: tuple[object, ...], number: int, whole: float, rng: random.Random) -> tuple[int, float]:
    """Start a training, send a signal at a random moment; its exit code and the seconds that it took to end."""
    child = start(at, *words, *CPU)
    time.sleep(rng.uniform(0.05, 0.95) * whole)
    begun = time.monotonic()
    os.kill(child, number)
    return end(child), time.monotonic() - begun


def _one(base: Path, reference: Path, stage: str, number: int, whole: float, rng: random.Random) -> tuple[bool, float]:
    """Whether a stopped training ended with the right weights, and the seconds that stopping took."""
    place, words = STAGES[stage]
    while True:
        with tempfile.TemporaryDirectory() as name:
            at = Path(name) / "work"
            shutil.copytree(base, at)
            code, seconds = _stopped(at, words, number, whole, rng)
            if code == 0:
                # It had ended before.
                continue
            must(at, *words, *CPU)
            same = _weights(at / "runs" / "r" / place) == _weights(base.parent / stage / "runs" / "r" / place)
            return same, seconds


def trial() -> Iterator[Row]:
    """All signals on all trainings."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        kit(base / "sounds")
        for stage, (_, words) in STAGES.items():
            reference = Path(name) / stage
            shutil.copytree(base, reference)
            begun = time.monotonic()
            must(reference, *words, *CPU)
            whole = time.monotonic() - begun
            found = {
                number: [_one(base, reference, stage, number, whole, rng) for _ in range(TRIALS)]
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
            }
            outcomes = [outcome for several in found.values() for outcome in several]
            slowest = max(seconds for several in found.values() for _, seconds in several)
            kept = sum(same and seconds <= LIMIT for same, seconds in outcomes)
            yield Row(f"{stage} resumes to the same weights", len(outcomes), kept, f"stopped within {slowest:.1f} s")
            # The next stage works on this one.
            shutil.copytree(reference, base, dirs_exist_ok=True)
            if stage == "train-ae":
                must(base, "extract-latents", "r", *CPU)
