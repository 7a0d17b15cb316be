"""Chunks that a namespace's artifacts have in the store already: they need not be sent again.

Artifacts of the same identity are looked at first, then the newest of the namespace. A pack of
which they use less than half is not referred to any more, so that it goes with them: that bounds
what the store holds beyond what its artifacts need.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Iterable, Sequence

from chrek import errors, log, manifest
from chrek.remote import backend, places, seal, table

LOG = log.get(__name__)
MOST_ARTIFACTS = 8
WORTH_KEEPING = 0.5


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


def table_of_places(
    first: Iterable[backend.Pack], found: Sequence[Known]
) -> tuple[list[backend.Pack], bytes]:
    """The packs that an artifact refers to, and its place table.

    Args:
        first: packs that come first among them.
        found: where each chunk of its table is.
    """
    packs = {one.name: one for one in first}
    for one in found:
        packs.setdefault(one.pack.name, one.pack)
    numbers = {name: number for number, name in enumerate(packs)}
    listed = list(packs.values())
    rows = (one.place._replace(pack=numbers[one.pack.name]) for one in found)
    return listed, places.encode(listed, rows)


def label(key: backend.Key) -> str:
    """What a sealed part says it belongs to."""
    return "/".join((key.namespace, key.identity_hash, key.variant, key.uuid))


async def known(
    server: backend.Backend, sealer: seal.Sealer, key: backend.Key
) -> dict[bytes, Known]:
    """Chunk id -> where it is, of artifacts that a new one may resemble."""
    entries = await server.entries(key.namespace)
    entries.sort(key=lambda entry: entry.key.identity_hash != key.identity_hash)
    present = {pack.name for pack in await server.packs(key.namespace)}
    found: dict[bytes, Known] = {}
    used: collections.Counter[str] = collections.Counter()
    for entry in entries[:MOST_ARTIFACTS]:
        try:
            there = await read(server, sealer, entry.key)
        except errors.ChrekError as err:
            # It is of no use to a pod either; whoever is to be restored from it says so.
            LOG.warning("artifact cannot be read", uuid=entry.key.uuid, error=str(err))
            continue
        if not there.current:
            continue
        for row, place in zip(there.rows, there.places.places, strict=True):
            pack = there.places.packs[place.pack]
            if row.id not in found and (server.collects or pack.name in present):
                found[row.id] = Known(pack, place)
                used[pack.name] += place.size
    return {
        chunk: one
        for chunk, one in found.items()
        if used[one.pack.name] >= WORTH_KEEPING * one.pack.size
    }
