"""What the kernel and container runtimes write, as recorded from real nodes."""

import os
import pathlib
import signal
import subprocess

import pytest

from chrek import procfs

UID = "3f1c9c0e-8d0a-4a55-9a39-6f2d1c7f0a11"
UID_ = UID.replace("-", "_")
CID = "0123456789abcdef" * 4

CGROUPS = {
    "v1 cgroupfs": (
        f"12:pids:/kubepods/burstable/pod{UID}/{CID}\n"
        f"4:cpu,cpuacct:/kubepods/burstable/pod{UID}/{CID}\n"
        f"1:name=systemd:/kubepods/burstable/pod{UID}/{CID}\n",
        (UID, CID),
    ),
    "v1 cgroupfs guaranteed": (f"3:memory:/kubepods/pod{UID}/{CID}\n", (UID, CID)),
    "v2 cgroupfs": (f"0::/kubepods/besteffort/pod{UID}/{CID}\n", (UID, CID)),
    "v2 systemd containerd": (
        f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"
        f"/cri-containerd-{CID}.scope\n",
        (UID, CID),
    ),
    "v2 systemd guaranteed": (
        f"0::/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{CID}.scope\n",
        (UID, CID),
    ),
    "v2 systemd CRI-O": (
        f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice"
        f"/crio-{CID}.scope\n",
        (UID, CID),
    ),
    "v2 with groups of its own": (
        f"0::/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{CID}.scope/init.scope\n",
        (UID, CID),
    ),
    "seen from another cgroup namespace": (
        f"0::/../../../kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"
        f"/cri-containerd-{CID}.scope\n",
        (UID, CID),
    ),
    "hybrid": (
        f"12:pids:/\n3:memory:/kubepods/pod{UID}/{CID}\n0::/system.slice/containerd.service\n",
        (UID, CID),
    ),
    "static pod": (f"0::/kubepods/burstable/pod{'ab' * 16}/{CID}\n", ("ab" * 16, CID)),
    "static pod systemd": (
        f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{'ab' * 16}.slice"
        f"/cri-containerd-{CID}.scope\n",
        ("ab" * 16, CID),
    ),
    "a pod's own group": (f"0::/kubepods/burstable/pod{UID}\n", None),
    "a container without a pod": (f"0::/system.slice/docker-{CID}.scope\n", None),
    "a login": ("0::/user.slice/user-0.slice/session-1.scope\n", None),
    "the root": ("0::/\n", None),
    "nothing": ("", None),
}


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """A process 7 whose files a test writes."""
    monkeypatch.setattr(procfs, "PROC", tmp_path)
    (tmp_path / "7/net").mkdir(parents=True)
    return tmp_path / "7"


@pytest.mark.parametrize(("text", "expected"), CGROUPS.values(), ids=list(CGROUPS))
def test_pod_and_container_of_cgroups(proc, text, expected):
    (proc / "cgroup").write_text(text)
    assert procfs.pod_and_container(7) == expected


MOUNTINFO = rf"""
3421 3300 0:301 / / rw,relatime master:801 - overlay overlay rw,lowerdir=/a:/b,upperdir=/c,index=off
3422 3421 0:304 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
3423 3421 0:305 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
3424 3423 259:1 /var/lib/kubelet/pods/{UID}/containers/main/1a2b3c4d /dev/termination-log rw - ext4 /d rw
3425 3421 259:1 /data/with\040space\011tab\134 /mnt/a\040b ro,relatime shared:1 master:2 - xfs /dev/sd\040a rw
3426 3421 0:306 / /empty rw -  none rw
3427 3421 0:307 net:[4026531840] /run/netns rw - nsfs nsfs ro
""".lstrip()  # noqa: E501


def test_mounts(proc):
    (proc / "mountinfo").write_text(MOUNTINFO)
    mounts = procfs.mounts(7)
    assert [m.mount_point for m in mounts][:3] == ["/", "/proc", "/dev"]
    assert (mounts[0].mount_id, mounts[0].parent_id, mounts[0].device) == (3421, 3300, "0:301")
    assert mounts[0].fs_type == "overlay"
    assert mounts[0].option("upperdir") == "/c"
    assert mounts[0].option("workdir") is None
    assert mounts[0].options == ("rw", "relatime")
    assert mounts[4].mount_point == "/mnt/a b"
    assert mounts[4].root == "/data/with space\ttab\\"
    assert mounts[4].source == "/dev/sd a"
    assert [m.read_only for m in mounts] == [False] * 4 + [True, False, True]
    assert mounts[5].fs_type == ""


@pytest.mark.parametrize(
    ("root", "name"),
    [
        (f"/var/lib/kubelet/pods/{UID}/containers/main/1a2b3c4d", "main"),
        (f"/pods/{UID}/containers/side-car/00000000", "side-car"),
        (f"/pods/{UID}/containers/main", None),
        (f"/pods/{UID}/volumes/kubernetes.io~empty-dir/data", None),
        ("/", None),
    ],
)
def test_the_containers_name_comes_from_its_termination_log(proc, root, name):
    line = f"1 0 8:1 {root} /dev/termination-log rw - ext4 /dev/sda rw\n"
    (proc / "mountinfo").write_text(f"2 0 0:9 / / rw - overlay overlay rw\n{line}")
    assert procfs.container_name(7) == name


