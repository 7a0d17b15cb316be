"""How one capture moves: Pending, Creating, then an artifact or Failed.

A DynamoCheckpoint's status has an entry for each variant that is being captured or could not be.
Pure functions of the entry and of the objects as they are now: an operator that is killed between
any two steps goes on where it was, because every step can be taken again.

Only results on pods that an earlier step recorded in the entry are believed.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Mapping, Sequence
from typing import Any

from chrek import names
from chrek.operator import conditions, pods

Object = dict[str, Any]

MAX_PODS = 20
RESULT_SECONDS = 60.0
"""How long a Job may be complete before its result annotation is missed."""
NO_ROOM = (
    "while serving pods hold what it needs, checkpoint.startupPolicy WaitForCheckpoint lets the"
    " checkpoint go first, and captureSource worker captures a serving pod instead"
)


class Action(enum.StrEnum):
    """What has to be done once the entry is written."""

    NOTHING = "nothing"
    CREATE_JOB = "create the job"
    DELETE_JOB = "delete the job"
    END_JOB = "let the job try no more"


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What becomes of an entry now.

    Attributes:
        entry: the new entry.
        action: to do after it was written.
        made: the artifact, once there is one.
        again_seconds: look again after so long, None to wait for an event.
    """

    entry: Object
    action: Action = Action.NOTHING
    made: pods.Result | None = None
    again_seconds: float | None = None


def begin(
    variant: str,
    *,
    image: str,
    job_name: str,
    attempt: str,
    template: str = "",
    remade: int = 0,
    not_before: str = "",
    message: str = "waiting for the checkpoint job's pod",
    reason: str = names.Reason.WAITING_FOR_POD,
) -> Object:
    """A new entry.

    Args:
        variant: name of the variant.
        image: of the container that is captured.
        job_name: of its Job; empty when a serving pod is captured.
        attempt: differs from that of every earlier entry of this variant; a Job that carries
            another one is a leftover.
        template: digest of what is captured.
        remade: how often its artifact was lost before.
        not_before: no attempt before this time.
        message: for a person.
        reason: of the phase.
    """
    entry: Object = {
        "variant": variant,
        "phase": str(names.Phase.PENDING),
        "reason": str(reason),
        "message": message,
        "image": image,
        "attempt": attempt,
    }
    if job_name:
        entry["jobName"] = job_name
    if template:
        entry["template"] = template
    if remade:
        entry["remade"] = remade
    if not_before:
        entry["notBefore"] = not_before
    return entry


def moved(entry: Mapping[str, Any], phase: names.Phase, *, reason: str, message: str) -> Object:
    """The entry in a phase."""
    return {**entry, "phase": str(phase), "reason": str(reason), "message": message}


def waits_seconds(entry: Mapping[str, Any], now: datetime.datetime) -> float:
    """Seconds until the next attempt may begin."""
    until = conditions.parse(entry.get("notBefore"))
    return max(0.0, (until - now).total_seconds()) if until else 0.0


def from_job(
    entry: Object,
    *,
    job: Mapping[str, Any] | None,
    attempt: str,
    found: Sequence[pods.Pod],
    now: datetime.datetime,
) -> Step:
    """The next step of a capture that a Job makes.

    Args:
        entry: as the status has it.
        job: the Job of that name that belongs to the checkpoint, None when there is none.
        attempt: what the Job carries.
        found: the Job's pods, oldest first.
        now: the time, in UTC.
    """
    failed = entry["phase"] == names.Phase.FAILED
    if job is not None and attempt != entry.get("attempt", ""):
        # Of an earlier attempt. While the entry is Failed it stays, for whoever reads its log.
        return Step(entry) if failed else Step(entry, Action.DELETE_JOB)
    if failed:
        # An agent that was down may report after its result was given up.
        late = entry["reason"] == names.Reason.DEADLINE_EXCEEDED and job and not _ended(job)
        action = Action.END_JOB if late else Action.NOTHING
        return Step(entry, action, made=_success(entry, job, found))
    if job is None:
        return _without_job(entry, now)
    return _with_job(entry, job, found, now)


def _without_job(entry: Object, now: datetime.datetime) -> Step:
    if "jobUID" in entry:
        kept = {key: value for key, value in entry.items() if key not in ("jobUID", "pods")}
        text = "the checkpoint job was deleted; it is created again"
        reason = names.Reason.WAITING_FOR_POD
        return Step(moved(kept, names.Phase.PENDING, reason=reason, message=text))
    wait = waits_seconds(entry, now)
    return Step(entry, again_seconds=wait + 0.1) if wait else Step(entry, Action.CREATE_JOB)


