"""Checkpoints, pods, Events and webhooks as the commands that explain them meet them."""

from __future__ import annotations

import copy
import json

from chrek import identity, variant

NAMESPACE = "team"
CHECKPOINTS = "/apis/nvidia.com/v1alpha1/namespaces/team/dynamocheckpoints"
EVERY_CHECKPOINT = "/apis/nvidia.com/v1alpha1/dynamocheckpoints"
GRAPHS = "/apis/nvidia.com/v1alpha1/namespaces/team/dynamographdeployments"
PODS = "/api/v1/namespaces/team/pods"
EVERY_POD = "/api/v1/pods"
EVENTS = "/api/v1/namespaces/team/events"
DEPLOYMENTS = "/apis/apps/v1/namespaces/team/deployments"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"

IDENTITY = {"model": "meta-llama/Llama-3-8B", "backendFramework": "vllm"}
HASH = identity.parse(IDENTITY).hash()
UUID = "11111111-2222-4333-8444-555555555555"
COMMAND = ["python3", "-m", "dynamo.vllm"]
STEPS = {"digest": 0.4, "dump": 1.2, "files": 0.01, "preflight": 0.002, "sync": 0.3}
T0 = "2026-01-29T10:00:00Z"


def container(image="llama:1", **fields):
    return {"name": "main", "image": image, "command": COMMAND, **fields}


def artifact(image="llama:1", *, uuid=UUID, **fields):
    return {
        "name": variant.of_container(container(image)),
        "uuid": uuid,
        "digest": "sha256:" + "a" * 64,
        "image": image,
        "node": "n1",
        "bytes": 1400000000,
        "createdAt": T0,
        "steps": STEPS,
        **fields,
    }


def checkpoint(
    name="llama",
    phase="Ready",
    *,
    variants=None,
    captures=None,
    worker=False,
    spec=None,
    **metadata,
):
    """A DynamoCheckpoint of namespace team, as the operator leaves it."""
    reason, message = {
        "Ready": ("Checkpointed", "captured on node n1, 1.3Gi"),
        "Failed": ("CriuFailed", "criu dump: exit status 1"),
        "Pending": ("WaitingForPod", "waiting for the checkpoint job's pod"),
    }[phase]
    if variants is None:
        variants = [artifact()] if phase == "Ready" else []
    spec = spec or {"containers": [container()]}
    status = {
        "phase": phase,
        "message": message,
        "identityHash": HASH,
        "location": f"/checkpoints/{HASH}",
        "storageType": "pvc",
        "variants": variants,
        "captures": captures or [],
        "conditions": [
            {
                "type": "Ready",
                "status": "True" if phase == "Ready" else "False",
                "reason": reason,
                "message": message,
                "lastTransitionTime": T0,
            }
        ],
    }
    return {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoCheckpoint",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"uid-{name}",
            "creationTimestamp": T0,
            **metadata,
        },
        "spec": {
            "identity": IDENTITY,
            **(
                {"captureSource": "worker"}
                if worker
                else {"job": {"podTemplateSpec": {"spec": spec}}}
            ),
        },
        "status": copy.deepcopy(status),
    }


def pod(name="llm-1", *, wanted="llama", start=None, injected=True, annotations=None, **changes):
    """A worker's pod; `start` is the agent's annotation."""
    main = {**container(), **changes.pop("container", {})}
    if injected:
        main["command"] = ["/chrek/chrek-init", "--wait", "20", "--", *main["command"]]
    found = {"nvidia.com/chrek-checkpoint": wanted} if wanted else {}
    if start:
        found["nvidia.com/chrek-start"] = json.dumps({"uuid": "", "variant": "", "at": T0, **start})
    labels = {"app": "llm", **({"nvidia.com/chrek-managed": "true"} if injected else {})}
    metadata = {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"uid-{name}",
        "creationTimestamp": T0,
        "annotations": {**found, **(annotations or {})},
        "labels": {**labels, **changes.pop("labels", {})},
        **changes.pop("metadata", {}),
    }
    status = {"phase": "Running", **changes.pop("status", {})}
    spec = {"nodeName": "n1", "containers": [main], **changes}
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


def restored(**fields):
    message = f"restored 1.40 GB of checkpoint {HASH} in 1.17 s (0.95 s in CRIU)"
    start = {"outcome": "restored", "reason": "Restored", "message": message, "uuid": UUID}
    start["seconds"] = 1.17
    return {**start, "variant": artifact()["name"], **fields}


def cold(reason, message="because", **fields):
    return {"outcome": "cold", "reason": reason, "message": message, **fields}


def owned(kind, name, **labels):
    """Metadata and labels of a pod that something makes."""
    owner = {"kind": kind, "name": name, "uid": "uid-owner", "controller": True}
    return {"metadata": {"ownerReferences": [owner]}, "labels": labels}


def deployment(name="llm"):
    return {
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {}, "spec": {"containers": [container()]}},
        },
    }


def of_deployment(name="llm"):
    return owned("ReplicaSet", f"{name}-5d9", **{"pod-template-hash": "5d9"})


def event(reason, message="words", *, about="llm-1", component="chrek-agent", at=T0):
    return {
        "metadata": {"name": f"{about}.{reason}", "namespace": NAMESPACE},
        "involvedObject": {"kind": "Pod", "name": about, "uid": f"uid-{about}"},
        "reportingComponent": f"nvidia.com/{component}",
        "type": "Warning",
        "reason": reason,
        "message": message,
        "eventTime": at,
    }


def webhook(*namespaces, release="chrek", bundle="Y2E=", inside="team"):
    selector = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [*namespaces]}
    labels = {"app.kubernetes.io/part-of": "chrek", "app.kubernetes.io/instance": release}
    return {
        "metadata": {"name": f"{inside}-{release}", "labels": labels},
        "webhooks": [
            {
                "name": "pods.chrek.nvidia.com",
                "clientConfig": {
                    "service": {"namespace": inside, "name": "chrek-webhook"},
                    **({"caBundle": bundle} if bundle else {}),
                },
                "namespaceSelector": {"matchExpressions": [selector]},
            }
        ],
    }


def cluster(api, *checkpoints, pods=(), everywhere=False):
    """Put them into an API server; the fake one knows no lists over all namespaces."""
    for item in checkpoints:
        api.add(EVERY_CHECKPOINT if everywhere else CHECKPOINTS, item)
    for item in pods:
        api.add(EVERY_POD if everywhere else PODS, item)
    api.add(WEBHOOKS, webhook(NAMESPACE))
