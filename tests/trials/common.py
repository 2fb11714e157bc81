"""What the trials share: rows of the table, commands in processes of their own, and sounds."""

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile  # type: ignore[import-untyped, unused-ignore]
from actseq_cli.main import main

from actseq.audio.worker import end_all

for module in ("actseq.commands.run", "actseq.commands.train_vocoder", "lightning_fabric", "librosa", "scipy.signal"):
    # Imported once, here, and not by every command.
    importlib.import_module(module)

RATE = 8000
CPU = ("--device", "cpu", "--threads", 1)
"""Options of every command that computes."""
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        promise: what is promised.
        trials: number of trials.
        kept: number of trials in which it was kept.
        figure: what was measured, in words.
    """

    promise: str
    trials: int
    kept: int
    figure: str = ""


def start(folder: Path, *words: object, before: Callable[[], object] = int) -> int:
    """Start an actseq command in a copy of this process, which saves the time of importing; returns its number.

    Args:
        folder: where the command runs; what it says is in `log.txt` there.
        words: the command line.
        before: called in the copy first.
    """
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        for name in SIGNALS:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        before()
        main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        # A process without rights cannot end the worker of one that has them.
        with suppress(OSError):
            end_all()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end(child: int) -> int:
    """Wait for a command that `start` began; its exit code, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(folder: Path, *words: object, before: Callable[[], object] = int) -> int:
    """Run an actseq command in a folder; its exit code."""
    return end(start(folder, *words, before=before))


def must(folder: Path, *words: object) -> None:
    """Run an actseq command in a folder; an error if it fails."""
    if code := run(folder, *words):
        raise RuntimeError(f"{' '.join(map(str, words))}: exit code {code}: {said(folder)[-2000:]}")


def said(folder: Path) -> str:
    """What the last command in a folder said."""
    return (folder / "log.txt").read_text(errors="replace")


def hit(seed: int, seconds: float = 0.5) -> np.ndarray:
    """A decaying tone in noise."""
    rng = np.random.default_rng(seed)
    at = np.arange(round(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * rng.uniform(80, 800) * at) + 0.3 * rng.standard_normal(len(at))
    return np.asarray(0.3 * tone * np.exp(-6 * at / seconds), np.float32)


def kit(folder: Path, n: int = 24) -> Path:
    """A folder of hits under two labels."""
    for i in range(n):
        path = folder / ("low", "high")[i % 2] / f"{i:03d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, hit(i), RATE)
    return folder
