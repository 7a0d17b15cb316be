"""The driver's four steps on a live process, without CRIU: by chrek's helper, and by hand.

By hand is a program of its own that calls the driver API and does nothing else; both take turns on
the same worker. This part runs where CRIU cannot, such as in gVisor.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chrek.cuda import client
from gpucheck import rounds, workload
from showcase import errors

Object = dict[str, Any]
STEPS = ("gpu_lock", "gpu_checkpoint", "gpu_restore", "gpu_unlock")
LOCK_SECONDS = 60.0
AIM = 1.05
"""Of the driver by hand."""
_BY_HAND = Path(__file__).resolve().parent / "workers" / "by_hand.py"


class Process:
    """A worker that is no container's."""

    def __init__(self, argv: list[str]) -> None:
        self._child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # One GPU of many, as in the rounds.
            env={"CUDA_VISIBLE_DEVICES": "0", **os.environ},
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.facts = workload.wait_until_ready(
                lambda: self.output, lambda: self._child.poll() is not None
            )
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._child.pid

    def ask(self, text: str, seconds: float = 600) -> Object:
        """Its answer to one line.

        Raises:
            OSError: it does not answer.
        """
        with socket.create_connection(("127.0.0.1", self.facts["port"]), seconds) as connection:
            connection.sendall(text.encode() + b"\n")
            found: Object = json.loads(connection.makefile().readline())
            return found

    def stop(self) -> None:
        self._child.kill()
        self._child.wait()
        self._reader.join(timeout=5)
        assert self._child.stdout
        self._child.stdout.close()

    def _read(self) -> None:
        assert self._child.stdout
        with contextlib.suppress(ValueError):
            for line in self._child.stdout:
                self.output += line.decode(errors="replace")


@contextlib.contextmanager
def process(argv: list[str]) -> Iterator[Process]:
    made = Process(argv)
    try:
        yield made
    finally:
        made.stop()


def run(helper: client.Helper, work: workload.Workload, device_bytes: int, repeat: int) -> Object:
    """Both ways, in turns, and what the worker finds afterwards.

    What goes wrong is in the result.
    """
    found: Object = {"gibibytes": device_bytes / rounds.GIBIBYTE, "verified": False}
    ways: dict[str, Callable[[int], Object]] = {
        "helper": lambda pid: _by_helper(helper, pid),
        "by_hand": _by_hand,
    }
    try:
        with process(work.argv(device_bytes, port=0)) as worker:
            found["device_bytes"] = worker.facts["device_bytes"]
            for number in range(repeat):
                names = [*ways] if number % 2 == 0 else [*reversed(ways)]
                for name in names:
                    found.setdefault(name, []).append(ways[name](worker.pid))
            answer = worker.ask("check")
            bandwidth = worker.ask("bandwidth")
        del bandwidth["seconds"]
        found["bandwidth"] = bandwidth
        found["wrong"] = answer["wrong"]
        found["verified"] = answer["verified"]
        found["summary"] = summary(found)
    except rounds.EXPECTED as err:
        found["error"] = rounds.describe(err)
    return found


def _by_helper(helper: client.Helper, pid: int) -> Object:
    seconds: Object = {}
    calls: dict[str, Callable[[], None]] = {
        "gpu_lock": lambda: helper.lock(pid, LOCK_SECONDS),
        "gpu_checkpoint": lambda: helper.checkpoint(pid),
        "gpu_restore": lambda: helper.restore(pid, None),
        "gpu_unlock": lambda: helper.unlock(pid),
    }
    for name, call in calls.items():
        began = time.monotonic()
        call()
        seconds[name] = round(time.monotonic() - began, 6)
    return seconds


def _by_hand(pid: int) -> Object:
    argv = [sys.executable, "-B", str(_BY_HAND), str(pid), str(int(1000 * LOCK_SECONDS))]
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, env=os.environ
    )
    if done.returncode:
        raise errors.ShowError(f"the driver by hand: {done.stderr.strip()[-1000:]}")
    seconds: Object = json.loads(done.stdout)
    return seconds


def summary(found: Object) -> Object:
    """Medians of each step, rates, and chrek's time beside that by hand."""
    medians = {
        way: {step: statistics.median(one[step] for one in found[way]) for step in STEPS}
        for way in ("helper", "by_hand")
    }
    totals = {way: sum(steps.values()) for way, steps in medians.items()}
    size = found["device_bytes"]
    ratio = totals["helper"] / totals["by_hand"]
    return {
        "seconds": {step: round(value, 6) for step, value in medians["helper"].items()},
        "by_hand_seconds": {step: round(value, 6) for step, value in medians["by_hand"].items()},
        "gb_per_second": {
            step: round(size / medians["helper"][step] / 1e9, 3)
            for step in ("gpu_checkpoint", "gpu_restore")
        },
        "of_by_hand": {"ratio": round(ratio, 4), "aim": AIM, "aim_met": ratio <= AIM},
    }
