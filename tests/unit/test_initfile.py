"""chrek-init's file in a volume that belongs to a pod."""

import os

import pytest

from chrek import errors, initfile, procfs


@pytest.fixture
def volume(tmp_path):
    path = tmp_path / "volume"
    path.mkdir()
    (path / "chrek-init").write_bytes(b"old program")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield path, fd
    os.close(fd)


def test_the_file_is_read(volume):
    assert initfile.read(volume[1]) == b"old program"


def test_another_version_is_replaced_and_the_running_one_kept(volume):
    path, fd = volume
    with open(path / "chrek-init", "rb") as running:
        assert initfile.put(fd, b"captured program")
        assert running.read() == b"old program"
    assert (path / "chrek-init").read_bytes() == b"captured program"
    assert (path / "chrek-init").stat().st_mode & 0o7777 == 0o755
    assert os.listdir(path) == ["chrek-init"]
    inode = (path / "chrek-init").stat().st_ino
    assert not initfile.put(fd, b"captured program")
    assert (path / "chrek-init").stat().st_ino == inode


def link(path):
    path.unlink()
    path.symlink_to("/etc/passwd")


ODD = {
    "a link": (link, "Too many levels"),
    "missing": (lambda path: path.unlink(), "No such file"),
    "empty": (lambda path: path.write_bytes(b""), "0 bytes cannot be it"),
    "huge": (lambda path: os.truncate(path, 2 << 20), "bytes cannot be it"),
    "a fifo": (lambda path: (path.unlink(), os.mkfifo(path)), "0 bytes cannot be it"),
}


@pytest.mark.parametrize(("plant", "message"), ODD.values(), ids=list(ODD))
def test_what_cannot_be_the_program(volume, plant, message):
    path, fd = volume
    plant(path / "chrek-init")
    with pytest.raises(errors.UnsupportedError, match=message):
        initfile.read(fd)


def test_a_directory_in_its_place(volume):
    path, fd = volume
    (path / "chrek-init").unlink()
    (path / "chrek-init").mkdir()
    with pytest.raises(errors.UnsupportedError, match="/chrek/chrek-init: Is a directory"):
        initfile.read(fd)


def test_a_container_without_the_volume():
    mounts = procfs.mounts(os.getpid())
    with (
        pytest.raises(errors.UnsupportedError, match="no volume at /chrek"),
        initfile.directory(-1, mounts),
    ):
        pass
