"""A file whose opened name was deleted, and which has another one."""

import os


def setup():
    fd = os.open("/tmp/first", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(fd, b"kept")
    os.link("/tmp/first", "/tmp/second")
    os.unlink("/tmp/first")
    return fd


def check(state):
    with open("/tmp/second") as file:
        other = file.read()
    names = [name for name in os.listdir("/tmp") if not name.startswith(("first", "second"))]
    same = os.fstat(state).st_ino == os.stat("/tmp/second").st_ino
    return {
        "content": os.pread(state, 10, 0).decode(),
        "other": other,
        "names": names,
        "same": same,
    }
