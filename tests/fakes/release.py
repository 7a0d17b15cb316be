"""A release as hooks see it: settings, and the API server's paths for its objects."""

from __future__ import annotations

import msgspec
from kubernetes import client

from chrek.checks import settings
from chrek.kube import workstation

CRD = "dynamocheckpoints.nvidia.com"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
CLAIMS = "/api/v1/namespaces/team/persistentvolumeclaims"
PODS = "/api/v1/namespaces/team/pods"
NODES = "/api/v1/nodes"
DAEMON_SETS = "/apis/apps/v1/namespaces/team/daemonsets"
DEPLOYMENTS = "/apis/apps/v1/namespaces/team/deployments"
CONFIG_MAPS = "/api/v1/namespaces/team/configmaps"
SECRETS = "/api/v1/namespaces/team/secrets"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
CHECKPOINTS = "/apis/nvidia.com/v1alpha1/namespaces/team/dynamocheckpoints"

AGENT_LABELS = {"app.kubernetes.io/component": "agent"}
OPERATOR_LABELS = {"app.kubernetes.io/component": "operator"}

CLAIM = {
    "kind": "Claim",
    "name": "chrek-pvc",
    "create": True,
    "storageClassName": "",
    "accessModes": ["ReadWriteMany"],
    "size": "100Gi",
}
SERVER = {
    "kind": "Server",
    "type": "s3",
    "uri": "s3://bucket/prefix",
    "endpoint": "",
    "plainHttp": False,
    "credentialsSecret": "",
    "caConfigMap": "",
    "keySecret": "",
}


IDENTITY = {"model": "meta-llama/Llama-3-8B", "backendFramework": "vllm"}


def connect(api):
    configuration = client.Configuration()
    configuration.host = api.url
    return workstation.Cluster(configuration)


def config(*, claim=None, server=None, **changes):
    """Settings of a store on a volume, or of one on a server."""
    raw = {
        "apiVersion": "chrek.nvidia.com/v1alpha1",
        "kind": "ReleaseConfig",
        "helmRelease": "chrek",
        "release": "team-chrek",
        "namespace": "team",
        "watchNamespaces": ["team"],
        "crds": [CRD],
        "store": CLAIM | (claim or {}) if server is None else SERVER | server,
        "agentName": "chrek-agent",
        "agentLabels": AGENT_LABELS,
        "operatorName": "chrek-operator",
        "operatorLabels": OPERATOR_LABELS,
        "webhookName": "team-chrek",
        "testPodName": "chrek-test-round-trip",
        "identitiesName": "chrek-identities",
        "identities": [],
        "timeoutSeconds": 1,
        "maxUnavailableNodes": "10%",
        "agentHttpPort": 8089,
        "prewarm": [],
        "nodePaths": ["/var/lib/chrek/signals/team-chrek"],
    }
    return msgspec.convert({**raw, **changes}, settings.ReleaseConfig)


def prewarm(**changes):
    """A checkpoint of the values."""
    container = {"name": "main", "image": "worker", "command": ["serve"]}
    job = {"podTemplateSpec": {"spec": {"containers": [container]}}}
    wanted = {
        "name": "llama",
        "namespace": "team",
        "everyNode": True,
        "spec": {"identity": IDENTITY, "job": job},
    }
    return wanted | changes


def crd(*, version="v1alpha1", served=True, labels=None, annotations=None):
    return {
        "metadata": {
            "name": CRD,
            "labels": {"app.kubernetes.io/part-of": "chrek"} if labels is None else labels,
            "annotations": annotations or {},
            "managedFields": [{"manager": "kube-apiserver"}, {"manager": "dynamo-platform"}],
        },
        "spec": {"versions": [{"name": version, "served": served}]},
    }


def storage_class(name="shared", *, provisioner="nfs.csi.k8s.io", default=True, created="2026"):
    key = "storageclass.kubernetes.io/is-default-class"
    return {
        "metadata": {
            "name": name,
            "annotations": {key: "true"} if default else {},
            "creationTimestamp": created,
        },
        "provisioner": provisioner,
    }


