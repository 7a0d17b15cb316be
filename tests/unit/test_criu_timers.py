"""Timer descriptors fire when they should, whatever CRIU makes of them."""

import time

import pytest

from chrek.criu import messages_pb2 as pb
from chrek.criu import timers

MONOTONIC, WALL = time.CLOCK_MONOTONIC, time.CLOCK_REALTIME
CASES = {
    # name: (clock, flags, ticks, to go, interval) -> (flags, to go)
    "relative": ((MONOTONIC, 0, 0, 12.5, 0), (0, 12.5)),
    "absolute": ((MONOTONIC, 1, 0, 12.5, 0), (0, 12.5)),
    "wall clock, relative": ((WALL, 0, 0, 12.5, 0), (0, 12.5)),
    "wall clock, absolute": ((WALL, 3, 0, 312.5, 0), (0, 212.5)),
    "wall clock, passed": ((WALL, 1, 0, 12.5, 0), (0, 1e-9)),
    "absolute, does not run": ((WALL, 1, 0, 0, 0), (0, 0)),
    "fired once": ((MONOTONIC, 1, 1, 0, 0), (0, 0)),
    "fired, repeats": ((MONOTONIC, 0, 3, 0, 0.25), (0, 0.25)),
    "repeats": ((MONOTONIC, 0, 3, 0.125, 0.25), (0, 0.125)),
}


def split(seconds):
    return divmod(round(seconds * 1_000_000_000), 1_000_000_000)


@pytest.mark.parametrize(("given", "expected"), CASES.values(), ids=list(CASES))
def test_what_is_left(given, expected):
    clock, flags, ticks, left, interval = given
    names = ("vsec", "vnsec", "isec", "insec")
    made = dict(zip(names, (*split(left), *split(interval)), strict=True))
    entry = pb.FileEntry(
        type=1,
        id=1,
        tfd=pb.TimerfdEntry(id=1, clockid=clock, ticks=ticks, settime_flags=flags, **made),
    )
    count = timers.mend([entry, pb.FileEntry(type=1, id=2)], 100)
    assert count == ((flags, left) != expected)
    assert (entry.tfd.settime_flags, (entry.tfd.vsec, entry.tfd.vnsec)) == (
        expected[0],
        split(expected[1]),
    )
    assert entry.tfd.ticks == ticks
