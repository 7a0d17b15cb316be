"""A store in a bucket of S3, or of a server that speaks its protocol.

What `layout` names lies there. Nothing is overwritten but marks of writers and, when asked to, the
store's keys: all else is created with `If-None-Match: *`, so of two who make the same thing one is
told. An answer can be lost after the server has done what it was asked: who is then told that there
is such a thing already looks whether it is the same.

Reads and listings are repeated by the client, which keeps its place in them, and again by `_ask`;
what changes something by `_ask` alone. Time is limited by silence where the client lets it, and by
the size of what is moved: a slow line is no failure.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import blake3
import obstore
import obstore.exceptions
import obstore.store

from chrek import config, errors, log, manifest, names
from chrek.remote import accesskey, backend, connection, failure, layout

PACK_BYTES = 32 << 20
CHECK_SECONDS = 20.0
"""Preflight tries no longer: somebody waits for what it says."""
PAGE = 1000
"""Names in one answer to a listing."""
LISTED = 2_000_000
"""No listing is longer: a million packs are 32 TiB."""
AT_ONCE = 8
PIECE_BYTES = 1 << 20
RACES = 3
"""So often a pack may be made by others and be gone again before it is looked at."""
LOG = log.get(__name__)

ResultT = TypeVar("ResultT")
_Mode = Literal["create", "overwrite"]
_CACHED = "is there a cache or a proxy in front of the server?"
_FAILURES = (obstore.exceptions.BaseError, OSError, ValueError, NotImplementedError)


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
        self._objects = _Objects.open(server, limits or connection.Limits())

    async def check(self) -> None:
        objects, name = self._objects.within(CHECK_SECONDS), layout.check()
        data = os.urandom(32).hex().encode()
        if not await objects.create(name, data):
            raise objects.unusable(name, "a new name is there already", _CACHED)
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
            if await self._objects.put(path, view, mode="create"):
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
        parts = {
            backend.Part.TABLE: described.table,
            backend.Part.PLACES: described.places,
            backend.Part.MANIFEST: described.manifest,
        }
        for part, data in parts.items():
            path = layout.part(key, part)
            if not await self._objects.create(path, data):
                why = "there is another artifact of that name"
                raise self._objects.unusable(path, why, "make the checkpoint again")

    async def read(self, key: backend.Key, part: backend.Part) -> bytes:
        return await self._objects.get(layout.part(key, part), limit=manifest.MAX_BYTES)

    async def entries(self, namespace: str, identity_hash: str = "") -> list[backend.Entry]:
        hashes = [identity_hash]
        if not identity_hash:
            folders = await self._objects.folders(layout.root(namespace))
            hashes = [name for one in folders if (name := layout.read_identity(namespace, one))]
        limit = asyncio.Semaphore(AT_ONCE)

        async def of(one: str) -> Sequence[_Object]:
            async with limit:
                return await self._objects.all(layout.identity(namespace, one))

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(of(one)) for one in hashes]
        except BaseExceptionGroup as err:
            raise err.exceptions[0] from None
        found = [
            backend.Entry(key, one.modified)
            for one in itertools.chain.from_iterable(task.result() for task in tasks)
            if (key := layout.read_manifest(namespace, one.name))
        ]
        return sorted(found, key=lambda one: one.modified, reverse=True)

    async def delete(self, key: backend.Key) -> None:
        for part in (backend.Part.MANIFEST, backend.Part.TABLE, backend.Part.PLACES):
            await self._objects.delete(layout.part(key, part))

    async def packs(self, namespace: str) -> list[backend.Pack]:
        return [
            backend.Pack(name, one.size, one.modified)
            for one in await self._objects.all(layout.packs(namespace))
            if (name := layout.read_pack(namespace, one.name))
        ]

    async def delete_pack(self, namespace: str, name: str) -> None:
        await self._objects.delete(layout.pack(namespace, name))

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


async def _try_out(objects: _Objects, name: str, data: bytes) -> None:
    """See that a server does what artifacts rely on, with an object that is there."""
    if await objects.put(name, data[::-1], mode="create"):
        why = "this server ignores conditional writes: it took a second `If-None-Match: *`"
        hint = "use a server that has them: on this one, one artifact could replace another"
        raise objects.unusable(name, why, hint)
    if await objects.get(name, offset=8, size=16) != data[8:24]:
        raise objects.unusable(name, "it does not hold what was written", _CACHED)
    if not any(one.name == name for one in await objects.all(layout.CHECKS)):
        raise objects.unusable(name, "the listing that follows does not show it", _CACHED)


@dataclasses.dataclass(frozen=True)
class _Object:
    """What a server says of an object."""

    name: str
    size: int
    modified: float

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> _Object:
        return cls(meta["path"], meta["size"], meta["last_modified"].timestamp())


async def _collect(answer: obstore.GetResult, length: int) -> bytes:
    pieces, left = [], length
    async for piece in answer.stream(PIECE_BYTES):
        left -= len(piece)
        if left < 0:
            break  # However much more would come.
        pieces.append(piece)
    if left:
        raise ConnectionError("it sent more or less than it had announced")
    return b"".join(pieces)


@dataclasses.dataclass(frozen=True)
class _Objects:
    """Objects below the prefix; every request is limited in time, and tried again."""

    server: connection.Connection
    limits: connection.Limits
    reads: obstore.store.S3Store
    writes: obstore.store.S3Store

    @classmethod
    def open(cls, one: connection.Connection, limits: connection.Limits) -> _Objects:
        def client(*, reads: bool) -> obstore.store.S3Store:
            return obstore.store.S3Store(one.place.bucket, **one.store_options(limits, reads=reads))

        try:
            made = cls(one, limits, client(reads=True), client(reads=False))
        except (obstore.exceptions.BaseError, ValueError):
            raise errors.ConfigError(
                f"bucket {one.place.bucket}: no client can be made of the settings",
                hint="storage.s3.caBundle must be in PEM, and the system have ca-certificates",
            ) from None
        connection.settle_at_exit()
        return made

    def within(self, seconds: float) -> _Objects:
        """The same, tried again for less long."""
        return dataclasses.replace(self, limits=self.limits.within(seconds))

    async def put(self, name: str, data: bytes | memoryview, *, mode: _Mode) -> bool:
        """Store an object; False when it is to be created and there is one."""

        async def once() -> bool:
            try:
                await obstore.put_async(self.writes, name, data, mode=mode, use_multipart=False)
            except obstore.exceptions.AlreadyExistsError as err:
                # The client says so as well when the server is at it for somebody else: 409.
                if failure.read(err).status == 409:
                    raise
                return False
            return True

        return await self._ask(failure.Action.PUT, name, once, size=len(data))

    async def create(self, name: str, data: bytes) -> bool:
        """Store a new object; False when there is one that is not the same."""
        if await self.put(name, data, mode="create"):
            return True
        try:
            return await self.get(name, limit=connection.LARGEST_BYTES) == data
        except errors.ArtifactError:
            return False

    async def look(self, name: str) -> _Object:
        """What the server says of an object that is not empty."""

        async def once() -> _Object:
            # An answer to HEAD has no body: nobody would learn why it is refused.
            answer = await obstore.get_async(self.reads, name, options={"range": (0, 1)})
            await answer.bytes_async()
            return _Object.of(answer.meta)

        return await self._ask(failure.Action.GET, name, once)

    async def get(self, name: str, *, offset: int = 0, size: int = 0, limit: int = 0) -> bytes:
        """Exactly `size` bytes of an object from `offset`, or all of it: `limit` bytes at most."""

        async def once() -> bytes:
            options: Any = {"range": (offset, offset + size)} if size else {}
            answer = await obstore.get_async(self.reads, name, options=options)
            length = answer.range[1] - answer.range[0]
            if length != size if size else length > limit:
                wrong = failure.Failure(why=f"it has {answer.meta['size']} bytes", damaged=True)
                raise self._error(failure.Action.GET, name, wrong)
            return await _collect(answer, length)

        return await self._ask(failure.Action.GET, name, once, size=size or limit)

    async def delete(self, name: str) -> None:
        """Remove an object, which need not be there."""

        async def once() -> None:
            await obstore.delete_async(self.writes, name)

        with contextlib.suppress(errors.ArtifactError):
            await self._ask(failure.Action.DELETE, name, once)

    async def all(self, start: str) -> Sequence[_Object]:
        """All objects below a name."""

        async def once() -> list[_Object]:
            found: list[_Object] = []
            pages = aiter(obstore.list(self.reads, start, chunk_size=PAGE))
            while len(found) <= LISTED:
                async with asyncio.timeout(self.limits.seconds(0)):
                    page = await anext(pages, None)
                if page is None:
                    return found
                found += map(_Object.of, page)
            why = f"there are more than {LISTED} objects below it"
            raise self.unusable(start, why, "use a prefix that only chrek uses")

        return await self._believed(await self._ask(failure.Action.LIST, start, once, size=None))

    async def folders(self, start: str) -> Sequence[str]:
        """What names of objects have between `start` and the next slash."""

        async def once() -> Sequence[str]:
            found = await obstore.list_with_delimiter_async(self.reads, start or None)
            return found["common_prefixes"]

        size = connection.LARGEST_BYTES
        return await self._believed(await self._ask(failure.Action.LIST, start, once, size=size))

    async def _believed(self, found: Sequence[ResultT]) -> Sequence[ResultT]:
        """A listing, when it is one: a proxy's page reads like one of nothing to the client.

        Who believed that would delete what is needed. The server must know that a name is missing.
        """
        if found:
            return found
        try:
            await self.look(name := layout.check())
        except errors.ArtifactError:
            return found
        raise self.unusable(name, "a name that nobody has used is there", _CACHED)

    def unusable(self, name: str, why: str, hint: str) -> Exception:
        """The error that what is there, or what the server does, cannot be used."""
        return self._error(failure.Action.GET, name, failure.Failure(why=why, hint=hint))

    async def _ask(
        self,
        action: failure.Action,
        name: str,
        once: Callable[[], Awaitable[ResultT]],
        *,
        size: int | None = 0,
    ) -> ResultT:
        """Ask until there is an answer that asking again would not change, or time is up."""
        ends = time.monotonic() + self.limits.deadline_seconds
        for attempt in itertools.count():
            key = self._key()
            try:
                async with asyncio.timeout(None if size is None else self.limits.seconds(size)):
                    return await once()
            except _FAILURES as err:
                failed = failure.read(err)
            wait = self.limits.pause(attempt)
            # The Secret may have been replaced while the request was under way.
            again = failed.passing or (failed.denied and self._key() != key)
            if not again or time.monotonic() + wait >= ends:
                break
            LOG.info("bucket asked again", action=action.name, object=name, why=failed.short)
            await asyncio.sleep(wait)
        # Raised here, without what the client said: that may hold headers of the request.
        raise self._error(action, name, failed)

    def _key(self) -> accesskey.Key | None:
        try:
            return self.server.secret.key() if self.server.secret else None
        except errors.ConfigError as err:
            raise errors.StoreError(
                err.message, hint=err.hint, reason=names.Reason.STORE_DENIED
            ) from None

    def _error(self, action: failure.Action, name: str, failed: failure.Failure) -> Exception:
        place = self.server.place
        key = self._key()
        # AWS repeats nothing of a request; what another server would, is not known without a key.
        hidden = key.secrets if key else (() if not place.endpoint else None)
        return failure.explain(failed, place, action=action, name=name, hidden=hidden)
