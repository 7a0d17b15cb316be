"""chrek-init in a container's chrek volume, which is also the program of a captured tree's root.

CRIU maps the file again and takes no other one for it. The artifact therefore keeps it, and a
container that got another version of it, after an upgrade of chrek, is given the captured one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from chrek import errors, names, procfs, rootfd

NAME = "chrek-init"
MAX_BYTES = 1 << 20


@contextlib.contextmanager
def directory(root: int, mounts: Sequence[procfs.Mount]) -> Iterator[int]:
    """Descriptor of the chrek volume of a container.

    Args:
        root: descriptor of the container's root directory.
        mounts: its mounts.

    Raises:
        UnsupportedError: the container has none.
    """
    found = [m for m in mounts if m.mount_point == names.MOUNT_PATH]
    if not found:
        raise errors.UnsupportedError(f"the container has no volume at {names.MOUNT_PATH}")
    fd = rootfd.mount(root, names.MOUNT_PATH, found[-1].mount_id)
    try:
        yield fd
    finally:
        os.close(fd)


def read(volume: int) -> bytes:
    """The program's file.

    Raises:
        UnsupportedError: there is none, or it cannot be it.
    """
    try:
        fd = rootfd.open_below(volume, NAME, os.O_RDONLY | os.O_NONBLOCK)
        try:
            data = os.read(fd, MAX_BYTES + 1)
        finally:
            os.close(fd)
    except OSError as err:
        raise errors.UnsupportedError(f"{names.INIT_PATH}: {err.strerror}") from err
    if not 0 < len(data) <= MAX_BYTES:
        raise errors.UnsupportedError(f"{names.INIT_PATH}: {len(data)} bytes cannot be it")
    return data


def put(volume: int, data: bytes) -> bool:
    """Make the file what was captured; the running PID 1 keeps its own.

    Returns:
        Whether it was another one before.
    """
    if read(volume) == data:
        return False
    rootfd.put(volume, NAME, data, mode=0o755)
    return True
