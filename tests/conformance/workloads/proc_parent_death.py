"""A signal on the parent's death, and a subreaper."""

import ctypes

LIBC = ctypes.CDLL(None)


def setup():
    LIBC.prctl(1, 15, 0, 0, 0)  # PR_SET_PDEATHSIG
    LIBC.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def check(state):
    found = ctypes.c_int()
    LIBC.prctl(2, ctypes.byref(found), 0, 0, 0)
    reaper = ctypes.c_int()
    LIBC.prctl(37, ctypes.byref(reaper), 0, 0, 0)
    return {"signal": found.value, "subreaper": reaper.value}
