"""Whether a capture can fit into the store: asked before anything is frozen.

Only what is certain refuses: the memory that CRIU must write, against what the file system says is
free. Files of the container come on top, and a quota may be smaller than what the file system says;
then writing fails, and the worker runs on all the same.
Source: smaps_rollup in the kernel's filesystems/proc.rst, statvfs(3).
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re

from chrek import errors, names, procfs

_FIELDS = re.compile(r"^(?:Pss_Anon|Pss_Shmem|SwapPss):\s+(\d+) kB", re.MULTILINE)


def memory_bytes(root_pid: int) -> int:
    """Memory of a tree that no file holds; what processes share is counted once."""
    total = 0
    for pid in procfs.tree(root_pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(int(number) for number in _FIELDS.findall(text)) << 10
    return total


def free_bytes(path: pathlib.Path) -> int | None:
    """What a file system says is free; None where it says nothing."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bfree * found.f_frsize if found.f_blocks else None


def check(needed: int, store: pathlib.Path) -> None:
    """Refuse a capture that cannot fit.

    Args:
        needed: `memory_bytes` of the tree.

    Raises:
        StoreError: reason NotEnoughSpace, with both numbers.
    """
    free = free_bytes(store)
    if free is None:
        return
    if needed > free:
        raise errors.StoreError(
            f"{store} has {free / 1e9:.2f} GB free, the worker's memory alone is"
            f" {needed / 1e9:.2f} GB",
            reason=names.Reason.NOT_ENOUGH_SPACE,
            hint="make the volume larger, or delete checkpoints that are not used",
        )
