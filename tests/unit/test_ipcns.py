"""Work in another IPC namespace, and who lives there. Entering is tested in tests/system."""

import os

import pytest

from chrek import ipcns, procfs

PROCESSES = {
    # pid: IPC namespace, PID namespace, name
    1: (9, 1, "init"),
    50: (7, 1, "runtime"),
    51: (7, 60, "pause"),
    52: (7, 61, "main"),
    53: (7, 62, "sidecar"),
    54: (8, 63, "elsewhere"),
}


class Status:
    def __init__(self, name):
        self.name = name


@pytest.fixture
def node(monkeypatch):
    own = os.getpid()
    processes = {**PROCESSES, own: (9, 1, "agent")}

    def namespace(pid, kind):
        if pid not in processes:
            raise FileNotFoundError(pid)
        return processes[pid][{"ipc": 0, "pid": 1}[kind]]

    monkeypatch.setattr(procfs, "namespace", namespace)
    monkeypatch.setattr(procfs, "status", lambda pid: Status(processes[pid][2]))
    monkeypatch.setattr(os, "listdir", lambda _: ["self", "99", *map(str, processes)])


def test_only_other_containers_are_strangers(node):
    assert ipcns.strangers(52) == {53}
    assert ipcns.strangers(53) == {52}
    assert ipcns.strangers(54) == set()


def test_a_call_that_fails_is_an_error_with_its_subject():
    assert ipcns.check(3, "x") == 3
    with pytest.raises(OSError, match="x"):
        ipcns.check(-1, "x")


def test_a_process_that_is_gone():
    with pytest.raises(FileNotFoundError):
        ipcns.inside(2**30, lambda: None)
