"""System calls that the check needs beside those of containers.

Source: setns(2), ptrace(2), syslog(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from chrek.standalone import kernel

CAPABILITIES = {
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_MKNOD": 27,
    "CAP_CHECKPOINT_RESTORE": 40,
}
"""Those that captures and restores cannot do without, or containers; with their numbers."""
_READ_ALL = 3
_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@contextlib.contextmanager
def memory(path: Path, size_bytes: int) -> Iterator[Path]:
    """A file system in memory, in a new directory."""
    path.mkdir()
    try:
        kernel.mount("tmpfs", path, "tmpfs", data=f"size={size_bytes},mode=700")
        try:
            yield path
        finally:
            kernel.unmount(path)
    finally:
        path.rmdir()


def connect(pid: int, port: int, seconds: float) -> socket.socket:
    """A connection to a port of 127.0.0.1 in the network namespace of a process.

    Raises:
        OSError: nobody listens there, or the process ended.
    """
    found: list[socket.socket | OSError] = []

    def work() -> None:
        # A thread of its own: it is never used for anything else again.
        try:
            fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(fd, kernel.NAMESPACES["network"]) < 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), f"network of process {pid}")
            finally:
                os.close(fd)
            found.append(socket.create_connection(("127.0.0.1", port), seconds))
        except OSError as err:
            found.append(err)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def log() -> str:
    """The kernel's log; empty where it cannot be read."""
    buffer = ctypes.create_string_buffer(1 << 20)
    size = _libc.klogctl(_READ_ALL, buffer, len(buffer))
    return buffer.raw[:size].decode(errors="replace") if size > 0 else ""


def ptrace_works() -> str:
    """Empty if a process of the same user can be traced; otherwise what the kernel says."""
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        if _libc.ptrace(_PTRACE_ATTACH, child, None, None) < 0:
            return os.strerror(ctypes.get_errno())
        os.waitpid(child, 0)
        if _libc.ptrace(_PTRACE_DETACH, child, None, None) < 0:
            return os.strerror(ctypes.get_errno())
        return ""
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
