"""What the webhook does to a pod that opted in.

A pod opts in by naming a checkpoint, by carrying an identity, or by belonging to a service of a
DynamoGraphDeployment of which the Dynamo platform makes the pods.

A pure function from a pod to a JSON patch. A pod is never refused: one that cannot be managed gets
the annotation `nvidia.com/chrek-skipped` and starts as its owner wrote it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from chrek import config, errors, identity, names, state, variant
from chrek.operator import adoption, nccl, place, podshape, workloads

Patch = list[dict[str, Any]]

_HASH = re.compile(r"[0-9a-f]{16}")


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the webhook remembers of a DynamoCheckpoint.

    Attributes:
        name: of the object.
        identity_hash: empty when its identity cannot be read.
        variants: names of those that have an artifact which is not suspect.
        image: image of the captured container.
        command: its `command`, for pods of the same image that have none.
        args: its `args`.
    """

    name: str
    identity_hash: str = ""
    variants: frozenset[str] = frozenset()
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The webhook's answer.

    Attributes:
        patch: JSON patch, empty when the pod stays as it is.
        outcome: `injected`, `unchanged`, or the reason why the pod was skipped.
        message: for a person; empty unless it was skipped.
    """

    patch: Patch
    outcome: str
    message: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Service:
    """What the webhook remembers of a service of a DynamoGraphDeployment.

    Attributes:
        name: of the service.
        checkpoint: its section `checkpoint`.
    """

    name: str
    checkpoint: Mapping[str, Any]


Lookup = Callable[[str], Checkpoint | None]
Services = Callable[[str, str], Service | None]
"""Finds a service by the names of its graph and of itself; None when the platform is not there."""


def _no_services(graph: str, service: str) -> None:
    """Graphs are none of the webhook's business: chrek makes their pods."""


def project(item: Mapping[str, Any]) -> Checkpoint:
    """What to remember of a DynamoCheckpoint."""
    status = state.status_of(item)
    job = (item.get("spec") or {}).get("job") or {}
    spec = (job.get("podTemplateSpec") or {}).get("spec") or {}
    try:
        container = spec["containers"][podshape.container_index(spec, job.get("container"))]
    except (errors.UnsupportedError, KeyError):
        container = {}
    return Checkpoint(
        name=item["metadata"]["name"],
        identity_hash=_identity_hash(item, status),
        # A webhook that comes later may change the image: both names are that of this pod.
        variants=frozenset(
            name
            for made in status.get("variants") or []
            if not made.get("suspect")
            for name in (made.get("name"), made.get("wantedAs"))
            if name
        ),
        image=container.get("image", ""),
        command=tuple(container.get("command") or ()),
        args=tuple(container.get("args") or ()),
    )


def decide(
    pod: Mapping[str, Any],
    lookup: Lookup,
    *,
    services: Services = _no_services,
    settings: config.OperatorConfig,
    where: place.Place,
    trace: str = "",
) -> Verdict:
    """Answer for one pod.

    Args:
        pod: as it is being created.
        lookup: finds the checkpoint of the pod's namespace by name or by hash.
        services: finds a service whose pods the platform makes, in the pod's namespace.
        settings: the operator's configuration.
        where: the artifacts of the pod's namespace.
        trace: written onto a pod that is injected, for the logs of its start.
    """
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    annotations = metadata.get("annotations") or {}
    labels = metadata.get("labels") or {}
    if names.LABEL_SOURCE in labels or podshape.is_shaped(spec):
        return Verdict([], "unchanged")
    try:
        opted = _opt_in(annotations, labels, services)
        wanted = opted.get(names.ANNOTATION_CHECKPOINT, "")
        if not wanted:
            return Verdict([], "unchanged")
        found = lookup(wanted)
        index = podshape.container_index(spec, annotations.get(names.ANNOTATION_CONTAINER))
        container = spec["containers"][index]
        podshape.check(spec, container)
        command = worker_command(container, found)
    except (errors.InputError, errors.UnsupportedError) as err:
        skipped = {names.ANNOTATION_SKIPPED: f"{err.reason}: {err}"}
        patch = _metadata(metadata, skipped, {names.LABEL_MANAGED: "false"})
        return Verdict(patch, str(err.reason), str(err))
    own = variant.name(str(container.get("image", "")), command, variant.gpus(container))
    warm = found and own in found.variants
    digest = _hash(wanted, found)
    shaped = podshape.shape(
        spec,
        index=index,
        command=command,
        arguments=["--wait", str(settings.agentWaitSeconds if warm else 1)],
        environment=[
            *podshape.environment(where, identity_hash=digest, source=False),
            *nccl.environment(container, annotations),
        ],
        image=settings.initImage,
        pull_policy=settings.initImagePullPolicy,
    )
    marks = {names.LABEL_MANAGED: "true"}
    if digest:
        marks[names.LABEL_HASH] = digest
    wrote = {**opted, names.ANNOTATION_CONTAINER: container["name"]}
    if trace:
        wrote[names.ANNOTATION_TRACE] = trace
    patch = _metadata(metadata, wrote, marks)
    if names.ANNOTATION_SKIPPED in annotations:
        # An earlier call refused the pod; another webhook has since changed it.
        patch.append({"op": "remove", "path": _pointer("annotations", names.ANNOTATION_SKIPPED)})
    for field in ("volumes", "initContainers"):
        patch.append({"op": "add", "path": f"/spec/{field}", "value": shaped[field]})
    value = shaped["containers"][index]
    patch.append({"op": "replace", "path": f"/spec/containers/{index}", "value": value})
    return Verdict(patch, "injected")


