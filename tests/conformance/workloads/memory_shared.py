"""Shared anonymous memory of a parent and its child: one writes, the other reads."""

import mmap
import os


def setup():
    shared = mmap.mmap(-1, 1 << 20)
    asked, told = os.pipe(), os.pipe()
    if os.fork() == 0:
        while os.read(asked[0], 1):
            shared[100] += 1
            os.write(told[1], b".")
        os._exit(0)
    return shared, asked[1], told[0]


def check(state):
    shared, ask, told = state
    os.write(ask, b".")
    os.read(told, 1)
    return {"seen": shared[100]}


def compare(before, after):
    assert after["seen"] == before["seen"] + 1
