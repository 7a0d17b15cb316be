"""The pods that a command's argument means: one, or those of a workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chrek import errors
from chrek.cli import reading, workload

Object = dict[str, Any]


def find(reader: reading.Reader, text: str) -> tuple[str, list[Object]]:
    """Label of a pod or workload, and its pods, the newest first.

    Args:
        reader: of the namespace.
        text: a pod's name, or KIND/NAME.

    Raises:
        InputError: there is none.
    """
    kind, name = workload.parse_reference(text) if "/" in text else ("Pod", text)
    if kind == "Pod":
        found = reader.get(reading.PODS, name)
        if found is None:
            raise errors.InputError(
                f"there is no pod {name} in namespace {reader.namespace}",
                hint=f"kubectl get pods -n {reader.namespace} lists what there is; -n names "
                "another namespace, deployment/NAME a workload",
            )
        return f"pod/{name}", [found]
    owner = workload.find(reader, kind, name)
    selector = (owner.raw.get("spec") or {}).get("selector") or {}
    found_pods = reader.find(reading.PODS, labels=selector.get("matchLabels") or {})
    chosen = [pod for pod in found_pods if _selected(pod, selector.get("matchExpressions") or [])]
    chosen.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp")), reverse=True)
    if not chosen:
        raise errors.InputError(
            f"{owner.label} has no pods",
            hint=f"kubectl describe {owner.label} -n {reader.namespace} says why",
        )
    return owner.label, chosen


def _selected(pod: Mapping[str, Any], expressions: Sequence[Mapping[str, Any]]) -> bool:
    labels = (pod.get("metadata") or {}).get("labels") or {}
    tests = {
        "In": lambda one: labels.get(one["key"]) in one["values"],
        "NotIn": lambda one: labels.get(one["key"]) not in one["values"],  # codespell:ignore
        "Exists": lambda one: one["key"] in labels,
        "DoesNotExist": lambda one: one["key"] not in labels,
    }
    return all(tests[one["operator"]](one) for one in expressions)


def workload_of(pod: Mapping[str, Any]) -> tuple[str, str]:
    """Kind and name of what makes a pod; both empty where nobody does."""
    metadata = pod.get("metadata") or {}
    owners = metadata.get("ownerReferences") or []
    owner = next((one for one in owners if one.get("controller")), None)
    if owner is None:
        return "", ""
    kind, name = str(owner["kind"]), str(owner["name"])
    suffix = (metadata.get("labels") or {}).get("pod-template-hash")
    if kind == "ReplicaSet" and suffix and name.endswith(f"-{suffix}"):
        return "Deployment", name.removesuffix(f"-{suffix}")
    return kind, name
