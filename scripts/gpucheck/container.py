"""Containers with the machine's own root file system, and GPUs of choice in them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from chrek import procfs
from chrek.standalone import place, starter
from gpucheck import kernel, workload
from showcase import errors, sandbox

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
        shown = {*binds(self.folder), *map(str, self.seen), *self.folders}
        fixed = {path for path in self.folders if path != "/tmp"}
        return starter.Wanted(
            directory=str(directory),
            place=place.Place(
                binds=[
                    place.Bind(path=path, read_only=path in fixed, optional=True)
                    for path in sorted(shown)
                ],
                memory=[place.SHARED_MEMORY],
                devices=place.pseudo_devices(Path("/dev"))
                | place.gpu_devices(self.devices, minors),
            ),
            own=["network", "cgroup"],
            cwd="/",
            argv=list(argv),
            environment={**self.environment, "HOSTNAME": hostname},
            stdio=[starter.OWN_NULL, 1, 2],
            lower=self.lower,
            hostname=hostname,
        )


class Container(sandbox.Container):
    """One container; PID 1 is chrek-init."""

    def __init__(self, there: Place, name: str, minors: Sequence[int], *init_argv: str) -> None:
        """Start one.

        Args:
            minors: numbers of the GPUs that it gets.

        Raises:
            ShowError: it could not be made; the message says what the kernel refused.
        """
        directory = there.folder / name
        program = ("/chrek/chrek-init", *init_argv)
        wanted = there.wanted(directory, minors, *program, hostname=name)
        try:
            with starter.command(wanted) as (argv, memory):
                self._launch(directory, argv, environment(), pass_fds=[memory])
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


def environment() -> dict[str, str]:
    """This program's own, with which the same modules are found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@contextlib.contextmanager
def running(there: Place, name: str, minors: Sequence[int], *init_argv: str) -> Iterator[Container]:
    """A container that ends with the block."""
    made = Container(there, name, minors, *init_argv)
    try:
        yield made
    finally:
        made.stop()


def binds(folder: Path) -> set[str]:
    """Mount points of the machine that a container needs for its programs.

    Args:
        folder: what is mounted below it is this program's own.
    """
    return {
        mount.mount_point
        for mount in procfs.mounts(os.getpid())
        if mount.mount_point != "/"
        and mount.fs_type not in place.KERNEL
        and not any(place.below(mount.mount_point, own) for own in (*_OWN, str(folder)))
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
    return bool(roots) and roots[-1].fs_type in place.STACKED
