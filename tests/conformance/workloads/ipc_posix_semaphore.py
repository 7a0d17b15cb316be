"""A futex in shared memory that another process waits for."""

import mmap
import multiprocessing
import os
import time


def setup():
    context = multiprocessing.get_context("fork")
    lock, condition, value = context.Lock(), context.Condition(), context.Value("i", 0)
    shared = mmap.mmap(-1, 4096)
    if os.fork() == 0:
        while True:
            with condition:
                condition.wait()
                shared[0] = (shared[0] + 1) % 200
                value.value += 1
                condition.notify_all()
    return lock, condition, value, shared


def check(state):
    _, condition, value, shared = state
    before, deadline = shared[0], time.monotonic() + 10
    while shared[0] == before and time.monotonic() < deadline:
        with condition:
            condition.notify_all()
        time.sleep(0.02)
    return {"woken": shared[0] != before, "counted": value.value > before}
