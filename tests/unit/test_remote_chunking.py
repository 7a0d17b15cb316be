"""Chunks cover what is not zero, and similar artifacts have the same ones."""

import mmap
import random
import struct

import blake3
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrek import inode, manifest
from chrek.criu import images
from chrek.criu import messages_pb2 as pb
from chrek.remote import chunking

KIB = 1 << 10
MIB = 1 << 20
PAGE = mmap.PAGESIZE
NOISE = random.Random(1).randbytes(24 * MIB)


def noise(size, seed=2):
    return random.Random(seed).randbytes(size)


def spans_of(areas, data):
    """What the chunks of a file of these areas are; offsets and sizes."""
    found, offset = [], 0
    for area in areas:
        for window in chunking._windows(0, offset, area):
            read = data[window.offset : window.offset + window.size]
            found += [(one.offset, one.size) for one in chunking.spans(window, read)]
        offset += area.size
    assert offset == len(data)
    return found


def chunks_of(areas, data):
    return [data[offset : offset + size] for offset, size in spans_of(areas, data)]


def new_share(before, after):
    """Which part of the bytes of some chunks others do not have."""
    known = {blake3.blake3(chunk).digest() for chunk in before}
    new = sum(len(chunk) for chunk in after if blake3.blake3(chunk).digest() not in known)
    return new / sum(map(len, after))


SIZE = 20 * MIB
KINDS = pytest.mark.parametrize("kind", ["small", "heap", "large"], indirect=True)


@pytest.fixture
def kind(request, monkeypatch):
    """How an area of `SIZE` bytes is cut."""
    if request.param == "large":
        monkeypatch.setattr(chunking, "LARGE_BYTES", SIZE - MIB)
    return request.param


def cut(kind, data):
    """Chunks of an area of that kind."""
    return chunks_of([chunking.Area(len(data), heap=kind == "heap")], data)


@KINDS
def test_sizes_of_chunks(kind):
    chunks = cut(kind, NOISE[:SIZE])
    assert b"".join(chunks) == NOISE[:SIZE]
    assert max(map(len, chunks)) <= 4 * MIB
    mean = SIZE / len(chunks)
    assert 200 * KIB < mean < 400 * KIB if kind == "large" else 70 * KIB < mean < 130 * KIB


@KINDS
@pytest.mark.parametrize("inserted", [1, 300, 900])
def test_what_comes_before_does_not_matter(kind, inserted):
    """As when a mapping grew downwards, was merged with others, or lies in a longer heap."""
    more = noise(inserted * (64 if kind == "heap" else chunking.PAGE_BYTES))
    share = new_share(cut(kind, NOISE[:SIZE]), cut(kind, more + NOISE[:SIZE]))
    assert share < len(more) / SIZE + 0.05


@KINDS
def test_a_page_that_is_not_there_matters_to_one_chunk(kind):
    at = SIZE // 2 + 3 * chunking.PAGE_BYTES
    before = cut(kind, NOISE[:SIZE])
    after = cut(kind, NOISE[:at] + NOISE[at + chunking.PAGE_BYTES : SIZE])
    assert 0 < new_share(before, after) < 0.05
    changed = cut(kind, NOISE[:at] + bytes(64) + NOISE[at + 64 : SIZE])
    assert 1 <= len(set(changed) - set(before)) <= 2


def test_the_heap_is_cut_between_pages():
    """Without that, nothing would be found again there."""
    data = NOISE[: 16 * MIB]
    shifted = noise(7 * 64) + data
    page = [chunks_of([chunking.Area(len(one))], one) for one in (data, shifted)]
    heap = [chunks_of([chunking.Area(len(one), heap=True)], one) for one in (data, shifted)]
    assert new_share(*page) == 1
    assert new_share(*heap) < 0.05


