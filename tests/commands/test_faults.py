"""What the command line makes of faults of the system: one line, an exit code, and nothing half written."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from actseq_cli import signals
from actseq_cli.main import main
from click.testing import CliRunner

import actseq
from actseq import pipeline
from actseq.commands.common import check_written
from actseq.errors import SIGNALS, ArtifactError, AudioError
from actseq.storage.run_folder import RunFolder


@pytest.mark.parametrize(
    ("number", "action"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "allow reading and writing"),
        (errno.EIO, "see whether the disk"),
    ],
)
def test_an_error_of_the_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, number: int, action: str) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "runs/a/config.yaml")

    monkeypatch.setattr(pipeline, "doctor", fail)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert result.output.startswith(f"error: runs/a/config.yaml: {os.strerror(number)}; {action}")
    assert len(result.output.splitlines()) == 1


@pytest.mark.skipif(os.name != "posix", reason="signals between processes")
@pytest.mark.parametrize("number", [number for number in SIGNALS if number != signal.SIGINT])
def test_a_signal_outside_a_training_is_told(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    monkeypatch.setattr(pipeline, "doctor", lambda: os.kill(os.getpid(), number))
    before = signal.signal(number, signal.SIG_DFL)
    try:
        result = CliRunner().invoke(main, ["doctor"])
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert result.exit_code == 128 + number
    assert result.output == f"stopped by {number.name}\n"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="alarms of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_whose_exception_is_lost_comes_again(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    lost = []

    def swallow() -> None:
        for _ in range(3):
            try:
                os.kill(os.getpid(), number)
                time.sleep(30)
            except BaseException as error:
                lost.append(error)
        time.sleep(30)

    monkeypatch.setattr(pipeline, "doctor", swallow)
    monkeypatch.setattr(signals, "AGAIN_SECONDS", 0.2)
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)
    begun = time.monotonic()
    try:
        result = CliRunner().invoke(main, ["doctor"])
        assert signal.getsignal(number) == usual
    finally:
        signal.signal(number, before)
    assert result.exit_code == 128 + number
    assert len(lost) == 3
    assert time.monotonic() - begun < 10
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.fixture
def handled(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal with its usual handler, whatever this process inherited."""
    number: signal.Signals = request.param
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield number
    signal.signal(number, before)


POSIX = pytest.mark.skipif(os.name != "posix", reason="signals between processes")
STOPPING = pytest.mark.parametrize("handled", [signal.SIGINT, signal.SIGTERM], indirect=True)


@POSIX
@STOPPING
@pytest.mark.parametrize("becomes", [ImportError("damaged"), SystemError("no result"), ArtifactError("gone"), None])
def test_a_signal_that_becomes_another_error_is_told_as_the_signal(
    monkeypatch: pytest.MonkeyPatch, handled: signal.Signals, becomes: Exception | None
) -> None:
    def turn() -> dict[str, object]:
        try:
            os.kill(os.getpid(), handled)
            time.sleep(30)
        except BaseException as error:
            if becomes is not None:
                raise becomes from error
        return {"problems": []}

    monkeypatch.setattr(pipeline, "doctor", turn)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 128 + handled
    assert "error" not in result.output


@POSIX
@STOPPING
def test_a_signal_that_is_sent_twice_does_not_interrupt_the_cleaning_up(
    monkeypatch: pytest.MonkeyPatch, handled: signal.Signals
) -> None:
    cleaned = []

    def twice() -> None:
        try:
            os.kill(os.getpid(), handled)
            time.sleep(30)
        finally:
            os.kill(os.getpid(), handled)
            cleaned.append(True)

    monkeypatch.setattr(pipeline, "doctor", twice)
    assert CliRunner().invoke(main, ["doctor"]).exit_code == 128 + handled
    assert cleaned


