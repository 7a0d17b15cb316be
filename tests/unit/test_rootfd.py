"""No path leads out of a directory that was opened, however it is written."""

import errno
import os
import pathlib

import pytest

from chrek import rootfd


@pytest.fixture
def root(tmp_path):
    (tmp_path / "outside").write_text("outside")
    inside = tmp_path / "root"
    (inside / "a/b").mkdir(parents=True)
    (inside / "a/file").write_text("inside")
    (inside / "outside").write_text("the container's own")
    (inside / "link").symlink_to("a/file")
    (inside / "way").symlink_to("a")
    (inside / "out").symlink_to("../outside")
    (inside / "absolute").symlink_to("/outside")
    (inside / "loop").symlink_to("loop")
    (inside / "fd").symlink_to(f"/proc/self/fd/{os.open(tmp_path, os.O_PATH)}/outside")
    fd = os.open(inside, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(int(os.readlink(inside / "fd").split("/")[4]))
    os.close(fd)


def read(root, path, **options):
    fd = rootfd.open_below(root, path, os.O_RDONLY, **options)
    with os.fdopen(fd) as file:
        return file.read()


@pytest.mark.parametrize(
    "path", ["a/file", "/a/file", "//a//file", b"a/file", "a/b/../file", "../../a/file", "./a/file"]
)
def test_ordinary_paths(root, path):
    assert read(root, path) == "inside"


def test_the_parent_of_the_root_is_the_root(root):
    assert read(root, "../outside") == read(root, "/../../outside") == "the container's own"


@pytest.mark.parametrize("path", ["link", "way/file", "out", "absolute", "loop", "fd", "a/../link"])
def test_links_are_refused(root, path):
    with pytest.raises(OSError, match="Too many levels") as caught:
        read(root, path)
    assert caught.value.errno == errno.ELOOP
    assert caught.value.filename == path


def test_links_that_are_wanted_stay_inside(root):
    resolve = rootfd.RESOLVE_IN_ROOT
    assert read(root, "link", resolve=resolve) == read(root, "way/file", resolve=resolve)
    for path in ("out", "absolute"):
        assert read(root, path, resolve=resolve) == "the container's own"


def test_another_mount_is_refused():
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        for path in ("proc", "proc/self/status"):
            with pytest.raises(OSError, match="Invalid cross-device link") as caught:
                rootfd.open_below(fd, path, os.O_RDONLY)
            assert caught.value.errno == errno.EXDEV
    finally:
        os.close(fd)


def test_a_mount_is_the_one_that_mountinfo_names():
    from chrek import procfs

    proc = next(m for m in procfs.mounts(os.getpid()) if m.mount_point == "/proc")
    root = rootfd.process_root(os.getpid())
    try:
        fd = rootfd.mount(root, "/proc", proc.mount_id)
        assert os.path.samestat(os.fstat(fd), pathlib.Path("/proc").stat())
        os.close(fd)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match=f"instead of {proc.mount_id + 1}") as caught:
            rootfd.mount(root, "/proc", proc.mount_id + 1)
        assert caught.value.errno == errno.ESTALE
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(root)


def test_creation_never_follows_a_link(root, tmp_path):
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    with pytest.raises(OSError, match="File exists"):
        rootfd.open_below(root, "out", flags, mode=0o600)
    os.close(rootfd.open_below(root, "a/new", flags, mode=0o640))
    assert (tmp_path / "root/a/new").stat().st_mode & 0o777 == 0o640 & ~_umask()
    assert (tmp_path / "outside").read_text() == "outside"


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_descriptors_are_not_inherited(root):
    fd = rootfd.open_below(root, "a", os.O_RDONLY)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_descriptor_of_another_process(tmp_path):
    (tmp_path / "file").write_text("inside")
    with open(tmp_path / "file") as file:
        pidfd = os.pidfd_open(os.getpid())
        copy = rootfd.descriptor(pidfd, file.fileno())
        assert os.read(copy, 100) == b"inside"
        assert not os.get_inheritable(copy)
        os.close(copy)
        with pytest.raises(OSError, match="Bad file descriptor"):
            rootfd.descriptor(pidfd, 9999)
        os.close(pidfd)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    yield fd, path
    os.close(fd)


def test_a_file_is_put_whole_in_place_of_what_is_there(folder):
    fd, path = folder
    outside = path.parent / "outside"
    outside.write_text("kept")
    (path / "file").symlink_to(outside)
    for data in (b"first", b"second"):
        rootfd.put(fd, "file", data, mode=0o640, owner=(os.getuid(), os.getgid()))
        assert (path / "file").read_bytes() == data
        assert (path / "file").stat().st_mode & 0o7777 == 0o640
        assert os.listdir(path) == ["file"], "nothing half is left"
    assert outside.read_text() == "kept"


def test_files_are_removed_that_are_there(folder):
    fd, path = folder
    for name in ("one", "two", "kept"):
        (path / name).touch()
    for _ in range(2):
        rootfd.remove(fd, "one", "two", "never")
        assert os.listdir(path) == ["kept"]
