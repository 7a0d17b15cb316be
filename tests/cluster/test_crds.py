"""The CRDs on a real API server: good objects are taken, bad ones refused with a message."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from chrek import errors
from cluster import admission, kube, operator_process

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings(admission.WARNING)]
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
REFERENCE = {"enabled": True, "checkpointRef": "warm"}
SERVICE = {"extraPodSpec": {"mainContainer": {"image": "llama:1"}}}
HTTP = {"http": {"port": 8000, "path": "/sleep"}}
EXEC = {"exec": {"command": ["sleep.sh"]}}


def checkpoint(
    identity: Any = IDENTITY, job: Any = JOB, name: str = "c", **spec: Any
) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "DynamoCheckpoint",
        "metadata": {"name": name},
        "spec": {"identity": identity, "job": job, **spec},
    }


def of(**identity: Any) -> dict[str, Any]:
    """A checkpoint whose identity differs."""
    return checkpoint({**IDENTITY, **identity})


def capturing(*containers: Any, **job: Any) -> dict[str, Any]:
    """A checkpoint of these containers."""
    return checkpoint(job={"podTemplateSpec": {"spec": {"containers": list(containers)}}, **job})


def container(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": "i", **fields}


def graph(services: Any, name: str = "g") -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": name},
        "spec": {"services": services},
    }


def service(section: Any) -> dict[str, Any]:
    return graph({"Worker": {**SERVICE, "checkpoint": section}})


def worker(**fields: Any) -> dict[str, Any]:
    """A graph whose service differs."""
    return graph({"Worker": {**SERVICE, **fields}})


def running(**main: Any) -> dict[str, Any]:
    """A graph whose main container differs."""
    return worker(extraPodSpec={"mainContainer": {"image": "i", **main}})


@pytest.fixture(scope="module")
def server(namespaced: kube.Kube) -> kube.Kube:
    operator_process.install_crds(namespaced)
    return namespaced


@pytest.fixture(scope="module")
def asked(server: kube.Kube) -> admission.Admission:
    return admission.Admission(server)


@pytest.mark.parametrize(
    "item",
    [
        checkpoint(),
        checkpoint(FULL),
        checkpoint(OLDER),
        of(framework="vllm"),
        of(dynamoVersion="1", frameworkVersion="1"),
        checkpoint(name="e5962d34ba272638"),
        checkpoint(name="c" * 253),
        checkpoint(job={**JOB, "backoffLimit": 0, "ttlSecondsAfterFinished": 0}),
        checkpoint(job={**JOB, "readiness": "probe", "container": "main"}),
        checkpoint(job={"podTemplateSpec": {**POD, "futureField": {"a": [1]}}}),
        checkpoint(quiesce=HTTP, wake={**EXEC, "timeoutSeconds": 3600}),
        checkpoint(captureSource="worker", deletionPolicy="Retain"),
        {**checkpoint(), "spec": {"identity": IDENTITY, "captureSource": "worker"}},
        capturing(container("worker", command=["a"], args=["b"], env=[{"name": "A"}])),
        capturing(container("main"), container("proxy")),
        capturing(container("worker"), container("proxy"), container="worker"),
        service(SECTION),
        service({**SECTION, "mode": "auto"}),
        service({**SECTION, "mode": "Auto", "identity": OLDER}),
        service({"enabled": True, "checkpointRef": "e5962d34ba272638"}),
        service({"enabled": True, "mode": "reference", "checkpointRef": "llama3-8b-vllm-tp1"}),
        service({**REFERENCE, "mode": "Reference", "startupPolicy": "WaitForCheckpoint"}),
        service({**SECTION, "captureSource": "worker", "startupPolicy": "Immediate"}),
        service({**SECTION, "quiesce": HTTP, "wake": EXEC, "readiness": "file"}),
        service({**SECTION, "job": {"backoffLimit": 0}, "deletionPolicy": "Retain"}),
        service({"enabled": False}),
        service({}),
        worker(replicas=0, envs=[{"name": "A", "value": "1"}]),
        worker(envs=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]),
        worker(resources={"limits": {"nvidia.com/gpu": 1}, "requests": {"cpu": "500m"}}),
        running(args=["python3 -m dynamo.vllm"], env=[{"name": "A", "value": "1"}]),
        graph({"a": SERVICE, "B-1_c.d": SERVICE}),
    ],
)
def test_good_objects(asked: admission.Admission, item: dict[str, Any]) -> None:
    asked.create(item)


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


IN_JOB = "spec.job.podTemplateSpec.spec.containers"
IN_MAIN = "spec.services.Worker.extraPodSpec.mainContainer"
IN_SERVICE = "spec.services.Worker.checkpoint"
BACKENDS = 'supported values: "vllm", "sglang", "trtllm"'
DIFFER = "they differ here"
MODES = 'supported values: "auto", "Auto", "reference", "Reference"'
NAMED = "a service's name consists of letters, digits, '-', '_' and '.', and begins and ends with"

BAD = [
    # Names.
    (checkpoint(name="Llama"), 'metadata.name: Invalid value: "Llama": a lowercase RFC 1123'),
    (checkpoint(name="llama_3"), "must consist of lower case alphanumeric characters, '-' or '.'"),
    (checkpoint(name="c" * 254), "must be no more than 253 characters"),
    (graph({"Worker": SERVICE}, name="g" * 64), "metadata.name must be at most 63 characters"),
    (graph({"a b": SERVICE}), NAMED),
    (graph({"-a": SERVICE}), NAMED),
    (graph({"a.": SERVICE}), NAMED),
    (graph({"": SERVICE}), NAMED),
    (graph({"W" * 64: SERVICE}), "a service's name is at most 63 characters"),
    # What is missing.
    (without(checkpoint(), "spec"), "spec: Required value"),
    (without(checkpoint(), "spec", "identity"), "spec.identity: Required value"),
    (without(checkpoint(), "spec", "job"), "spec: Invalid value: "),
    (without(checkpoint(), "spec", "job"), "job is required: it holds the pod that is captured."),
    (without(checkpoint(captureSource="job"), "spec", "job"), "job is required"),
    (checkpoint(job={}), "spec.job.podTemplateSpec: Required value"),
    (checkpoint(job={"podTemplateSpec": {}}), "spec.job.podTemplateSpec.spec: Required value"),
    (checkpoint(job={"podTemplateSpec": {"spec": {}}}), f"{IN_JOB}: Required value"),
    (capturing(), "should have at least 1 items"),
    (capturing({"name": "main"}), f"{IN_JOB}[0].image: Required value"),
    (capturing({"image": "i"}), f"{IN_JOB}[0].name: Required value"),
    (checkpoint({"backendFramework": "vllm"}), "spec.identity.model: Required value"),
    (checkpoint({"model": "m"}), "backendFramework is required (vllm, sglang or trtllm)"),
    (checkpoint({}), "spec.identity.model: Required value"),
    (of(model=None), "spec.identity.model: Required value"),
    (without(graph({}), "spec"), "spec: Required value"),
    ({**graph({}), "spec": {}}, "spec.services: Required value"),
    (graph({}), "spec.services in body should have at least 1 properties"),
    (graph({"Worker": {}}), "spec.services.Worker.extraPodSpec: Required value"),
    (worker(extraPodSpec={}), f"{IN_MAIN}: Required value"),
    (worker(extraPodSpec={"mainContainer": {}}), f"{IN_MAIN}.image: Required value"),
    (worker(envs=[{"value": "1"}]), "spec.services.Worker.envs[0].name: Required value"),
    # What is empty, too long or out of range.
    (of(model=""), "spec.identity.model in body should be at least 1 chars long"),
    (of(model="m" * 1025), "spec.identity.model: Too long: may not be more than 1024 bytes"),
    (of(dtype="d" * 257), "spec.identity.dtype: Too long: may not be more than 256 bytes"),
    (of(tensorParallelSize=0), "spec.identity.tensorParallelSize in body should be greater than"),
    (of(pipelineParallelSize=-1), "greater than or equal to 1"),
    (of(maxModelLen=0), "spec.identity.maxModelLen in body should be greater than or equal to 1"),
    (of(extraParameters={str(n): "" for n in range(65)}), "Too many: 65: must have at most 64"),
    (of(extraParameters={"a": "b" * 4097}), "extraParameters.a: Too long"),
    (checkpoint(job={**JOB, "backoffLimit": -1}), "greater than or equal to 0"),
    (checkpoint(job={**JOB, "activeDeadlineSeconds": 0}), "greater than or equal to 1"),
    (checkpoint(job={**JOB, "ttlSecondsAfterFinished": -1}), "greater than or equal to 0"),
    (checkpoint(job={**JOB, "container": ""}), "spec.job.container in body should be at least 1"),
    (checkpoint(job={**JOB, "container": "c" * 64}), "spec.job.container: Too long"),
    (capturing(container("")), f"{IN_JOB}[0].name in body should be at least 1 chars long"),
    (capturing(container("main", image="")), f"{IN_JOB}[0].image in body should be at least 1"),
    (running(image=""), f"{IN_MAIN}.image in body should be at least 1 chars long"),
    (worker(replicas=-1), "spec.services.Worker.replicas in body should be greater than or equal"),
    (worker(envs=[{"name": ""}]), "envs[0].name in body should be at least 1 chars long"),
    (graph({f"s{n}": SERVICE for n in range(65)}), "Too many: 65: must have at most 64 items"),
    (service({**REFERENCE, "checkpointRef": ""}), "should be at least 1 chars long"),
    (service({**REFERENCE, "checkpointRef": "c" * 254}), "may not be more than 253 bytes"),
    # Wrong types.
    ({**checkpoint(), "spec": "x"}, 'must be of type object: "string"'),
    (checkpoint("vllm"), 'spec.identity in body must be of type object: "string"'),
    (checkpoint(job=[]), 'spec.job in body must be of type object: "array"'),
    (of(model=5), 'spec.identity.model in body must be of type string: "integer"'),
    (of(dtype=16), 'spec.identity.dtype in body must be of type string: "integer"'),
    (of(dynamoVersion=0.9), 'spec.identity.dynamoVersion in body must be of type string: "number"'),
    (of(tensorParallelSize="2"), 'must be of type integer: "string"'),
    (of(tensorParallelSize=2.5), 'must be of type integer: "number"'),
    (of(tensorParallelSize=True), 'must be of type integer: "boolean"'),
    (of(maxModelLen="8k"), 'spec.identity.maxModelLen in body must be of type integer: "string"'),
    (of(extraParameters={"a": 1}), "extraParameters.a in body must be of type string"),
    (of(extraParameters={"a": True}), "extraParameters.a in body must be of type string"),
    (of(extraParameters=["a"]), "extraParameters in body must be of type object"),
    (checkpoint(job={**JOB, "activeDeadlineSeconds": "1h"}), "must be of type integer"),
    (checkpoint(job={**JOB, "backoffLimit": "3"}), "spec.job.backoffLimit in body must be of type"),
    (
        capturing(container("main", command="python3 -m x")),
        f"{IN_JOB}[0].command in body must be of type array",
    ),
    (
        capturing(container("main", env=[{"name": "A", "value": 1}])),
        f"{IN_JOB}[0].env[0].value in body must be of type string",
    ),
    (running(args="python3 -m x"), f"{IN_MAIN}.args in body must be of type array"),
    (running(command=["a", 1]), f"{IN_MAIN}.command[1] in body must be of type string"),
    (
        running(env=[{"name": "A", "value": True}]),
        f"{IN_MAIN}.env[0].value in body must be of type string",
    ),
    (worker(replicas="2"), "spec.services.Worker.replicas in body must be of type integer"),
    (worker(envs=[{"name": "A", "value": 1}]), "envs[0].value in body must be of type string"),
    (graph(["Worker"]), "spec.services in body must be of type object"),
    (service(True), f"{IN_SERVICE} in body must be of type object"),
    (service({**SECTION, "enabled": "yes"}), f"{IN_SERVICE}.enabled in body must be of type bool"),
    (service({**REFERENCE, "checkpointRef": 5}), f"{IN_SERVICE}.checkpointRef in body must be of"),
    # Words that there are not.
    (of(backendFramework="tgi"), BACKENDS),
    (of(backendFramework="vLLM"), BACKENDS),
    (checkpoint({"model": "m", "framework": "tgi"}), BACKENDS),
    (checkpoint(captureSource="pod"), 'supported values: "job", "worker"'),
    (checkpoint(deletionPolicy="delete"), 'supported values: "Delete", "Retain"'),
    (checkpoint(job={**JOB, "readiness": "maybe"}), 'supported values: "auto", "file", "probe"'),
    (service({**SECTION, "mode": "manual"}), MODES),
    (service({**SECTION, "mode": "AUTO"}), MODES),
    (service({**SECTION, "startupPolicy": "Wait"}), '"Immediate", "WaitForCheckpoint"'),
    (service({**SECTION, "captureSource": "pod"}), 'supported values: "job", "worker"'),
    (service({**SECTION, "deletionPolicy": "Never"}), 'supported values: "Delete", "Retain"'),
    (service({**SECTION, "readiness": "tcp"}), 'supported values: "auto", "file", "probe"'),
    # Older and newer name of one field.
    (of(framework="sglang"), f"framework is the older name of backendFramework; {DIFFER}"),
    (
        of(dynamoVersion="1", frameworkVersion="2"),
        f"frameworkVersion is the older name of dynamoVersion; {DIFFER}",
    ),
    (service({**SECTION, "identity": {**IDENTITY, "framework": "sglang"}}), DIFFER),
    (service({**SECTION, "identity": {**OLDER, "dynamoVersion": "1"}}), DIFFER),
    # Containers.
    (
        checkpoint(job={**JOB, "container": "other"}),
        "container is the name of none of podTemplateSpec.spec.containers",
    ),
    (
        capturing(container("a"), container("b")),
        "container is required: there is more than one container, and none is called main",
    ),
    (capturing(container("main"), container("main")), f"{IN_JOB}[1]: Duplicate value"),
    # Modes.
    (service({"enabled": True}), "needs identity (mode auto) or checkpointRef (mode reference)"),
    (service({"enabled": True, "mode": "auto"}), "mode auto needs identity and takes no"),
    (service({**SECTION, "mode": "reference"}), "mode reference needs checkpointRef"),
    (service({**SECTION, "mode": "Reference"}), "mode reference needs checkpointRef"),
    (
        service({**SECTION, "mode": "auto", "checkpointRef": "x"}),
        "mode auto needs identity and takes no checkpointRef",
    ),
    (service({**REFERENCE, "mode": "Auto"}), "mode auto needs identity and takes no checkpointRef"),
    (
        service({**REFERENCE, "checkpointRef": "My Llama"}),
        "checkpointRef is the name of a DynamoCheckpoint or its hash, of lower case letters,",
    ),
    (
        service({**REFERENCE, "checkpointRef": "E5962D34BA272638"}),
        "checkpointRef is the name of a DynamoCheckpoint or its hash",
    ),
    (service({**SECTION, "identity": {"model": "m"}}), "backendFramework is required"),
    (service({**SECTION, "identity": {**IDENTITY, "maxModelLen": 0}}), "greater than or equal to"),
    (service({**SECTION, "identity": None}), "needs identity (mode auto) or checkpointRef"),
    # Calls around a capture.
    (checkpoint(quiesce={}), "spec.quiesce: Invalid value: "),
    (checkpoint(quiesce={}), "give either http or exec"),
    (checkpoint(quiesce={**HTTP, **EXEC}), "give either http or exec"),
    (checkpoint(wake={"timeoutSeconds": 5}), "give either http or exec"),
    (checkpoint(quiesce={"http": {"path": "/a"}}), "spec.quiesce.http.port: Required value"),
    (checkpoint(wake={"http": {"port": 1}}), "spec.wake.http.path: Required value"),
    (checkpoint(wake={"exec": {}}), "spec.wake.exec.command: Required value"),
    (checkpoint(wake={"exec": {"command": []}}), "should have at least 1 items"),
    (checkpoint(wake={"exec": {"command": "wake.sh"}}), "command in body must be of type array"),
    (checkpoint(quiesce={"http": {"port": 1, "path": "sleep"}}), "a path begins with /"),
    (checkpoint(quiesce={"http": {"port": 0, "path": "/a"}}), "greater than or equal to 1"),
    (checkpoint(quiesce={"http": {"port": 65536, "path": "/a"}}), "less than or equal to 65535"),
    (checkpoint(quiesce={"http": {"port": "web", "path": "/"}}), "port in body must be of type"),
    (checkpoint(quiesce={**HTTP, "timeoutSeconds": 0}), "greater than or equal to 1"),
    (checkpoint(wake={**HTTP, "timeoutSeconds": 3601}), "less than or equal to 3600"),
    (service({**SECTION, "quiesce": {**HTTP, **EXEC}}), "give either http or exec"),
    (service({**SECTION, "wake": {}}), "give either http or exec"),
    (service({**SECTION, "job": {"activeDeadlineSeconds": 0}}), "greater than or equal to 1"),
    # Fields that there are not.
    (of(quantization="awq"), 'unknown field "spec.identity.quantization"'),
    (checkpoint(job={**JOB, "deadline": 1}), 'unknown field "spec.job.deadline"'),
    (checkpoint(storage="s3"), 'unknown field "spec.storage"'),
    (worker(checkpiont={}), 'unknown field "spec.services.Worker.checkpiont"'),
    (
        service({**SECTION, "job": {"podTemplateSpec": POD}}),
        f'unknown field "{IN_SERVICE}.job.podTemplateSpec"',
    ),
]


@pytest.mark.parametrize(("item", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_objects(asked: admission.Admission, item: dict[str, Any], message: str) -> None:
    assert message in asked.refusal(item)


def test_there_are_many_bad_objects() -> None:
    assert len(BAD) >= 60


def test_unknown_fields_of_those_who_do_not_ask_are_dropped(
    server: kube.Kube, asked: admission.Admission
) -> None:
    """The API server warns and prunes; kubectl asks for more (`--validate`, on by default)."""
    made = asked.create(of(quantization="awq"), validation="Warn")
    assert "quantization" not in made["spec"]["identity"]
    text = yaml.safe_dump(of(quantization="awq"))
    for flag in ("--validate=strict", "--validate=true"):
        with pytest.raises(kube.RefusedError, match=r'unknown field "spec.identity.quantization"'):
            server.kubectl("apply", "--dry-run=server", flag, "-f", "-", text=text)


def test_defaults(asked: admission.Admission) -> None:
    spec = asked.create(checkpoint())["spec"]
    assert spec["identity"]["tensorParallelSize"] == 1
    assert spec["identity"]["pipelineParallelSize"] == 1
    assert (spec["captureSource"], spec["deletionPolicy"]) == ("job", "Delete")
    job = without(spec["job"], "podTemplateSpec")
    assert job == {"activeDeadlineSeconds": 3600, "backoffLimit": 3, "readiness": "auto"}
    assert asked.create(worker())["spec"]["services"]["Worker"]["replicas"] == 1
    section = asked.create(service(SECTION))["spec"]["services"]["Worker"]["checkpoint"]
    assert section["startupPolicy"] == "Immediate"
    assert (section["captureSource"], section["deletionPolicy"]) == ("job", "Delete")
    assert asked.create(service({}))["spec"]["services"]["Worker"]["checkpoint"]["enabled"] is False


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "fp8"},
        {"dtype": None},
        {"model": "other"},
        {"backendFramework": "sglang"},
        {"framework": "sglang", "backendFramework": None},
        {"frameworkVersion": "1.0.0", "dynamoVersion": None},
        {"tensorParallelSize": 2},
        {"pipelineParallelSize": 2},
        {"maxModelLen": None},
        {"extraParameters": None},
        {"extraParameters": {"quantization": "gptq"}},
    ],
    ids=str,
)
def test_an_identity_cannot_change(
    server: kube.Kube, asked: admission.Admission, change: dict[str, Any]
) -> None:
    server.apply(checkpoint(FULL))
    with pytest.raises(errors.ApiError, match="the identity of a checkpoint cannot change; create"):
        asked.change(checkpoint(), {"identity": change})


@pytest.mark.parametrize(
    "change",
    [
        {"framework": "vllm"},
        {"framework": "vllm", "backendFramework": None},
        {"frameworkVersion": "0.9.0", "dynamoVersion": None},
    ],
    ids=str,
)
def test_an_identity_can_be_spelled_otherwise(
    server: kube.Kube, asked: admission.Admission, change: dict[str, Any]
) -> None:
    server.apply(checkpoint(FULL))
    asked.change(checkpoint(), {"identity": change})


def test_empty_and_unset_are_one(server: kube.Kube, asked: admission.Admission) -> None:
    server.apply(checkpoint(name="bare"))
    asked.change(
        checkpoint(name="bare"),
        {"identity": {"dtype": "", "dynamoVersion": "", "extraParameters": {}}},
    )
    with pytest.raises(errors.ApiError, match="the identity of a checkpoint cannot change"):
        asked.change(checkpoint(name="bare"), {"identity": {"dtype": "fp8"}})


def test_the_rest_of_a_checkpoint_can_change(server: kube.Kube) -> None:
    server.apply(checkpoint(FULL, name="changing"))
    server.apply(checkpoint(FULL, {**JOB, "backoffLimit": 7}, name="changing"))
    assert server.get("dckpt", "changing")["spec"]["job"]["backoffLimit"] == 7


def test_the_crds_are_small() -> None:
    """They are part of the release's Secret, which may be a megabyte at most."""
    for path in (REPOSITORY / "charts" / "chrek" / "files" / "crds").iterdir():
        assert path.stat().st_size < 30_000
        assert yaml.safe_load(path.read_text())["kind"] == "CustomResourceDefinition"
