"""Checks of the directories that an agent writes to, made by the agent on its own node.

Each check takes the directory and answers with an outcome. What it makes to see whether that works
is gone when it returns. It may block for as long as a file system does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import shutil
import stat
import time
import uuid
from collections.abc import Callable

from chrek import procfs
from chrek import store as stores
from chrek.checks import report

PREFIX = ".preflight-"
"""Begins names that no artifact, journal or stage has."""
LEFT_SECONDS = 3600.0
"""What is older was left by an agent that was killed in the middle of its check."""
LOW_BYTES = 10 << 30
LOW_PERCENT = 5
GIBIBYTE = 1 << 30

NETWORK = frozenset(
    {"afs", "beegfs", "ceph", "cifs", "gfs2", "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "smb3"}
)
"""File systems that other nodes share."""
PERHAPS_NETWORK = ("9p", "fuse", "virtiofs")
"""Begin names of file systems whose files are wherever the other side has them."""
MEMORY = frozenset({"ramfs", "tmpfs"})

_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
_TEXT = b"chrek" * 1000
_MORE_ROOM = "make the volume larger, or delete checkpoints that are not used"
_SERVER = "see to the server of the volume, then delete the agent's pod: its new one mounts anew"
_LET_ROOT = (
    "let root of the nodes write there: an NFS export needs no_root_squash, or a directory that "
    "belongs to whom root becomes"
)
_STORE_HINTS = {
    errno.EROFS: "let the volume be mounted for writing: see its access modes and mount options",
    errno.ENOSPC: _MORE_ROOM,
    errno.EDQUOT: _MORE_ROOM,
    errno.EACCES: _LET_ROOT,
    errno.EPERM: _LET_ROOT,
    errno.EIO: _SERVER,
    errno.ENOTCONN: _SERVER,
    errno.ESTALE: _SERVER,
    errno.ETIMEDOUT: _SERVER,
}


def file_system(path: pathlib.Path) -> str:
    """Type of the file system that a directory is on, such as `ext4` or `nfs4`.

    The kernel names the mount of an open file; device numbers mean nothing on some file systems.

    Raises:
        OSError: the directory cannot be opened.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        info = pathlib.Path(f"/proc/self/fdinfo/{fd}").read_text()
    finally:
        os.close(fd)
    mount_id = next(int(line.split()[1]) for line in info.splitlines() if line.startswith("mnt_id"))
    mounts = procfs.mounts(os.getpid())
    return next((one.fs_type for one in mounts if one.mount_id == mount_id), "unknown")


def volume(base: pathlib.Path, node: str) -> report.Outcome:
    """The store's volume does what the store relies on, in a private directory below its base.

    Args:
        base: `storage.pvc.basePath`.
        node: tells apart what agents of several nodes make at the same time.
    """
    name = "store"
    folder = base / f"{PREFIX}{node}-{uuid.uuid4().hex[:8]}"
    steps: list[str] = []
    began = time.monotonic()
    try:
        _use(folder, steps.append)
        _remove_left(base, f"{PREFIX}{node}-")
        kind = file_system(base)
    except OSError as err:
        hint = _STORE_HINTS.get(err.errno or 0, "check the volume of storage.pvc")
        return report.failed(name, f"{steps[-1]}: {_why(err)}", hint)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    spent = 1000 * (time.monotonic() - began)
    text = f"{base} ({kind}): exclusive create, write, fsync, rename and read in {spent:.0f} ms"
    return report.ok(name, text)


def _use(folder: pathlib.Path, begin: Callable[[str], None]) -> None:
    """Do what the store does.

    Args:
        begin: told of each step before it is made.

    Raises:
        OSError: the step does not work.
    """
    made, renamed = folder / "made", folder / "renamed"
    begin(f"mkdir {folder}")
    folder.mkdir(mode=0o700)
    begin(f"exclusive create of {made}")
    fd = os.open(made, _NEW, 0o600)
    with os.fdopen(fd, "wb") as file:
        begin(f"write to {made}")
        file.write(_TEXT)
        file.flush()
        begin(f"fsync of {made}")
        os.fsync(file.fileno())
    begin(f"exclusive create of {made}, which is there already")
    with contextlib.suppress(FileExistsError):
        os.close(os.open(made, _NEW, 0o600))
        raise OSError(0, "it succeeded; of two agents both would believe that they were first")
    begin(f"rename of {made}")
    made.rename(renamed)
    begin(f"fsync of {folder}")
    stores.sync(folder)
    begin(f"read of {renamed}")
    if renamed.read_bytes() != _TEXT:
        raise OSError(0, "other bytes than were written")
    begin(f"removal of {folder}")
    renamed.unlink()
    folder.rmdir()


