"""Descriptors that are copies of one another, in two processes, with one offset."""

import os


def setup():
    with open("/tmp/numbers", "wb") as file:
        file.write(bytes(range(200)))
    fd = os.open("/tmp/numbers", os.O_RDONLY)
    copy = os.dup(fd)
    asked, told = os.pipe(), os.pipe()
    if os.fork() == 0:
        while os.read(asked[0], 1):
            os.write(told[1], os.read(fd, 1))
        os._exit(0)
    return fd, copy, asked[1], told[0]


def check(state):
    fd, copy, ask, told = state
    first = os.read(copy, 1)[0]
    os.write(ask, b".")
    second = os.read(told, 1)[0]
    return {"first": first, "second": second, "offset": os.lseek(fd, 0, os.SEEK_CUR)}


def compare(before, after):
    assert before == {"first": 0, "second": 1, "offset": 2}
    assert after == {"first": 2, "second": 3, "offset": 4}
