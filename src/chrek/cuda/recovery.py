"""Processes that use CUDA: which they are, whether they live, and how they run again.

Source: CUDA driver API 13.5, "CUDA Checkpointing": the state that each function needs and leaves.
cuCheckpointProcessGetState says "running" also of processes that hold no state of CUDA, such as an
engine's coordinator; cuCheckpointProcessGetRestoreThreadId tells them apart.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Protocol, TypeVar

from chrek import errors, log, names, procfs
from chrek.cuda import words

PARALLEL = 64
"""Calls of the driver at once: so many processes that use GPUs no node has."""
RETRY_SECONDS = 5.0
"""How long bringing a process back is tried for."""
UNSETTLED_SECONDS = 60.0
"""The same where a call ended without the driver's answer, and may still be under way."""
PAUSE_SECONDS = (0.05, 2.0)
"""Before the second try, and at most."""
ENDING_SECONDS = 0.3
"""How long a process whose call failed may take to be gone."""

K = TypeVar("K", bound=Hashable)


class Helper(Protocol):
    """What is asked of `client.Helper`. Each call is bounded in time and raises GpuError."""

    def restore_thread(self, pid: int, /) -> int | None: ...
    def state(self, pid: int, /) -> words.State: ...
    def lock(self, pid: int, timeout_seconds: float, /) -> None: ...
    def checkpoint(self, pid: int, /) -> None: ...
    def restore(self, pid: int, mapping: Mapping[str, str] | None, /) -> None: ...
    def unlock(self, pid: int, /) -> None: ...


@dataclasses.dataclass(frozen=True)
class Process:
    """A process that uses CUDA."""

    pid: int
    """As the host counts."""
    nspid: int
    """As its own PID namespace counts."""
    name: str
    bytes: int
    """Of device memory; 0 when that is not known."""
    started: int = dataclasses.field(repr=False)
    """In clock ticks since boot: with the pid it names the process for good."""

    def lives(self, until: float = 0.0) -> bool:
        """Whether a thread of it is left, also at a later time on the monotonic clock."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if procfs.start_time_ticks(self.pid) != self.started:
                return False
            return not select.select([pidfd], [], [], max(0.0, until - time.monotonic()))[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        finally:
            os.close(pidfd)


def look_up(pid: int, size: int) -> Process | None:
    """None: it is gone."""
    try:
        status, started = procfs.status(pid), procfs.start_time_ticks(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Process(pid, status.nspids[-1], status.name, size, started)


def find(helper: Helper, pids: Sequence[int], usage: Sequence[words.Usage]) -> list[Process]:
    """Those of some processes that use CUDA, in their order."""
    sizes: collections.Counter[int] = collections.Counter()
    for gpu in usage:
        sizes.update(gpu.processes)
    found: dict[int, Process] = {}

    def look(pid: int) -> None:
        process = look_up(pid, sizes[pid])
        if process is None:
            return
        try:
            thread = helper.restore_thread(pid)
        except errors.GpuError:
            if process.lives():
                raise
            return
        if thread is not None:
            found[pid] = process

    for err in each(look, pids).values():
        raise err
    return [found[pid] for pid in pids if pid in found]


def bring_back(
    helper: Helper,
    processes: Sequence[Process],
    unsettled: Mapping[Process, float],
    logger: log.Logger,
    seconds: dict[str, float] | None = None,
) -> dict[Process, Exception]:
    """Restore all, then unlock all, whatever state each is in.

    Args:
        unsettled: processes of which a call had no answer of the driver's, and until when (on the
            monotonic clock) it may still lock them.

    Returns:
        Those that live and do not run, and why.
    """
    running, locked = words.State.RUNNING, words.State.LOCKED
    with logger.step("gpu_restore", seconds):
        failed = each(lambda p: _reach(helper, p, {running, locked}, unsettled), processes)
    with logger.step("gpu_unlock", seconds):
        rest = [process for process in processes if process not in failed]
        failed |= each(lambda p: _reach(helper, p, {running}, unsettled), rest)
    return living(failed)


def _reach(
    helper: Helper,
    process: Process,
    goals: Collection[words.State],
    unsettled: Mapping[Process, float],
) -> None:
    """Try until a process is in one of some states, or is gone."""
    started = time.monotonic()
    until = started + (UNSETTLED_SECONDS if process in unsettled else RETRY_SECONDS)
    lockable_until = unsettled.get(process, 0.0)
    pause, most = PAUSE_SECONDS
    while process.lives():
        try:
            state = helper.state(process.pid)
            if state == words.State.CHECKPOINTED:
                helper.restore(process.pid, None)
                state = words.State.LOCKED
            if state == words.State.LOCKED and state not in goals:
                helper.unlock(process.pid)
                return
            if state == words.State.LOCKED or (
                state in goals and time.monotonic() >= lockable_until
            ):
                return
            failure: Exception | None = None
            if state not in goals:
                failure = errors.GpuError(
                    f"its CUDA is {state}", reason=names.Reason.GPU_RESTORE_FAILED
                )
            lost = state == words.State.FAILED
        except Exception as err:
            failure, lost = err, False
            if not code(err):
                until = max(until, started + UNSETTLED_SECONDS)
        if failure and (lost or time.monotonic() >= until):
            raise failure
        time.sleep(pause)
        pause = min(2 * pause, most)


def code(err: Exception | None) -> str:
    """The driver's; empty when it has not answered."""
    return err.code if isinstance(err, errors.GpuError) else ""


def living(failed: Mapping[Process, Exception]) -> dict[Process, Exception]:
    """Those that are not gone: who has ended needs nothing, and its errors say nothing.

    The driver knows of an end a moment before it can be seen.
    """
    until = time.monotonic() + ENDING_SECONDS
    return {process: err for process, err in failed.items() if process.lives(until)}


def each(work: Callable[[K], None], items: Sequence[K]) -> dict[K, Exception]:
    """Do something with each at the same time; what failed, when all have ended."""
    failed: dict[K, Exception] = {}
    if items:
        with futures.ThreadPoolExecutor(min(PARALLEL, len(items)), "gpu") as pool:
            for item, future in [(item, pool.submit(work, item)) for item in items]:
                try:
                    future.result()
                except Exception as err:
                    failed[item] = err
    return failed


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C takes effect when what stands inside is done.

    A call of the driver that nobody waits for could lock a process for ever.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            before(signal.SIGINT, None)
