"""At most so many operations at once, and a way to wait for all of them."""

import asyncio

import pytest

from chrek.agent import slots


async def test_more_wait_for_their_turn():
    made = slots.Slots(2)
    running, most, ended = 0, 0, 0

    async def operation():
        nonlocal running, most, ended
        async with made.taken("restore"):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1
            ended += 1

    await asyncio.gather(*(operation() for _ in range(5)))
    assert (most, ended) == (2, 5)
    assert (made.busy, made.waiting) == (False, 0)


async def test_waiting_until_none_runs():
    made = slots.Slots(1)
    assert await made.idle(timeout_seconds=0.01)
    leave = asyncio.Event()

    async def operation():
        async with made.taken("restore"):
            await leave.wait()
            raise RuntimeError("an error gives the slot back as well")

    first, second = (asyncio.ensure_future(operation()) for _ in range(2))
    await asyncio.sleep(0)
    assert not await made.idle(timeout_seconds=0.01)
    waiting = asyncio.ensure_future(made.idle(timeout_seconds=5))
    leave.set()
    for task in (first, second):
        with pytest.raises(RuntimeError):
            await task
    assert await waiting


async def test_an_operation_that_is_cancelled_gives_its_slot_back():
    made = slots.Slots(1)

    async def operation():
        async with made.taken("restore"):
            await asyncio.sleep(60)

    task = asyncio.ensure_future(operation())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await made.idle(timeout_seconds=0.01)
    async with made.taken("restore"):
        assert made.busy
        waiting = asyncio.ensure_future(operation())
        await asyncio.sleep(0)
        assert made.waiting == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert made.waiting == 0


async def test_operations_are_counted_by_kind():
    """Those that run and those that wait; one that fails or is cancelled is gone."""
    made = slots.Slots(1)
    leave = asyncio.Event()

    async def operation(kind):
        async with made.taken(kind):
            await leave.wait()
            raise RuntimeError

    tasks = [asyncio.ensure_future(operation(kind)) for kind in ("capture", "capture", "restore")]
    await asyncio.sleep(0)
    assert made.in_flight == {"capture": 2, "restore": 1}
    tasks[1].cancel()
    leave.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (made.in_flight["capture"], made.in_flight["restore"]) == (0, 0)
