"""Timers behind descriptors: periodic, and far in the future."""

import ctypes
import os
import select
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
MONOTONIC, BOOTTIME = 1, 7


def timer(clock, interval, first):
    fd = LIBC.timerfd_create(clock, os.O_NONBLOCK)
    spec = struct.pack("4q", interval[0], interval[1], first[0], first[1])
    if LIBC.timerfd_settime(fd, 0, spec, None):
        raise OSError(ctypes.get_errno(), "timerfd_settime")
    return fd


def left(fd):
    spec = ctypes.create_string_buffer(32)
    LIBC.timerfd_gettime(fd, spec)
    seconds = struct.unpack("4q", spec.raw)
    return seconds[2] + seconds[3] / 1e9


def setup():
    return timer(MONOTONIC, (0, 20_000_000), (0, 20_000_000)), timer(BOOTTIME, (0, 0), (3600, 0))


def check(state):
    often, late = state
    fired = bool(select.select([often], [], [], 10)[0])
    count = struct.unpack("q", os.read(often, 8))[0]
    return {"fired": fired, "count": count, "left": left(late)}


def compare(before, after):
    assert after["fired"]
    assert after["count"] >= 1
    assert before["left"] - 120 < after["left"] <= before["left"]
