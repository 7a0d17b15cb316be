"""An asyncio loop with calls for later, a timeout that waits, and a periodic task."""

import asyncio
import threading
import time

SECONDS = 6


def setup():
    counts = {"period": 0, "late": None, "timeout": None}

    async def period():
        while True:
            await asyncio.sleep(0.05)
            counts["period"] += 1

    async def timeout(began):
        try:
            async with asyncio.timeout(SECONDS):
                await asyncio.Event().wait()
        except TimeoutError:
            counts["timeout"] = time.monotonic() - began

    async def run():
        loop, began = asyncio.get_running_loop(), time.monotonic()
        loop.call_later(SECONDS, lambda: counts.update(late=time.monotonic() - began))
        await asyncio.gather(period(), timeout(began))

    threading.Thread(target=asyncio.run, args=(run(),), daemon=True).start()
    return counts, [True]


def check(state):
    counts, first = state
    if first.pop() if first else False:
        return dict(counts)
    period, deadline = counts["period"], time.monotonic() + 60
    while time.monotonic() < deadline:
        if counts["late"] and counts["timeout"] and counts["period"] > period:
            break
        time.sleep(0.02)
    return dict(counts)


def compare(before, after):
    assert before["late"] is before["timeout"] is None
    assert after["period"] > before["period"]
    for name in ("late", "timeout"):
        assert SECONDS - 0.01 <= after[name] < 3600, after
