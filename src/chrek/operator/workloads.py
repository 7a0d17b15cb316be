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
ANNOTATION_STARTED = "nvidia.com/chrek-started"
"""On a Deployment that waited for its checkpoint: it waits no more, whatever becomes of that."""
MAX_NAME = 63


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """The `checkpoint` section of a service.

    Attributes:
        known: the identity (auto mode), None in reference mode.
        reference: the name or hash that the pods' annotation carries.
        waits: whether there are no pods until the checkpoint is there.
        section: the section as the user wrote it.
    """

    known: identity.Identity | None
    reference: str
    waits: bool = False
    section: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def from_worker(self) -> bool:
        """Whether a serving pod is to be captured."""
        return self.section.get("captureSource") == names.CaptureSource.WORKER


def wish(service: Mapping[str, Any], where: str) -> Wish | None:
    """What a service asks of checkpoints, None when it asks nothing.

    Raises:
        InputError: the section cannot be used.
    """
    section = service.get("checkpoint")
    if not isinstance(section, Mapping) or not section.get("enabled"):
        return None
    reference = section.get("checkpointRef", "")
    waits = section.get("startupPolicy") == names.StartupPolicy.WAIT_FOR_CHECKPOINT
    mode = section.get("mode") or ("reference" if reference else "auto")
    if names.MODE_ALIASES.get(mode, mode) == "reference":
        if not reference:
            raise errors.InputError(
                f"{where}.checkpointRef: required in mode reference",
                hint="name a DynamoCheckpoint or give its hash",
            )
        return Wish(known=None, reference=reference, waits=waits, section=section)
    known = identity.parse(section.get("identity") or {}, f"{where}.identity")
    return Wish(known=known, reference=known.hash(), waits=waits, section=section)


def references(graph: Mapping[str, Any]) -> set[str]:
    """Names and hashes of the checkpoints that a graph's services refer to."""
    found = set()
    for name, service in ((graph.get("spec") or {}).get("services") or {}).items():
        if not isinstance(service, Mapping):
            continue  # Of the Dynamo platform's CRD.
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


def without_checkpoint(pods: Mapping[str, Any], err: errors.ChrekError) -> Object:
    """The pod template of pods that start as they are and say why."""
    made: Object = copy.deepcopy(dict(pods))
    annotations = made["metadata"].setdefault("annotations", {})
    annotations[names.ANNOTATION_SKIPPED] = f"{err.reason}: {err}"
    return made


def with_checkpoint(pods: Mapping[str, Any], wanted: Wish) -> Object:
    """The pod template with the annotation that opts it in.

    Args:
        pods: from `template()`, the main container's command complete.
        wanted: the service's checkpoint section.
    """
    made: Object = copy.deepcopy(dict(pods))
    annotations = made["metadata"].setdefault("annotations", {})
    annotations[names.ANNOTATION_CHECKPOINT] = wanted.reference
    annotations[names.ANNOTATION_CONTAINER] = names.DEFAULT_CONTAINER
    return made


def deployment(
    graph: Mapping[str, Any],
    name: str,
    pods: Mapping[str, Any],
    replicas: int,
    *,
    started: bool = False,
) -> Object:
    """The Deployment of a service.

    Args:
        graph: the DynamoGraphDeployment.
        name: of the service.
        pods: its pod template.
        replicas: how many.
        started: whether it waited for its checkpoint and waits no more.
    """
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
                **({ANNOTATION_STARTED: "true"} if started else {}),
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


def checkpoint(
    graph: Mapping[str, Any], name: str, wanted: Wish, pods: Mapping[str, Any]
) -> Object:
    """The DynamoCheckpoint that auto mode creates, named by its hash.

    Args:
        graph: the DynamoGraphDeployment.
        name: of the service.
        wanted: the service's checkpoint section, in auto mode.
        pods: from `template()`, the main container's command complete.
    """
    metadata, section = graph["metadata"], wanted.section
    keeps = section.get("deletionPolicy") == names.DeletionPolicy.RETAIN
    spec: Object = {"identity": copy.deepcopy(dict(section["identity"]))}
    for field in ("captureSource", "deletionPolicy", "quiesce", "wake"):
        if field in section:
            spec[field] = copy.deepcopy(section[field])
    if not wanted.from_worker:
        spec["job"] = {**job_settings(wanted), "podTemplateSpec": captured(pods)}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.CHECKPOINT_KIND,
        "metadata": {
            "name": wanted.reference,
            "namespace": metadata["namespace"],
            "labels": {
                "app.kubernetes.io/managed-by": "chrek-operator",
                names.LABEL_AUTO: "true",
            },
            "annotations": {names.ANNOTATION_MADE_FROM: f"{metadata['name']}/{name}"},
            # Here it costs no request of its own; the controller takes it off where it has no use.
            **({} if keeps else {"finalizers": [names.FINALIZER]}),
        },
        "spec": spec,
    }


def captured(pods: Mapping[str, Any]) -> Object:
    """What of a service's pod template is captured."""
    spec = copy.deepcopy(dict(pods["spec"]))
    spec.pop("restartPolicy", None)
    return {"spec": spec}


def job_settings(wanted: Wish) -> Object:
    """`spec.job` of a DynamoCheckpoint, but for the template."""
    settings: Object = dict(wanted.section.get("job") or {})
    if "readiness" in wanted.section:
        settings["readiness"] = wanted.section["readiness"]
    return settings


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
