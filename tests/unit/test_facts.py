"""Facts of a container, from files as kernels and drivers write them."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from chrek import cgroups, compatibility, facts, procfs

SALT = "salt"


@pytest.fixture
def started():
    """A function that starts a process with just these variables; returns its pid."""
    running = []

    def start(**environment):
        process = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout.readline()
        running.append(process)
        return process.pid

    yield start
    for process in running:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def present(pid, salt=SALT, **origin):
    declared = compatibility.Facts(image="llm:1", command=["serve"], environment={"A": "1"})
    before = compatibility.Facts(salt=salt)
    return facts.present(pid, compatibility.Origin(**origin), declared, before)


def test_what_the_kernel_says_of_this_process(started):
    found = present(started())
    assert (found.image, found.command, found.environment) == ("llm:1", ["serve"], {"A": "1"})
    assert found.architecture == os.uname().machine
    assert found.kernel == os.uname().release
    assert found.pageBytes == os.sysconf("SC_PAGE_SIZE")
    assert found.user.uids == [os.getuid()] * 4
    assert found.signalFrameBytes is None or found.signalFrameBytes >= 1024
    assert "/" in {m.path for m in found.mounts}
    assert not any(m.path.startswith(("/proc/", "/sys/")) for m in found.mounts)
    assert (found.imageFiles, found.volumeFiles) == ([], [])
    compatibility.compare(found, present(started()))


VALUES = {"TOKEN": "s3cret", "LEVEL": "high", "PLAIN": "x"}
SOURCES = {"TOKEN": "secret", "LEVEL": "configMap", "PLAIN": ""}


def test_values_are_told_apart_by_where_they_come_from(started):
    found = present(started(**VALUES), variables=SOURCES)
    assert (list(found.secrets), list(found.configMaps)) == (["TOKEN"], ["LEVEL"])
    same = present(started(**VALUES, MORE="1"), variables=SOURCES)
    assert (found.secrets, found.configMaps) == (same.secrets, same.configMaps)
    other = present(started(**{**VALUES, "TOKEN": "other"}), variables=SOURCES)
    assert other.secrets != found.secrets
    assert other.configMaps == found.configMaps


def test_a_digest_tells_neither_the_value_nor_that_two_artifacts_hold_the_same(started):
    pid = started(**VALUES)
    one, two = (present(pid, salt, variables=SOURCES) for salt in ("one", "two"))
    assert one.secrets["TOKEN"] != two.secrets["TOKEN"]
    assert "s3cret" not in str(one)


LINKS = {
    "MY_DB_SERVICE_HOST": "10.0.0.1",
    "MY_DB_SERVICE_PORT": "1",
    "MY_DB_SERVICE_PORT_HTTP": "1",
    "MY_DB_PORT": "tcp://10.0.0.1:1",
    "MY_DB_PORT_1_TCP": "tcp://10.0.0.1:1",
    "MY_DB_PORT_1_TCP_PROTO": "tcp",
    "MY_DB_PORT_1_TCP_PORT": "1",
    "MY_DB_PORT_1_TCP_ADDR": "10.0.0.1",
}


@pytest.mark.parametrize("every", ["secret", "configMap"])
def test_every_variable_of_env_from(started, every):
    """Which names a Secret has nobody says: whatever `env` does not name counts."""
    given = {**VALUES, **LINKS, "SMTP_PORT": "25", "HOSTNAME": "p-1", "NVIDIA_VISIBLE_DEVICES": "0"}
    found = present(started(**given), variables={"PLAIN": "", "LEVEL": ""}, every_variable=every)
    mine, none = found.secrets, found.configMaps
    if every == "configMap":
        mine, none = none, mine
    # Python's own variable may be there as well.
    assert {"TOKEN", "SMTP_PORT"} <= set(mine) <= {"TOKEN", "SMTP_PORT", "LC_CTYPE"}
    assert none == {}


def test_without_secrets_there_are_none(started):
    found = present(started(**VALUES), variables={"PLAIN": ""})
    assert (found.secrets, found.configMaps) == ({}, {})


def test_cpu_features_are_those_of_programs():
    found = facts.cpu_features()
    assert found == sorted(found)
    assert not {"pti", "constant_tsc", "hypervisor", "nopl", "vmx", "svm", "smep"} & set(found)
    flags = procfs.PROC.joinpath("cpuinfo").read_text()
    for feature in ("sse2", "avx", "avx512f", "amx_tile"):
        assert (feature in found) == (f" {feature} " in flags)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A function that makes the directories of a process's cgroup, with files in each."""

    def make(**files_by_level):
        directory = tmp_path
        for level, files in files_by_level.items():
            directory = directory / level
            directory.mkdir()
            for name, text in files.items():
                (directory / name).write_text(text)
        monkeypatch.setattr(cgroups, "directories", lambda pid, root: [directory])
        return tmp_path

    return make


