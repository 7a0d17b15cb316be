"""System V objects (shared memory, semaphores, message queues) of a container's IPC namespace.

CRIU dumps and makes them; this counts them, and clears what a container's previous life left: the
namespace belongs to the pod and outlives its containers. Only objects of the worker's own user that
no process has attached are removed, so those of the pod's other containers stay.
Source: proc_sysvipc(5), shmctl(2), setns(2).
"""

from __future__ import annotations

import ctypes
import os
import pathlib
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

from chrek import errors, names

T = TypeVar("T")
FOLDER = pathlib.Path("/proc/sysvipc")
KINDS = ("shm", "sem", "msg")
_CLONE_NEWIPC = 0x08000000
_IPC_RMID = 0
_libc = ctypes.CDLL(None, use_errno=True)


def count(pid: int) -> int:
    """How many objects there are in the IPC namespace of a process."""
    return _inside(pid, lambda: sum(len(_rows(kind)) for kind in KINDS))


def clear(pid: int, uid: int) -> int:
    """Remove the objects of a user that nobody uses any more from a process's IPC namespace.

    Args:
        pid: PID 1 of a container in which nothing else runs yet.
        uid: the container's user.

    Returns:
        How many were removed.

    Raises:
        UnsupportedError: one cannot be removed.
    """

    def remove() -> int:
        removed = 0
        for kind in KINDS:
            for row in _rows(kind):
                if int(row["cuid"]) != uid or int(row.get("nattch", 0)):
                    continue
                number = int(row[f"{kind}id"])
                arguments = (0, _IPC_RMID) if kind == "sem" else (_IPC_RMID, None)
                if getattr(_libc, f"{kind}ctl")(number, *arguments):
                    error = os.strerror(ctypes.get_errno())
                    raise errors.UnsupportedError(
                        f"cannot remove the {kind} object {number} of a container before: {error}",
                        reason=names.Reason.UNSUPPORTED,
                    )
                removed += 1
        return removed

    return _inside(pid, remove)


def _rows(kind: str) -> list[dict[str, str]]:
    header, *lines = (FOLDER / kind).read_text().splitlines()
    columns = header.split()
    return [dict(zip(columns, line.split(), strict=False)) for line in lines]


def _inside(pid: int, work: Callable[[], T]) -> T:
    """Do something in the IPC namespace of a process, in a thread that ends with it."""

    def enter() -> T:
        fd = os.open(f"/proc/{pid}/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(fd, _CLONE_NEWIPC):
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error), f"/proc/{pid}/ns/ipc")
        finally:
            os.close(fd)
        return work()

    with futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(enter).result()