def _with_job(
    entry: Object, job: Mapping[str, Any], found: Sequence[pods.Pod], now: datetime.datetime
) -> Step:
    if "pods" not in entry and not _ended(job) and not any(map(_placed, found)):
        # No container of these pods has run: they are recorded when there is more to say.
        return Step(entry)
    recorded = _recorded(entry, job)
    seen = [{"name": pod.name, "uid": pod.uid} for pod in found]
    gone = [pod for pod in entry.get("pods") or [] if pod["uid"] in recorded and pod not in seen]
    known = [*gone, *seen][-MAX_PODS:]
    new = {**entry, "jobUID": job["metadata"]["uid"]}
    new.pop("pods", None)
    if known:
        new["pods"] = known
    made = _success(entry, job, found)
    if made:
        return Step(new, made=made)
    late = next((pod for pod in found if pod.failure == "DeadlineExceeded"), None)
    if late:
        text = f"pod {late.name} ran longer than job.activeDeadlineSeconds; raise it"
        return Step(
            moved(new, names.Phase.FAILED, reason=names.Reason.DEADLINE_EXCEEDED, message=text),
            Action.END_JOB,
        )
    failure = _last_failure([pod for pod in found if pod.uid in recorded])
    ended = _ended(job)
    if "Failed" in ended:
        return Step(_failed(new, ended["Failed"], failure))
    if "Complete" in ended and {pod.uid for pod in found[-MAX_PODS:]} <= recorded:
        return _missed(new, ended["Complete"], failure, now)
    return Step(_under_way(new, found, failure, tried=len(known)))


def _placed(pod: pods.Pod) -> bool:
    """Whether it is known where, or that nowhere, a pod is to run."""
    return bool(pod.scheduled or pod.unschedulable or pod.phase not in ("", "Pending"))


def _under_way(
    entry: Object, found: Sequence[pods.Pod], failure: pods.Result | None, *, tried: int
) -> Object:
    alive = [pod for pod in found if not pod.finished and not pod.deleted]
    waiting = next((pod for pod in alive if pod.unschedulable), None)
    before = f"attempt {tried - 1} failed: {failure.reason}: {failure.message}; " if failure else ""
    if waiting:
        reason: str = names.Reason.WAITING_FOR_RESOURCES
        text = f"{before}pod {waiting.name}: {waiting.unschedulable.rstrip('.')} ({NO_ROOM})"
        return moved(entry, names.Phase.PENDING, reason=reason, message=text)
    if alive and not any(pod.scheduled or pod.phase == "Running" for pod in alive):
        text = f"{before}pod {alive[-1].name} has no node yet"
        reason = names.Reason.WAITING_FOR_POD
        return moved(entry, names.Phase.PENDING, reason=reason, message=text)
    if alive:
        text = f"{before}pod {alive[-1].name} starts the worker"
        reason = names.Reason.CAPTURING
        return moved(entry, names.Phase.CREATING, reason=reason, message=text)
    if not found:
        reason, text = names.Reason.WAITING_FOR_POD, "waiting for the checkpoint job's pod"
        return moved(entry, names.Phase.PENDING, reason=reason, message=text)
    text = f"pod {found[-1].name} has ended"
    if failure:
        text = f"attempt {tried} failed: {failure.reason}: {failure.message}"
    return moved(entry, names.Phase.CREATING, reason=names.Reason.CAPTURING, message=text)


def _missed(
    entry: Object,
    complete: Mapping[str, Any],
    failure: pods.Result | None,
    now: datetime.datetime,
) -> Step:
    since = conditions.parse(complete.get("lastTransitionTime")) or now
    passed = (now - since).total_seconds()
    if passed < RESULT_SECONDS:
        return Step(entry, again_seconds=RESULT_SECONDS - passed + 0.5)
    text = failure.message if failure else "the job completed, but no agent reported an artifact"
    text += " (see the logs of the agent on the pod's node)"
    reason = names.Reason.RESULT_MISSING
    return Step(moved(entry, names.Phase.FAILED, reason=reason, message=text))


def _failed(entry: Object, condition: Mapping[str, Any], failure: pods.Result | None) -> Object:
    text = f"{condition.get('reason', 'Failed')}: {condition.get('message', 'the job failed')}"
    reason: str = names.Reason.JOB_FAILED
    if failure:
        reason, text = failure.reason, f"{failure.message} ({text})"
    else:
        text += f" (see kubectl logs job/{entry['jobName']})"
    return moved(entry, names.Phase.FAILED, reason=reason, message=text)


