"""Two processes that torchrun starts, against one process with the same batches: weights after 50 steps, stores, and
SIGTERM to one of the two.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import CPU, Row, kit, must
from safetensors.numpy import load_file

TRIALS = 10
"""Trials of SIGTERM."""
CLOSE = 1e-4
TWO = ("--standalone", "--nproc-per-node", "2", "-m", "--", "actseq")
STAGES = (
    ("train-ae", "sounds", "--preset", "smoke", "--run", "r", "--steps", 50, "--set", "train_ae.accumulate=2"),
    ("extract-latents", "r"),
    ("train-prior", "r", "--steps", 50, "--set", "train_prior.accumulate=2"),
    ("train-vocoder", "r", "--steps", 50, "--set", "train_vocoder.accumulate=2"),
)
WEIGHTS = ("autoencoder", "priors/default", "vocoders/default")


def _torchrun(folder: Path, *words: object) -> subprocess.Popen[bytes]:
    log = (folder / "two.txt").open("wb")
    command = [sys.executable, "-m", "torch.distributed.run", *TWO, *map(str, (*words, *CPU))]
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)


def _together(folder: Path, *words: object) -> None:
    if _torchrun(folder, *words).wait():
        raise RuntimeError((folder / "two.txt").read_text(errors="replace")[-2000:])


def _difference(one: Path, other: Path) -> float:
    """Largest relative difference of a tensor."""
    a, b = (load_file(path / "model.safetensors") for path in (one, other))
    floats = [name for name in a if a[name].dtype.kind == "f"]
    sizes = {name: max(float(np.linalg.norm(a[name])), 1e-6) for name in floats}
    return max(float(np.linalg.norm(a[name] - b[name])) / sizes[name] for name in floats)


def _manifest(folder: Path) -> list[str]:
    return sorted((folder / "manifest.jsonl").read_text().splitlines())


def _without_hashes(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    """Lines of latents without what differs by the rounding of weights."""
    return [{key: value for key, value in line.items() if key != "sha256"} for line in lines]


def _children(parent: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _stopped(base: Path, expected: Path, rng: random.Random) -> tuple[bool, float]:
    """Whether SIGTERM to one process leaves one checkpoint, from which one process ends as it should; the seconds."""
    with tempfile.TemporaryDirectory() as name:
        at = Path(name) / "work"
        shutil.copytree(base, at)
        parent = _torchrun(at, *STAGES[0][:7], 400, *STAGES[0][8:])
        checkpoints = at / "runs" / "r" / "autoencoder" / "checkpoints"
        while not list(checkpoints.glob("best-*")):
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1))
        begun = time.monotonic()
        os.kill(rng.choice(_children(parent.pid)), signal.SIGTERM)
        code = parent.wait()
        seconds = time.monotonic() - begun
        # One of the step at which both stopped, and at most the one of the last validation beside it.
        found = sorted(checkpoints.glob("step-*"))
        stopped = json.loads((found[-1] / "state.json").read_text())
        validated = [path for path in found if int(path.name[5:13]) == stopped.get("anchor", stopped["step"])]
        one = set(found) == {*validated, found[-1]} and len(validated) == 1 and stopped["step"] < 400
        must(at, *STAGES[0][:7], 400, *STAGES[0][8:], *CPU)
        same = _difference(at / "runs" / "r" / "autoencoder", expected) <= CLOSE
        if not (code and one and same):
            print(code, [path.name for path in found], same, (at / "two.txt").read_text(errors="replace")[-1000:])
        return bool(code) and one and same, seconds


def trial() -> Iterator[Row]:
    """All stages, then signals."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        one, two = Path(name) / "one", Path(name) / "two"
        for folder in (one, two):
            kit(folder / "sounds", 600)
        base = Path(name) / "base"
        shutil.copytree(one, base)
        for words in STAGES:
            must(one, *words, *CPU)
            _together(two, *words)
        runs = [folder / "runs" / "r" for folder in (one, two)]
        found = [_difference(*(run / part for run in runs)) for part in WEIGHTS]
        promise = "two processes make the weights of one after 50 steps"
        figure = f"relative differences {', '.join(f'{one:.1e}' for one in found)}"
        yield Row(promise, len(found), sum(one <= CLOSE for one in found), figure)
        same = [_manifest(runs[0] / "corpus") == _manifest(runs[1] / "corpus")]
        lines = [[json.loads(line) for line in _manifest(run / "latents")] for run in runs]
        same.append(_without_hashes(lines[0]) == _without_hashes(lines[1]))
        shards = len({line["shard"] for line in lines[0]})
        yield Row("two processes write the stores of one", 2, sum(same), f"{len(lines[0])} latents in {shards} shards")
        must(one, *STAGES[0][:4], "--run", "long", "--steps", 400, *STAGES[0][8:], *CPU)
        expected = one / "runs" / "long" / "autoencoder"
        outcomes = [_stopped(base, expected, rng) for _ in range(TRIALS)]
        slowest = max(seconds for _, seconds in outcomes)
        kept = sum(right for right, _ in outcomes)
        yield Row("SIGTERM to one of two: one checkpoint, the same weights", TRIALS, kept, f"within {slowest:.1f} s")
