"""Facts of a container, from files as kernels and drivers write them."""

import os
import signal
import subprocess
import sys

import msgspec
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


GPU = compatibility.Gpu(
    uuid="GPU-0", minor=1, model="NVIDIA H100", memoryBytes=80 << 30, computeCapability="9.0"
)


def test_gpus_are_those_that_were_told(started):
    declared, origin = compatibility.Facts(), compatibility.Origin()
    told = compatibility.GpuFacts(devices=(GPU,), driver="580.65.06", node=("GPU-0", "GPU-1"))
    found = facts.present(started(), origin, declared, compatibility.Facts(), gpus=told)
    assert (found.gpus, found.gpuDriver) == (["NVIDIA H100"], "580.65.06")
    assert (found.gpuDevices, found.gpuNode) == ([GPU], ["GPU-0", "GPU-1"])
    without = present(started())
    assert (without.gpus, without.gpuDriver) == ([], "")
    assert b"gpuDevices" not in msgspec.json.encode(without)


OF_THE_DRIVER = [
    "/usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06",
    "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.65.06",
    "/usr/lib64/libnvidia-ptxjitcompiler.so.580.65.06",
    "/usr/lib/aarch64-linux-gnu/libnvcuvid.so.580.65.06",
    "/usr/lib/x86_64-linux-gnu/libGLX_nvidia.so.580.65.06",
    "/usr/lib/x86_64-linux-gnu/libcudadebugger.so.580.65.06",
    "/usr/lib/firmware/nvidia/580.65.06/gsp_ga10x.bin",
    "/lib/firmware/nvidia/580.65.06/gsp_tu10x.bin",
    "/usr/bin/nvidia-smi",
    "/usr/bin/nvidia-cuda-mps-control",
    "/run/nvidia-persistenced/socket",
    "/run/nvidia-fabricmanager/socket",
    "/usr/share/vulkan/icd.d/nvidia_icd.json",
    "/etc/vulkan/icd.d/nvidia_icd.json",
    "/dev/nvidia0",
    "/dev/nvidia-caps/nvidia-cap1",
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/dri/card0",
    "/proc/driver/nvidia/gpus/0000:00:1e.0",
]
OF_THE_USER = [
    "/usr/lib/x86_64-linux-gnu/libcudart.so.12",
    "/models",
    "/usr/local/nvidia-models",
    "/usr/lib/python3/dist-packages",
    "/opt/libcuda.so.1",
    "/run/secrets/kubernetes.io/serviceaccount",
    "/dev/shm",
    "/usr/share/nltk_data",
    "/usr/bin/serve",
    "/var/run/nvi",
]


def mount(path):
    return procfs.Mount(1, 0, "0:1", "/", path, ("ro",), "ext4", "disk", ())


@pytest.mark.parametrize("path", OF_THE_DRIVER)
def test_what_a_runtime_mounts_of_the_driver_is_not_compared(path):
    assert facts._mounts([mount(path)]) == []


@pytest.mark.parametrize("path", OF_THE_USER)
def test_what_a_user_mounts_is_compared(path):
    assert [found.path for found in facts._mounts([mount(path)])] == [path]
