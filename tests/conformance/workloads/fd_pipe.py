"""A pipe with content, one whose writer is gone, and a larger capacity."""

import fcntl
import os


def setup():
    full, closed = os.pipe(), os.pipe()
    os.write(full[1], b"content")
    fcntl.fcntl(full[1], 1031, 1 << 17)  # F_SETPIPE_SZ
    os.write(closed[1], b"last")
    os.close(closed[1])
    return full, closed[0]


def check(state):
    full, closed = state
    said = os.read(full[0], 100)
    os.write(full[1], said)
    available = fcntl.ioctl(closed, 0x541B, b"\0" * 4)  # FIONREAD
    return {"said": said.decode(), "size": fcntl.fcntl(full[1], 1032), "left": available[0]}
