"""What the agent says on a checkpoint job's pod, and whose word counts.

Only the agent's account may write the annotation (a ValidatingAdmissionPolicy of the chart). It is
believed only on pods that the operator has recorded in the status before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from chrek import names


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent writes onto a checkpoint job's pod: an artifact or a reason."""

    uuid: str = ""
    variant: str = ""
    digest: str = ""
    location: str = ""
    bytes: int = 0
    node: str = ""
    image: str = ""
    steps: dict[str, float] = msgspec.field(default_factory=dict)
    createdAt: str = ""  # noqa: N815 - spelled as in the annotation
    reason: str = ""
    message: str = ""


def result_of(pod: Mapping[str, Any]) -> Result | None:
    """The result on a pod, None when there is none yet."""
    raw = (pod["metadata"].get("annotations") or {}).get(names.ANNOTATION_RESULT)
    if not raw:
        return None
    try:
        result = msgspec.json.decode(raw, type=Result)
    except msgspec.DecodeError as err:
        return Result(reason=names.Reason.RESULT_MISSING, message=f"unreadable result: {err}")
    if not result.reason and not (result.uuid and result.variant and result.digest):
        return Result(
            reason=names.Reason.RESULT_MISSING,
            message="the result names no uuid, variant or digest",
        )
    return msgspec.structs.replace(result, message=" ".join(result.message.split()))


def recorded(status: Mapping[str, Any], job: Mapping[str, Any]) -> set[str]:
    """UIDs of the Job's pods that an earlier step wrote into the status."""
    if status.get("jobUID") != job["metadata"]["uid"]:
        return set()
    return {pod["uid"] for pod in status.get("jobPods") or []}


def believed(
    status: Mapping[str, Any],
    job: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]],
) -> list[Mapping[str, Any]]:
    """The pods whose results count."""
    known = recorded(status, job) if job else set()
    return [pod for pod in pods if pod["metadata"]["uid"] in known]


def success(pods: Sequence[Mapping[str, Any]]) -> Result | None:
    """The artifact that one of these pods made."""
    for pod in pods:
        result = result_of(pod)
        if result and not result.reason and _phase(pod) == "Succeeded":
            return result
    return None


def last_failure(pods: Sequence[Mapping[str, Any]]) -> Result | None:
    """Why the last of these pods made none."""
    found = None
    for pod in pods:
        result = result_of(pod)
        if result and result.reason:
            found = result
    return found


def _phase(pod: Mapping[str, Any]) -> str:
    return str((pod.get("status") or {}).get("phase", ""))
