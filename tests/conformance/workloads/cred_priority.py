"""Niceness by thread, and the CPUs that may be used."""

import os
import threading


def setup():
    made = threading.Event()
    told = {}

    def nicer():
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 15)
        told["thread"] = threading.get_native_id()
        made.set()
        threading.Event().wait()

    threading.Thread(target=nicer, daemon=True).start()
    made.wait()
    os.setpriority(os.PRIO_PROCESS, 0, 12)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return told


def check(state):
    return {
        "thread": os.getpriority(os.PRIO_PROCESS, state["thread"]),
        "own": os.getpriority(os.PRIO_PROCESS, 0),
        "cpus": len(os.sched_getaffinity(0)),
    }


def compare(before, after):
    assert (before["thread"], before["own"]) == (after["thread"], after["own"]) == (15, 12)
    # CPUs are the new container's, whatever the old one's were called.
    assert after["cpus"] >= 1
