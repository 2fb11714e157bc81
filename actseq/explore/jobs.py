"""Work in the background, one piece of it at a time: a job yields messages, and can be cancelled between two."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from actseq.errors import ActseqError, ConfigError

Message = dict[str, Any]
T = TypeVar("T")
FAILED = "this failed inside actseq; the terminal shows what happened"
"""What the page says about an error that is not the user's."""


class Job:
    """Work that is going on.

    Args:
        work: yields messages.
        thread: where each step of the work is done.
    """

    def __init__(self, work: Generator[Message], thread: ThreadPoolExecutor) -> None:
        self._work, self._thread = work, thread
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._cancelled = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while not self._cancelled:
                message = await loop.run_in_executor(self._thread, next, self._work, None)
                if message is None:
                    return
                self._messages.put_nowait(message)
            self._messages.put_nowait({"kind": "cancelled"})
        except ActseqError as error:
            self._messages.put_nowait({"kind": "error", "error": str(error)})
        except Exception:
            logging.getLogger(__name__).exception("a sound could not be made")
            self._messages.put_nowait({"kind": "error", "error": FAILED})
        finally:
            await loop.run_in_executor(self._thread, self._work.close)
            self._messages.put_nowait(None)

    async def cancel(self) -> None:
        """Stop after the step that is being done, and wait until then."""
        self._cancelled = True
        await asyncio.wait([self._task])

    @property
    def done(self) -> bool:
        """Whether all is over."""
        return self._task.done()

    async def messages(self) -> AsyncIterator[Message]:
        """The messages, as they come. The job ends where nobody listens any more."""
        try:
            while (message := await self._messages.get()) is not None:
                yield message
            await asyncio.wait([self._task])
        finally:
            self._cancelled = True


class Jobs:
    """At most one job at a time, and the one thread in which everything is computed."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="actseq")
        self._current: Job | None = None

    def begin(self, work: Generator[Message]) -> Job:
        """Start a job.

        Raises:
            ConfigError: another job is going on.
        """
        if self._current is not None and not self._current.done:
            raise ConfigError("another sound is being made", "one at a time", "wait for it, or cancel it")
        self._current = Job(work, self._thread)
        return self._current

    async def cancel(self) -> bool:
        """Cancel the job that is going on; whether there was one."""
        if self._current is None or self._current.done:
            return False
        await self._current.cancel()
        return True

    async def compute(self, function: Callable[[], T]) -> T:
        """The result of a short computation, which waits for a step of the job that is going on."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)
