"""Trainings that are stopped at random steps, five times by each signal, end with the weights of one that was not.

A trial tells the training in which step it is to be stopped; the signal comes at a random moment after that step has
begun. The same is done in the phases between the steps, of which SIGINT, SIGTERM and SIGHUP must leave a state that the
same command goes on from: the timing of steps, a validation, the corpus and the extraction of latents.
"""

import hashlib
import os
import random
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import CPU, Row, end, kit, run, said, start

import actseq.audio
from actseq.commands import train_ae, train_vocoder
from actseq.inference.codec import Codec
from actseq.training import timing, trainer

TRIALS = 5
"""Trials of each signal."""
LIMIT = 10.0
"""Seconds within which a signal is obeyed."""
STEPS = 40
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STAGES = {
    "train-ae": ("autoencoder", ("train-ae", "sounds", "--preset", "smoke", "--run", "r", "--steps", STEPS)),
    "train-prior": ("priors/p", ("train-prior", "r", "--name", "p", "--steps", STEPS)),
    "train-vocoder": ("vocoders/v", ("train-vocoder", "r", "--name", "v", "--steps", STEPS)),
}
LONG = "30000"
"""Batches of a validation that does not end by itself within the limit."""


def _weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


Hook = Callable[[Callable[[], None]], object]
"""Is given what is to be called at the moment that a trial waits for."""


def _stopped(at: Path, words: tuple[object, ...], number: int, hook: Hook, wait: float) -> tuple[int, float]:
    """Start a command, send it a signal some seconds after its hook has called back; its exit code, seconds it took."""
    reading, writing = os.pipe()

    def before() -> None:
        _without_choice()
        hook(lambda: os.write(writing, b".") and None)

    child = start(at, *words, *CPU, before=before)
    os.close(writing)
    select.select([reading], [], [], 600)
    os.close(reading)
    time.sleep(wait)
    begun = time.monotonic()
    os.kill(child, number)
    return end(child), time.monotonic() - begun


def _calls(holder: Any, name: str, call: Callable[[], None], when: int = 1) -> None:
    """Let the function `name` call back when it is called for the `when`-th time."""
    kept, counted = getattr(holder, name), [0]

    def wrapped(*given: Any, **named: Any) -> Any:
        counted[0] += 1
        if counted[0] == when:
            call()
        return kept(*given, **named)

    setattr(holder, name, wrapped)


def _then_rests(call: Callable[[], None]) -> Callable[[], None]:
    """Call back, and be busy for a second: small as these sounds are, a phase would be over."""

    def both() -> None:
        call()
        time.sleep(1)

    return both


def _in_validation(call: Callable[[], None]) -> None:
    """Call back at the beginning of a validation whose batches are slow."""

    def begins() -> None:
        call()
        _calls(trainer.Trainer, "batch", lambda: time.sleep(1))

    _calls(trainer.Trainer, "validated", begins)


def _without_choice() -> None:
    """Leave out the comparison of vocoders, which takes longer than training one."""
    train_vocoder._choose = lambda *_: {"winner": "", "clips": 0, "reason": ""}


def _finish(at: Path, words: tuple[object, ...]) -> None:
    """Give a command once more; an error if it fails."""
    if run(at, *words, *CPU, before=_without_choice):
        raise RuntimeError(said(at)[-2000:])


def _ends(*_: object) -> None:
    os._exit(0)


def _at_step(step: int) -> Hook:
    return lambda call: _calls(trainer.Trainer, "train_step", call, step)


def _work(base: Path) -> tuple[tempfile.TemporaryDirectory[str], Path]:
    made = tempfile.TemporaryDirectory()
    at = Path(made.name) / "work"
    shutil.copytree(base, at)
    return made, at


def _in_steps(base: Path, expected: str, stage: str, number: int, rng: random.Random) -> tuple[bool, float]:
    """Whether a training that is stopped at a random step ends with the right weights; the seconds until it stopped."""
    place, words = STAGES[stage]
    made, at = _work(base)
    with made:
        step = rng.randrange(1, STEPS)
        code, seconds = _stopped(at, words, number, _at_step(step), rng.uniform(0, 0.03))
        found = sorted((at / "runs" / "r" / place / "checkpoints").glob("step-*"))
        # A step that was begun when the signal came is in the checkpoint, unless the process was killed.
        kept = code != 0 and (number == signal.SIGKILL or int(found[-1].name[5:13]) >= step)
        _finish(at, words)
        same = _weights(at / "runs" / "r" / place) == expected
        if not (kept and same):
            print(stage, number, step, code, [one.name for one in found], same)
        return kept and same, seconds


