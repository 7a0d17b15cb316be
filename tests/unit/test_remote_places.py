"""A place table is read back to the row, and whatever else is an ArtifactError."""

import contextlib
import struct
import time

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrek import errors, manifest
from chrek.remote import backend, pack, places

PACKS = [backend.Pack("ab" * 32, 1000), backend.Pack("sha256:" + "01" * 32, 1 << 32)]
ROWS = [
    places.Place(0, 0, 1000, pack.Codec.RAW),
    places.Place(1, 0, (4 << 20) + 1024, pack.Codec.ZSTD),
    places.Place(1, (1 << 32) - 1, 1, pack.Codec.RAW),
    places.Place(0, 0, 1000, pack.Codec.RAW),
]
GOOD = places.encode(PACKS, ROWS)


def digested(data):
    return data + blake3.blake3(data).digest()


def made(rows, packs=None, *, count=None, number=None):
    """A place table of anything, with a digest that is right."""
    packs = [(p.name.encode(), p.size) for p in PACKS] if packs is None else packs
    data = struct.pack("<8sQ", b"CHRKPLC1", len(rows) if count is None else count)
    data += struct.pack("<I", len(packs) if number is None else number)
    data += b"".join(struct.pack("<96sQ", *one) for one in packs)
    data += b"".join(struct.pack("<IIIB3s", *row) for row in rows)
    return digested(data)


def row(pack_number=0, offset=0, size=1, codec=0, reserved=b""):
    return pack_number, offset, size, codec, reserved


def test_the_bytes_of_a_place_table():
    data = b"CHRKPLC1" + bytes.fromhex("0100000000000000 01000000")
    data += b"ab" * 32 + bytes(32) + bytes.fromhex("e803000000000000")
    data += bytes.fromhex("00000000 07000000 09000000 01 000000")
    row = places.Place(0, 7, 9, pack.Codec.ZSTD)
    assert places.encode(PACKS[:1], [row]) == digested(data)


def test_places_come_back():
    found = places.decode(GOOD, 4)
    assert found.packs == tuple(PACKS)
    assert list(found.places) == ROWS
    assert [found.places[number] for number in range(len(found.places))] == ROWS
    assert found.places[1].codec is pack.Codec.ZSTD
    empty = places.decode(places.encode([], []), 0)
    assert (empty.packs, list(empty.places)) == ((), [])


NAME = b"ab" * 32


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes, more or fewer"),
        (b"CHRKTBL1" + GOOD[8:], "starts with b'CHRKTBL1' instead of b'CHRKPLC1'"),
        (GOOD[:30] + b"\0" + GOOD[31:], "has digest"),
        (made([row()]), "1 rows, the chunk table has 4"),
        (made([row()] * 4, count=5), "5 rows, the chunk table has 4"),
        (made([row()] * 3, count=4), "2 packs and 4 rows in 260 bytes"),
        (made([row()] * 4, number=1), "1 packs and 4 rows"),
        (made([row()] * 4, number=0xFFFFFFFF), "4294967295 packs and 4 rows"),
        (digested(struct.pack("<8sQ3s", b"CHRKPLC1", 4, b"")), "0 packs and 4 rows in 3 bytes"),
        (made([row(pack_number=2)] * 4), "row 0 is in pack 2 of 2"),
        (made([*[row()] * 3, row(offset=1000)]), "row 3 ends at 1001, pack 0 at 1000"),
        (made([row(size=1001)] * 4), "row 0 ends at 1001, pack 0 at 1000"),
        (made([row(offset=(1 << 32) - 1, size=9)] * 4), "row 0 ends at 4294967304"),
        (made([row(size=0)] * 4), "row 0 has 0 bytes"),
        (made([row(pack_number=1, size=(4 << 20) + 1025)] * 4), "row 0 has 4195329 bytes"),
        (made([row(codec=2)] * 4), "row 0 has codec 2"),
        (made([row(reserved=b"\0\1")] * 4), "reserved 000100"),
        (made([row()] * 4, [(NAME, 1), (NAME, 2)]), f"pack {'ab' * 32} stands there twice"),
        (made([row()] * 4, [(NAME, 0)]), "has 0 bytes"),
        (made([row()] * 4, [(NAME, (1 << 32) + 1)]), "has 4294967297 bytes"),
        *(
            (made([row()] * 4, [(name, 9)]), "is no name of a pack")
            for name in (
                b"",
                NAME[1:],
                NAME + b"0",
                NAME.upper(),
                NAME[:-1] + b"\n",
                NAME + b"\n",
                b"sha256:" + NAME[1:],
                b"sha512:" + NAME,
                b"../../" + NAME,
                b"\0" + NAME,
                NAME[:9] + b"\0" + NAME[9:],
                "٣".encode() * 32,
                b"\xff" * 96,
            )
        ),
    ],
)
def test_damage(data, message):
    with pytest.raises(errors.ArtifactError) as caught:
        places.decode(data, 4)
    assert message in caught.value.message
    assert caught.value.reason == "ArtifactCorrupt"


names = st.integers(0, (1 << 256) - 1).map(lambda n: f"{n:064x}")


@st.composite
def tables(draw):
    """Packs and rows that fit them."""
    found = draw(st.dictionaries(names | names.map("sha256:{}".format), st.integers(1, 1 << 32)))
    packs = [backend.Pack(name, size) for name, size in found.items()]
    rows = []
    for _ in range(draw(st.integers(0, 5)) if packs else 0):
        number = draw(st.integers(0, len(packs) - 1))
        size = draw(st.integers(1, min(packs[number].size, (4 << 20) + 1024)))
        offset = draw(st.integers(0, min(packs[number].size - size, (1 << 32) - 1)))
        rows.append(places.Place(number, offset, size, draw(st.sampled_from(pack.Codec))))
    return packs, rows


@given(tables())
def test_any_places_come_back(made):
    packs, rows = made
    found = places.decode(places.encode(packs, rows), len(rows))
    assert list(found.packs) == packs
    assert list(found.places) == rows


@given(st.binary(max_size=150), st.integers(0, 3), st.booleans())
def test_any_bytes_are_places_or_an_error(data, rows, framed):
    if framed:
        data = digested(struct.pack("<8sQ", b"CHRKPLC1", rows) + data)
    with contextlib.suppress(errors.ArtifactError):
        list(places.decode(data, rows).places)


def test_many_rows_take_less_than_a_second():
    data = made([row(offset=number % 1000) for number in range(400_000)])
    assert len(data) < manifest.MAX_BYTES
    start = time.process_time()
    found = places.decode(data, 400_000)
    assert time.process_time() - start < 1
    assert len(found.places) == 400_000
