"""Whether host memory can take the memory of GPUs: asked before anything is locked or restored.

The driver moves device memory into memory of the process, so it counts against the container's
limit, and where a limit is overrun the kernel kills instead of refusing.
Source: cuCheckpointProcessCheckpoint in NVIDIA's CUDA Driver API; MemAvailable in proc(5).
"""

from __future__ import annotations

import math
import pathlib

from chrek import errors, names, procfs, quantity

HEADROOM = 1.1
"""What has to be free, as a multiple of the device memory: the driver keeps books of its own."""

_MEMINFO = procfs.PROC / "meminfo"
_GIBIBYTE = 1 << 30


def available(meminfo: pathlib.Path = _MEMINFO) -> int | None:
    """Bytes that the node can give without swapping; None where the kernel does not say."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def check(
    needed_bytes: int,
    cgroup_limit: int | None,
    cgroup_used: int | None,
    available_bytes: int | None,
    what: str,
    *,
    headroom: float = HEADROOM,
) -> None:
    """Refuse to move device memory that host memory cannot take.

    Args:
        needed_bytes: what comes into host memory.
        cgroup_limit: bytes that the container may have; None without a limit.
        cgroup_used: bytes of it that cannot be dropped; None where nobody counts.
        available_bytes: what the node can give; None where it is not known.
        what: the name of the memory, such as `GPU memory`.
        headroom: what has to be free, as a multiple of it.

    Raises:
        UnsupportedError: InsufficientHostMemory, with the limit to set.
    """
    wanted = math.ceil(needed_bytes * headroom)
    moved = f"{what} of {quantity.human(needed_bytes)} has to go through host memory"
    if wanted != needed_bytes:
        moved += f", {quantity.human(wanted)} with the driver's own"
    if cgroup_limit is not None:
        used = cgroup_used or 0
        left = max(0, cgroup_limit - used)
        if wanted > left:
            limit = math.ceil((used + wanted) / _GIBIBYTE)
            raise errors.UnsupportedError(
                f"{moved}: the container may use {quantity.human(left)} more of its limit of"
                f" {quantity.human(cgroup_limit)}",
                reason=names.Reason.INSUFFICIENT_HOST_MEMORY,
                hint=f"set resources.limits.memory to at least {limit}Gi",
            )
    if available_bytes is not None and wanted > available_bytes:
        raise errors.UnsupportedError(
            f"{moved}: the node has {quantity.human(available_bytes)} available",
            reason=names.Reason.INSUFFICIENT_HOST_MEMORY,
            hint="raise resources.requests.memory by it, so that the node keeps it free",
        )
