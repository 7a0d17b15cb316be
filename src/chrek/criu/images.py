"""CRIU's image files: reading and rewriting the ones that chrek checks.

A file is two little-endian 32-bit magic numbers, then entries of a 32-bit length and a protocol
buffer each. What is decoded comes from the store and is not trusted: lengths are bounded.
Source: https://criu.org/Images, criu/include/magic.h of CRIU 4.2.
"""

from __future__ import annotations

import pathlib
import struct
from collections.abc import Iterable
from typing import TypeVar

from google.protobuf import message

from chrek import errors

COMMON_MAGIC = 0x54564319
MAGICS = {
    "inventory": 0x58313116,
    "pstree": 0x50273030,
    "core": 0x55053847,
    "seccomp": 0x64413049,
    "files": 0x56303138,
    "tcp": 0x51465506,
    "remap": 0x59133954,
    "pagemap": 0x56084025,
    "mm": 0x57492820,
}
MAX_BYTES = 256 << 20
"""No image that is decoded here comes near this; pages are never decoded."""

MessageT = TypeVar("MessageT", bound=message.Message)


def read(path: pathlib.Path, kind: type[MessageT]) -> list[MessageT]:
    """All entries of one image file.

    Args:
        path: `core-10001.img` and the like; the name up to `-` or `.` decides the magic.
        kind: message class of its entries.

    Raises:
        ArtifactError: not such an image, or damaged.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise errors.ArtifactError(f"{path.name}: larger than {MAX_BYTES} bytes")
        data = path.read_bytes()
    except OSError as err:
        raise errors.ArtifactError(f"{path.name}: {err.strerror}") from err
    return decode(data, kind, path.name)


def decode(data: bytes, kind: type[MessageT], name: str) -> list[MessageT]:
    """As `read`, from memory."""
    expected = MAGICS[name.split(".")[0].split("-")[0]]
    if len(data) < 8 or struct.unpack_from("<II", data) != (COMMON_MAGIC, expected):
        raise errors.ArtifactError(f"{name}: not a CRIU image of this kind")
    entries = []
    at = 8
    while at < len(data):
        if at + 4 > len(data):
            raise errors.ArtifactError(f"{name}: ends inside an entry")
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + size > len(data):
            raise errors.ArtifactError(f"{name}: ends inside an entry")
        entries.append(parse(data[at : at + size], kind, name))
        at += size
    return entries


def parse(body: bytes, kind: type[MessageT], name: str) -> MessageT:
    """One entry, without its length.

    Raises:
        ArtifactError: it is none.
    """
    entry = kind()
    try:
        entry.ParseFromString(body)
    except message.DecodeError as err:
        raise errors.ArtifactError(f"{name}: {err}") from err
    if not entry.IsInitialized():
        raise errors.ArtifactError(f"{name}: an entry lacks required fields")
    return entry


def head(data: bytes, kind: type[MessageT], name: str) -> tuple[MessageT, bytes]:
    """The one entry of an image that goes on with bytes of no form, and those."""
    size = struct.unpack_from("<I", data, 8)[0] if len(data) >= 12 else 0
    entries = decode(data[: 12 + size], kind, name)
    if len(entries) != 1:
        raise errors.ArtifactError(f"{name}: {len(entries)} entries instead of one")
    return entries[0], data[12 + size :]


def encode(name: str, entries: Iterable[message.Message]) -> bytes:
    """The bytes of an image file with these entries."""
    parts = [struct.pack("<II", COMMON_MAGIC, MAGICS[name.split(".")[0].split("-")[0]])]
    for entry in entries:
        body = entry.SerializeToString()
        parts += [struct.pack("<I", len(body)), body]
    return b"".join(parts)
