"""Packs that no artifact refers to go, and none that an artifact in the making may refer to.

Whoever makes an artifact says so first (`Backend.begin`), then looks at the artifacts that are
there, and refers to their packs. So a pack may go when nobody was making an artifact at a moment
after which no artifact has come that refers to it: artifacts are read, then the writers are asked
for, then it is seen that no artifact came or went meanwhile. Deletions remove the manifest long
before the packs, so a writer that begins later does not find the artifact whose pack goes.
A pack that is sent again while it goes would be lost; so a collector is a writer itself, and
writers that found a pack of theirs in the store wait for it and look again (`upload`).
Two collectors see each other and give way.
"""

from __future__ import annotations

import dataclasses
import time
import uuid as uuids

from chrek import errors, log
from chrek.remote import backend, index, seal

LOG = log.get(__name__)
COLLECTOR = "0" * 16
"""Identity hash that a collector writes under."""
LONGEST_SECONDS = 1800.0
"""No collection takes longer: it is ended."""

Needs = dict[backend.Key, frozenset[str]]
"""Names of the packs that an artifact refers to, which never change: each is read once."""


@dataclasses.dataclass(frozen=True)
class Collected:
    """What a collection did."""

    packs: int = 0
    bytes: int = 0
    why_not: str = ""
    """Why nothing was looked for; empty when it was."""


async def collect(
    server: backend.Backend,
    sealer: seal.Sealer,
    namespace: str,
    *,
    writer_seconds: float,
    needs: Needs,
) -> Collected:
    """Remove a namespace's packs that nobody needs.

    Args:
        writer_seconds: a writer that began longer ago has died.
        needs: what is known of the namespace's artifacts from earlier collections; completed.

    Raises:
        StoreError, ArtifactError: nothing, or not all of it, was removed.
    """
    if server.collects:
        return Collected(why_not="the server does it itself")
    own = backend.Key(namespace, COLLECTOR, "c", str(uuids.uuid4()))
    await server.begin(own)
    try:
        packs = await server.packs(namespace)
        entries = await server.entries(namespace)
        needed = await _needed(server, sealer, entries, needs)
        for writer in await server.writers(namespace):
            if writer.key != own and time.time() - writer.modified < writer_seconds:
                return Collected(why_not=f"artifact {writer.key.uuid} is being made")
        if {e.key for e in await server.entries(namespace)} != {e.key for e in entries}:
            return Collected(why_not="artifacts came or went meanwhile")
        gone = [pack for pack in packs if pack.name not in needed]
        for pack in gone:
            await server.delete_pack(namespace, pack.name)
        await _forget(server, namespace, writer_seconds)
    finally:
        await server.end(own)
    return Collected(packs=len(gone), bytes=sum(pack.size for pack in gone))


async def _needed(
    server: backend.Backend, sealer: seal.Sealer, entries: list[backend.Entry], needs: Needs
) -> set[str]:
    """Packs of all artifacts; what is known of others is forgotten.

    Raises:
        ArtifactError: of an artifact it cannot be told; then nothing may go.
    """
    for key in needs.keys() - {entry.key for entry in entries}:
        del needs[key]
    for entry in entries:
        if entry.key in needs:
            continue
        try:
            contents = await index.read(server, sealer, entry.key)
        except errors.ArtifactError as err:
            raise errors.ArtifactError(
                f"which packs artifact {entry.key.uuid} needs cannot be told: {err.message}",
                reason=err.reason,
                hint="delete it: nothing else of this namespace goes before that",
            ) from err
        needs[entry.key] = frozenset(pack.name for pack in contents.places.packs)
    return set().union(*needs.values())


async def _forget(server: backend.Backend, namespace: str, writer_seconds: float) -> None:
    """Take back what writers that have died said."""
    for writer in await server.writers(namespace):
        if time.time() - writer.modified >= writer_seconds:
            await server.end(writer.key)


async def collectors(server: backend.Backend, namespace: str) -> bool:
    """Whether somebody is collecting now, who has not died."""
    return any(
        writer.key.identity_hash == COLLECTOR and time.time() - writer.modified < LONGEST_SECONDS
        for writer in await server.writers(namespace)
    )