def _remove_left(base: pathlib.Path, prefix: str) -> None:
    limit = time.time() - LEFT_SECONDS
    for left in base.glob(f"{prefix}*"):
        with contextlib.suppress(FileNotFoundError):
            if left.lstat().st_mtime < limit:
                shutil.rmtree(left, ignore_errors=True)


def space(name: str, path: pathlib.Path, hint: str = _MORE_ROOM) -> report.Outcome:
    """A file system has room for a capture.

    Args:
        name: of the check.
        hint: how it gets more.
    """
    try:
        found = os.statvfs(path)
    except OSError as err:
        return report.failed(name, f"{path}: {_why(err)}", f"see whether {path} is mounted")
    total, free = found.f_blocks * found.f_frsize, found.f_bfree * found.f_frsize
    if not total:
        return report.ok(name, f"{path}: the file system does not say how much is free")
    text = f"{path}: {free / GIBIBYTE:.1f} of {total / GIBIBYTE:.1f} GiB free"
    if not free:
        return report.failed(name, text, hint)
    if found.f_files and not found.f_ffree:
        return report.failed(name, f"{path}: no inode of {found.f_files} is free", hint)
    if free < LOW_BYTES or 100 * free < LOW_PERCENT * total:
        return report.warning(name, text, hint)
    return report.ok(name, text)


def signal_path(
    path: pathlib.Path, *, owner: int = 0, kind: Callable[[pathlib.Path], str] = file_system
) -> report.Outcome:
    """The signal path is a directory of this node that only root can change.

    Whoever can write the journal decides what becomes of pods' restores; a network's file system
    would show every node the journals of all.
    """
    name = "signal-path"
    hint = "set storage.signalHostPath to a directory on a local disk of the nodes"
    try:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            return report.failed(name, f"{path} is no directory", f"remove it, or {hint}")
        _write(path)
        found = kind(path)
        open_to = _open_to(path, owner)
    except OSError as err:
        return report.failed(name, f"{path}: {_why(err)}", f"let root write there, or {hint}")
    text = f"{path} ({found})"
    if found in NETWORK:
        return report.failed(name, f"{text} is shared with other nodes", hint)
    if open_to:
        return report.failed(name, open_to, f"chown it to root and chmod it to 0700, or {hint}")
    if found.startswith(PERHAPS_NETWORK):
        return report.warning(name, f"{text} may be shared with other nodes", hint)
    return report.ok(name, f"{text}, writable by root alone")


def _open_to(path: pathlib.Path, owner: int) -> str:
    """Who else may change the directory or look into what is in it; empty when nobody may."""
    for one in (path, *path.iterdir()):
        status = one.lstat()
        # The kubelet makes the directory itself readable; what is in it is the agent's.
        forbidden = 0o022 if one == path else 0o077
        if not stat.S_ISDIR(status.st_mode):
            continue
        if status.st_uid != owner:
            return f"{one} belongs to user {status.st_uid}"
        if status.st_mode & forbidden:
            return f"{one} has mode {stat.S_IMODE(status.st_mode):04o}"
    return ""


def staging(
    path: pathlib.Path, *, kind: Callable[[pathlib.Path], str] = file_system
) -> report.Outcome:
    """Verified copies of images, which hold what workers had in memory, stay in memory."""
    name = "staging"
    hint = "mount an emptyDir with medium Memory there, as the chart does"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(path)
        found = kind(path)
    except OSError as err:
        return report.failed(name, f"{path}: {_why(err)}", hint)
    if found not in MEMORY:
        return report.failed(name, f"{path} is on {found}, and no tmpfs", hint)
    return report.ok(name, f"{path} ({found})")


def kubelet_root(path: pathlib.Path) -> report.Outcome:
    """The kubelet keeps pods' volumes there: workers' sockets are among them."""
    name = "kubelet-root"
    try:
        found = stat.S_ISDIR((path / "pods").stat().st_mode)
        why = "" if found else "no directory"
    except OSError as err:
        why = _why(err)
    if why:
        return report.failed(
            name, f"{path}/pods: {why}", "set agent.kubeletRoot to the kubelet's --root-dir"
        )
    return report.ok(name, str(path))


def _write(folder: pathlib.Path) -> None:
    """See that a directory can be written.

    Raises:
        OSError: it cannot.
    """
    path = folder / f"{PREFIX}write"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b"chrek")
    finally:
        os.close(fd)
        path.unlink()


def _why(err: OSError) -> str:
    """`EROFS: Read-only file system`."""
    return f"{errno.errorcode.get(err.errno or 0, '')}: {err.strerror}".removeprefix(": ")
