"""What is checked before device memory goes through host memory, and what is kept of it."""

import os
import subprocess

import msgspec
import pytest

from chrek import compatibility, errors, facts, gpustate, log, manifest
from chrek.cuda import gpus as devices
from chrek.cuda import hostmemory

LOG = log.get(__name__)
GPU = compatibility.Gpu(
    uuid="GPU-a", minor=0, model="H100", memoryBytes=1 << 40, computeCapability="9.0"
)
KNOWN = compatibility.GpuFacts(devices=(GPU,), driver="580.65.06", node=("GPU-a",))
STATE = manifest.GpuState(
    processes=[manifest.GpuProcess(pid=10001, bytes=4 << 30)], used={"GPU-a": 4 << 30}
)


class Suspended:
    """A suspension with one process."""

    def __init__(self, log):
        self.log = log
        self.processes = (msgspec.defstruct("P", ["nspid", "bytes"])(10001, 4 << 30),)

    def __enter__(self):
        self.log.append("suspended")
        return self

    def __exit__(self, *_):
        self.log.append("left")

    def resume(self):
        self.log.append("resumed")


class Gpus:
    """Of a container with one GPU whose processes use 4 GiB of it."""

    def __init__(self, known=KNOWN):
        self.known, self.log, self.on_stuck = known, [], None

    def facts(self, init_pid):
        return self.known

    def used_bytes(self, pids):
        return {"GPU-a": 4 << 30}

    def suspended(self, pids, logger, seconds, *, on_stuck):
        self.on_stuck = on_stuck
        return Suspended(self.log)

    def release(self, pids, logger, *, on_stuck):
        self.log.append(("released", [*pids]))

    def plan(self, described, init_pid):
        return devices.Plan({10001: 4 << 30}, None)


@pytest.fixture
def memory(monkeypatch):
    """A function that sets the container's limit, what it uses, and what the node has."""

    def put(limit, used, available):
        monkeypatch.setattr(facts, "memory_limit", lambda pid: limit)
        monkeypatch.setattr(facts, "memory_used", lambda pid: used)
        monkeypatch.setattr(hostmemory, "available", lambda: available)

    put(None, None, None)
    return put


def suspended(gpus):
    return gpustate.suspended(os.getpid(), os.getpid(), gpus, LOG, {})


class Described:
    def __init__(self, used=None, gpu=STATE):
        self.gpu, self.source = gpu, compatibility.Facts(memoryUsedBytes=used)


@pytest.mark.parametrize("gpus", [None, Gpus(compatibility.GpuFacts())])
def test_a_container_without_gpus_holds_nothing(gpus):
    with suspended(gpus) as held:
        assert held.state is msgspec.UNSET
        assert held.facts == compatibility.GpuFacts()
        held.resume()


def test_what_a_capture_keeps(memory):
    gpus = Gpus()
    with suspended(gpus) as held:
        assert held.state == STATE
        assert held.facts == KNOWN
        held.resume()
    assert gpus.log == ["suspended", "resumed", "left"]


@pytest.mark.parametrize(
    ("limit", "used", "available", "hint"),
    [
        (10 << 30, 6 << 30, None, "at least 11Gi"),
        (10 << 30, 5 << 30, 4 << 30, "requests.memory"),
        (None, None, 4 << 30, "requests.memory"),
    ],
)
def test_a_capture_needs_room_in_host_memory(memory, limit, used, available, hint):
    memory(limit, used, available)
    gpus = Gpus()
    with pytest.raises(errors.UnsupportedError, match=hint) as caught, suspended(gpus):
        pytest.fail("suspended")
    assert caught.value.reason == "InsufficientHostMemory"
    assert gpus.log == []


def test_a_restore_needs_what_the_capture_had_and_no_more(memory):
    memory(8 << 30, 0, 8 << 30)
    gpustate.check(Described(8 << 30), os.getpid(), Gpus())
    with pytest.raises(errors.UnsupportedError, match="at least 9Gi") as caught:
        gpustate.check(Described((8 << 30) + 1), os.getpid(), Gpus())
    assert caught.value.reason == "InsufficientHostMemory"


def test_a_tree_that_the_driver_cannot_bring_back_is_ended(memory):
    gpus = Gpus()
    with subprocess.Popen(["sleep", "60"]) as stuck:
        with gpustate.suspended(os.getpid(), stuck.pid, gpus, LOG, {}):
            gpus.on_stuck([stuck])
        assert stuck.wait(5) == -9
        gpus.on_stuck([stuck])  # Whoever is gone already is nobody's concern.


def test_what_a_killed_agent_left_is_released():
    gpus = Gpus()
    gpustate.release(os.getpid(), gpus, LOG)
    assert os.getpid() in gpus.log[0][1]
    gpustate.release(os.getpid(), None, LOG)


def test_an_artifact_with_gpu_memory_needs_a_driver():
    with pytest.raises(errors.CompatibilityError) as caught:
        gpustate.plan(Described(), os.getpid(), None)
    assert caught.value.reason == "GpuUnavailable"


def test_an_artifact_without_gpu_memory_needs_nothing():
    described = Described(gpu=msgspec.UNSET)
    assert gpustate.plan(described, os.getpid(), None) is None
    assert gpustate.plan(described, os.getpid(), Gpus()) is None


def test_a_plan_is_that_of_the_gpus(memory):
    assert gpustate.plan(Described(), os.getpid(), Gpus()).sizes == {10001: 4 << 30}
