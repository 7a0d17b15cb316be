"""The directories of an agent: as they should be, and with each thing that can be wrong."""

import errno
import os
import pathlib
import shutil
import time

import pytest

from chrek import store
from chrek.checks import directories, report

OWN = os.getuid()


def test_a_volume(tmp_path):
    found = directories.volume(tmp_path, "n1")
    assert (found.name, found.status) == ("store", report.Status.OK)
    assert found.detail.startswith(f"{tmp_path} ({directories.file_system(tmp_path)}): exclusive")
    assert [*tmp_path.iterdir()] == []


def test_a_volume_that_is_not_there(tmp_path):
    found = directories.volume(tmp_path / "x", "n1")
    assert found.status is report.Status.FAILED
    assert found.detail.startswith(f"mkdir {tmp_path}/x/.preflight-n1-")
    assert found.detail.endswith(": ENOENT: No such file or directory")
    assert found.hint == "check the volume of storage.pvc"


def broken(monkeypatch, where, name, code):
    """Have a call of the kernel fail, as file systems do that no test can mount."""

    def fail(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(where, name, fail)


@pytest.mark.parametrize(
    ("where", "name", "code", "step", "text", "hint"),
    [
        (pathlib.Path, "mkdir", errno.EROFS, "mkdir ", "EROFS: Read-only file system", "access"),
        (pathlib.Path, "mkdir", errno.EACCES, "mkdir ", "EACCES: Permission den", "no_root_squash"),
        (pathlib.Path, "mkdir", errno.EDQUOT, "mkdir ", "EDQUOT: Disk quota exceeded", "larger"),
        (os, "fsync", errno.EIO, "fsync of ", "EIO: Input/output error", "the server of"),
        (pathlib.Path, "rename", errno.EINVAL, "rename of ", "EINVAL: Invalid", "storage.pvc"),
        (store, "sync", errno.ESTALE, "fsync of ", "ESTALE: Stale file handle", "mounts anew"),
        (pathlib.Path, "read_bytes", errno.EIO, "read of ", "EIO: Input/output error", "server"),
        (pathlib.Path, "rmdir", errno.ENOTEMPTY, "removal of ", "ENOTEMPTY: Dir", "storage.pvc"),
    ],
)
def test_each_step_on_a_volume_can_fail(tmp_path, where, name, code, step, text, hint):
    with pytest.MonkeyPatch.context() as patch:
        broken(patch, where, name, code)
        found = directories.volume(tmp_path, "n1")
    assert found.status is report.Status.FAILED
    assert found.detail.startswith(f"{step}{tmp_path}/.preflight-n1-")
    assert text in found.detail
    assert hint in found.hint
    assert [*tmp_path.iterdir()] == [] or name == "rmdir"


def test_a_volume_that_makes_a_file_twice(tmp_path, monkeypatch):
    """As a file system does that knows no O_EXCL: two agents would take the same name."""
    real = os.open
    monkeypatch.setattr(os, "open", lambda p, flags, *a, **k: real(p, flags & ~os.O_EXCL, *a, **k))
    found = directories.volume(tmp_path, "n1")
    assert found.status is report.Status.FAILED
    assert "which is there already: it succeeded; of two agents both" in found.detail


def test_a_volume_that_returns_other_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(pathlib.Path, "read_bytes", lambda _: b"chrek")
    found = directories.volume(tmp_path, "n1")
    assert found.status is report.Status.FAILED
    assert found.detail.endswith("renamed: other bytes than were written")


def test_what_a_killed_agent_left_goes(tmp_path):
    """Of this node and not of now: another agent may be in the middle of its check."""
    for name in ("n1-old", "n1-new", "n10-old", "n2-old"):
        (tmp_path / f".preflight-{name}").mkdir()
        (tmp_path / f".preflight-{name}/made").touch()
        if name.endswith("old"):
            before = time.time() - directories.LEFT_SECONDS - 60
            os.utime(tmp_path / f".preflight-{name}", (before, before))
    assert directories.volume(tmp_path, "n1").status is report.Status.OK
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".preflight-n1-new", ".preflight-n10-old", ".preflight-n2-old"]


class Room:
    """An answer of statvfs, in blocks of 1 MiB."""

    f_frsize = 1 << 20

    def __init__(self, total, free, *, files=100, free_files=50):
        self.f_blocks, self.f_bfree = total, free
        self.f_files, self.f_ffree = files, free_files


GIB = 1024


@pytest.mark.parametrize(
    ("room", "status", "text"),
    [
        (Room(100 * GIB, 50 * GIB), report.Status.OK, "50.0 of 100.0 GiB free"),
        (Room(100 * GIB, 10 * GIB), report.Status.OK, "10.0 of 100.0 GiB free"),
        (Room(100 * GIB, 10 * GIB - 1), report.Status.WARNING, "10.0 of 100.0 GiB free"),
        (Room(400 * GIB, 19 * GIB), report.Status.WARNING, "19.0 of 400.0 GiB free"),
        (Room(100 * GIB, 0), report.Status.FAILED, "0.0 of 100.0 GiB free"),
        (Room(100 * GIB, 50 * GIB, free_files=0), report.Status.FAILED, "no inode of 100 is free"),
        # Some file systems have no table of inodes, some say nothing at all.
        (Room(100 * GIB, 50 * GIB, files=0, free_files=0), report.Status.OK, "50.0 of"),
        (Room(0, 0), report.Status.OK, "does not say how much is free"),
    ],
)
def test_space(tmp_path, monkeypatch, room, status, text):
    monkeypatch.setattr(os, "statvfs", lambda _: room)
    found = directories.space("cache-space", tmp_path, "make room")
    assert (found.name, found.status) == ("cache-space", status)
    assert found.detail.startswith(f"{tmp_path}: ")
    assert text in found.detail
    assert found.hint == ("" if status is report.Status.OK else "make room")


