"""What a dump is told of a tree, and refuses: of real processes."""

import contextlib
import os
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
