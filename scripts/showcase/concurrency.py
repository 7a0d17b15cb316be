"""Many requests at once, and waiting among them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any

from showcase import errors


@contextlib.asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose first failure is raised as it is, for those who expect its class."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as err:
        first: BaseException = err
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def bounded(work: Iterable[Awaitable[Any]], limit: int) -> None:
    """Wait for all, never more than `limit` of them at the same time."""
    waiting = iter(work)

    async def next_ones() -> None:
        for one in waiting:
            await one

    async with together() as group:
        for _ in range(limit):
            group.create_task(next_ones())


@contextlib.asynccontextmanager
async def beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Coroutines that run until the block ends; when one of them fails, so does the block."""
    async with together() as group:
        tasks = [group.create_task(one) for one in work]
        yield
        for task in tasks:
            task.cancel()


async def until(ready: Callable[[], bool], what: str, *, seconds: float = 60.0) -> None:
    """Wait until something is so.

    Raises:
        ShowError: it is not after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise errors.ShowError(f"not so after {seconds:.0f} s: {what}")
        # Shorter than what is measured with it, longer than what would load the machine.
        await asyncio.sleep(0.002)