def test_zeros_are_not_stored():
    for size in (1, 4095, 4096, 10 * MIB + 5):
        assert spans_of([chunking.Area(size)], bytes(size)) == []
    page, gap = chunking.PAGE_BYTES, chunking.FINE.zeros_bytes
    data = bytes(page) + b"\1" + bytes(page - 1) + bytes(gap) + b"\2" + bytes(10 * page)
    assert spans_of([chunking.Area(len(data))], data) == [(page, page), (2 * page + gap, page)]
    short = bytes(page) + b"\1" + bytes(gap - 1) + b"\2" + bytes(page - 1) + bytes(3)
    assert spans_of([chunking.Area(len(short))], short) == [(page, page + gap)]
    # A large area has twice as many bytes of both for fewer rows.
    large = [chunking.Area(chunking.LARGE_BYTES)]
    filled = data + bytes(chunking.LARGE_BYTES - len(data))
    assert spans_of(large, filled) == [(page, page + gap + page)]


WORDS = [
    0,
    1,
    77,
    4096,
    2**64 - 1,
    0x3FF0000000000000,
    *(n * 0x0101010101010101 for n in range(256)),
]
WORDS += [n * 0x0001000100010001 for n in (0x3C00, 0x3F80, 0xBC00, 0xFC00, 0xFF80)]
WORDS += [n * 0x0000000100000001 for n in (1, 0x3F800000, 0x7FC00000, 0xBF800000, 0xFF800000)]


