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
    "cachePath": "/var/lib/chrek/cache/team-chrek",
}


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
    }
    return msgspec.convert({**raw, **changes}, settings.ReleaseConfig)


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


def running(api, *, nodes=("n1", "n2"), ready=None, unhealthy=(), replicas=1, ca="Y2E="):
    """A release after its installation, with ready agents on `ready` (default: all nodes)."""
    ready = nodes if ready is None else ready
    api.add(
        DAEMON_SETS,
        {"status": {"observedGeneration": 1, "desiredNumberScheduled": len(nodes)}},
        name="chrek-agent",
        generation=1,
    )
    for node in nodes:
        state = "False" if node in unhealthy else "True"
        body = {"spec": {}, "status": {"conditions": [{"type": "Ready", "status": state}]}}
        api.add(NODES, body, name=node)
        agent(api, node, ready=node in ready)
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
    hook = {"name": "pods", "clientConfig": {"caBundle": ca} if ca else {}}
    api.add(WEBHOOKS, {"webhooks": [hook]}, name="team-chrek")


def agent(api, node, *, ready, **status):
    state = "True" if ready else "False"
    api.add(
        PODS,
        {
            "spec": {"nodeName": node},
            "status": {"conditions": [{"type": "Ready", "status": state}], **status},
        },
        name=f"chrek-agent-{node}",
        labels={**AGENT_LABELS, "pod-template-generation": "1"},
    )
