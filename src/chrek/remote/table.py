"""Which chunks the files of an artifact consist of: binary, with rows of a fixed width.

    CHRKTBL1            magic number, 8 bytes
    number of rows      u64; all numbers are little-endian
    rows                u32 file, u64 offset in it, u32 size, 32 bytes id of the chunk
    digest              BLAKE3 of all before, 32 bytes

A file is its number in the manifest. Rows are sorted by file and offset and do not overlap. What
no row covers is zero.

The same frame, with another magic number, holds the places (`places`).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import blake3

from chrek import errors, manifest

MAGIC = b"CHRKTBL1"
_HEADER = struct.Struct("<8sQ")
_ROW = struct.Struct("<IQI32s")
ROW_BYTES = _ROW.size
"""The id of the chunk is its end."""
_DIGEST_BYTES = 32
MAX_ROWS = (manifest.MAX_BYTES - _HEADER.size - _DIGEST_BYTES) // _ROW.size
"""So that a table is at most 64 MiB: 1.4 million chunks."""

RowT = TypeVar("RowT")


class Row(NamedTuple):
    """A chunk of a file."""

    file: int
    offset: int
    """Bytes from the start of the file."""
    size: int
    """Bytes; at most `manifest.CHUNK_BYTES`."""
    id: bytes
    """Equal where the contents are: what the chunk is known by."""


class Rows(Generic[RowT]):
    """Rows in the form that they were read in: a million of them as objects is too much."""

    def __init__(self, data: memoryview, shape: struct.Struct, kind: Callable[..., RowT]) -> None:
        self._data = data
        self._shape = shape
        self._kind = kind

    def __len__(self) -> int:
        return len(self._data) // self._shape.size

    def __getitem__(self, number: int) -> RowT:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._kind(*self._shape.unpack_from(self._data, number * self._shape.size))

    def __iter__(self) -> Iterator[RowT]:
        return itertools.starmap(self._kind, self._shape.iter_unpack(self._data))


Table = Rows[Row]


def encode(rows: Iterable[Row]) -> bytes:
    """The bytes of a table; the rows are in order.

    Raises:
        UnsupportedError: more than `MAX_ROWS`.
    """
    packed = bytearray()
    for row in rows:
        packed += pack_row(row)
    return encode_packed(packed)


def pack_row(row: Row) -> bytes:
    """A row as it stands in the table."""
    return _ROW.pack(*row)


def encode_packed(packed: bytearray) -> bytes:
    """As `encode`, of rows that were packed by `pack_row`.

    Raises:
        UnsupportedError: more than `MAX_ROWS`.
    """
    count = len(packed) // _ROW.size
    if count > MAX_ROWS:
        raise errors.UnsupportedError(
            f"{count} chunks, at most {MAX_ROWS} fit into the table",
            hint="keep artifacts of this worker on a volume: storage.type=pvc",
        )
    return frame(MAGIC, count, packed)


def decode(data: bytes, files: Sequence[manifest.File]) -> Table:
    """Read a table that may be damaged or hostile.

    Args:
        data: all of it.
        files: those of the manifest.

    Raises:
        ArtifactError: it is not one, or does not fit the files.
    """
    count, rows = unframe(data, MAGIC, "the chunk table")
    if len(rows) != count * _ROW.size:
        raise damaged(f"the chunk table: {count} rows in {len(rows)} bytes")
    _check(rows, files)
    return Table(rows, _ROW, Row)


def frame(magic: bytes, count: int, body: bytes | bytearray) -> bytes:
    """A header, a body and the digest of both."""
    header = _HEADER.pack(magic, count)
    digest = blake3.blake3(header).update(body).digest()
    return b"".join((header, body, digest))


def unframe(data: bytes, magic: bytes, what: str) -> tuple[int, memoryview]:
    """The number of rows that a header tells, and the body.

    Raises:
        ArtifactError: wrong magic number, digest, or length.
    """
    if len(data) < _HEADER.size + _DIGEST_BYTES or len(data) > manifest.MAX_BYTES:
        raise damaged(f"{what} has {len(data)} bytes, more or fewer than any")
    view = memoryview(data)
    found, count = _HEADER.unpack_from(view)
    if found != magic:
        raise damaged(f"{what} starts with {found!r} instead of {magic!r}")
    body = view[:-_DIGEST_BYTES]
    digest = blake3.blake3(body).digest()
    if digest != view[-_DIGEST_BYTES:]:
        raise damaged(
            f"{what} has digest {digest.hex()}, its end says {view[-_DIGEST_BYTES:].hex()}"
        )
    return count, body[_HEADER.size :]


def damaged(message: str) -> errors.ArtifactError:
    """What to raise of a table or of places."""
    return errors.ArtifactError(
        message, hint="the artifact is damaged: delete it and make the checkpoint again"
    )


def _check(rows: memoryview, files: Sequence[manifest.File]) -> None:
    """One loop that calls nothing: its speed is that of reading a table."""
    sizes = [file.size for file in files]
    current, end, limit = -1, 0, 0
    for number, (file, offset, size, _) in enumerate(_ROW.iter_unpack(rows)):
        if file != current:
            if not current < file < len(sizes):
                raise _wrong(number, f"of file {file}: the last was of {current} of {len(sizes)}")
            current, end, limit = file, 0, sizes[file]
        if not 0 < size <= manifest.CHUNK_BYTES:
            raise _wrong(number, f"has {size} bytes, not 1 to {manifest.CHUNK_BYTES}")
        if offset < end:
            raise _wrong(number, f"starts at {offset}, the one before ends at {end}")
        end = offset + size
        if end > limit:
            raise _wrong(number, f"ends at {end}, {files[file].name} at {limit}")


def _wrong(number: int, what: str) -> errors.ArtifactError:
    return damaged(f"the chunk table: row {number} {what}")
