"""An artifact in the store -> its files, verified, within a bounded amount of memory.

Chunks that lie side by side in a pack are asked for at once, and several such requests are under
way. Each chunk is opened, decompressed, compared with its id and written to its place on a thread.
What no row of the table covers is zero, and stays a hole of the file. That the table told the truth
is seen when the files are compared with the manifest, as those of every artifact are.
"""

from __future__ import annotations

import array
import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import blake3

from chrek import digest, errors, manifest, names, verification
from chrek import store as stores
from chrek.remote import backend, index, pack, places, seal, table

REQUEST_BYTES = 8 << 20
GAP_BYTES = 128 << 10
"""So much that nobody asked for is read rather than another request made."""
REQUESTS_AT_ONCE = 8
_OFFSET_BITS = 32
NAME_BYTES = 255
"""No file system of a node takes longer names. Source: NAME_MAX of the kernel's limits.h."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A range of a pack and the rows of the table that lie in it."""

    pack: int
    offset: int
    size: int
    rows: Sequence[int]


def requests(where: table.Rows[places.Place], wanted: Iterable[int] | None = None) -> list[Request]:
    """What to ask for, in the order of packs.

    Args:
        where: the places of a table's rows.
        wanted: numbers of the rows that are asked for; all by default.
    """
    order = in_order(where, wanted)
    found: list[Request] = []
    rows: list[int] = []
    pack_number, begin, end = -1, 0, 0
    for number in order:
        place = where[number]
        after = max(end, place.offset + place.size)
        near = place.pack == pack_number and place.offset <= end + GAP_BYTES
        if not near or after - begin > REQUEST_BYTES:
            if rows:
                found.append(Request(pack_number, begin, end - begin, tuple(rows)))
            rows, pack_number, begin = [], place.pack, place.offset
            after = place.offset + place.size
        rows.append(number)
        end = after
    if rows:
        found.append(Request(pack_number, begin, end - begin, tuple(rows)))
    return found


def in_order(where: table.Rows[places.Place], wanted: Iterable[int] | None = None) -> list[int]:
    """Numbers of rows, in the order in which they lie in the packs.

    Args:
        wanted: as for `requests`.
    """
    # As numbers: of a million rows, tuples would take 0.2 GB.
    keys = array.array("Q", (place.pack << _OFFSET_BITS | place.offset for place in where))
    return sorted(range(len(where)) if wanted is None else wanted, key=keys.__getitem__)


class _Download:
    """One artifact on its way."""

    def __init__(
        self,
        server: backend.Backend,
        key: backend.Key,
        contents: index.Contents,
        descriptors: Sequence[int],
        sealer: seal.Sealer,
        pool: concurrent.futures.ThreadPoolExecutor,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._server = server
        self._namespace = key.namespace
        self._contents = contents
        self._descriptors = descriptors
        self._sealer = sealer
        self._pool = pool
        self._on_bytes = on_bytes
        self._headers: dict[int, asyncio.Task[bytes]] = {}
        self._read = 0

    async def run(self, on_first: Callable[[], None]) -> int:
        """Returns how many bytes it read of packs."""
        files = [verification.is_pages(file) for file in self._contents.described.files]
        parts: tuple[list[int], list[int]] = [], []
        for number, row in enumerate(self._contents.rows):
            parts[files[row.file]].append(number)
        first, rest = (requests(self._contents.places.places, part) for part in parts)
        waiting = iter([*first, *rest])
        missing = set(map(id, first))

        async def work() -> None:
            for request in waiting:
                await self._fetch(request)
                missing.discard(id(request))
                if not missing:
                    on_first()

        if not missing:
            on_first()

        tasks = [asyncio.create_task(work()) for _ in range(REQUESTS_AT_ONCE)]
        try:
            await asyncio.gather(*tasks)
        finally:
            every = [*tasks, *self._headers.values()]
            for task in every:
                task.cancel()
            await asyncio.gather(*every, return_exceptions=True)
        return self._read

    async def _fetch(self, request: Request) -> None:
        name = self._contents.places.packs[request.pack].name
        header = await self._header(request.pack)
        data = await self._server.read_pack(self._namespace, name, request.offset, request.size)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._pool, self._write, request, header, data)
        self._read += len(data)
        self._on_bytes(sum(self._contents.rows[number].size for number in request.rows))

    async def _header(self, number: int) -> bytes:
        if not self._sealer.header_bytes:
            return b""
        if number not in self._headers:
            name = self._contents.places.packs[number].name
            read = self._server.read_pack(self._namespace, name, 0, self._sealer.header_bytes)
            self._headers[number] = asyncio.ensure_future(read)
        return await asyncio.shield(self._headers[number])

    def _write(self, request: Request, header: bytes, data: bytes) -> None:
        for number, _, chunk in chunks(
            self._sealer, self._contents, request, header=header, data=data
        ):
            row = self._contents.rows[number]
            _write_all(self._descriptors[row.file], chunk, row.offset)


