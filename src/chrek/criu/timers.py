"""Timer descriptors in a capture, made to fire when they should.

CRIU keeps of each how long it had to go, and whether it was set to a point of its clock. It gives
such a one the time to go and the whole seconds of the clock, so it fires up to a second early, and
one that was not running at all fires. One that repeats, had fired and was not read yet had nothing
to go and is restored as one that does not run. Here each is one that runs for what it had to go.
Source: timerfd_arm in criu/pie/restorer.c of CRIU 4.2, timerfd_show in the kernel's fs/timerfd.c.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from chrek.criu import messages_pb2 as pb

ABSOLUTE = 1
CANCEL_ON_SET = 2
_WALL_CLOCKS = (time.CLOCK_REALTIME, 8)  # CLOCK_REALTIME_ALARM
_NANOSECONDS = 1_000_000_000


def mend(entries: Iterable[pb.FileEntry], passed_seconds: float) -> int:
    """Edit the timer entries of `files.img` in place.

    Args:
        passed_seconds: of the wall clock since the capture, in which the others stood still.

    Returns:
        How many were changed.
    """
    changed = 0
    for entry in entries:
        if not entry.HasField("tfd"):
            continue
        tfd = entry.tfd
        before = tfd.SerializeToString()
        if tfd.settime_flags & ABSOLUTE:
            tfd.settime_flags &= ~(ABSOLUTE | CANCEL_ON_SET)
            left = tfd.vsec * _NANOSECONDS + tfd.vnsec
            if left and tfd.clockid in _WALL_CLOCKS:
                left = max(1, left - int(passed_seconds * _NANOSECONDS))
                tfd.vsec, tfd.vnsec = divmod(left, _NANOSECONDS)
        if not (tfd.vsec or tfd.vnsec) and tfd.ticks:
            tfd.vsec, tfd.vnsec = tfd.isec, tfd.insec
        changed += tfd.SerializeToString() != before
    return changed
