"""A private mapping of a file with pages of its own, the file changed beside it."""

import mmap


def setup():
    with open("/tmp/mapped", "wb") as file:
        file.write(b"a" * 65536)
    with open("/tmp/mapped", "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE)
    mapped[4096:4100] = b"mine"
    return mapped


def check(state):
    with open("/tmp/mapped", "rb") as file:
        content = file.read()
    return {"mine": state[4096:4101].decode(), "own": state[:3].decode(), "file": len(set(content))}
