"""A chunk as it is stored: compressed with zstd where that pays.

Much of a worker's memory are weights. Of normally distributed ones zstd saves nothing (float16,
float32), an eighth (int8) or a fifth (bfloat16); so a sample decides. Where it says no it costs 18
to 45 us of one core: 6 to 14 GB/s with chunks of 256 KiB, at least 22 GB/s with 1 MiB. Where it
says yes, one core compresses weights with 0.6 to 1 GB/s and decompresses them with 1 to 1.2 GB/s,
text several times as fast.
Source: https://www.rfc-editor.org/rfc/rfc8878 (zstd), the documentation of python-zstandard 0.25;
measured on an AMD EPYC.
"""

from __future__ import annotations

import enum
import threading

import zstandard

from chrek import errors, manifest

MAX_BYTES = manifest.CHUNK_BYTES
LEVEL = 1
SAMPLES = 4
SAMPLE_BYTES = 8 << 10
PAYS = 0.9
"""Compressed to less than this share of its size a chunk is stored so."""


class Codec(enum.IntEnum):
    """How a chunk is stored; the numbers stand in artifacts."""

    RAW = 0
    ZSTD = 1


class _Tools(threading.local):
    """A compressor and a decompressor for each thread: they may not be shared."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_tools = _Tools()


def encode(data: bytes | memoryview) -> tuple[Codec, bytes | memoryview]:
    """A chunk as it shall be stored; `data` itself where compression does not pay.

    Safe to call from several threads; it holds the interpreter's lock only for a few microseconds.
    """
    if _sample_pays(data):
        stored = _tools.compressor.compress(data)
        if len(stored) < PAYS * len(data):
            return Codec.ZSTD, stored
    return Codec.RAW, data


def decode(codec: Codec, stored: bytes | memoryview, size: int) -> bytes | memoryview:
    """A chunk from what is stored, which may be damaged or hostile.

    Args:
        codec: how it is stored.
        stored: as `encode` gave it.
        size: bytes of the chunk. Never more are made.

    Raises:
        ArtifactError: it is not a chunk of that size.
    """
    if codec is Codec.RAW:
        if len(stored) != size:
            raise _damaged(f"a chunk of {size} bytes is stored as {len(stored)}")
        return stored
    try:
        # Its header says how much memory a frame wants; a missing number is -1.
        told = zstandard.frame_content_size(stored)
        if told != size:
            raise _damaged(f"a chunk of {size} bytes is compressed to a frame of {told}")
        return _tools.decompressor.decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as err:
        raise _damaged(f"a compressed chunk of {size} bytes: {err}") from err


def _sample_pays(data: bytes | memoryview) -> bool:
    if len(data) <= SAMPLES * SAMPLE_BYTES:
        return True
    step = (len(data) - SAMPLE_BYTES) // (SAMPLES - 1)
    starts = range(0, SAMPLES * step, step)
    sample = b"".join([data[at : at + SAMPLE_BYTES] for at in starts])
    return len(_tools.compressor.compress(sample)) < PAYS * len(sample)


def _damaged(message: str) -> errors.ArtifactError:
    return errors.ArtifactError(
        message, hint="the artifact is damaged: delete it and make the checkpoint again"
    )
