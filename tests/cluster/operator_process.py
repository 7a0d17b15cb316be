"""Objects for the tests of the operator, and the operator itself: see `showcase.site`.

Pods of these tests are on a node that does not exist: the tests say what becomes of them, as
kubelet and agent would.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster import kube
from showcase import site

NOWHERE = site.NOWHERE
Operator = site.Operator
IDENTITY = {"model": "meta-llama/Llama-3-8B", "backendFramework": "vllm", "dtype": "bfloat16"}
HASH = "5941a4cb3c363457"
RESULT = {
    "uuid": "3f2c",
    "variant": "abcdef012345",
    "digest": "b3:00",
    "location": f"/checkpoints/{HASH}",
    "bytes": 1 << 30,
    "node": "n1",
    "image": "llama:1",
    "steps": {"dump": 1.25},
    "createdAt": "2026-01-29T10:05:00Z",
}


def install_crds(connected: kube.Kube) -> None:
    """The chart's CRDs, from this checkout."""
    site.install_crds(connected.where.kubeconfig)


class Site(site.Site):
    """What the operator needs in the namespace of a test."""

    def __init__(self, connected: kube.Kube, folder: Path) -> None:
        self.kube = connected
        super().__init__(
            kubeconfig=connected.where.kubeconfig, namespace=connected.namespace, folder=folder
        )


def pod_spec(**changed: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "llama:1", "command": ["python3", "s.py"]}
    # No kubelet is there that would end them.
    ends = {"terminationGracePeriodSeconds": 0}
    return {"nodeName": NOWHERE, "containers": [{**container, **changed}], **ends}


def checkpoint(name: str, identity: dict[str, Any] | None = None, **job: Any) -> dict[str, Any]:
    return {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoCheckpoint",
        "metadata": {"name": name},
        "spec": {
            "identity": identity or IDENTITY,
            "job": {"podTemplateSpec": {"spec": pod_spec()}, **job},
        },
    }


def graph(name: str, section: dict[str, Any], **main: Any) -> dict[str, Any]:
    container = {"image": "llama:1", "args": ["python3 s.py"], **main}
    ends = {"terminationGracePeriodSeconds": 0}
    pod = {"nodeName": NOWHERE, "mainContainer": container, **ends}
    service = {"replicas": 1, "extraPodSpec": pod, "checkpoint": {"enabled": True, **section}}
    return {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": name},
        "spec": {"services": {"VllmWorker": service}},
    }


def items(connected: kube.Kube, kind: str, selector: str = "") -> list[dict[str, Any]]:
    words = [f"--selector={selector}"] if selector else []
    found: list[dict[str, Any]] = json.loads(connected.kubectl("get", kind, "-o", "json", *words))[
        "items"
    ]
    return found
