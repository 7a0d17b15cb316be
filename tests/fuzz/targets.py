"""What is fuzzed: each target takes any bytes and may raise nothing.

A reader may refuse its input with a ChrekError; any other exception, and a result that cannot be,
is a finding. Since almost no random bytes have a digest that is right or are JSON, most inputs are
taken as choices from which something nearly valid is made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import mmap
import pathlib
import struct
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import atheris
import blake3
import msgspec
import zstandard

from chrek import errors, manifest
from chrek.criu import images
from chrek.criu import messages_pb2 as pb
from chrek.remote import backend, chunking, pack, places, table
from fuzz import runner

MIB = 1 << 20
PAGE = mmap.PAGESIZE
RAW = b"\0"
"""First byte of an input that is read as it is; with any other it is choices."""


@dataclasses.dataclass(frozen=True)
class Target:
    """One reader."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


class Choices:
    """Decisions, taken from bytes; when there are no more, the first of everything."""

    def __init__(self, data: bytes) -> None:
        self._data = atheris.FuzzedDataProvider(data)

    def number(self, low: int, high: int) -> int:
        """Any number, or one at a limit."""
        near = self._data.ConsumeIntInRange(0, 7)
        if near == 1:
            return high
        if near == 2:
            return min(high, low + 1)
        return self._data.ConsumeIntInRange(low, high) if near else low

    def one(self, values: Sequence[Any]) -> Any:
        return values[self._data.ConsumeIntInRange(0, len(values) - 1)]

    def yes(self) -> bool:
        return bool(self._data.ConsumeBool())

    def seldom(self) -> bool:
        return bool(self._data.ConsumeIntInRange(0, 15) == 1)

    def bytes(self, most: int) -> bytes:
        return bytes(self._data.ConsumeBytes(self._data.ConsumeIntInRange(0, most)))

    def text(self, most: int) -> str:
        return str(self._data.ConsumeUnicode(self._data.ConsumeIntInRange(0, most)))

    def rest(self) -> bytes:
        return bytes(self._data.ConsumeBytes(atheris.ALL_REMAINING))


def digested(magic: bytes, count: int, body: bytes) -> bytes:
    data = struct.pack("<8sQ", magic, count) + body
    return data + blake3.blake3(data).digest()


# The manifest.


