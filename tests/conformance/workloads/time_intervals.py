"""The process's own interval timers, and an alarm that is far away."""

import signal
import time


def setup():
    counts = {"real": 0, "alarm": 0}

    def tick(*_):
        counts["real"] += 1

    signal.signal(signal.SIGVTALRM, lambda *_: None)
    signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    signal.setitimer(signal.ITIMER_VIRTUAL, 1000, 500)
    return counts


def check(state):
    before, deadline = state["real"], time.monotonic() + 20
    while state["real"] == before and time.monotonic() < deadline:
        time.sleep(0.01)
    return {
        "ticks": state["real"] > before,
        "interval": round(signal.getitimer(signal.ITIMER_REAL)[1], 3),
        "virtual": [round(part) for part in signal.getitimer(signal.ITIMER_VIRTUAL)],
    }