def _in_phase(
    base: Path, words: tuple[object, ...], hook: Hook, rng: random.Random, expected: tuple[str, str] | None = None
) -> Iterator[tuple[bool, float]]:
    """As `_in_steps`, once for each signal that can be obeyed, in a phase that a hook waits for.

    Args:
        base: what the command starts from.
        words: the command.
        hook: waits for the phase.
        rng: gives the moment.
        expected: a folder of the run and the hash of the weights that are to be in it at the end; None: not compared.
    """
    for number in STOPPING:
        made, at = _work(base)
        with made:
            code, seconds = _stopped(at, words, number, hook, rng.uniform(0, 0.9))
            told = said(at)
            _finish(at, words)
            same = expected is None or _weights(at / "runs" / "r" / expected[0]) == expected[1]
            if code != 128 + number or not same:
                print(words, number, code, same, told[-300:])
            yield code == 128 + number and same, seconds


def _work_lost(base: Path, stage: str, rng: random.Random) -> float:
    """Seconds of work that SIGKILL costs a training whose validations are far apart, after its second checkpoint."""
    place, words = STAGES[stage]
    long = f"runs/long/{place}" if stage == "train-ae" else f"runs/r/{Path(place).with_name('long')}"
    few = ("--set", f"{stage.replace('-', '_')}.validations=1", "--steps", 1_000_000)
    made, at = _work(base)
    with made:
        child = start(at, *words[:-3], "long", *few, *CPU)
        checkpoints = at / long / "checkpoints"
        # The first one is that of step 0.
        while not list(checkpoints.glob("step-*[1-9]*")):
            time.sleep(0.1)
        time.sleep(rng.uniform(0, 60))
        os.kill(child, signal.SIGKILL)
        killed = time.time()
        end(child)
        return killed - (max(checkpoints.glob("step-*")) / "state.json").stat().st_mtime


def trial() -> Iterator[Row]:
    """All signals on all trainings."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        base, phases = Path(name) / "base", []
        kit(base / "sounds")
        corpus = ("train-ae", "sounds", "--preset", "smoke", "--run", "c", "--steps", 1)
        scan = (actseq.audio.SoundFolder, "scan")
        phases += _in_phase(base, corpus, lambda call: _calls(*scan, _then_rests(call)), rng)
        # What is tried is the training, so the corpus is there.
        end(start(base, *STAGES["train-ae"][1], *CPU, before=lambda: setattr(train_ae, "_train", _ends)))
        for stage, (place, words) in STAGES.items():
            reference = Path(name) / stage
            shutil.copytree(base, reference)
            _finish(reference, words)
            expected = _weights(reference / "runs" / "r" / place)
            found = [
                _in_steps(base, expected, stage, number, rng)
                for number in (*STOPPING, signal.SIGKILL)
                for _ in range(TRIALS)
            ]
            slowest = max(seconds for _, seconds in found)
            kept = sum(right and seconds <= LIMIT for right, seconds in found)
            yield Row(f"{stage} resumes to the same weights", len(found), kept, f"stopped within {slowest:.1f} s")
            timed = (*words[:-2], "--minutes", 0.05)
            phases += _in_phase(base, timed, lambda call: _calls(timing, "plan_steps", call), rng)
            phases += _in_phase(base, words, _in_validation, rng, (place, expected))
            # The next stage works on this one.
            shutil.copytree(reference, base, dirs_exist_ok=True)
            if stage == "train-ae":
                latents = ("extract-latents", "r")
                phases += _in_phase(base, latents, lambda call: _calls(Codec, "encode", _then_rests(call)), rng)
                _finish(base, latents)
        slowest = max(seconds for _, seconds in phases)
        kept = sum(right and seconds <= LIMIT for right, seconds in phases)
        yield Row("a signal in scan, timing, validation and extraction", len(phases), kept, f"{slowest:.1f} s")
        lost = [_work_lost(base, stage, rng) for stage in STAGES]
        yield Row(
            "SIGKILL costs at most 60 s of work",
            len(lost),
            sum(s <= 61 for s in lost),
            ", ".join(f"{s:.0f} s" for s in lost),
        )
