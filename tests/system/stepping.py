"""An agent's work in a process of its own, which stops at every named step until it is told on.

Run as a program: `stepping.py capture|restore JSON`. At each step it prints `at NAME` and waits for
a line; at its end it prints `done JSON` or `failed REASON MESSAGE`. The steps are those that the
product itself names: of its log, of CRIU's notifications, and of the store.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from chrek import checkpoint, errors, log, manifest, restore
from chrek import store as stores
from chrek.criu import service

VOLUMES = (manifest.Volume(path="/dev/shm", exclusive=True),)


def at(name: str) -> None:
    print("at", name, flush=True)
    if not sys.stdin.readline():
        raise SystemExit("nobody says to go on")


class Logger(log.Logger):
    """Stops as each step begins."""

    @contextlib.contextmanager
    def step(self, name: str, seconds: dict[str, float] | None = None) -> Iterator[None]:
        at(name)
        with super().step(name, seconds):
            yield


def trace_criu() -> None:
    """Stop at each of CRIU's notifications, before it is answered."""
    request = service.Service._request

    def traced(self: Any, message: Any, notified: Callable[[str, int], None], action: str) -> None:
        def stopping(script: str, pid: int) -> None:
            at(f"criu {script}")
            notified(script, pid)

        request(self, message, stopping, action)

    service.Service._request = traced  # type: ignore[method-assign]


def trace_store() -> None:
    """Stop before the manifest is written, and after it."""
    commit = stores.Store.commit

    def traced(self: stores.Store, stage: stores.Stage, described: manifest.Manifest) -> str:
        at("commit")
        digest = commit(self, stage, described)
        at("committed")
        return digest

    stores.Store.commit = traced  # type: ignore[method-assign]


def capture(store: stores.Store, wanted: dict[str, Any]) -> dict[str, str]:
    request = checkpoint.Capture(
        init_pid=wanted["init"],
        root_pid=wanted["root"],
        identity_hash=wanted["hash"],
        variant="aaaa",
        volumes=VOLUMES,
        timeout_seconds=20,
        leave_running=wanted["leave_running"],
    )
    done = checkpoint.capture(request, store, Logger(logging.getLogger("agent"), {}))
    return {"uuid": done.manifest.uuid, "digest": done.digest}


def restored(store: stores.Store, wanted: dict[str, Any]) -> dict[str, str]:
    artifact = store.open(wanted["hash"], "aaaa", wanted["uuid"], wanted["digest"])
    restore.restore(
        artifact,
        wanted["init"],
        pathlib.Path(wanted["staging"]),
        Logger(logging.getLogger("agent"), {}),
        volumes={volume.path: True for volume in VOLUMES},
        timeout_seconds=20,
    )
    return {}


def main() -> None:
    what, wanted = sys.argv[1], json.loads(sys.argv[2])
    trace_criu()
    trace_store()
    store = stores.Store(pathlib.Path(wanted["store"]))
    try:
        found = capture(store, wanted) if what == "capture" else restored(store, wanted)
    except Exception as err:
        reason = err.reason if isinstance(err, errors.ChrekError) else type(err).__name__
        print("failed", reason, str(err).replace("\n", " "), flush=True)
    else:
        print("done", json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
