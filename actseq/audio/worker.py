"""Decode in other processes, so that a file on which the decoder crashes or hangs costs only itself.

A worker is a Python process that imports this package and nothing else of actseq. It is started when the first file is
read, and is used again until this process ends. Requests are lines of JSON; answers are a letter, a length and that
many bytes. A worker ends by itself when this process is gone.
"""

import atexit
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from actseq.audio.decoding import Decoding, changed
from actseq.errors import ActseqError, AudioError

PATIENCE = 60.0
"""Seconds without any sign of a worker, after which it is taken to hang."""
BEAT = 1.0
"""A worker gives a sign of itself after this many seconds."""
PROGRAM = "from actseq.audio.worker import serve; serve()"
"""What a worker runs."""
FILES_EACH, BYTES_EACH = 32, 64 << 20
"""A further worker is started for this many files, or for this many bytes."""
READY, BLOCK, ENVELOPE, RESULT, REFUSED, ALIVE = b"!", b"b", b"e", b"r", b"x", b"."
"""The letters of answers."""
HEAD = struct.Struct("<cQ")
"""Letter and length of an answer."""

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Content:
    """What one reading of a file has found.

    Attributes:
        own_rate: sample rate of the file in Hz.
        own_samples: samples per channel in the file.
        channels: number of channels in the file.
        offset: the constant offset that `remove_offset` finds.
        note: what is unusual about the file; "" if nothing is.
        samples: samples of all blocks together.
        peak: largest absolute value in the blocks.
        envelope: largest absolute value of the mono mix, without its offset, in every `SPAN` samples of the file.
    """

    own_rate: int
    own_samples: int
    channels: int
    offset: float
    note: str
    samples: int
    peak: float
    envelope: NDArray[np.float32]


class Reading:
    """The mono blocks of a file, decoded in a worker; iterate once.

    Args:
        path: any format libsndfile reads.
        sample_rate: sample rate in Hz of the blocks; None: that of the file.
        offset: constant that is subtracted from the samples.
        blocks: give the blocks; otherwise only `content` is found out.
        seconds: read only the blocks at the beginning that last a little longer than this; `content` is then about
            these, without offset and envelope. None: read the whole file.

    Attributes:
        content: what was found; known at the end.

    Raises:
        AudioError: the file cannot be used; the message begins with the kind of fault and a colon.
    """

    content: Content

    def __init__(
        self,
        path: Path,
        sample_rate: int | None = None,
        offset: float = 0.0,
        *,
        blocks: bool = True,
        seconds: float | None = None,
    ) -> None:
        self.request = {
            "path": str(Path(path).absolute()),
            "sample_rate": sample_rate,
            "offset": offset,
            "blocks": blocks,
            "seconds": seconds,
        }

    def __iter__(self) -> Iterator[Float32[np.ndarray, " samples"]]:
        worker = _taken()
        whole = False
        envelope = np.zeros(0, np.float32)
        try:
            for letter, content in worker.answers(self.request):
                if letter == BLOCK:
                    yield np.frombuffer(content, np.float32)
                elif letter == ENVELOPE:
                    envelope = np.frombuffer(content, np.float32)
                elif letter == RESULT:
                    self.content, whole = Content(**json.loads(content), envelope=envelope), True
                elif letter == REFUSED:
                    whole = True
                    raise AudioError(*json.loads(content))
        finally:
            # A worker that is not at the end of its answer cannot be used again.
            if whole:
                _give_back(worker)
            else:
                worker.end()

    def finish(self) -> Content:
        """Read to the end without the blocks."""
        for _ in self:
            pass
        return self.content


def in_workers(function: Callable[[S], T], items: Iterable[S], n: int) -> Iterator[T]:
    """Results of a function that reads files, in order; several files are read at once.

    Args:
        function: called with each item, in a thread of its own.
        items: what the function is called with.
        n: number of files that are read at once.
    """
    threads: set[int] = set()
    pool = ThreadPoolExecutor(n, initializer=lambda: threads.add(threading.get_ident()))
    try:
        yield from pool.map(function, items)
    finally:
        # After an interruption the threads end at once when their workers have ended.
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in _withdrawn(threads):
            worker.process.kill()
        pool.shutdown()


