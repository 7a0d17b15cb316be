"""A `chrek.cuda.client.Helper` whose driver is in memory, for processes that are real.

It keeps the driver's states and the errors of calls in another state, and fails where it is told:
so every failure can be had at every step of every process, also those of the helper itself, whose
call may have taken effect, or may do so later. A process that ended has no state any more.
"""

from __future__ import annotations

import dataclasses
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping

from chrek import errors, names, procfs
from chrek.cuda import words

RUNNING, LOCKED, CHECKPOINTED, FAILED = words.State
CODES = {
    name: f"CUDA_ERROR_{name}"
    for name in (
        *("INVALID_VALUE", "OUT_OF_MEMORY", "NOT_INITIALIZED", "ILLEGAL_STATE", "NOT_READY"),
        *("NOT_SUPPORTED", "OPERATING_SYSTEM", "UNKNOWN"),
    )
}
DIES = "the process dies"
GONE = "the helper dies before its call"
LOST = "the helper dies after its call"
LATER = "the helper dies, and its call takes effect later"
INTERRUPTED = "Ctrl-C"
FOR_EVER = 1 << 30


@dataclasses.dataclass
class Failure:
    """What happens in a call: a code of the driver's, or one of the words above."""

    operation: str
    pid: int
    error: str
    times: int = 1
    after: int = 0
    """So many calls before it are done."""
    leaves: words.State | None = None
    """State that the process is in then; as it was without."""


class Helper:
    """Attributes are for tests: what was called, what state each process is in, what fails."""

    def __init__(self, pids: Iterable[int] = ()) -> None:
        self.states = dict.fromkeys(pids, RUNNING)
        self.calls: list[tuple[str, int]] = []
        self.failures: list[Failure] = []
        self.mappings: list[Mapping[str, str] | None] = []
        self.barriers: dict[str, threading.Barrier] = {}
        """Operation -> that many of it must be under way at once."""
        self.later_seconds = 0.03
        self._busy: set[int] = set()
        self._mutex = threading.Lock()
        self._timers: list[threading.Timer] = []

    def restore_thread(self, pid: int) -> int | None:
        self._begin("restore_thread", pid)
        return pid + 1 if pid in self.states and exists(pid) else None

    def state(self, pid: int) -> words.State:
        self._begin("state", pid)
        with self._mutex:
            self._known(pid)
            return self.states[pid]

    def lock(self, pid: int, timeout_seconds: float) -> None:
        assert timeout_seconds > 0, "to the driver 0 is no limit"
        self._step("lock", pid, RUNNING, LOCKED)

    def checkpoint(self, pid: int) -> None:
        self._step("checkpoint", pid, LOCKED, CHECKPOINTED)

    def restore(self, pid: int, mapping: Mapping[str, str] | None) -> None:
        self.mappings.append(mapping)
        self._step("restore", pid, CHECKPOINTED, LOCKED)

    def unlock(self, pid: int) -> None:
        self._step("unlock", pid, LOCKED, RUNNING)

    def living(self) -> dict[int, words.State]:
        for timer in self._timers:
            timer.join()
        return {pid: state for pid, state in self.states.items() if exists(pid)}

    def _step(self, operation: str, pid: int, needs: words.State, leaves: words.State) -> None:
        late = self._begin(operation, pid)
        with self._mutex:
            self._known(pid)
            if self.states[pid] != needs or pid in self._busy:
                raise _error("ILLEGAL_STATE", operation)
            if late != LATER:
                self.states[pid] = leaves
            else:
                self._busy.add(pid)
                timer = threading.Timer(self.later_seconds, self._finish, (pid, leaves))
                self._timers.append(timer)
                timer.start()
        if late:
            raise _gone()

    def _finish(self, pid: int, state: words.State) -> None:
        with self._mutex:
            self._busy.discard(pid)
            self.states[pid] = state

    def _begin(self, operation: str, pid: int) -> str:
        """Fail if this call is to fail; returns LOST or LATER if it is to do so at its end."""
        with self._mutex:
            self.calls.append((operation, pid))
            failure = next(
                (f for f in self.failures if (f.operation, f.pid) == (operation, pid) and f.times),
                None,
            )
            if failure and failure.after:
                failure.after -= 1
                failure = None
            elif failure:
                failure.times -= 1
        if operation in self.barriers:
            self.barriers[operation].wait(5)
        if failure is None:
            return ""
        if failure.leaves:
            self.states[pid] = failure.leaves
        if failure.error in CODES:
            raise _error(failure.error, operation)
        if failure.error == DIES:
            kill(pid)
        elif failure.error == GONE:
            raise _gone()
        elif failure.error == INTERRUPTED:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            # The main thread must not take it for one that came after the call.
            time.sleep(0.005)
        elif operation in ("restore_thread", "state"):
            raise _gone()
        else:
            return failure.error
        return ""

    def _known(self, pid: int) -> None:
        if pid not in self.states or not exists(pid):
            raise _error("INVALID_VALUE", "call")


def _error(name: str, operation: str) -> errors.GpuError:
    return errors.GpuError(f"{operation} failed", code=CODES[name], reason="OfTheDriver")


def _gone() -> errors.GpuError:
    return errors.GpuError("the helper ended", reason=names.Reason.GPU_UNAVAILABLE)


def exists(pid: int) -> bool:
    """Whether a process runs: one that nobody has waited for does not."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not select.select([pidfd], [], [], 0)[0]
    finally:
        os.close(pidfd)


def kill(pid: int) -> None:
    """End a process, and return when it has ended."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [])
    finally:
        os.close(pidfd)


class Children:
    """Processes that sleep, used again by one test after the other until one kills them."""

    def __init__(self) -> None:
        self._made: list[subprocess.Popen[bytes]] = []

    def take(self, count: int) -> list[int]:
        for made in [made for made in self._made if not exists(made.pid)]:
            made.wait()
            self._made.remove(made)
        while len(self._made) < count:
            made = subprocess.Popen(["sleep", "1000"])
            self._made.append(made)
            # The kernel lets the parent go on a moment before it gives the child its name.
            while procfs.status(made.pid).name != "sleep":
                time.sleep(0.0001)
        return [made.pid for made in self._made[:count]]

    def close(self) -> None:
        for made in self._made:
            made.kill()
            made.wait()
