"""The round trip of GPU memory, step by step, with a checkpoint that does as it is told."""

import dataclasses
import types

import pytest

from chrek import errors
from chrek.hooks import trip_answers, trip_checkpoint, trip_gpu, trip_pods, trip_steps

SEEN = "driver 580.65.06 (CUDA 13.0), GPUs: 8 NVIDIA H100 80GB HBM3"
OTHER = "driver 580.65.06 (CUDA 13.0), GPUs: 2 NVIDIA L4"
BEFORE = trip_answers.Gpu(uuid="GPU-aaaaaaaa-1", count=1, ballast="d" * 64, size=64 << 20)
AFTER = dataclasses.replace(BEFORE, uuid="GPU-bbbbbbbb-2", count=2)
FULL = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."


def pod(node="n1", **status):
    return {"spec": {"nodeName": node} if node else {}, "status": status}


def waiting(message=FULL):
    condition = {"type": "PodScheduled", "status": "False", "message": message}
    return pod("", conditions=[condition])


class Checkpoint:
    """In the place of trip_checkpoint.Checkpoint."""

    pod_name = "warm"

    def __init__(self, **changes):
        self.source = [pod()]
        self.failure = None
        self.taken = "n1"
        self.warm = pod("n2")
        self.cold = ""
        self.nodes = {}
        vars(self).update(changes)
        self.pods = types.SimpleNamespace(get=lambda _: self.warm)

    def create(self, preferred, *, only):
        self.nodes["capture"] = dict(preferred), [*only]

    def sources(self):
        return self.source

    def source_address(self):
        return "source"

    def ready_status(self):
        if self.failure:
            raise trip_checkpoint.CaptureFailed("why", cause=self.failure)
        return {"phase": "Ready", "size": "1 GiB", "variants": [{"node": self.taken}]}

    def restore(self, preferred, *, only):
        self.nodes["restore"] = dict(preferred), [*only]

    def restored(self):
        if self.cold:
            raise errors.ChrekError(f"cold: {self.cold}", reason=self.cold)
        return trip_pods.Start(True, "Restored", "", address="restored", node="n2")


@pytest.fixture
def answers(monkeypatch):
    """What the worker says before and after."""
    said = {"source": BEFORE, "restored": AFTER}

    def gpu(address):
        if isinstance(said[address], Exception):
            raise said[address]
        return said[address]

    monkeypatch.setattr(trip_gpu, "SCHEDULE_SECONDS", 0.3)
    monkeypatch.setattr(trip_answers, "gpu", gpu)
    monkeypatch.setattr(trip_answers, "release", lambda _: None)
    return said


def trip(checkpoint, seconds=5.0):
    return trip_gpu.GpuTrip(checkpoint, trip_steps.Patience(seconds))


def rows(made):
    return {row.name: row.note for row in made.steps.rows}


def test_gpu_memory_comes_back(answers):
    made = trip(Checkpoint())
    told = made.run({"n1": SEEN, "n2": SEEN})
    assert told == (
        "64 MiB came back, captured on n1 (GPU-aaaaaaaa), restored on n2 (GPU-bbbbbbbb)"
    )
    assert rows(made) == {
        "gpu: worker answers": "count 1, 64 MiB dddddddd on GPU-aaaaaaaa",
        "gpu: checkpoint ready": "1 GiB on node n1",
        "gpu: pod restored": "on node n2",
        "gpu: memory compared": "count 2, 64 MiB dddddddd on GPU-bbbbbbbb",
    }


def test_it_is_captured_where_gpus_are_and_restored_where_they_are_alike(answers):
    """The driver wants a map of all GPUs of both nodes."""
    checkpoint = Checkpoint()
    trip(checkpoint).run(
        {
            "n1": f"{SEEN}; persistence mode is off",
            "n2": SEEN,
            "n3": OTHER,
            "n4": "no NVIDIA driver",
        }
    )
    assert checkpoint.nodes["capture"] == (
        {"n1": 100, "n2": 100, "n3": 100},
        ["n1", "n2", "n3"],
    )
    assert checkpoint.nodes["restore"] == ({"n2": 100, "n1": 25}, ["n1", "n2"])


