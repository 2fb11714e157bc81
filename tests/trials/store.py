"""Corpus and extraction, killed at random moments and run again, end with the files of a run that was not killed."""

import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common import CPU, Row, end, kit, must, start

TRIALS = 50
STAGES = {
    "corpus": ("corpus", ("train-ae", "sounds", "--preset", "smoke", "--run", "r", "--steps", 1)),
    "latents": ("latents", ("extract-latents", "r")),
}


def _content(folder: Path) -> tuple[list[str], dict[str, bytes]]:
    """The lines of a manifest, sorted, and the shards."""
    lines = sorted(json.dumps(json.loads(line)) for line in (folder / "manifest.jsonl").read_text().splitlines())
    return lines, {path.name: path.read_bytes() for path in folder.glob("shard-*")}


def _killed(base: Path, expected: Path, stage: str, rng: random.Random, whole: float) -> bool:
    """Whether a stage that is killed and run again makes what it should."""
    place, words = STAGES[stage]
    with tempfile.TemporaryDirectory() as name:
        at = Path(name) / "work"
        shutil.copytree(base, at)
        child = start(at, *words, *CPU)
        time.sleep(rng.uniform(0, whole))
        os.kill(child, signal.SIGKILL)
        end(child)
        must(at, *words, *CPU)
        must(at, "verify", "r")
        run = at / "runs" / "r"
        return _content(run / place) == _content(expected / place) and not list(run.rglob(".*.part"))


def trial() -> Iterator[Row]:
    """Both stages that write a store."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        kit(base / "sounds", 120)
        for stage, (_, words) in STAGES.items():
            reference = Path(name) / stage
            shutil.copytree(base, reference)
            begun = time.monotonic()
            must(reference, *words, *CPU)
            whole = time.monotonic() - begun
            same = [_killed(base, reference / "runs" / "r", stage, rng, whole) for _ in range(TRIALS)]
            yield Row(f"{stage}: SIGKILL, then the same files", len(same), sum(same))
            shutil.copytree(reference, base, dirs_exist_ok=True)