@pytest.mark.parametrize("heap", [False, True])
def test_memory_full_of_one_number_is_not_cut_at_each(heap):
    for word in WORDS:
        data = struct.pack("<Q", word) * (256 * KIB // 8)
        assert len(spans_of([chunking.Area(len(data), heap)], data)) == (word != 0), hex(word)


def test_a_chunk_is_never_too_large():
    """Nothing in it says to cut, but where the windows overlap."""
    data = b"\1" * (4 * MIB + 200 * KIB)
    assert spans_of([chunking.Area(len(data))], data) == [(0, 4 * MIB), (4 * MIB, 200 * KIB)]
    page = next(
        block
        for block in (NOISE[at : at + 4096] for at in range(0, MIB, 4096))
        if chunking._cuts(chunking.FINE, block) == [0]
    )
    data = b"\1" * (4 * MIB + 40 * KIB) + page + b"\1" * MIB
    found = spans_of([chunking.Area(len(data))], data)
    assert found == [(0, 4 * MIB), (4 * MIB, 40 * KIB), (4 * MIB + 40 * KIB, MIB + 4 * KIB)]


SMALL = chunking.Grain(step_bytes=64, word=1, rare=4, least_bytes=128, zeros_bytes=8192)


@given(
    st.lists(st.tuples(st.integers(0, 6 * KIB), st.sampled_from("znr")), max_size=20),
    st.integers(0, 1000),
)
def test_every_byte_but_zeros_is_in_one_chunk(parts, seed):
    source = random.Random(seed)
    kinds = {"z": bytes, "n": source.randbytes, "r": lambda size: b"\7" * size}
    data = b"".join(kinds[kind](size) for size, kind in parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "FINE", SMALL)
        patch.setattr(chunking, "WINDOW_BYTES", 4 * KIB)
        patch.setattr(chunking, "MAX_BYTES", 4 * KIB)
        patch.setattr(chunking, "PAGE_BYTES", 512)
        patch.setattr(chunking, "_ZERO_PAGE", bytes(512))
        found = spans_of([chunking.Area(len(data))], data)
    rest, end = bytearray(data), 0
    for offset, size in found:
        assert offset >= end
        assert 0 < size <= 4 * KIB
        assert any(data[offset : offset + 512])
        assert any(data[max(offset, offset + size - 512) : offset + size])
        end = offset + size
        rest[offset:end] = bytes(size)
    assert not any(rest)


def pagemap(runs, pages_id=1):
    """An image with (address, pages) of each entry, or an entry."""
    entries = [
        run
        if isinstance(run, pb.PagemapEntry)
        else pb.PagemapEntry(vaddr=run[0], compat_nr_pages=0, nr_pages=run[1], flags=4)
        for run in runs
    ]
    return images.encode("pagemap-7.img", [pb.PagemapHead(pages_id=pages_id), *entries])


def mm(mappings):
    vmas = [pb.VmaEntry(start=a, end=b, status=status) for a, b, status in mappings]
    return images.encode("mm-7.img", [pb.MmEntry(vmas=vmas)])


HEAP, ANONYMOUS = 0x221, 0x201
LOW, HIGH = 0x55A0_0000_0000, 0x7F12_3456_7000
MAPPINGS = [
    (LOW, LOW + 100 * PAGE, HEAP),
    (HIGH, HIGH + 50 * PAGE, ANONYMOUS),
    (HIGH + 50 * PAGE, HIGH + 60 * PAGE, ANONYMOUS),
]
RUNS = [(LOW, 10), (LOW + 10 * PAGE, 3), (LOW + 90 * PAGE, 10), (HIGH + 40 * PAGE, 15)]
AREAS = [(23 * PAGE, True), (10 * PAGE, False), (5 * PAGE, False)]


def planned(tmp_path, files, sizes=None):
    """What areas the plan sees: the file, offset, size and whether it is heap."""
    (tmp_path / "criu").mkdir(exist_ok=True)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    sizes = sizes or {}
    named = {**{name: len(data) for name, data in files.items()}, **sizes}
    listed = [manifest.File(name=name, size=size, chunks=[]) for name, size in named.items()]
    found = {}
    for window in chunking.plan(tmp_path / "criu", listed):
        name = listed[window.file].name
        size = window.size - window.ahead
        if window.follows:
            size += found[name].pop()[0]
        else:
            assert window.offset == sum(one for one, _ in found.get(name, []))
        found.setdefault(name, []).append((size, window.grain == chunking.HEAP))
    return found


def memory_areas(tmp_path, *, runs=RUNS, mappings=MAPPINGS, pages=38, name="criu/pages-1.img"):
    files = {"criu/pagemap-7.img": pagemap(runs), "criu/mm-7.img": mm(mappings)}
    return planned(tmp_path, files, {name: pages * PAGE})[name]


def test_areas_are_those_of_memory(tmp_path):
    assert memory_areas(tmp_path) == AREAS
    mapped = sorted(MAPPINGS, reverse=True)
    assert memory_areas(tmp_path, mappings=mapped) == AREAS


def test_it_does_not_matter_how_criu_split_them(tmp_path):
    split = [(a + n * PAGE, 1) for a, count in RUNS for n in range(count)]
    assert memory_areas(tmp_path, runs=split) == AREAS


def test_only_pages_that_are_there_take_room(tmp_path):
    def entry(address, **fields):
        return pb.PagemapEntry(vaddr=address, **fields)

    lazy = entry(LOW + 20 * PAGE, compat_nr_pages=0, nr_pages=8, flags=2)
    parent = entry(LOW + 30 * PAGE, compat_nr_pages=5, in_parent=True)
    assert memory_areas(tmp_path, runs=[*RUNS[:2], lazy, parent, *RUNS[2:]]) == AREAS
    old = [entry(address, compat_nr_pages=count) for address, count in RUNS]
    assert memory_areas(tmp_path, runs=old) == AREAS
    lazy_too = [entry(a, compat_nr_pages=count, flags=6) for a, count in RUNS]
    assert memory_areas(tmp_path, runs=lazy_too) == AREAS


def test_pages_of_shared_memory_and_other_files_are_one_area(tmp_path):
    files = {"criu/pagemap-shmem-7.img": pagemap([(0, 9)]), "criu/mm-7.img": mm(MAPPINGS)}
    found = planned(tmp_path, files, {"criu/pages-1.img": 9 * PAGE, "criu/core-7.img": 0})
    assert found["criu/pages-1.img"] == [(9 * PAGE, False)]
    assert found["criu/mm-7.img"] == [(len(files["criu/mm-7.img"]), False)]
    assert "criu/core-7.img" not in found


GOOD = pagemap(RUNS)


@pytest.mark.parametrize(
    ("data", "mappings", "pages"),
    [
        (None, mm(MAPPINGS), 38),
        (GOOD, None, 38),
        (GOOD[:-1], mm(MAPPINGS), 38),
        (GOOD[:-10], mm(MAPPINGS), 38),
        (GOOD + b"\1\0\0", mm(MAPPINGS), 38),
        (GOOD + b"\2\0\0\0\xff\xff", mm(MAPPINGS), 38),
        (b"\0" * 8 + GOOD[8:], mm(MAPPINGS), 38),
        (b"", mm(MAPPINGS), 38),
        (GOOD, mm(MAPPINGS)[:-1], 38),
        (GOOD, mm(MAPPINGS[1:]), 38),
        (GOOD, mm(MAPPINGS[:2]), 38),
        (GOOD, mm([(LOW, LOW, HEAP), *MAPPINGS[1:]]), 38),
        (GOOD, mm(MAPPINGS), 37),
        (GOOD, mm(MAPPINGS), 39),
        (pagemap([(0, 1 << 63)]), mm([(0, (1 << 64) - 1, 0)]), 38),
    ],
)
def test_what_images_do_not_tell_is_one_area(tmp_path, data, mappings, pages):
    files = {"criu/pagemap-7.img": data, "criu/mm-7.img": mappings}
    files = {name: data for name, data in files.items() if data is not None}
    missing = {"criu/pagemap-7.img": 9} if data is None else {}
    found = planned(tmp_path, files, {"criu/pages-1.img": pages * PAGE, **missing})
    assert found["criu/pages-1.img"] == [(pages * PAGE, False)]


def test_an_image_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", len(GOOD) - 1)
    assert memory_areas(tmp_path) == [(38 * PAGE, False)]


CRIU_PAGEMAP = bytes.fromhex(
    "19435654254008560200000008010b0000000880a080021000200428010b0000000880c082021000200428010b00"
    "00000880e082021000200628020e0000000880e0efc9fff91f1000200428020e000000088080f1cff6ff1f100020"
    "062803"
)
CRIU_MM = bytes.fromhex(
    "1943565420284957d80100000880a0800210ebda810218f0be82022094c0820228b0a5f1cff6ff1f3080a08abd02"
    "3880a08abd02409bdcf1cff6ff1f48ecddf1cff6ff1f50ecddf1cff6ff1f58e9dff1cff6ff1f600168216880e0ef"
    "c9fff91f683368b01a681068fff7afbc01680668802068116864680368c080800268046838680568066807680068"
    "086800680968caa78002680b6800680c6800680d6800680e680068176800681968a9aaf1cff6ff1f681a6802681f"
    "68e9dff1cff6ff1f680f68b9aaf1cff6ff1f681b681c681c6820721808808080021080a080021800200128013002"
    "38414001500072190880a080021080e08102188020200128053002384140015000721a0880e081021080a0820218"
    "80e001200128013002384140015000721a0880a082021080e0820218808002200128033002384140015000721708"
    "80e082021080a083021800200028033022388104400172210880a0eec9fff91f1080e0efc9fff91f180020002801"
    "3022388124400148808004721d0880e0efc9fff91f1080a0f0c9fff91f18002000280530223889044001721e0880"
    "c0e9cff6ff1f1080e0f1cff6ff1f18002000280330a2023881044001722308808080fbffffffffff011080a080fb"
    "ffffffffff01180020002804302238840440017801880100"
)


@pytest.mark.skipif(PAGE != 4096, reason="optional: the images are of a machine with small pages")
def test_what_criu_wrote(tmp_path):
    """CRIU 4.2.1 on x86_64, of a process without a heap."""
    files = {"criu/pagemap-7.img": CRIU_PAGEMAP, "criu/mm-7.img": CRIU_MM}
    found = planned(tmp_path, files, {"criu/pages-1.img": 9 * PAGE})
    expected = [1, 1, 2, 2, 3]
    assert found["criu/pages-1.img"] == [(pages * PAGE, False) for pages in expected]


def entry(path, size, extents=None, kind="file"):
    extents = [(0, size)] if extents is None and size else extents or []
    return inode.Entry(volume=3, path=path, kind=kind, size=size, extents=extents)


def test_large_files_of_the_archive_are_areas(tmp_path):
    large = chunking.LARGE_FILE_BYTES
    entries = [
        entry(b"", 0, kind="directory"),
        entry(b"a", 10),
        entry(b"b", large - 1),
        entry(b"c", large),
        entry(b"d", 1 << 40, extents=[(5, large), (1 << 30, 7)]),
        entry(b"e", 3),
    ]
    files = {"files.index": msgspec.msgpack.encode(entries)}
    sizes = [10 + large - 1, large, large + 7, 3]
    found = planned(tmp_path, files, {"files.data": sum(sizes)})
    assert [size for size, _ in found["files.data"]] == sizes
    for wrong in ({"files.data": sum(sizes) + 1}, {"files.data": sum(sizes) - 1}):
        found = planned(tmp_path, files, wrong)
        assert found["files.data"] == [(wrong["files.data"], False)]
    found = planned(tmp_path, {"files.index": b"\xff"}, {"files.data": 9})
    assert found["files.data"] == [(9, False)]


def test_an_index_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    files = {"files.index": msgspec.msgpack.encode([entry(b"a", 1 << 16), entry(b"b", 1 << 16)])}
    assert len(planned(tmp_path, files, {"files.data": 1 << 17})["files.data"]) == 2
    monkeypatch.setattr(images, "MAX_BYTES", len(files["files.index"]) - 1)
    assert len(planned(tmp_path, files, {"files.data": 1 << 17})["files.data"]) == 1


def test_a_plan_names_files_in_their_order(tmp_path):
    files = {name: noise(size) for name, size in (("b", 9 * MIB), ("a", 0), ("c", 5))}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    listed = [manifest.File(name=n, size=len(data), chunks=[]) for n, data in files.items()]
    windows = chunking.plan(tmp_path / "criu", listed)
    assert [(one.file, one.offset) for one in windows] == [
        (0, 0),
        (0, 4 * MIB),
        (0, 8 * MIB),
        (2, 0),
    ]
    found = []
    for window in windows:
        data = files[listed[window.file].name][window.offset :][: window.size]
        assert len(data) == window.size
        found += chunking.spans(window, data)
    assert found == sorted(found)
    assert sum(one.size for one in found) == 9 * MIB + 5


def test_two_captures_share_what_did_not_change(tmp_path):
    """The whole: other addresses, other splits, a page less, a page more, a longer heap."""
    weights, heap, other = noise(12 * MIB, 3), noise(6 * MIB, 4), noise(300 * KIB, 5)
    parts = [(heap, HEAP), (weights, ANONYMOUS), (other, ANONYMOUS)]
    before = capture(tmp_path / "a", parts, LOW, split=256)
    changed = [
        (noise(9 * 64, 6) + heap[: -9 * 64], HEAP),
        (noise(2 * PAGE, 7) + weights[: 3 * MIB] + weights[3 * MIB + PAGE :], ANONYMOUS),
        (noise(300 * KIB, 8), ANONYMOUS),
    ]
    after = capture(tmp_path / "b", changed, LOW + 77 * PAGE, split=100)
    assert 0 < new_share(before, after) < 0.08


def capture(path, parts, address, *, split):
    """The chunks of the pages of a process with these mappings, each after a hole."""
    (path / "criu").mkdir(parents=True)
    mappings, runs, data = [], [], b""
    for content, status in parts:
        content = content + bytes(-len(content) % PAGE)
        pages = len(content) // PAGE
        address += 33 * PAGE
        mappings.append((address - 5 * PAGE, address + (pages + 9) * PAGE, status))
        runs += [(address + at * PAGE, min(split, pages - at)) for at in range(0, pages, split)]
        address += (pages + 9) * PAGE
        data += content
    files = {"criu/pagemap-7.img": pagemap(runs), "criu/mm-7.img": mm(mappings)}
    files["criu/pages-1.img"] = data
    for name, content in files.items():
        (path / name).write_bytes(content)
    listed = [manifest.File(name=name, size=len(c), chunks=[]) for name, c in files.items()]
    found = []
    for window in chunking.plan(path / "criu", listed):
        if window.file == 2:
            read = data[window.offset :][: window.size]
            found += [data[o : o + s] for _, o, s in chunking.spans(window, read)]
    return found


def test_grains_fit_their_windows():
    """Both windows look for the cut between them in the same bytes."""
    for grain in (chunking.FINE, chunking.HEAP, chunking.COARSE):
        assert chunking.WINDOW_BYTES % grain.step_bytes == 0
        assert grain.ahead_bytes % chunking.PAGE_BYTES == 0
        assert grain.ahead_bytes < chunking.WINDOW_BYTES
        assert 8 * grain.word < grain.step_bytes
