"""Threads and programs that are started later see the clocks that their parent sees."""

import itertools
import subprocess
import sys
import threading
import time

PROGRAM = "import time; print(time.clock_gettime(1), time.clock_gettime(7))"


def setup():
    return time.clock_gettime(1), time.clock_gettime(7)


def check(state):
    found = {"start": state, "own": (time.clock_gettime(1), time.clock_gettime(7))}

    def note():
        found["thread"] = (time.clock_gettime(1), time.clock_gettime(7))

    one = threading.Thread(target=note)
    one.start()
    one.join()
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    found["program"] = tuple(float(word) for word in done.stdout.split())
    found["end"] = (time.clock_gettime(1), time.clock_gettime(7))
    with open("/proc/uptime") as file:
        found["uptime"] = float(file.read().split()[0])
    return found


def compare(before, after):
    order = [before["start"], before["own"], before["end"]]
    order += [after[name] for name in ("own", "thread", "program", "end")]
    for earlier, later in itertools.pairwise(order):
        assert all(a <= b for a, b in zip(earlier, later, strict=True)), (before, after)
    assert abs(after["uptime"] - after["end"][1]) < 60, "what tools subtract start times from"