def claim(*, modes=("ReadWriteMany",), size="100Gi", phase="Bound"):
    return {
        "metadata": {"name": "chrek-pvc"},
        "spec": {"accessModes": list(modes), "resources": {"requests": {"storage": size}}},
        "status": {"phase": phase},
    }


def healthy(api):
    """Everything that the checks before an installation ask for."""
    api.texts["/version"] = b'{"major": "1", "minor": "34", "gitVersion": "v1.34.4"}'
    api.add("/api/v1/namespaces", {}, name="team")
    api.add(CRDS, crd())
    api.add(CLASSES, storage_class())
    node(api, "n1")


def running(api, *, nodes=("n1", "n2"), ready=None, unhealthy=(), replicas=1, ca="Y2E="):
    """A release after its installation, with ready agents on `ready` (default: all nodes)."""
    ready = nodes if ready is None else ready
    api.add(
        DAEMON_SETS,
        {"status": {"observedGeneration": 1, "desiredNumberScheduled": len(nodes)}},
        name="chrek-agent",
        generation=1,
    )
    for name in nodes:
        node(api, name, ready=name not in unhealthy)
        agent(api, name, ready=name in ready)
    api.add(
        DEPLOYMENTS,
        {
            "spec": {"replicas": 1},
            "status": {
                "observedGeneration": 1,
                "replicas": replicas,
                "updatedReplicas": replicas,
                "availableReplicas": replicas,
            },
        },
        name="chrek-operator",
        generation=1,
    )
    webhook(api, ca=ca)
    api.on_create = inject


def node(api, name, *, ready=True, labels=None, taints=(), info=None):
    """A node, of which `info` is what its kubelet says of it."""
    state = "True" if ready else "False"
    known = {
        "architecture": "amd64",
        "operatingSystem": "linux",
        "kernelVersion": "6.8.0",
        "containerRuntimeVersion": "containerd://2.1.4",
        "kubeletVersion": "v1.34.4",
    }
    body = {
        "spec": {"taints": list(taints)} if taints else {},
        "status": {
            "conditions": [{"type": "Ready", "status": state}],
            "nodeInfo": known | (info or {}),
        },
    }
    return api.add(NODES, body, name=name, labels=labels or {})


def webhook(api, name="team-chrek", *, ca="Y2E=", namespaces=("team",), annotations=None):
    """A webhook configuration as the chart renders it, with what the operator wrote into it."""
    key = "kubernetes.io/metadata.name"
    selector = {"key": key, "operator": "In", "values": list(namespaces)}
    hook = {
        "name": "pods",
        "clientConfig": {"caBundle": ca} if ca else {},
        "namespaceSelector": {"matchExpressions": [selector]},
    }
    return api.add(
        WEBHOOKS,
        {"webhooks": [hook]},
        name=name,
        labels={"app.kubernetes.io/part-of": "chrek"},
        annotations=annotations or {},
    )


def inject(path, body):
    """What the webhook does to a pod that opts in."""
    metadata = body["metadata"]
    if path.endswith("/pods") and "nvidia.com/chrek-checkpoint" in metadata.get("annotations", {}):
        metadata.setdefault("labels", {})["nvidia.com/chrek-managed"] = "true"


def agent(api, node, *, ready, port=8089, **status):
    """An agent's pod; `port` is where it answers."""
    state = "True" if ready else "False"
    api.add(
        PODS,
        {
            "spec": {
                "nodeName": node,
                "containers": [{"ports": [{"name": "http", "containerPort": port}]}],
            },
            "status": {
                "phase": "Running",
                "podIP": "127.0.0.1",
                "conditions": [{"type": "Ready", "status": state}],
                **status,
            },
        },
        name=f"chrek-agent-{node}",
        labels={**AGENT_LABELS, "pod-template-generation": "1"},
    )
