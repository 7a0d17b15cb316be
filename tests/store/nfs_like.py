"""A file system with the manners of NFS: one client of a server that has several.

Run as a program: `nfs_like.py SERVED MOUNTPOINT SECONDS` mounts the directory SERVED. Every such
mount is a client of its own, as a node is, and what it has looked up it believes for SECONDS: names
that are there, names that are not, listings and attributes. Beyond that:

    root_squash       all is done as nobody: no ownership is kept, no device node made
    rename            knows no flags (EINVAL)
    silly rename      a file that this client has open is not unlinked but renamed to `.nfs...`,
                      which nobody on it can unlink (EBUSY) and which goes when it is closed
    ESTALE            for what another client has removed, but for stat(2), which says ENOENT
    fsync             of a directory is refused (EINVAL)

It prints a line when it is mounted. A line on its standard input changes it, and is answered with
one: `slow SECONDS` for each request, `read-only`, `gone`, `lag` (names that another client has made
are not found before SECONDS have passed, even by those who never asked), `well`. It unmounts itself
at the end of its standard input: with the test that started it, however that ends. Only root can
start it.

Source: nfs(5), exports(5), mfusepy.py.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import dataclasses
import errno
import os
import signal
import stat
import sys
import threading
import time
from typing import Any

import mfusepy

NOBODY = 65534
MADE = "trusted.nfs_like"
"""Extended attribute of the served files: which client gave them their name, and when."""
OF_THE_CLIENT = os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_DIRECT
"""Flags of open(2) that are none of the server's business when a file is there."""
HIDDEN, SILLY = "/.fuse_hidden", "/.nfs"
"""How the library begins the name of a file that is open and removed, and how NFS does."""
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2
"""In place of nanoseconds. Source: utimensat(2)."""
Entry = tuple[str, dict[str, Any], int]
"""Of a directory: name, attributes and what the library calls an offset."""
_libc = ctypes.CDLL(None, use_errno=True)


@dataclasses.dataclass(frozen=True)
class Trouble:
    """What is wrong with the server at the moment."""

    slow_seconds: float = 0.0
    read_only: bool = False
    gone: bool = False
    lag: bool = False


class Mount(mfusepy.FUSE):  # type: ignore[misc]
    """The library ignores the flags of renameat2(2)."""

    def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> int:
        if flags:
            return -errno.EINVAL
        return int(super().rename_fuse_3(old, new, flags))