PROGRAM = """
import atexit, os, sys

place, number = sys.argv[2:]
del sys.argv[2:]
from actseq_cli.program import start

def kill():
    os.kill(os.getpid(), int(number))

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "actseq_cli.main":
            kill()

class Lost:
    def __del__(self):
        kill()

def doctor():
    if place == "lost":
        Lost()
    else:
        atexit.register(kill)
    return {"problems": []}

if place == "importing":
    sys.meta_path.insert(0, Finder())
else:
    from actseq import pipeline
    pipeline.doctor = doctor
start()
"""


@POSIX
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("place", ["importing", "ending", "lost"])
def test_a_signal_at_any_time_of_the_program_gives_its_exit_code(number: signal.Signals, place: str) -> None:
    def usual() -> None:
        signal.signal(number, signal.SIG_DFL)

    words = [sys.executable, "-c", PROGRAM, "doctor", place, str(int(number))]
    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=usual)
    assert done.returncode == 128 + number, done
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert ("problems" in done.stdout) == (place != "importing")


def test_names_that_are_not_text_are_printed_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "doctor", lambda: {"problems": [], "file": "a\udcff.wav"})
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    assert "a\\udcff.wav" in result.output


def test_results_that_have_vanished_are_no_success(tmp_path: Path) -> None:
    (tmp_path / "000.wav").touch()
    check_written([tmp_path / "000.wav"])
    with pytest.raises(AudioError, match=r"1 results have vanished since they were written, first .*001\.wav"):
        check_written([tmp_path / "000.wav", tmp_path / "001.wav"])


def test_a_stage_whose_folder_is_removed_is_no_success(tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    with pytest.raises(ArtifactError, match="stage was removed or replaced"), RunFolder(tmp_path).lock(stage):
        shutil.rmtree(stage)


def test_what_a_killed_process_left_half_written_is_deleted(tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    (stage / "checkpoints" / ".step-00000003.part").mkdir(parents=True)
    (stage / ".plan.json.77.part").touch()
    (stage / "plan.json").touch()
    with RunFolder(tmp_path).lock(stage):
        pass
    assert {path.name for path in stage.rglob("*")} - {".lock"} == {"checkpoints", "plan.json"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has this device")
def test_output_that_nobody_takes_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "actseq", "presets"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: the output: No space left on device; free some space; what was finished is kept\n"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder where not even root may write")
def test_without_a_folder_for_a_cache_loops_are_compiled_each_time() -> None:
    nowhere = {"HOME": "/proc/self", "NUMBA_CACHE_DIR": "/proc/self/numba"}
    program = "from actseq.vocoders.kernels import cached_njit as c; print(c()(lambda x: 2 * x)(21))"
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | nowhere, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


def test_without_a_folder_for_a_cache_modules_of_others_are_imported(tmp_path: Path) -> None:
    (tmp_path / "loops.py").write_text("from numba import njit\n\n@njit(cache=True)\ndef twice(x):\n    return 2 * x\n")
    program = """
from numba.core import caching

base = getattr(caching, "CacheImpl", None) or caching._CacheImpl
base._locator_classes = base._locator_classes[:1]
from actseq.modules.numba_cache import import_cached

print(import_cached("loops").twice(21), caching.config.CACHE_DIR)
"""
    own = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    own["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run([sys.executable, "-c", program], env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result, cache = done.stdout.split()
    assert result == "42"
    assert not Path(cache).exists()


def test_librosa_is_imported_only_with_a_folder_for_its_cache() -> None:
    sources = {path: path.read_text() for path in Path(actseq.__file__).parent.rglob("*.py")}
    assert [path for path, text in sources.items() if re.search(r"^\s*(import|from) librosa", text, re.MULTILINE)] == []
    assert sum('import_cached("librosa.' in text for text in sources.values()) >= 2


def test_a_command_that_is_shown_can_be_copied_whatever_the_name_of_the_run() -> None:
    assert RunFolder(Path("runs/my run")).argument == "'my run'"
    assert RunFolder(Path("else where/it's")).argument == "'else where/it'\"'\"'s'"
    assert RunFolder(Path("runs/plain")).argument == "plain"
