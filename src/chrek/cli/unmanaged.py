"""Why a pod is not managed, and the command that mends it.

A pod is managed when a release serves its namespace, the pod opted in before it was created, and
the release's webhook answered. Pure functions of objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from chrek import cli, names, state
from chrek.cli import checkpoints, differences, pods, records

Object = dict[str, Any]

PLACEHOLDER = "HASH"
_NAMESPACE = "kubernetes.io/metadata.name"
_INSTANCE = "app.kubernetes.io/instance"


class Release(NamedTuple):
    """A release of chrek, as its webhook's configuration tells of it."""

    name: str
    namespace: str
    serves: tuple[str, ...]
    certified: bool
    """The operator has written its certificate authority: the API server can reach it."""


def releases(webhooks: Iterable[Mapping[str, Any]]) -> list[Release]:
    """Those that have a webhook."""
    found = []
    for item in webhooks:
        metadata = item.get("metadata") or {}
        for hook in item.get("webhooks") or []:
            client = hook.get("clientConfig") or {}
            expressions = (hook.get("namespaceSelector") or {}).get("matchExpressions") or []
            serves = [
                namespace
                for one in expressions
                if one.get("key") == _NAMESPACE and one.get("operator") == "In"
                for namespace in one.get("values") or []
            ]
            labels = metadata.get("labels") or {}
            found.append(
                Release(
                    name=str(labels.get(_INSTANCE) or metadata.get("name", "")),
                    namespace=str((client.get("service") or {}).get("namespace", "")),
                    serves=tuple(serves),
                    certified=bool(client.get("caBundle")),
                )
            )
    return found


def serving(known: Sequence[Release] | None, namespace: str) -> Release | None:
    """The release that serves a namespace."""
    return next((one for one in known or () if namespace in one.serves), None)


def gaps(
    pod: Object,
    items: Sequence[Object],
    known: Sequence[Release] | None,
    graph: Mapping[str, Any] | None = None,
) -> list[records.Gap]:
    """What keeps a pod from being managed, in the order in which it is mended.

    Args:
        pod: that chrek-init is not in.
        items: DynamoCheckpoints of its namespace.
        known: releases; None where they may not be looked at.
        graph: its DynamoGraphDeployment, if it is of one and can be read.
    """
    metadata = pod["metadata"]
    namespace, found = str(metadata.get("namespace", "")), []
    if known is not None:
        found += _unserved(known, namespace)
    annotations = metadata.get("annotations") or {}
    opted = names.ANNOTATION_CHECKPOINT in annotations or names.ANNOTATION_IDENTITY in annotations
    if not opted and not _section(pod, graph):
        found.append(_opt_in(pod, items, graph))
    elif not found:
        found.append(
            records.Gap(
                what="the pod opted in, but chrek's webhook did not see it: the annotation came "
                "later than the pod, or the webhook did not answer when the pod was created",
                command=_again(pod),
            )
        )
    return found


def _unserved(known: Sequence[Release], namespace: str) -> list[records.Gap]:
    if not known:
        return [
            records.Gap(
                what="chrek is not installed in this cluster: it has no webhook of chrek",
                command=f"helm install chrek charts/chrek --namespace {namespace}",
            )
        ]
    release = serving(known, namespace)
    if release is None:
        served = sorted({one for release in known for one in release.serves})
        first = known[0]
        every = ",".join(dict.fromkeys([*first.serves, namespace]))
        return [
            records.Gap(
                what=f"no release of chrek serves namespace {namespace}; served are: "
                f"{', '.join(served) or 'none'}",
                command=f"helm upgrade {first.name} charts/chrek -n {first.namespace} "
                f"--reuse-values --set 'dynamo-operator.watchNamespaces={{{every}}}'",
            )
        ]
    if not release.certified:
        return [
            records.Gap(
                what=f"the webhook of release {release.name} has no certificate yet: its operator "
                "has not started",
                command=f"{cli.program()} doctor -n {release.namespace}",
            )
        ]
    return []


def _section(pod: Object, graph: Mapping[str, Any] | None) -> bool:
    """Whether the service that a pod is of asks for a checkpoint."""
    service = _service(pod, graph)
    section = (service[1] if service else {}).get("checkpoint") or {}
    return bool(isinstance(section, Mapping) and section.get("enabled"))


def _service(pod: Object, graph: Mapping[str, Any] | None) -> tuple[str, Mapping[str, Any]] | None:
    wanted = str((pod["metadata"].get("labels") or {}).get(names.LABEL_SERVICE, "")).lower()
    services = ((graph or {}).get("spec") or {}).get("services") or {}
    return next(
        ((name, service or {}) for name, service in services.items() if name.lower() == wanted),
        None,
    )


