"""Access to a container's files that the container cannot lead astray.

Every path is resolved by the kernel below a directory descriptor, never out of it, never through a
symbolic or magic link, never onto another mount: a link planted in the container leads nowhere.
Source: openat2(2), statx(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pathlib
import secrets
import stat

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

_SYS_OPENAT2 = 437
_SYS_PIDFD_GETFD = 438
_STRICT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_below(
    root: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = _STRICT
) -> int:
    """Open a path below a directory descriptor.

    Raises:
        OSError: as open(2); ELOOP for a link on the way, EXDEV for another mount.
    """
    name = os.fsencode(path).lstrip(b"/") or b"."
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        fd = _libc.syscall(_SYS_OPENAT2, root, name, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return int(fd)
        error = ctypes.get_errno()
        # EAGAIN: a rename raced with the resolution below the root.
        if error not in (4, 11):
            raise OSError(error, os.strerror(error), os.fsdecode(name))


def descriptor(pidfd: int, number: int) -> int:
    """A copy of a descriptor of another process.

    Raises:
        OSError: it is not open, or the process has ended.
    """
    fd = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(fd)


def process_root(pid: int) -> int:
    """Descriptor of the root directory of a process."""
    return os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def mount(root: int, mount_point: str, mount_id: int) -> int:
    """Descriptor of a mount's root directory in a container.

    Args:
        root: the container's root directory.
        mount_id: id that mountinfo gives, so that nothing mounted over it is taken for it.

    Raises:
        OSError: ESTALE when another mount is found there.
    """
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
    fd = open_below(root, mount_point, os.O_PATH | os.O_DIRECTORY, resolve=resolve)
    info = pathlib.Path(f"/proc/self/fdinfo/{fd}").read_text()
    found = next(int(line.split()[1]) for line in info.splitlines() if line.startswith("mnt_id:"))
    if found != mount_id:
        os.close(fd)
        raise OSError(116, f"mount {found} instead of {mount_id}", mount_point)
    return fd


def directory(root: int, path: str | bytes) -> int:
    """Readable descriptor of a directory below `root`, on the same mount."""
    return open_below(root, path, os.O_RDONLY | os.O_DIRECTORY)


def file(root: int, path: str | bytes) -> int:
    """Readable descriptor of a regular file below `root`, on the same mount.

    Nothing else is opened: a FIFO would be waited for, a device might do something.

    Raises:
        OSError: as `open_below`; ENOTSUP for what is no regular file.
    """
    found = open_below(root, path, os.O_PATH)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(errno.ENOTSUP, "not a regular file", os.fsdecode(path))
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)


def put(root: int, name: str, data: bytes, *, mode: int, owner: tuple[int, int] = (-1, -1)) -> None:
    """Write a file into a directory, in place of whatever has its name: all of it or nothing.

    Args:
        mode: of the file, which nobody else can open before it has it.
        owner: user and group; -1 keeps this process's own.

    Raises:
        OSError: it cannot be written.
    """
    temporary = f".{name}.{secrets.token_hex(8)}"
    fd = open_below(root, temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode=0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        os.fchown(fd, *owner)
        os.fchmod(fd, mode)
    parent = directory(root, "")
    try:
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    finally:
        os.close(parent)


def remove(root: int, *names: str) -> None:
    """Remove files of a directory, those that are there."""
    parent = directory(root, "")
    try:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
    finally:
        os.close(parent)
