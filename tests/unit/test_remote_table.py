"""A chunk table is read back to the row, and whatever else is an ArtifactError."""

import contextlib
import struct
import time

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrek import errors, manifest
from chrek.remote import table

MIB = 1 << 20
FILES = [
    manifest.File(name=name, size=size, chunks=[])
    for name, size in (("a", 10 * MIB), ("b", 0), ("criu/pages-1.img", (1 << 40) + 5), ("d", 7))
]
ROWS = [
    table.Row(0, 0, 4 * MIB, b"\1" * 32),
    table.Row(0, 6 * MIB, 4 * MIB, b"\2" * 32),
    table.Row(2, 1 << 40, 5, b"\3" * 32),
    table.Row(3, 0, 7, b"\1" * 32),
]
GOOD = table.encode(ROWS)


def digested(data):
    return data + blake3.blake3(data).digest()


def made(rows, count=None):
    """A table of any rows, with a digest that is right."""
    header = struct.pack("<8sQ", b"CHRKTBL1", len(rows) if count is None else count)
    return digested(header + b"".join(struct.pack("<IQI32s", *row) for row in rows))


def test_the_bytes_of_a_table():
    row = bytes.fromhex("02000000 0000000000010000 05000000") + b"\3" * 32
    data = b"CHRKTBL1" + bytes.fromhex("0100000000000000") + row
    assert table.encode(ROWS[2:3]) == digested(data)
    assert table.encode([]) == digested(b"CHRKTBL1" + bytes(8))


def test_rows_come_back():
    found = table.decode(GOOD, FILES)
    assert list(found) == ROWS
    assert [found[number] for number in range(len(found))] == ROWS
    assert list(table.decode(table.encode([]), FILES)) == []
    for number in (-1, len(ROWS)):
        with pytest.raises(IndexError):
            found[number]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes, more or fewer"),
        (GOOD[:47], "47 bytes, more or fewer"),
        (b"CHRKPLC1" + GOOD[8:], "starts with b'CHRKPLC1' instead of b'CHRKTBL1'"),
        (GOOD[:-1], "has digest"),
        (GOOD[:-1] + b"\0", "has digest"),
        (GOOD[:40] + b"\0" + GOOD[41:], "has digest"),
        (GOOD + b"\0", "has digest"),
        (made(ROWS, count=3), "3 rows in 192 bytes"),
        (made(ROWS, count=1 << 63), f"{1 << 63} rows in 192 bytes"),
        (digested(GOOD[:-33]), "4 rows in 191 bytes"),
        (made([(4, 0, 1, b"")]), "row 0 of file 4: the last was of -1 of 4"),
        (made([ROWS[2], ROWS[0]]), "row 1 of file 0: the last was of 2 of 4"),
        (made([(0, 0, 0, b"")]), "row 0 has 0 bytes"),
        (made([(0, 0, 4 * MIB + 1, b"")]), "row 0 has 4194305 bytes"),
        (made([(0, 6 * MIB + 1, 4 * MIB, b"")]), "row 0 ends at 10485761, a at 10485760"),
        (made([(0, (1 << 64) - 1, 4 * MIB, b"")]), "row 0 ends at 18446744073713745919"),
        (made([(1, 0, 1, b"")]), "row 0 ends at 1, b at 0"),
        (made([ROWS[1], ROWS[0]]), "row 1 starts at 0, the one before ends at 10485760"),
        (made([ROWS[0], (0, 4 * MIB - 1, 1, b"")]), "row 1 starts at 4194303"),
        (made([ROWS[0], ROWS[0]]), "row 1 starts at 0"),
    ],
)
def test_damage(data, message):
    with pytest.raises(errors.ArtifactError) as caught:
        table.decode(data, FILES)
    assert message in caught.value.message
    assert caught.value.reason == "ArtifactCorrupt"


def test_files_that_are_not_there():
    with pytest.raises(errors.ArtifactError, match="of file 0: the last was of -1 of 0"):
        table.decode(GOOD, [])


def test_what_is_too_large(monkeypatch):
    assert 16 + table.MAX_ROWS * 48 + 32 <= manifest.MAX_BYTES < 16 + (table.MAX_ROWS + 1) * 48 + 32
    monkeypatch.setattr(table, "MAX_ROWS", 4)
    assert table.encode(ROWS) == GOOD
    monkeypatch.setattr(table, "MAX_ROWS", 3)
    with pytest.raises(errors.UnsupportedError, match="4 chunks, at most 3"):
        table.encode(ROWS)
    monkeypatch.setattr(manifest, "MAX_BYTES", len(GOOD) - 1)
    with pytest.raises(errors.ArtifactError, match=f"{len(GOOD)} bytes, more or fewer"):
        table.decode(GOOD, FILES)


@st.composite
def artifacts(draw):
    """Files and rows that are in order."""
    files, rows = [], []
    for number in range(draw(st.integers(0, 4))):
        at = 0
        for gap, size in draw(
            st.lists(st.tuples(st.integers(0, 1 << 50), st.integers(1, 4 * MIB)), max_size=5)
        ):
            rows.append(
                table.Row(number, at + gap, size, draw(st.binary(min_size=32, max_size=32)))
            )
            at += gap + size
        files.append(manifest.File(name=f"{number}", size=at + draw(st.integers(0, 9)), chunks=[]))
    return files, rows


@given(artifacts())
def test_any_rows_come_back(artifact):
    files, rows = artifact
    assert list(table.decode(table.encode(rows), files)) == rows


@given(artifacts(), st.data())
def test_two_rows_never_change_places(artifact, data):
    files, rows = artifact
    other = data.draw(st.permutations(rows))
    if other != rows:
        with pytest.raises(errors.ArtifactError):
            table.decode(made(other), files)


@given(st.binary(max_size=150), st.booleans())
def test_any_bytes_are_a_table_or_an_error(data, framed):
    if framed:
        data = digested(struct.pack("<8sQ", b"CHRKTBL1", len(data) // 48) + data)
    with contextlib.suppress(errors.ArtifactError):
        list(table.decode(data, FILES))


def test_many_rows_take_less_than_a_second():
    count = 400_000
    size = 1 << 18
    data = made([(0, number * size, size, bytes(32)) for number in range(count)])
    start = time.process_time()
    found = table.decode(data, [manifest.File(name="a", size=count * size, chunks=[])])
    assert time.process_time() - start < 1
    assert len(found) == count
