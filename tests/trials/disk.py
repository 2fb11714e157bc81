"""Disks that are full or cannot be written to, and permissions that are missing: an error with a path, nothing lost.

Some of these trials mount a small file system and give up the rights of root. Without these rights they are left out,
which their rows say; limits on the size of files and /dev/full need no rights.
"""

import hashlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common import CPU, Row, kit, must, run, said

from actseq import audio

TRAINING = ("train-ae", "sounds", "--preset", "smoke", "--run", "disk/r", "--steps", 20)
NOBODY = 65_534
TRIALS = 20
"""Trials of disks of random sizes."""


def _homeless() -> None:
    os.environ |= {"HOME": "/nonexistent", "NUMBA_CACHE_DIR": "/nonexistent/numba"}
    _nobody()


@contextmanager
def _disk(at: Path, size: int) -> Iterator[Path]:
    """A file system of so many kB in memory."""
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k,mode=755", "tmpfs", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def _again(at: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", at], check=True)


def _content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def _named(folder: Path, code: int, *words: str) -> bool:
    """Whether a command failed with one line that has all these words."""
    lines = [line for line in said(folder).splitlines() if line.startswith("error: ")]
    return code == 1 and len(lines) == 1 and all(word in lines[0] for word in words) and "Traceback" not in said(folder)


def _nobody() -> None:
    """Give up all rights. A worker is started before, because Python itself may lie where only root can read."""
    audio.load(Path("sounds/low/000.wav"))
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _full(folder: Path, n: int) -> Row:
    """A training on a disk that is too small, then on one that is large enough."""
    rng, kept = random.Random(0), 0
    expected = (folder / "runs" / "plain" / "autoencoder" / "model.safetensors").read_bytes()
    for _ in range(n):
        with _disk(folder / "disk", rng.randrange(8, 400)) as at:
            code = run(folder, *TRAINING, *CPU)
            told = _named(folder, code, str(at.name), "No space left") or code == 0
            _again(at, "size=64m")
            must(folder, *TRAINING, *CPU)
            must(folder, "verify", "disk/r")
            kept += told and (at / "r" / "autoencoder" / "model.safetensors").read_bytes() == expected
        (folder / "disk").rmdir()
    return Row("a full disk: an error with a path; then the same weights", n, kept)


def _size_limit(folder: Path, n: int) -> Row:
    """The next stage with a limit on the size of files; what was there before stays."""
    rng, kept = random.Random(1), 0
    for _ in range(n):
        most = rng.randrange(1, 40_000)
        shutil.copytree(folder / "runs" / "plain", folder / "disk" / "r")
        before = _content(folder / "disk" / "r")
        code = run(
            folder,
            *("extract-latents", "disk/r", *CPU),
            before=lambda most=most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
        )
        now = _content(folder / "disk" / "r")
        kept += (code == 0 or _named(folder, code, "File too large")) and before.items() <= now.items()
        shutil.rmtree(folder / "disk")
    return Row("a file that may not grow: an error with a path; the earlier stages intact", n, kept)


def _refused(folder: Path) -> Row:
    """Commands in places where they may not write."""
    kept = []

    def attempt(words: tuple[object, ...], word: str, reason: str, before: Callable[[], object] = int) -> None:
        kept.append(_named(folder, run(folder, *words, before=before), word, reason))

    with _disk(folder / "disk", 64_000) as at:
        must(folder, *TRAINING, *CPU)
        before = _content(at)
        _again(at, "ro")
        later = ("extract-latents", "disk/r", *CPU)
        sound = "sounds/low/000.wav"
        attempt(later, "disk/r", "Read-only")
        attempt(("reconstruct", "disk/r", sound, "--out", "disk/out", *CPU), "disk/out", "Read-only")
        _again(at, "rw")
        attempt(later, "disk/r", "Permission denied", _nobody)
        attempt(("reconstruct", "disk/r", sound, "--out", "disk/out", *CPU), "disk/out", "Permission denied", _nobody)
        attempt(("train-ae", "sounds", "--preset", "smoke", "--run", "disk/new", *CPU), "disk", "Permission", _nobody)
        (at / "r" / "autoencoder").chmod(0o600)
        attempt(("info", "disk/r"), "autoencoder", "Permission denied", _nobody)
        (at / "r" / "autoencoder").chmod(0o755)
        intact = _content(at) == before
    (folder / "disk").rmdir()
    return Row("a read-only disk, a lost permission: an error with the path", len(kept), sum(kept) if intact else 0)


def _may_mount(folder: Path) -> bool:
    """Whether this process may mount a file system."""
    try:
        with _disk(folder / "disk", 64):
            pass
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        (folder / "disk").rmdir()
    return True


def _told(folder: Path) -> Row:
    """Output that nobody takes."""
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "actseq", "presets"]
        lost = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, cwd=folder)
    told = lost.returncode == 1 and "No space left" in lost.stderr and len(lost.stderr.splitlines()) == 1
    return Row("/dev/full is told", 1, int(told))


def _fresh(folder: Path) -> Row:
    """Output that nobody takes, and no folder for a cache."""
    told = _told(folder).kept
    (folder / "out").mkdir()
    os.chown(folder / "out", NOBODY, NOBODY)
    words = ("reconstruct", "runs/plain", "sounds/low/000.wav", "--out", "out/it", *CPU)
    code = run(folder, *words, before=_homeless)
    made = code == 0 and (folder / "out" / "it" / "000.wav").is_file()
    return Row("/dev/full is told; without a home the loops are compiled each time", 2, told + made)


def trial() -> Iterator[Row]:
    """Every kind of disk."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        kit(folder / "sounds")
        must(folder, *TRAINING[:5], "plain", *TRAINING[6:], *CPU)
        yield _size_limit(folder, TRIALS)
        if _may_mount(folder):
            yield _full(folder, TRIALS)
            yield _refused(folder)
            yield _fresh(folder)
        else:
            yield Row("disks that are full, read-only or forbidden", 0, 0, "not tried: no right to mount one")
            yield _told(folder)
