"""Disks that are full or cannot be written to, and permissions that are missing: an error with a path, nothing lost.

Some of these trials mount a small file system and give up the rights of root. Without these rights they are left out,
which their rows say; limits on the size of files and /dev/full need no rights.
"""

import hashlib
import importlib
import os
import pkgutil
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import CPU, Row, kit, must, run, said

import actseq
from actseq import audio

TRAINING = ("train-ae", "sounds", "--preset", "smoke", "--run", "disk/r", "--steps", 4)
LATENTS = ("extract-latents", "disk/r")
NOBODY = 65_534
TRIALS = 20
"""Trials of each kind."""
SOUND = "sounds/low/000.wav"
WRITING: tuple[tuple[object, ...], ...] = (
    (*TRAINING[:4], "--run", "disk/new", *CPU),
    ("run", "sounds", "--preset", "smoke", "--run", "disk/new", *CPU),
    (*LATENTS, *CPU),
    ("train-prior", "disk/r", *CPU),
    ("train-prior", "disk/r", "--name", "new", *CPU),
    ("train-vocoder", "disk/r", *CPU),
    ("generate", "disk/r", *CPU),
    ("generate", "disk/r", "--out", "disk/out", *CPU),
    ("generate", "disk/r", "--out", "disk/out", "--compile", "disk/all.wav", *CPU),
    ("generate", "disk/r", "--kit", "disk/kit", *CPU),
    ("generate", "disk/r", "--prior", "iid", "--out", "disk/out", *CPU),
    ("reconstruct", "disk/r", SOUND, "--out", "disk/out", *CPU),
    ("reconstruct", "disk/r", "sounds", "--out", "disk/out", *CPU),
    ("encode", "disk/r", SOUND, "--out", "disk/out", *CPU),
    ("evaluate", "disk/r", *CPU),
    ("report", "disk/r", *CPU),
    ("plot", "disk/r"),
    ("pack", "disk/r"),
    ("demo", "--out", "disk/out", *CPU),
    ("drumkit", "disk/kit"),
)
"""Commands that write to a disk; there they find a run with all stages but a vocoder."""

LATER = (
    *("encodings.unicode_escape", "encodings.utf_8_sig", "importlib.readers", "jinja2", "joblib", "librosa.core.fft"),
    *("matplotlib.backends.backend_agg", "pooch", "scipy.stats"),
)
"""Modules that a command imports when it needs them."""


def _import_all() -> None:
    """Import what a command may import: Python itself may lie where only root can read."""
    for module in pkgutil.walk_packages(actseq.__path__, "actseq."):
        if "__main__" not in module.name:
            importlib.import_module(module.name)
    for name in LATER:
        importlib.import_module(name)


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
    """Give up all rights. A worker is started before, which would otherwise not find Python."""
    audio.load(Path("sounds/low/000.wav"))
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _full(folder: Path, n: int) -> Row:
    """A training or an extraction on a disk that is too small, then on one that is large enough."""
    rng, kept, failed = random.Random(0), 0, 0
    expected = (folder / "runs" / "plain" / "autoencoder" / "model.safetensors").read_bytes()
    for i in range(n):
        words = (TRAINING, LATENTS)[i % 2]
        with _disk(folder / "disk", 64_000) as at:
            if words == LATENTS:
                shutil.copytree(folder / "runs" / "plain", at / "r")
            before = _content(at)
            used = int(subprocess.run(["du", "-sk", at], check=True, capture_output=True, text=True).stdout.split()[0])
            _again(at, f"size={used + rng.randrange(8, 400 if words == TRAINING else 80)}k")
            code = run(folder, *words, *CPU)
            failed += code != 0
            told = (code == 0 or _named(folder, code, "disk/r", "No space left")) and before.items() <= _content(
                at
            ).items()
            if not told:
                print(words, code, said(folder)[-500:])
            _again(at, "size=64m")
            must(folder, *words, *CPU)
            must(folder, "verify", "disk/r")
            kept += told and (at / "r" / "autoencoder" / "model.safetensors").read_bytes() == expected
        (folder / "disk").rmdir()
    return Row("a full disk: an error with a path; then the same weights", n, kept, f"{failed} commands failed")


def _size_limit(folder: Path, n: int) -> Row:
    """The next stage with a limit on the size of files; what was there before stays."""
    rng, kept, failed = random.Random(1), 0, 0
    for _ in range(n):
        most = rng.randrange(1, 40_000)
        shutil.copytree(folder / "runs" / "plain", folder / "disk" / "r")
        before = _content(folder / "disk" / "r")
        code = run(
            folder,
            *(*LATENTS, *CPU),
            before=lambda most=most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
        )
        now = _content(folder / "disk" / "r")
        failed += code != 0
        told = (code == 0 or _named(folder, code, "File too large")) and before.items() <= now.items()
        if not told:
            print(most, code, said(folder)[-500:])
        kept += told
        shutil.rmtree(folder / "disk")
    promise = "a file that may not grow: an error with a path; the earlier stages intact"
    return Row(promise, n, kept, f"{failed} commands failed")


def _refused(folder: Path) -> Iterator[Row]:
    """Commands on a disk that may not be written to, and without the right to write there."""
    with _disk(folder / "disk", 64_000) as at:
        shutil.copytree(folder / "runs" / "whole", at / "r")
        before = _content(at)
        for promise, options, reason, may in (
            ("a read-only disk: an error with the path", "ro", "Read-only file system", int),
            ("a lost permission: an error with the path", "rw", "Permission denied", _nobody),
        ):
            _again(at, options)
            kept = 0
            for words in WRITING:
                code = run(folder, *words, before=may)
                told = _named(folder, code, "disk/", reason) and _content(at) == before
                if not told:
                    print(reason, words, code, said(folder)[-500:])
                kept += told
            yield Row(promise, len(WRITING), kept)
    (folder / "disk").rmdir()


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
    if code:
        print(words, code, said(folder)[-500:])
    made = code == 0 and (folder / "out" / "it" / "000.wav").is_file()
    return Row("/dev/full is told; without a home the loops are compiled each time", 2, told + made)


def trial() -> Iterator[Row]:
    """Every kind of disk."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        kit(folder / "sounds")
        must(folder, *TRAINING[:5], "plain", *TRAINING[6:], *CPU)
        must(folder, *TRAINING[:5], "whole", *TRAINING[6:], *CPU)
        must(folder, "extract-latents", "whole", *CPU)
        must(folder, "train-prior", "whole", "--steps", 2, *CPU)
        yield _size_limit(folder, TRIALS)
        if _may_mount(folder):
            _import_all()
            yield _full(folder, TRIALS)
            yield from _refused(folder)
            yield _fresh(folder)
        else:
            yield Row("disks that are full, read-only or forbidden", 0, 0, "not tried: no right to mount one")
            yield _told(folder)
