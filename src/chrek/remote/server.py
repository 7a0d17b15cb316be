"""A server for callers that have no event loop: captures and restores run in threads.

All calls of one server share a loop on a thread of its own, so connections are kept.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from chrek import deadline, errors, names
from chrek.remote import backend, seal

TOLD_SECONDS = 0.5
"""So much earlier those who ask the server give up, and say why."""
ResultT = TypeVar("ResultT")
Work = Callable[[backend.Backend, seal.Sealer], Coroutine[Any, Any, ResultT]]


class Server:
    """One server, its encryption, and the thread that talks to it."""

    def __init__(
        self,
        make: Callable[[], backend.Backend],
        unlock: Callable[[backend.Backend], Awaitable[seal.Sealer]],
    ) -> None:
        """Prepare; the thread starts with the first call.

        Args:
            make: makes the backend, in the thread and the loop that will use it.
            unlock: makes what seals and opens the artifacts of this backend.
        """
        self._make = make
        self._unlock = unlock
        self._backend: backend.Backend | None = None
        self._sealer: seal.Sealer | None = None
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def run(
        self,
        work: Work[ResultT],
        *,
        timeout_seconds: float,
        fresh: bool = False,
    ) -> ResultT:
        """Run a coroutine to its end; called from any thread but the server's own.

        Args:
            work: is run once more when the store turns out to have got other keys.
            fresh: look first whether it has: for what seals.

        Raises:
            StoreError: it took too long.
        """
        future = self.start(work, timeout_seconds=timeout_seconds, fresh=fresh)
        return self.wait(future, timeout_seconds)

    def start(
        self, work: Work[ResultT], *, timeout_seconds: float, fresh: bool = False
    ) -> concurrent.futures.Future[ResultT]:
        """As `run`, but go on meanwhile; for `wait`, or to be cancelled."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="chrek-store", daemon=True
                )
                self._thread.start()
        call = self._call(work, timeout_seconds, fresh)
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def wait(self, future: concurrent.futures.Future[ResultT], timeout_seconds: float) -> ResultT:
        """What was started, once it has ended.

        Args:
            timeout_seconds: that it was started with.

        Raises:
            StoreError: it took too long.
        """
        try:
            return future.result()
        except (KeyboardInterrupt, SystemExit):
            future.cancel()
            raise
        except (TimeoutError, concurrent.futures.CancelledError) as err:
            raise errors.StoreError(
                f"the store did not finish in {timeout_seconds:g} s",
                reason=names.Reason.STORE_FAILED,
                hint="see how fast the node reaches it, and what else it does",
            ) from err

    async def _call(
        self,
        work: Work[ResultT],
        timeout_seconds: float,
        fresh: bool,
    ) -> ResultT:
        if self._backend is None:
            self._backend = self._make()
        told = max(timeout_seconds - TOLD_SECONDS, timeout_seconds / 2)
        with deadline.within(told):
            async with asyncio.timeout(timeout_seconds):
                if self._sealer is None or fresh:
                    self._sealer = await self._unlock(self._backend)
                try:
                    return await work(self._backend, self._sealer)
                except errors.ArtifactError as err:
                    if err.reason != names.Reason.ARTIFACT_UNREADABLE:
                        raise
                    self._sealer = await self._unlock(self._backend)
                return await work(self._backend, self._sealer)

    async def _end(self) -> None:
        """End what somebody who was interrupted has left, and connections."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if self._backend is not None:
            await self._backend.close()

    def close(self) -> None:
        """End connections and the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
        self._loop.close()
