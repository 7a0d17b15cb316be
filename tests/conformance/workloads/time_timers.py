"""POSIX timers of a process, on several clocks, one of them absolute."""

import ctypes
import signal
import struct
import time

LIBC = ctypes.CDLL(None, use_errno=True)
ABSTIME = 1
OPTIONS = {"differs": {"/status/ShdPnd": "a tick may be on its way"}}


def timer(clock, number, first, interval, flags=0):
    made = ctypes.c_void_p()
    event = struct.pack("Qii", 0, number, 0) + b"\0" * 48  # SIGEV_SIGNAL
    if LIBC.timer_create(clock, event, ctypes.byref(made)):
        raise OSError(ctypes.get_errno(), "timer_create")
    spec = struct.pack("4q", *split(interval), *split(first))
    if LIBC.timer_settime(made, flags, spec, None):
        raise OSError(ctypes.get_errno(), "timer_settime")
    return made


def split(seconds):
    return int(seconds), int(seconds % 1 * 1e9)


def left(made):
    spec = ctypes.create_string_buffer(32)
    LIBC.timer_gettime(made, spec)
    seconds = struct.unpack("4q", spec.raw)
    return seconds[2] + seconds[3] / 1e9


def setup():
    counts = {"often": 0, "late": 0}
    signal.signal(signal.SIGRTMIN + 1, lambda *_: counts.__setitem__("often", counts["often"] + 1))
    signal.signal(signal.SIGRTMIN + 2, lambda *_: counts.__setitem__("late", counts["late"] + 1))
    often = timer(time.CLOCK_MONOTONIC, signal.SIGRTMIN + 1, 0.03, 0.03)
    late = timer(time.CLOCK_BOOTTIME, signal.SIGRTMIN + 2, 1800, 0)
    at = time.clock_gettime(time.CLOCK_MONOTONIC) + 900
    absolute = timer(time.CLOCK_MONOTONIC, signal.SIGRTMIN + 2, at, 0, ABSTIME)
    return counts, often, late, absolute


def check(state):
    counts, _, late, absolute = state
    before, deadline = counts["often"], time.monotonic() + 10
    while counts["often"] == before and time.monotonic() < deadline:
        time.sleep(0.01)
    return {
        "ticks": counts["often"] > before,
        "late": counts["late"],
        "left": [left(late), left(absolute)],
    }


def compare(before, after):
    assert before["ticks"]
    assert after["ticks"]
    assert after["late"] == 0
    for was, now in zip(before["left"], after["left"], strict=True):
        assert was - 120 < now <= was
