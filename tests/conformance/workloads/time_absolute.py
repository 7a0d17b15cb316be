"""Threads that wait for a point of a clock that is ahead of, or behind, the new node's."""

import ctypes
import os
import struct
import threading
import time

LIBC = ctypes.CDLL(None, use_errno=True)
REASON = "the threads that waited have ended"
OPTIONS = {"differs": {"/threads": REASON, "/status/Threads": REASON, "/maps": REASON}}
CLOCKS = {"monotonic": time.CLOCK_MONOTONIC, "boottime": 7, "realtime": time.CLOCK_REALTIME}
SECONDS = 6
ABSTIME = 1


def setup():
    ended = {}

    def wait(name, clock):
        at = time.clock_gettime(clock) + SECONDS
        spec = struct.pack("qq", int(at), int(at % 1 * 1e9))
        while LIBC.clock_nanosleep(clock, ABSTIME, spec, None):
            pass
        ended[name] = time.clock_gettime(clock) - at

    for name, clock in CLOCKS.items():
        threading.Thread(target=wait, args=(name, clock), daemon=True).start()
    return ended, [True], os.getpid()


def check(state):
    ended, first, _ = state
    if first.pop() if first else False:
        return {"late": dict(ended)}
    deadline = time.monotonic() + 60
    while len(ended) < len(CLOCKS) and time.monotonic() < deadline:
        time.sleep(0.01)
    return {"late": dict(ended)}


def compare(before, after):
    assert before["late"] == {}, "they wait while they are captured"
    assert sorted(after["late"]) == sorted(CLOCKS)
    # Never early; how late says how long the restore took. Days would be another node's clock.
    assert all(0 <= late < 3600 for late in after["late"].values()), after
