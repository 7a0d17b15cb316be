"""flock, a record lock of a process, and a lock of an open file."""

import fcntl
import os
import struct

OFD_SETLK = 37


def setup():
    paths = [f"/tmp/lock-{number}" for number in range(3)]
    fds = [os.open(path, os.O_CREAT | os.O_RDWR, 0o600) for path in paths]
    fcntl.flock(fds[0], fcntl.LOCK_EX)
    fcntl.lockf(fds[1], fcntl.LOCK_EX, 10, 5)
    fcntl.fcntl(fds[2], OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0))
    return paths


def check(state):
    child = os.fork()
    if child == 0:
        held = 0
        for bit, path in enumerate(state):
            fd = os.open(path, os.O_RDWR)
            try:
                if bit == 0:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                else:
                    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held |= 1 << bit
        os._exit(held)
    return {"held": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}


def compare(before, after):
    assert before["held"] == after["held"] == 7
