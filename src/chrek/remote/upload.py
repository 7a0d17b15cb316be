"""A stage -> packs, tables and manifest in the store, within a bounded amount of memory.

Chunks are read, compared with zeros and digested on threads, and put into packs in the order of
the table. What the store has already is referred to. Packs are sent while the next one is filled.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import pathlib
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from chrek import digest, errors, manifest
from chrek import store as stores
from chrek.remote import backend, chunking, index, marks, pack, places, prune, seal, table
from chrek.remote import packs as packs_module

AHEAD = 8
"""Windows of 4 MiB that are read ahead."""
COLLECTOR_POLL_SECONDS = 1.0
TOLD_BYTES = 8 << 20
_PLACE = struct.Struct("<?IIIB")


@dataclasses.dataclass(frozen=True)
class Uploaded:
    """What became of an artifact's bytes."""

    sent_bytes: int
    """In packs that the store did not have."""
    packs: int
    chunks: int
    known_chunks: int


@dataclasses.dataclass(frozen=True)
class _Chunk:
    span: chunking.Span
    id: bytes
    codec: pack.Codec
    stored: bytes | memoryview
    """Empty when the store has it."""


async def upload(
    server: backend.Backend,
    sealer: seal.Sealer,
    key: backend.Key,
    directory: pathlib.Path,
    text: bytes,
    *,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Uploaded:
    """Send an artifact and commit it.

    Args:
        directory: has the files that the manifest names.
        text: the manifest, which is stored byte for byte.
        on_bytes: told how many bytes more of the files are there: of those in packs when a pack is
            stored, of zeros and of what the store had when they were read.

    Raises:
        StoreError: the server failed; there is no such artifact, and what was sent of it goes when
            the store is swept.
    """
    described = manifest.decode(text)
    async with marks.marked(server, key):
        known = await index.known(server, sealer, key)
        with concurrent.futures.ThreadPoolExecutor(digest.THREADS) as pool:
            packs = packs_module.Packs(server, key.namespace, sealer, on_sent=on_bytes)
            try:
                made, way = _Assembly(known), _Way(described.files, on_bytes)
                with _opened(directory, described.files) as descriptors:
                    windows = chunking.plan(directory / stores.IMAGES, described.files)
                    async for chunk in _read_ahead(pool, windows, descriptors, sealer, made):
                        way.go(chunk.span, sent=chunk.id not in made)
                        await made.add(chunk, packs)
                way.end()
                own = await packs.all()
            except BaseException:
                packs.cancel()
                raise
        tools = for_tools(described, told=not sealer.header_bytes)
        done = _described(key, text, made, own, sealer, tools)
        await look_again(server, key.namespace, own)
        await server.commit(key, done)
    return Uploaded(sum(one.size for one in own), len(own), made.chunks, made.known_chunks)


async def look_again(server: backend.Backend, namespace: str, own: Sequence[backend.Pack]) -> None:
    """See that packs which the store had already have not gone meanwhile; see `prune`."""
    found = {one.name for one in own if one.modified}
    if not found or server.collects:
        return
    while await prune.collectors(server, namespace):
        await asyncio.sleep(COLLECTOR_POLL_SECONDS)
    gone = found - {one.name for one in await server.packs(namespace)}
    if gone:
        raise errors.StoreError(
            f"{len(gone)} packs went while the artifact was being made", hint="make it again"
        )


class _Way:
    """How far the files were read, for what is not told of when a pack is stored."""

    def __init__(self, files: Sequence[manifest.File], on_bytes: Callable[[int], None]) -> None:
        *self._starts, self._all = itertools.accumulate((one.size for one in files), initial=0)
        self._on_bytes = on_bytes
        self._at = 0
        self._untold = 0

    def go(self, span: chunking.Span, *, sent: bool) -> None:
        """On to the end of a chunk, over zeros before it."""
        end = self._starts[span.file] + span.offset + span.size
        self._untold += end - self._at - (span.size if sent else 0)
        self._at = end
        if self._untold >= TOLD_BYTES:
            self._tell()

    def end(self) -> None:
        self._untold += self._all - self._at
        self._tell()

    def _tell(self) -> None:
        self._on_bytes(self._untold)
        self._untold = 0


class _Assembly:
    """The tables of an artifact in the making: a few bytes for each chunk."""

    def __init__(self, known: index.Catalogue) -> None:
        self._known = known
        self._rows = bytearray()
        self._places = bytearray()
        """Of each row: which pack of which kind, and where in it."""
        self._borrowed = places.Builder()
        self._seen: dict[int, int] = {}
        """Half a chunk id -> number of the first row that has it: the other half stands there."""
        self.chunks = 0
        self.known_chunks = 0

    def __contains__(self, chunk_id: bytes) -> bool:
        """Whether it need not be sent; safe in all threads."""
        return self._first(chunk_id) is not None or self._known.get(chunk_id) is not None

    def _first(self, chunk_id: bytes) -> int | None:
        """Number of the first row that has a chunk."""
        number = self._seen.get(_half(chunk_id))
        if number is None:
            return None
        end = (number + 1) * table.ROW_BYTES
        return number if self._rows[end - len(chunk_id) : end] == chunk_id else None

    async def add(self, chunk: _Chunk, packs: packs_module.Packs) -> None:
        """The next row; its chunk is sent unless it is stored already."""
        first = self._first(chunk.id)
        if first is not None:
            at = first * _PLACE.size
            place = bytes(self._places[at : at + _PLACE.size])
        elif (known := self._known.get(chunk.id)) is not None:
            number = self._borrowed.number(known.pack)
            place = _PLACE.pack(True, number, *known.place[1:])
        else:
            size = chunk.span.size
            sent = await packs.add(chunk.id, chunk.codec, chunk.stored, size=size)
            place = _PLACE.pack(False, *sent)
        self._seen.setdefault(_half(chunk.id), self.chunks)
        self._places += place
        self._rows += table.pack_row(table.Row(*chunk.span, chunk.id))
        self.chunks += 1
        self.known_chunks += place[0]

    def tables(self, own: Sequence[backend.Pack]) -> tuple[list[backend.Pack], bytes, bytes]:
        """Packs, chunk table and place table, once the packs that were sent have names."""
        # They take as much memory as what is made now.
        self._seen, self._known = {}, index.Catalogue()
        # All of those that were sent, also where it was in vain.
        made = places.Builder(own)
        borrowed = self._borrowed.packs
        for known, number, *place in _PLACE.iter_unpack(self._places):
            made.add((borrowed if known else own)[number], places.Place(number, *place))
        return made.packs, table.encode_packed(self._rows), made.encode()


def _half(chunk_id: bytes) -> int:
    return int.from_bytes(chunk_id[:8], "little")


async def _read_ahead(
    pool: concurrent.futures.ThreadPoolExecutor,
    windows: Sequence[chunking.Window],
    descriptors: Sequence[int],
    sealer: seal.Sealer,
    seen: _Assembly,
) -> AsyncIterator[_Chunk]:
    """Chunks in the order of the table, zeros left out."""
    waiting: collections.deque[asyncio.Future[list[_Chunk]]] = collections.deque()
    loop = asyncio.get_running_loop()

    def prepare(window: chunking.Window) -> list[_Chunk]:
        data = os.pread(descriptors[window.file], window.size, window.offset)
        if len(data) != window.size:
            raise errors.StoreError(f"the stage changed: {len(data)} bytes of {window}")
        made = []
        for span in chunking.spans(window, data):
            body = memoryview(data)[span.offset - window.offset :][: span.size]
            name = sealer.chunk_id(body)
            codec, stored = (pack.Codec.RAW, b"") if name in seen else pack.encode(body)
            made.append(_Chunk(span, name, codec, stored))
        return made

    try:
        for window in windows:
            waiting.append(loop.run_in_executor(pool, prepare, window))
            if len(waiting) >= AHEAD:
                for chunk in await waiting.popleft():
                    yield chunk
        while waiting:
            for chunk in await waiting.popleft():
                yield chunk
    finally:
        for future in waiting:
            future.cancel()


@contextlib.contextmanager
def _opened(directory: pathlib.Path, files: Sequence[manifest.File]) -> Iterator[list[int]]:
    with contextlib.ExitStack() as stack:
        found = []
        for file in files:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            found.append(os.open(directory / file.name, flags))
            stack.callback(os.close, found[-1])
        yield found


def _described(
    key: backend.Key,
    text: bytes,
    made: _Assembly,
    own: Sequence[backend.Pack],
    sealer: seal.Sealer,
    annotations: dict[str, str],
) -> backend.Described:
    listed, rows, where = made.tables(own)
    label = index.label(key)
    texts = {
        backend.Part.MANIFEST: text,
        backend.Part.TABLE: rows,
        backend.Part.PLACES: where,
    }
    sealed = {part: sealer.seal_part(part, label, one) for part, one in texts.items()}
    return backend.Described(
        manifest=sealed[backend.Part.MANIFEST],
        table=sealed[backend.Part.TABLE],
        places=sealed[backend.Part.PLACES],
        packs=listed,
        annotations=annotations,
    )


def for_tools(described: manifest.Manifest, *, told: bool) -> dict[str, str]:
    """What tools that know checkpoints show of an artifact in a registry.

    The container's name is left out: container runtimes would take the artifact for an image of
    theirs, to be restored by themselves, if a pod named it as its image.

    Args:
        told: also what an encrypted artifact does not show.

    Source: lib/annotations.go of https://github.com/checkpoint-restore/checkpointctl
    """
    source = described.source
    found = {
        "org.criu.checkpoint.engine.name": "chrek",
        "org.criu.checkpoint.engine.version": described.chrekVersion,
        "org.opencontainers.image.created": described.createdAt,
        "com.nvidia.chrek.identity-hash": described.identityHash,
        "com.nvidia.chrek.variant": described.variant,
        "com.nvidia.chrek.uuid": described.uuid,
    }
    if not told:
        return found
    return found | {
        "org.criu.checkpoint.pod.name": source.hostname,
        "org.criu.checkpoint.rootfsImageName": source.image,
        "org.criu.checkpoint.host.arch": source.architecture,
        "org.criu.checkpoint.host.kernel": source.kernel,
        "org.criu.checkpoint.criu.version": source.criu,
    }