def from_worker(
    entry: Object, *, workers: Sequence[pods.Pod], limit: int, now: datetime.datetime
) -> Step:
    """The next step of a capture of a serving pod.

    Args:
        entry: as the status has it.
        workers: pods that opted in, oldest first.
        limit: how many failed attempts are followed by another.
        now: the time, in UTC.
    """
    if entry["phase"] == names.Phase.FAILED:
        return Step(entry)
    named = entry.get("pods") or []
    alive = {pod.uid: pod for pod in workers}
    failures: list[pods.Result] = []
    reason: str
    for one in named:
        pod = alive.get(one["uid"])
        result = _news(one, pod) if pod else None
        if result and not result.reason:
            return Step(entry, made=result)
        failures += [result] if result else []
    current = alive.get(named[-1]["uid"]) if named else None
    if current and not _news(named[-1], current) and not current.deleted and not current.finished:
        return Step(entry)
    # Pods that went meanwhile count as well: each attempt has frozen a pod that served.
    if len(named) > min(limit, MAX_PODS - 1):
        reason, why = names.Reason.NOT_CAPTURABLE, "they ended before they were"
        if failures:
            reason, why = failures[-1].reason, failures[-1].message
        text = f"{len(named)} serving pods could not be captured: {why}"
        return Step(moved(entry, names.Phase.FAILED, reason=reason, message=text))
    wait = waits_seconds(entry, now)
    if wait:
        return Step(entry, again_seconds=wait + 0.1)
    tried = {one["uid"] for one in named}
    for pod in workers:
        if pod.uid not in tried and _capturable(pod, entry["variant"]):
            naming = {"name": pod.name, "uid": pod.uid}
            if pod.result:
                naming["spent"] = _spent(pod.result)
            chosen = [*named, naming][-MAX_PODS:]
            text = f"serving pod {pod.name} is captured"
            reason = names.Reason.CAPTURING
            new = moved(entry, names.Phase.CREATING, reason=reason, message=text)
            return Step({**new, "pods": chosen})
    text = "waiting for a Ready pod that opted in and started cold"
    if failures:
        text += f"; the last one could not be captured: {failures[-1].message}"
    reason = names.Reason.WAITING_FOR_WORKER
    return Step(moved(entry, names.Phase.PENDING, reason=reason, message=text))


def _news(naming: Mapping[str, Any], pod: pods.Pod) -> pods.Result | None:
    """The result of this naming of a pod; what it carried before, from an earlier one, is none."""
    if pod.result is None or _spent(pod.result) == naming.get("spent"):
        return None
    return pod.result


def _spent(result: pods.Result) -> str:
    return result.uuid or f"{result.reason} {result.message}"[:200]


def _capturable(pod: pods.Pod, variant: str) -> bool:
    warm = pod.start is not None and pod.start.outcome == "restored"
    return (
        pod.variant == variant
        and pod.ready
        and pod.start is not None
        and not (warm or pod.deleted or pod.finished)
    )


def has_ended(job: Mapping[str, Any]) -> bool:
    """Whether a Job makes no more pods."""
    return bool({"Complete", "Failed"} & _ended(job).keys())


def _ended(job: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The Job's conditions that hold, by type."""
    found = (job.get("status") or {}).get("conditions") or []
    return {condition["type"]: condition for condition in found if condition["status"] == "True"}


def _recorded(entry: Mapping[str, Any], job: Mapping[str, Any] | None) -> set[str]:
    """UIDs of the Job's pods that an earlier step wrote into the entry."""
    if job is None or entry.get("jobUID") != job["metadata"]["uid"]:
        return set()
    return {pod["uid"] for pod in entry.get("pods") or []}


def _success(
    entry: Mapping[str, Any], job: Mapping[str, Any] | None, found: Sequence[pods.Pod]
) -> pods.Result | None:
    recorded = _recorded(entry, job)
    for pod in found:
        done = pod.uid in recorded and pod.phase == "Succeeded"
        if done and pod.result and not pod.result.reason:
            return pod.result
    return None


def _last_failure(found: Sequence[pods.Pod]) -> pods.Result | None:
    failures = [pod.result for pod in found if pod.result and pod.result.reason]
    return failures[-1] if failures else None
