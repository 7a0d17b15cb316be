"""What is asked for: ranges of packs, few and not too long; and what nobody may ask for."""

import random

import blake3
import msgspec
import pytest

from chrek import errors, manifest
from chrek.remote import backend, download, pack, places, seal, table
from fakes import backend as fake_backend
from fakes import node as nodes

CHUNK = manifest.CHUNK_BYTES
KEY = backend.Key("", nodes.HASH, nodes.VARIANT, "1")


def laid(*rows):
    """Places of rows (pack, offset, size)."""
    packs = [backend.Pack(f"{number:064x}", 64 << 20) for number in range(3)]
    made = [places.Place(*row, pack.Codec.RAW) for row in rows]
    return places.decode(places.encode(packs, made), len(made))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((), []),
        (((0, 0, 10),), [(0, 0, 10, (0,))]),
        (((0, 0, 10), (0, 10, 10)), [(0, 0, 20, (0, 1))]),
        (((0, 10, 10), (0, 0, 10)), [(0, 0, 20, (1, 0))]),
        (((0, 0, 10), (1, 10, 10)), [(0, 0, 10, (0,)), (1, 10, 10, (1,))]),
        (((0, 0, 10), (0, 0, 10)), [(0, 0, 10, (0, 1))]),
        (((0, 0, 10), (0, 1 << 20, 10)), [(0, 0, 10, (0,)), (0, 1 << 20, 10, (1,))]),
        (((0, 0, 10), (0, 100, 10)), [(0, 0, 110, (0, 1))]),
        (((0, 0, 4 << 20), (0, 4 << 20, 4 << 20), (0, 8 << 20, 9)), [
            (0, 0, 8 << 20, (0, 1)), (0, 8 << 20, 9, (2,)),
        ]),
    ],
)  # fmt: skip
def test_requests(rows, expected):
    found = download.requests(laid(*rows).places)
    assert [(r.pack, r.offset, r.size, tuple(r.rows)) for r in found] == expected


def test_rows_that_are_wanted():
    found = download.requests(laid((0, 0, 10), (0, 10, 10), (1, 5, 10)).places, [2, 1])
    assert [(r.pack, r.offset, r.size, tuple(r.rows)) for r in found] == [
        (0, 10, 10, (1,)),
        (1, 5, 10, (2,)),
    ]


def test_every_chunk_is_in_exactly_one_request():
    chance = random.Random(1)
    rows = [
        (chance.randrange(3), chance.randrange(60 << 20), chance.randrange(1, 4 << 20))
        for _ in range(500)
    ]
    found = download.requests(laid(*rows).places)
    seen = sorted(number for request in found for number in request.rows)
    assert seen == list(range(500))
    for request in found:
        assert request.size <= download.REQUEST_BYTES
        for number in request.rows:
            one, offset, size = rows[number]
            assert one == request.pack
            assert request.offset <= offset
            assert offset + size <= request.offset + request.size


async def find(chunks, *rows):
    """Look at a file of a whole chunk and ten bytes of which the table has these (offset, size)."""
    server = fake_backend.Memory()
    packs = [backend.Pack(f"{0:064x}", 64 << 20)]
    made = {
        backend.Part.TABLE: table.encode(table.Row(0, *row, bytes(32)) for row in rows),
        backend.Part.PLACES: places.encode(
            packs, [places.Place(0, 0, 10, pack.Codec.RAW) for _ in rows]
        ),
    }
    for part, data in made.items():
        server.parts[KEY, part] = fake_backend.Stored(data)
    fields = {
        "version": 1,
        "uuid": KEY.uuid,
        "identityHash": KEY.identity_hash,
        "variant": KEY.variant,
        "createdAt": "",
        "chrekVersion": "",
        "rootPid": 2,
        "stdio": [""] * 3,
        "volumes": [],
        "source": nodes.SOURCE,
        "files": [{"name": "criu/x", "size": CHUNK + 10, "chunks": chunks}],
        "steps": {},
    }
    described = msgspec.convert(fields, manifest.Manifest)
    return await download.find(server, seal.Plain(), KEY, described)


OTHER = "f" * 64
ZEROS = [blake3.blake3(bytes(size)).hexdigest() for size in (CHUNK, 10)]


@pytest.mark.parametrize(
    ("chunks", "rows"),
    [
        (ZEROS, []),
        ([OTHER, ZEROS[1]], [(0, CHUNK)]),
        ([OTHER, ZEROS[1]], [(CHUNK - 1, 1)]),
        ([ZEROS[0], OTHER], [(CHUNK, 1)]),
        ([OTHER, OTHER], [(CHUNK - 1, 2)]),
        ([OTHER, OTHER], [(10, CHUNK)]),
    ],
)
async def test_what_no_row_covers_is_zero(chunks, rows):
    found = await find(chunks, *rows)
    assert [(row.offset, row.size) for row in found.rows] == rows


@pytest.mark.parametrize(
    ("chunks", "rows", "at"),
    [
        ([OTHER, ZEROS[1]], [], 0),
        ([ZEROS[0], ZEROS[0]], [], CHUNK),
        ([OTHER, ZEROS[1]], [(CHUNK, 1)], 0),
        ([OTHER, OTHER], [(0, CHUNK)], CHUNK),
        (["", ""], [], 0),
    ],
)
async def test_what_else_no_row_covers_is_damage(chunks, rows, at):
    with pytest.raises(errors.ArtifactError, match=f"criu/x lacks what is at {at} "):
        await find(chunks, *rows)
