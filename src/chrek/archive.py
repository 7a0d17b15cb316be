"""Files of a container, kept as two files of an artifact: an index and the data.

Ownership, modes, times, extended attributes, hard links, holes and overlay whiteouts stand in the
index (MessagePack), contents one after another in the data file. So nothing depends on what the
store's file system can express or on who the store thinks root is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from chrek import errors, inode, rootfd

INDEX = "files.index"
DATA = "files.data"
MAX_ENTRIES = 1_000_000
_COPY_BYTES = 1 << 20
_OPAQUE = "trusted.overlay.opaque"
_KEPT_XATTRS = ("user.", "security.capability", "system.posix_acl_")
_RACES = (errno.ENOENT, errno.EXDEV, errno.ENOTDIR, errno.ELOOP)
"""What opening says of a file that has gone or was replaced since its directory was read."""


class Writer:
    """Appends volumes to an archive that is being made."""

    def __init__(self, data: BinaryIO) -> None:
        self._data = data
        self.entries: list[inode.Entry] = []

    def add(self, volume: int, root: int, *, skip: frozenset[bytes] = frozenset()) -> None:
        """Add everything below a directory.

        Args:
            volume: index into the manifest's volumes.
            root: descriptor of the directory; its own mount only.
            skip: paths (without leading slash) that are left out with all below them.

        Raises:
            UnsupportedError: a device node, or more entries than `MAX_ENTRIES`.
        """
        seen: dict[int, bytes] = {}
        for path, info in walk(root, skip):
            if len(self.entries) >= MAX_ENTRIES:
                raise errors.UnsupportedError(
                    f"more than {MAX_ENTRIES} changed files in the container",
                    hint="move them onto a volume that is not captured",
                )
            try:
                entry = self._entry(volume, root, path, info, seen)
            except OSError as err:
                # Other containers go on writing into volumes that they share with this one.
                if err.errno not in _RACES:
                    raise
                seen.pop(info.st_ino, None)
                continue
            if entry is not None:
                self.entries.append(entry)

    def _entry(
        self, volume: int, root: int, path: bytes, info: os.stat_result, seen: dict[int, bytes]
    ) -> inode.Entry | None:
        mode = info.st_mode
        if stat.S_ISSOCK(mode):
            return None  # CRIU binds the socket again.
        if stat.S_ISCHR(mode) and info.st_rdev == 0:
            return inode.Entry(volume=volume, path=path, kind="whiteout")
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise errors.UnsupportedError(
                f"device node {os.fsdecode(path)!r} in the container's files",
                hint="devices belong into the pod spec",
            )
        if not stat.S_ISDIR(mode) and info.st_nlink > 1:
            first = seen.setdefault(info.st_ino, path)
            if first is not path:
                return inode.Entry(volume=volume, path=path, kind="hardlink", target=first)
        common: dict[str, Any] = {
            "volume": volume,
            "path": path,
            "mode": stat.S_IMODE(mode),
            "uid": info.st_uid,
            "gid": info.st_gid,
            "mtime_ns": info.st_mtime_ns,
        }
        if stat.S_ISLNK(mode):
            with _parent(root, path) as (parent, name):
                target = os.readlink(name, dir_fd=parent)
            return inode.Entry(kind="symlink", target=target, **common)
        if stat.S_ISFIFO(mode):
            return inode.Entry(kind="fifo", **common)
        fd = rootfd.open_below(root, path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            xattrs = _xattrs(fd)
            if stat.S_ISDIR(mode):
                opaque = _is_opaque(fd)
                return inode.Entry(kind="directory", xattrs=xattrs, opaque=opaque, **common)
            size = os.fstat(fd).st_size
            extents = list(_extents(fd, size))
            for offset, length in extents:
                self._copy(fd, offset, length)
            return inode.Entry(kind="file", size=size, extents=extents, xattrs=xattrs, **common)
        finally:
            os.close(fd)

    def _copy(self, fd: int, offset: int, length: int) -> None:
        end = offset + length
        while offset < end:
            part = os.pread(fd, min(_COPY_BYTES, end - offset), offset)
            if not part:  # Truncated since: the hole reads as zeros.
                part = bytes(min(_COPY_BYTES, end - offset))
            self._data.write(part)
            offset += len(part)

    def index(self) -> bytes:
        """The bytes of the index file."""
        return msgspec.msgpack.encode(self.entries)


def decode(index: bytes, volumes: int, data_bytes: int) -> list[inode.Entry]:
    """Read an index that may be hostile.

    Raises:
        ArtifactError: not an index, or a path, size or volume that cannot be.
    """
    try:
        entries = msgspec.msgpack.decode(index, type=list[inode.Entry])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise errors.ArtifactError(f"{INDEX}: {err}") from err
    try:
        for entry in entries:
            inode.check(entry, volumes)
    except errors.ArtifactError as err:
        raise errors.ArtifactError(f"{INDEX}: {err}") from err
    if len({(entry.volume, entry.path) for entry in entries}) != len(entries):
        raise errors.ArtifactError(f"{INDEX}: a path is named twice")
    used = sum(entry.stored for entry in entries)
    if used != data_bytes:
        raise errors.ArtifactError(f"{INDEX}: names {used} bytes of {data_bytes} in {DATA}")
    return entries


def apply(
    entries: list[inode.Entry],
    data: BinaryIO,
    roots: dict[int, int],
    *,
    replace: set[int],
    mirror: set[int],
) -> int:
    """Put files into a new container.

    Args:
        entries: in the order they were captured, parents first.
        data: the data file, read from its start.
        roots: volume index -> descriptor of its root directory; volumes not in it are passed over.
        replace: volumes in which captured files replace what is there; elsewhere nothing is
            overwritten.
        mirror: volumes from which everything that was not captured is removed first. Never the
            root file system: its archive holds only what differs from the image.

    Returns:
        Number of entries that were put in place.

    Raises:
        ArtifactError: the container has something else at a path, such as a link.
    """
    count = 0
    for volume in sorted(mirror & roots.keys()):
        _remove_others(roots[volume], {e.path for e in entries if e.volume == volume})
    directories = []
    for entry in entries:
        if entry.volume not in roots:
            data.seek(entry.stored, os.SEEK_CUR)
            continue
        start = data.tell()
        try:
            if _put(entry, data, roots[entry.volume], replace=entry.volume in replace):
                count += 1
                if entry.kind == "directory":
                    directories.append(entry)
        except OSError as err:
            # A file that the runtime or a volume mounts here in the new container.
            if err.errno != errno.EXDEV:
                raise _obstructed(entry, err) from err
        data.seek(start + entry.stored)
    for entry in directories:
        # What was put into them has changed their times.
        try:
            with _closing(rootfd.directory(roots[entry.volume], entry.path)) as fd:
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        except OSError as err:
            raise _obstructed(entry, err) from err
    return count


def _obstructed(entry: inode.Entry, err: OSError) -> errors.ArtifactError:
    return errors.ArtifactError(
        f"cannot put {os.fsdecode(entry.path)!r} into the container: {err.strerror}",
        hint="the container has something else at this path",
    )


def _put(entry: inode.Entry, data: BinaryIO, root: int, *, replace: bool) -> bool:
    """Put one entry in place; False when it left alone what is there."""
    if not entry.path:
        if replace:
            with _closing(rootfd.directory(root, "")) as fd:
                _metadata(fd, entry)
        return replace
    with _parent(root, entry.path) as (parent, name):
        there = _look(name, parent)
        if there is not None and not replace:
            return False
        if entry.kind == "whiteout":
            if there is not None:
                _remove(parent, name)
            return True
        if entry.kind == "directory":
            if there is not None and (entry.opaque or not stat.S_ISDIR(there.st_mode)):
                _remove(parent, name)
                there = None
            if there is None:
                os.mkdir(name, 0o700, dir_fd=parent)
            with _closing(rootfd.directory(parent, name)) as fd:
                _metadata(fd, entry)
            return True
        if there is not None:
            _remove(parent, name)
        if entry.kind == "hardlink":
            with _parent(root, entry.target) as (first_parent, first):
                os.link(
                    first, name, src_dir_fd=first_parent, dst_dir_fd=parent, follow_symlinks=False
                )
        elif entry.kind == "symlink":
            os.symlink(entry.target, name, dir_fd=parent)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            times = (entry.mtime_ns, entry.mtime_ns)
            os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)
        elif entry.kind == "fifo":
            os.mkfifo(name, 0o600, dir_fd=parent)
            with _closing(rootfd.open_below(parent, name, os.O_RDONLY | os.O_NONBLOCK)) as fd:
                _metadata(fd, entry)
        else:
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
            with _closing(rootfd.open_below(parent, name, flags, mode=0o600)) as fd:
                os.ftruncate(fd, entry.size)
                for offset, length in entry.extents:
                    _fill(fd, data, offset, length)
                _metadata(fd, entry)
    return True


def _fill(fd: int, data: BinaryIO, offset: int, length: int) -> None:
    while length:
        part = data.read(min(_COPY_BYTES, length))
        if not part:
            raise errors.ArtifactError(f"{DATA}: ends too early")
        os.pwrite(fd, part, offset)
        offset += len(part)
        length -= len(part)


def _metadata(fd: int, entry: inode.Entry) -> None:
    os.fchown(fd, entry.uid, entry.gid)
    os.fchmod(fd, entry.mode)
    for name, value in entry.xattrs.items():
        if name.startswith(_KEPT_XATTRS):
            with contextlib.suppress(OSError):  # The new volume's file system may have none.
                os.setxattr(fd, name, value)
    os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))


def walk(root: int, skip: frozenset[bytes] = frozenset()) -> Iterator[tuple[bytes, os.stat_result]]:
    """Everything below a directory on its own mount, parents first; `b""` is the directory."""
    pending = [b""]
    while pending:
        path = pending.pop()
        try:
            fd = rootfd.directory(root, path)
        except OSError as err:
            if err.errno in _RACES:
                continue
            raise
        with _closing(fd):
            if path == b"":
                yield b"", os.fstat(fd)
            below = []
            for item in os.listdir(fd):
                name = os.fsencode(item)
                child = path + b"/" + name if path else name
                try:
                    info = None if child in skip else _look(name, fd)
                except OSError as err:
                    if err.errno not in _RACES:
                        raise
                    continue
                if info is None:
                    continue
                yield child, info
                if stat.S_ISDIR(info.st_mode):
                    below.append(child)
            pending += below


def _remove_others(root: int, keep: set[bytes]) -> None:
    for path, info in sorted(walk(root), key=lambda item: item[0], reverse=True):
        if path and path not in keep:
            with contextlib.suppress(OSError), _parent(root, path) as (parent, name):
                if stat.S_ISDIR(info.st_mode):
                    os.rmdir(name, dir_fd=parent)
                else:
                    os.unlink(name, dir_fd=parent)


def _remove(parent: int, name: bytes) -> None:
    """Remove whatever is at a name, directories with all below them, on this mount only."""
    info = _look(name, parent)
    if info is None:
        return
    if not stat.S_ISDIR(info.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    with _closing(rootfd.directory(parent, name)) as fd:
        for child in os.listdir(fd):
            _remove(fd, os.fsencode(child))
    os.rmdir(name, dir_fd=parent)


@contextlib.contextmanager
def _parent(root: int, path: bytes) -> Iterator[tuple[int, bytes]]:
    head, _, name = path.rpartition(b"/")
    with _closing(rootfd.directory(root, head)) as fd:
        yield fd, name


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _look(name: bytes, parent: int) -> os.stat_result | None:
    """What is at a name, links not followed; None when nothing is.

    To remove the name of a mount would unmount it in the container, so a mount is never looked at.

    Raises:
        OSError: EXDEV for something that is mounted there.
    """
    try:
        with _closing(rootfd.open_below(parent, name, os.O_PATH | os.O_NOFOLLOW)) as fd:
            return os.fstat(fd)
    except FileNotFoundError:
        return None


def _xattrs(fd: int) -> dict[str, bytes]:
    try:
        return {n: os.getxattr(fd, n) for n in os.listxattr(fd) if n.startswith(_KEPT_XATTRS)}
    except OSError:
        return {}


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, _OPAQUE) == b"y"
    except OSError:
        return False


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as err:
            if err.errno == 6:  # ENXIO: only a hole is left.
                return
            raise
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < at:
            yield start, at - start
