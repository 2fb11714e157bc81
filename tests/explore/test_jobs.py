"""One job at a time, and what cancelling it does."""

import asyncio
import threading
from collections.abc import Generator
from typing import Any

import pytest

from actseq.errors import AudioError, ConfigError
from actseq.explore.jobs import FAILED, Job, Jobs, Message


def counted(n: int, closed: list[str]) -> Generator[Message]:
    try:
        for k in range(n):
            yield {"kind": "samples", "data": k}
    finally:
        closed.append(threading.current_thread().name)


def failing(error: Exception) -> Generator[Message]:
    yield {"kind": "begin"}
    raise error


async def all_of(job: Job) -> list[Any]:
    return [message async for message in job.messages()]


def test_a_job_yields_its_messages_and_then_another_may_begin() -> None:
    closed: list[str] = []

    async def main() -> None:
        jobs = Jobs()
        for _ in range(2):
            assert [one["data"] for one in await all_of(jobs.begin(counted(3, closed)))] == [0, 1, 2]

    asyncio.run(main())
    assert len(closed) == 2
    assert len(set(closed)) == 1  # one thread for all


def test_a_second_job_is_refused_while_one_goes_on_and_can_begin_once_that_is_cancelled() -> None:
    closed: list[str] = []

    async def main() -> None:
        jobs = Jobs()
        job = jobs.begin(counted(10**9, closed))
        with pytest.raises(ConfigError, match="one at a time"):
            jobs.begin(counted(1, closed))
        messages = job.messages()
        assert (await anext(messages))["data"] == 0
        assert await jobs.cancel()
        assert [message async for message in messages][-1] == {"kind": "cancelled"}
        assert not await jobs.cancel()
        assert [one["data"] for one in await all_of(jobs.begin(counted(1, closed)))] == [0]

    asyncio.run(main())
    assert len(closed) == 2


def test_a_job_ends_where_nobody_listens_any_more() -> None:
    closed: list[str] = []

    async def main() -> None:
        jobs = Jobs()
        job = jobs.begin(counted(10**9, closed))
        listening = job.messages()
        assert (await anext(listening))["data"] == 0
        await listening.aclose()
        await job.cancel()
        assert job.done

    asyncio.run(main())
    assert len(closed) == 1


@pytest.mark.parametrize(
    ("error", "said"), [(AudioError("it is silent"), "it is silent"), (ValueError("a secret"), FAILED)]
)
def test_an_error_becomes_a_message(error: Exception, said: str) -> None:
    async def main() -> None:
        jobs = Jobs()
        assert (await all_of(jobs.begin(failing(error))))[-1] == {"kind": "error", "error": said}
        assert await all_of(jobs.begin(counted(0, []))) == []

    asyncio.run(main())
