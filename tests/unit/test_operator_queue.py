"""The work queue: once for many wake-ups, never twice at once, again after failures."""

import asyncio
import contextlib

from chrek import errors
from chrek.operator import queue

KEY = queue.Key("checkpoint", "ns", "a")


@contextlib.asynccontextmanager
async def running(handler, **options):
    work = queue.Queue({"checkpoint": handler}, **{"allowed": lambda: True, **options})
    task = asyncio.create_task(work.run())
    yield work
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_many_wake_ups_are_one_look():
    seen = []

    async def handler(key):
        seen.append(key)

    async with running(handler) as work:
        for _ in range(10):
            work.add(KEY)
        await asyncio.sleep(0.05)
    assert seen == [KEY]


async def test_a_key_is_never_handled_twice_at_once_and_no_wake_up_is_lost():
    inside, most, looks = 0, 0, 0

    async def handler(key):
        nonlocal inside, most, looks
        inside, looks = inside + 1, looks + 1
        most = max(most, inside)
        await asyncio.sleep(0.03)
        inside -= 1

    async with running(handler) as work:
        work.add(KEY)
        await asyncio.sleep(0.01)
        work.add(KEY)
        work.add(KEY)
        await asyncio.sleep(0.1)
    assert (most, looks) == (1, 2)


async def test_failures_are_tried_again(monkeypatch):
    monkeypatch.setattr(queue, "FIRST_SECONDS", 0.005)
    seen = []

    async def handler(key):
        seen.append(key)
        if len(seen) == 1:
            raise errors.ApiError("no answer")
        if len(seen) == 2:
            raise ValueError("a bug")

    observed = []
    async with running(handler, observe=lambda *what: observed.append(what[2])) as work:
        work.add(KEY)
        await asyncio.sleep(0.2)
    assert len(seen) == 3
    assert observed == [True, True, False]


async def test_a_handler_asks_to_look_again():
    seen = []

    async def handler(key):
        seen.append(key)
        return 0.02 if len(seen) == 1 else None

    async with running(handler) as work:
        work.add(KEY)
        await asyncio.sleep(0.1)
    assert len(seen) == 2


async def test_nothing_is_handled_without_the_lease():
    seen = []

    async def handler(key):
        seen.append(key)

    async with running(handler, allowed=lambda: False) as work:
        work.add(KEY)
        await asyncio.sleep(0.02)
    assert seen == []
