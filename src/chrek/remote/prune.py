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

from chrek import log
from chrek.remote import backend, marks, seal, usage

LOG = log.get(__name__)
COLLECTOR = "0" * 16
"""Identity hash that a collector writes under."""
LONGEST_SECONDS = 1800.0
"""No collection takes longer: it is ended."""


@dataclasses.dataclass(frozen=True)
class Collected:
    """What a collection did."""

    packs: int = 0
    bytes: int = 0
    why_not: str = ""
    """Why nothing was looked for; empty when it was."""
    less_used: bool = False
    """Of packs that stay less may be used than before: see `repack`."""


async def collect(
    server: backend.Backend,
    sealer: seal.Sealer,
    namespace: str,
    *,
    writer_seconds: float,
    known: usage.Known,
) -> Collected:
    """Remove a namespace's packs that nobody needs.

    Args:
        writer_seconds: a writer that began longer ago has died.
        known: what is known of the namespace's artifacts from earlier; completed.

    Raises:
        StoreError, ArtifactError: nothing, or not all of it, was removed.
    """
    if server.collects:
        return Collected(why_not="the server does it itself")
    own = backend.Key(namespace, COLLECTOR, "c", str(uuids.uuid4()))
    async with marks.marked(server, own):
        packs = await server.packs(namespace)
        entries = await server.entries(namespace)
        less_used = await usage.complete(server, sealer, entries, known)
        for writer in await server.writers(namespace):
            if writer.key != own and time.time() - writer.modified < writer_seconds:
                return Collected(why_not=f"artifact {writer.key.uuid} is being made")
        if {e.key for e in await server.entries(namespace)} != {e.key for e in entries}:
            return Collected(why_not="artifacts came or went meanwhile")
        needed = usage.packs(known)
        gone = [pack for pack in packs if pack.name not in needed]
        for pack in gone:
            await server.delete_pack(namespace, pack.name)
        await _forget(server, namespace, writer_seconds)
    gone_bytes = sum(pack.size for pack in gone)
    return Collected(packs=len(gone), bytes=gone_bytes, less_used=less_used)


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