STATUS = """\
Name:\t{name}
Umask:\t0022
State:\tS (sleeping)
Tgid:\t7
Pid:\t7
PPid:\t6
TracerPid:\t0
Uid:\t1\t2\t3\t4
Gid:\t5\t6\t7\t8
Groups:\t9 10 {padding}
NStgid:\t7\t1
NSpid:\t7\t1
CapInh:\t0000000000000001
CapPrm:\t00000000a80425fb
CapEff:\t00000000a80425fb
CapBnd:\t000001ffffffffff
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t3
"""


@pytest.mark.parametrize("name", [b"python3", b"a: b", "モデル".encode()[:-1], b"\xff\xfe", b""])
def test_status(proc, name):
    """A name is 15 bytes of anything, often cut inside a character."""
    text = STATUS.encode().replace(b"{name}", name).replace(b"{padding}", b"")
    (proc / "status").write_bytes(text)
    status = procfs.status(7)
    assert status.uids == (1, 2, 3, 4)
    assert status.gids == (5, 6, 7, 8)
    assert status.groups == (9, 10)
    assert status.nspids == (7, 1)
    assert (status.state, status.ppid) == ("S", 6)
    assert status.capabilities["CapPrm"] == 0xA80425FB
    assert status.capabilities["CapBnd"] == 0x1FFFFFFFFFF
    assert (status.no_new_privs, status.seccomp_mode, status.seccomp_filters) == (True, 2, 3)
    assert status.name == name.decode(errors="replace")


def test_the_start_time_of_a_process_with_any_name(proc):
    numbers = " ".join(str(n) for n in range(100, 149))
    (proc / "stat").write_bytes(b"7 (\xff) S 1) R " + numbers.encode())
    assert procfs.start_time_ticks(7) == 118


FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.88.0.0/24 2 0 2
        +-- 10.88.0.0/28 2 0 2
           |-- 10.88.0.0
              /24 link UNICAST
           |-- 10.88.0.7
              /32 host LOCAL
        |-- 10.88.0.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
           |-- 127.0.0.1
              /32 host LOCAL
Local:
           |-- 10.88.0.7
              /32 host LOCAL
"""
IF_INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
fd00001000000000000000000000002a 02 40 00 80     eth0
fe80000000000000a8bbccfffedd0001 02 40 20 80     eth0
"""


def test_addresses(proc):
    (proc / "net/fib_trie").write_text(FIB_TRIE)
    assert procfs.addresses(7) == ["10.88.0.7"]
    (proc / "net/if_inet6").write_text(IF_INET6)
    assert procfs.addresses(7) == ["10.88.0.7", "fd00:10::2a"]


def test_this_process():
    """The parsers agree with the kernel that runs."""
    status = procfs.status(os.getpid())
    assert status.uids == (*os.getresuid(), os.geteuid())
    assert status.gids == (*os.getresgid(), os.getegid())
    assert sorted(status.groups) == sorted(os.getgroups())
    assert status.nspids[-1] == os.getpid()
    assert status.ppid == os.getppid()
    assert "/proc" in [m.mount_point for m in procfs.mounts(os.getpid())]
    assert procfs.cgroups(os.getpid())
    assert procfs.namespace(os.getpid(), "pid") == os.stat("/proc/self/ns/pid").st_ino
    assert os.getpid() in procfs.in_pid_namespace(os.getpid())


def test_a_tree_of_processes():
    argv = ["sh", "-c", "(sleep 60; :) & sleep 60 & echo; wait"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as shell:
        try:
            assert shell.stdout.readline() == b"\n"
            assert shell.pid in procfs.children(os.getpid())
            while len(found := procfs.tree(shell.pid)) < 4:
                pass
            assert found[0] == shell.pid
            assert set(procfs.children(shell.pid)) == set(found[1:3])
            assert procfs.start_time_ticks(found[-1]) >= procfs.start_time_ticks(os.getpid())
        finally:
            os.killpg(shell.pid, signal.SIGKILL)


def test_a_process_that_is_gone():
    pid = int(pathlib.Path("/proc/sys/kernel/pid_max").read_text()) + 1
    with pytest.raises(ProcessLookupError):
        procfs.status(pid)
    assert procfs.tree(pid) == [pid]


@pytest.mark.parametrize(
    ("file", "text", "label"),
    [
        (
            "attr/apparmor/current",
            b"cri-containerd.apparmor.d (enforce)\n",
            "cri-containerd.apparmor.d",
        ),
        ("attr/apparmor/current", b"unconfined\n", ""),
        (
            "attr/current",
            b"system_u:system_r:container_t:s0:c1,c2\0",
            "system_u:system_r:container_t:s0:c1,c2",
        ),
        ("attr/current", b"docker-default (complain)\n", "docker-default"),
        ("status", b"", ""),
    ],
)
def test_lsm_label(tmp_path, monkeypatch, file, text, label):
    path = tmp_path / "7" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    monkeypatch.setattr(procfs, "PROC", tmp_path)
    assert procfs.lsm_label(7) == label


def test_whose_label_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(procfs, "PROC", tmp_path)
    here = pathlib.Path("/sys/module/apparmor/parameters/enabled")
    on = here.exists() and here.read_text().strip() == "Y"
    assert procfs.uses_apparmor(1) is on
    (tmp_path / "1/attr/apparmor").mkdir(parents=True)
    (tmp_path / "1/attr/apparmor/current").touch()
    assert procfs.uses_apparmor(1)
