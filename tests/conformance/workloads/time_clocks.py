"""Clocks never run backwards, and no faster than the world."""

import time

CLOCKS = ("CLOCK_MONOTONIC", "CLOCK_BOOTTIME", "CLOCK_MONOTONIC_RAW", "CLOCK_REALTIME")


def setup():
    return None


def check(state):
    return {name: time.clock_gettime(getattr(time, name)) for name in CLOCKS}


def compare(before, after):
    passed = after["CLOCK_REALTIME"] - before["CLOCK_REALTIME"]
    for name in ("CLOCK_MONOTONIC", "CLOCK_BOOTTIME"):
        assert 0 < after[name] - before[name] <= passed + 1, (name, before, after)
