"""What `verify` finds in a run: flipped bits, missing shards, files and stages, and files that are not used."""

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common import CPU, Row, kit, must

from actseq.commands.common import Compute
from actseq.commands.verify import verify
from actseq.errors import ArtifactError
from actseq.progress import Silent

FLIPS = 200
CURES = ("copy the run again", "undo the change", "delete ", "run ", "actseq ")
"""A message names one of these things to do."""


def _problems(run: Path) -> str:
    """What `verify` ends with; empty if all is as it was written."""
    try:
        verify(run)
    except ArtifactError as error:
        return str(error)
    return ""


def _found(run: Path, path: Path) -> bool:
    """Whether the message of `verify` names a file or stage, and what to do."""
    told = _problems(run)
    return path.name in told and any(cure in told for cure in CURES)


class _Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def _noted(run: Path, orphan: Path) -> bool:
    """Whether `verify` says that actseq does not read a file."""
    notes = _Notes()
    verify(run, compute=Compute(reporter=notes))
    return any("does not read" in line and orphan.name in line for line in notes.said)


def _flipped(run: Path, path: Path, rng: random.Random) -> bool:
    content = path.read_bytes()
    changed = bytearray(content)
    changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    # A new file, so that no shard passes for one that was checked.
    path.unlink()
    path.write_bytes(changed)
    found = bool(_problems(run))
    if not found:
        print("not found:", path)
    path.write_bytes(content)
    return found


def _without(run: Path, path: Path) -> bool:
    """Whether `verify` misses a file or a folder that is moved away."""
    aside = run.parent / "aside"
    path.rename(aside)
    found = _found(run, path)
    if not found:
        print("not missed:", path, _problems(run))
    aside.rename(path)
    return found


def trial() -> Iterator[Row]:
    """All kinds of damage to one run with all stages."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        kit(base / "sounds", 40)
        for words in (
            ("train-ae", "sounds", "--preset", "smoke", "--run", "r", "--steps", 2),
            ("extract-latents", "r"),
            ("train-prior", "r", "--name", "p", "--steps", 2),
            ("train-vocoder", "r", "--name", "v", "--steps", 2),
        ):
            must(base, *words, *CPU)
        run = base / "runs" / "r"
        shutil.rmtree(run / "previews", ignore_errors=True)
        parts = [run / part for part in ("corpus", "latents", "autoencoder", "priors/p", "vocoders", "vocoders/v")]
        files = [path for part in parts for path in sorted(part.glob("[!.]*")) if path.is_file()]
        flipped = [_flipped(run, rng.choice([run / "config.yaml", *files]), rng) for _ in range(FLIPS)]
        yield Row("verify finds a flipped bit", len(flipped), sum(flipped), f"in {len(files) + 1} files")
        shards = [path for path in files if path.name.startswith("shard-")]
        missed = [_without(run, path) for path in shards]
        yield Row("verify misses a shard, and says what to do", len(missed), sum(missed))
        missed = [_without(run, path) for path in files if path not in shards]
        yield Row("verify misses a file, and says what to do", len(missed), sum(missed))
        missed = [_without(run, part) for part in parts]
        yield Row("verify misses a stage, and says what to do", len(missed), sum(missed))
        orphans = [part / each for part in parts for each in ("shard-00077.safetensors", "notes.txt", "old")]
        orphans = [one for one in orphans if one.suffix != ".safetensors" or one.parent.name in ("corpus", "latents")]
        noted = []
        for orphan in orphans:
            shutil.copy(shards[0], orphan)
            noted.append(_noted(run, orphan))
            if not noted[-1]:
                print("not noted:", orphan)
            orphan.unlink()
        yield Row("verify says which files nothing uses", len(noted), sum(noted))
