"""A thread that reads the clocks without a pause: none of them ever goes back."""

import threading
import time

CLOCKS = (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, time.CLOCK_REALTIME, 6)  # 6: coarse monotonic


def setup():
    back, stop = [], threading.Event()

    def watch():
        last = [time.clock_gettime(clock) for clock in CLOCKS]
        while not stop.is_set():
            for number, clock in enumerate(CLOCKS):
                now = time.clock_gettime(clock)
                if now < last[number] and clock != time.CLOCK_REALTIME:
                    back.append((clock, last[number], now))
                last[number] = now
            time.sleep(0.0005)

    one = threading.Thread(target=watch, daemon=True)
    one.start()
    return back, one


def check(state):
    back, one = state
    return {"back": back[:3], "watches": one.is_alive()}
