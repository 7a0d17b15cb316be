"""Chunks that are still used leave packs of which little is.

What an artifact shares with one that was deleted keeps whole packs in the store. Such packs are
read, what is used of them is put into new ones, and the place tables of the artifacts that refer to
them are exchanged. The packs go with a later collection (`prune`), when nobody refers to them any
more: whoever has read the old place table goes on reading, and looks again should a pack be gone.

Whoever does this is a writer, as `prune` means it. What happens when it is interrupted: some
artifacts refer to the new packs, others to the old ones, and the next time does the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid as uuids
from collections.abc import Callable, Mapping

from chrek import errors, log
from chrek.remote import backend, download, index, marks, pack, packs, places, seal, upload, usage

LOG = log.get(__name__)
REPACKER = "0" * 15 + "1"
"""Identity hash that it writes under: a collector's would have writers wait for it."""
WORTH_KEEPING = index.WORTH_KEEPING


@dataclasses.dataclass(frozen=True)
class Repacked:
    """What was done."""

    packs: int = 0
    """That nobody refers to any more."""
    artifacts: int = 0
    """Whose place tables were exchanged."""
    bytes: int = 0
    """Of the new packs."""


async def sparse(
    server: backend.Backend, sealer: seal.Sealer, namespace: str, *, known: usage.Known
) -> Repacked:
    """Have nobody of a namespace refer to packs of which less than half is used.

    Args:
        known: what is known of the artifacts from earlier; completed.

    Raises:
        StoreError, ArtifactError: not all was done.
    """
    own = backend.Key(namespace, REPACKER, "c", str(uuids.uuid4()))
    async with marks.marked(server, own):
        await usage.complete(server, sealer, await server.entries(namespace), known)
        leaving = await _sparse(server, sealer, known)
        if not leaving:
            return Repacked()
        keys = [key for key, one in known.items() if leaving & one.bytes.keys()]
        done = 0
        with contextlib.closing(Mover(server, sealer, namespace)) as mover:
            for key in keys:
                try:
                    there = await index.read(server, sealer, key)
                    await mover.rewrite(key, there, lambda name: name in leaving)
                    done += 1
                except errors.ArtifactError as err:
                    # Deleted meanwhile, or damaged: then its packs stay as they are.
                    LOG.warning("not repacked", uuid=key.uuid, error=str(err))
        return Repacked(packs=len(leaving), artifacts=done, bytes=mover.sent_bytes)


async def _sparse(
    server: backend.Backend, sealer: seal.Sealer, known: usage.Known
) -> frozenset[str]:
    """Names of packs of which all artifacts together use less than half."""
    candidates = usage.lonely(known, WORTH_KEEPING)
    sizes: dict[str, int] = {}
    used: dict[str, dict[int, int]] = {name: {} for name in candidates}
    for key, one in known.items():
        if not candidates & one.bytes.keys():
            continue
        sizes |= one.sizes
        where = (await index.read(server, sealer, key)).places
        numbers = [number for number, p in enumerate(where.packs) if p.name in candidates]
        for number, found in usage.used(where, numbers).items():
            used[where.packs[number].name] |= found
    return frozenset(
        name for name, found in used.items() if sum(found.values()) < WORTH_KEEPING * sizes[name]
    )


class Mover:
    """Copies chunks into new packs; what several artifacts refer to is copied once."""

    def __init__(self, server: backend.Backend, sealer: seal.Sealer, namespace: str) -> None:
        self._server = server
        self._sealer = sealer
        self._namespace = namespace
        self._packs = packs.Packs(server, namespace, sealer)
        self._moved: dict[tuple[str, int], places.Place] = {}
        """Name of a pack and offset there -> where it is among the new ones."""
        self._sent: list[backend.Pack] = []
        self._headers: dict[str, bytes] = {}

    def close(self) -> None:
        """End what is still being sent: an artifact that failed has left it for the next one."""
        self._packs.cancel()

    @property
    def sent_bytes(self) -> int:
        """Of the packs that were made."""
        return sum(one.size for one in self._sent)

    async def rewrite(
        self,
        key: backend.Key,
        there: index.Contents,
        leaving: Callable[[str], bool],
        parts: Mapping[backend.Part, bytes] | None = None,
    ) -> None:
        """Have an artifact refer to new packs instead of some.

        Args:
            there: what it is.
            leaving: whether it shall not refer to the pack of a name any more.
            parts: what else is exchanged.

        Raises:
            ArtifactError: damaged or deleted. StoreError: the server failed.
        """
        listed = there.places.packs
        leave = {number for number, one in enumerate(listed) if leaving(one.name)}
        wanted: dict[tuple[int, int], int] = {}
        for number, place in enumerate(there.places.places):
            if place.pack in leave and (listed[place.pack].name, place.offset) not in self._moved:
                wanted.setdefault((place.pack, place.offset), number)
        for request in download.requests(there.places.places, wanted.values()):
            await self._move(there, request)
        self._sent = await self._packs.all()
        await upload.look_again(self._server, self._namespace, self._sent)
        made = places.Builder()
        for place in there.places.places:
            one = listed[place.pack]
            if place.pack in leave:
                moved = self._moved[one.name, place.offset]
                made.add(self._sent[moved.pack], moved)
            else:
                made.add(one, place)
        part = backend.Part.PLACES
        sealed = {part: self._sealer.seal_part(part, index.label(key), made.encode())}
        await self._server.replace(key, {**(parts or {}), **sealed}, made.packs)

    async def _move(self, there: index.Contents, request: download.Request) -> None:
        name = there.places.packs[request.pack].name
        size = self._sealer.header_bytes
        if name not in self._headers:
            read = self._server.read_pack
            self._headers[name] = await read(self._namespace, name, 0, size) if size else b""
        header = self._headers[name]
        data = await self._server.read_pack(self._namespace, name, request.offset, request.size)
        for number, stored in await asyncio.to_thread(self._opened, there, request, header, data):
            row, place = there.rows[number], there.places.places[number]
            self._moved[name, place.offset] = await self._packs.add(
                row.id, pack.Codec(place.codec), stored, size=row.size
            )

    def _opened(
        self, there: index.Contents, request: download.Request, header: bytes, data: bytes
    ) -> list[tuple[int, bytes | memoryview]]:
        """Number of a row and its chunk, compressed as it was; each is what it should be."""
        return [
            (number, compressed)
            for number, compressed, _ in download.chunks(
                self._sealer, there, request, header=header, data=data
            )
        ]
