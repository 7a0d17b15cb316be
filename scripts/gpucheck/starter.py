"""Makes the namespaces and the root of a container, then runs its first program in them.

  python -m gpucheck.starter JSON

The root is an overlay, so that the container has the machine's CUDA and torch, and changes of its
own; what else is mounted on the machine is bound into it, and so are device files.
Nothing but this Python is needed: many machines with a GPU are containers that lack `ip`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from pathlib import Path

import msgspec

from gpucheck import kernel

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
SHARED_MEMORY_BYTES = 1 << 30
EXIT_NOT_MADE = 125


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A container."""

    directory: str
    """With `upper`, `work`, `root` and `chrek` in it."""
    hostname: str
    lower: str
    """The root file system that it has a changed view of."""
    binds: list[str]
    """Paths that are there as they are here, outer ones first."""
    read_only: list[str]
    """Those of them that cannot be written."""
    devices: dict[str, str]
    """Name below /dev -> the file here."""
    argv: list[str]
    environment: dict[str, str]


def main() -> int:
    wanted = msgspec.json.decode(sys.argv[1], type=Wanted)
    try:
        kernel.unshare(*kernel.NAMESPACES)
        child = os.fork()
        if child == 0:
            kernel.end_with_parent()
            _enter(wanted)
    except OSError as err:
        # Also the child's: its parent sees no more than its exit status.
        sys.stderr.write(f"the container was not made: {err.filename or ''}: {err.strerror}\n")
        sys.stderr.flush()
        os._exit(EXIT_NOT_MADE)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _enter(wanted: Wanted) -> None:
    directory = Path(wanted.directory)
    root = directory / "root"
    kernel.mount("none", "/", flags=kernel.PRIVATE | kernel.RECURSIVE)
    layers = f"lowerdir={wanted.lower},upperdir={directory}/upper,workdir={directory}/work"
    kernel.mount("overlay", root, "overlay", data=layers)
    for path in wanted.binds:
        _bind(path, root / path.lstrip("/"), read_only=path in wanted.read_only)
    for name in ("proc", "sys", "dev", "chrek", "old"):
        (root / name).mkdir(exist_ok=True)
    kernel.mount("proc", root / "proc", "proc", kernel.NO_SUID_DEV_EXEC)
    kernel.mount("sysfs", root / "sys", "sysfs", kernel.NO_SUID_DEV_EXEC | kernel.READ_ONLY)
    _make_dev(root / "dev", wanted.devices)
    kernel.mount(directory / "chrek", root / "chrek", flags=kernel.BIND)
    kernel.loopback_up()
    socket.sethostname(wanted.hostname)
    kernel.pivot_root(root, "old")
    os.chdir("/")
    kernel.unmount("/old")
    with contextlib.suppress(OSError):
        os.rmdir("/old")
    _no_descriptors()
    os.execve(wanted.argv[0], wanted.argv, wanted.environment)  # noqa: S606 - the caller's program


def _bind(source: str, target: Path, *, read_only: bool) -> None:
    """Have a file or directory at another place too; what is gone by now is left out."""
    try:
        if Path(source).is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        kernel.mount(source, target, flags=kernel.BIND)
        if read_only:
            kernel.mount("none", target, flags=kernel.BIND | kernel.REMOUNT | kernel.READ_ONLY)
    except OSError as err:
        sys.stderr.write(f"not bound: {source}: {err.strerror}\n")


def _make_dev(dev: Path, devices: dict[str, str]) -> None:
    kernel.mount("dev", dev, "tmpfs", data="mode=755,size=1m")
    for name, source in ({name: f"/dev/{name}" for name in _DEVICES} | devices).items():
        _make_device(dev / name, source)
    for folder in ("shm", "pts", "mqueue"):
        (dev / folder).mkdir()
    kernel.mount("shm", dev / "shm", "tmpfs", data=f"mode=1777,size={SHARED_MEMORY_BYTES}")
    kernel.mount("devpts", dev / "pts", "devpts", data="newinstance,ptmxmode=0666,mode=620")
    kernel.mount("mqueue", dev / "mqueue", "mqueue")
    for name, target in _LINKS.items():
        (dev / name).symlink_to(target)


def _make_device(path: Path, source: str) -> None:
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


def _no_descriptors() -> None:
    """Leave the three that every program has, the first of them on the container's own null."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.closerange(3, 1 << 16)


if __name__ == "__main__":
    sys.exit(main())
