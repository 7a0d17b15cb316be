"""Where the files of an artifact are cut into chunks, so that a similar artifact has equal ones.

A file is a row of areas. In CRIU's pages an area is what was dumped of one mapping of memory, in
the archive of changed files it is a large file. An area is cut where its content says so: where a
word at a fixed place of a page has certain remainders. So chunks are the same wherever an area
lies, whatever was inserted or left out before them, and however CRIU has split it.

Cuts fall on pages, where large allocations begin. The heap that grows by brk(2) has those below
32 MiB one after another, at multiples of 64 bytes (PyTorch): there every 64th byte is looked at,
at 0.8 GB/s. Elsewhere it is 7 GB/s, zeros included.

Measured with vLLM 0.32, a model of 340 MB, two captures of containers of their own, each 3050 MiB
and 1858 of them not zero: 392 MiB of chunks are equal; the rest is full of addresses. If only pages
are looked at it is 96, with chunks of half the size 398, of twice the size 378. A chunk more costs
a restore 20 us of one thread. 100 GB of small areas make 1.1 million chunks, of large ones 0.3.

An area is read in windows that do not depend on each other: each reads on to where the next begins.
Source: https://criu.org/Memory_dumps, criu/pagemap.c and images/pagemap.proto of CRIU 4.2;
M_MMAP_THRESHOLD in mallopt(3).
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import mmap
import pathlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from chrek import archive, errors, manifest
from chrek import store as stores
from chrek.criu import images
from chrek.criu import messages_pb2 as pb

PAGE_BYTES = 4096
WINDOW_BYTES = 4 << 20
MAX_BYTES = manifest.CHUNK_BYTES
LARGE_BYTES = 64 << 20
"""An area of this size is mostly one thing, such as weights: large chunks find it as well."""
LARGE_FILE_BYTES = 64 << 10
"""A file of the archive that is an area by itself."""
_MODULUS = 481_327_073
"""A prime for which no small number and no word of four, two or eight equal ones, such as 1.0, has
a remainder that cuts: pages full of these are not cut at each."""
_WORD_BYTES = 8
_PRESENT = 1 << 2
"""PE_PRESENT: the pages of this entry are in the file."""
_HEAP = 1 << 5
"""VMA_AREA_HEAP."""
_ANY_VOLUME = 1 << 63
_ZERO_PAGE = bytes(PAGE_BYTES)
_LENGTH = struct.Struct("<I")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grain:
    """How finely an area is cut. A chunk has about `least_bytes` + `step_bytes` * `rare`."""

    step_bytes: int
    """Cuts are at multiples of it."""
    word: int
    """Which word after such a place decides."""
    rare: int
    """One word of so many says to cut."""
    least_bytes: int
    """Larger ones take longer to agree again after a difference."""
    zeros_bytes: int
    """So many zeros inside a chunk are left out, which makes two of it."""

    @property
    def ahead_bytes(self) -> int:
        """How far to look for the next cut; it is nearer in 49 of 50 cases."""
        return 4 * self.step_bytes * self.rare


FINE = Grain(step_bytes=PAGE_BYTES, word=256, rare=16, least_bytes=32 << 10, zeros_bytes=64 << 10)
HEAP = dataclasses.replace(FINE, step_bytes=64, word=0, rare=1024)
COARSE = dataclasses.replace(FINE, rare=64, least_bytes=64 << 10, zeros_bytes=256 << 10)


class Area(NamedTuple):
    """A part of a file that is cut by itself."""

    size: int
    heap: bool = False

    @property
    def grain(self) -> Grain:
        if self.heap:
            return HEAP
        return COARSE if self.size >= LARGE_BYTES else FINE


class Span(NamedTuple):
    """A chunk."""

    file: int
    """Number of the file in the manifest."""
    offset: int
    """Bytes from the start of the file."""
    size: int


class Window(NamedTuple):
    """A part of a file that is read at once and cut by `spans`."""

    file: int
    offset: int
    size: int
    grain: Grain
    follows: bool
    """It begins inside an area: its first chunk at the first cut."""
    ahead: int
    """Bytes at its end that are the next one's: its last chunk ends at the first cut there."""


def plan(directory: pathlib.Path, files: Sequence[manifest.File]) -> list[Window]:
    """What to read of an artifact, in the order of its files.

    Where CRIU's images do not say what a file consists of, or are damaged, it is one area. Windows
    of an area overlap, their chunks do not.

    Args:
        directory: CRIU's images, beside which the other files are.
        files: of the manifest.
    """
    sizes = {file.name: file.size for file in files}
    known = _memory(directory.parent, sizes) | _archive(directory.parent, sizes)
    found: list[Window] = []
    for number, file in enumerate(files):
        areas = known.get(file.name, [])
        if sum(area.size for area in areas) != file.size:
            areas = [Area(file.size)]
        offset = 0
        for area in areas:
            found += _windows(number, offset, area)
            offset += area.size
    return found


def _windows(file: int, offset: int, area: Area) -> Iterator[Window]:
    grain = area.grain
    for at in range(0, area.size, WINDOW_BYTES):
        rest = area.size - at
        ahead = max(0, min(grain.ahead_bytes, rest - WINDOW_BYTES))
        size = min(rest, WINDOW_BYTES) + ahead
        yield Window(file, offset + at, size, grain, follows=at > 0, ahead=ahead)


