"""What a dump is told of a tree, and refuses: of real processes."""

import contextlib
import os
import stat
import subprocess
import sys

import pytest

from chrek import errors, preflight, procfs

PRELUDE = """
import ctypes, mmap, os, sys
LIBC = ctypes.CDLL(None, use_errno=True)
"""
CHILD = """
done, made = os.pipe()
if os.fork() == 0:
    LIBC.eventfd(1, 1)
    os.write(made, b".")
    sys.stdin.read()
    os._exit(0)
os.read(done, 1)
"""
WAIT = """
print("made", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_objects(monkeypatch):
    monkeypatch.setattr("chrek.ipc.has_own", lambda pid: False)
    monkeypatch.setattr("chrek.mqueue.descriptors", lambda pid: [])


@contextlib.contextmanager
def running(code):
    argv = [sys.executable, "-c", PRELUDE + code + WAIT]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout.readline() == "made\n"
        yield made.pid
        made.stdin.close()


def test_an_ordinary_process():
    with running("") as pid:
        assert preflight.look(pid) == preflight.Found()


def test_objects_of_the_namespace(monkeypatch):
    monkeypatch.setattr("chrek.ipc.has_own", lambda pid: True)
    monkeypatch.setattr("chrek.ipc.objects", lambda pid: [])
    monkeypatch.setattr("chrek.mqueue.descriptors", lambda pid: ["file[1f:2a]"])
    with running("") as pid:
        found = preflight.look(pid)
    assert found.ipc
    assert found.external == ("file[1f:2a]",)


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        # Mapped without pages of their own: none need be there.
        (
            "m = mmap.mmap(-1, 2 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x44000)",
            "HugetlbMemory",
            "memory in hugetlb pages",
        ),
        ("fd = os.memfd_create('x', 4)", "HugetlbMemory", "memory in hugetlb pages"),
        ("fd = LIBC.eventfd(1, 1)", "Unsupported", "EFD_SEMAPHORE"),
        ("fd = LIBC.syscall(323, 1)", "Unsupported", "a userfaultfd"),
        (
            CHILD,
            "Unsupported",
            "EFD_SEMAPHORE",
        ),
    ],
)
def test_what_cannot_be_captured(code, reason, words):
    with running(code) as pid:
        if "323" in code and not any("userfaultfd" in link for link in links(pid)):
            pytest.skip("optional: this kernel gives no userfaultfd to this user")
        with pytest.raises(errors.UnsupportedError, match=words) as caught:
            preflight.look(pid)
    assert caught.value.reason == reason
    assert "python" in caught.value.message


NVIDIA = 195
OPENED = {
    "nvidiactl": (NVIDIA, 255),
    "nvidia0": (NVIDIA, 0),
    "gpu of another name": (NVIDIA, 1),
    # Their major numbers are not the same on all nodes: here that of /dev/zero.
    "nvidia-uvm": (1, 5),
    "nvidia-uvm-tools": (1, 5),
    "nvidia-caps/nvidia-cap1": (1, 5),
    "gdrdrv": (1, 5),
}


@pytest.fixture
def device(tmp_path):
    def make(name, number):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        try:
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(*number))
        except PermissionError:
            pytest.skip("optional: this user may make no device files")
        return path

    return make


# O_PATH: nodes without a GPU have no driver that would open the rest.
OPEN = "fd = os.open({path!r}, os.O_PATH if {number}[0] != 1 else os.O_RDWR)"


@pytest.mark.parametrize("name", OPENED)
@pytest.mark.parametrize("unlinked", [False, True])
def test_a_gpus_file_is_open(device, name, unlinked):
    path = os.fspath(device(name, OPENED[name]))
    code = OPEN.format(path=path, number=OPENED[name])
    if unlinked:
        code += f"; os.unlink({path!r})"
    with running(code) as pid:
        program = procfs.status(pid).name
        with pytest.raises(errors.UnsupportedError) as caught:
            preflight.look(pid)
    shown = f"{path} (deleted)" if unlinked else path
    assert caught.value.message == (
        f"process {pid} ({program}) holds {shown} open, which cannot be captured"
    )
    assert caught.value.reason == "GpuFileOpen"
    assert "nvmlShutdown" in caught.value.hint
    assert "580" in caught.value.hint


MAP = """
fd = os.open({path!r}, os.O_RDWR)
m = mmap.mmap(fd, 4096, mmap.MAP_PRIVATE)
os.close(fd)
"""


def test_a_gpus_file_is_mapped(device):
    """As /dev/zero can be, which a node without a GPU has."""
    path = os.fspath(device("nvidia3", (1, 5)))
    # mmap keeps a descriptor of its own.
    code = MAP.format(path=path) + "os.closerange(3, 64)"
    with running(code) as pid:
        assert not any("nvidia3" in link for link in links(pid))
        with pytest.raises(errors.UnsupportedError, match=f"holds {path} mapped") as caught:
            preflight.look(pid)
    assert caught.value.reason == "GpuFileOpen"


def test_other_files_of_such_names_are_no_obstacle(device, tmp_path):
    """Models, libraries and the like, and device files of others."""
    (tmp_path / "nvidia").mkdir()
    for name in ("nvidia0", "nvidia/model"):
        (tmp_path / name).write_bytes(bytes(4096))
    paths = [tmp_path / "nvidia0", tmp_path / "nvidia/model", device("zero", (1, 5)), "/dev/zero"]
    code = "".join(
        f"{MAP.format(path=os.fspath(path))}\nn{n} = m, fd\n" for n, path in enumerate(paths)
    )
    code += f"f = open({os.fspath(paths[0])!r})"
    with running(code) as pid:
        assert preflight.look(pid) == preflight.Found()


def test_what_is_watched(tmp_path):
    (tmp_path / "file").touch()
    code = f"fd = LIBC.inotify_init(); LIBC.inotify_add_watch(fd, {os.fsencode(tmp_path)!r}, 2)"
    with running(code) as pid:
        found = preflight.look(pid)
    info = tmp_path.stat()
    ((device, inode),) = found.watched
    assert inode == info.st_ino
    assert device in {mount.device for mount in procfs.mounts(os.getpid())}


def test_paths_are_searched_on_overlays_alone(tmp_path):
    found = preflight.Found(frozenset({("0:99", 5), ("8:1", 7)}))
    elsewhere = procfs.parse_mountinfo("30 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    assert preflight.paths(found, os.getpid(), elsewhere) == []


def links(pid):
    return [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
