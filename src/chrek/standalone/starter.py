"""Makes the namespaces and the root of a container, then becomes its PID 1.

    python -P -m chrek.standalone.starter FD

FD holds a `Wanted` as JSON: an environment is no argument for all to see. A thread or an event loop
has no place here: this process forks and becomes another program.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import stat
import sys
from collections.abc import Iterator

import msgspec

from chrek import process
from chrek.standalone import kernel, place

_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_OLD = ".chrek-old"
_FOREIGN = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTTIN)
"""Signals that this program ignores, and another one must not."""
EXIT_NOT_MADE = 125
NAMESPACES = ("mount", "uts", "ipc", "pid")
"""That each container has of its own."""
OWN_NULL = -1
"""Instead of a descriptor: /dev/null of the container."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A container."""

    directory: str
    """With `upper`, `work`, `root` and `chrek` in it."""
    place: place.Place
    own: list[str]
    """Namespaces that it has of its own beside those of each: `network`, `cgroup`."""
    cwd: str
    argv: list[str]
    environment: dict[str, str]
    stdio: list[int]
    """Descriptors that PID 1 gets as 0, 1 and 2."""
    lower: str = "/"
    """The root file system that it has a changed view of."""
    hostname: str = ""
    """Empty: the machine's."""


@contextlib.contextmanager
def command(wanted: Wanted) -> Iterator[tuple[list[str], int]]:
    """Command line of the program that makes it, and the descriptor that it must inherit."""
    memory = os.memfd_create("wanted")
    try:
        os.write(memory, msgspec.json.encode(wanted))
        yield [sys.executable, "-P", "-m", __name__, str(memory)], memory
    finally:
        os.close(memory)


def main(fd: int) -> int:
    """Make one and wait for its end; returns the exit status of its PID 1."""
    kernel.end_with_parent()
    # Ctrl-C is for `chrek run`, which passes it on.
    os.setsid()
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        wanted = msgspec.json.decode(file.read(), type=Wanted)
    try:
        kernel.unshare([*NAMESPACES, *wanted.own])
        child = os.fork()
        if child == 0:
            kernel.end_with_parent()
            _enter(wanted)
    except OSError as err:
        # Also the child's: its parent sees no more than its exit status.
        os.write(2, f"chrek: {err.filename or 'container'}: {err.strerror}\n".encode())
        os._exit(EXIT_NOT_MADE)
    for number in {*wanted.stdio, 2} - {OWN_NULL}:
        # Whoever reads sees the end of what PID 1 writes.
        os.close(number)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _enter(wanted: Wanted) -> None:
    directory = pathlib.Path(wanted.directory)
    root = directory / "root"
    kernel.mount("none", "/", flags=kernel.PRIVATE | kernel.RECURSIVE)
    layers = f"lowerdir={wanted.lower},upperdir={directory}/upper,workdir={directory}/work"
    kernel.mount("overlay", root, "overlay", data=layers)
    for bind in wanted.place.binds:
        _bind(bind, root / bind.path.lstrip("/"))
    for name in ("proc", "sys", "dev", "chrek", _OLD):
        (root / name).mkdir(exist_ok=True)
    kernel.mount("proc", root / "proc", "proc", kernel.NO_SUID_DEV_EXEC)
    kernel.mount("sysfs", root / "sys", "sysfs", kernel.NO_SUID_DEV_EXEC | kernel.READ_ONLY)
    _make_dev(root / "dev", wanted.place.devices)
    for path in wanted.place.memory:
        target = root / path.lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        kernel.mount("tmpfs", target, "tmpfs", data="mode=1777")
    kernel.mount(directory / "chrek", root / "chrek", flags=kernel.BIND)
    if "network" in wanted.own:
        kernel.loopback_up()
    if wanted.hostname:
        socket.sethostname(wanted.hostname)
    kernel.pivot_root(root, _OLD)
    os.chdir("/")
    kernel.unmount(f"/{_OLD}")
    with contextlib.suppress(OSError):
        os.rmdir(f"/{_OLD}")
    os.chdir(wanted.cwd)
    stdio = [
        os.open(os.devnull, os.O_RDWR) if fd == OWN_NULL else os.dup(fd) for fd in wanted.stdio
    ]
    for number, fd in enumerate(stdio):
        os.dup2(fd, number)
    os.closerange(3, 1 << 16)
    for ignored in _FOREIGN:
        signal.signal(ignored, signal.SIG_DFL)
    process.become(wanted.argv, wanted.environment)


def _bind(bind: place.Bind, target: pathlib.Path) -> None:
    """Have a file or directory at its place; what is gone by now is left out."""
    try:
        if pathlib.Path(bind.path).is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        kernel.mount(bind.path, target, flags=kernel.BIND)
        if bind.read_only:
            flags = kernel.BIND | kernel.REMOUNT | kernel.READ_ONLY
            for option in bind.options:
                flags |= kernel.OPTIONS[option]
            kernel.mount("none", target, flags=flags)
    except OSError as err:
        if not (bind.read_only or bind.optional):
            raise
        os.write(2, f"chrek: {bind.path} is not in the container: {err.strerror}\n".encode())


def _make_dev(dev: pathlib.Path, devices: dict[str, str]) -> None:
    kernel.mount("dev", dev, "tmpfs", data="mode=755,size=1m")
    for name, source in devices.items():
        _make_device(dev / name, source)
    for folder in ("pts", "mqueue"):
        (dev / folder).mkdir()
    kernel.mount("devpts", dev / "pts", "devpts", data="newinstance,ptmxmode=0666,mode=620")
    kernel.mount("mqueue", dev / "mqueue", "mqueue")
    for name, target in _LINKS.items():
        (dev / name).symlink_to(target)


def _make_device(path: pathlib.Path, source: str) -> None:
    """As a container runtime does it: a device file of its own, or, where that is refused, ours."""
    path.parent.mkdir(exist_ok=True)
    there = os.stat(source)
    if stat.S_ISCHR(there.st_mode):
        with contextlib.suppress(PermissionError):
            os.mknod(path, stat.S_IFCHR | 0o666, there.st_rdev)
            path.chmod(0o666)
            return
    path.touch()
    kernel.mount(source, path, flags=kernel.BIND)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
