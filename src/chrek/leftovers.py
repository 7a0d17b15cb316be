"""What a CRIU that was killed in the middle of a dump leaves behind in the tree that runs on.

Connections in TCP_REPAIR, where reading fails (EPERM): ending it is in time for whoever waits with
poll, while a read that was waiting has failed. And names that CRIU gives to files that are open,
have lost theirs and exist under another (`create_link_remap`, criu/files-reg.c of CRIU 4.2); CRIU
itself takes them away when a dump ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable

from chrek import procfs, rootfd

_TCP_REPAIR = 19
_DELETED = " (deleted)"
_LINK = re.compile(r"link_remap\.\d+")
_IN_CONTAINER = rootfd.RESOLVE_IN_ROOT | rootfd.RESOLVE_NO_MAGICLINKS


def clear(root_pid: int) -> None:
    """Clear all of it, of a tree that is not being dumped."""
    release_sockets(root_pid)
    remove_links(root_pid)


def release_sockets(root_pid: int) -> int:
    """End TCP_REPAIR of a tree's connections, in which a CRIU that was killed leaves them.

    Returns:
        How many there were.
    """
    return count_connections(root_pid, _release)


def count_connections(root_pid: int, act: Callable[[socket.socket], bool]) -> int:
    """Do something with each TCP socket of a tree; listening ones are among them.

    Args:
        act: what is done, and whether the socket counts; an OSError of it counts as no.

    Returns:
        How many counted.
    """
    count = 0
    for pid in procfs.tree(root_pid):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            pidfd = os.pidfd_open(pid)
            stack.callback(os.close, pidfd)
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(entry.path).startswith("socket:"):
                        fd = rootfd.descriptor(pidfd, int(entry.name))
                        with socket.socket(fileno=fd) as held:
                            count += _is_tcp(held) and act(held)
    return count


def _is_tcp(held: socket.socket) -> bool:
    return held.type == socket.SOCK_STREAM and held.family in (socket.AF_INET, socket.AF_INET6)


def _release(held: socket.socket) -> bool:
    if held.getsockopt(socket.IPPROTO_TCP, _TCP_REPAIR) == 0:
        return False
    held.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 0)
    return True


def remove_links(root_pid: int) -> int:
    """Remove the names that CRIU gave to files of a tree.

    Returns:
        How many there were.
    """
    removed = 0
    for pid in procfs.tree(root_pid):
        for kind in ("fd", "map_files"):
            with contextlib.suppress(OSError):
                for entry in os.scandir(f"/proc/{pid}/{kind}"):
                    with contextlib.suppress(OSError):
                        removed += _remove_links(pid, entry.path)
    return removed


def _remove_links(pid: int, opened: str) -> int:
    path = os.readlink(opened)
    if not path.endswith(_DELETED):
        return 0
    file = os.stat(opened)
    if not file.st_nlink:
        return 0
    removed = 0
    folder = os.path.dirname(path.removesuffix(_DELETED))
    root = rootfd.process_root(pid)
    try:
        fd = rootfd.open_below(root, folder, os.O_RDONLY | os.O_DIRECTORY, resolve=_IN_CONTAINER)
    finally:
        os.close(root)
    try:
        for name in filter(_LINK.fullmatch, os.listdir(fd)):
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino):
                os.unlink(name, dir_fd=fd)
                removed += 1
    finally:
        os.close(fd)
    return removed


def end_all(init_pid: int) -> None:
    """End everything in a container but its PID 1."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        for pid in procfs.in_pid_namespace(init_pid):
            if pid != init_pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
