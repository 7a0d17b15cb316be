"""Threads with names and memory of their own, one asleep, one at work."""

import threading
import time


def setup():
    local, state = threading.local(), {"values": {}, "ticks": 0}
    ready = threading.Barrier(4)

    def run(number):
        with open("/proc/thread-self/comm", "w") as file:
            file.write(f"worker-{number}")
        local.value = number * 11
        ready.wait()
        while True:
            if number == 0:
                state["ticks"] += 1
            state["values"][number] = local.value
            time.sleep(0.01 if number == 0 else 0.2)

    for number in range(3):
        threading.Thread(target=run, args=(number,), daemon=True).start()
    ready.wait()
    return state


def check(state):
    before = state["ticks"]
    state["values"].clear()
    time.sleep(0.5)
    return {"values": sorted(state["values"].values()), "ticks": state["ticks"] > before}
