"""Check of the webhook: does a pod that opts in reach it?

Asked by a dry run of such a pod. Nothing else tells: what is wrong between the API server and the
operator (a firewall, a NetworkPolicy, a certificate) only makes pods start cold.
"""

from __future__ import annotations

from typing import Any

from chrek import errors, names
from chrek.checks import report, settings
from chrek.kube import workstation

NAME = "webhook"
PORT = 9443
"""Where operators listen; the Service's own port is 443."""
REFERENCE = "0000000000000000"
"""A hash that no identity has: the pod is managed, and there is nothing to restore."""

Object = dict[str, Any]


def webhook(cluster: workstation.Cluster, config: settings.ReleaseConfig) -> report.Outcome:
    """The API server can verify the webhook, and it answers."""
    path = workstation.path(
        "admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", name=config.webhookName
    )
    found = cluster.get(path)
    hint = f"see kubectl logs deployment/{config.operatorName} -n {config.namespace}"
    if found is None:
        text = f"MutatingWebhookConfiguration {config.webhookName}: not found"
        return report.failed(NAME, text, hint)
    if not all(hook["clientConfig"].get("caBundle") for hook in found["webhooks"]):
        return report.failed(NAME, f"{config.webhookName} has no caBundle yet", hint)
    return _asked(cluster, config)


def not_asked() -> report.Outcome:
    """What is to be said while nobody could answer."""
    return report.failed(NAME, "not asked: no operator is available", "see operator")


def pod(namespace: str) -> Object:
    """A pod that opts in, is admitted under Pod Security restricted and fits into any quota."""
    amounts = {"cpu": "1m", "memory": "1Mi", "ephemeral-storage": "1Mi"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "chrek-preflight-",
            "namespace": namespace,
            "annotations": {names.ANNOTATION_CHECKPOINT: REFERENCE},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": names.DEFAULT_CONTAINER,
                    "image": "chrek-preflight",
                    "command": ["true"],
                    "resources": {"requests": amounts, "limits": amounts},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def _asked(cluster: workstation.Cluster, config: settings.ReleaseConfig) -> report.Outcome:
    namespace = config.watchNamespaces[0]
    try:
        answer = cluster.create(
            workstation.path("v1", "pods", namespace), pod(namespace), dry_run=True
        )
    except errors.ApiError as err:
        if err.status in (0, 500):
            raise
        return report.warning(
            NAME,
            f"not tried, namespace {namespace} admits no pod for it: {err.message}",
            "nothing, if pods of your own are admitted there; kubectl get pods -L "
            f"{names.LABEL_MANAGED} tells which of them chrek manages",
        )
    metadata = answer["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    if labels.get(names.LABEL_MANAGED) == "true" or names.ANNOTATION_SKIPPED in annotations:
        return report.ok(NAME, f"{config.webhookName} answers for namespace {namespace}")
    return report.failed(
        NAME,
        f"the API server does not reach the webhook: a pod in {namespace} was left as it is",
        f"let the API server connect to TCP port {PORT} of the operator's pods (a firewall rule on "
        "private GKE clusters, a security group on EKS, a NetworkPolicy); see the events and the "
        f"endpoints of the Services in {config.namespace}, and kubectl logs "
        f"deployment/{config.operatorName} -n {config.namespace}",
    )
