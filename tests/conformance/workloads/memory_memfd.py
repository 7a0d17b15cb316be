"""A memfd, sealed against writing, and one that two descriptors share."""

import fcntl
import mmap
import os


def setup():
    sealed = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.write(sealed, b"content")
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK)
    shared = os.memfd_create("shared")
    os.ftruncate(shared, 1 << 16)
    return sealed, shared, mmap.mmap(shared, 1 << 16)


def check(state):
    sealed, shared, mapped = state
    try:
        written = os.pwrite(sealed, b"x", 0)
    except PermissionError:
        written = -1
    mapped[5:10] = b"hello"
    return {
        "sealed": os.pread(sealed, 100, 0).decode(),
        "seals": fcntl.fcntl(sealed, fcntl.F_GET_SEALS),
        "written": written,
        "shared": os.pread(shared, 5, 5).decode(),
    }
