"""How many dumps and restores run at once on a node, and whether any does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Slots:
    """A bounded number of operations; more wait for their turn."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Hold one slot."""
        async with self._free:
            self._active += 1
            self._idle.clear()
            try:
                yield
            finally:
                self._active -= 1
                if not self._active:
                    self._idle.set()

    async def idle(self, *, timeout_seconds: float) -> bool:
        """Wait until no operation runs; False when time is up."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_seconds)
        except TimeoutError:
            return False
        return True
