"""Memory in hugetlb pages, which the kernel sets aside and CRIU cannot restore elsewhere.

Whatever way it was asked for (MAP_HUGETLB, SHM_HUGETLB, MFD_HUGETLB, a file on hugetlbfs), it lies
on a file system of that kind, whose device the kernel shows of each mapping and descriptor, also
when no page of it was touched yet. Transparent huge pages are something else, and no obstacle.
Source: proc_pid_maps(5), memfd_create(2), shmget(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import re
from collections.abc import Iterable

from chrek import ipcns, procfs

FOLDER = pathlib.Path("/sys/kernel/mm/hugepages")
_MFD_HUGETLB = 4
_SIZE_SHIFT = 26
_SHM_RDONLY = 0o10000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.shmat.restype = ctypes.c_void_p
_libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_libc.shmdt.argtypes = (ctypes.c_void_p,)


def devices(mounts: Iterable[procfs.Mount]) -> frozenset[int]:
    """Of the kernel's own file systems of hugetlb pages, one a size, and of a container's."""
    found = set()
    for mount in mounts:
        if mount.fs_type == "hugetlbfs":
            major, minor = mount.device.split(":")
            found.add(os.makedev(int(major), int(minor)))
    for path in FOLDER.glob("hugepages-*kB"):
        size_bytes = 1024 * int(path.name.removeprefix("hugepages-").removesuffix("kB"))
        flags = _MFD_HUGETLB | ((size_bytes.bit_length() - 1) << _SIZE_SHIFT)
        with contextlib.suppress(OSError):
            fd = os.memfd_create("chrek", flags | os.MFD_CLOEXEC)
            found.add(os.fstat(fd).st_dev)
            os.close(fd)
    return frozenset(found)


_MAPPING = re.compile(r"^\S+ \S+ \S+ ([0-9a-f]+):([0-9a-f]+) ", re.MULTILINE)


def _mapped_devices(text: str) -> set[int]:
    """Devices of the lines of `/proc/PID/maps`."""
    pairs = set(_MAPPING.findall(text))
    return {os.makedev(int(major, 16), int(minor, 16)) for major, minor in pairs}


def is_mapped(pid: int, of: frozenset[int]) -> bool:
    """Whether a process has such memory mapped."""
    text = pathlib.Path(f"/proc/{pid}/maps").read_text(errors="replace")
    return bool(_mapped_devices(text) & of)


def is_descriptor(pid: int, number: int, of: frozenset[int]) -> bool:
    """Whether a descriptor of a process is such memory; it is a file, or was one."""
    return os.stat(f"/proc/{pid}/fd/{number}").st_dev in of


def segments(pid: int, numbers: Iterable[int], of: frozenset[int]) -> list[int]:
    """Those of a namespace's System V segments that are such memory."""

    def work() -> list[int]:
        return [number for number in numbers if _segment_devices(number) & of]

    return ipcns.inside(pid, work)


def _segment_devices(number: int) -> set[int]:
    """Device of a segment; none of one that is gone meanwhile."""
    address = _libc.shmat(number, None, _SHM_RDONLY)
    if address is None or address == ctypes.c_void_p(-1).value:
        return set()
    try:
        for line in pathlib.Path("/proc/thread-self/maps").read_text().splitlines():
            if int(line.partition("-")[0], 16) == address:
                return _mapped_devices(line)
        return set()
    finally:
        _libc.shmdt(address)
