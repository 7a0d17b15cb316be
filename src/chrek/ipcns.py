"""The IPC namespace of a container: going into it, and who else lives there.

The namespace belongs to the pod: its containers share it, and it outlives each of them.
Source: setns(2), ipc_namespaces(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

from chrek import procfs

T = TypeVar("T")
_CLONE_NEWIPC = 0x08000000
SANDBOX = "pause"
"""Name of the process that keeps a pod's namespaces and does nothing else.

A container that takes this name gives up its own objects, and nobody else's.
"""
_libc = ctypes.CDLL(None, use_errno=True)


def opened(pid: int) -> int:
    """Descriptor of the IPC namespace of a process, by which it is found when that has ended."""
    return os.open(f"/proc/{pid}/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)


def inside(place: int, work: Callable[[], T], *, uid: int = 0, is_open: bool = False) -> T:
    """Do something in the IPC namespace of a process, in a thread that ends with it.

    Args:
        place: the process, or what `opened` gave.
        is_open: it is that.
        uid: whose share of the kernel's limits is used; the thread's rights stay the agent's.
    """

    def enter() -> T:
        fd = place if is_open else opened(place)
        try:
            check(_libc.setns(fd, _CLONE_NEWIPC), f"IPC namespace of {place}")
        finally:
            if not is_open:
                os.close(fd)
        if uid:
            # Not through the C library, which would change all threads.
            check(_libc.syscall(_SETRESUID, uid, -1, -1), f"user {uid}")
        return work()

    with futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(enter).result()


_SETRESUID = {"x86_64": 117}.get(os.uname().machine, 147)


def check(result: int, what: str) -> int:
    """The result of a function of the C library; negative is an error.

    Raises:
        OSError: the call failed.
    """
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), what)
    return result


def strangers(pid: int) -> set[int]:
    """Processes of other containers in the IPC namespace of a container's process.

    The pod's sandbox is none, nor is a process of this program's own PID namespace, such as the
    runtime's: pods that share that one are refused.
    """
    wanted = procfs.namespace(pid, "ipc")
    own = {procfs.namespace(pid, "pid"), procfs.namespace(os.getpid(), "pid")}
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                other = int(name)
                if procfs.namespace(other, "ipc") != wanted:
                    continue
                if procfs.namespace(other, "pid") in own or procfs.status(other).name == SANDBOX:
                    continue
                found.add(other)
    return found
