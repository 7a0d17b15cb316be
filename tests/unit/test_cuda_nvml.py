"""What NVML says of GPUs, and what becomes of its failures, on the stand-in."""

import pytest

from chrek import compatibility, errors, names
from chrek.cuda import nvml as nvml_module
from fakes import cuda_worker, remote
from gpu.standin import build

NVML = "chrek.cuda.nvml:Nvml"
GIB = 1 << 30


@pytest.fixture
def machine(tmp_path):
    return cuda_worker.Machine(tmp_path / "node")


@pytest.fixture
def nvml(machine):
    with remote.Remote(NVML, machine.node.environment(machine.libraries)) as nvml:
        yield nvml


def test_the_description_of_a_node(tmp_path):
    gpus = [
        build.Gpu(minor=3, uuid=build.gpu_uuid("c"), bytes=8 * GIB, mig="1", model="NVIDIA A100"),
        build.Gpu(minor=1, uuid=build.gpu_uuid("a"), bytes=4 * GIB, capability="7.5", mig="-"),
        build.Gpu(minor=2, uuid=build.gpu_uuid("b"), bytes=2 * GIB, capability="12.0", mig="0"),
    ]
    machine = cuda_worker.Machine(tmp_path / "node", gpus, driver="570.172.08")
    with remote.Remote(NVML, machine.node.environment(machine.libraries)) as nvml:
        node = nvml.node(12080)
    assert (node["driver"], node["api"]) == ("570.172.08", 12080)
    assert [
        tuple(gpu[key] for key in ("minor", "uuid", "memoryBytes", "computeCapability", "model"))
        for gpu in node["gpus"]
    ] == [
        (1, gpus[1].uuid, 4 * GIB, "7.5", "NVIDIA H100 80GB HBM3"),
        (2, gpus[2].uuid, 2 * GIB, "12.0", "NVIDIA H100 80GB HBM3"),
        (3, gpus[0].uuid, 8 * GIB, "9.0", "NVIDIA A100"),
    ]
    assert [gpu["partitioned"] for gpu in node["gpus"]] == [False, False, True]


def test_a_node_without_gpus(tmp_path):
    machine = cuda_worker.Machine(tmp_path / "node", 0)
    with remote.Remote(NVML, machine.node.environment(machine.libraries)) as nvml:
        assert nvml.node(13000)["gpus"] == []
        assert nvml.usage() == []


def test_who_uses_which_gpu(machine, nvml):
    empty = {"freeBytes": 64 << 20, "persistence": True, "processes": {}}
    zero, one = machine.node.uuids
    assert nvml.usage() == [{"uuid": zero, **empty}, {"uuid": one, **empty}]
    with (
        machine.worker(size=1 << 20) as first,
        machine.worker(size=2 << 20) as second,
        machine.worker(device=1, size=4 << 20) as third,
    ):
        on_zero, on_one = nvml.usage()
        # JSON's keys are text.
        assert on_zero["processes"] == {str(first.pid): 1 << 20, str(second.pid): 2 << 20}
        assert on_one["processes"] == {str(third.pid): 4 << 20}
        assert (on_zero["freeBytes"], on_one["freeBytes"]) == (61 << 20, 60 << 20)


def test_persistence_mode(tmp_path):
    machine = cuda_worker.Machine(tmp_path / "node", 1, persistence=False)
    with remote.Remote(NVML, machine.node.environment(machine.libraries)) as nvml:
        assert [usage["persistence"] for usage in nvml.usage()] == [False]
        machine.node.persistence = True
        machine.node.write()
        assert [usage["persistence"] for usage in nvml.usage()] == [True]


AGAIN = {1: "UNINITIALIZED", 9: "DRIVER_NOT_LOADED", 15: "GPU_IS_LOST"}
FOR_GOOD = {2: "INVALID_ARGUMENT", 18: "LIB_RM_VERSION_MISMATCH", 999: "UNKNOWN"}


@pytest.mark.parametrize("number", AGAIN, ids=AGAIN.values())
def test_it_is_initialised_again(machine, nvml, number):
    before = nvml.node(13000)
    machine.node.fail(f"nvml-device {number} 1")
    assert nvml.node(13000) == before
    machine.node.fail(f"nvml-processes {number} 1")
    assert len(nvml.usage()) == 2
    assert machine.node.pending() == []


def test_a_new_initialisation_sees_new_facts(machine, nvml):
    """The libraries keep what they read until then: a driver was loaded with other GPUs."""
    assert len(nvml.node(13000)["gpus"]) == 2
    machine.node.gpus.pop()
    machine.node.driver = "590.1"
    machine.node.write()
    machine.node.fail("nvml-device 15 1")
    node = nvml.node(13000)
    assert (node["driver"], len(node["gpus"])) == ("590.1", 1)


@pytest.mark.parametrize("number", AGAIN, ids=AGAIN.values())
def test_it_is_not_initialised_for_ever(machine, nvml, number):
    machine.node.fail(f"nvml-device {number}")
    with pytest.raises(errors.GpuError, match=AGAIN[number]) as caught:
        nvml.node(13000)
    assert caught.value.code == f"NVML_ERROR_{AGAIN[number]}"
    machine.node.fail()
    assert len(nvml.node(13000)["gpus"]) == 2


@pytest.mark.parametrize("number", FOR_GOOD, ids=FOR_GOOD.values())
def test_other_failures_are_told_at_once(machine, nvml, number):
    machine.node.fail(f"nvml-device {number} 1")
    with pytest.raises(errors.GpuError) as caught:
        nvml.usage()
    assert caught.value.code == f"NVML_ERROR_{FOR_GOOD[number]}"
    assert caught.value.message.startswith("NVML: usage of the GPUs failed with NVML_ERROR_")
    assert caught.value.reason == names.Reason.GPU_UNAVAILABLE
    assert "nvidia-smi" in caught.value.hint
    assert machine.node.pending() == []


def test_what_a_gpu_does_not_have_is_none(machine, nvml):
    with machine.worker():
        machine.node.fail("nvml-processes 3")
        assert [usage["processes"] for usage in nvml.usage()] == [{}, {}]


def test_there_is_no_driver(machine, nvml):
    conf = machine.node.path / "node.conf"
    conf.rename(conf.with_suffix(".away"))
    with pytest.raises(errors.GpuError, match="NVML_ERROR_DRIVER_NOT_LOADED"):
        nvml.node(13000)
    # A driver that is installed later is found.
    conf.with_suffix(".away").rename(conf)
    assert len(nvml.node(13000)["gpus"]) == 2


def test_there_is_no_library(tmp_path):
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"")
    with (
        remote.Remote(NVML, {"LD_LIBRARY_PATH": str(tmp_path)}) as nvml,
        pytest.raises(errors.GpuError, match="NVML_ERROR_LIBRARY_NOT_FOUND"),
    ):
        nvml.node(13000)


def test_gpus_are_ordered_by_minor(monkeypatch):
    """NVML orders them by their place on the bus."""
    monkeypatch.setattr(nvml_module.pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(nvml_module.pynvml, "nvmlSystemGetDriverVersion", lambda: "580.1")
    monkeypatch.setattr(nvml_module, "_handles", lambda: [2, 0, 1])
    monkeypatch.setattr(
        nvml_module,
        "_gpu",
        lambda minor: compatibility.Gpu(
            uuid="", minor=minor, model="", memoryBytes=0, computeCapability=""
        ),
    )
    assert [gpu.minor for gpu in nvml_module.Nvml().node(13000).gpus] == [0, 1, 2]
