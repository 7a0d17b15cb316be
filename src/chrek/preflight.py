"""What is in a process tree that CRIU must be told of, or cannot dump: looked for before a dump.

CRIU would fail with words of its own when everything is frozen already, or, worse, restore
something else than was there. Device files of GPUs are looked for when the GPU memory is in host
memory, where the CUDA driver has closed all that it knows of. Source: proc(5), criu/proc_parse.c
and criu/eventfd.c of CRIU 4.2, devices.txt of the kernel; major numbers of nvidia-uvm, nvidia-caps
and gdrdrv differ between nodes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import stat
import time
from collections.abc import Iterable

from chrek import archive, endpoints, errors, hugetlb, ipc, mqueue, names, procfs, rootfd

SEARCH_SECONDS = 10.0
"""How long the files that inotify watches are searched for, before anything is frozen."""
_REFUSED = {
    "anon_inode:[io_uring]": (names.Reason.IO_URING, "an io_uring"),
    "anon_inode:[fanotify]": (names.Reason.UNSUPPORTED, "a fanotify descriptor"),
    "anon_inode:[userfaultfd]": (names.Reason.UNSUPPORTED, "a userfaultfd"),
    "anon_inode:[perf_event]": (names.Reason.UNSUPPORTED, "a perf event"),
}
_WATCH = re.compile(r"^inotify wd:\S+ ino:([0-9a-f]+) sdev:([0-9a-f]+) ", re.MULTILINE)
_MINOR_BITS = 20
"""Of a device number inside the kernel."""
_NVIDIA_MAJOR = 195
_GPU_FILE = re.compile(r"/(?:nvidia[^/]*(?:/[^/]+)?|gdrdrv)(?: \(deleted\))?\Z")
"""Such as /dev/nvidia0 and /dev/nvidia-caps/nvidia-cap1."""
_MAPPING = re.compile(r"^([0-9a-f]+-[0-9a-f]+) \S+ \S+ \S+ \d+ +(/.+)$", re.MULTILINE)
"""Addresses and path of a file, of a line of /proc/PID/maps."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What CRIU must be told of.

    Attributes:
        watched: device (as mountinfo has it) and inode of what inotify descriptors watch.
        ipc: the tree has System V objects.
        external: descriptors of message queues, by the names that CRIU has for them.
    """

    watched: frozenset[tuple[str, int]] = frozenset()
    ipc: bool = False
    external: tuple[str, ...] = ()


def look(root_pid: int) -> Found:
    """Look at every process of a tree.

    Raises:
        UnsupportedError: something in it cannot be captured.
    """
    watched: set[tuple[str, int]] = set()
    huge = hugetlb.devices(procfs.mounts(root_pid))
    for pid in procfs.tree(root_pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if hugetlb.is_mapped(pid, huge):
                raise _hugetlb(pid)
            _check_mappings(pid)
            watched |= _check_descriptors(pid, huge)
    has_ipc = ipc.has_own(root_pid)
    if has_ipc:
        numbers = [item.number for item in ipc.objects(root_pid) if item.kind == "shm"]
        if hugetlb.segments(root_pid, numbers, huge):
            raise _hugetlb(root_pid)
    return Found(frozenset(watched), has_ipc, tuple(mqueue.descriptors(root_pid)))


def _hugetlb(pid: int) -> errors.UnsupportedError:
    hint = "use transparent huge pages"
    return _refused(pid, "memory in hugetlb pages", names.Reason.HUGETLB, hint)


def _check_mappings(pid: int) -> None:
    text = pathlib.Path(f"/proc/{pid}/maps").read_text(errors="replace")
    for addresses, path in _MAPPING.findall(text):
        if path.startswith("/dev/") or _GPU_FILE.search(path):
            with contextlib.suppress(OSError):  # It was unmapped meanwhile.
                if _is_gpu_file(f"/proc/{pid}/map_files/{addresses}", path):
                    raise _gpu_file(pid, f"{path} mapped")


def _is_gpu_file(opened: str, path: str) -> bool:
    """Whether what a link of /proc/PID leads to, and shows this path of, is a GPU's device."""
    info = os.stat(opened)
    if not stat.S_ISCHR(info.st_mode):
        return False
    return os.major(info.st_rdev) == _NVIDIA_MAJOR or _GPU_FILE.search(path) is not None


