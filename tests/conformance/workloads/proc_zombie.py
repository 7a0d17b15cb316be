"""A child that has ended and was not waited for."""

import os
import time


def setup():
    child = os.fork()
    if child == 0:
        os._exit(42)
    while open(f"/proc/{child}/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    return child


def check(state):
    found = os.waitid(os.P_PID, state, os.WEXITED | os.WNOWAIT)
    return {"pid": found.si_pid, "status": found.si_status}
