"""The CRDs on a real API server: the user documents' objects are taken, bad ones are refused."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import kube, operator_process

pytestmark = pytest.mark.cluster
REPOSITORY = Path(__file__).resolve().parents[2]
API_VERSION = "nvidia.com/v1alpha1"

IDENTITY = {"model": "meta-llama/Llama-3-8B", "backendFramework": "vllm"}
FULL = {
    **IDENTITY,
    "dynamoVersion": "0.9.0",
    "tensorParallelSize": 1,
    "pipelineParallelSize": 1,
    "dtype": "bfloat16",
    "maxModelLen": 8192,
    "extraParameters": {"enableChunkedPrefill": "true", "quantization": "awq"},
}
OLDER = {"model": "m", "framework": "vllm", "frameworkVersion": "0.4.0"}
POD = {"spec": {"containers": [{"name": "main", "image": "llama:1"}]}}
JOB = {"podTemplateSpec": POD}
SECTION = {"enabled": True, "identity": IDENTITY}
SERVICE = {"extraPodSpec": {"mainContainer": {"image": "llama:1"}}}


def checkpoint(identity: Any = IDENTITY, job: Any = JOB, name: str = "c") -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "DynamoCheckpoint",
        "metadata": {"name": name},
        "spec": {"identity": identity, "job": job},
    }


def graph(services: Any, name: str = "g") -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": name},
        "spec": {"services": services},
    }


def service(section: Any) -> dict[str, Any]:
    return graph({"Worker": {**SERVICE, "checkpoint": section}})


@pytest.fixture(scope="module")
def server(namespaced: kube.Kube) -> kube.Kube:
    operator_process.install_crds(namespaced)
    return namespaced


def apply(server: kube.Kube, item: dict[str, Any]) -> dict[str, Any]:
    words = ["apply", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-"]
    made: dict[str, Any] = json.loads(server.kubectl(*words, text=json.dumps(item)))
    return made


@pytest.mark.parametrize(
    "item",
    [
        checkpoint(),
        checkpoint(FULL),
        checkpoint(OLDER),
        checkpoint({**IDENTITY, "framework": "vllm"}),
        checkpoint(name="e5962d34ba272638"),
        checkpoint(job={**JOB, "backoffLimit": 0, "ttlSecondsAfterFinished": 0}),
        checkpoint(job={**JOB, "readiness": "probe", "container": "worker"}),
        checkpoint(job={"podTemplateSpec": {**POD, "futureField": {"a": [1]}}}),
        service(SECTION),
        service({**SECTION, "mode": "auto"}),
        service({**SECTION, "mode": "Auto", "identity": OLDER}),
        service({"enabled": True, "checkpointRef": "e5962d34ba272638"}),
        service({"enabled": True, "mode": "reference", "checkpointRef": "llama3-8b-vllm-tp1"}),
        service({"enabled": False}),
        graph({"Worker": {**SERVICE, "replicas": 0, "envs": [{"name": "A", "value": "1"}]}}),
        graph({"Worker": {**SERVICE, "resources": {"limits": {"nvidia.com/gpu": 1}}}}),
    ],
)
def test_good_objects(server: kube.Kube, item: dict[str, Any]) -> None:
    apply(server, item)


def test_the_examples(server: kube.Kube) -> None:
    for name in ("my-llm.yaml", "checkpoint.yaml"):
        path = REPOSITORY / "examples" / name
        server.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", os.fspath(path))


def without(item: dict[str, Any], *path: str) -> dict[str, Any]:
    made = copy.deepcopy(item)
    place = made
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return made


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (without(checkpoint(), "spec"), "spec: Required value"),
        (without(checkpoint(), "spec", "identity"), "spec.identity: Required value"),
        (without(checkpoint(), "spec", "job"), "spec.job: Required value"),
        (checkpoint({"backendFramework": "vllm"}), "spec.identity.model: Required value"),
        (checkpoint({"model": "m"}), "backendFramework is required"),
        (checkpoint({**IDENTITY, "model": ""}), "spec.identity.model: Invalid value"),
        (checkpoint({**IDENTITY, "model": 5}), "must be of type string"),
        (checkpoint({**IDENTITY, "backendFramework": "tgi"}), '"vllm", "sglang", "trtllm"'),
        (checkpoint({**IDENTITY, "framework": "sglang"}), "is the older name of backendFramework"),
        (
            checkpoint({**IDENTITY, "dynamoVersion": "1", "frameworkVersion": "2"}),
            "is the older name of dynamoVersion",
        ),
        (checkpoint({**IDENTITY, "tensorParallelSize": 0}), "greater than or equal to 1"),
        (checkpoint({**IDENTITY, "pipelineParallelSize": -1}), "greater than or equal to 1"),
        (checkpoint({**IDENTITY, "maxModelLen": 0}), "greater than or equal to 1"),
        (checkpoint({**IDENTITY, "tensorParallelSize": "2"}), "must be of type integer"),
        (checkpoint({**IDENTITY, "extraParameters": {"a": 1}}), "must be of type string"),
        (checkpoint({**IDENTITY, "quantization": "awq"}), 'unknown field "spec.identity.quantiz'),
        (checkpoint(job={}), "spec.job.podTemplateSpec: Required value"),
        (checkpoint(job={"podTemplateSpec": {}}), "podTemplateSpec.spec: Required value"),
        (
            checkpoint(job={"podTemplateSpec": {"spec": {"containers": []}}}),
            "should have at least 1 items",
        ),
        (
            checkpoint(job={"podTemplateSpec": {"spec": {"containers": [{"name": "main"}]}}}),
            "containers[0].image: Required value",
        ),
        (checkpoint(job={**JOB, "backoffLimit": -1}), "greater than or equal to 0"),
        (checkpoint(job={**JOB, "activeDeadlineSeconds": 0}), "greater than or equal to 1"),
        (checkpoint(job={**JOB, "activeDeadlineSeconds": "1h"}), "must be of type integer"),
        (checkpoint(job={**JOB, "ttlSecondsAfterFinished": -1}), "greater than or equal to 0"),
        (checkpoint(job={**JOB, "readiness": "maybe"}), '"auto", "file", "probe"'),
        (checkpoint(job={**JOB, "deadline": 1}), 'unknown field "spec.job.deadline"'),
        (graph({}), "should have at least 1 properties"),
        (graph({"Worker": {}}), "extraPodSpec: Required value"),
        (graph({"Worker": {"extraPodSpec": {}}}), "mainContainer: Required value"),
        (graph({"Worker": {"extraPodSpec": {"mainContainer": {}}}}), "image: Required value"),
        (
            graph({"Worker": {"extraPodSpec": {"mainContainer": {"image": "i", "args": "a b"}}}}),
            "must be of type array",
        ),
        (graph({"Worker": {**SERVICE, "replicas": -1}}), "greater than or equal to 0"),
        (graph({"Worker": {**SERVICE, "envs": [{"value": "1"}]}}), "name: Required value"),
        (graph({"Worker": {**SERVICE, "checkpiont": {}}}), 'unknown field "spec.services.Worker.c'),
        (graph({"a b": SERVICE}), "a service's name consists of letters"),
        (graph({"W" * 64: SERVICE}), "a service's name is at most 63 characters"),
        (graph({"Worker": SERVICE}, name="g" * 64), "metadata.name must be at most 63 characters"),
        (service({"enabled": True}), "needs identity (mode auto) or checkpointRef"),
        (service({**SECTION, "mode": "manual"}), '"auto", "Auto", "reference", "Reference"'),
        (service({**SECTION, "mode": "reference"}), "mode reference needs checkpointRef"),
        (
            service({**SECTION, "mode": "auto", "checkpointRef": "x"}),
            "mode auto takes identity and no checkpointRef",
        ),
        (
            service({"enabled": True, "mode": "auto", "checkpointRef": "x"}),
            "mode auto takes identity and no checkpointRef",
        ),
        (service({"enabled": True, "checkpointRef": ""}), "at least 1 chars long"),
        (service({"enabled": "yes", "identity": IDENTITY}), "must be of type boolean"),
        (service({**SECTION, "identity": {"model": "m"}}), "backendFramework is required"),
        (
            service({**SECTION, "identity": {**IDENTITY, "tensorParallelSize": 0}}),
            "greater than or equal to 1",
        ),
    ],
)
def test_bad_objects(server: kube.Kube, item: dict[str, Any], message: str) -> None:
    with pytest.raises(kube.RefusedError) as caught:
        apply(server, item)
    assert message in str(caught.value)


def test_defaults(server: kube.Kube) -> None:
    spec = apply(server, checkpoint())["spec"]
    assert spec["identity"]["tensorParallelSize"] == 1
    assert spec["identity"]["pipelineParallelSize"] == 1
    job = without(spec["job"], "podTemplateSpec")
    assert job == {"activeDeadlineSeconds": 3600, "backoffLimit": 3, "readiness": "auto"}
    assert apply(server, graph({"Worker": SERVICE}))["spec"]["services"]["Worker"]["replicas"] == 1


def test_an_identity_cannot_change_and_the_job_can(server: kube.Kube) -> None:
    server.apply(checkpoint(FULL))
    with pytest.raises(kube.RefusedError, match="the identity of a checkpoint cannot change"):
        server.apply(checkpoint({**FULL, "dtype": "fp8"}))
    server.apply(checkpoint(FULL, {**JOB, "backoffLimit": 7}))
    assert server.get("dckpt", "c")["spec"]["job"]["backoffLimit"] == 7


def test_the_crds_are_small() -> None:
    """They are part of the release's Secret, which may be a megabyte at most."""
    for path in (REPOSITORY / "charts" / "chrek" / "crds").iterdir():
        assert path.stat().st_size < 20_000
        assert yaml.safe_load(path.read_text())["kind"] == "CustomResourceDefinition"
