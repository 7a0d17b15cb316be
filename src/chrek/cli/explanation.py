"""Why a pod started warm or cold: what the agent, the webhook and chrek-init said of it.

Read in this order: the agent's annotation, its condition, its Events, the line of chrek-init in the
log. Nothing is guessed: where none of them says it, the outcome is `unknown`. Pure functions of
objects.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from chrek import errors, names, reasons, state
from chrek.cli import checkpoints, differences, records, unmanaged

Object = dict[str, Any]

COMPONENTS = ("nvidia.com/chrek-agent", "nvidia.com/chrek-operator")
FALL_BACK = re.compile(r"chrek: Falling back to cold start: (\w+): (.*)")
"""What chrek-init prints."""
MOST_EVENTS = 5
_OUTCOMES = ("restored", "cold", "failed", "unhealthy")
_STEPS = ("restored", "failed", "unhealthy", "unknown")
"""Outcomes of which the agent's log tells steps."""
_WARM = (names.Reason.RESTORED, names.Reason.CHECKPOINTED)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What was read for one pod.

    Attributes:
        pod: the object.
        items: DynamoCheckpoints of its namespace.
        asking: who uses them.
        events: about the pod; None where they may not be listed.
        log: the beginning of its container's log, empty where it was not needed.
        releases: of chrek; None where they may not be looked at.
        graph: its DynamoGraphDeployment.
        notes: what could not be looked at.
    """

    pod: Object
    items: Sequence[Object]
    asking: checkpoints.Asking
    events: Sequence[Object] | None = None
    log: str = ""
    releases: Sequence[unmanaged.Release] | None = None
    graph: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Told:
    """How a pod started, in the words of whoever said it."""

    outcome: records.Outcome
    reason: str = ""
    message: str = ""
    at: str = ""
    by: str = "pod"
    uuid: str = ""
    variant: str = ""
    steps: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds: float | None = None


def needs_log(pod: Object, events: Sequence[Object] | None) -> bool:
    """Whether nothing but the container's log can tell how a pod started."""
    return _injected(pod) and told(pod, events).outcome == "unknown"


def told(pod: Object, events: Sequence[Object] | None = None, log: str = "") -> Told:
    """How a pod started."""
    metadata = pod["metadata"]
    annotations = metadata.get("annotations") or {}
    if names.LABEL_SOURCE in (metadata.get("labels") or {}):
        return _source(annotations)
    start = checkpoints.started(pod)
    if start.get("outcome") in _OUTCOMES:
        return Told(
            outcome=start["outcome"],
            reason=str(start.get("reason", "")),
            message=str(start.get("message", "")),
            at=str(start.get("at", "")),
            by="annotation",
            uuid=str(start.get("uuid", "")),
            variant=str(start.get("variant", "")),
            steps=_steps(start.get("steps")),
            seconds=_seconds(start.get("seconds")),
        )
    skipped = str(annotations.get(names.ANNOTATION_SKIPPED, ""))
    if skipped:
        reason, _, message = skipped.partition(": ")
        return Told("skipped", reason, message, by="annotation")
    if not _injected(pod):
        return Told("unmanaged")
    return _condition(pod) or _event(events) or _line(log) or _not_started(pod) or Told("unknown")


def _source(annotations: Mapping[str, str]) -> Told:
    from chrek.operator import pods

    result = pods.result(annotations.get(names.ANNOTATION_RESULT))
    text = "the pod is there to be captured, so it starts cold"
    if result is None:
        return Told("source", str(names.Reason.CAPTURING), text, by="pod")
    reason = result.reason or str(names.Reason.CHECKPOINTED)
    message = result.message or f"it was captured as artifact {result.variant}/{result.uuid}"
    return Told(
        "source", reason, message, at=result.createdAt, by="annotation", steps=_steps(result.steps)
    )


def _seconds(raw: object) -> float | None:
    return float(raw) if isinstance(raw, int | float) and raw > 0 else None


def _steps(raw: object) -> dict[str, float]:
    if not isinstance(raw, Mapping):
        return {}
    return {
        str(name): float(seconds)
        for name, seconds in raw.items()
        if isinstance(seconds, int | float)
    }


def _condition(pod: Object) -> Told | None:
    for one in (pod.get("status") or {}).get("conditions") or []:
        if one.get("type") == names.CONDITION_RESTORED:
            return Told(
                "restored" if one.get("status") == "True" else "cold",
                str(one.get("reason", "")),
                str(one.get("message", "")),
                at=str(one.get("lastTransitionTime", "")),
                by="condition",
            )
    return None


def _event(items: Sequence[Object] | None) -> Told | None:
    agents = [one for one in items or () if _component(one) == COMPONENTS[0]]
    for one in sorted(agents, key=_time, reverse=True):
        reason = str(one.get("reason", ""))
        outcome: records.Outcome = "restored" if reason in _WARM else "cold"
        return Told(outcome, reason, str(one.get("message", "")), at=_time(one), by="event")
    return None


