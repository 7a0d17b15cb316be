"""Deployments and auto-mode checkpoints of a DynamoGraphDeployment, built from its services.

Pure functions. A Deployment is created whole; later its template is replaced only when what the
graph asks for has changed (an annotation holds its hash), and its replicas only when the graph's
own number has (another annotation), so that autoscalers keep what they set.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from chrek import errors, identity, names

Object = dict[str, Any]

ANNOTATION_TEMPLATE = "nvidia.com/chrek-template"
ANNOTATION_REPLICAS = "nvidia.com/chrek-replicas"
MAX_NAME = 63


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """The `checkpoint` section of a service.

    Attributes:
        known: the identity (auto mode), None in reference mode.
        reference: the name or hash that the pods' annotation carries.
    """

    known: identity.Identity | None
    reference: str


def wish(service: Mapping[str, Any], where: str) -> Wish | None:
    """What a service asks of checkpoints, None when it asks nothing.

    Raises:
        InputError: the section cannot be used.
    """
    section = service.get("checkpoint") or {}
    if not section.get("enabled"):
        return None
    reference = section.get("checkpointRef", "")
    mode = section.get("mode") or ("reference" if reference else "auto")
    if names.MODE_ALIASES.get(mode, mode) == "reference":
        if not reference:
            raise errors.InputError(
                f"{where}.checkpointRef: required in mode reference",
                hint="name a DynamoCheckpoint or give its hash",
            )
        return Wish(known=None, reference=reference)
    known = identity.parse(section.get("identity") or {}, f"{where}.identity")
    return Wish(known=known, reference=known.hash())


def references(graph: Mapping[str, Any]) -> set[str]:
    """Names and hashes of the checkpoints that a graph's services refer to."""
    found = set()
    for name, service in (graph["spec"].get("services") or {}).items():
        try:
            wanted = wish(service, name)
        except errors.InputError:
            continue
        if wanted:
            found.add(wanted.reference)
    return found


def deployment_name(graph: str, service: str) -> str:
    """`<graph>-<service>` as a DNS label; long names end in a hash instead."""
    name = re.sub(r"[^a-z0-9-]+", "-", f"{graph}-{service}".lower()).strip("-")
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(f"{graph}/{service}".encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - 9].rstrip('-')}-{digest}"


def template(graph: str, name: str, service: Mapping[str, Any]) -> Object:
    """The pod template of a service, without anything of chrek.

    Raises:
        InputError: the service cannot be turned into a pod.
    """
    where = f"spec.services.{name}"
    spec: Object = copy.deepcopy(dict(service.get("extraPodSpec") or {}))
    main: Object = spec.pop("mainContainer", None) or {}
    if not main.get("image"):
        raise errors.InputError(
            f"{where}.extraPodSpec.mainContainer.image: required", hint="name the worker's image"
        )
    others = spec.pop("containers", None) or []
    if any(other.get("name") == names.DEFAULT_CONTAINER for other in others):
        raise errors.InputError(
            f"{where}.extraPodSpec.containers: the name {names.DEFAULT_CONTAINER!r} is that of"
            " mainContainer",
            hint="rename the container",
        )
    main["name"] = names.DEFAULT_CONTAINER
    main.update(_command(main))
    resources = _merged_resources(main.get("resources") or {}, service.get("resources") or {})
    if resources:
        main["resources"] = resources
    envs = service.get("envs") or []
    if envs:
        theirs = {variable["name"] for variable in envs}
        kept = [v for v in main.get("env") or [] if v.get("name") not in theirs]
        main["env"] = [*kept, *copy.deepcopy(list(envs))]
    spec["containers"] = [main, *others]
    return {
        "metadata": {
            "labels": {
                **labels(graph, name),
                "app.kubernetes.io/name": deployment_name(graph, name),
            }
        },
        "spec": spec,
    }