def spans(window: Window, data: bytes) -> list[Span]:
    """The chunks of a window, without pages of zeros at their ends and long runs of them inside.

    Args:
        window: of the plan.
        data: its bytes.
    """
    grain = window.grain
    cuts = _cuts(grain, data)
    begin, end = 0, len(data)
    if window.follows:
        begin = _first(cuts, 0, min(grain.ahead_bytes, end))
    if window.ahead:
        end = _first(cuts, end - window.ahead, end)
    found = []
    inside = cuts[bisect.bisect_right(cuts, begin) : bisect.bisect_left(cuts, end)]
    for at in (*inside, end):
        if at < end and at - begin < grain.least_bytes:
            continue
        for start in range(begin, at, MAX_BYTES):
            stop = min(start + MAX_BYTES, at)
            for one, other in _without_zeros(data, start, stop, grain.zeros_bytes):
                found.append(Span(window.file, window.offset + one, other - one))
        begin = at
    return found


def _cuts(grain: Grain, data: bytes) -> list[int]:
    """All places where the content says to cut, in order."""
    words = memoryview(data)[: len(data) // _WORD_BYTES * _WORD_BYTES].cast("Q")
    chosen = words[grain.word :: grain.step_bytes // _WORD_BYTES].tolist()
    least = _MODULUS - _MODULUS // grain.rare
    places = range(0, len(data), grain.step_bytes)
    return [at for at, word in zip(places, chosen, strict=False) if word % _MODULUS >= least]


def _first(cuts: Sequence[int], begin: int, end: int) -> int:
    """The first cut in a range, or where that begins."""
    number = bisect.bisect_left(cuts, begin)
    return cuts[number] if number < len(cuts) and cuts[number] < end else begin


def _without_zeros(data: bytes, begin: int, end: int, least: int) -> Iterator[tuple[int, int]]:
    """The parts of a range that are left when zeros are taken out."""
    start = stop = -1
    for at in range(begin, end, PAGE_BYTES):
        # Compares up to the first byte that differs, and copies nothing.
        if data.startswith(_ZERO_PAGE if at + PAGE_BYTES <= end else bytes(end - at), at):
            continue
        if start < 0:
            start = at
        elif at - stop >= least:
            yield start, stop
            start = at
        stop = min(at + PAGE_BYTES, end)
    if start >= 0:
        yield start, stop


def _memory(root: pathlib.Path, sizes: Mapping[str, int]) -> dict[str, list[Area]]:
    """Name of a file with the pages of a process -> what it consists of."""
    found = {}
    for name in sizes:
        kind, _, process = name.partition("/pagemap-")
        # Shared memory, `pagemap-shmem-N`, has no image of its mappings: it is one area.
        if kind == stores.IMAGES and sizes[name] <= images.MAX_BYTES:
            with contextlib.suppress(errors.ArtifactError, OSError):
                mappings = _mappings(root / stores.IMAGES / f"mm-{process}")
                pages, areas = _areas((root / name).read_bytes(), mappings)
                found[f"{stores.IMAGES}/pages-{pages}.img"] = areas
    return found


def _mappings(path: pathlib.Path) -> list[pb.VmaEntry]:
    """The mappings of a process, by address."""
    entries = images.read(path, pb.MmEntry)
    return sorted((vma for entry in entries for vma in entry.vmas), key=lambda vma: vma.start)


def _areas(pagemap: bytes, mappings: Sequence[pb.VmaEntry]) -> tuple[int, list[Area]]:
    """The number of the file with the pages, and what was dumped of each mapping."""
    head, rest = images.head(pagemap, pb.PagemapHead, "pagemap.img")
    starts = [vma.start for vma in mappings]
    areas: list[Area] = []
    last = None
    for begin, end in _runs(rest):
        while begin < end:
            number = bisect.bisect_right(starts, begin) - 1
            if number < 0 or mappings[number].end <= begin:
                raise errors.ArtifactError(f"pagemap: {begin:#x} is in no mapping")
            vma = mappings[number]
            size = min(end, vma.end) - begin
            if number == last:
                areas[-1] = areas[-1]._replace(size=areas[-1].size + size)
            else:
                areas.append(Area(size, heap=bool(vma.status & _HEAP)))
            begin, last = begin + size, number
    return head.pages_id, areas


def _runs(entries: bytes) -> Iterator[tuple[int, int]]:
    """Addresses of the pages that are in the file, from and to, in its order."""
    at = 0
    while at < len(entries):
        begin = at + _LENGTH.size
        (size,) = _LENGTH.unpack_from(entries, at) if begin <= len(entries) else (0,)
        at = begin + size
        if at > len(entries):
            raise errors.ArtifactError("pagemap: ends inside an entry")
        entry = images.parse(entries[begin:at], pb.PagemapEntry, "pagemap")
        # Older ones count pages in the other field, and the oldest have no flags.
        pages = entry.nr_pages if entry.HasField("nr_pages") else entry.compat_nr_pages
        if entry.flags & _PRESENT or not (entry.HasField("flags") or entry.in_parent):
            yield entry.vaddr, entry.vaddr + pages * mmap.PAGESIZE


def _archive(root: pathlib.Path, sizes: Mapping[str, int]) -> dict[str, list[Area]]:
    """What the archive of changed files consists of: large files, and those between them."""
    if sizes.get(archive.INDEX, 0) > images.MAX_BYTES:
        return {}
    areas: list[Area] = []
    small = 0
    with contextlib.suppress(errors.ArtifactError, OSError):
        index = (root / archive.INDEX).read_bytes()
        for entry in archive.decode(index, _ANY_VOLUME, sizes.get(archive.DATA, 0)):
            if entry.stored < LARGE_FILE_BYTES:
                small += entry.stored
            else:
                areas += [Area(small), Area(entry.stored)] if small else [Area(entry.stored)]
                small = 0
    return {archive.DATA: [*areas, Area(small)] if small else areas}