def source() -> dict[str, Any]:
    """Empty values that the fields of a manifest's `source` may have."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(manifest.Source):
        for value in (0, "", [], {}, 0.0, False, None):
            with contextlib.suppress(msgspec.ValidationError):
                msgspec.convert(value, field.type)
                found[field.encode_name] = value
                break
    return found


GOOD_MANIFEST: dict[str, Any] = {
    **{field.name: "x" for field in msgspec.structs.fields(manifest.Manifest)},
    "version": manifest.VERSION,
    "rootPid": 10001,
    "stdio": ["", "pipe:[1]", ""],
    "volumes": [{"path": "/", "exclusive": True}],
    "source": source(),
    "files": [{"name": "criu/pages-1.img", "size": 5, "chunks": ["00" * 32]}],
    "steps": {"dump": 1.5},
}
VALUES = [None, True, -1, 0, 1, 1 << 22, 1 << 63, 1 << 70, 1e400, "", "..", "a/b", "a/../b", [], {}]


def run_manifest(data: bytes) -> None:
    with contextlib.suppress(errors.ChrekError):
        text = data[1:] if data[:1] == RAW else changed_manifest(Choices(data[1:]))
        found = manifest.decode(text)
        assert manifest.decode(manifest.encode(found)) == found
        assert found.bytes >= 0


def changed_manifest(choices: Choices) -> bytes:
    made = json.loads(json.dumps(GOOD_MANIFEST))
    for _ in range(choices.number(1, 4)):
        at: Any = made
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = choices.one(keys)
            if isinstance(at[key], dict | list) and choices.yes():
                at = at[key]
                continue
            change(at, key, choices)
            break
    return json.dumps(made).encode(errors="replace")


def change(at: Any, key: Any, choices: Choices) -> None:
    match choices.number(0, 4):
        case 0:
            at[key] = choices.one(VALUES)
        case 1:
            at[key] = choices.text(20)
        case 2:
            at[key] = choices.number(-(1 << 65), 1 << 65)
        case 3:
            del at[key]
        case _ if isinstance(at, list):
            at.append(at[key])
        case _:
            at[choices.text(9)] = at[key]


def seed_manifests() -> list[bytes]:
    return [RAW + json.dumps(GOOD_MANIFEST).encode(), b"\1"]


# The tables.

FILES = [
    manifest.File(name=name, size=size, chunks=[])
    for name, size in (("a", 10 * MIB), ("b", 0), ("c", (1 << 40) + 5), ("d", 7))
]


def run_table(data: bytes) -> None:
    with contextlib.suppress(errors.ChrekError):
        text = data[1:] if data[:1] == RAW else changed_table(Choices(data[1:]))
        found = table.decode(text, FILES)
        rows = list(found)
        assert [found[number] for number in range(len(found))] == rows
        assert table.encode(rows) == text
        assert all(0 < row.size <= 4 * MIB for row in rows)
        assert all(row.offset + row.size <= FILES[row.file].size for row in rows)
        for one, other in itertools.pairwise(rows):
            assert (one.file, one.offset + one.size) <= (other.file, other.offset)


def changed_table(choices: Choices) -> bytes:
    """Rows that are in order but for what is chosen to be wrong."""
    rows, file, end = b"", 0, 0
    for _ in range(choices.number(0, 6)):
        if choices.yes():
            file, end = file + choices.number(1, 2), 0
        offset = max(0, end + choices.one([0, 0, 1, -1, 4096, 1 << 40, (1 << 64) - 1]))
        size = choices.one([1, 7, 4096, 4 * MIB, 4 * MIB + 1, 0])
        end = offset + size
        rows += struct.pack("<IQI32s", file, offset % (1 << 64), size, choices.bytes(32))
    count = len(rows) // 48 + choices.seldom()
    return digested(b"CHRKTBL1", count, rows + bytes(choices.seldom()))


def seed_tables() -> list[bytes]:
    rows = [table.Row(0, 0, 4 * MIB, bytes(32)), table.Row(3, 0, 7, b"\1" * 32)]
    return [RAW + table.encode(rows), RAW + table.encode([]), b"\1" * 50]


PACKS = [backend.Pack("ab" * 32, 1000), backend.Pack("sha256:" + "01" * 32, 1 << 32)]
PLACES = [
    places.Place(0, 0, 1000, pack.Codec.RAW),
    places.Place(1, (1 << 32) - 1, 1, pack.Codec.ZSTD),
]


def run_places(data: bytes) -> None:
    rows = data[1] % 4 if len(data) > 1 else 0
    with contextlib.suppress(errors.ChrekError):
        text = data[2:] if data[:1] == RAW else changed_places(Choices(data[2:]), rows)
        found = places.decode(text, rows)
        listed = list(found.places)
        assert len(listed) == len(found.places) == rows
        assert [found.places[number] for number in range(rows)] == listed
        assert places.encode(found.packs, listed) == text
        assert all(0 < one.size <= 4 * MIB + 1024 for one in listed)
        assert all(one.offset + one.size <= found.packs[one.pack].size for one in listed)
        assert len({one.name for one in found.packs}) == len(found.packs)


def changed_places(choices: Choices, count: int) -> bytes:
    names = [f"{prefix}{number:064x}".encode() for prefix in ("", "sha256:") for number in (1, 2)]
    limits = [1, 1000, 1 << 32]
    body = b""
    number = choices.number(0, 3)
    for _ in range(number):
        name = choices.bytes(96) if choices.seldom() else names[-1]
        if not choices.seldom():
            names.pop()
        size = choices.number(0, (1 << 32) + 1) if choices.seldom() else choices.one(limits)
        body += struct.pack("<96sQ", name, size)
    for _ in range(count):
        offset = choices.one([0, 1, 999, (1 << 32) - 1])
        size = choices.one([1, 2, 1000, 4 * MIB + 1024, 4 * MIB + 1025, 0])
        codec, reserved = choices.one([0, 1, 1, 2]), choices.bytes(3) if choices.seldom() else b""
        body += struct.pack("<IIIB3s", choices.number(0, 3), offset, size, codec, reserved)
    body = struct.pack("<I", number + choices.seldom()) + body + bytes(choices.seldom())
    return digested(b"CHRKPLC1", count + choices.seldom(), body)


def seed_places() -> list[bytes]:
    return [
        RAW + b"\2" + places.encode(PACKS, PLACES),
        RAW + b"\0" + places.encode([], []),
        b"\1\2" * 50,
    ]


# CRIU's images of memory.

MOST_PAGES_BYTES = 64 << 20
"""A plan has a window for every few megabytes, which takes time."""


def run_pagemap(data: bytes) -> None:
    """Whatever images say, the plan has every byte of every file."""
    choices = Choices(data)
    mappings, entries = chosen_memory(choices)
    pagemap = images.encode("pagemap-7.img", [pb.PagemapHead(pages_id=1), *entries])
    mm = images.encode("mm-7.img", [pb.MmEntry(vmas=mappings)])
    pagemap, mm = damaged(choices, pagemap), damaged(choices, mm)
    size = choices.number(0, MOST_PAGES_BYTES)
    if choices.yes():
        # As large as they say, so that they are believed.
        with contextlib.suppress(errors.ChrekError):
            _, areas = chunking._areas(pagemap, mappings)
            size = min(MOST_PAGES_BYTES, sum(area.size for area in areas))
    files = {"criu/pages-1.img": size, "criu/pagemap-7.img": len(pagemap)}
    listed = [manifest.File(name=name, size=one, chunks=[]) for name, one in files.items()]
    directory = pathlib.Path(_folder.name) / "criu"
    (directory / "pagemap-7.img").write_bytes(pagemap)
    (directory / "mm-7.img").write_bytes(mm)
    ends = [0, 0]
    for window in chunking.plan(directory, listed):
        assert window.offset == ends[window.file]
        assert window.size > window.ahead >= 0
        ends[window.file] = window.offset + window.size - window.ahead
    assert ends == [file.size for file in listed]


_folder = tempfile.TemporaryDirectory(prefix="chrek-fuzz-", dir="/dev/shm")
(pathlib.Path(_folder.name) / "criu").mkdir()


def chosen_memory(choices: Choices) -> tuple[list[pb.VmaEntry], list[pb.PagemapEntry]]:
    """Mappings, and entries that mostly lie in them."""
    mappings, entries, address = [], [], 0
    for _ in range(choices.number(0, 5)):
        start = address + choices.number(0, 9) * PAGE
        pages = choices.number(0, 1 << 10)
        address = start + pages * PAGE
        mappings.append(pb.VmaEntry(start=start, end=address, status=choices.number(0, 1 << 31)))
        for _ in range(choices.number(0, 3)):
            entry = pb.PagemapEntry(vaddr=start, compat_nr_pages=choices.number(0, pages))
            if choices.yes():
                entry.flags = choices.number(0, 7)
            if choices.seldom():
                entry.nr_pages = choices.number(0, (1 << 64) - 1)
            if choices.seldom():
                entry.in_parent = choices.yes()
            if choices.seldom():
                entry.vaddr = choices.number(0, (1 << 64) - 1)
            entries.append(entry)
    return mappings, entries


def damaged(choices: Choices, data: bytes) -> bytes:
    if not choices.seldom():
        return data
    at, end = sorted(choices.number(0, len(data)) for _ in range(2))
    return data[:at] + choices.bytes(16) + data[end:]


def seed_pagemaps() -> list[bytes]:
    return [b"", bytes(range(200)), b"\1" * 100]


# Stored chunks.

TEXT = b"".join(b"line %d of something\n" % number for number in range(3000))


def run_pack(data: bytes) -> None:
    choices = Choices(data)
    size = choices.number(0, 70_000)
    codec = choices.one([pack.Codec.ZSTD, pack.Codec.ZSTD, pack.Codec.ZSTD, pack.Codec.RAW])
    if choices.yes():
        options = {"write_content_size": choices.one([True, True, True, False])}
        shorter = max(0, size - choices.number(0, 2))
        stored = zstandard.ZstdCompressor(level=1, **options).compress(TEXT[:shorter])
        stored = damaged(choices, stored) + bytes(choices.seldom())
    else:
        stored = choices.rest()
    with contextlib.suppress(errors.ChrekError):
        assert len(pack.decode(codec, stored, size)) == size


def seed_packs() -> list[bytes]:
    return [b"", bytes(range(100)), b"\xff" * 30]


# To see that a finding is seen.


def run_canary(data: bytes) -> None:
    if data.startswith(b"canary"):
        raise ValueError("a finding")


TARGETS = dict(
    zip(
        runner.NAMES,
        (
            Target(run_manifest, seed_manifests),
            Target(run_table, seed_tables),
            Target(run_places, seed_places),
            Target(run_pagemap, seed_pagemaps),
            Target(run_pack, seed_packs),
        ),
        strict=True,
    )
)
CANARY = {"canary": Target(run_canary, lambda: [b"canary of the runner"])}
