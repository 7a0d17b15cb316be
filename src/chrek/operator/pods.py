"""Managed pods as the controllers keep them: a few hundred bytes each.

Two kinds carry the label `nvidia.com/chrek-managed=true`: pods of checkpoint jobs and workers that
opted in. What only the agent may write on them (a ValidatingAdmissionPolicy of the chart), results
of captures and outcomes of starts, is decoded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from chrek import errors, names, podtemplate, variant
from chrek.operator import podshape

Object = dict[str, Any]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent writes onto a pod that was to be captured: an artifact or a reason."""

    uuid: str = ""
    variant: str = ""
    digest: str = ""
    location: str = ""
    bytes: int = 0
    node: str = ""
    image: str = ""
    gpu: str = ""
    steps: dict[str, float] = msgspec.field(default_factory=dict)
    createdAt: str = ""  # noqa: N815 - spelled as in the annotation
    reason: str = ""
    message: str = ""


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker's container started last, in the agent's words."""

    outcome: str = ""
    reason: str = ""
    message: str = ""
    uuid: str = ""
    variant: str = ""
    at: str = ""


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """One managed pod.

    Attributes:
        managed: False for a pod that opted in and that the webhook could not manage.
        source: whether it is a checkpoint job's, and `digest` the identity hash in its labels.
        owner: UID of its controller, empty without one.
        graph: DynamoGraphDeployment that it belongs to, and `service` in it.
        reference: name or hash of its checkpoint; empty for a checkpoint job's pod.
        phase: `status.phase`, and `failure`, its `status.reason`.
        unschedulable: the scheduler's words while no node fits.
        variant: of its managed container, empty when that cannot be told.
        template: what its checkpoint is made from, None unless it carries an identity.
    """

    namespace: str
    name: str
    uid: str
    created: str
    deleted: bool
    managed: bool
    source: bool
    digest: str
    owner: str
    graph: str
    service: str
    reference: str
    phase: str
    failure: str
    ready: bool
    scheduled: bool
    unschedulable: str
    variant: str
    identity: str
    capture_source: str
    result: Result | None
    start: Start | None
    template: Object | None

    @property
    def finished(self) -> bool:
        """Whether its containers have ended for good."""
        return self.phase in ("Succeeded", "Failed")


def owner_uid(item: Mapping[str, Any]) -> str:
    """UID of an object's controller, empty without one."""
    for owner in item["metadata"].get("ownerReferences") or []:
        if owner.get("controller"):
            return str(owner["uid"])
    return ""


def project(item: Mapping[str, Any]) -> Pod:
    """What to keep of a managed pod."""
    metadata, status = item["metadata"], item.get("status") or {}
    labels = metadata.get("labels") or {}
    annotations = metadata.get("annotations") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    scheduled = conditions.get("PodScheduled") or {}
    source = names.LABEL_SOURCE in labels
    identity = "" if source else annotations.get(names.ANNOTATION_IDENTITY, "")
    waits = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        created=str(metadata.get("creationTimestamp") or ""),
        deleted=bool(metadata.get("deletionTimestamp")),
        managed=labels.get(names.LABEL_MANAGED) == "true",
        source=source,
        digest=labels.get(names.LABEL_HASH, ""),
        owner=owner_uid(item),
        graph=labels.get(names.LABEL_GRAPH, ""),
        service=labels.get(names.LABEL_SERVICE, ""),
        reference="" if source else annotations.get(names.ANNOTATION_CHECKPOINT, ""),
        phase=str(status.get("phase") or ""),
        failure=str(status.get("reason") or ""),
        ready=(conditions.get("Ready") or {}).get("status") == "True",
        scheduled=bool((item.get("spec") or {}).get("nodeName")),
        unschedulable=str(scheduled.get("message") or "no words") if waits else "",
        variant=_variant(item.get("spec") or {}, annotations),
        identity=identity,
        capture_source=annotations.get(names.ANNOTATION_CAPTURE_SOURCE, ""),
        result=result(annotations.get(names.ANNOTATION_RESULT)),
        start=_start(annotations.get(names.ANNOTATION_START)),
        template=podtemplate.from_pod(item) if identity else None,
    )


def result(raw: str | None) -> Result | None:
    """The result of a capture, None when there is none yet."""
    if not raw:
        return None
    try:
        found = msgspec.json.decode(raw, type=Result)
    except (msgspec.DecodeError, RecursionError) as err:
        return Result(reason=names.Reason.RESULT_MISSING, message=f"unreadable result: {err}")
    if not found.reason and not (found.uuid and found.variant and found.digest):
        return Result(
            reason=names.Reason.RESULT_MISSING,
            message="the result names no uuid, variant or digest",
        )
    return msgspec.structs.replace(found, message=" ".join(found.message.split()))


def _start(raw: str | None) -> Start | None:
    if not raw:
        return None
    try:
        return msgspec.json.decode(raw, type=Start)
    except (msgspec.DecodeError, RecursionError):
        return None


def _variant(spec: Mapping[str, Any], annotations: Mapping[str, str]) -> str:
    try:
        index = podshape.container_index(spec, annotations.get(names.ANNOTATION_CONTAINER))
    except errors.UnsupportedError:
        return ""
    return variant.of_container(spec["containers"][index])
