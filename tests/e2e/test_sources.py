"""Where a checkpoint is captured from, and clusters in which there is room for one worker only."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from e2e import place, tiny
from showcase import cluster, example, pods

LABEL = "nvidia.com/dynamo-graph-deployment-name"
GPU = "nvidia.com/gpu"


@pytest.fixture
def one_gpu(here: place.Place) -> Iterator[None]:
    """Node n1 has one "GPU", an extended resource; no other node has one."""
    patch = {"status": {"capacity": {GPU: "1"}, "allocatable": {GPU: "1"}}}
    here.live.merge("/api/v1/nodes/n1/status", patch)
    try:
        yield
    finally:
        here.remove("dgd/one-gpu", "dgd/waits")
        gone = {"status": {"capacity": {GPU: None}, "allocatable": {GPU: None}}}
        with contextlib.suppress(Exception):
            here.live.merge("/api/v1/nodes/n1/status", gone)


def with_gpu(graph: tiny.Object) -> tiny.Object:
    graph["spec"]["services"]["Worker"]["resources"] = {"limits": {GPU: "1"}}
    return graph


def test_a_serving_pod_is_captured_and_serves_on(here: place.Place) -> None:
    worker = tiny.Worker("tiny/in-place")
    graph = worker.graph("in-place", {"captureSource": "worker"}, node="n1")
    here.live.apply(graph, namespace=here.namespace)
    first = here.ready_pods(f"{LABEL}=in-place", 1)[0]
    before = pods.state(here.live, first, count=True)
    found = here.wait_phase(worker.hash, "Ready")
    jobs = here.live.kubectl("get", "jobs", f"--namespace={here.namespace}", "-o", "name")
    assert worker.hash not in jobs, "no Job was made"
    after = pods.state(here.live, first, count=True)
    assert after.nonce == before.nonce
    assert after.counter == before.counter + 1
    now = pods.reload(here.live, first)
    assert pods.container(now)["restartCount"] == 0
    assert example.variant(found)["node"] == "n1"
    # The other node gets the same memory.
    with here.pod(worker.pod("in-place-other", node="n2")) as pod:
        place.assert_warm(here.live, pod)
        assert pods.state(here.live, pod).nonce == before.nonce
    # The source ends like any worker: with its own code, and its next start is warm.
    with contextlib.suppress(Exception):
        here.live.pod_request(first, 8001, "/exit/3", timeout=5)
    again = here.wait_restarted(first, 1)
    last = pods.container(again)["lastState"]["terminated"]
    assert last["exitCode"] == 3
    place.assert_warm(here.live, pods.reload(here.live, again))
    here.remove("dgd/in-place")
    here.forget(worker)


def test_one_gpu_that_a_worker_holds(here: place.Place, one_gpu: None) -> None:
    worker = tiny.Worker("tiny/one-gpu")
    here.live.apply(with_gpu(worker.graph("one-gpu")), namespace=here.namespace)
    # Whoever is first has it; make it the worker.
    path = f"{example.GROUP}/namespaces/{here.namespace}/dynamocheckpoints/{worker.hash}"
    cluster.wait_until(lambda: here.live.get(path), "there is a checkpoint", timeout=20)
    selector = (
        f"nvidia.com/chrek-checkpoint-hash={worker.hash},nvidia.com/chrek-is-checkpoint-source"
    )

    def worker_has_it() -> bool:
        running = [p for p in here.graph_pods("one-gpu") if pods.is_ready(p)]
        if not running:
            here.live.kubectl(
                "delete", "pods", f"--namespace={here.namespace}", "-l", selector,
                "--grace-period=0", "--force", check=False,
            )  # fmt: skip
        return bool(running)

    cluster.wait_until(worker_has_it, "the worker serves", timeout=90, interval=2)
    found = here.wait_reason(worker.hash, "WaitingForResources")
    message = found["status"]["message"]
    assert "Insufficient nvidia.com/gpu" in message
    assert "WaitForCheckpoint" in message
    assert "worker" in message
    assert found["status"]["phase"] == "Pending"
    # The way out that needs no second GPU. The pod that runs was started before, so that it cannot
    # be captured, as the status says; the next one can.
    here.live.merge(path, {"spec": {"captureSource": "worker"}})
    here.wait_reason(worker.hash, "WaitingForWorker")
    cluster.wait_until(
        lambda: "restart it" in here.checkpoint(worker.hash)["status"]["message"],
        lambda: f"it says what to do: {here.checkpoint(worker.hash)['status']}",
        timeout=40,
    )
    here.remove(*(f"pod/{pods.name(pod)}" for pod in here.graph_pods("one-gpu")))
    here.wait_phase(worker.hash, "Ready")
    here.remove("dgd/one-gpu")
    here.forget(worker)


def test_wait_for_checkpoint_on_one_gpu(here: place.Place, one_gpu: None) -> None:
    worker = tiny.Worker("tiny/waits")
    graph = with_gpu(worker.graph("waits", {"startupPolicy": "WaitForCheckpoint"}))
    here.live.apply(graph, namespace=here.namespace)
    cluster.wait_until(
        lambda: here.service("waits").get("reason") == "WaitingForCheckpoint",
        lambda: f"the graph waits: {here.graph('waits').get('status')}",
        timeout=20,
    )
    assert not here.graph_pods("waits")
    here.wait_phase(worker.hash, "Ready")
    pod = here.ready_pods(f"{LABEL}=waits", 1)[0]
    place.assert_warm(here.live, pod)
    here.remove("dgd/waits")
    here.forget(worker)


def test_wait_for_checkpoint_that_fails_starts_cold(here: place.Place) -> None:
    worker = tiny.Worker("tiny/waits-in-vain")
    graph = worker.graph(
        "waits-in-vain", {"startupPolicy": "WaitForCheckpoint", "job": {"backoffLimit": 0}}
    )
    # The worker of the checkpoint job ends at once; the serving one does not.
    main = graph["spec"]["services"]["Worker"]["extraPodSpec"]["mainContainer"]
    main["args"] = [*main["args"][:2], "/tmp/x", "text:y"]
    main["command"] = ["python3", "-c", _ENDS_IN_JOBS + tiny.SOURCE]
    here.live.apply(graph, namespace=here.namespace)
    here.wait_phase(worker.hash, "Failed")
    pod = here.ready_pods(f"{LABEL}=waits-in-vain", 1)[0]
    place.assert_cold(here.live, pod, {"CheckpointNotReady"})
    assert "checkpoint failed" in json.dumps(here.service("waits-in-vain"))
    here.remove("dgd/waits-in-vain")
    here.forget(worker)


_ENDS_IN_JOBS = """
import os, sys
if 'DYN_READY_FOR_CHECKPOINT_FILE' in os.environ: sys.exit(9)
"""
