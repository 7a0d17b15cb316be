"""An operation on a store in a process of its own, which is killed at a step of it.

Run as a program: `stepping.py JSON`. It prints `announced JSON` before an artifact is made and
`done STEPS` at its end; at step `kill_at` it kills itself before doing it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from typing import Any

from store import samples

YOUNG_SECONDS = 3600.0


class Steps:
    """Counts, and ends the process."""

    def __init__(self, kill_at: int) -> None:
        self._kill_at = kill_at
        self.armed = False
        self.count = 0

    def step(self, _name: str) -> None:
        if not self.armed:
            return
        self.count += 1
        if self.count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def announce(sample: samples.Sample) -> None:
    fields = [sample.identity_hash, sample.variant, sample.uuid, sample.digest]
    print("announced", json.dumps(fields), flush=True)


def main() -> None:
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    sys.dont_write_bytecode = True  # That would be a step, the first time.
    steps = Steps(wanted["kill_at"])
    module, name = wanted["recipe"]["function"].split(":")
    make = getattr(importlib.import_module(module), name)
    store = make(steps.step, **wanted["recipe"]["arguments"])
    steps.armed = True
    if wanted["operation"] == "commit":
        files = samples.tiny(wanted["seed"])
        samples.commit(store, files, *wanted["path"], announce=announce)
    elif wanted["operation"] == "delete":
        store.delete(*wanted["path"], stage_seconds=YOUNG_SECONDS)
    else:
        store.sweep(older_than_seconds=0)
    steps.step("end")
    print("done", steps.count, flush=True)


if __name__ == "__main__":
    main()
