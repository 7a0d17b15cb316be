"""A program of a container that runs with the container's own privileges, for quiesce and wake.

It is what a child of the container's PID 1 would be: chrek-enter takes namespaces, root, users,
capabilities, seccomp filters and limits from PID 1 and refuses what it cannot copy. What it writes
and how long it runs is bounded; it is ended with the thread that waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from chrek import cgroups, errors, process, procfs
from chrek.criu import service

MAX_ENVIRONMENT_BYTES = 1 << 20
TAIL_BYTES = 2048


def run(pid: int, pidfd: int, argv: Sequence[str], *, timeout_seconds: float) -> None:
    """Run a program to its end.

    Args:
        pid: PID 1 of the container.
        pidfd: of that process.
        argv: the program, looked up in the container's PATH, and its arguments.

    Raises:
        UnsupportedError: the container's user namespace is not the agent's.
        ToolError: it could not be run, failed, or ran out of time; with the end of its output.
    """
    if procfs.namespace(pid, "user") != procfs.namespace(os.getpid(), "user"):
        raise errors.UnsupportedError(
            "a program cannot be run in a container with a user namespace of its own"
        )
    with cgroups.opened(pid) as cgroup_fds:
        line = service.confined_argv(pidfd, argv, cgroup_fds=cgroup_fds, label=_label(pid))
        code, output = process.tail(
            line,
            timeout_seconds=timeout_seconds,
            most_bytes=TAIL_BYTES,
            pass_fds=[pidfd, *cgroup_fds],
            env=_environment(pid),
        )
    if code == 0:
        return
    text = output.decode(errors="replace").strip()
    if code is None:
        what = f"no end after {timeout_seconds:g} seconds"
    elif code > 128:
        what = process.describe(128 - code)
    else:
        what = process.describe(code)
    message = f"{argv[0]}: {what}" + (f": {text[-512:]}" if text else "")
    raise errors.ToolError(message, argv=list(argv), returncode=code, log=text)


def _environment(pid: int) -> dict[str, str]:
    """PID 1's, which is the container's."""
    with open(f"/proc/{pid}/environ", "rb") as file:
        data = file.read(MAX_ENVIRONMENT_BYTES)
    entries = (os.fsdecode(entry).partition("=") for entry in data.split(b"\0"))
    return {name: value for name, separator, value in entries if separator and name}


def _label(pid: int) -> str:
    """What makes the kernel give a program PID 1's AppArmor or SELinux label.

    Source: apparmor's `exec <profile>` in attr/exec, as runc writes it; SELinux takes the label.
    """
    label = procfs.lsm_label(pid)
    if label and procfs.uses_apparmor(pid):
        return f"exec {label}"
    return label