def test_space_of_what_is_not_there(tmp_path):
    found = directories.space("store-space", tmp_path / "x")
    assert found.status is report.Status.FAILED
    assert found.detail == f"{tmp_path}/x: ENOENT: No such file or directory"


def local(_):
    return "ext4"


@pytest.fixture
def signals(tmp_path):
    path = tmp_path / "signals"
    path.mkdir(mode=0o755)
    (path / "journal").mkdir(mode=0o700)
    (path / "file").touch(mode=0o644)
    return path


def signal_path(path, *, kind=local, owner=OWN):
    found = directories.signal_path(path, owner=owner, kind=kind)
    assert found.name == "signal-path"
    return found


def test_a_signal_path(signals):
    found = signal_path(signals)
    assert (found.status, found.detail) == (
        *(report.Status.OK, f"{signals} (ext4), writable by root alone"),
    )
    assert sorted(path.name for path in signals.iterdir()) == ["file", "journal"]


@pytest.mark.parametrize("kind", ["nfs4", "nfs", "cifs", "ceph", "lustre"])
def test_a_signal_path_that_nodes_share(signals, kind):
    found = signal_path(signals, kind=lambda _: kind)
    assert (found.status, found.detail) == (
        *(report.Status.FAILED, f"{signals} ({kind}) is shared with other nodes"),
    )
    assert "storage.signalHostPath" in found.hint


@pytest.mark.parametrize("kind", ["fuse", "fuse.sshfs", "fuseblk", "9p", "virtiofs"])
def test_a_signal_path_that_nodes_may_share(signals, kind):
    found = signal_path(signals, kind=lambda _: kind)
    assert found.status is report.Status.WARNING
    assert found.detail == f"{signals} ({kind}) may be shared with other nodes"


@pytest.mark.parametrize("kind", ["overlay", "xfs", "btrfs", "tmpfs", "unknown"])
def test_a_signal_path_on_other_file_systems(signals, kind):
    assert signal_path(signals, kind=lambda _: kind).status is report.Status.OK


def test_a_signal_path_that_is_a_file(tmp_path):
    (tmp_path / "x").touch()
    found = signal_path(tmp_path / "x")
    assert (found.status, found.detail) == (
        *(report.Status.FAILED, f"{tmp_path}/x is no directory"),
    )
    assert found.hint.startswith("remove it, or set storage.signalHostPath")


def test_a_signal_path_that_is_not_there(tmp_path):
    found = signal_path(tmp_path / "x")
    assert (found.status, found.detail) == (
        *(report.Status.FAILED, f"{tmp_path}/x: ENOENT: No such file or directory"),
    )


def test_a_signal_path_that_cannot_be_written(signals, monkeypatch):
    broken(monkeypatch, os, "write", errno.EROFS)
    found = signal_path(signals)
    assert (found.status, found.detail) == (
        *(report.Status.FAILED, f"{signals}: EROFS: Read-only file system"),
    )


@pytest.mark.parametrize(
    ("name", "mode"), [("", 0o775), ("", 0o757), ("journal", 0o750), ("journal", 0o701)]
)
def test_a_signal_path_that_is_open_to_others(signals, name, mode):
    (signals / name).chmod(mode)
    found = signal_path(signals)
    assert found.status is report.Status.FAILED
    assert found.detail == f"{(signals / name)} has mode {mode:04o}"
    assert "0700" in found.hint


def test_a_signal_path_of_somebody_else(signals):
    found = signal_path(signals, owner=OWN + 1)
    assert found.status is report.Status.FAILED
    assert found.detail == f"{signals} belongs to user {OWN}"


def test_staging(tmp_path):
    found = directories.staging(tmp_path / "run/chrek", kind=lambda _: "tmpfs")
    assert (found.name, found.status) == ("staging", report.Status.OK)
    assert [*(tmp_path / "run/chrek").iterdir()] == []


def test_staging_on_a_disk(tmp_path):
    found = directories.staging(tmp_path, kind=local)
    assert found.status is report.Status.FAILED
    assert found.detail == f"{tmp_path} is on ext4, and no tmpfs"


def test_staging_that_is_full(tmp_path, monkeypatch):
    broken(monkeypatch, os, "write", errno.ENOSPC)
    found = directories.staging(tmp_path, kind=lambda _: "tmpfs")
    assert (found.status, found.detail) == (
        *(report.Status.FAILED, f"{tmp_path}: ENOSPC: No space left on device"),
    )


def test_the_kubelets_root(tmp_path):
    (tmp_path / "pods").mkdir()
    found = directories.kubelet_root(tmp_path)
    assert (found.name, found.status, found.detail) == (
        *("kubelet-root", report.Status.OK, str(tmp_path)),
    )


def test_the_kubelets_root_is_elsewhere(tmp_path):
    found = directories.kubelet_root(tmp_path)
    assert (found.status, found.detail) == (
        *(report.Status.FAILED, f"{tmp_path}/pods: ENOENT: No such file or directory"),
    )
    assert found.hint == "set agent.kubeletRoot to the kubelet's --root-dir"
    (tmp_path / "pods").touch()
    assert directories.kubelet_root(tmp_path).detail == f"{tmp_path}/pods: no directory"


def test_the_file_system_is_named_by_its_mount(tmp_path):
    assert directories.file_system(pathlib.Path("/proc/self")) == "proc"
    assert directories.file_system(pathlib.Path("/sys")) == "sysfs"
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError):
        directories.file_system(tmp_path)
