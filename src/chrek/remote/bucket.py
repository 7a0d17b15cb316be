"""A store in a bucket of S3, or of a server that speaks its protocol.

What `layout` names lies there. Marks of writers are overwritten and, when asked to, the store's
keys. An artifact's parts are, when its chunks are in other packs, each with `If-Match`. All else is
created with `If-None-Match: *`. So of two who write the same thing one is told. An answer
can be lost after the server has done what it was asked: who is then told that there is such a thing
already looks whether it is the same.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Mapping, Sequence

import blake3

from chrek import config, errors, manifest, names
from chrek.remote import backend, connection, layout, s3objects

PACK_BYTES = 32 << 20
CHECK_SECONDS = 20.0
"""Preflight tries no longer: somebody waits for what it says."""
AT_ONCE = 8
RACES = 3
"""So often a pack may be made by others and be gone again before it is looked at."""
_ORDER = (backend.Part.TABLE, backend.Part.PLACES, backend.Part.MANIFEST)
"""In which they are written: what is half written is not there."""


class Bucket:
    """A `backend.Backend`."""

    pack_bytes = PACK_BYTES
    collects = False

    def __init__(self, settings: config.S3, *, limits: connection.Limits | None = None) -> None:
        """Prepare; nothing is asked yet.

        Without `credentialsPath` the client looks for credentials as AWS's own programs do: in the
        environment, a web identity token, the metadata server. Not verified: it needs AWS.

        Args:
            settings: `storage.s3`.
            limits: how long things may take; None: as usual.

        Raises:
            ConfigError: a setting, the Secret or the certificates cannot be used.
        """
        server = connection.Connection.of(settings)
        self._objects = s3objects.Objects.open(server, limits or connection.Limits())

    async def check(self) -> None:
        objects, name = self._objects.within(CHECK_SECONDS), layout.check()
        data = os.urandom(32).hex().encode()
        if not await objects.create(name, data):
            raise objects.unusable(name, "a new name is there already", s3objects.CACHED)
        try:
            await _try_out(objects, name, data)
        except errors.ChrekError:
            with contextlib.suppress(errors.ChrekError):
                await objects.delete(name)
            raise
        await objects.delete(name)

    async def begin(self, key: backend.Key) -> None:
        await self._objects.put(layout.writer(key), b"", mode="overwrite")

    async def end(self, key: backend.Key) -> None:
        await self._objects.delete(layout.writer(key))

    async def writers(self, namespace: str) -> list[backend.Writer]:
        return [
            backend.Writer(key, one.modified)
            for one in await self._objects.all(layout.writing(namespace))
            if (key := layout.read_writer(namespace, one.name))
        ]

    async def put_pack(self, namespace: str, data: bytes | memoryview) -> backend.Pack:
        view = memoryview(data).cast("B")
        if not 0 < view.nbytes <= connection.LARGEST_BYTES:
            raise errors.InputError(f"no pack has {view.nbytes} bytes")
        name = await asyncio.to_thread(lambda: blake3.blake3(view).hexdigest())
        path = layout.pack(namespace, name)
        for _ in range(RACES):
            if await self._objects.put(path, view):
                return backend.Pack(name, view.nbytes)
            try:
                there = await self._objects.look(path)
            except errors.ArtifactError:
                continue  # Somebody has deleted it since.
            if there.size == view.nbytes:
                return backend.Pack(name, there.size, there.modified)
            why = f"it has {there.size} bytes, and its name stands for {view.nbytes}"
            raise self._objects.unusable(path, why, "it is damaged: delete it")
        raise self._objects.unusable(path, "it is made and deleted again", "see who deletes packs")

    async def read_pack(self, namespace: str, name: str, offset: int, size: int) -> bytes:
        return await self._objects.get(layout.pack(namespace, name), offset=offset, size=size)

    async def commit(self, key: backend.Key, described: backend.Described) -> None:
        parts = backend.texts(described)
        for part in _ORDER:
            path = layout.part(key, part)
            if not await self._objects.create(path, parts[part]):
                why = "there is another artifact of that name"
                raise self._objects.unusable(path, why, "make the checkpoint again")

    async def replace(
        self,
        key: backend.Key,
        parts: Mapping[backend.Part, bytes],
        packs: Sequence[backend.Pack],
    ) -> None:
        for part in _ORDER:
            path = layout.part(key, part)
            if part in parts and not await self._objects.exchange(path, parts[part]):
                why = "somebody else has written it at the same time"
                raise self._objects.unusable(path, why, "it is tried again")
        try:
            await self._objects.look(layout.part(key, backend.Part.MANIFEST))
        except errors.ArtifactError:
            # Deleted meanwhile: the manifest went first, so what was written here is left over.
            await self.delete(key)
            raise

    async def read(self, key: backend.Key, part: backend.Part) -> bytes:
        return await self._objects.get(layout.part(key, part), limit=manifest.MAX_BYTES)

    async def entries(self, namespace: str, identity_hash: str = "") -> list[backend.Entry]:
        hashes = [identity_hash]
        if not identity_hash:
            folders = await self._objects.folders(layout.root(namespace))
            hashes = [name for one in folders if (name := layout.read_identity(namespace, one))]
        limit = asyncio.Semaphore(AT_ONCE)

        async def of(one: str) -> Sequence[s3objects.Object]:
            async with limit:
                return await self._objects.all(layout.identity(namespace, one))

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(of(one)) for one in hashes]
        except BaseExceptionGroup as err:
            raise err.exceptions[0] from None
        parts = {
            part: one
            for one in itertools.chain.from_iterable(task.result() for task in tasks)
            if (part := layout.read_part(namespace, one.name))
        }
        found: list[backend.Entry] = []
        for (key, which), one in parts.items():
            if which == backend.Part.MANIFEST:
                places = parts.get((key, backend.Part.PLACES))
                found.append(backend.Entry(key, one.modified, places.tag if places else ""))
        return sorted(found, key=lambda one: one.modified, reverse=True)

    async def delete(self, key: backend.Key) -> None:
        for part in reversed(_ORDER):
            await self._objects.delete(layout.part(key, part))

    async def packs(self, namespace: str) -> list[backend.Pack]:
        return [
            backend.Pack(name, one.size, one.modified)
            for one in await self._objects.all(layout.packs(namespace))
            if (name := layout.read_pack(namespace, one.name))
        ]

    async def delete_pack(self, namespace: str, name: str) -> None:
        await self._objects.delete(layout.pack(namespace, name))

    async def namespaces(self) -> list[str]:
        folders = await self._objects.folders(layout.NAMESPACES)
        return [name for one in folders if (name := layout.read_namespace(one))]

    async def read_keys(self) -> bytes | None:
        try:
            return await self._objects.get(layout.KEYS, limit=layout.KEYS_BYTES)
        except errors.ArtifactError as err:
            if err.reason == names.Reason.ARTIFACT_MISSING:
                return None
            raise errors.StoreError(err.message, hint=f"restore {layout.KEYS}") from None

    async def write_keys(self, data: bytes, *, replace: bool = False) -> bool:
        if replace:
            return await self._objects.put(layout.KEYS, data, mode="overwrite")
        return await self._objects.create(layout.KEYS, data)

    async def close(self) -> None:
        del self._objects  # The client ends its connections when nobody refers to it.


async def _try_out(objects: s3objects.Objects, name: str, data: bytes) -> None:
    """See that a server does what artifacts rely on, with an object that is there."""
    if await objects.put(name, data[::-1]):
        why = "this server ignores conditional writes: it took a second `If-None-Match: *`"
        hint = "use a server that has them: on this one, one artifact could replace another"
        raise objects.unusable(name, why, hint)
    if await objects.get(name, offset=8, size=16) != data[8:24]:
        raise objects.unusable(name, "it does not hold what was written", s3objects.CACHED)
    if not any(one.name == name for one in await objects.all(layout.CHECKS)):
        raise objects.unusable(name, "the listing that follows does not show it", s3objects.CACHED)
