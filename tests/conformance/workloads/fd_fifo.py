"""A named pipe, open at both ends, with content."""

import os


def setup():
    os.mkfifo("/tmp/fifo")
    read = os.open("/tmp/fifo", os.O_RDONLY | os.O_NONBLOCK)
    write = os.open("/tmp/fifo", os.O_WRONLY)
    os.write(write, b"through")
    return read, write


def check(state):
    read, write = state
    said = os.read(read, 100)
    os.write(write, said)
    return {"said": said.decode(), "blocks": os.get_blocking(read)}
