"""A child that gave up what the worker may do: its bounding set and dumpability."""

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)
OPTIONS = {"user": 0}


def setup():
    asked, told = os.pipe(), os.pipe()
    if os.fork() == 0:
        for capability in (7, 21):  # CAP_SETUID, CAP_SYS_ADMIN
            LIBC.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
        LIBC.prctl(38, 1, 0, 0, 0)
        while os.read(asked[0], 1):
            held = [LIBC.prctl(23, capability, 0, 0, 0) for capability in (7, 21, 5)]
            os.write(told[1], bytes([*held, LIBC.prctl(39, 0, 0, 0, 0)]))
        os._exit(0)
    return asked[1], told[0]


def check(state):
    ask, told = state
    os.write(ask, b".")
    return {"child": list(os.read(told, 10))}