LIMITS = {
    "version 2": (
        {
            "kubepods": {},
            "pod": {"memory.max": "200\n", "pids.max": "max\n"},
            "c": {"memory.max": "100\n", "pids.max": "7\n"},
        },
        (100, 7),
    ),
    "the pod's is lower": (
        {
            "kubepods": {"pids.max": "3\n"},
            "pod": {"memory.max": "50\n"},
            "c": {"memory.max": "100\n"},
        },
        (50, 3),
    ),
    "version 1": (
        {
            "memory": {"memory.limit_in_bytes": "9223372036854771712\n"},
            "c": {"memory.limit_in_bytes": "64\n"},
        },
        (64, None),
    ),
    "none": ({"memory": {}, "c": {"memory.limit_in_bytes": "9223372036854771712\n"}}, (None, None)),
    "max": ({"k": {"memory.max": "max\n"}, "c": {"pids.max": "max\n"}}, (None, None)),
}


@pytest.mark.parametrize(("files", "wanted"), LIMITS.values(), ids=list(LIMITS))
def test_limits_are_the_lowest_on_the_way_up(tree, files, wanted):
    root = tree(**files)
    (root / "memory.max").write_text("1\n")  # Of the node's root: none that a pod could have.
    assert (facts.memory_limit(1, root), facts.pids_limit(1, root)) == wanted


USED = {
    "version 2": ("anon 100\nfile 5000\nshmem 20\n", 120),
    "version 1": ("cache 9\nrss 1\ntotal_rss 300\ntotal_shmem 5\n", 305),
    "an old kernel": ("total_rss 300\n", 300),
}


@pytest.mark.parametrize(("text", "wanted"), USED.values(), ids=list(USED))
def test_memory_that_cannot_be_dropped(tree, text, wanted):
    assert facts.memory_used(1, tree(c={"memory.stat": text})) == wanted


def test_nobody_counts_memory(tree):
    assert facts.memory_used(1, tree(c={})) is None


INFORMATION = "Model: \t\t {}\nIRQ:   \t\t 100\nDevice Minor: \t {}\nBlacklisted: No\n"


def test_models_of_the_gpus_that_a_container_has(tmp_path):
    driver, root = tmp_path / "gpus", tmp_path / "root"
    for minor, model in enumerate(("NVIDIA H100 80GB HBM3", "NVIDIA A100", "NVIDIA A100")):
        (driver / f"0000:0{minor}:00.0").mkdir(parents=True)
        path = driver / f"0000:0{minor}:00.0/information"
        path.write_text(INFORMATION.format(model, minor))
    (root / "dev").mkdir(parents=True)
    fd = os.open(root, os.O_PATH)
    assert facts.gpus(fd, driver) == []
    for name in ("nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (root / "dev" / name).touch()
    assert facts.gpus(fd, driver) == ["NVIDIA A100", "NVIDIA A100"]
    assert facts.gpus(fd, tmp_path / "absent") == []
    os.close(fd)


@pytest.mark.parametrize(
    ("line", "branch"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5", "550"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release", "580"),
        ("", ""),
    ],
)
def test_the_driver_branch(tmp_path, line, branch):
    (tmp_path / "version").write_text(f"{line}\nGCC version:  gcc 12\n")
    assert facts.gpu_driver(tmp_path / "version") == branch
    assert facts.gpu_driver(pathlib.Path("/nowhere")) == ""
