"""Chunks that a namespace's artifacts have in the store already: they need not be sent again.

Artifacts of the same identity are looked at first, then the newest of the namespace. A pack of
which they use less than half is not referred to any more, so that it goes with them: that bounds
what the store holds beyond what its artifacts need.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Callable

from chrek import errors, log, manifest
from chrek.remote import backend, places, seal, table

LOG = log.get(__name__)
MOST_ARTIFACTS = 8
MOST_CHUNKS = 500_000
"""So many are known before no further artifact is read: 0.1 GB of memory."""
WORTH_KEEPING = 0.5
_ROW_BITS = 32
_ROW_MASK = (1 << _ROW_BITS) - 1


@dataclasses.dataclass(frozen=True)
class Known:
    """Where a chunk lies."""

    pack: backend.Pack
    place: places.Place


@dataclasses.dataclass(frozen=True)
class Contents:
    """One artifact's tables, decoded."""

    described: manifest.Manifest
    rows: table.Table
    places: places.Places
    current: bool
    """Its packs are sealed with the store's newest key: so is a place table that names them."""


async def read(server: backend.Backend, sealer: seal.Sealer, key: backend.Key) -> Contents:
    """An artifact as it is in the store, whose manifest nobody vouches for.

    Raises:
        ArtifactError: it is not there, or damaged. StoreError: the server failed.
    """
    text = await part(server, sealer, key, backend.Part.MANIFEST)
    return await contents(server, sealer, key, manifest.decode(text))


async def contents(
    server: backend.Backend, sealer: seal.Sealer, key: backend.Key, described: manifest.Manifest
) -> Contents:
    """Both tables of an artifact, checked against its manifest and each other.

    Raises:
        ArtifactError: missing or damaged. StoreError: the server failed.
    """
    rows_data, sealed = await asyncio.gather(
        part(server, sealer, key, backend.Part.TABLE),
        server.read(key, backend.Part.PLACES),
    )
    places_data = sealer.open_part(backend.Part.PLACES, label(key), sealed)
    rows = table.decode(rows_data, described.files)
    where = places.decode(places_data, len(rows))
    return Contents(described, rows, where, sealer.current(sealed))


async def part(
    server: backend.Backend, sealer: seal.Sealer, key: backend.Key, which: backend.Part
) -> bytes:
    """A part of an artifact, opened."""
    return sealer.open_part(which, label(key), await server.read(key, which))


def label(key: backend.Key) -> str:
    """What a sealed part says it belongs to."""
    return "/".join((key.namespace, key.identity_hash, key.variant, key.uuid))


class Catalogue:
    """Where chunks are that a store has; a few bytes for each."""

    def __init__(self) -> None:
        self._artifacts: list[Contents] = []
        self._found: dict[bytes, int] = {}
        """Chunk id -> number of the artifact and of its row, side by side."""
        self._left_out: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self._found)

    def add(self, there: Contents, usable: Callable[[backend.Pack], bool]) -> None:
        """Take an artifact's chunks in.

        Args:
            usable: whether a pack may be referred to.
        """
        number = len(self._artifacts) << _ROW_BITS
        self._artifacts.append(there)
        listed = [usable(one) for one in there.places.packs]
        for row, (chunk, place) in enumerate(zip(there.rows, there.places.places, strict=True)):
            if listed[place.pack]:
                self._found.setdefault(chunk.id, number | row)

    def leave_out_sparse(self) -> None:
        """Do not refer to packs of which these artifacts use less than half."""
        used: collections.Counter[str] = collections.Counter()
        sizes: dict[str, int] = {}
        for reference in self._found.values():
            one = self._known(reference)
            used[one.pack.name] += one.place.size
            sizes[one.pack.name] = one.pack.size
        self._left_out = frozenset(
            name for name, size in sizes.items() if used[name] < WORTH_KEEPING * size
        )

    def get(self, chunk_id: bytes) -> Known | None:
        """Where a chunk is; None: it has to be sent."""
        reference = self._found.get(chunk_id)
        if reference is None:
            return None
        one = self._known(reference)
        return None if one.pack.name in self._left_out else one

    def _known(self, reference: int) -> Known:
        there = self._artifacts[reference >> _ROW_BITS].places
        place = there.places[reference & _ROW_MASK]
        return Known(there.packs[place.pack], place)


async def known(server: backend.Backend, sealer: seal.Sealer, key: backend.Key) -> Catalogue:
    """The chunks of artifacts that a new one may resemble."""
    entries = await server.entries(key.namespace)
    entries.sort(key=lambda entry: entry.key.identity_hash != key.identity_hash)
    present = {pack.name for pack in await server.packs(key.namespace)}
    found = Catalogue()
    for entry in entries[:MOST_ARTIFACTS]:
        if len(found) >= MOST_CHUNKS:
            break
        try:
            there = await read(server, sealer, entry.key)
        except errors.ChrekError as err:
            # It is of no use to a pod either; whoever is to be restored from it says so.
            LOG.warning("artifact cannot be read", uuid=entry.key.uuid, error=str(err))
            continue
        if there.current:
            found.add(there, lambda pack: server.collects or pack.name in present)
    found.leave_out_sparse()
    return found
