"""A higher score for the kernel's out-of-memory killer, and no core dumps."""

import ctypes


def setup():
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("900")
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE


def check(state):
    with open("/proc/self/oom_score_adj") as file:
        score = file.read().strip()
    return {"score": score, "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)}
