"""A child that is stopped, and goes on when told."""

import os
import signal
import time


def setup():
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"%d" % os.getpid())
        while True:
            time.sleep(0.05)
    os.read(read, 10)
    os.kill(child, signal.SIGSTOP)
    os.waitid(os.P_PID, child, os.WSTOPPED)
    return child


def state_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def check(state):
    return {"state": state_of(state)}
