"""Check of other releases in the cluster: two must not serve the same namespace.

A release is known by its webhook configuration, which says what it serves. Releases may share
nodes: each has directories and sockets of its own.
"""

from __future__ import annotations

from typing import Any

from chrek.checks import report, settings
from chrek.kube import workstation

PART_OF = {"app.kubernetes.io/part-of": "chrek"}
NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""Label that the API server puts on every namespace."""

Object = dict[str, Any]


def releases(cluster: workstation.Cluster, config: settings.ReleaseConfig) -> report.Outcome:
    """No other release serves a namespace of this one."""
    name = "releases"
    path = workstation.path("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations")
    others = {
        found["metadata"]["name"]: found
        for found in cluster.find(path, labels=PART_OF)
        if found["metadata"]["name"] != config.webhookName
    }
    shared = {
        key: both
        for key, found in sorted(others.items())
        if (both := sorted(served(found) & set(config.watchNamespaces)))
    }
    if shared:
        own = f"{config.namespace}/{config.helmRelease}"
        return report.failed(
            name,
            "; ".join(
                f"{', '.join(both)}: served by release {release(others[key])}, and by {own}"
                for key, both in shared.items()
            ),
            "take it out of dynamo-operator.watchNamespaces of one of them; if the other is gone: "
            f"kubectl delete mutatingwebhookconfigurations {' '.join(shared)}",
        )
    if not others:
        return report.ok(name, "no other in this cluster")
    told = ", ".join(
        f"{release(found)} (serves {', '.join(sorted(served(found))) or 'nothing'})"
        for _, found in sorted(others.items())
    )
    return report.ok(name, f"shares the cluster's nodes with {told}")


def served(configuration: Object) -> set[str]:
    """Namespaces whose pods a webhook configuration of ours sends to its operator."""
    return {
        str(value)
        for hook in configuration.get("webhooks") or []
        for expression in (hook.get("namespaceSelector") or {}).get("matchExpressions") or []
        if expression["key"] == NAMESPACE_NAME and expression["operator"] == "In"
        for value in expression.get("values") or []
    }


def release(configuration: Object) -> str:
    """Which release an object belongs to, as `namespace/name` where Helm says so."""
    metadata = configuration["metadata"]
    annotations = metadata.get("annotations") or {}
    name = annotations.get("meta.helm.sh/release-name")
    if not name:
        return str(metadata["name"])
    return f"{annotations.get('meta.helm.sh/release-namespace', '')}/{name}"
