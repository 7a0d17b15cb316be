"""Workloads of any kind, opted in by annotation; their checkpoint is made from their own pods."""

from __future__ import annotations

from typing import Any

import pytest

from e2e import place, tiny
from showcase import pods

Object = dict[str, Any]


def workload(kind: str, name: str, worker: tiny.Worker, replicas: int = 1) -> Object:
    labels = {"app": name}
    spec: Object = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": worker.template(**labels),
    }
    if kind == "StatefulSet":
        spec["serviceName"] = name
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_a_workload_makes_its_own_checkpoint(here: place.Place, kind: str) -> None:
    name = f"alone-{kind.lower()}"
    worker = tiny.Worker(f"tiny/{name}")
    here.live.apply(workload(kind, name, worker), namespace=here.namespace)
    first = here.ready_pods(f"app={name}", 1)[0]
    place.assert_cold(here.live, first, {"CheckpointNotFound", "CheckpointNotReady"})
    found = here.wait_phase(worker.hash, "Ready")
    assert found["metadata"]["labels"]["nvidia.com/chrek-auto"] == "true"
    here.live.kubectl(
        "scale", f"{kind.lower()}/{name}", "--replicas=2", f"--namespace={here.namespace}"
    )
    second = here.ready_pods(f"app={name}", 2)[-1]
    place.assert_warm(here.live, second)
    here.remove(f"{kind.lower()}/{name}")
    here.forget(worker)


def test_a_bare_pod_with_a_worker_source(here: place.Place) -> None:
    worker = tiny.Worker("tiny/alone-bare")
    wanted = worker.pod("alone-bare")
    wanted["metadata"]["annotations"] = {
        **worker.template()["metadata"]["annotations"],
        "nvidia.com/chrek-capture-source": "worker",
    }
    with here.pod(wanted) as pod:
        before = pods.state(here.live, pod)
        here.wait_phase(worker.hash, "Ready")
        assert pods.state(here.live, pod).nonce == before.nonce
        with here.pod(worker.pod("alone-bare-2")) as other:
            place.assert_warm(here.live, other)
    here.forget(worker)


def test_an_identity_that_cannot_be_read(here: place.Place) -> None:
    worker = tiny.Worker("tiny/unreadable")
    wanted = worker.pod("unreadable")
    wanted["metadata"]["annotations"] = {"nvidia.com/chrek-identity": "{model:"}
    with here.pod(wanted) as pod:
        skipped = pod["metadata"]["annotations"]["nvidia.com/chrek-skipped"]
        assert skipped.startswith("InvalidSpec: ")
        assert tiny.STARTS in pods.logs(here.live, pod)