def worker_command(container: Mapping[str, Any], checkpoint: Checkpoint | None) -> list[str]:
    """The worker's command line: its own, else the one that was captured from the same image.

    Raises:
        UnsupportedError: reason CommandUnknown.
    """
    if container.get("command"):
        return variant.worker_command(container)
    image = container.get("image", "")
    if checkpoint and checkpoint.command and checkpoint.image == image:
        args = container.get("args")
        if not args or tuple(args) == checkpoint.args:
            return [*checkpoint.command, *checkpoint.args]
    raise errors.UnsupportedError(
        f"container {container.get('name', '')!r} has no `command`, and no checkpoint of image"
        f" {image} that has one is known",
        reason=names.Reason.COMMAND_UNKNOWN,
        hint="write the worker's `command` into the pod's spec",
    )


def _opt_in(
    annotations: Mapping[str, str], labels: Mapping[str, str], services: Services
) -> dict[str, str]:
    """The annotations by which a pod opts in, those that it has and those that follow from them.

    Raises:
        InputError: it opts in with something that cannot be used.
    """
    if annotations.get(names.ANNOTATION_CHECKPOINT):
        return {names.ANNOTATION_CHECKPOINT: annotations[names.ANNOTATION_CHECKPOINT]}
    if annotations.get(names.ANNOTATION_IDENTITY):
        _, known = adoption.parse(annotations[names.ANNOTATION_IDENTITY])
        return {names.ANNOTATION_CHECKPOINT: known.hash()}
    graph, component = labels.get(names.LABEL_GRAPH, ""), labels.get(names.LABEL_SERVICE, "")
    service = services(graph, component) if graph and component else None
    if service is None:
        return {}
    where = f"DynamoGraphDeployment {graph}: spec.services.{service.name}.checkpoint"
    wish = workloads.wish({"checkpoint": service.checkpoint}, where)
    if wish is None:
        return {}
    opted = {names.ANNOTATION_CHECKPOINT: wish.reference}
    if wish.known:
        source = service.checkpoint.get("captureSource") or names.CaptureSource.JOB
        opted[names.ANNOTATION_IDENTITY] = wish.known.canonical()
        opted[names.ANNOTATION_CAPTURE_SOURCE] = str(source)
    return opted


def _identity_hash(item: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    if status.get("identityHash"):
        return str(status["identityHash"])
    try:
        return identity.parse(item["spec"]["identity"], "spec.identity").hash()
    except (errors.InputError, KeyError):
        return ""


def _hash(wanted: str, found: Checkpoint | None) -> str:
    if found and found.identity_hash:
        return found.identity_hash
    return wanted if _HASH.fullmatch(wanted) else ""


def _metadata(
    metadata: Mapping[str, Any], annotations: Mapping[str, str], labels: Mapping[str, str]
) -> Patch:
    patch: Patch = []
    for field, values in (("annotations", annotations), ("labels", labels)):
        if not metadata.get(field):
            patch.append({"op": "add", "path": f"/metadata/{field}", "value": dict(values)})
            continue
        for key, value in values.items():
            patch.append({"op": "add", "path": _pointer(field, key), "value": value})
    return patch


def _pointer(field: str, key: str) -> str:
    return f"/metadata/{field}/{key.replace('~', '~0').replace('/', '~1')}"
