"""The NFS-like volume does what NFS does to its users."""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib
import time

import pytest

from store import places

pytestmark = [pytest.mark.system, pytest.mark.needs("nfs")]
EXCHANGE, NOREPLACE = 2, 1


@pytest.fixture
def one(place: places.NfsLike) -> pathlib.Path:
    return place.base("a")


@pytest.fixture
def other(place: places.NfsLike) -> pathlib.Path:
    return place.base("b")


def error(function, *arguments, **options) -> int | None:
    try:
        function(*arguments, **options)
    except OSError as err:
        return err.errno
    return None


def test_nothing_is_roots(one: pathlib.Path) -> None:
    path = one / "file"
    path.write_bytes(b"x")
    assert path.stat().st_uid == path.stat().st_gid == places.NOBODY
    assert error(os.chown, path, 0, 0) == errno.EPERM
    assert error(os.chown, path, 1000, 1000) == errno.EPERM
    assert error(os.mknod, one / "zero", 0o20666, os.makedev(1, 5)) == errno.EPERM


def test_what_was_looked_up_is_believed(one: pathlib.Path, other: pathlib.Path) -> None:
    assert os.listdir(other) == []
    assert not (other / "asked").exists()
    (one / "asked").write_bytes(b"x")
    (one / "new").write_bytes(b"x")
    assert os.listdir(other) == []
    assert not (other / "asked").exists()
    assert (other / "new").read_bytes() == b"x", "nobody has asked for it"
    assert sorted(os.listdir(one)) == ["asked", "new"]
    time.sleep(places.DELAY_SECONDS + 0.1)
    assert sorted(os.listdir(other)) == ["asked", "new"]
    assert (other / "asked").read_bytes() == b"x"


def test_lag(place: places.NfsLike, one: pathlib.Path, other: pathlib.Path) -> None:
    with place.trouble("lag"):
        (one / "file").write_bytes(b"x")
        (one / "directory").mkdir()
        (one / "file").rename(one / "renamed")
        assert sorted(os.listdir(one)) == ["directory", "renamed"]
        assert os.listdir(other) == []
        assert not (other / "renamed").exists()
        place.settle()
        assert sorted(os.listdir(other)) == ["directory", "renamed"]
        assert (other / "renamed").read_bytes() == b"x"


def test_a_file_that_another_client_removed_is_stale(
    one: pathlib.Path, other: pathlib.Path
) -> None:
    (one / "file").write_bytes(b"x")
    with (other / "file").open("rb", buffering=0) as file:
        (one / "file").unlink()
        assert error(file.read) == errno.ESTALE
    assert not (one / "file").exists()


def test_a_file_that_is_open_here_is_renamed(one: pathlib.Path, other: pathlib.Path) -> None:
    (one / "directory").mkdir()
    path = one / "directory" / "file"
    path.write_bytes(b"x")
    with path.open("rb", buffering=0) as file:
        path.unlink()
        (hidden,) = os.listdir(path.parent)
        assert hidden.startswith(".nfs")
        assert error(os.unlink, path.parent / hidden) == errno.EBUSY
        assert error(os.rmdir, path.parent) == errno.ENOTEMPTY
        assert (other / "directory" / hidden).read_bytes() == b"x"
        assert file.read() == b"x"
        assert os.fstat(file.fileno()).st_size == 1
    os.rmdir(path.parent)


def test_a_directory_that_another_client_removed_is_stale(
    one: pathlib.Path, other: pathlib.Path
) -> None:
    (one / "directory").mkdir()
    fd = os.open(other / "directory", os.O_RDONLY)
    try:
        (one / "directory").rmdir()
        assert error(os.mkdir, "new", dir_fd=fd) == errno.ESTALE
        assert error(os.listdir, fd) == errno.ESTALE
    finally:
        os.close(fd)
    assert error(os.mkdir, other / "directory" / "new") == errno.ENOENT


def test_renames_have_no_flags(one: pathlib.Path) -> None:
    for name in ("a", "b"):
        (one / name).write_text(name)
    libc = ctypes.CDLL(None, use_errno=True)
    for target, flags in (("b", EXCHANGE), ("c", NOREPLACE)):
        paths = [os.fsencode(one / name) for name in ("a", target)]
        assert libc.renameat2(-100, paths[0], -100, paths[1], flags) == -1
        assert ctypes.get_errno() == errno.EINVAL
    (one / "a").rename(one / "b")
    assert (one / "b").read_text() == "a"


def test_a_directory_cannot_be_synced(one: pathlib.Path) -> None:
    fd = os.open(one, os.O_RDONLY)
    assert error(os.fsync, fd) == errno.EINVAL
    os.close(fd)


def test_times_are_kept(one: pathlib.Path) -> None:
    path = one / "file"
    path.touch()
    assert abs(path.stat().st_mtime - time.time()) < 5
    os.utime(path, (1, 2))
    assert (path.stat().st_atime, path.stat().st_mtime) == (1, 2)


def test_troubles_come_and_go(place: places.NfsLike, one: pathlib.Path) -> None:
    path = one / "file"
    path.write_bytes(b"x")
    with place.trouble("read-only"):
        assert error(path.write_bytes, b"y") == errno.EROFS
        assert error(path.unlink) == errno.EROFS
        assert path.read_bytes() == b"x"
    with place.trouble("gone"):
        assert error(path.read_bytes) == errno.ESTALE
        assert error(os.listdir, one) == errno.ESTALE
    with place.trouble("slow"):
        begin = time.monotonic()
        path.write_bytes(b"y")
        assert time.monotonic() - begin > 0.02
    with place.trouble("full"):
        assert error(path.write_bytes, bytes(100_000)) == errno.ENOSPC
    path.write_bytes(b"z")
    assert path.read_bytes() == b"z"