def _gpu_file(pid: int, what: str) -> errors.UnsupportedError:
    """The CUDA driver does not know of it: NVML of an old driver, say, or a monitoring library."""
    hint = "have it call nvmlShutdown or end its GPU monitoring, or use NVIDIA driver 580 or later"
    return _refused(pid, what, names.Reason.GPU_FILE_OPEN, hint)


def _check_descriptors(pid: int, huge: frozenset[int]) -> set[tuple[str, int]]:
    watched = set()
    with contextlib.ExitStack() as stack:
        pidfd = os.pidfd_open(pid)
        stack.callback(os.close, pidfd)
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(f"/proc/{pid}/fd/{number}")
                watched |= _check_descriptor(pid, pidfd, number, target, huge)
    return watched


def _check_descriptor(
    pid: int, pidfd: int, number: str, target: str, huge: frozenset[int]
) -> set[tuple[str, int]]:
    """What an inotify descriptor watches; of others nothing."""
    if target in _REFUSED:
        reason, what = _REFUSED[target]
        raise _refused(pid, what, reason, "have the program do without")
    if target.startswith("socket:"):
        found = None
        with contextlib.suppress(OSError):  # It was closed meanwhile.
            found = endpoints.problem(pidfd, int(number))
        if found is not None:
            raise _refused(pid, found[0], names.Reason.UNSUPPORTED, found[1])
    info = pathlib.Path(f"/proc/{pid}/fdinfo/{number}")
    if target == "anon_inode:inotify":
        return _watched(info.read_text())
    if target == "anon_inode:[eventfd]" and _is_semaphore(info.read_text()):
        raise _refused(
            *(pid, "an eventfd with EFD_SEMAPHORE", names.Reason.UNSUPPORTED),
            "CRIU would restore it as a plain one",
        )
    if target.startswith("/"):
        if hugetlb.is_descriptor(pid, int(number), huge):
            raise _hugetlb(pid)
        if _is_gpu_file(f"/proc/{pid}/fd/{number}", target):
            raise _gpu_file(pid, f"{target} open")
    return set()


def _watched(text: str) -> set[tuple[str, int]]:
    found = set()
    for inode, device in _WATCH.findall(text):
        number = int(device, 16)
        major, minor = number >> _MINOR_BITS, number & ((1 << _MINOR_BITS) - 1)
        found.add((f"{major}:{minor}", int(inode, 16)))
    return found


def _is_semaphore(text: str) -> bool:
    return re.search(r"^eventfd-semaphore:\s*1$", text, re.MULTILINE) is not None


def _refused(pid: int, what: str, reason: names.Reason, hint: str) -> errors.UnsupportedError:
    status = procfs.status(pid)
    return errors.UnsupportedError(
        f"process {status.nspids[-1]} ({status.name}) holds {what}, which cannot be captured",
        reason=reason,
        hint=hint,
    )


def paths(found: Found, root_pid: int, mounts: Iterable[procfs.Mount]) -> list[str]:
    """Paths of the watched files on overlay file systems, which have no handles to find them by.

    CRIU finds those of other file systems by itself, and says what it does not find.
    """
    result: list[str] = []
    deadline = time.monotonic() + SEARCH_SECONDS
    with contextlib.ExitStack() as stack:
        root = rootfd.process_root(root_pid)
        stack.callback(os.close, root)
        for mount in mounts:
            wanted = {inode for device, inode in found.watched if device == mount.device}
            if not wanted or mount.fs_type != "overlay":
                continue
            fd = rootfd.mount(root, mount.mount_point, mount.mount_id)
            stack.callback(os.close, fd)
            for path, info in archive.walk(fd):
                if info.st_ino in wanted:
                    wanted.discard(info.st_ino)
                    result.append(os.path.join(mount.mount_point, os.fsdecode(path)))
                if not wanted or time.monotonic() > deadline:
                    break
    return result
