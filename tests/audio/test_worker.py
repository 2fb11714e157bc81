"""Decoding in worker processes: a file on which the decoder crashes or hangs costs only itself."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped, unused-ignore]

from actseq import audio
from actseq.audio import worker
from actseq.errors import ActseqError, AudioError

RATE = 16000
FAULTY = """
import os, time
from actseq.audio import worker
answer = worker._answer
def faulty(request, answers):
    name = os.path.basename(request["path"])
    if name == "crash.wav":
        os.abort()
    while name == "hang.wav":
        time.sleep(60)
    if name == "memory.wav":
        raise MemoryError
    answer(request, answers)
worker._answer = faulty
worker.serve()
"""


def running() -> set[int]:
    return {one.process.pid for one in worker._started}


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    for name in ("a.wav", "crash.wav", "memory.wav", "z.wav"):
        soundfile.write(tmp_path / name, 0.5 * np.sin(np.arange(3 * audio.BLOCK)), RATE, subtype="FLOAT")
    return tmp_path


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    worker.end_all()
    monkeypatch.setattr(worker, "PROGRAM", FAULTY)
    yield
    worker.end_all()


@pytest.mark.usefixtures("faulty")
def test_a_crash_of_the_decoder_costs_one_file(sounds: Path) -> None:
    scan = audio.SoundFolder(sounds).scan()
    assert [row.path for row in scan.usable] == ["a.wav", "z.wav"]
    crash, memory = scan.skipped
    assert crash.reason == "cannot be decoded: its decoder crashed (SIGABRT); convert it to WAV, or leave it out"
    assert memory.reason == "cannot be decoded: MemoryError in the decoder; convert it to WAV, or leave it out"


@pytest.mark.usefixtures("faulty")
def test_a_decoder_that_hangs_is_ended(sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sounds / "a.wav").rename(sounds / "hang.wav")
    audio.load(sounds / "z.wav")
    monkeypatch.setattr(worker, "PATIENCE", 0.2)
    with pytest.raises(AudioError, match=r"hang\.wav: cannot be decoded: its decoder made no progress"):
        audio.load(sounds / "hang.wav")


def test_a_worker_is_used_again_unless_a_reading_was_left_early(sounds: Path) -> None:
    worker.end_all()
    audio.load(sounds / "a.wav")
    (first,) = running()
    assert audio.measure(sounds / "z.wav", RATE // 2).own_samples == 3 * audio.BLOCK
    with pytest.raises(AudioError, match="missing"):
        audio.load(sounds / "no.wav")
    assert running() == {first}
    blocks = iter(audio.Reading(sounds / "a.wav"))
    next(blocks)
    blocks.close()
    assert running() == set()
    assert len(audio.load(sounds / "a.wav")[0]) == 3 * audio.BLOCK


def test_a_worker_that_does_not_start_is_no_fault_of_a_file(sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.end_all()
    monkeypatch.setattr(worker, "PROGRAM", "raise SystemExit(3)")
    with pytest.raises(ActseqError, match=r"process that decodes sounds does not start \(exit code 3\); see whether"):
        audio.SoundFolder(sounds).scan()


def test_two_files_can_be_read_in_turn(sounds: Path) -> None:
    pairs = list(zip(audio.Reading(sounds / "a.wav"), audio.Reading(sounds / "z.wav"), strict=True))
    assert len(pairs) == 3
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)


def test_an_interruption_does_not_wait_for_the_files(sounds: Path) -> None:
    ended = []

    def read(name: str) -> int:
        blocks = iter(audio.Reading(sounds / name))
        next(blocks)
        if name == "a.wav":
            raise KeyboardInterrupt
        ended.append(name)
        return 0

    with pytest.raises(KeyboardInterrupt):
        list(audio.in_workers(read, ["a.wav", "z.wav"], 1))
    assert ended == []


def test_a_script_without_a_guard_decodes(sounds: Path) -> None:
    script = sounds / "script.py"
    script.write_text("import sys\nfrom actseq import audio\nprint(len(audio.load(sys.argv[1])[0]))\n")
    made = subprocess.run([sys.executable, script, sounds / "a.wav"], capture_output=True, text=True, check=True)
    assert (made.stdout, made.stderr) == (f"{3 * audio.BLOCK}\n", "")


def test_a_worker_that_is_withdrawn_while_it_answers_is_not_used_again() -> None:
    taken = worker._taken()
    withdrawn = worker._withdrawn({threading.get_ident()})
    assert taken in withdrawn
    for one in withdrawn:
        one.process.kill()
    worker._give_back(taken)
    assert taken.process.returncode is not None
    following = worker._taken()
    assert following is not taken
    worker._give_back(following)
    assert worker._taken() is following
    following.end()