def n_workers(n_files: int, n_bytes: int) -> int:
    """Number of workers that reading so many files and bytes is worth; one at least, and one a core at most."""
    return min(os.cpu_count() or 1, 8, 1 + max(n_files // FILES_EACH, n_bytes // BYTES_EACH))


# -- in this process ---------------------------------------------------------------------------------------------------


class _Worker:
    """One worker process.

    Raises:
        ActseqError: it does not start, which is no fault of a file.
    """

    def __init__(self) -> None:
        # The folders that this process imports from, whatever its main program changed.
        folders = [str(Path(folder).absolute()) for folder in sys.path]
        # In a group of its own it is not reached by the Ctrl-C that is meant for this process.
        apart: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self.deadline: float | None = None
        self.thread, self.hung = threading.get_ident(), False
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Not in the folder of this process, which could then not be removed on some systems.
                cwd=os.sep,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
                **apart,
            )
        except OSError as error:
            raise ActseqError(f"the process that decodes sounds cannot be started ({error.strerror})") from error
        with _lock:
            _started.add(self)
        if self._receive()[0] != READY:
            self.end()
            raise ActseqError(
                f"the process that decodes sounds does not start ({self._code()})",
                action="see whether `python -c 'import actseq.audio'` runs",
            )

    def answers(self, request: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
        """Send a request, and give letter and content of each answer up to the last.

        Raises:
            AudioError: the process has crashed or hung.
        """
        with suppress(OSError):
            self.input.write(json.dumps(request).encode() + b"\n")
            self.input.flush()
        letter = ALIVE
        while letter not in (RESULT, REFUSED):
            letter, content = self._receive()
            if not letter:
                raise AudioError(f"cannot be decoded: {self._ended()}", action="convert it to WAV, or leave it out")
            yield letter, content

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Let the process end by itself."""
        with _lock:
            _started.discard(self)
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                stream and stream.close()

    @property
    def input(self) -> BinaryIO:
        assert self.process.stdin is not None
        return self.process.stdin  # type: ignore[return-value]

    def _receive(self) -> tuple[bytes, bytes]:
        """Letter and content of the next answer; no letter if the process has ended."""
        output = self.process.stdout
        assert output is not None
        self.deadline = time.monotonic() + PATIENCE
        try:
            head = output.read(HEAD.size)
            if len(head) < HEAD.size:
                return b"", b""
            letter, size = HEAD.unpack(head)
            content = output.read(size)
            return (letter, content) if len(content) == size else (b"", b"")
        except (OSError, ValueError):
            # Another thread has ended the process.
            return b"", b""
        finally:
            self.deadline = None

    def _ended(self) -> str:
        """Why the process has ended, in words."""
        if self.hung:
            return f"its decoder made no progress for {PATIENCE:.0f} seconds"
        return f"its decoder crashed ({self._code()})"

    def _code(self) -> str:
        code = self.process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


_lock = threading.RLock()
_idle: list[_Worker] = []
_started: set[_Worker] = set()
_watching: list[threading.Thread] = []


def _taken() -> _Worker:
    """A worker that is not in use, or a new one."""
    with _lock:
        if not _watching:
            _watching.append(threading.Thread(target=_watch, daemon=True))
            _watching[0].start()
        while _idle:
            worker = _idle.pop()
            if worker.process.poll() is None:
                worker.thread = threading.get_ident()
                return worker
            worker.close()
    return _Worker()


def _withdrawn(threads: set[int]) -> list[_Worker]:
    """The workers that these threads wait for; from now on nobody gets them any more."""
    with _lock:
        found = [one for one in _started if one.thread in threads and one not in _idle]
        _started.difference_update(found)
    return found


def _give_back(worker: _Worker) -> None:
    """Let others have a worker, unless it was withdrawn while it answered."""
    with _lock:
        kept = worker in _started
        if kept:
            _idle.append(worker)
    if not kept:
        worker.end()


def _watch() -> None:
    """End each worker that gives no sign of itself."""
    while True:
        time.sleep(min(BEAT, PATIENCE / 4))
        now = time.monotonic()
        with _lock:
            late = [one for one in _started if (deadline := one.deadline) is not None and now > deadline]
        for one in late:
            one.hung = True
            one.process.kill()


def end_all() -> None:
    """End all workers, whatever they are doing."""
    for worker in list(_started):
        worker.end()


def _forget() -> None:
    """In a copy of this process, the workers belong to the original."""
    global _lock
    _lock = threading.RLock()
    for one in (_idle, _watching):
        one.clear()
    _started.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(end_all)


# -- in the worker -----------------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests from standard input until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    requests: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    _send(answers, READY)
    # Decoders write what they think of a file to the terminal.
    silent = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(silent, descriptor)
    while True:
        request = json.loads(requests.get())
        try:
            _answer(request, answers)
        except AudioError as error:
            _send(answers, REFUSED, json.dumps([error.found, error.expected, error.action]).encode())
        except (MemoryError, ValueError, ArithmeticError, LookupError, TypeError) as error:
            words = f"cannot be decoded: {type(error).__name__} in the decoder"
            _send(answers, REFUSED, json.dumps([words, "", "convert it to WAV, or leave it out"]).encode())


def _listen(requests: "queue.Queue[bytes]") -> None:
    for line in sys.stdin.buffer:
        requests.put(line)
    # The process that asks is gone. A decoder that hangs would not notice.
    os._exit(0)


def _answer(request: dict[str, Any], answers: BinaryIO) -> None:
    decoding, samples, peak, told = Decoding(Path(request["path"])), 0, 0.0, time.monotonic()
    for block in changed(decoding, request["offset"], request["sample_rate"]):
        samples, peak = samples + len(block), max(peak, float(np.abs(block).max(initial=0.0)))
        if request["blocks"]:
            _send(answers, BLOCK, block.tobytes())
        elif time.monotonic() > told + BEAT:
            _send(answers, ALIVE)
            told = time.monotonic()
        if request["seconds"] is not None and decoding.samples > request["seconds"] * decoding.sample_rate:
            break
    about = {
        "own_rate": decoding.sample_rate,
        "own_samples": decoding.samples,
        "channels": decoding.channels,
        "offset": decoding.offset,
        "note": decoding.note,
        "samples": samples,
        "peak": peak,
    }
    _send(answers, ENVELOPE, decoding.envelope.tobytes())
    _send(answers, RESULT, json.dumps(about).encode())


def _send(answers: BinaryIO, letter: bytes, content: bytes = b"") -> None:
    answers.write(HEAD.pack(letter, len(content)) + content)
    answers.flush()