class Client(mfusepy.Operations):  # type: ignore[misc]
    """Requests of the kernel; paths begin with `/`, and are None for what has no name any more."""

    use_ns = True
    flag_nopath = flag_nullpath_ok = True

    def __init__(self, served: str, seconds: float) -> None:
        self.trouble = Trouble()
        self._served = served
        self._seconds = seconds
        self._opened: collections.Counter[tuple[int, int]] = collections.Counter()
        self._directories: dict[int, str] = {}
        self._listed: dict[str, tuple[float, list[Entry]]] = {}
        self.ended = False

    def init(self, path: str) -> None:
        os.umask(0)
        os.setgroups([])
        # Of this thread, which is the one that serves: the kernel itself checks what nobody may.
        _libc.setfsgid(NOBODY)
        _libc.setfsuid(NOBODY)
        print("mounted", flush=True)

    # What is asked by name.

    def getattr(self, path: str | None, fh: int | None = None) -> dict[str, Any]:
        if fh:
            return _attributes(os.fstat(self._held(fh)))
        found = self._at(path)
        if not self._sees(found):
            raise FileNotFoundError(errno.ENOENT, "not seen yet", found)
        return _attributes(os.lstat(found))

    def opendir(self, path: str) -> int:
        found = self._at(path)
        try:
            fd = os.open(found, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError as err:
            raise OSError(errno.ESTALE, "another client removed the directory") from err
        self._directories[fd] = found
        return fd

    def readdir(self, path: str | None, fh: int) -> list[Entry]:
        found = self._directories[self._held(fh)]
        at, known = self._listed.get(found, (-self._seconds, []))
        if time.monotonic() - at >= self._seconds:
            with os.scandir(fh) as entries:
                known = [(e.name, _attributes(e.stat(follow_symlinks=False)), 0) for e in entries]
            self._listed[found] = (time.monotonic(), known)
        return [entry for entry in known if self._sees(f"{found}/{entry[0]}")]

    def releasedir(self, path: str | None, fh: int) -> int:
        del self._directories[fh]
        os.close(fh)
        return 0

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}

    # What changes names.

    def mkdir(self, path: str, mode: int) -> int:
        found = self._changing(path)
        os.mkdir(found, mode)
        self._made(found)
        return 0

    def mknod(self, path: str, mode: int, dev: int) -> int:
        found = self._changing(path)
        os.mknod(found, mode, dev)
        self._made(found)
        return 0

    def symlink(self, target: str, source: str) -> int:
        found = self._changing(target)
        os.symlink(source, found)
        self._made(found)
        return 0

    def link(self, target: str, source: str) -> int:
        found = self._changing(target)
        os.link(self._at(source), found, follow_symlinks=False)
        self._made(found)
        return 0

    def rename(self, old: str, new: str) -> int:
        source, target = self._changing(old), self._changing(new)
        os.rename(source, target)
        self._made(target)
        return 0

    def unlink(self, path: str) -> int:
        found = self._changing(path)
        status = os.lstat(found)
        if SILLY in found and self._opened[status.st_dev, status.st_ino]:
            raise OSError(errno.EBUSY, "open")
        os.unlink(found)
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._changing(path))
        return 0

    # Files.

    def create(self, path: str, mode: int, flags: int) -> int:
        found = self._changing(path)
        fd = os.open(found, flags & ~(os.O_APPEND | os.O_DIRECT) | os.O_CREAT, mode)
        self._made(found)
        return self._keep(fd)

    def open(self, path: str, flags: int) -> int:
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        found = self._changing(path) if writes else self._at(path)
        return self._keep(os.open(found, flags & ~OF_THE_CLIENT | os.O_NOFOLLOW))

    def read(self, path: str | None, size: int, offset: int, fh: int) -> bytes:
        return os.pread(self._held(fh), size, offset)

    def write(self, path: str | None, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(self._held(fh, changes=True), data, offset)

    def truncate(self, path: str | None, length: int, fh: int | None = None) -> int:
        if fh:
            os.ftruncate(self._held(fh, changes=True), length)
        else:
            os.truncate(self._changing(path), length)
        return 0

    def flush(self, path: str | None, fh: int) -> int:
        return 0

    def fsync(self, path: str | None, datasync: int, fh: int) -> int:
        os.fsync(self._held(fh))
        return 0

    def release(self, path: str | None, fh: int) -> int:
        status = os.fstat(fh)
        self._opened[status.st_dev, status.st_ino] -= 1
        os.close(fh)
        return 0

    # Attributes.

    def fsyncdir(self, path: str | None, datasync: int, fh: int) -> int:
        raise OSError(errno.EINVAL, "a directory")

    def chmod(self, path: str | None, mode: int) -> int:
        os.chmod(self._changing(path), mode)
        return 0

    def chown(self, path: str | None, uid: int, gid: int) -> int:
        os.lchown(self._changing(path), uid, gid)
        return 0

    def utimens(self, path: str | None, times: tuple[int, int] | None = None) -> int:
        found = self._changing(path)
        status, now = os.lstat(found), time.time_ns()
        kept = (status.st_atime_ns, status.st_mtime_ns)
        wanted = times or (NOW, NOW)
        special = [
            {NOW: now, OMIT: old}.get(one, one) for one, old in zip(wanted, kept, strict=True)
        ]
        os.utime(found, ns=(special[0], special[1]), follow_symlinks=False)
        return 0

    # What they have in common.

    def _at(self, path: str | None) -> str:
        """Where the server has it."""
        time.sleep(self.trouble.slow_seconds)
        if self.trouble.gone or path is None:
            raise OSError(errno.ESTALE, "gone")
        return self._served + path.rstrip("/").replace(HIDDEN, SILLY)

    def _changing(self, path: str | None) -> str:
        found = self._at(path)
        if self.trouble.read_only:
            raise OSError(errno.EROFS, "read-only")
        parent = os.path.dirname(found)
        if not os.path.lexists(parent):
            raise OSError(errno.ESTALE, "another client removed the directory")
        # A client believes what it has done itself.
        self._listed.pop(parent, None)
        return found

    def _made(self, found: str) -> None:
        if self.trouble.lag:
            mark = f"{os.getpid()} {time.time()}".encode()
            os.setxattr(found, MADE, mark, follow_symlinks=False)

    def _sees(self, found: str) -> bool:
        """False of what another client has made just now."""
        if self.trouble.lag:
            with contextlib.suppress(OSError):
                who, when = os.getxattr(found, MADE, follow_symlinks=False).split()
                return int(who) == os.getpid() or time.time() - float(when) >= self._seconds
        return True

    def _keep(self, fd: int) -> int:
        status = os.fstat(fd)
        self._opened[status.st_dev, status.st_ino] += 1
        return fd

    def _held(self, fh: int, *, changes: bool = False) -> int:
        time.sleep(self.trouble.slow_seconds)
        if self.trouble.gone or not os.fstat(fh).st_nlink:
            raise OSError(errno.ESTALE, "another client removed the file")
        if changes and self.trouble.read_only:
            raise OSError(errno.EROFS, "read-only")
        return fh


def _attributes(status: os.stat_result) -> dict[str, Any]:
    names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
    found = {name: getattr(status, name) for name in names}
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        found["st_rdev"] = status.st_rdev
    times = ("st_atime", "st_mtime", "st_ctime")
    return found | {name: getattr(status, f"{name}_ns") for name in times}


def _listen(client: Client) -> None:
    """Do what standard input says, until its end."""
    for line in sys.stdin:
        word, *rest = line.split()
        client.trouble = Trouble(
            slow_seconds=float(rest[0]) if word == "slow" else 0.0,
            read_only=word == "read-only",
            gone=word == "gone",
            lag=word == "lag",
        )
        print("done", flush=True)
    client.ended = True
    # To the thread that waits for requests: the library then ends the mount.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def main() -> None:
    """Serve until standard input ends or the mount is gone."""
    served, mountpoint, seconds = sys.argv[1:]
    client = Client(served, float(seconds))
    threading.Thread(target=_listen, args=(client,), daemon=True).start()
    try:
        Mount(
            client,
            mountpoint,
            foreground=True,
            nothreads=True,
            use_ino=True,
            fsname="nfs_like",
            entry_timeout=seconds,
            attr_timeout=seconds,
            negative_timeout=seconds,
        )
    except RuntimeError:
        # What the library says of a signal, too.
        if not client.ended:
            raise


if __name__ == "__main__":
    main()
