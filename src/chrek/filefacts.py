"""Facts of files that an artifact does not hold: of the image, of volumes, of mounted Secrets.

Each is opened below a directory descriptor of the container, never by a path of this process, and
read within bounds: the container decides what is in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Iterable, Iterator, Sequence

from chrek import compatibility, errors, names, procfs, rootfd

SAMPLE_BYTES = 64 << 10
SAMPLES = 16
"""Of a file larger than all of them together, that many pieces are read, evenly spaced."""
MOST_DIGESTED = 64
"""Files of a capture whose content is looked at; of more the size counts."""
MOST_MOUNTED_BYTES = 4 << 20
MOST_MOUNTED_FILES = 1024
"""Of one mounted Secret or ConfigMap; the API server takes 1 MiB each."""

_IN_CONTAINER = rootfd.RESOLVE_IN_ROOT | rootfd.RESOLVE_NO_MAGICLINKS
_MEMORY = frozenset({"tmpfs", "ramfs", "hugetlbfs"})
_KERNEL = frozenset({"proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts", "devtmpfs"})
_MAPPED = re.compile(rb"^\S+ \S+ \S+ [0-9a-f:]+ [1-9]\d* +(/.*)$", re.MULTILINE)


def kind(mount: procfs.Mount) -> str:
    """What a mount is of, whatever file system a node or a StorageClass has."""
    if mount.fs_type in _MEMORY:
        return "memory"
    return mount.fs_type if mount.fs_type in _KERNEL else "disk"


def digest(data: bytes, salt: str) -> str:
    """Of a value that must not be told."""
    return hashlib.blake2b(data, key=salt.encode(), digest_size=16).hexdigest()


def of_tree(
    root_pid: int,
    root: int,
    mounts: Sequence[procfs.Mount],
    origin: compatibility.Origin,
    salt: str,
    *,
    upper: int,
    captured: Sequence[str],
) -> tuple[list[compatibility.File], list[compatibility.File]]:
    """What a tree has open or mapped of the image, and of volumes that are not captured.

    Files that it only appends to are left out, as CRIU does it: they grow.
    """
    image: list[compatibility.File] = []
    volumes: list[compatibility.File] = []
    tops = {m.mount_point: m for m in mounts}
    digested = 0
    for path, writes in sorted(_used(root_pid).items())[: compatibility.MOST_FILES]:
        mount = _mount_of(path, tops)
        if mount is None or mount.mount_point in captured or path in names.POD_FILES:
            continue
        of = origin.volumes.get(mount.mount_point, "node")
        if mount.mount_point == "/":
            if not _exists(upper, path) and (found := _file(root, path)) is not None:
                image.append(found)
        elif (
            kind(mount) in _KERNEL
            or _below(path, names.MOUNT_PATH)
            or path.startswith("/dev/")
            or of not in ("node", "shared")
            or (kind(mount) == "memory" and mount.mount_point not in origin.volumes)
        ):
            continue
        else:
            sampled = of == "node" and digested < MOST_DIGESTED and not writes
            digested += sampled
            found = _file(root, path, salt if sampled else "", timed=of == "shared" and not writes)
            if found is not None:
                volumes.append(found)
    return image, volumes


def again(root: int, before: Iterable[compatibility.File], salt: str) -> list[compatibility.File]:
    """The same files in another container, those that are there.

    Raises:
        ArtifactError: more of them are to be read than a capture asks for.
    """
    before = [*before]
    if sum(bool(file.digest) for file in before) > MOST_DIGESTED:
        raise errors.ArtifactError(f"digests of more than {MOST_DIGESTED} files on volumes")
    found = []
    for file in before:
        timed = file.mtimeSeconds is not None
        here = _file(root, file.path, salt if file.digest else "", timed=timed)
        if here is not None:
            found.append(here)
    return found


def of_mounts(
    root: int, mounts: Sequence[procfs.Mount], origin: compatibility.Origin, salt: str
) -> Iterator[tuple[str, str, str]]:
    """(`secret` or `configMap`, path, digest) of every file of a mounted Secret or ConfigMap."""
    ids = {m.mount_point: m.mount_id for m in mounts}
    for point, of in sorted(origin.volumes.items()):
        if of not in ("secret", "configMap") or point not in ids:
            continue
        skipped = set(origin.changing.get(point, ()))
        for name, data in _contents(root, point):
            if name not in skipped:
                yield of, posixpath.join(point, name) if name else point, digest(data, salt)


def _contents(root: int, point: str) -> Iterator[tuple[str, bytes]]:
    """(path below the mount point, content) of what the kubelet shows there now."""
    budget = MOST_MOUNTED_BYTES
    for number, name in enumerate(_names(root, point)):
        if number >= MOST_MOUNTED_FILES or budget <= 0:
            return
        with contextlib.suppress(OSError):
            fd = _regular(root, posixpath.join(point, name) if name else point)
            try:
                data = os.pread(fd, budget, 0)
            finally:
                os.close(fd)
            budget -= len(data)
            yield name, data


def _names(root: int, point: str) -> list[str]:
    """Files of a volume that the kubelet writes: links to those in its newest directory."""
    try:
        top = rootfd.open_below(root, point, os.O_RDONLY | os.O_NONBLOCK, resolve=_IN_CONTAINER)
    except OSError:
        return []
    try:
        if not stat.S_ISDIR(os.fstat(top).st_mode):
            return [""]
        found = []
        for name in sorted(os.listdir(top)):
            if not name.startswith(".."):
                found += _walk(top, name, depth=8)
        return found
    finally:
        os.close(top)


def _walk(top: int, name: str, *, depth: int) -> list[str]:
    try:
        fd = rootfd.open_below(
            top, name, os.O_RDONLY | os.O_DIRECTORY, resolve=_IN_CONTAINER | rootfd.RESOLVE_NO_XDEV
        )
    except NotADirectoryError:
        return [name]
    except OSError:
        return []
    try:
        inner = sorted(os.listdir(fd))[:MOST_MOUNTED_FILES] if depth else []
    finally:
        os.close(fd)
    return [path for one in inner for path in _walk(top, f"{name}/{one}", depth=depth - 1)]


def _used(root_pid: int) -> dict[str, bool]:
    """Path -> whether it is open for writing, of all files that a tree holds."""
    found: dict[str, bool] = {}
    for pid in procfs.tree(root_pid):
        directory = procfs.PROC / str(pid)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for match in _MAPPED.finditer((directory / "maps").read_bytes()):
                name = os.fsdecode(match[1].replace(rb"\012", b"\n"))
                if not name.endswith(" (deleted)"):
                    found.setdefault(name, False)
            for number in os.listdir(directory / "fd"):
                with contextlib.suppress(FileNotFoundError):
                    name = os.readlink(directory / "fd" / number)
                    if not name.startswith("/") or name.endswith(" (deleted)"):
                        continue
                    flags = _flags((directory / "fdinfo" / number).read_text())
                    writes = flags & os.O_ACCMODE != os.O_RDONLY
                    if flags & os.O_APPEND and flags & os.O_ACCMODE == os.O_WRONLY:
                        continue
                    found[name] = found.get(name, False) or writes
    return found


def _flags(text: str) -> int:
    return next(int(line[6:], 8) for line in text.splitlines() if line.startswith("flags:"))


def _mount_of(path: str, tops: dict[str, procfs.Mount]) -> procfs.Mount | None:
    """The mount that a path leads to: the last one at the longest mount point above it."""
    point = path
    while point not in tops:
        if point == "/":
            return None
        point = posixpath.dirname(point)
    return tops[point]


def _below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")


def _exists(directory: int, path: str) -> bool:
    try:
        os.close(rootfd.open_below(directory, path, os.O_PATH))
    except OSError:
        return False
    return True


def _regular(root: int, path: str) -> int:
    """Descriptor of a regular file in a container.

    Raises:
        OSError: there is none.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    fd = rootfd.open_below(root, path, os.O_PATH, resolve=_IN_CONTAINER)
    try:
        # Looked at before it is opened: opening a device or a pipe may do something.
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(22, "no regular file", path)
    finally:
        os.close(fd)
    opened = rootfd.open_below(root, path, flags, resolve=_IN_CONTAINER)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(22, "no regular file", path)
    return opened


def _file(root: int, path: str, salt: str = "", *, timed: bool = True) -> compatibility.File | None:
    try:
        if not salt:
            fd = rootfd.open_below(root, path, os.O_PATH, resolve=_IN_CONTAINER)
        else:
            fd = _regular(root, path)
    except OSError:
        return None
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            return None
        return compatibility.File(
            path=path,
            size=about.st_size,
            mtimeSeconds=int(about.st_mtime) if timed and not salt else None,
            digest=_sample(fd, about.st_size, salt) if salt else "",
        )
    except OSError:
        return None
    finally:
        os.close(fd)


def _sample(fd: int, size: int, salt: str) -> str:
    """Digest of a small file, of evenly spaced pieces of a large one, first and last included."""
    if size <= SAMPLES * SAMPLE_BYTES:
        return digest(os.pread(fd, SAMPLES * SAMPLE_BYTES, 0), salt)
    step = (size - SAMPLE_BYTES) // (SAMPLES - 1)
    pieces = (os.pread(fd, SAMPLE_BYTES, number * step) for number in range(SAMPLES))
    return digest(b"".join(pieces), salt)
