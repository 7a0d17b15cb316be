"""One file, directory or other inode of an archive, and what it may say.

An index comes from the store and may be hostile: `check` refuses whatever the kernel would refuse
later, when half of the files are in place.
"""

from __future__ import annotations

import msgspec

from chrek import errors

KINDS = frozenset({"file", "directory", "symlink", "fifo", "hardlink", "whiteout"})
MAX_SIGNED = (1 << 63) - 1
MAX_OWNER = (1 << 32) - 2
"""The largest id is -1 to chown(2): leave it as it is."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """See the module."""

    volume: int
    """Index into the manifest's volumes."""
    path: bytes
    """Below the volume; empty for its root directory."""
    kind: str
    """file, directory, symlink, fifo, hardlink or whiteout."""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    target: bytes = b""
    """Of a symbolic link; of a hard link the path of the first one."""
    size: int = 0
    extents: list[tuple[int, int]] = []
    """Offset and length of every part that is not a hole; their bytes follow in the data file."""
    xattrs: dict[str, bytes] = {}
    opaque: bool = False
    """Directory that hides what the image has at this path."""

    @property
    def stored(self) -> int:
        """Bytes that the data file holds of it."""
        return sum(length for _, length in self.extents)


def check(entry: Entry, volumes: int) -> None:
    """Refuse an entry that cannot be.

    Raises:
        ArtifactError: saying what is wrong with it.
    """
    if entry.kind not in KINDS:
        raise errors.ArtifactError(f"kind {entry.kind!r} of {entry.path!r} is not one")
    if not 0 <= entry.volume < volumes:
        raise errors.ArtifactError(f"volume {entry.volume} of {volumes}")
    if entry.path or entry.kind != "directory":
        _check_path(entry.path)
    if entry.kind == "hardlink":
        _check_path(entry.target)
    if entry.kind == "symlink" and (not entry.target or b"\0" in entry.target):
        raise errors.ArtifactError(f"target {entry.target!r} of {entry.path!r} is not one")
    if not 0 <= entry.size <= MAX_SIGNED:
        raise errors.ArtifactError(f"size {entry.size} of {entry.path!r}")
    if not 0 <= entry.mode <= 0o7777:
        raise errors.ArtifactError(f"mode {entry.mode:#o} of {entry.path!r}")
    if not (0 <= entry.uid <= MAX_OWNER and 0 <= entry.gid <= MAX_OWNER):
        raise errors.ArtifactError(f"owner {entry.uid}:{entry.gid} of {entry.path!r}")
    if not -MAX_SIGNED <= entry.mtime_ns <= MAX_SIGNED:
        raise errors.ArtifactError(f"time {entry.mtime_ns} of {entry.path!r}")
    if any("\0" in name for name in entry.xattrs):
        raise errors.ArtifactError(f"extended attributes of {entry.path!r}")
    end = 0
    for offset, length in entry.extents:
        if offset < end or length <= 0 or offset + length > entry.size:
            raise errors.ArtifactError(f"extents of {entry.path!r} are not in order")
        end = offset + length


def _check_path(path: bytes) -> None:
    parts = path.split(b"/")
    if b"" in parts or b"." in parts or b".." in parts or b"\0" in path:
        raise errors.ArtifactError(f"path {path!r} is not one")
