"""Packs on their way into the store: they are sent while the next one is filled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from chrek.remote import backend, pack, places, seal

AT_ONCE = 3


class Packs:
    """Fills packs and has them sent."""

    def __init__(
        self,
        server: backend.Backend,
        namespace: str,
        sealer: seal.Sealer,
        *,
        on_sent: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Begin with an empty one.

        Args:
            on_sent: told of each that is stored how many bytes its chunks had uncompressed.
        """
        self._server = server
        self._namespace = namespace
        self._sealer = sealer
        self._on_sent = on_sent
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._sending: list[asyncio.Task[backend.Pack]] = []
        self._begin()

    def _begin(self) -> None:
        self._pack = self._sealer.pack()
        self._data = bytearray(self._pack.header)
        self._bytes = 0

    async def add(
        self, chunk_id: bytes, codec: pack.Codec, stored: bytes | memoryview, *, size: int
    ) -> places.Place:
        """Put a chunk into the pack.

        Args:
            stored: the chunk, compressed as `codec` says.
            size: bytes of the chunk before compression.

        Returns:
            Where it is; `Place.pack` counts the packs of this object.
        """
        if len(self._data) + len(stored) + self._sealer.overhead_bytes > self._server.pack_bytes:
            await self.send()
        at = len(self._data)
        self._data += self._pack.seal(chunk_id, codec, stored, offset=at, size=size)
        self._bytes += size
        return places.Place(len(self._sending), at, len(self._data) - at, codec)

    async def send(self) -> None:
        """Send what there is, and begin the next pack."""
        if len(self._data) == len(self._pack.header):
            return
        await self._slots.acquire()
        for task in self._sending:
            if task.done():
                task.result()
        self._sending.append(asyncio.create_task(self._put(memoryview(self._data), self._bytes)))
        self._begin()

    async def _put(self, data: memoryview, size: int) -> backend.Pack:
        try:
            made = await self._server.put_pack(self._namespace, data)
        finally:
            self._slots.release()
        self._on_sent(size)
        return made

    async def all(self) -> list[backend.Pack]:
        """All packs, in their order, once they are stored."""
        await self.send()
        return await asyncio.gather(*self._sending)

    def cancel(self) -> None:
        for task in self._sending:
            task.cancel()
