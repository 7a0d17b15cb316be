"""Beside a platform that owns the CRDs and makes the pods of graphs: a stand-in for Dynamo's.

It takes the CRDs away and with them what other tests share, so that it runs last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import place, tiny
from showcase import cluster, example, pods, setup

Object = dict[str, Any]

CRDS = Path(__file__).with_name("platform_crds.yaml")
LABEL = "nvidia.com/dynamo-graph-deployment-name"


def swap(here: place.Place, folder: Path) -> None:
    """Whoever writes the CRDs last owns them."""
    here.live.kubectl("replace", "-f", os.fspath(folder))
    names = ("dynamocheckpoints.nvidia.com", "dynamographdeployments.nvidia.com")
    for name in names:
        here.live.kubectl("wait", "--for=condition=Established", f"crd/{name}")


@pytest.fixture(scope="module", params=["chrek first", "platform first"])
def beside(here: place.Place, request: pytest.FixtureRequest) -> Iterator[place.Place]:
    """chrek and the platform, in both orders of installation."""
    here.clean()
    here.remove("deployment/theirs-by-the-platform")
    if request.param == "platform first":
        here.live.helm("uninstall", setup.RELEASE, f"--namespace={here.namespace}", "--wait")
    swap(here, CRDS)
    if request.param == "platform first":
        setup.install(here.live, namespace=here.namespace, values=here.values)
    else:
        restart_operator(here)
    yield here
    here.clean()
    swap(here, setup.CHART / "files" / "crds")
    restart_operator(here)


def restart_operator(here: place.Place) -> None:
    """It looks at the CRDs once a minute, and when it starts; a person would wait."""
    here.live.kubectl(
        "rollout", "restart", "deployment/chrek-operator", f"--namespace={here.namespace}"
    )
    here.live.kubectl(
        "rollout", "status", "deployment/chrek-operator", f"--namespace={here.namespace}",
        "--timeout=90s",
    )  # fmt: skip
    path = f"{pods.path(here.namespace)}?labelSelector=app.kubernetes.io%2Fcomponent%3Doperator"
    cluster.wait_until(
        lambda: len(here.live.items(path)) == 1, "the old operator is gone", timeout=60
    )


def platforms_pods(worker: tiny.Worker, graph: str, replicas: int) -> Object:
    """The Deployment that the platform's operator makes of a graph: its names, its labels."""
    labels = {LABEL: graph, "nvidia.com/dynamo-component": "Worker"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{graph}-by-the-platform"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": worker.spec()},
        },
    }


def test_the_platforms_pods_are_captured_and_restored(beside: place.Place) -> None:
    worker = tiny.Worker("tiny/platform")
    beside.live.apply(worker.graph("theirs"), namespace=beside.namespace)
    beside.live.apply(platforms_pods(worker, "theirs", 1), namespace=beside.namespace)
    first = beside.ready_pods(f"{LABEL}=theirs", 1)[0]
    place.assert_cold(beside.live, first, {"CheckpointNotFound", "CheckpointNotReady"})
    found = beside.wait_phase(worker.hash, "Ready")
    # The CRD drops what chrek keeps in the status, so that is kept elsewhere.
    assert "variants" not in found["status"]

    def kept() -> Object:
        noted = beside.checkpoint(worker.hash)["metadata"]["annotations"]
        found: Object = json.loads(noted["nvidia.com/chrek-state"])
        return found

    # A write of its own, right after that of the status.
    cluster.wait_until(
        lambda: len(kept().get("variants", [])) == 1, lambda: str(kept()), timeout=20
    )
    beside.live.apply(platforms_pods(worker, "theirs", 2), namespace=beside.namespace)
    second = beside.ready_pods(f"{LABEL}=theirs", 2)[-1]
    place.assert_warm(beside.live, second)
    made = beside.live.kubectl(
        "get", "deployments", f"--namespace={beside.namespace}", "-o", "name", "-l", LABEL
    )
    assert not made.strip(), "chrek makes no Deployment"
    assert not beside.graph("theirs").get("status"), "and writes no status"
    beside.remove("dgd/theirs", "deployment/theirs-by-the-platform")
    beside.forget(worker)


def test_a_checkpoint_that_the_platform_took_on_is_left_alone(beside: place.Place) -> None:
    worker = tiny.Worker("tiny/taken-on")
    wanted = worker.checkpoint()
    wanted["metadata"]["finalizers"] = ["dynamo.nvidia.com/checkpoint"]
    beside.live.apply(wanted, namespace=beside.namespace)
    path = beside.checkpoint_path(worker.hash)
    # Another checkpoint goes all the way meanwhile: the operator has seen this one for long.
    other = tiny.Worker("tiny/not-taken-on")
    beside.capture(other)
    found = beside.checkpoint(worker.hash)
    assert not example.phase(found)
    assert found["metadata"]["finalizers"] == ["dynamo.nvidia.com/checkpoint"]
    beside.live.merge(path, {"metadata": {"finalizers": None}})
    beside.forget(worker)
    beside.forget(other)


def test_the_crds_stay_the_platforms(beside: place.Place) -> None:
    setup.install(beside.live, namespace=beside.namespace, values=beside.values)
    for name in ("dynamocheckpoints.nvidia.com", "dynamographdeployments.nvidia.com"):
        crd = beside.live.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
        assert crd is not None
        assert crd["metadata"]["labels"] == {"app.kubernetes.io/part-of": "another-platform"}
