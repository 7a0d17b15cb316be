"""What is stored of a chunk gives the chunk again, in no more memory than the chunk."""

import concurrent.futures
import contextlib
import os
import random
import threading
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from chrek import errors
from chrek.remote import pack

KIB = 1 << 10
MIB = 1 << 20
NOISE = random.Random(1).randbytes(4 * MIB)
TEXT = b"".join(b"line %d of something\n" % number for number in range(200_000))


def compressed(data, **options):
    return zstandard.ZstdCompressor(level=1, **options).compress(data)


@pytest.mark.parametrize("size", [1, 100, 32 * KIB, 32 * KIB + 1, 256 * KIB, MIB + 7, 4 * MIB])
def test_text_is_compressed_and_noise_is_not(size):
    codec, stored = pack.encode(memoryview(NOISE)[:size])
    assert codec is pack.Codec.RAW
    assert stored == NOISE[:size]
    assert pack.decode(codec, stored, size) == NOISE[:size]
    if size > 100:
        codec, stored = pack.encode(memoryview(TEXT)[:size])
        assert codec is pack.Codec.ZSTD
        assert len(stored) < size / 3
        assert pack.decode(codec, memoryview(stored), size) == TEXT[:size]


def test_noise_is_not_copied():
    for data in (NOISE, memoryview(NOISE), memoryview(NOISE)[:100]):
        assert pack.encode(data)[1] is data


def test_the_sample_decides():
    """Of 256 KiB it sees 8 KiB at the start, at the end and twice between."""
    size, gap = 256 * KIB, (256 - 8) * KIB // 3
    seen = [at * gap for at in range(4)]
    data = bytearray(size)
    for at in seen:
        data[at : at + 8 * KIB] = NOISE[at : at + 8 * KIB]
    assert pack.encode(bytes(data))[0] is pack.Codec.RAW
    data = bytearray(NOISE[:size])
    for at in seen:
        data[at : at + 8 * KIB] = bytes(8 * KIB)
    # 32 of 256 KiB is more than a tenth: it pays; less does not.
    assert pack.encode(bytes(data))[0] is pack.Codec.ZSTD
    assert pack.encode(bytes(data) + bytes(8 * KIB) + NOISE[: 3 * MIB])[0] is pack.Codec.RAW


def test_a_sample_that_promises_too_much():
    data = bytearray(NOISE)
    for at in range(4):
        start = at * ((4 * MIB - 8 * KIB) // 3)
        data[start : start + 8 * KIB] = bytes(8 * KIB)
    codec, stored = pack.encode(bytes(data))
    assert codec is pack.Codec.RAW
    assert stored == data


def raises(codec, stored, size):
    with pytest.raises(errors.ArtifactError) as caught:
        pack.decode(codec, stored, size)
    assert caught.value.reason == "ArtifactCorrupt"
    return caught.value.message


def test_a_raw_chunk_of_another_size():
    assert "a chunk of 4 bytes is stored as 3" in raises(pack.Codec.RAW, b"abc", 4)
    assert "a chunk of 2 bytes is stored as 3" in raises(pack.Codec.RAW, b"abc", 2)


GOOD = compressed(TEXT[: 64 * KIB])
SKIPPABLE = bytes.fromhex("502a4d18 03000000") + b"abc"


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (b"", "content size"),
        (b"abcdefghijkl", "content size"),
        (GOOD[:-1], "decompress"),
        (GOOD[:3], "content size"),
        (GOOD + b"\0", "unused"),
        (GOOD + GOOD, "unused"),
        (GOOD[:40] + b"\xff" * 9 + GOOD[49:], "65536 bytes"),
        (compressed(TEXT[: 64 * KIB - 1]), "a frame of 65535"),
        (compressed(TEXT[: 64 * KIB + 1]), "a frame of 65537"),
        (compressed(TEXT[: 64 * KIB], write_content_size=False), "a frame of -1"),
        (SKIPPABLE, "a frame of 0"),
        (SKIPPABLE + GOOD, "a frame of 0"),
    ],
)
def test_damage(stored, message):
    assert message in raises(pack.Codec.ZSTD, stored, 64 * KIB)


def peak(stored, size):
    """Bytes that a refusal takes at most; what it decompresses into is Python's memory."""
    tracemalloc.start()
    try:
        raises(pack.Codec.ZSTD, stored, size)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_is_refused_before_it_takes_memory():
    bomb = compressed(bytes(256 * MIB))
    assert len(bomb) < 64 * KIB
    assert peak(bomb, 4 * MIB) < MIB
    # Its header may as well tell of fewer bytes than its blocks hold.
    header = compressed(bytes(300))
    liar = header[: zstandard.frame_header_size(header)] + bomb[zstandard.frame_header_size(bomb) :]
    assert zstandard.frame_content_size(liar) == 300
    assert peak(liar, 300) < MIB


def test_threads_do_not_disturb_each_other():
    chunks = [os.urandom(16) + TEXT[at : at + 100 * KIB + at] for at in range(64)]
    together = threading.Barrier(4)

    def turn(chunk):
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(timeout=1)
        codec, stored = pack.encode(chunk)
        assert codec is pack.Codec.ZSTD
        return bytes(pack.decode(codec, stored, len(chunk)))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(turn, chunks)) == chunks


@given(st.binary(min_size=1, max_size=300), st.integers(1, 3000))
def test_any_chunk_comes_back(data, times):
    codec, stored = pack.encode(data * times)
    assert pack.decode(codec, stored, len(data) * times) == data * times


@given(st.binary(max_size=100), st.integers(0, 1000), st.integers(0, 5), st.integers(0, 60))
def test_any_bytes_are_a_chunk_or_an_error(data, size, kept, cut):
    valid = compressed(TEXT[:size])
    with contextlib.suppress(errors.ArtifactError):
        assert len(pack.decode(pack.Codec.ZSTD, valid[:kept] + data + valid[cut:], size)) == size
