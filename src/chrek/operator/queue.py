"""A work queue of keys: what has to be looked at again.

A key that is added many times is handled once; a key is never handled twice at the same time; a
failure is tried again with back-off. Handlers look at the world as it is, so losing a wake-up
costs nothing but time, and a wake-up too many costs nothing at all.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from chrek import errors, log

LOG = log.get(__name__)
FIRST_SECONDS = 0.25
LONGEST_SECONDS = 60.0
RANDOM = random.SystemRandom()


class Key(NamedTuple):
    """What to look at."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


Handler = Callable[[Key], Awaitable[float | None]]
Observer = Callable[[str, float, bool], None]


class Queue:
    """Runs handlers for keys.

    A handler returns the seconds after which it wants to see its key again, or None.
    """

    def __init__(
        self,
        handlers: dict[str, Handler],
        *,
        allowed: Callable[[], bool],
        observe: Observer = lambda kind, seconds, failed: None,
    ) -> None:
        """Prepare; `run()` starts it.

        Args:
            handlers: by kind of key.
            allowed: asked before each handler; False (no longer the leader) drops the key.
            observe: told kind, seconds and whether it failed after each handler.
        """
        self._handlers = handlers
        self._allowed = allowed
        self._observe = observe
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: set[Key] = set()
        self._running: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    def add(self, key: Key) -> None:
        """Have a key looked at soon."""
        timer = self._timers.pop(key, None)
        if timer:
            timer.cancel()
        if key in self._running:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_later(self, key: Key, seconds: float) -> None:
        """Have a key looked at after some time, unless something wakes it before."""
        timer = self._timers.pop(key, None)
        if timer:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._timers[key] = loop.call_later(seconds, self.add, key)

    async def run(self, workers: int = 4) -> None:
        """Handle keys for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._ready.get()
            self._waiting.discard(key)
            if not self._allowed():
                continue
            self._running.add(key)
            try:
                await self._handle(key)
            finally:
                self._running.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    async def _handle(self, key: Key) -> None:
        started = time.monotonic()
        failed = True
        try:
            seconds = await self._handlers[key.kind](key)
            failed = False
            self._failures.pop(key, None)
            if seconds is not None:
                self.add_later(key, seconds)
        except errors.ChrekError as err:
            conflict = isinstance(err, errors.ApiError) and err.status == 409
            level = LOG.debug if conflict else LOG.warning
            level("will be tried again", object=str(key), error=str(err))
            self.add_later(key, self._backoff(key))
        except Exception:
            # A bug with one object must not stop all the others.
            LOG.exception("handler failed", object=str(key))
            self.add_later(key, self._backoff(key))
        finally:
            self._observe(key.kind, time.monotonic() - started, failed)

    def _backoff(self, key: Key) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures, 10))
        return longest * RANDOM.uniform(0.5, 1.0)
