"""The outside view finds what changes of a process, and nothing where nothing does."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance import view

START = """
import ctypes, fcntl, mmap, os, resource, select, signal, socket, sys, threading, time
libc = ctypes.CDLL(None)
kept = []
file = os.open(FILE, os.O_RDWR)
one, two = os.pipe()
counter = os.eventfd(3)
memory = mmap.mmap(-1, 1 << 20)
address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
event = threading.Event()
print("done", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""
# What the process does -> a line that the comparison must have.
CHANGES = {
    "os.chdir('/usr')": r"/cwd: .* is '/usr' now",
    "os.umask(0o31)": r"/status/Umask: .* is '0031' now",
    "os.setsid()": r"/status/NSsid: ",
    "os.setpgid(0, 0)": r"/status/NSpgid: ",
    "open('/proc/self/comm', 'w').write('other')": r"/status/Name: .* is 'other' now",
    "signal.signal(signal.SIGUSR1, signal.SIG_IGN)": r"/status/SigIgn: ",
    "signal.signal(signal.SIGUSR1, print)": r"/status/SigCgt: ",
    "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])": r"/status/SigBlk: ",
    "libc.prctl(38, 1, 0, 0, 0)": r"/status/NoNewPrivs: '0' is '1' now",
    "threading.Thread(target=event.wait, daemon=True).start()": r"/threads: new \d+ ",
    "open('/proc/self/oom_score_adj', 'w').write('999')": r"/oom_score_adj: .*999",
    "libc.personality(0x0040000)": r"/personality: ",
    "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))": r"/limits: ",
    "libc.timer_create(1, None, ctypes.byref(ctypes.c_long()))": r"/timers: ",
    "os.lseek(file, 3, os.SEEK_SET)": r"/fds/\d+/pos: lost pos: 0",
    "os.set_inheritable(file, True)": r"/fds/\d+/flags: lost ",
    "fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)": r"/fds/\d+/flags: new ",
    "fcntl.flock(file, fcntl.LOCK_EX)": r"/fds/\d+/lock: ",
    "os.eventfd_write(counter, 1)": r"/fds/\d+/eventfd-count: new ",
    "kept.append(select.epoll())": r"/fds/\d+: None is .*eventpoll",
    "os.close(two)": r"/fds/\d+: .*pipe:#\d+.* is None now",
    "os.close(two); os.pipe()": r"/fds/\d+/target: 'pipe:#\d+' is 'pipe:#\d+' now",
    "os.unlink(FILE)": r"/fds/\d+/target: .*\(deleted\)' now",
    "libc.mprotect(address, 4096, 1)": r"/maps: new \S+ r--s ",
    "kept.append(mmap.mmap(file, 4096))": r"/maps: new \S+ rw-s /",
}


class Subject:
    """A process that does as it is told and is looked at."""

    def __init__(self, file: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"FILE = {str(file)!r}{START}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def does(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        self._answer()

    def view(self) -> view.Object:
        return view.process(Path(f"/proc/{self._process.pid}"), {})

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> None:
        assert self._process.stdout
        assert self._process.stdout.readline() == "done\n"


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[Subject]:
    file = tmp_path / "file"
    file.write_bytes(bytes(8192))
    made = Subject(file)
    made.does("pass")
    yield made
    made.stop()


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_is_found(subject: Subject, change: str) -> None:
    before = subject.view()
    subject.does(change)
    found = view.differences(before, subject.view())
    assert any(re.search(CHANGES[change], line) for line in found), found


def test_what_stays_is_equal(subject: Subject) -> None:
    before = subject.view()
    subject.does("pass")
    assert not view.differences(before, subject.view())


def test_processes_that_are_lost_or_new_are_found() -> None:
    found = view.differences({"5": {"a": 1}, "6": {}}, {"6": {}, "7": {}})
    assert found == ["/5: {'a': 1} is None now", "/7: None is {} now"]


def test_inode_numbers_mean_nothing_but_who_shares_one_does(subject: Subject) -> None:
    before = subject.view()
    subject.does("new = os.pipe(); os.dup2(new[0], one, False); os.dup2(new[1], two, False)")
    subject.does("os.close(new[0]); os.close(new[1])")
    assert not view.differences(before, subject.view())
