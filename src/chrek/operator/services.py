"""A service's part of the status of a DynamoGraphDeployment."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from chrek import names
from chrek.operator import pods, summary, workloads

FINE = (names.Reason.AVAILABLE, names.Reason.WAITING_FOR_REPLICAS)
NOT_READY = (
    names.Reason.INVALID_SPEC,
    names.Reason.NAME_TAKEN,
    names.Reason.WAITING_FOR_CHECKPOINT,
)
_FULL = (names.Reason.TOO_MANY_VARIANTS, names.Reason.STORE_NEARLY_FULL)
"""There may be no artifact for as long as nobody makes room."""

Object = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Why a service is not as its owner wants it."""

    reason: str
    message: str


def usable(checkpoint: Mapping[str, Any] | None, variant: str) -> bool:
    """Whether a checkpoint has an artifact of these very pods."""
    found = ((checkpoint or {}).get("status") or {}).get("variants") or []
    return any(variant in summary.known_as(one) and not one.get("suspect") for one in found)


def failed(checkpoint: Mapping[str, Any] | None, variant: str) -> str:
    """Why there is no artifact of these pods and none under way; empty when there may be one."""
    status = (checkpoint or {}).get("status") or {}
    for entry in status.get("captures") or []:
        if entry["variant"] == variant:
            gone = entry.get("reason") in _FULL or entry["phase"] == names.Phase.FAILED
            return f"{entry.get('reason')}: {entry.get('message')}" if gone else ""
    if status.get("phase") == names.Phase.FAILED:
        return str(status.get("message", ""))
    suspect = any(
        variant in summary.known_as(one) and one.get("suspect")
        for one in status.get("variants") or []
    )
    return "its artifact is suspect" if suspect else ""


def hopeless(checkpoint: Mapping[str, Any] | None, wish: workloads.Wish, variant: str) -> str:
    """Why it is no use to wait for an artifact of these pods before there are any."""
    spec = (checkpoint or {}).get("spec") or {}
    if wish.from_worker or spec.get("captureSource") == names.CaptureSource.WORKER:
        return "it is captured from a serving pod"
    status = (checkpoint or {}).get("status") or {}
    if wish.known is None and status.get("phase") == names.Phase.READY:
        under_way = {entry["variant"] for entry in status.get("captures") or []}
        if variant not in under_way and not usable(checkpoint, variant):
            return "it has no artifact of this image and command line"
    return failed(checkpoint, variant)


def entry(
    deployment: str,
    current: Mapping[str, Any] | None,
    problem: Problem | None,
    *,
    wish: workloads.Wish | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    variant: str = "",
    alive: Sequence[pods.Pod] = (),
) -> Object:
    """The status of one service.

    Args:
        deployment: name of its Deployment.
        current: the Deployment, None when there is none.
        problem: what is wrong, None when nothing is.
        wish: its checkpoint section, None without one.
        checkpoint: its DynamoCheckpoint, None when there is none.
        variant: of its pods.
        alive: its pods.
    """
    made: Object = {"deploymentName": deployment, "replicas": 0, "readyReplicas": 0}
    if current is not None:
        made["replicas"] = (current.get("spec") or {}).get("replicas", 1)
        made["readyReplicas"] = (current.get("status") or {}).get("readyReplicas", 0)
    if wish is not None:
        made |= _checkpoint(wish, checkpoint, variant, alive)
    if problem is None:
        done = current is not None and made["readyReplicas"] >= made["replicas"]
        reason = names.Reason.AVAILABLE if done else names.Reason.WAITING_FOR_REPLICAS
        text = f"{made['readyReplicas']} of {made['replicas']} pods are ready"
        why = failed(checkpoint, variant) if wish else ""
        if why:
            text += f"; they start cold, the checkpoint failed: {why}"
        problem = Problem(reason, text)
    made["reason"], made["message"] = str(problem.reason), problem.message
    return made


def _checkpoint(
    wish: workloads.Wish,
    checkpoint: Mapping[str, Any] | None,
    variant: str,
    alive: Sequence[pods.Pod],
) -> Object:
    made: Object = {
        "checkpointName": checkpoint["metadata"]["name"] if checkpoint else wish.reference,
        "ready": usable(checkpoint, variant),
    }
    theirs = (checkpoint or {}).get("status") or {}
    digest = theirs.get("identityHash") or (wish.known.hash() if wish.known else "")
    if digest:
        made["identityHash"] = digest
    starts = [pod.start for pod in alive if pod.start and not (pod.deleted or pod.finished)]
    why = collections.Counter(s.reason for s in starts if s.outcome in ("cold", "failed"))
    made["restored"] = sum(1 for s in starts if s.outcome in ("restored", "unhealthy"))
    made["cold"] = sum(why.values())
    if why:
        made["coldReasons"] = dict(sorted(why.items()))
    return made


def patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> Object:
    """A merge patch from services to services: what is gone, at any depth, is named as null."""
    made: Object = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        both = isinstance(value, Mapping) and isinstance(before, Mapping)
        made[name] = patch(before, value) if both and before is not None else value
    return made
