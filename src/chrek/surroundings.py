"""What in a capture's images is of the old pod, made the new one's before CRIU reads them.

Addresses and connections (`criu.sockets`), timers (`criu.timers`), and the folders of ConfigMaps,
Secrets and other projected volumes. The kubelet puts their files into a folder that is named by the
time of its making, `..2026_11_25_07_30_00.123456`, to which `..data` leads; a file that is open or
mapped, or a working directory, is known by that name, which no other pod has.
Source: AtomicWriter in pkg/volume/util/atomic_writer.go of Kubernetes.
"""

from __future__ import annotations

import calendar
import contextlib
import os
import pathlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence

from chrek import log, manifest, names, procfs, rootfd
from chrek.criu import images, sockets, timers
from chrek.criu import messages_pb2 as pb

_FOLDER = re.compile(r"^(.*?)/(\.\.\d{4}_\d\d_\d\d_[^/]+)((?:/.*)?)$")
_NEWEST = "..data"


def adapt(
    staging: pathlib.Path, described: manifest.Manifest, init_pid: int, logger: log.Logger
) -> list[pb.FileEntry]:
    """Edit the images in a staging directory for the container of a PID 1.

    Returns:
        The files that CRIU will open.
    """
    path = staging / "files.img"
    entries = images.read(path, pb.FileEntry)
    moved = moved_addresses(described.source.addresses, procfs.addresses(init_pid))
    closed, rewritten = sockets.rewrite(entries, moved)
    renamed, resized = _rename(entries, folders(init_pid, procfs.mounts(init_pid)))
    timed = timers.mend(entries, _seconds_since(described.createdAt))
    if closed or rewritten or renamed or resized or timed:
        path.write_bytes(images.encode(path.name, entries))
    _forget_deleted(staging, renamed)
    for stream in staging.glob("tcp-stream-*.img"):
        data = stream.read_bytes()
        settled = sockets.settle(data, stream.name)
        if settled != data:
            stream.write_bytes(settled)
    logger.debug(
        "surroundings", closed=closed, rewritten=rewritten, renamed=len(renamed), timed=timed
    )
    return entries


def moved_addresses(old: Sequence[str], new: Sequence[str]) -> dict[str, str]:
    """Old address -> new address, family by family in order."""
    moved: dict[str, str] = {}
    for is_v6 in (False, True):
        before = [a for a in old if (":" in a) is is_v6]
        after = [a for a in new if (":" in a) is is_v6]
        moved.update(zip(before, after, strict=False))
    return {a: b for a, b in moved.items() if a != b}


def _seconds_since(created_at: str) -> float:
    """By the wall clocks of two nodes, so never less than none."""
    try:
        then = calendar.timegm(time.strptime(created_at, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return 0
    return max(0, time.time() - then)


def folders(pid: int, mounts: Iterable[procfs.Mount]) -> dict[str, str]:
    """Mount point -> name of the folder that its `..data` leads to, where there is one."""
    found = {}
    with contextlib.ExitStack() as stack:
        root = rootfd.process_root(pid)
        stack.callback(os.close, root)
        for mount in mounts:
            with contextlib.suppress(OSError):
                fd = rootfd.mount(root, mount.mount_point, mount.mount_id)
                try:
                    name = os.readlink(_NEWEST, dir_fd=fd)
                finally:
                    os.close(fd)
                if "/" not in name:
                    found[mount.mount_point] = name
    return found


def _rename(entries: Iterable[pb.FileEntry], newest: Mapping[str, str]) -> tuple[set[int], int]:
    """Have names and sizes be the new pod's.

    Returns:
        Ids of files with another name, and how many others may have another size.
    """
    renamed = set()
    resized = 0
    for entry in entries:
        if not entry.HasField("reg"):
            continue
        if "/" + entry.reg.name.strip("/") in names.POD_FILES and entry.reg.HasField("size"):
            # Of no certain size.
            entry.reg.ClearField("size")
            resized += 1
            continue
        match = _FOLDER.match(entry.reg.name)
        # CRIU keeps names without their first slash.
        if match is None or (name := newest.get("/" + match[1].strip("/"))) is None:
            continue
        entry.reg.name = f"{match[1]}/{name}{match[3]}"
        # Whether it may be another content is decided by the facts: of a token it always is one.
        entry.reg.ClearField("size")
        renamed.add(entry.reg.id)
    return renamed, resized


def _forget_deleted(staging: pathlib.Path, renamed: set[int]) -> None:
    """Files that the kubelet had replaced while they were open: the new pod has newer ones.

    CRIU would make the deleted ones again, in a place that cannot be written.
    """
    path = staging / "remap-fpath.img"
    if not renamed or not path.exists():
        return
    remaps = images.read(path, pb.RemapFilePathEntry)
    kept = [remap for remap in remaps if remap.orig_id not in renamed]
    if len(kept) < len(remaps):
        path.write_bytes(images.encode(path.name, kept))
