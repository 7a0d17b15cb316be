"""What a container has of GPUs, what a capture notes of it, and how it would come back."""

import os

import pytest

from chrek import compatibility, errors, log, manifest
from chrek.cuda import allocation, gpus, words
from fakes import cuda_helper

LOG = log.get(__name__)
HERE, THERE = ([f"GPU-{node}{number}" for number in range(3)] for node in "ab")


def gpu(uuid, minor):
    return compatibility.Gpu(
        uuid=uuid, minor=minor, model="H100", memoryBytes=1000, computeCapability="9.0"
    )


class Helper(cuda_helper.Helper):
    """The fake driver with a node of three GPUs."""

    def __init__(self, pids=(), free=500):
        super().__init__(pids)
        self.free = dict.fromkeys(HERE, free)
        self.processes = {}

    def node(self):
        listed = [gpu(uuid, minor) for minor, uuid in enumerate(HERE)]
        return words.Node(driver="580.65.06", api=13000, gpus=listed)

    def usage(self):
        return [
            words.Usage(
                uuid=uuid, freeBytes=self.free[uuid], persistence=True,
                processes=self.processes.get(uuid, {}),
            )
            for uuid in HERE
        ]  # fmt: skip


@pytest.fixture
def files(monkeypatch):
    """A function that sets the numbers of the device files that this process's container has."""

    def put(*numbers):
        monkeypatch.setattr(allocation, "minors", lambda root: [*numbers])

    put(1, 2)
    return put


def of(helper, allocated=None):
    return gpus.Gpus(helper, allocated=lambda: allocated)


def captured(used=None, node=THERE, devices=(THERE[0], THERE[2]), **state):
    """A manifest, as far as a plan reads it."""

    class Described:
        source = compatibility.Facts(
            gpuDevices=[gpu(uuid, THERE.index(uuid)) for uuid in devices], gpuNode=[*node]
        )
        gpu = manifest.GpuState(
            processes=[manifest.GpuProcess(pid=10001, bytes=300)],
            used=used or {THERE[0]: 300},
            **state,
        )

    return Described()


def test_a_container_without_device_files_asks_nobody(files):
    files()
    assert gpus.Gpus(None).facts(os.getpid()) == compatibility.GpuFacts()


def test_facts_of_a_container(files):
    found = of(Helper()).facts(os.getpid())
    assert [one.uuid for one in found.devices] == HERE[1:]
    assert (found.driver, found.node) == ("580.65.06", tuple(HERE))


def test_what_was_allocated_counts_in_a_container_that_sees_more(files):
    files(0, 1, 2)
    assert [one.uuid for one in of(Helper(), [HERE[2]]).facts(os.getpid()).devices] == [HERE[2]]


def test_bytes_of_the_processes_that_are_asked_for():
    helper = Helper()
    helper.processes = {HERE[0]: {7: 100, 8: 50, 9: 1}, HERE[1]: {9: 1}, HERE[2]: {7: 5}}
    assert of(helper).used_bytes([7, 8]) == {HERE[0]: 150, HERE[2]: 5}


def test_a_plan_maps_all_gpus_of_the_node(files):
    plan = of(Helper()).plan(captured(), os.getpid())
    assert plan.sizes == {10001: 300}
    assert {plan.uuids[THERE[0]], plan.uuids[THERE[2]]} == set(HERE[1:])
    assert plan.uuids[THERE[1]] == HERE[0]


def test_a_plan_for_the_same_gpus_needs_no_map(files):
    described = captured({HERE[1]: 300}, node=HERE, devices=())
    described.source = compatibility.Facts(
        gpuDevices=[gpu(uuid, HERE.index(uuid)) for uuid in HERE[1:]], gpuNode=HERE
    )
    assert of(Helper()).plan(described, os.getpid()).uuids is None


def test_each_gpu_must_have_room_for_what_comes_to_it(files):
    helper = Helper(free=300)
    described = captured({THERE[0]: 300, THERE[2]: 250})
    plan = of(helper).plan(described, os.getpid())
    helper.free[plan.uuids[THERE[2]]] = 249
    with pytest.raises(errors.GpuError, match="249") as caught:
        of(helper).plan(described, os.getpid())
    assert caught.value.reason == "GpuMemoryTooSmall"


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        (captured(node=[*THERE, "GPU-b3"]), "GpuCountDiffers"),
        (captured(devices=THERE[:1]), "GpuCountDiffers"),
        (captured(memory="direct"), "ArtifactUnreadable"),
        (captured({"GPU-z": 1}, devices=(THERE[0], THERE[0])), "ArtifactCorrupt"),
    ],
)
def test_plans_that_cannot_be(files, described, reason):
    with pytest.raises(errors.ChrekError) as caught:
        of(Helper()).plan(described, os.getpid())
    assert caught.value.reason == reason


def test_a_manifest_that_does_not_say_of_which_gpus(files):
    described = captured()
    described.source = compatibility.Facts()
    with pytest.raises(errors.ArtifactError):
        of(Helper()).plan(described, os.getpid())


def test_processes_are_suspended_and_go_on():
    helper = Helper([os.getpid()])
    helper.processes = {HERE[0]: {os.getpid(): 100}}
    seconds = {}
    with of(helper).suspended([os.getpid()], LOG, seconds, on_stuck=pytest.fail) as suspended:
        assert helper.states[os.getpid()] == words.State.CHECKPOINTED
        assert [one.bytes for one in suspended.processes] == [100]
    assert helper.states[os.getpid()] == words.State.RUNNING
    assert {"gpu_lock", "gpu_checkpoint", "gpu_restore", "gpu_unlock"} <= seconds.keys()


def test_what_a_killed_agent_left_is_released():
    helper = Helper([os.getpid()])
    helper.lock(os.getpid(), 1)
    of(helper).release([os.getpid()], LOG, on_stuck=pytest.fail)
    assert helper.states[os.getpid()] == words.State.RUNNING


def test_restored_processes_get_their_memory_back(files):
    own = os.getpid()
    helper = Helper([own])
    helper.states[own] = words.State.CHECKPOINTED
    plan = gpus.Plan({own: 300}, dict(zip(THERE, HERE, strict=True)))
    of(helper).resume(plan, own, LOG, {})
    assert helper.states[own] == words.State.RUNNING
    assert helper.mappings == [plan.uuids]


def test_others_may_end_meanwhile(files, monkeypatch):
    own, gone = os.getpid(), 4194301
    monkeypatch.setattr(gpus.procfs, "in_pid_namespace", lambda pid: [gone, own])
    helper = Helper([own])
    helper.states[own] = words.State.CHECKPOINTED
    of(helper).resume(gpus.Plan({own: 300}, None), own, LOG, {})
    assert helper.states[own] == words.State.RUNNING


def test_a_process_that_was_not_restored_is_missed():
    with pytest.raises(errors.GpuError, match="process 4194300 had used a GPU") as caught:
        of(Helper()).resume(gpus.Plan({4194300: 1}, None), os.getpid(), LOG, {})
    assert caught.value.reason == "GpuRestoreFailed"
