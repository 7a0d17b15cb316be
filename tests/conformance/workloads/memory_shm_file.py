"""A shared mapping of a file on /dev/shm."""

import mmap
import os


def setup():
    fd = os.open("/dev/shm/mapped", os.O_CREAT | os.O_RDWR, 0o600)
    os.ftruncate(fd, 1 << 20)
    mapped = mmap.mmap(fd, 0)
    mapped[777:782] = b"there"
    return fd, mapped


def check(state):
    fd, mapped = state
    os.pwrite(fd, b"here", 4000)
    with open("/dev/shm/mapped", "rb") as file:
        content = file.read()
    return {
        "mapped": mapped[777:782].decode(),
        "file": content[777:782].decode(),
        "written": mapped[4000:4004].decode(),
        "size": len(content),
    }