def _line(log: str) -> Told | None:
    found = FALL_BACK.search(log)
    return Told("cold", found[1], found[2], by="log") if found else None


def _not_started(pod: Object) -> Told | None:
    status = pod.get("status") or {}
    for one in status.get("conditions") or []:
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return Told("pending", str(one.get("reason", "")), str(one.get("message", "")))
    container = unmanaged.container_of(pod).get("name")
    for one in status.get("containerStatuses") or []:
        waiting = (one.get("state") or {}).get("waiting")
        if one.get("name") == container and waiting and not one.get("restartCount"):
            return Told("pending", str(waiting.get("reason", "")), str(waiting.get("message", "")))
    if status.get("phase") in (None, "", "Pending"):
        return Told("pending", "", "its container has not started yet")
    return None


def _injected(pod: Object) -> bool:
    from chrek.operator import podshape

    return podshape.is_shaped(pod.get("spec") or {})


def _component(event: Mapping[str, Any]) -> str:
    found = event.get("reportingComponent") or event.get("reportingController")
    return str(found or (event.get("source") or {}).get("component") or "")


def _time(event: Mapping[str, Any]) -> str:
    keys = ("lastTimestamp", "eventTime", "firstTimestamp")
    found = next((event[key] for key in keys if event.get(key)), None)
    return str(found or (event.get("metadata") or {}).get("creationTimestamp") or "")


def explain(seen: Seen) -> records.Start:
    """The whole story of a pod."""
    pod, metadata = seen.pod, seen.pod["metadata"]
    start = told(pod, seen.events, seen.log)
    reference, item = unmanaged.asked_for(pod, seen.items)
    status = state.status_of(item) if item else {}
    variant = start.variant or unmanaged.variant_of(pod)
    name, namespace = str(metadata["name"]), str(metadata.get("namespace", ""))
    row = checkpoints.row(item, seen.asking) if item else None
    advice = reasons.advice(start.reason) if _tells(start) else reasons.Advice("")
    checkpoint = row.name if row else reference
    return records.Start(
        namespace=namespace,
        name=name,
        node=str((pod.get("spec") or {}).get("nodeName") or ""),
        container=str(unmanaged.container_of(pod).get("name", "")),
        outcome=start.outcome,
        reason=start.reason,
        message=start.message,
        at=start.at,
        told_by=start.by,
        reference=reference,
        variant=variant,
        checkpoint=row,
        artifact=_artifact(status, start.uuid, variant),
        capture=next((c for c in checkpoints.captures(status) if c.variant == variant), None),
        steps=dict(start.steps),
        seconds=start.seconds,
        steps_command=_agent_log(seen) if start.outcome in _STEPS and not start.steps else "",
        differences=_differences(start, pod, item),
        gaps=_gaps(seen) if start.outcome == "unmanaged" else [],
        events=_events(seen.events),
        meaning=advice.meaning,
        action=advice.of(checkpoint=checkpoint and f"{checkpoint} -n {namespace}", pod=name),
        notes=list(seen.notes),
    )


def _tells(start: Told) -> bool:
    """Whether a Reason is one of chrek's."""
    return bool(start.reason) and start.outcome != "pending"


def _artifact(status: Mapping[str, Any], uuid: str, variant: str) -> records.Artifact | None:
    found = list(status.get("variants") or [])
    exact = [one for one in found if uuid and one.get("uuid") == uuid]
    fitting = [
        one for one in found if variant and variant in (one.get("name"), one.get("wantedAs"))
    ]
    chosen = exact or ([] if uuid else fitting)
    return checkpoints.artifact(chosen[0]) if chosen else None


def _differences(start: Told, pod: Object, item: Object | None) -> list[records.Difference]:
    """Where the Reason is that something differs: what does, as far as objects tell."""
    if start.reason not in reasons.COMPATIBILITY or item is None:
        return []
    try:
        captured = differences.of_checkpoint(item)
        return differences.compare(captured, differences.of_pod(pod)) if captured else []
    except errors.UnsupportedError:
        return []


def _gaps(seen: Seen) -> list[records.Gap]:
    return unmanaged.gaps(seen.pod, seen.items, seen.releases, seen.graph)


def _agent_log(seen: Seen) -> str:
    metadata = seen.pod["metadata"]
    release = unmanaged.serving(seen.releases, str(metadata.get("namespace", "")))
    where = release.namespace if release else "RELEASE_NAMESPACE"
    return (
        f"kubectl logs -n {where} -l app.kubernetes.io/part-of=chrek,"
        f"app.kubernetes.io/component=agent -c agent --tail=-1 --prefix | grep {metadata['name']}"
    )


def _events(items: Sequence[Object] | None) -> list[records.Event]:
    """The newest of chrek, in the order in which they came."""
    ours = sorted((one for one in items or () if _component(one) in COMPONENTS), key=_time)
    return [
        records.Event(
            at=_time(one),
            type=str(one.get("type", "")),
            reason=str(one.get("reason", "")),
            message=str(one.get("message") or one.get("note") or ""),
        )
        for one in ours[-MOST_EVENTS:]
    ]
