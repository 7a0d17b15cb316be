"""Ranges of packs: few, not too long, and every chunk in one."""

import random

import pytest

from chrek.remote import backend, download, pack, places


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
    found = download.requests(laid(*rows))
    assert [(r.pack, r.offset, r.size, tuple(r.rows)) for r in found] == expected


def test_every_chunk_is_in_exactly_one_request():
    chance = random.Random(1)
    rows = [
        (chance.randrange(3), chance.randrange(60 << 20), chance.randrange(1, 4 << 20))
        for _ in range(500)
    ]
    found = download.requests(laid(*rows))
    seen = sorted(number for request in found for number in request.rows)
    assert seen == list(range(500))
    for request in found:
        assert request.size <= download.REQUEST_BYTES
        for number in request.rows:
            one, offset, size = rows[number]
            assert one == request.pack
            assert request.offset <= offset
            assert offset + size <= request.offset + request.size
