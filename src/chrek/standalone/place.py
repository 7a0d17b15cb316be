"""What a container gets of its machine: which mounts it sees, and which it has of its own.

The root file system is an overlay of the machine's, so what is written there is the program's own.
Other file systems of the machine can be read; written only where `--volume` says so. Where the
machine keeps /tmp in memory, the container has one of its own, empty, which is captured.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Collection, Iterable, Sequence

import msgspec

from chrek import errors, names, procfs

KERNEL = frozenset(
    {
        *("proc", "sysfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "debugfs", "bpf"),
        *("tracefs", "securityfs", "pstore", "configfs", "fusectl", "hugetlbfs", "binfmt_misc"),
        *("autofs", "rpc_pipefs", "nsfs", "selinuxfs", "efivarfs"),
    }
)
"""File systems that a container has of its own, or does without."""
STACKED = frozenset({"overlay", "fuse.fuse-overlayfs", "aufs"})
"""Root file systems over which no other overlay will do: CRIU dumps nothing mapped of it."""
_NOT_BOUND = KERNEL | {"ramfs", "overlay"}
_HIDDEN = re.compile(
    r"/(proc|sys|dev)(/|$)|(/var)?/run/.|/var/lib/(docker|containerd|containers|kubelet)(/|$)"
)
"""Mount points that come and go with sessions and other containers."""
_OPTION = re.compile(r"[,:\\\s]")
"""Characters that an option of overlayfs cannot hold."""
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - mount points
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the container's
PSEUDO_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


class Bind(msgspec.Struct, frozen=True, kw_only=True):
    """A path that is in the container as it is on the machine."""

    path: str
    read_only: bool
    options: list[str] = []
    """Of the mount: `nosuid`, `nodev`, `noexec`."""
    optional: bool = False
    """Left out where it cannot be bound, though it can be written."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What is mounted in a container beside its root file system."""

    binds: list[Bind]
    """Outer ones first."""
    memory: list[str]
    """File systems in memory, which are captured."""
    devices: dict[str, str]
    """Name below /dev -> the machine's file."""


def look(state: pathlib.Path, volumes: Sequence[str]) -> Place:
    """What a container of this machine gets.

    Args:
        state: folder of the changes.
        volumes: directories and files of the machine that it shares, for reading and writing.

    Raises:
        UnsupportedError: overlayfs cannot take this machine's root, or this folder.
    """
    return plan(procfs.mounts(os.getpid()), state, volumes, devices(pathlib.Path("/dev")))


def plan(
    mounts: Iterable[procfs.Mount],
    state: pathlib.Path,
    volumes: Sequence[str],
    found: dict[str, str],
) -> Place:
    """The same of what is known of a machine."""
    tops = {mount.mount_point: mount for mount in mounts}
    root = tops.get("/")
    if root is not None and root.fs_type in STACKED:
        raise errors.UnsupportedError(
            f"the root file system of this machine is {root.fs_type}, as in a container",
            hint="run chrek on the machine itself: CRIU cannot dump what is mapped of an overlay "
            "over an overlay",
        )
    if _OPTION.search(str(state)):
        raise errors.UnsupportedError(
            f"{str(state)!r} cannot be an option of overlayfs",
            hint="name a folder without spaces, commas and colons with --state",
        )
    binds: dict[str, Bind] = {}
    memory: list[str] = []
    for path, mount in tops.items():
        own = mount.fs_type in _NOT_BOUND or _HIDDEN.match(path) or below(path, names.MOUNT_PATH)
        if path == "/" or own or below(path, str(state)):
            continue
        if path in TEMPORARY and mount.fs_type == "tmpfs" and path not in volumes:
            memory.append(path)
        elif not any(below(path, above) for above in TEMPORARY if above in tops):
            shared = not mount.read_only and any(below(path, one) for one in volumes)
            options = [one for one in mount.options if one in ("nosuid", "nodev", "noexec")]
            binds[path] = Bind(path=path, read_only=not shared, options=options)
    for path in volumes:
        binds[path] = Bind(path=path, read_only=False)
    return Place(
        binds=[binds[path] for path in sorted(binds)],
        memory=sorted([*memory, SHARED_MEMORY]),
        devices=found,
    )


def devices(folder: pathlib.Path) -> dict[str, str]:
    """Name in a container -> file of the machine: the usual ones, and those of all GPUs."""
    return pseudo_devices(folder) | gpu_devices(folder)


def pseudo_devices(folder: pathlib.Path) -> dict[str, str]:
    """The usual ones."""
    return {name: str(folder / name) for name in PSEUDO_DEVICES if (folder / name).exists()}


def gpu_devices(folder: pathlib.Path, minors: Collection[int] | None = None) -> dict[str, str]:
    """Those of GPUs, all or with these numbers, and those that all GPUs share."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("nvidia*")):
        number = path.name.removeprefix("nvidia")
        if minors is None or not number.isdecimal() or int(number) in minors:
            inner = sorted(path.iterdir()) if path.is_dir() else [path]
            found |= {str(item.relative_to(folder)): str(item) for item in inner}
    return found


def below(path: str, folder: str) -> bool:
    """Whether a path is a folder, or in it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
