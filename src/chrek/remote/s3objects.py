"""Objects of a bucket: every request is limited in time, and asked again where that may help.

Reads and listings are repeated by the client, which keeps its place in them, and again by `_ask`;
what changes something by `_ask` alone. Time is limited by silence where the client lets it, and by
the size of what is moved: a slow line is no failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import obstore
import obstore.exceptions
import obstore.store

from chrek import deadline, errors, log, names, retries
from chrek.remote import accesskey, connection, failure, layout

PAGE = 1000
"""Names in one answer to a listing."""
LISTED = 2_000_000
"""No listing is longer: a million packs are 32 TiB."""
PIECE_BYTES = 1 << 20
CACHED = "is there a cache or a proxy in front of the server?"
LOG = log.get(__name__)

ResultT = TypeVar("ResultT")
Mode = Literal["create", "overwrite"]
_FAILURES = (obstore.exceptions.BaseError, OSError, ValueError, NotImplementedError)


@dataclasses.dataclass(frozen=True)
class Object:
    """What a server says of an object."""

    name: str
    size: int
    modified: float
    tag: str
    """Another one when something else was written; empty where the server sends none."""

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Object:
        modified = meta["last_modified"].timestamp()
        return cls(meta["path"], meta["size"], modified, meta.get("e_tag") or "")


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
class Objects:
    """Objects below the prefix; every request is limited in time, and tried again."""

    server: connection.Connection
    limits: connection.Limits
    reads: obstore.store.S3Store
    writes: obstore.store.S3Store

    @classmethod
    def open(cls, one: connection.Connection, limits: connection.Limits) -> Objects:
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

    def within(self, seconds: float) -> Objects:
        """The same, tried again for less long."""
        return dataclasses.replace(self, limits=self.limits.within(seconds))

    async def put(
        self, name: str, data: bytes | memoryview, *, mode: Mode = "create", over: str = ""
    ) -> bool:
        """Store an object; False when there is another than the mode allows.

        Args:
            over: the tag of the one that it may be written over, instead of a mode.
        """

        async def once() -> bool:
            try:
                await obstore.put_async(
                    self.writes,
                    name,
                    data,
                    mode={"e_tag": over} if over else mode,
                    use_multipart=False,
                )
            except obstore.exceptions.PreconditionError:
                return False
            except obstore.exceptions.AlreadyExistsError as err:
                # The client says so as well when the server is at it for somebody else: 409.
                if failure.read(err).status == 409:
                    raise
                return False
            return True

        return await self._ask(failure.Action.PUT, name, once, size=len(data))

    async def create(self, name: str, data: bytes) -> bool:
        """Store a new object; False when there is one that is not the same."""
        return await self.put(name, data) or await self._has(name, data)

    async def exchange(self, name: str, data: bytes) -> bool:
        """Write over an object; False when somebody else has, meanwhile.

        Raises:
            ArtifactError: there is none.
        """
        there = await self.look(name)
        if not there.tag:
            raise self.unusable(name, "the server sends no ETag", "use a server that does")
        return await self.put(name, data, over=there.tag) or await self._has(name, data)

    async def _has(self, name: str, data: bytes) -> bool:
        """Whether it is that, as when the answer to whoever wrote it was lost."""
        try:
            return await self.get(name, limit=connection.LARGEST_BYTES) == data
        except errors.ArtifactError:
            return False

    async def look(self, name: str) -> Object:
        """What the server says of an object that is not empty."""

        async def once() -> Object:
            # An answer to HEAD has no body: nobody would learn why it is refused.
            answer = await obstore.get_async(self.reads, name, options={"range": (0, 1)})
            await answer.bytes_async()
            return Object.of(answer.meta)

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

    async def all(self, start: str) -> Sequence[Object]:
        """All objects below a name."""

        async def once() -> list[Object]:
            found: list[Object] = []
            pages = aiter(obstore.list(self.reads, start, chunk_size=PAGE))
            while len(found) <= LISTED:
                async with asyncio.timeout(self.limits.seconds(0)):
                    page = await anext(pages, None)
                if page is None:
                    return found
                found += map(Object.of, page)
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
        raise self.unusable(name, "a name that nobody has used is there", CACHED)

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
        ends = min(time.monotonic() + self.limits.deadline_seconds, deadline.ends())
        failed = failure.Failure()
        for attempt in itertools.count():
            key = self._key()
            try:
                limit = math.inf if size is None else self.limits.seconds(size)
                limit = min(limit, deadline.left())
                async with asyncio.timeout(None if math.isinf(limit) else limit):
                    return await once()
            except _FAILURES as err:
                # What cut the last try short says less than the one before.
                if not attempt or deadline.left():
                    failed = failure.read(err)
            wait = self.limits.pause(attempt)
            # The Secret may have been replaced while the request was under way.
            again = failed.passing or (failed.denied and self._key() != key)
            if not again or time.monotonic() + wait >= ends:
                break
            retries.count(action.name)
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
