"""Handlers, ignored signals and an interval timer that goes on."""

import signal
import time

OPTIONS = {"differs": {"/status/ShdPnd": "an alarm may be on its way"}}


def setup():
    counts = {"alarms": 0, "users": 0}
    signal.signal(signal.SIGUSR2, lambda *_: counts.__setitem__("users", counts["users"] + 1))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: counts.__setitem__("alarms", counts["alarms"] + 1))
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    return counts


def check(state):
    signal.raise_signal(signal.SIGUSR2)
    before, deadline = state["alarms"], time.monotonic() + 10
    while state["alarms"] == before and time.monotonic() < deadline:
        time.sleep(0.02)
    return {
        "users": state["users"],
        "alarms": state["alarms"] > before,
        "ignored": signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
        "interval": signal.getitimer(signal.ITIMER_REAL)[1],
    }


def compare(before, after):
    assert after == {**before, "users": before["users"] + 1}
