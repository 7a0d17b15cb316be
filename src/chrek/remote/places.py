"""Where the chunks of a table lie: binary, in rows parallel to the table's.

    CHRKPLC1            magic number, 8 bytes
    number of rows      u64; all numbers are little-endian
    number of packs     u32
    packs               96 bytes name, filled up with zeros, u64 size
    rows                u32 pack, u32 offset in it, u32 size there, u8 codec, 3 zero bytes
    digest              BLAKE3 of all before, 32 bytes

It is a file of its own because it says how an artifact is stored, while the table says what it is.
Rows of equal chunks say the same place.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from chrek import errors
from chrek.remote import backend, pack, table

MAGIC = b"CHRKPLC1"
NAME_BYTES = 96
OVERHEAD_BYTES = 1024
"""By which a stored chunk may be larger than one is: encryption adds to it."""
MAX_STORED_BYTES = pack.MAX_BYTES + OVERHEAD_BYTES
MAX_PACK_BYTES = 1 << 32
"""What an offset reaches."""
_NAME = re.compile(r"(sha256:)?[0-9a-f]{64}", re.ASCII)
_COUNT = struct.Struct("<I")
_PACK = struct.Struct(f"<{NAME_BYTES}sQ")
_ROW = struct.Struct("<IIIB3s")
_RESERVED = bytes(3)
_CODECS = frozenset(pack.Codec)


class Place(NamedTuple):
    """Where a chunk is."""

    pack: int
    """Number of the pack."""
    offset: int
    """Bytes from the start of the pack."""
    size: int
    """Bytes there, compressed and encrypted as they may be."""
    codec: pack.Codec


@dataclasses.dataclass(frozen=True)
class Places:
    """The packs, and for each row of the chunk table its place in one."""

    packs: tuple[backend.Pack, ...]
    places: table.Rows[Place]


def encode(packs: Sequence[backend.Pack], rows: Iterable[Place]) -> bytes:
    """The bytes of a place table."""
    made = Builder(packs)
    for row in rows:
        made.add(packs[row.pack], row)
    return made.encode()


class Builder:
    """A place table in the making: a few bytes for each row."""

    def __init__(self, packs: Iterable[backend.Pack] = ()) -> None:
        """Begin.

        Args:
            packs: those that come first, also when nothing lies in them.
        """
        self._packs = {one.name: one for one in packs}
        self._numbers = {name: number for number, name in enumerate(self._packs)}
        self._rows = bytearray()

    @property
    def packs(self) -> list[backend.Pack]:
        """All that were named, in the order of the table."""
        return list(self._packs.values())

    def number(self, one: backend.Pack) -> int:
        """Of a pack, which is named from now on."""
        self._packs.setdefault(one.name, one)
        return self._numbers.setdefault(one.name, len(self._numbers))

    def add(self, one: backend.Pack, place: Place) -> None:
        """The next row.

        Args:
            one: the pack that it lies in; `place.pack` does not count.
        """
        number = self.number(one)
        self._rows += _ROW.pack(number, place.offset, place.size, place.codec, _RESERVED)

    def encode(self) -> bytes:
        """The bytes of the table."""
        body = bytearray(_COUNT.pack(len(self._packs)))
        for one in self._packs.values():
            body += _PACK.pack(one.name.encode("ascii"), one.size)
        count = len(self._rows) // _ROW.size
        body += self._rows
        return table.frame(MAGIC, count, body)


def decode(data: bytes, rows: int) -> Places:
    """Read a place table that may be damaged or hostile.

    Args:
        data: all of it.
        rows: how many the chunk table has.

    Raises:
        ArtifactError: it is not one, or not of that chunk table.
    """
    count, body = table.unframe(data, MAGIC, "the place table")
    if count != rows:
        raise _wrong(f"{count} rows, the chunk table has {rows}")
    (number,) = _COUNT.unpack_from(body) if len(body) >= _COUNT.size else (0,)
    end = _COUNT.size + number * _PACK.size
    if len(body) != end + count * _ROW.size:
        raise _wrong(f"{number} packs and {count} rows in {len(body)} bytes")
    packs = _packs(body[_COUNT.size : end])
    places = body[end:]
    _check(places, [one.size for one in packs])
    return Places(packs, table.Rows(places, _ROW, _place))


def _place(pack_number: int, offset: int, size: int, codec: int, _: bytes) -> Place:
    return Place(pack_number, offset, size, pack.Codec(codec))


def _packs(rows: memoryview) -> tuple[backend.Pack, ...]:
    packs: dict[str, backend.Pack] = {}
    for field, size in _PACK.iter_unpack(rows):
        name = field.rstrip(b"\0").decode("latin-1")
        if not _NAME.fullmatch(name):
            raise _wrong(f"{name!r} is no name of a pack")
        if name in packs:
            raise _wrong(f"pack {name} stands there twice")
        if not 0 < size <= MAX_PACK_BYTES:
            raise _wrong(f"pack {name} has {size} bytes, not 1 to {MAX_PACK_BYTES}")
        packs[name] = backend.Pack(name, size)
    return tuple(packs.values())


def _check(rows: memoryview, sizes: Sequence[int]) -> None:
    """One loop that calls nothing: its speed is that of reading a place table."""
    for number, (index, offset, size, codec, reserved) in enumerate(_ROW.iter_unpack(rows)):
        if index >= len(sizes):
            raise _wrong(f"row {number} is in pack {index} of {len(sizes)}")
        if not 0 < size <= MAX_STORED_BYTES:
            raise _wrong(f"row {number} has {size} bytes, not 1 to {MAX_STORED_BYTES}")
        if offset + size > sizes[index]:
            raise _wrong(f"row {number} ends at {offset + size}, pack {index} at {sizes[index]}")
        if codec not in _CODECS or reserved != _RESERVED:
            raise _wrong(
                f"row {number} has codec {codec}, reserved {reserved.hex()}: unknown to this chrek"
            )


def _wrong(what: str) -> errors.ArtifactError:
    return table.damaged(f"the place table: {what}")
