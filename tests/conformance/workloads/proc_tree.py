"""A tree of processes with sessions and groups of their own."""

import os
import time


def idle():
    while True:
        time.sleep(60)


def setup():
    read, write = os.pipe()
    for own in (os.setsid, lambda: os.setpgid(0, 0), lambda: None):
        if os.fork() == 0:
            own()
            if os.fork() == 0:
                os.write(write, b".")
                idle()
            os.write(write, b".")
            idle()
    for _ in range(6):
        os.read(read, 1)
    return None


def check(state):
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = [int(word) for word in file.read().split()]
    return {"children": [(c, os.getpgid(c), os.getsid(c)) for c in sorted(children)]}
