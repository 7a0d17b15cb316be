"""How artifacts go: so that a crash at any step leaves what the next deletion finishes.

A deletion turns the manifest into the mark `.deleted`: from then on nobody opens the artifact, and
whoever comes by, another deletion or a sweep, may finish it whatever its age. The mark goes last.
Everything is reached from a descriptor of the store's base, through no link and onto no other
mount; what the store did not make stays, with the directories that it lies in. A directory without
manifest or mark may be the stage of a capture under way: it stays until nothing has touched it for
a while.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import pathlib
import re
import stat
from collections.abc import Callable, Iterator

from chrek import manifest, rootfd

IMAGES = "criu"
DELETED = ".deleted"
NAME = re.compile(r"[0-9a-f-]{1,64}")
"""Of variants and of generations."""
_STAYS = frozenset({errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.EACCES, errno.EPERM})


@dataclasses.dataclass(frozen=True)
class Deleted:
    """A generation that is gone.

    Attributes:
        path: `<hash>/<variant>/<uuid>`.
        bytes: of its files.
    """

    path: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Scope:
    """What a deletion or a sweep removes of one identity hash.

    Attributes:
        identity_hash: of the artifacts.
        variant: empty for all.
        uuid: empty for all.
        untouched_since: a stage that was touched later stays (time of day, seconds).
        committed: whether artifacts go as well, or only what is none.
    """

    identity_hash: str
    variant: str
    uuid: str
    untouched_since: float
    committed: bool = True

    def remove(
        self,
        root: int | None,
        *,
        on_deleted: Callable[[Deleted], None],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Remove it, and the directories that are empty then.

        Args:
            root: directory of the namespace's identity hashes; None when there is none.
            on_deleted: told of each generation that is gone.
            stopped: asked before each generation; true ends the call early.

        Raises:
            OSError: something cannot be removed; the rest may be there still.
        """
        with inside(root, self.identity_hash) as top:
            for variant in directories(top, NAME, only=self.variant):
                with inside(top, variant) as directory:
                    for uuid in directories(directory, NAME, only=self.uuid):
                        if stopped():
                            return
                        size = self._generation(directory, uuid)
                        if size is not None:
                            path = f"{self.identity_hash}/{variant}/{uuid}"
                            on_deleted(Deleted(path, size))
                _drop(top, variant)
        _drop(root, self.identity_hash)

    def _generation(self, parent: int | None, name: str) -> int | None:
        """Bytes that were removed; None when it stays or was gone already."""
        with inside(parent, name) as fd:
            if fd is None:
                return None
            if _status(fd, manifest.NAME):
                if not self.committed:
                    return None
                os.rename(manifest.NAME, DELETED, src_dir_fd=fd, dst_dir_fd=fd)
                fsync(fd)
            elif not _status(fd, DELETED):
                found = (os.fstat(fd), _status(fd, IMAGES))
                if max(s.st_mtime for s in found if s) >= self.untouched_since:
                    # Nothing in it: what a deletion leaves that is interrupted in its last step. A
                    # capture that is about to fill it makes it again.
                    _drop(parent, name)
                    return None
            size = _empty(fd, but=DELETED)
            size += _empty(fd)
        _drop(parent, name)
        return size


@contextlib.contextmanager
def opened(base: pathlib.Path) -> Iterator[int]:
    """Descriptor of the store's base."""
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def inside(parent: int | None, path: str) -> Iterator[int | None]:
    """Descriptor of a directory below another one; None when there is none."""
    try:
        fd = None if parent is None else rootfd.directory(parent, path)
    except FileNotFoundError:
        fd = None
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def directories(parent: int | None, pattern: re.Pattern[str], *, only: str = "") -> list[str]:
    """Names of the directories in a directory that the store may have made."""
    if parent is None:
        return []
    with os.scandir(parent) as entries:
        found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return sorted(name for name in found if pattern.fullmatch(name) and only in ("", name))


def _status(parent: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _empty(directory: int, *, but: str = "") -> int:
    """Remove everything in a directory; returns the bytes of its files."""
    with os.scandir(directory) as entries:
        found = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries if e.name != but]
    size = 0
    for name, is_directory in found:
        if not is_directory:
            size += _unlink(directory, name)
            continue
        with inside(directory, name) as fd:
            size += _empty(fd) if fd is not None else 0
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(name, dir_fd=directory)
    return size


def _unlink(parent: int, name: str) -> int:
    """Remove a file, or a link itself; returns its bytes, 0 when another one was faster."""
    status = _status(parent, name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)
    return status.st_size if status and stat.S_ISREG(status.st_mode) else 0


def _drop(parent: int | None, name: str) -> None:
    """Remove a directory that has nothing in it.

    One that stays for want of permission in the volume's own root holds nothing either.
    """
    try:
        if parent is not None:
            os.rmdir(name, dir_fd=parent)
            fsync(parent)
    except OSError as err:
        if err.errno not in _STAYS:
            raise


def fsync(fd: int) -> None:
    """Fsync; network file systems that cannot sync directories are forgiven."""
    try:
        os.fsync(fd)
    except OSError as err:
        if err.errno != errno.EINVAL:
            raise
