"""Signals at random moments of every command that works for long: the exit code tells the signal, nothing is broken.

Each command is a process of its own, with the start of Python and the imports. A quarter of the signals comes while it
starts, half of them at a random moment of its usual time of computing, and a quarter after it has said its result.
Trainings are planned in steps and in minutes, which are timed first; sounds are made with loops that are compiled
already, and with loops that are not.
"""

import math
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common import CPU, SIGNALS, Row, kit, must, run, said

EACH = 4
"""Trials of each command with each signal: one while it starts, two at any moment, one at the end."""
LIMIT = 10.0
"""Seconds within which a signal is obeyed."""
STARTING, ENDING = 0.3, 0.2
"""A signal comes within this many seconds of computing after the start, or of any time after the result."""
COMMANDS: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
    "run": (("run", "sounds", "--preset", "smoke", "--run", "r"), ("--minutes", 0.05)),
    "train-ae": (("train-ae", "sounds", "--preset", "smoke", "--run", "r"), ("--minutes", 0.03)),
    "extract-latents": (("extract-latents", "r"), ()),
    "train-prior": (("train-prior", "r"), ("--minutes", 0.03)),
    "train-vocoder": (("train-vocoder", "r"), ("--minutes", 0.03)),
    "generate": (("generate", "r", "--n", 4), ()),
    "reconstruct": (("reconstruct", "r", "sounds/low", "--out", "again", "--overwrite"), ()),
    "evaluate": (("evaluate", "r", "--n", 2), ()),
}
"""Commands in the order in which each works on what the ones before have made, and what may be added to them."""
COMPILING = ("train-vocoder", "generate", "reconstruct", "evaluate")
"""Commands that make sound; a trial of each signal in four compiles their loops first."""
STAGES = ("train-ae", "extract-latents", "train-prior")
"""Commands whose results the later ones work on."""


@dataclass(frozen=True)
class _Outcome:
    """What came of a signal.

    Attributes:
        where: the time of the process that the signal met.
        fault: what was wrong; empty if nothing was.
        seconds: from the signal to the end.
    """

    where: str
    fault: str
    seconds: float


def _process(at: Path, words: tuple[object, ...], cache: Path | None) -> subprocess.Popen[bytes]:
    """A command in a process of its own, with the signals of a shell, and a folder for compiled loops."""

    def usual() -> None:
        for name in SIGNALS:
            signal.signal(getattr(signal, name), signal.SIG_DFL)

    own = os.environ | ({} if cache is None else {"NUMBA_CACHE_DIR": str(cache)})
    with (at / "said.txt").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "actseq", *map(str, words)],
            cwd=at,
            env=own,
            stdout=subprocess.PIPE,
            stderr=log,
            preexec_fn=usual,
        )


def _computed(child: int) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _wait(process: subprocess.Popen[bytes], seconds: float = math.inf) -> float:
    """Wait until a process has computed for this long or ended; the seconds that it has computed."""
    computed = 0.0
    while process.poll() is None and computed < seconds:
        computed = _computed(process.pid)
        time.sleep(0.003)
    return computed


def _where(child: int) -> str:
    """Whether a process catches SIGTERM, as actseq does from its first lines on."""
    caught = int(Path(f"/proc/{child}/status").read_text().split("SigCgt:")[1].split()[0], 16)
    return "while the program ran" if caught >> (signal.SIGTERM - 1) & 1 else "before any handler"


def _signalled(
    at: Path, words: tuple[object, ...], number: int, wait: float, ending: bool, cache: Path | None
) -> _Outcome:
    """Start a command and send it a signal.

    Args:
        at: where it works.
        words: the command.
        number: the signal.
        wait: seconds until it comes: of computing since the start, or of any time since the first line of the result.
        ending: wait for the result.
        cache: folder for compiled loops; None: the usual one.
    """
    process = _process(at, words, cache)
    assert process.stdout is not None
    if ending:
        select.select([process.stdout], [], [], 600)
        time.sleep(wait)
    else:
        _wait(process, wait)
    if process.poll() is not None:
        process.stdout.close()
        return _Outcome("over", "", 0.0)
    where, begun = _where(process.pid), time.monotonic()
    process.send_signal(number)
    result = process.stdout.read()
    code = process.wait()
    seconds = time.monotonic() - begun
    told = (at / "said.txt").read_text(errors="replace")
    right = code == 128 + number or (ending and code == 0 and bool(result))
    if where == "before any handler":
        # Python itself may have caught SIGINT.
        right = code in (-number, 128 + number) or number == signal.SIGINT
    faults = [] if right else [f"exit code {code}"]
    if where != "before any handler" and ("Traceback" in told or "Exception ignored" in told):
        faults.append("traceback")
    faults += [f"left {path.relative_to(at)}" for path in at.rglob("*.part")]
    if faults:
        faults.append(told[-1500:])
    return _Outcome(where, "; ".join(faults), seconds)


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of change of all files that a command may have written."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".txt"]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def _trial(base: Path, words: tuple[object, ...], number: int, wait: float, ending: bool, fresh: bool) -> _Outcome:
    """A command that is signalled; if it has written anything, it is given again, and the run verified."""
    with tempfile.TemporaryDirectory() as name:
        at = Path(name) / "work"
        shutil.copytree(base, at)
        before = _files(at)
        outcome = _signalled(at, words, number, wait, ending, Path(name) / "cache" if fresh else None)
        for again in (words, ("verify", "r")):
            if _files(at) != before and run(at, *again):
                return _Outcome(outcome.where, f"{outcome.fault}; {again[0]}: {said(at)[-500:]}", outcome.seconds)
        return outcome


def _of_command(base: Path, command: str, rng: random.Random) -> Iterator[_Outcome]:
    """All trials of one command."""
    words, minutes = COMMANDS[command]
    loops = command in COMPILING
    with tempfile.TemporaryDirectory() as name:
        at = Path(name) / "work"
        shutil.copytree(base, at)
        whole = _wait(_process(at, (*words, *CPU), None))
    for signal_name in SIGNALS:
        number = getattr(signal, signal_name)
        for i in range(EACH):
            given = (*words, *(minutes if i % 2 else ()), *CPU)
            while True:
                wait = rng.uniform(0, (STARTING, whole, whole, ENDING)[i])
                outcome = _trial(base, given, number, wait, i == EACH - 1, loops and i == 2)
                if outcome.where != "over":
                    break
            print(f"{command} {signal_name} {wait:.2f} of {whole:.1f} s: {outcome}", file=sys.stderr, flush=True)
            yield outcome


def trial() -> Iterator[Row]:
    """All signals on all commands."""
    rng = random.Random(0)
    outcomes: list[_Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        kit(base / "sounds")
        for command, (words, _) in COMMANDS.items():
            outcomes += _of_command(base, command, rng)
            if command in STAGES:
                must(base, *words, *CPU)
    kept = sum(not one.fault and one.seconds <= LIMIT for one in outcomes)
    counted = Counter(one.where for one in outcomes)
    figure = (
        f"{', '.join(f'{n} {where}' for where, n in counted.items())}; {max(one.seconds for one in outcomes):.1f} s"
    )
    yield Row("a signal at any moment of a command", len(outcomes), kept, figure)
