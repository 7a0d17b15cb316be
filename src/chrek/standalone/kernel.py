"""System calls that a container is made of.

Source: mount(2), unshare(2), pivot_root(2), prctl(2), netdevice(7).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pathlib
import signal
import socket
import struct
from collections.abc import Iterable

BIND = 0x1000
READ_ONLY = 0x1
REMOUNT = 0x20
NO_SUID_DEV_EXEC = 0x2 | 0x4 | 0x8
RECURSIVE = 0x4000
PRIVATE = 0x40000
SLAVE = 0x80000
OPTIONS = {"nosuid": 0x2, "nodev": 0x4, "noexec": 0x8}
"""Of a mount, that a remount would otherwise take away."""
NAMESPACES = {
    "mount": 0x00020000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "network": 0x40000000,
    "pid": 0x20000000,
    "cgroup": 0x02000000,
}
_DETACH = 2
_PR_SET_PDEATHSIG = 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(
    source: str | pathlib.Path,
    target: str | pathlib.Path,
    kind: str = "",
    flags: int = 0,
    data: str = "",
) -> None:
    """Mount a file system, or bind what is at `source`.

    Raises:
        OSError: the kernel refuses; what was to be mounted is its file name.
    """
    done = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        os.fsencode(data) or None,
    )
    _checked(done, f"mount of {kind or source} at {target}")


def unmount(target: str | pathlib.Path) -> None:
    """Take a mount away; whoever still uses it keeps it."""
    _checked(_libc.umount2(os.fsencode(target), _DETACH), f"umount of {target}")


def unshare(names: Iterable[str]) -> None:
    """Give this thread, and what it starts from now on, namespaces of its own."""
    flags = 0
    for name in names:
        flags |= NAMESPACES[name]
    _checked(_libc.unshare(flags), f"new namespaces ({', '.join(names)})")


def pivot_root(root: pathlib.Path, old: str) -> None:
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
