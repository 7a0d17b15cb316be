"""The directories of a process's cgroups, on version 1, version 2 and both."""

import os

import pytest

from chrek import cgroups, procfs

CASES = {
    "v2": ("0::/kubepods/pod1/c\n", ["kubepods/pod1/c"]),
    "v1": (
        "4:cpu,cpuacct:/kubepods/pod1/c\n3:memory:/kubepods/pod1/c\n1:name=systemd:/kubepods/x\n",
        ["cpu,cpuacct/kubepods/pod1/c", "memory/kubepods/pod1/c", "systemd/kubepods/x"],
    ),
    "hybrid": (
        "3:memory:/kubepods/pod1/c\n0::/kubepods/pod1/c\n",
        ["memory/kubepods/pod1/c", "unified/kubepods/pod1/c"],
    ),
    "another namespace": ("0::/../../pod1/c\n", ["kubepods/pod1/c"]),
    "the root": ("0::/\n3:memory:/\n", []),
    "not mounted here": ("0::/gone\n3:rdma:/gone/../..\n", []),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=list(CASES))
def test_directories(tmp_path, monkeypatch, text, expected):
    root = tmp_path / "cgroup"
    for path in expected:
        (root / path).mkdir(parents=True)
        (root / path / "cgroup.procs").touch()
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text(text)
    monkeypatch.setattr(procfs, "PROC", tmp_path / "proc")
    assert cgroups.directories(7, root) == [root / path for path in expected]


def test_a_path_never_leads_out_of_the_root(tmp_path, monkeypatch):
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/cgroup.procs").touch()
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text("0::/../outside\n")
    monkeypatch.setattr(procfs, "PROC", tmp_path / "proc")
    assert cgroups.directories(7, tmp_path / "cgroup") == []


def test_descriptors_are_closed_again(tmp_path, monkeypatch):
    (tmp_path / "pod").mkdir()
    (tmp_path / "pod/cgroup.procs").touch()
    monkeypatch.setattr(cgroups, "directories", lambda pid: [tmp_path / "pod"])
    with cgroups.opened(os.getpid()) as fds:
        (fd,) = fds
        os.write(fd, b"0\n")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert (tmp_path / "pod/cgroup.procs").read_text() == "0\n"
