"""How the status of a DynamoCheckpoint moves: Pending, Creating, Ready or Failed.

Pure functions of the objects as they are now, so that an operator that is killed at any point
continues where it was: every step can be taken again, and none depends on memory.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from chrek import errors, identity, names
from chrek.operator import conditions, jobs, place, results

Object = dict[str, Any]

MAX_VARIANTS = 4
MAX_JOB_PODS = 20
RESULT_SECONDS = 60.0
"""How long a Job may be complete before its result annotation is missed."""


class Action(enum.StrEnum):
    """What has to be done besides writing the status."""

    NOTHING = "nothing"
    CREATE_JOB = "create the job"
    DELETE_JOB = "delete the job"


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """What to write and do now.

    Attributes:
        status: the complete new status.
        action: to do after the status was written.
        again_seconds: look again after so long, None to wait for an event.
    """

    status: Object
    action: Action = Action.NOTHING
    again_seconds: float | None = None


def following(
    checkpoint: Mapping[str, Any],
    *,
    known: identity.Identity,
    job: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]],
    where: place.Place,
    now: datetime.datetime,
) -> Decision:
    """The next status of a checkpoint with a valid spec that owns its artifact.

    Args:
        checkpoint: the object.
        known: its identity.
        job: the Job that it owns, None when there is none.
        pods: pods owned by that Job.
        where: the artifacts of its namespace.
        now: the time, in UTC.
    """
    metadata, old = checkpoint["metadata"], checkpoint.get("status") or {}
    generation = metadata.get("generation", 0)
    phase = old.get("phase")
    changed = generation > old.get("observedGeneration", 0)
    status: Object = {
        **old,
        "identityHash": known.hash(),
        "identity": msgspec.to_builtins(msgspec.json.decode(known.canonical())),
        "storageType": where.storage_type,
        "jobName": jobs.name(known.hash()),
    }
    if phase == names.Phase.READY:
        return Decision({**status, "observedGeneration": generation})
    if phase == names.Phase.FAILED and not changed:
        late = results.success(results.believed(status, job, pods))
        # An agent that was down may report after the result was given up.
        return Decision(ready(status, late, where=where, now=now) if late else status)
    if phase not in (names.Phase.PENDING, names.Phase.CREATING):
        if job is not None and phase == names.Phase.FAILED:
            # The user corrected the spec: the Job of the failed attempts goes first.
            return Decision(dict(old), Action.DELETE_JOB)
        for key in ("jobUID", "jobPods"):
            status.pop(key, None)
        status["observedGeneration"] = generation
        return Decision(_pending(status, "waiting for the checkpoint job's pod", now=now))
    if job is None:
        return _without_job(status, now=now)
    return _with_job(status, job, pods, where=where, now=now)


def _without_job(status: Object, *, now: datetime.datetime) -> Decision:
    if status["phase"] == names.Phase.PENDING and "jobUID" not in status:
        return Decision(status, Action.CREATE_JOB)
    status = {key: value for key, value in status.items() if key not in ("jobUID", "jobPods")}
    return Decision(
        _pending(status, "the checkpoint job was deleted; it is created again", now=now)
    )


def _pending(status: Object, message: str, *, now: datetime.datetime) -> Object:
    return moved(
        status,
        names.Phase.PENDING,
        reason=names.Reason.WAITING_FOR_POD,
        message=message,
        now=now,
    )


def _with_job(
    status: Object,
    job: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    *,
    where: place.Place,
    now: datetime.datetime,
) -> Decision:
    uid = job["metadata"]["uid"]
    believed = results.believed(status, job, pods)
    recorded = results.recorded(status, job)
    current = [{"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]} for pod in pods]
    gone = [pod for pod in status.get("jobPods") or [] if pod["uid"] in recorded]
    merged = {pod["uid"]: pod for pod in [*gone, *current]}
    status = {**status, "jobUID": uid}
    if merged:
        status["jobPods"] = list(merged.values())[-MAX_JOB_PODS:]
    ended = {
        condition["type"]: condition
        for condition in (job.get("status") or {}).get("conditions") or []
        if condition.get("status") == "True"
    }
    made = results.success(believed)
    if made:
        return Decision(ready(status, made, where=where, now=now))
    if status["phase"] == names.Phase.PENDING and (pods or "Complete" in ended):
        return Decision(
            moved(
                status,
                names.Phase.CREATING,
                reason=names.Reason.CAPTURING,
                message=f"pod {current[-1]['name'] if current else '?'} starts the worker",
                now=now,
            )
        )
    if status["phase"] == names.Phase.PENDING:
        status = _pending(status, "waiting for the checkpoint job's pod", now=now)
    failure = results.last_failure(believed)
    if "Failed" in ended:
        return Decision(_failed(status, ended["Failed"], failure, now=now))
    if "Complete" in ended and {pod["uid"] for pod in current} <= recorded:
        return _missed(status, ended["Complete"], failure, now=now)
    if failure:
        text = f"attempt {len(merged)} failed: {failure.reason}: {failure.message}"
        status = {**status, "message": text}
    return Decision(status)


def _missed(
    status: Object,
    complete: Mapping[str, Any],
    failure: results.Result | None,
    *,
    now: datetime.datetime,
) -> Decision:
    since = (now - _time(complete.get("lastTransitionTime"), now)).total_seconds()
    if since < RESULT_SECONDS:
        return Decision(status, again_seconds=RESULT_SECONDS - since + 0.5)
    text = failure.message if failure else "the job completed, but no agent reported an artifact"
    hint = "see the logs of the agent on the pod's node"
    return Decision(
        moved(
            status,
            names.Phase.FAILED,
            reason=names.Reason.RESULT_MISSING,
            message=f"{text} ({hint})",
            now=now,
        )
    )


def _failed(
    status: Object,
    condition: Mapping[str, Any],
    failure: results.Result | None,
    *,
    now: datetime.datetime,
) -> Object:
    text = f"{condition.get('reason', 'Failed')}: {condition.get('message', 'the job failed')}"
    reason: str = names.Reason.JOB_FAILED
    if failure:
        reason, text = failure.reason, f"{failure.message} ({text})"
    else:
        text += f" (see kubectl logs job/{status['jobName']})"
    return moved(status, names.Phase.FAILED, reason=reason, message=text, now=now)


def ready(
    status: Object, result: results.Result, *, where: place.Place, now: datetime.datetime
) -> Object:
    """The status after a capture: its variant first, the oldest dropped."""
    created = result.createdAt or conditions.timestamp(now)
    made: Object = {
        "name": result.variant,
        "uuid": result.uuid,
        "digest": result.digest,
        "image": result.image,
        "node": result.node,
        "bytes": result.bytes,
        "createdAt": created,
        "steps": dict(result.steps),
    }
    others = [v for v in status.get("variants") or [] if v["name"] != result.variant]
    status = {
        **status,
        "variants": [made, *others][:MAX_VARIANTS],
        "location": where.location(status["identityHash"]),
        "createdAt": created,
    }
    status["size"] = conditions.human(sum(v.get("bytes", 0) for v in status["variants"]))
    return moved(
        status,
        names.Phase.READY,
        reason=names.Reason.CHECKPOINTED,
        message=f"captured on node {result.node}, {conditions.human(result.bytes)}",
        now=now,
    )


def invalid(
    checkpoint: Mapping[str, Any], err: errors.ChrekError, *, now: datetime.datetime
) -> Object:
    """The status of a checkpoint whose spec cannot be used."""
    status = {**(checkpoint.get("status") or {})}
    status["observedGeneration"] = checkpoint["metadata"].get("generation", 0)
    return moved(status, names.Phase.FAILED, reason=err.reason, message=str(err), now=now)


def shared(
    checkpoint: Mapping[str, Any], owner: Mapping[str, Any], *, now: datetime.datetime
) -> Object:
    """The status of a checkpoint whose artifact an older one of the same identity owns."""
    status = {**(checkpoint.get("status") or {})}
    theirs = owner.get("status") or {}
    for key in ("jobName", "jobUID", "jobPods"):
        status.pop(key, None)
    for key in (
        "identityHash",
        "identity",
        "location",
        "storageType",
        "createdAt",
        "size",
        "variants",
    ):
        if key in theirs:
            status[key] = theirs[key]
        else:
            status.pop(key, None)
    status["observedGeneration"] = checkpoint["metadata"].get("generation", 0)
    their_ready = conditions.get(theirs, names.CONDITION_READY) or {}
    name = owner["metadata"]["name"]
    status = moved(
        status,
        theirs.get("phase") or names.Phase.PENDING,
        reason=their_ready.get("reason") or names.Reason.WAITING_FOR_POD,
        message=f"shares the artifact of {name}: {theirs.get('message', 'waiting for it')}",
        now=now,
    )
    return conditions.with_condition(
        status,
        names.CONDITION_SHARED,
        value=True,
        reason=names.Reason.SHARED_ARTIFACT,
        message=f"{name} is older and has the same identity",
        now=now,
    )


def moved(
    status: Object, phase: str, *, reason: str, message: str, now: datetime.datetime
) -> Object:
    """The status in a phase, with its condition Ready."""
    return conditions.with_condition(
        {**status, "phase": str(phase), "message": message},
        names.CONDITION_READY,
        value=phase == names.Phase.READY,
        reason=reason,
        message=message,
        now=now,
    )


def _time(text: str | None, default: datetime.datetime) -> datetime.datetime:
    if not text:
        return default
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
