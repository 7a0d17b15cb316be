"""What the starts of workers say about artifacts: used, lost, or suspect.

Read from the annotation that only the agent may write. Pods come and go, so what has to last is
put into the status of the DynamoCheckpoint.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from chrek import names
from chrek.operator import conditions, pods

Object = dict[str, Any]

SUSPECT_PODS = 3
"""So many pods in which the restored worker died, or never got Ready, make an artifact suspect."""
RESOLUTION_SECONDS = 300.0
"""The last restore is noted so exactly: a busy service costs few writes."""


def lost(variant: Mapping[str, Any], workers: Iterable[pods.Pod]) -> pods.Start | None:
    """The start that found a variant's artifact gone or damaged."""
    for pod in workers:
        start = pod.start
        if start and start.uuid == variant["uuid"] and start.reason in names.LOST_ARTIFACT:
            return start
    return None


def noted(variant: Object, workers: Iterable[pods.Pod]) -> Object:
    """The variant with what the workers' starts add to it."""
    failures = list(variant.get("failures") or [])
    last = variant.get("lastRestoredAt", "")
    newest = last
    for pod in workers:
        start = pod.start
        if start is None or start.uuid != variant["uuid"]:
            continue
        if start.outcome == "unhealthy" and pod.uid not in failures:
            failures.append(pod.uid)
        elif start.outcome == "restored" and _seconds(start.at) > _seconds(newest):
            newest = start.at
    made = dict(variant)
    if failures:
        made["failures"] = failures[:SUSPECT_PODS]
    if len(failures) >= SUSPECT_PODS:
        made["suspect"] = True
    if _seconds(newest) - _seconds(last) >= RESOLUTION_SECONDS:
        at = datetime.datetime.fromtimestamp(_seconds(newest), datetime.UTC)
        made["lastRestoredAt"] = conditions.timestamp(at)
    return made


def _seconds(text: str) -> float:
    """Since 1970; 0 for what is no time."""
    found = conditions.parse(text)
    return found.timestamp() if found else 0.0
