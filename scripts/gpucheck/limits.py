"""What this machine can do at all, measured in the same run as the rounds."""

from __future__ import annotations

import ctypes
import mmap
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

Object = dict[str, Any]
MOST_BYTES = 1 << 30
_BLOCK = 64 << 20
_REPEAT = 3


def measure(folder: Path, size: int) -> Object:
    """GB/s of memory and of the disk below a folder, each with `size` bytes."""
    room = shutil.disk_usage(folder).free // 4
    return {**_memory(min(size, MOST_BYTES)), **_disk(folder, min(size, MOST_BYTES, room))}


def _memory(size: int) -> Object:
    """Of one thread, as the driver and CRIU copy."""
    source, target = (mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2))
    addresses = [ctypes.addressof(ctypes.c_char.from_buffer(one)) for one in (source, target)]
    began = time.perf_counter()
    ctypes.memset(addresses[0], 1, size)
    touch = time.perf_counter() - began
    ctypes.memset(addresses[1], 2, size)
    copies = []
    for _ in range(_REPEAT):
        began = time.perf_counter()
        ctypes.memmove(addresses[1], addresses[0], size)
        copies.append(time.perf_counter() - began)
    return {"first_touch": _rate(size, touch), "host_copy": _rate(size, min(copies))}


def _disk(folder: Path, size: int) -> Object:
    """A file written until it is on the disk, and read from there."""
    path = folder / "limit"
    # Random: some disks do not store zeros.
    block = memoryview(secrets.token_bytes(min(_BLOCK, max(size, 1))))
    try:
        began = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            left = size
            while left > 0:
                left -= file.write(block[:left])
            os.fsync(file.fileno())
            written = time.perf_counter() - began
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        buffer = mmap.mmap(-1, 4 << 20)
        began = time.perf_counter()
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
        read = time.perf_counter() - began
    finally:
        path.unlink(missing_ok=True)
    return {"disk_write": _rate(size, written), "disk_read": _rate(size, read)}


def _rate(size: int, seconds: float) -> float:
    return round(size / max(seconds, 1e-9) / 1e9, 3)
