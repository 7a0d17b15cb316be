"""Questions to rendered documents."""

from __future__ import annotations

import pathlib

CHART = pathlib.Path(__file__).resolve().parents[2] / "charts" / "chrek"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
"""Values that the chart can be installed with; chart-testing looks for them there."""
VALUES = CI + sorted((pathlib.Path(__file__).parent / "values").glob("*-values.yaml"))
"""And those that need what no cluster of ours has: images elsewhere, another kubelet."""

CLUSTER_SCOPED = {
    "ClusterRole",
    "ClusterRoleBinding",
    "MutatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


def name(document):
    return document["metadata"]["name"]


def find(documents, kind, wanted):
    """The one object of this kind and name."""
    (found,) = [d for d in documents if d["kind"] == kind and name(d) == wanted]
    return found


def of_kind(documents, *kinds):
    return [document for document in documents if document["kind"] in kinds]


def maps_with(documents, key):
    """ConfigMaps that hold a file of this name."""
    return [d for d in of_kind(documents, "ConfigMap") if key in (d.get("data") or {})]


def annotations(document):
    return document["metadata"].get("annotations") or {}


def events(document):
    """The Helm hook events of an object; none for an ordinary one."""
    return [event for event in annotations(document).get("helm.sh/hook", "").split(",") if event]


def pod_templates(documents):
    """Every pod that the documents make, as `(owner, pod template)`."""
    for document in documents:
        if document["kind"] in ("DaemonSet", "Deployment", "Job"):
            yield document, document["spec"]["template"]
        elif document["kind"] == "Pod":
            yield document, document
