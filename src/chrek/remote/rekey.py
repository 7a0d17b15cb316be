"""Everything in a store is sealed with a new data key, while it is in use.

    1. `keys.json` gets a new data key, and keeps the one so far as the older one.
    2. Whoever makes an artifact reads `keys.json` first; those who began before are waited for.
    3. Chunks of every artifact are put into new packs, its parts are exchanged.
    4. The older key is dropped, and packs that nobody refers to any more are removed.

It may be interrupted and begun again at any point: it goes on with the same new key. At a registry
nobody says that he makes an artifact: what is captured while this begins may be lost at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid as uuids
from collections.abc import Callable, Sequence

from chrek import errors, manifest, names
from chrek.remote import backend, index, keys, marks, prune, repack, seal, storekeys

SETTLE_SECONDS = 8.0
"""So long two who begin at the same time may need to see that."""
POLL_SECONDS = 2.0
LONGEST_SECONDS = 7 * 86400.0


async def run(
    server: backend.Backend,
    wrappings: Sequence[keys.Wrapping],
    namespaces: Sequence[str],
    *,
    writer_seconds: float,
    report: Callable[[str], None],
) -> None:
    """Do all of it.

    Args:
        wrappings: the Secret's keys.
        namespaces: whose artifacts there may be, beside those that the server lists.
        writer_seconds: a writer that began longer ago has died.
        report: takes a line for each artifact, and for the end.

    Raises:
        StoreError: the server failed, or somebody else does the same; the older key stays.
        ArtifactError: some artifacts cannot be read; the older key stays.
    """
    stored = await server.read_keys()
    if stored is None:
        raise errors.StoreError(
            f"the store has no {keys.NAME}", hint="nothing is encrypted there yet"
        )
    blob = storekeys.renewed(stored, wrappings)
    if blob != stored:
        await server.write_keys(blob, replace=True)
        await asyncio.sleep(SETTLE_SECONDS)
    if await server.read_keys() != blob:
        raise errors.StoreError(
            f"somebody else has written {keys.NAME} at the same time",
            hint="let one do it, and not while the key of the Secret is being replaced",
        )
    sealer = seal.Sealed(storekeys.unwrap(blob, wrappings))
    every = dict.fromkeys([*namespaces, *await server.namespaces()])
    left: list[str] = []
    for namespace in every:
        await _writers_ended(server, namespace, writer_seconds)
        left += await reseal(server, sealer, namespace, report=report)
    if left:
        raise errors.ArtifactError(
            f"{len(left)} artifacts cannot be read, and the older key stays: {'; '.join(left)}",
            hint="delete them, then do this again",
        )
    await server.write_keys(storekeys.settled(blob, wrappings), replace=True)
    report("the older key is gone")
    for namespace in every:
        done = await prune.collect(
            server, sealer, namespace, writer_seconds=writer_seconds, known={}
        )
        if done.why_not:
            where = namespace or "the release's namespace"
            report(f"old packs of {where} are removed later: {done.why_not}")


async def reseal(
    server: backend.Backend, sealer: seal.Sealer, namespace: str, *, report: Callable[[str], None]
) -> list[str]:
    """Seal what is under an older key with the newest.

    Returns:
        What is wrong with the artifacts that could not be.

    Raises:
        StoreError: the server failed.
    """
    own = backend.Key(namespace, repack.REPACKER, "c", str(uuids.uuid4()))
    left: list[str] = []
    async with marks.marked(server, own):
        entries = await server.entries(namespace)
        with contextlib.closing(repack.Mover(server, sealer, namespace)) as mover:
            for key in (entry.key for entry in entries):
                label = index.label(key).removeprefix("/")
                try:
                    if await _reseal(server, sealer, key, mover):
                        report(f"{label} is sealed with the new key")
                except errors.ArtifactError as err:
                    if err.reason != names.Reason.ARTIFACT_MISSING or await _there(server, key):
                        left.append(f"{label}: {err.message}")
    return left


async def _reseal(
    server: backend.Backend, sealer: seal.Sealer, key: backend.Key, mover: repack.Mover
) -> bool:
    """Whether it had to be done."""
    raw = {part: await server.read(key, part) for part in backend.Part}
    if all(map(sealer.current, raw.values())):
        return False
    label = index.label(key)
    plain = {part: sealer.open_part(part, label, raw[part]) for part in raw}
    described = manifest.decode(plain[backend.Part.MANIFEST])
    there = await index.contents(server, sealer, key, described)
    parts = {
        part: sealer.seal_part(part, label, plain[part])
        for part in (backend.Part.MANIFEST, backend.Part.TABLE)
    }
    await mover.rewrite(key, there, lambda _: not there.current, parts)
    return True


async def _there(server: backend.Backend, key: backend.Key) -> bool:
    """Whether an artifact has not been deleted."""
    try:
        await server.read(key, backend.Part.MANIFEST)
    except errors.ArtifactError as err:
        return err.reason != names.Reason.ARTIFACT_MISSING
    return True


async def _writers_ended(server: backend.Backend, namespace: str, writer_seconds: float) -> None:
    """Wait for those who may still seal with the older key."""
    before = {writer.key for writer in await server.writers(namespace)}
    while before:
        await asyncio.sleep(POLL_SECONDS)
        before &= {
            writer.key
            for writer in await server.writers(namespace)
            if time.time() - writer.modified < writer_seconds
        }