def chunks(
    sealer: seal.Sealer, contents: index.Contents, request: Request, *, header: bytes, data: bytes
) -> Iterator[tuple[int, bytes | memoryview, bytes | memoryview]]:
    """The chunks of what was asked for.

    Args:
        contents: the artifact.
        request: what was asked for.
        header: the first `Sealer.header_bytes` of the pack.
        data: the answer.

    Yields:
        Number of the row, the chunk as it was compressed, the chunk.

    Raises:
        ArtifactError: one is not what the table says.
    """
    view = memoryview(data)
    for number in request.rows:
        row, place = contents.rows[number], contents.places.places[number]
        stored = view[place.offset - request.offset :][: place.size]
        name = contents.described.files[row.file].name
        where = f"at {place.offset} of pack {contents.places.packs[request.pack].name}"
        try:
            compressed = sealer.open(header, place.offset, row.id, place.codec, row.size, stored)
            chunk = pack.decode(pack.Codec(place.codec), compressed, row.size)
        except errors.ArtifactError as err:
            raise errors.ArtifactError(
                f"{name}: the bytes from {row.offset} on, {where}: {err.message}",
                reason=err.reason,
                hint=err.hint,
            ) from err
        if sealer.chunk_id(chunk) != row.id:
            raise errors.ArtifactError(
                f"{name}: the bytes from {row.offset} on are not those that were captured: {where}",
                hint="the artifact is damaged: make the checkpoint again",
            )
        yield number, compressed, chunk


async def find(
    server: backend.Backend, sealer: seal.Sealer, key: backend.Key, described: manifest.Manifest
) -> index.Contents:
    """Read the tables of an artifact, and see that its files can be made of them.

    Args:
        described: its manifest, which the checkpoint's status vouches for.

    Raises:
        ArtifactError: missing or damaged. StoreError: the server failed.
    """
    _check_names(described.files)
    found = await index.contents(server, sealer, key, described)
    _check_holes(described.files, found.rows)
    return found


async def download(
    server: backend.Backend,
    sealer: seal.Sealer,
    key: backend.Key,
    contents: index.Contents,
    directory: pathlib.Path,
    *,
    on_first: Callable[[], None] = lambda: None,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> int:
    """Fetch the files of an artifact into an empty stage.

    Args:
        contents: what `find` found.
        directory: of the stage.
        on_first: called, maybe more than once, when all but the page files is there.
        on_bytes: told of each request how many bytes of files came of it.

    Returns:
        How many bytes were read of packs.

    Raises:
        ArtifactError: missing or damaged. StoreError: the server failed, or the disk.
    """
    with (
        _made(directory, contents.described.files) as descriptors,
        concurrent.futures.ThreadPoolExecutor(digest.THREADS) as pool,
    ):
        for last in (False, True):
            try:
                one = _Download(server, key, contents, descriptors, sealer, pool, on_bytes)
                return await one.run(on_first)
            except errors.ArtifactError as err:
                if last or err.reason != names.Reason.ARTIFACT_MISSING:
                    raise
                # Its chunks may have got into other packs meanwhile.
                packs = contents.places.packs
                contents = await find(server, sealer, key, contents.described)
                if contents.places.packs == packs:
                    raise
        raise AssertionError  # It has returned, or raised.


def _check_names(files: Sequence[manifest.File]) -> None:
    """See that a stage can hold files of these names, and that none is the store's own."""
    for file in files:
        folder, _, name = file.name.rpartition("/")
        right = folder == stores.IMAGES or (not folder and name not in stores.OWN_NAMES)
        if not right or len(name.encode()) > NAME_BYTES:
            raise errors.ArtifactError(
                f"{manifest.NAME}: no file of an artifact can be called {file.name[:NAME_BYTES]!r}",
                hint="the artifact is damaged: make the checkpoint again",
            )


def _check_holes(files: Sequence[manifest.File], rows: table.Table) -> None:
    """See that the manifest too calls zero what no row covers.

    Else sizes that nobody has captured could claim room, and what other artifacts need would go.
    """
    covered = [bytearray(len(file.chunks)) for file in files]
    for row in rows:
        for at in (row.offset, row.offset + row.size - 1):
            covered[row.file][at // manifest.CHUNK_BYTES] = 1
    for file, marks in zip(files, covered, strict=True):
        for number, (mark, wanted) in enumerate(zip(marks, file.chunks, strict=True)):
            at = number * manifest.CHUNK_BYTES
            if not mark and wanted != _zeros(min(manifest.CHUNK_BYTES, file.size - at)):
                raise table.damaged(f"the chunk table: {file.name} lacks what is at {at}")


@functools.lru_cache(maxsize=64)
def _zeros(size: int) -> str:
    """Digest of so many zeros."""
    return blake3.blake3(bytes(size)).hexdigest()


@contextlib.contextmanager
def _made(directory: pathlib.Path, files: Sequence[manifest.File]) -> Iterator[list[int]]:
    """Files of the right sizes; new ones are holes.

    Where a download is begun again they stay the same files: CRIU may have them already.
    """
    with contextlib.ExitStack() as stack:
        found = []
        for file in files:
            flags = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                fd = os.open(directory / file.name, flags, 0o600)
                stack.callback(os.close, fd)
                os.ftruncate(fd, file.size)
            except OSError as err:
                raise _disk(directory, err) from err
            found.append(fd)
        yield found


def _write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        try:
            count = os.pwrite(fd, view, offset)
        except OSError as err:
            raise _disk(pathlib.Path(os.readlink(f"/proc/self/fd/{fd}")), err) from err
        view, offset = view[count:], offset + count


def _disk(path: pathlib.Path, err: OSError) -> errors.StoreError:
    return errors.StoreError(
        f"{path}: {err.strerror}", hint="check the disk of storage.cache.hostPath"
    )