def test_a_node_that_nobody_spoke_of_is_enough_for_itself(answers):
    checkpoint = Checkpoint(taken="n9")
    trip(checkpoint).run({"n1": SEEN})
    assert checkpoint.nodes["restore"][1] == ["n9"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "no agent tells of GPUs"),
        ({"n1": "no NVIDIA driver"}, "no NVIDIA driver"),
        (
            {"n1": "driver 550.1 cannot save GPU memory: x"},
            "driver 550.1 cannot save GPU memory: x",
        ),
    ],
)
def test_without_a_gpu_nothing_is_made(answers, said, why):
    checkpoint = Checkpoint()
    made = trip(checkpoint)
    with pytest.raises(trip_steps.NotTested) as caught:
        made.run(said)
    assert caught.value.message == why
    assert checkpoint.nodes == {}
    assert made.steps.rows == []


NO_DEVICE = trip_answers.Gpu(problem="cuInit: CUDA_ERROR_NO_DEVICE")
REFUSED = pod(phase="Failed", reason="UnexpectedAdmissionError", message="Allocate failed")
EXCUSES = {
    "all are in use": ({"source": [waiting()]}, {}, "no GPU within 0 s: 0/2 nodes are"),
    "a quota": ({"source": []}, {}, "there is no pod: a quota may forbid it"),
    "the scheduler is silent": ({"source": [pod("")]}, {}, "there is no pod"),
    "the kubelet refuses": ({"source": [REFUSED]}, {}, "no GPU: Allocate failed"),
    "no GPU in the container": ({}, {"source": NO_DEVICE}, "no GPU that works: cuInit"),
    "parts of GPUs": ({"failure": "GpuPartitioned"}, {}, "the capture failed: why"),
    "taken meanwhile": ({"warm": waiting()}, {}, "0/2 nodes are available"),
    "refused meanwhile": ({"warm": REFUSED}, {}, "no GPU: Allocate failed"),
    "somebody else's memory": ({"cold": "GpuMemoryTooSmall"}, {}, "cold: GpuMemoryTooSmall"),
    "an old driver": ({"cold": "GpuDriverTooOld"}, {}, "cold: GpuDriverTooOld"),
}


@pytest.mark.parametrize(("changes", "said", "why"), EXCUSES.values(), ids=[*EXCUSES])
def test_gpus_that_cannot_be_had_are_no_failure(answers, changes, said, why):
    answers.update(said)
    made = trip(Checkpoint(**changes))
    with pytest.raises(trip_steps.NotTested) as caught:
        made.run({"n1": SEEN, "n2": SEEN})
    assert why in caught.value.message
    assert made.steps.rows[-1].note.endswith("not tested")


OTHER_BYTES = dataclasses.replace(AFTER, ballast="e" * 64)
FAILURES = {
    "capture": ({"failure": "GpuCheckpointFailed"}, {}, "gpu: checkpoint ready", "JobFailed"),
    "cold": ({"cold": "GpuRestoreFailed"}, {}, "gpu: pod restored", "GpuRestoreFailed"),
    "other bytes": ({}, {"restored": OTHER_BYTES}, "gpu: memory compared", "InternalError"),
    "lost": ({}, {"restored": NO_DEVICE}, "gpu: memory compared", "InternalError"),
    "silent": ({}, {"source": OSError("reset")}, "gpu: worker answers", "InternalError"),
    "silent after": ({}, {"restored": OSError("x")}, "gpu: memory compared", "RestoreTimeout"),
}


@pytest.mark.parametrize(("changes", "said", "step", "reason"), FAILURES.values(), ids=[*FAILURES])
def test_what_is_broken_is_a_failure(answers, changes, said, step, reason):
    answers.update(said)
    made = trip(Checkpoint(**changes), seconds=1.0)
    with pytest.raises(errors.ChrekError) as caught:
        made.run({"n1": SEEN, "n2": SEEN})
    assert not isinstance(caught.value, trip_steps.NotTested)
    assert caught.value.reason == reason
    assert rows(made)[step].endswith(f"FAILED: {reason}")


def test_a_pod_that_gets_a_node_late_is_waited_for(answers):
    checkpoint = Checkpoint()
    looks = iter([[], [waiting()]])
    checkpoint.sources = lambda: next(looks, [pod()])
    trip(checkpoint).run({"n1": SEEN})
