"""Watches of a directory and a file."""

import ctypes
import os
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
CREATE, MODIFY = 0x100, 0x2


def setup():
    os.makedirs("/tmp/watched", exist_ok=True)
    with open("/tmp/watched/file", "w"):
        pass
    fd = LIBC.inotify_init1(os.O_NONBLOCK)
    for path, mask in ((b"/tmp/watched", CREATE), (b"/tmp/watched/file", MODIFY)):
        if LIBC.inotify_add_watch(fd, path, mask) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")
    return fd, [0]


def check(state):
    fd, asked = state
    asked[0] += 1
    with open(f"/tmp/watched/new-{asked[0]}", "w"):
        pass
    with open("/tmp/watched/file", "a") as file:
        file.write("x")
    data, seen = os.read(fd, 4096), []
    while data:
        _, mask, _, length = struct.unpack_from("iIII", data)
        seen.append((mask, data[16 : 16 + length].rstrip(b"\0").decode()))
        data = data[16 + length :]
    return {"seen": seen, "asked": asked[0]}


def compare(before, after):
    assert before["seen"] == [[0x100, "new-1"], [0x2, ""]]
    assert after["seen"] == [[0x100, "new-2"], [0x2, ""]]
