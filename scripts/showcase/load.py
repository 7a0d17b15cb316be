"""Many DynamoCheckpoints and DynamoGraphDeployments of usual size, and what is said of their pods.

The cluster's scheduler leaves the pods alone, as another scheduler is asked for: none of them ever
gets a node, so no kubelet meets them.
"""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Mapping
from typing import Any

from chrek import names, variant

Object = dict[str, Any]

SCHEDULER = "chrek-bench"
SERVICE = "VllmWorker"
GIGABYTES = 16


def identity(number: int) -> Object:
    """An identity that no other number has."""
    return {
        "model": f"meta-llama/Llama-3-8B-{number:04}",
        "backendFramework": "vllm",
        "dynamoVersion": "0.9.0",
        "tensorParallelSize": 1,
        "dtype": "bfloat16",
        "maxModelLen": 8192,
    }


def container(number: int) -> Object:
    """A worker's container."""
    return {
        "name": "main",
        "image": "registry.example/dynamo/vllm-runtime:0.9.0",
        "command": ["python3", "-m", "dynamo.vllm"],
        "args": ["--model", f"meta-llama/Llama-3-8B-{number:04}", "--max-model-len", "8192"],
        "env": [
            {"name": "HF_HOME", "value": "/models"},
            {"name": "DYN_NAMESPACE", "value": "bench"},
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}},
        ],
        "ports": [{"name": "http", "containerPort": 8000}],
        "resources": {
            "requests": {"cpu": "4", "memory": "32Gi"},
            "limits": {"nvidia.com/gpu": "1"},
        },
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1},
        "volumeMounts": [{"name": "models", "mountPath": "/models"}],
    }


def checkpoint(number: int) -> Object:
    """The DynamoCheckpoint of a number."""
    pod = {
        "schedulerName": SCHEDULER,
        "containers": [container(number)],
        "volumes": [_models()],
    }
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.CHECKPOINT_KIND,
        "metadata": {"name": checkpoint_name(number)},
        "spec": {"identity": identity(number), "job": {"podTemplateSpec": {"spec": pod}}},
    }


def checkpoint_name(number: int) -> str:
    return f"checkpoint-{number:04}"


def graph(number: int, *, auto: bool) -> Object:
    """The DynamoGraphDeployment of a number.

    Args:
        number: the same as that of the checkpoint that it uses.
        auto: the operator makes the checkpoint; else the graph names one.
    """
    main = {key: value for key, value in container(number).items() if key != "name"}
    pod = {"schedulerName": SCHEDULER, "mainContainer": main, "volumes": [_models()]}
    section: Object = {"enabled": True}
    section |= (
        {"identity": identity(number)} if auto else {"checkpointRef": checkpoint_name(number)}
    )
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.GRAPH_KIND,
        "metadata": {"name": f"graph-{number:04}"},
        "spec": {
            "services": {SERVICE: {"replicas": 1, "extraPodSpec": pod, "checkpoint": section}}
        },
    }


def _models() -> Object:
    return {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}


def result(pod: Mapping[str, Any], identity_hash: str) -> str:
    """What the agent writes onto a pod that it captured."""
    captured = pod["spec"]["containers"][0]
    return json.dumps(
        {
            "uuid": str(uuid.uuid4()),
            "variant": variant.of_container(captured),
            "digest": f"b3:{0:064x}",
            "location": f"/checkpoints/{identity_hash}",
            "bytes": GIGABYTES << 30,
            "node": "n1",
            "image": captured["image"],
            "gpu": "",
            "steps": {"queued": 0.0, "quiesce": 0.2, "dump": 21.5, "digest": 9.25},
            "createdAt": _now(),
        }
    )


def cold_start() -> str:
    """What the agent writes onto a worker that starts while its checkpoint is made."""
    return json.dumps(
        {
            "outcome": "cold",
            "reason": str(names.Reason.CHECKPOINT_NOT_READY),
            "message": "the checkpoint is being made",
            "uuid": "",
            "variant": "",
            "at": _now(),
        }
    )


def running(pod: Mapping[str, Any]) -> Object:
    """The status of a pod whose containers run and are ready."""
    now = _now()
    types = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    state = {"running": {"startedAt": now}}
    return {
        "phase": "Running",
        "startTime": now,
        "conditions": [
            {"type": type_, "status": "True", "lastTransitionTime": now} for type_ in types
        ],
        "containerStatuses": [_container(one, state, ready=True) for one in _containers(pod)],
    }


def succeeded(pod: Mapping[str, Any]) -> Object:
    """The status of a pod whose containers ended well."""
    now = _now()
    state = {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": now}}
    ended = {"status": "False", "reason": "PodCompleted", "lastTransitionTime": now}
    return {
        "phase": "Succeeded",
        "conditions": [{"type": type_, **ended} for type_ in ("ContainersReady", "Ready")],
        "containerStatuses": [_container(one, state, ready=False) for one in _containers(pod)],
    }


def _containers(pod: Mapping[str, Any]) -> list[Object]:
    found: list[Object] = pod["spec"]["containers"]
    return found


def _container(item: Object, state: Object, *, ready: bool) -> Object:
    return {
        "name": item["name"],
        "image": item["image"],
        "imageID": "",
        "ready": ready,
        "restartCount": 0,
        "state": state,
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