def candidates(pod: Object, items: Sequence[Object]) -> list[str]:
    """Hashes of the identities that were, or are to be, captured from a pod's image."""
    images = {str(c.get("image")) for c in (pod.get("spec") or {}).get("containers") or []}
    found = {
        checkpoints.hash_of(item, state.status_of(item))
        for item in items
        if images & set(_images(item)) and not item["metadata"].get("deletionTimestamp")
    }
    return sorted(found - {""})


def _images(item: Object) -> Iterable[str]:
    status = state.status_of(item)
    yield from (str(one.get("image", "")) for one in status.get("variants") or [])
    template = ((item.get("spec") or {}).get("job") or {}).get("podTemplateSpec") or {}
    for container in (template.get("spec") or {}).get("containers") or []:
        yield str(container.get("image", ""))


def _opt_in(pod: Object, items: Sequence[Object], graph: Mapping[str, Any] | None) -> records.Gap:
    metadata = pod["metadata"]
    namespace = str(metadata.get("namespace", ""))
    found = candidates(pod, items)
    wanted = found[0] if len(found) == 1 else PLACEHOLDER
    labels = metadata.get("labels") or {}
    patch: Object
    what = (
        f"nobody asked for a warm start: the pod has neither {names.ANNOTATION_CHECKPOINT} nor "
        f"{names.ANNOTATION_IDENTITY}"
    )
    if len(found) > 1:
        what += f"; checkpoints of its image are {', '.join(found)}"
    if names.LABEL_GRAPH in labels:
        service = _service(pod, graph)
        name = service[0] if service else str(labels.get(names.LABEL_SERVICE, "SERVICE"))
        section: Object = {"enabled": True, "checkpointRef": wanted}
        patch = {"spec": {"services": {name: {"checkpoint": section}}}}
        kind = f"dynamographdeployment {labels[names.LABEL_GRAPH]}"
        return records.Gap(
            what=f"service {name} has no checkpoint section that is enabled",
            command=_patch(kind, namespace, patch),
        )
    kind, name = pods.workload_of(pod)
    if not found and kind in ("Deployment", "StatefulSet"):
        return records.Gap(
            what=f"{what}, and no checkpoint of its image is there",
            command=f"{cli.program()} checkpoint {kind.lower()}/{name} -n {namespace} "
            "--model MODEL --backend vllm --opt-in",
        )
    annotations = {names.ANNOTATION_CHECKPOINT: wanted}
    if kind in ("Deployment", "StatefulSet"):
        patch = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
        return records.Gap(what=what, command=_patch(f"{kind.lower()} {name}", namespace, patch))
    whose = f"of {kind} {name}" if kind else "of a pod that exists"
    key = f"{names.ANNOTATION_CHECKPOINT}: {wanted}"
    return records.Gap(
        what=f"{what}; annotations {whose} count only when the pod is created: create it again "
        f"with {key}",
        command=_again(pod),
    )


def _patch(what: str, namespace: str, patch: Object) -> str:
    text = json.dumps(patch, separators=(",", ":"))
    return f"kubectl patch {what} -n {namespace} --type merge -p '{text}'"


def _again(pod: Object) -> str:
    """How a pod is made anew."""
    metadata = pod["metadata"]
    namespace = metadata.get("namespace", "")
    kind, name = pods.workload_of(pod)
    if kind in ("Deployment", "StatefulSet", "DaemonSet"):
        return f"kubectl rollout restart {kind.lower()}/{name} -n {namespace}"
    if kind:
        return f"kubectl delete pod {metadata['name']} -n {namespace}"
    return (
        f"kubectl get pod {metadata['name']} -n {namespace} -o yaml > pod.yaml  "
        "# edit, delete it, create it again"
    )


def container_of(pod: Object) -> Object:
    """The managed container of a pod, else what would be; empty where that is not clear."""
    from chrek import errors
    from chrek.operator import podshape

    spec, annotations = pod.get("spec") or {}, pod["metadata"].get("annotations") or {}
    try:
        index = podshape.container_index(spec, annotations.get(names.ANNOTATION_CONTAINER))
    except errors.UnsupportedError:
        return {}
    found: Object = spec["containers"][index]
    return found


def variant_of(pod: Object) -> str:
    """Of that container; empty where it cannot be told."""
    container = container_of(pod)
    return differences.variant_of(container) if container else ""


def asked_for(pod: Object, items: Sequence[Object]) -> tuple[str, Object | None]:
    """What a pod refers to, and the DynamoCheckpoint that it means."""
    annotations = pod["metadata"].get("annotations") or {}
    reference = str(annotations.get(names.ANNOTATION_CHECKPOINT, ""))
    return reference, checkpoints.find(items, reference) if reference else None
