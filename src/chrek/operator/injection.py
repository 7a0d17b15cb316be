"""What the webhook does to a pod that carries the annotation `nvidia.com/chrek-checkpoint`.

A pure function from a pod to a JSON patch. A pod is never refused: one that cannot be managed gets
the annotation `nvidia.com/chrek-skipped` and starts as its owner wrote it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from chrek import config, errors, names, variant
from chrek.operator import place, podshape

Patch = list[dict[str, Any]]

_HASH = re.compile(r"[0-9a-f]{16}")


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the webhook remembers of a DynamoCheckpoint.

    Attributes:
        name: of the object.
        identity_hash: empty until the operator has seen it.
        ready: whether its phase is Ready.
        image: image of the captured container.
        command: its `command`, for pods of the same image that have none.
        args: its `args`.
    """

    name: str
    identity_hash: str = ""
    ready: bool = False
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


Lookup = Callable[[str], Checkpoint | None]


def project(item: Mapping[str, Any]) -> Checkpoint:
    """What to remember of a DynamoCheckpoint."""
    status = item.get("status") or {}
    job = (item.get("spec") or {}).get("job") or {}
    spec = (job.get("podTemplateSpec") or {}).get("spec") or {}
    try:
        container = spec["containers"][podshape.container_index(spec, job.get("container"))]
    except (errors.UnsupportedError, KeyError):
        container = {}
    return Checkpoint(
        name=item["metadata"]["name"],
        identity_hash=status.get("identityHash", ""),
        ready=status.get("phase") == names.Phase.READY,
        image=container.get("image", ""),
        command=tuple(container.get("command") or ()),
        args=tuple(container.get("args") or ()),
    )


def decide(
    pod: Mapping[str, Any],
    lookup: Lookup,
    *,
    settings: config.OperatorConfig,
    where: place.Place,
) -> Verdict:
    """Answer for one pod.

    Args:
        pod: as it is being created.
        lookup: finds the checkpoint of the pod's namespace by name or by hash.
        settings: the operator's configuration.
        where: the artifacts of the pod's namespace.
    """
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    annotations = metadata.get("annotations") or {}
    labels = metadata.get("labels") or {}
    wanted = annotations.get(names.ANNOTATION_CHECKPOINT)
    if not wanted or names.LABEL_SOURCE in labels or podshape.is_shaped(spec):
        return Verdict([], "unchanged")
    found = lookup(wanted)
    try:
        index = podshape.container_index(spec, annotations.get(names.ANNOTATION_CONTAINER))
        container = spec["containers"][index]
        podshape.check(spec, container)
        command = worker_command(container, found)
    except errors.UnsupportedError as err:
        skipped = {names.ANNOTATION_SKIPPED: f"{err.reason}: {err}"}
        patch = _metadata(metadata, skipped, {names.LABEL_MANAGED: "false"})
        return Verdict(patch, str(err.reason), str(err))
    shaped = podshape.shape(
        spec,
        index=index,
        command=command,
        arguments=["--wait", str(settings.agentWaitSeconds if found and found.ready else 1)],
        environment=podshape.environment(where, identity_hash=_hash(wanted, found), source=False),
        image=settings.initImage,
        pull_policy=settings.initImagePullPolicy,
    )
    ours = {names.ANNOTATION_CONTAINER: container["name"]}
    patch = _metadata(metadata, ours, {names.LABEL_MANAGED: "true"})
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