def with_checkpoint(pods: Mapping[str, Any], wanted: Wish, command: list[str] | None) -> Object:
    """The pod template with the annotation that opts it in.

    Args:
        pods: from `template()`.
        wanted: the service's checkpoint section.
        command: command line for a main container that has none of its own, None when it is not
            known: then the pods start as they are and say why.
    """
    made: Object = copy.deepcopy(dict(pods))
    main = made["spec"]["containers"][0]
    annotations = made["metadata"].setdefault("annotations", {})
    if not main.get("command"):
        if command is None:
            annotations[names.ANNOTATION_SKIPPED] = skipped_message(main["image"], wanted)
            return made
        main["command"] = command
        main.pop("args", None)
    annotations[names.ANNOTATION_CHECKPOINT] = wanted.reference
    annotations[names.ANNOTATION_CONTAINER] = names.DEFAULT_CONTAINER
    return made


def skipped_message(image: str, wanted: Wish) -> str:
    """Why pods of a service without a command are not managed."""
    return (
        f"{names.Reason.COMMAND_UNKNOWN}: mainContainer has no `command`, and checkpoint"
        f" {wanted.reference} has none for image {image}; write the command into mainContainer"
    )


def deployment(
    graph: Mapping[str, Any], name: str, pods: Mapping[str, Any], replicas: int
) -> Object:
    """The Deployment of a service."""
    metadata = graph["metadata"]
    selector = labels(metadata["name"], name)
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": names.GRAPH_KIND,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": deployment_name(metadata["name"], name),
            "namespace": metadata["namespace"],
            "labels": {**selector, "app.kubernetes.io/managed-by": "chrek-operator"},
            "annotations": {
                ANNOTATION_TEMPLATE: digest(pods),
                ANNOTATION_REPLICAS: str(replicas),
            },
            "ownerReferences": [owner],
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": selector},
            "template": dict(pods),
        },
    }


def changes(current: Mapping[str, Any], desired: Mapping[str, Any]) -> list[Object]:
    """JSON patch from a Deployment to the wanted one, empty when nothing was asked anew."""
    have = current["metadata"].get("annotations") or {}
    want = desired["metadata"]["annotations"]
    stale = [key for key in want if have.get(key) != want[key]]
    if not stale:
        return []
    patch: list[Object] = []
    if not have:
        patch.append({"op": "add", "path": "/metadata/annotations", "value": {}})
    for key in stale:
        pointer = f"/metadata/annotations/{key.replace('/', '~1')}"
        patch.append({"op": "add", "path": pointer, "value": want[key]})
    if ANNOTATION_TEMPLATE in stale:
        value = desired["spec"]["template"]
        patch.append({"op": "replace", "path": "/spec/template", "value": value})
    if ANNOTATION_REPLICAS in stale:
        value = desired["spec"]["replicas"]
        patch.append({"op": "add", "path": "/spec/replicas", "value": value})
    return patch


def checkpoint(namespace: str, wanted: Wish, raw: Mapping[str, Any], pods: Object) -> Object:
    """The DynamoCheckpoint that auto mode creates, named by its hash.

    Args:
        namespace: of the graph.
        wanted: the service's checkpoint section, in auto mode.
        raw: its identity as the user wrote it.
        pods: from `template()`.
    """
    spec = copy.deepcopy(pods["spec"])
    spec.pop("restartPolicy", None)
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.CHECKPOINT_KIND,
        "metadata": {
            "name": wanted.reference,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "chrek-operator"},
        },
        "spec": {
            "identity": copy.deepcopy(dict(raw)),
            "job": {"podTemplateSpec": {"spec": spec}},
        },
    }


def labels(graph: str, service: str) -> dict[str, str]:
    """Labels that select the pods of a service."""
    return {names.LABEL_GRAPH: graph, names.LABEL_SERVICE: service}


def digest(pods: Mapping[str, Any]) -> str:
    """Hash of a pod template."""
    text = json.dumps(pods, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _command(main: Mapping[str, Any]) -> Object:
    """The user's guide writes a whole command line as the only argument: it needs a shell."""
    args = main.get("args") or []
    if not main.get("command") and len(args) == 1 and len(str(args[0]).split()) > 1:
        return {"command": ["/bin/sh", "-c"], "args": [str(args[0])]}
    return {}


def _merged_resources(ours: Mapping[str, Any], service: Mapping[str, Any]) -> Object:
    merged: Object = copy.deepcopy(dict(ours))
    for kind in ("limits", "requests"):
        if service.get(kind):
            merged[kind] = {**(merged.get(kind) or {}), **service[kind]}
    return merged
