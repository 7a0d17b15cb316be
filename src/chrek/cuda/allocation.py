"""Which GPUs of its node a container has.

Its device files say what it can open, and what was allocated to it says which of them are its own:
a privileged container has the files of all. The files are looked up below the container's root
directory, never by a path that the container could bend.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from chrek import compatibility, errors, names, rootfd
from chrek.cuda import words

MINOR = "minor:"
"""Before the number of a GPU's device file, where an allocation names it and no UUID."""
PART = "MIG-"
"""Before the name of a part of a GPU."""

_DEVICE = re.compile(r"nvidia(\d+)")
_RESOLVE = rootfd.RESOLVE_IN_ROOT | rootfd.RESOLVE_NO_MAGICLINKS | rootfd.RESOLVE_NO_SYMLINKS


def has_device_files(init_pid: int) -> bool:
    """Whether a container has any GPU at all; no driver is asked.

    Raises:
        OSError: there is no such process.
    """
    root = rootfd.process_root(init_pid)
    try:
        return bool(minors(root))
    finally:
        os.close(root)


def of_container(
    node: words.Node, init_pid: int, allocated: Sequence[str] | None
) -> list[compatibility.Gpu]:
    """The GPUs of the container that a process is in; see `below`.

    Raises:
        GpuError: as `below`.
        OSError: there is no such process.
    """
    root = rootfd.process_root(init_pid)
    try:
        return below(node, root, allocated)
    finally:
        os.close(root)


def below(node: words.Node, root: int, allocated: Sequence[str] | None) -> list[compatibility.Gpu]:
    """The GPUs of the container with this root directory, by their minor numbers.

    With nothing allocated, known or not, the files alone tell: NVIDIA_VISIBLE_DEVICES gives a
    container GPUs that the kubelet knows nothing of.

    Args:
        root: descriptor of the container's root directory.
        allocated: UUIDs, `minor:N` or `MIG-…`; None where nobody knows.

    Raises:
        GpuError: GpuUnavailable for a GPU that is allocated and that the container or the driver
            does not have; GpuPartitioned for a part of one.
    """
    files = minors(root)
    found = [gpu for gpu in node.gpus if gpu.minor in files]
    if allocated:
        found = _allocated(node, found, allocated)
    for gpu in found:
        if gpu.partitioned:
            raise _partitioned(f"GPU {gpu.uuid} is partitioned (MIG)")
    return sorted(found, key=lambda gpu: gpu.minor)


def minors(root: int) -> set[int]:
    """N of every /dev/nvidiaN below a root directory."""
    try:
        fd = rootfd.open_below(root, "/dev", os.O_RDONLY | os.O_DIRECTORY, resolve=_RESOLVE)
    except OSError:
        return set()
    try:
        return {int(match[1]) for name in os.listdir(fd) if (match := _DEVICE.fullmatch(name))}
    finally:
        os.close(fd)


def _allocated(
    node: words.Node, found: Sequence[compatibility.Gpu], allocated: Sequence[str]
) -> list[compatibility.Gpu]:
    part = next((name for name in allocated if name.startswith(PART)), None)
    if part is not None:
        raise _partitioned(f"{part}, allocated to the container, is a part of a GPU")
    here = {gpu.uuid: gpu for gpu in found}
    uuids = [name for name in allocated if not name.startswith(MINOR)]
    for uuid in uuids:
        if uuid not in here:
            known = any(gpu.uuid == uuid for gpu in node.gpus)
            where = "the container has no device file of it" if known else "NVML does not list it"
            raise _unavailable(f"GPU {uuid} is allocated to the container, but {where}")
    numbers = {int(name.removeprefix(MINOR)) for name in allocated if name.startswith(MINOR)}
    others = [gpu for gpu in found if gpu.uuid not in uuids]
    # Numbers only narrow down what a privileged container has. Otherwise the files are right: a
    # claim names the GPUs of all containers that share it, and early DRA drivers numbered GPUs by
    # their place on the bus.
    if len(others) > len(numbers):
        others = [gpu for gpu in others if gpu.minor in numbers]
        if missing := numbers - {gpu.minor for gpu in others}:
            raise _unavailable(
                f"GPU {min(missing)} is allocated to the container,"
                f" but there is no /dev/nvidia{min(missing)}"
            )
    return [here[uuid] for uuid in uuids] + others


def _unavailable(message: str) -> errors.GpuError:
    return errors.GpuError(
        message,
        reason=names.Reason.GPU_UNAVAILABLE,
        hint="look at the GPU with nvidia-smi on its node, and at the NVIDIA container toolkit",
    )


def _partitioned(message: str) -> errors.GpuError:
    return errors.GpuError(
        message,
        reason=names.Reason.GPU_PARTITIONED,
        hint="use whole GPUs: the driver does not checkpoint parts of one",
    )
