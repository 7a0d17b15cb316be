"""Which GPUs a container has: its device files, and what the kubelet says."""

import os

import pytest

from chrek import compatibility, errors, names
from chrek.cuda import allocation, words

UUIDS = [f"GPU-00000000-0000-0000-0000-00000000000{n}" for n in range(4)]
MINORS = [2, 0, 1, 3]
"""Of the GPUs above: a number of a file is not a place in a list."""


def gpu(n, *, partitioned=False):
    return compatibility.Gpu(
        uuid=UUIDS[n],
        minor=MINORS[n],
        model="NVIDIA H100 80GB HBM3",
        memoryBytes=80 << 30,
        computeCapability="9.0",
        partitioned=partitioned,
    )


def node(*gpus):
    found = gpus or [gpu(n) for n in range(4)]
    ordered = sorted(found, key=lambda one: one.minor)
    return words.Node(driver="580.65.06", api=13000, gpus=ordered)


@pytest.fixture
def container(tmp_path):
    """A function that makes a container's root with device files; returns its descriptor."""
    made = []

    def make(*files):
        (tmp_path / "dev").mkdir()
        for name in files:
            (tmp_path / "dev" / name).touch()
        made.append(os.open(tmp_path, os.O_PATH))
        return made[0]

    yield make
    for fd in made:
        os.close(fd)


NOISE = (
    "nvidiactl",
    "nvidia-uvm",
    "nvidia-uvm-tools",
    "nvidia-caps",
    "null",
    "xnvidia3",
    "nvidia3x",
)
ALL = ("nvidia0", "nvidia1", "nvidia2", "nvidia3")

FOUND = {
    "nobody knows": (("nvidia2", "nvidia1"), None, [2, 0]),
    "nothing allocated": (("nvidia2",), [], [0]),
    "one of one": (("nvidia0",), [UUIDS[1]], [1]),
    "two of two": (("nvidia0", "nvidia3"), [UUIDS[3], UUIDS[1]], [1, 3]),
    "privileged": (ALL, [UUIDS[0]], [0]),
    "privileged, two": (ALL, [UUIDS[3], UUIDS[2]], [2, 3]),
    "privileged, by number": (ALL, ["minor:2", "minor:0"], [1, 0]),
    "privileged, nobody knows": (ALL, None, [1, 2, 0, 3]),
    "by number": (("nvidia2",), ["minor:2"], [0]),
    "a claim that two containers share": (("nvidia2",), ["minor:2", "minor:3"], [0]),
    "numbers of an old DRA driver": (("nvidia2",), ["minor:0"], [0]),
    "the driver has lost a GPU that nobody needs": (("nvidia2", "nvidia7"), None, [0]),
    "no GPU": ((), None, []),
    "no GPU, and the kubelet says so": ((), [], []),
}


@pytest.mark.parametrize(("files", "allocated", "wanted"), FOUND.values(), ids=list(FOUND))
def test_what_a_container_has(container, files, allocated, wanted):
    root = container(*files, *NOISE)
    found = allocation.below(node(), root, allocated)
    assert found == [gpu(n) for n in wanted]


REFUSED = {
    "no file": (("nvidia0",), [UUIDS[0]], f"GPU {UUIDS[0]}.*no device file of it"),
    "one of two files": (("nvidia0",), [UUIDS[1], UUIDS[0]], f"GPU {UUIDS[0]}.*no device file"),
    "no files at all": ((), [UUIDS[0]], f"GPU {UUIDS[0]}"),
    "privileged, by a number without a file": (
        ("nvidia0", "nvidia1", "nvidia2"), ["minor:3"], "GPU 3.*there is no /dev/nvidia3",
    ),
    "lost by the driver": (ALL, ["GPU-lost"], "GPU GPU-lost.*NVML does not list it"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "allocated", "told"), REFUSED.values(), ids=list(REFUSED))
def test_what_a_container_should_have_and_has_not(container, files, allocated, told):
    root = container(*files)
    with pytest.raises(errors.GpuError, match=told) as failed:
        allocation.below(node(), root, allocated)
    assert failed.value.reason == names.Reason.GPU_UNAVAILABLE


PARTS = {
    "allocated": (["MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f"], False),
    "beside a whole one": ([UUIDS[1], "MIG-gpu-0-mig-1g10gb-19-0"], False),
    "the GPU is partitioned": ([UUIDS[1]], True),
    "the GPU is partitioned, nobody knows": (None, True),
}


@pytest.mark.parametrize(("allocated", "partitioned"), PARTS.values(), ids=list(PARTS))
def test_parts_of_gpus_are_refused(container, allocated, partitioned):
    root = container("nvidia0")
    with pytest.raises(errors.GpuError) as failed:
        allocation.below(node(gpu(0), gpu(1, partitioned=partitioned)), root, allocated)
    assert failed.value.reason == names.Reason.GPU_PARTITIONED


def test_a_partitioned_gpu_of_somebody_else_is_no_matter(container):
    root = container("nvidia0", "nvidia2")
    found = allocation.below(node(gpu(0, partitioned=True), gpu(1)), root, [UUIDS[1]])
    assert found == [gpu(1)]


@pytest.mark.parametrize("target", ["outside", "../outside", "inside"])
def test_a_link_leads_nowhere(tmp_path, target):
    for directory in ("outside", "root/inside"):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "nvidia0").touch()
    (tmp_path / "root/dev").symlink_to(tmp_path / target if target == "outside" else target)
    root = os.open(tmp_path / "root", os.O_PATH)
    try:
        assert allocation.minors(root) == set()
    finally:
        os.close(root)


def test_the_container_of_a_process():
    """This one: its files are what it can see, whatever the kubelet says."""
    own = {int(n) for name in os.listdir("/dev") if (n := name.removeprefix("nvidia")).isdecimal()}
    assert allocation.has_device_files(os.getpid()) == bool(own)
    found = allocation.of_container(node(), os.getpid(), None)
    assert {one.minor for one in found} == own & set(MINORS)


@pytest.mark.parametrize(
    "call",
    [allocation.has_device_files, lambda pid: allocation.of_container(node(), pid, None)],
    ids=["has_device_files", "of_container"],
)
def test_a_process_that_has_ended(call):
    with pytest.raises(FileNotFoundError):
        call(1 << 30)
