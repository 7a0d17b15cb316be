"""`criu dump` and `criu restore` by hand, with the options that a worker needs: a peer.

The same CRIU of the same bundle, on the same kind of container, without anything of chrek around it
but the program that joins the container's namespaces, as `nsenter` would.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from chrek import process
from chrek.criu import service
from showcase import errors

OPTIONS = (
    *("--tcp-established", "--file-locks", "--link-remap", "--ghost-limit", "512M"),
    *("--ext-unix-sk", "--manage-cgroups=ignore", "--network-lock", "skip"),
)


def dump(init_pid: int, root_pid: int, images: Path) -> float:
    """Dump a tree, and leave it stopped; returns the seconds it took.

    If the tree ended, PID 1 would end with it, and CRIU with PID 1 before it could say a word.

    Args:
        init_pid: PID 1 of the container (its host pid).
        root_pid: root of the tree, its pid in the container.
        images: empty folder.
    """
    words = ["dump", "-t", str(root_pid), "--leave-stopped", "-o", "dump.log"]
    return _run(init_pid, images, words, {})


def restore(init_pid: int, images: Path, inherit: Mapping[str, int]) -> float:
    """Restore a tree under PID 1; returns the seconds it took.

    Args:
        inherit: CRIU's name of a descriptor -> descriptor of this process.
    """
    words = ["restore", "--restore-detached", "-o", "restore.log"]
    return _run(init_pid, images, words, inherit)


def _run(init_pid: int, images: Path, words: Sequence[str], inherit: Mapping[str, int]) -> float:
    bundle = process.LIBEXEC / "criu"
    with contextlib.ExitStack() as stack:

        def opened(path: Path, flags: int) -> int:
            fd = os.open(path, flags)
            stack.callback(os.close, fd)
            return fd

        pidfd = os.pidfd_open(init_pid)
        stack.callback(os.close, pidfd)
        loader = opened(bundle / "ld.so", os.O_PATH)
        program = opened(bundle / "criu", os.O_RDONLY)
        libraries = opened(bundle / "lib", os.O_RDONLY | os.O_DIRECTORY)
        plugins = opened(bundle / "plugins", os.O_RDONLY | os.O_DIRECTORY)
        folder = opened(images, os.O_RDONLY | os.O_DIRECTORY)
        argv = [
            *("criu-loader", "--inhibit-cache", "--argv0", "criu"),
            *("--library-path", f"/proc/self/fd/{libraries}", f"/proc/self/fd/{program}"),
            *("--no-default-config", "--libdir", f"/proc/self/fd/{plugins}"),
            *(*words, "-D", f"/proc/self/fd/{folder}", *OPTIONS),
        ]
        for name, fd in inherit.items():
            argv += ["--inherit-fd", f"fd[{fd}]:{name}"]
        began = time.monotonic()
        done = subprocess.run(
            service.enter_argv(pidfd, exec_fd=loader, argv=argv),
            pass_fds=[pidfd, loader, program, libraries, plugins, folder, *inherit.values()],
            env=service.ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        seconds = time.monotonic() - began
        if done.returncode:
            log = service.log_extract(images / f"{words[0]}.log")
            raise errors.ShowError(f"criu {words[0]} by hand: {done.stderr}{log}")
        return seconds
