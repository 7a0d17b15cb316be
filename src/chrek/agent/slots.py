"""How many dumps and restores run at once on a node, and whether any does."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator
from typing import Literal

from chrek.agent import metrics

Kind = Literal["capture", "restore"]


class Slots:
    """A bounded number of operations; more wait for their turn."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self.waiting = 0
        """Operations that wait for their turn, which comes in the order of their coming."""
        self.in_flight: collections.Counter[Kind] = collections.Counter()
        """Operations of each kind that wait or run."""
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def busy(self) -> bool:
        """Whether one more would have to wait."""
        return self._free.locked()

    @contextlib.asynccontextmanager
    async def taken(self, kind: Kind) -> AsyncIterator[None]:
        """Hold one slot."""
        self.in_flight[kind] += 1
        try:
            await self._turn(kind)
            self._active += 1
            self._idle.clear()
            try:
                with metrics.RUNNING.labels(operation=kind).track_inprogress():
                    yield
            finally:
                self._free.release()
                self._active -= 1
                if not self._active:
                    self._idle.set()
        finally:
            self.in_flight[kind] -= 1

    async def _turn(self, kind: Kind) -> None:
        self.waiting += 1
        try:
            with metrics.WAITING.labels(operation=kind).track_inprogress():
                await self._free.acquire()
        finally:
            self.waiting -= 1

    async def idle(self, *, timeout_seconds: float) -> bool:
        """Wait until no operation runs; False when time is up."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_seconds)
        except TimeoutError:
            return False
        return True
