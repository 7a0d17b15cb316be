"""Containers with the machine's own root file system, and GPUs of choice in them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from chrek import procfs
from gpucheck import kernel, starter, workload
from showcase import errors, sandbox

_KERNEL = frozenset(
    {
        *("proc", "sysfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "debugfs", "bpf"),
        *("tracefs", "securityfs", "pstore", "configfs", "fusectl", "hugetlbfs", "binfmt_misc"),
        *("autofs", "rpc_pipefs", "nsfs", "selinuxfs", "efivarfs"),
    }
)
"""File systems that a container has of its own, or does without."""
_OWN = ("/proc", "/sys", "/dev")


@dataclasses.dataclass(frozen=True)
class Place:
    """What every container of a machine gets from it."""

    folder: Path
    """For the changes of root file systems: overlayfs must take it."""
    seen: Sequence[Path]
    """Folders that programs inside need: of this Python, and of the workers."""
    devices: Path
    """Where the machine's nvidia device files are."""
    environment: Mapping[str, str]
    lower: str = "/"
    """The root file system that containers have a changed view of."""
    folders: Sequence[str] = ()
    """The machine's top folders, where its root is not `lower`: they are bound, and cannot be
    written, but for /tmp."""

    def wanted(
        self, directory: Path, minors: Sequence[int], *argv: str, hostname: str = "probe"
    ) -> starter.Wanted:
        """What a container is made of, in a folder of its own."""
        return starter.Wanted(
            directory=str(directory),
            hostname=hostname,
            lower=self.lower,
            binds=sorted({*binds(self.folder), *map(str, self.seen), *self.folders}),
            read_only=[path for path in self.folders if path != "/tmp"],
            devices=device_files(self.devices, minors),
            argv=list(argv),
            environment={**self.environment, "HOSTNAME": hostname},
        )


class Container(sandbox.Container):
    """One container; PID 1 is chrek-init."""

    def __init__(self, place: Place, name: str, minors: Sequence[int], *init_argv: str) -> None:
        """Start one.

        Args:
            minors: numbers of the GPUs that it gets.

        Raises:
            ShowError: it could not be made; the message says what the kernel refused.
        """
        directory = place.folder / name
        program = ("/chrek/chrek-init", *init_argv)
        wanted = place.wanted(directory, minors, *program, hostname=name)
        try:
            self._launch(directory, argv(wanted), environment())
        except AssertionError as err:
            raise errors.ShowError(str(err)) from err

    def wait_until_ready(self) -> workload.Object:
        """What the worker says of itself.

        Raises:
            ShowError: it ended, or is not ready in time.
        """
        return workload.wait_until_ready(
            lambda: self.output, lambda: self._unshare.poll() is not None
        )

    def ask(self, text: str, seconds: float = 600) -> str:
        """Ask the worker over TCP in the container's network namespace.

        Raises:
            OSError: it does not answer.
        """
        with kernel.connect(self.pid, workload.PORT, seconds) as connection:
            connection.sendall(text.encode() + b"\n")
            return connection.makefile().readline().strip()


def argv(wanted: starter.Wanted) -> list[str]:
    """Command line of the program that makes a container."""
    return [sys.executable, "-m", "gpucheck.starter", msgspec.json.encode(wanted).decode()]


def environment() -> dict[str, str]:
    """This program's own, with which the same modules are found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@contextlib.contextmanager
def running(place: Place, name: str, minors: Sequence[int], *init_argv: str) -> Iterator[Container]:
    """A container that ends with the block."""
    made = Container(place, name, minors, *init_argv)
    try:
        yield made
    finally:
        made.stop()


def device_files(folder: Path, minors: Sequence[int]) -> dict[str, str]:
    """Name in a container -> file: of these GPUs, and those that all GPUs share."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("nvidia*")):
        number = path.name.removeprefix("nvidia")
        if path.is_dir():
            found |= {f"{path.name}/{item.name}": str(item) for item in sorted(path.iterdir())}
        elif not number.isdecimal() or int(number) in minors:
            found[path.name] = str(path)
    return found


def binds(folder: Path) -> set[str]:
    """Mount points of the machine that a container needs for its programs.

    Args:
        folder: what is mounted below it is this program's own.
    """
    return {
        mount.mount_point
        for mount in procfs.mounts(os.getpid())
        if mount.mount_point != "/"
        and mount.fs_type not in _KERNEL
        and not any(_below(mount.mount_point, own) for own in (*_OWN, str(folder)))
    }


def skeleton(folder: Path) -> list[str]:
    """Fill a folder with a root directory like the machine's own, without what is in its folders.

    An overlay over an overlay would do for programs. But what they map of it the kernel says to be
    on a mount that nobody has, and CRIU dumps no such file; so a machine whose own root is an
    overlay, as in containers, has its folders bound.

    Returns:
        The machine's top folders and files, to be bound.
    """
    found = []
    for entry in os.scandir("/"):
        here = folder / entry.name
        if entry.is_symlink():
            here.symlink_to(os.readlink(entry.path))
        elif entry.path not in _OWN:
            here.mkdir() if entry.is_dir() else here.touch()
            found.append(entry.path)
    return found


def stacked() -> bool:
    """Whether the machine's own root file system is an overlay."""
    roots = [m for m in procfs.mounts(os.getpid()) if m.mount_point == "/"]
    return bool(roots) and roots[-1].fs_type in ("overlay", "fuse.fuse-overlayfs", "aufs")


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
