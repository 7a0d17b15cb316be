"""A memory emptyDir on /dev/shm, as engines with tensor parallelism need it."""

import mmap
import os

OPTIONS = {"pod_only": True, "volumes": {"/dev/shm": "memory"}}


def setup():
    fd = os.open("/dev/shm/segment", os.O_CREAT | os.O_RDWR, 0o600)
    os.ftruncate(fd, 4 << 20)
    mapped = mmap.mmap(fd, 0)
    mapped[1 << 20] = 99
    if os.fork() == 0:
        os.close(fd)
        while True:
            if mapped[0] == 1:
                mapped[1], mapped[0] = (mapped[1] + 1) % 200, 0
    return mapped


def check(state):
    state[0] = 1
    while state[0]:
        pass
    return {"kept": state[1 << 20], "count": state[1], "names": sorted(os.listdir("/dev/shm"))}


def compare(before, after):
    assert after == {**before, "count": before["count"] + 1}
