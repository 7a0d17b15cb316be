"""The control groups of a container, so that CRIU's memory is charged to the pod.

Version 1, version 2 and the hybrid of both. Source: cgroups(7), the kernel's cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

from chrek import procfs

ROOT = pathlib.Path("/sys/fs/cgroup")


def directories(pid: int, root: pathlib.Path = ROOT) -> list[pathlib.Path]:
    """Directories of all cgroups that a process is in, as this process sees them."""
    found = []
    for controllers, path in procfs.cgroups(pid).items():
        name = controllers.removeprefix("name=")
        bases = [root / name] if name else [root / "unified", root]
        for base in bases:
            directory = _below(base, path)
            if directory is not None:
                found.append(directory)
                break
    return found


def _below(base: pathlib.Path, path: str) -> pathlib.Path | None:
    # A reader in another cgroup namespace sees `/../../kubepods/...`.
    inner = "/".join(part for part in path.split("/") if part not in ("", ".."))
    direct = base / inner
    if inner and (direct / "cgroup.procs").exists():
        return direct
    if ".." in path:
        return next((p for p in base.glob(f"*/{inner}") if (p / "cgroup.procs").exists()), None)
    return None


@contextlib.contextmanager
def opened(pid: int) -> Iterator[list[int]]:
    """Descriptors of the `cgroup.procs` files of a process's cgroups, open for writing."""
    with contextlib.ExitStack() as stack:
        fds = []
        for directory in directories(pid):
            fd = os.open(directory / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            fds.append(fd)
        yield fds
