"""System calls that a container is made of, for machines that have no programs for them.

Source: mount(2), unshare(2), pivot_root(2), setns(2), netdevice(7), syslog(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

BIND = 0x1000
READ_ONLY = 0x1
REMOUNT = 0x20
NO_SUID_DEV_EXEC = 0x2 | 0x4 | 0x8
RECURSIVE = 0x4000
PRIVATE = 0x40000
NAMESPACES = {
    "mount": 0x00020000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "network": 0x40000000,
    "pid": 0x20000000,
    "cgroup": 0x02000000,
}
CAPABILITIES = {
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_MKNOD": 27,
    "CAP_CHECKPOINT_RESTORE": 40,
}
"""Those that captures and restores cannot do without, or containers; with their numbers."""
_DETACH = 2
_PR_SET_PDEATHSIG = 1
_READ_ALL = 3
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(
    source: str | Path, target: str | Path, kind: str = "", flags: int = 0, data: str = ""
) -> None:
    """Mount a file system, or bind what is at `source`.

    Raises:
        OSError: the kernel refuses; the target is its file name.
    """
    done = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _checked(done, f"mount of {kind or source} at {target}")


def unmount(target: str | Path) -> None:
    """Take a mount away; whoever still uses it keeps it."""
    _checked(_libc.umount2(os.fsencode(target), _DETACH), f"umount of {target}")


@contextlib.contextmanager
def memory(path: Path, size_bytes: int) -> Iterator[Path]:
    """A file system in memory, in a new directory."""
    path.mkdir()
    try:
        mount("tmpfs", path, "tmpfs", data=f"size={size_bytes},mode=700")
        try:
            yield path
        finally:
            unmount(path)
    finally:
        path.rmdir()


def unshare(*names: str) -> None:
    """Give this process namespaces of its own."""
    flags = 0
    for name in names:
        flags |= NAMESPACES[name]
    _checked(_libc.unshare(flags), f"new namespaces ({', '.join(names)})")


def pivot_root(root: Path, old: str) -> None:
    """Make a mount the root; what was the root is at `old` below it."""
    _checked(_libc.pivot_root(os.fsencode(root), os.fsencode(root / old)), f"pivot_root to {root}")


def end_with_parent() -> None:
    """Have this process killed when the thread that started it ends."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "PR_SET_PDEATHSIG")


def loopback_up() -> None:
    """Bring up the only device of a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
        flags = struct.unpack("16sh14x", answer)[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


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
                _checked(_libc.setns(fd, NAMESPACES["network"]), f"network of process {pid}")
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
