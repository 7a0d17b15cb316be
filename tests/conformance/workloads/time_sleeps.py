"""Threads that wait: in a sleep, for a lock, in poll, in select, each with a deadline."""

import select
import threading
import time


def setup():
    began, ended = time.monotonic(), {}
    seconds = 15

    def wait(name, how):
        how()
        ended[name] = time.monotonic() - began

    lock = threading.Lock()
    lock.acquire()
    ways = {
        "sleep": lambda: time.sleep(seconds),
        "lock": lambda: lock.acquire(timeout=seconds),
        "poll": lambda: select.poll().poll(seconds * 1000),
        "select": lambda: select.select([], [], [], seconds),
        "event": lambda: threading.Event().wait(seconds),
    }
    for name, how in ways.items():
        threading.Thread(target=wait, args=(name, how), daemon=True).start()
    return seconds, ended, len(ways), [True]


def check(state):
    seconds, ended, count, first = state
    if first.pop() if first else False:
        return {"ended": len(ended), "waited": []}
    deadline = time.monotonic() + 60
    while len(ended) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return {"ended": len(ended), "waited": sorted(ended.values()), "seconds": seconds}


def compare(before, after):
    assert before["ended"] == 0, "they wait while they are captured"
    assert after["ended"] == 5
    assert all(waited >= after["seconds"] - 0.01 for waited in after["waited"])
