"""Descriptors of timers on three clocks, relative, absolute and repeating."""

import ctypes
import os
import select
import struct
import time

LIBC = ctypes.CDLL(None, use_errno=True)
CLOCKS = (time.CLOCK_MONOTONIC, time.CLOCK_REALTIME, 7)
ABSTIME, NONBLOCK = 1, 0o4000


def timer(clock, first, interval=0.0, *, absolute=False):
    made = LIBC.timerfd_create(clock, NONBLOCK)
    if absolute:
        first += time.clock_gettime(clock)
    parts = [int(interval), int(interval % 1 * 1e9), int(first), int(first % 1 * 1e9)]
    flags = ABSTIME if absolute else 0
    if made < 0 or LIBC.timerfd_settime(made, flags, struct.pack("4q", *parts), None):
        raise OSError(ctypes.get_errno(), "timerfd")
    return made


def left(made):
    spec = ctypes.create_string_buffer(32)
    LIBC.timerfd_gettime(made, spec)
    seconds = struct.unpack("4q", spec.raw)
    return seconds[2] + seconds[3] / 1e9


def setup():
    far = [timer(clock, 1800, absolute=absolute) for clock in CLOCKS for absolute in (False, True)]
    often = [timer(clock, 0.05, 0.05) for clock in CLOCKS]
    return far, often


def check(state):
    far, often = state
    for made in often:
        assert select.select([made], [], [], 20)[0], "it ticks"
        os.read(made, 8)
        assert select.select([made], [], [], 20)[0], "it ticks again"
    return {"left": [left(made) for made in far], "early": len(select.select(far, [], [], 0)[0])}


def compare(before, after):
    assert before["early"] == after["early"] == 0
    for was, now in zip(before["left"], after["left"], strict=True):
        assert was - 600 < now < was, (before, after)
