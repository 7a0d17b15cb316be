"""What a report shows, out of the records that `list`, `show` and `explain` read.

Pure functions of objects as the API server has them.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chrek import names
from chrek.cli import checkpoints, explanation, printing, records
from chrek.cli.page_charts import Column

Object = dict[str, Any]

WARM, COLD, FAILED = ("restored",), ("cold",), ("failed", "unhealthy")
STARTED = WARM + COLD + FAILED
MOST_HOURS, MOST_DAYS = 72, 90
_SAME_SECONDS = 60
"""The agent writes a pod's annotation and its Event within this time."""
_NO_POD = {"metadata": {}, "spec": {"containers": [{"command": [names.INIT_PATH]}]}}
"""Stands for a pod of which only an Event is left."""


@dataclasses.dataclass(frozen=True)
class Start:
    """A start of a pod, and where the pod is or was."""

    namespace: str
    pod: str
    wanted: str
    told: explanation.Told
    when: datetime.datetime | None
    gone: bool = False


@dataclasses.dataclass(frozen=True)
class Captured:
    """An artifact and its checkpoint."""

    checkpoint: records.Checkpoint
    artifact: records.Artifact


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that is drawn.

    Attributes:
        facts: label -> value of the header.
        namespace: empty for all.
        now: when it was read.
        rows: the checkpoints, sorted.
        artifacts: theirs, each once.
        starts: the newest first.
        pods_known: whether pods could be listed.
        notes: what could not be read.
        program: how the command is called.
    """

    facts: Mapping[str, str]
    namespace: str
    now: datetime.datetime
    rows: Sequence[records.Checkpoint] = ()
    artifacts: Sequence[Captured] = ()
    starts: Sequence[Start] = ()
    pods_known: bool = True
    notes: Sequence[str] = ()
    program: str = "chrek"


@dataclasses.dataclass(frozen=True)
class Cold:
    """Starts that were cold for one reason."""

    reason: str
    starts: Sequence[Start]


def checkpoint_rows(
    items: Iterable[Object], asking: checkpoints.Asking
) -> tuple[list[records.Checkpoint], list[Captured]]:
    """Checkpoints as a list shows them, and the artifacts, which some may share."""
    rows: list[records.Checkpoint] = []
    found: dict[tuple[str, object], Captured] = {}
    for item in items:
        row = checkpoints.row(item, asking)
        rows.append(row)
        for entry in (item.get("status") or {}).get("variants") or []:
            one = checkpoints.artifact(entry)
            found.setdefault((row.namespace, one.uuid or id(entry)), Captured(row, one))
    rows.sort(key=lambda row: (row.namespace, row.name))
    return rows, list(found.values())


def starts(
    pods: Iterable[Object], events: Iterable[Object], items: Iterable[Object] = ()
) -> list[Start]:
    """Starts of which pods and Events tell, the newest first.

    Args:
        pods: managed ones.
        events: of the agent.
        items: DynamoCheckpoints, whose capture pods do not count.
    """
    about: dict[tuple[str, str], list[Object]] = collections.defaultdict(list)
    for event in events:
        # Of another component than the agent: it tells of no start.
        if _of_event(event).told.by == "event":
            about[_subject(event)].append(event)
    captured = _capture_pods(items)
    found: list[Start] = []
    for pod in pods:
        metadata = pod["metadata"]
        key = (str(metadata.get("namespace", "")), str(metadata.get("uid") or metadata["name"]))
        own = about.pop(key, [])
        told = explanation.told(pod, own)
        wanted = (metadata.get("annotations") or {}).get(names.ANNOTATION_CHECKPOINT)
        last = _start(key[0], str(metadata["name"]), told, wanted=str(wanted or ""))
        found.append(last)
        if told.outcome in STARTED:
            earlier = (_of_event(event) for event in own)
            found += [
                dataclasses.replace(one, wanted=last.wanted, gone=False)
                for one in earlier
                if not _same(one, last)
            ]
    for group in about.values():
        found += [one for one in map(_of_event, group) if (one.namespace, one.pod) not in captured]
    oldest = datetime.datetime.min.replace(tzinfo=datetime.UTC)
    found = [one for one in found if one.told.reason != names.Reason.CHECKPOINTED or not one.gone]
    found.sort(key=lambda one: (one.when or oldest, one.pod), reverse=True)
    return found


def _start(
    namespace: str, pod: str, told: explanation.Told, *, wanted: str = "", gone: bool = False
) -> Start:
    good = {name: sec for name, sec in told.steps.items() if math.isfinite(sec) and sec >= 0}
    told = dataclasses.replace(told, steps=good)
    return Start(namespace, pod, wanted, told, printing.when(told.at), gone)


def _of_event(event: Object) -> Start:
    subject = event.get("involvedObject") or event.get("regarding") or {}
    told = explanation.told(_NO_POD, [event])
    namespace = str(subject.get("namespace") or _namespace(event))
    return _start(namespace, str(subject.get("name", "")), told, gone=True)


def _namespace(event: Object) -> str:
    return str((event.get("metadata") or {}).get("namespace", ""))


def _subject(event: Object) -> tuple[str, str]:
    subject = event.get("involvedObject") or event.get("regarding") or {}
    where = str(subject.get("namespace") or _namespace(event))
    return where, str(subject.get("uid") or subject.get("name", ""))


def _same(one: Start, last: Start) -> bool:
    if one.told.reason == names.Reason.CHECKPOINTED:
        return True
    if one.when is None or last.when is None:
        return True
    close = abs((one.when - last.when).total_seconds()) <= _SAME_SECONDS
    return close and one.told.reason == last.told.reason


def _capture_pods(items: Iterable[Object]) -> set[tuple[str, str]]:
    found = set()
    for item in items:
        namespace = str(item["metadata"].get("namespace", ""))
        for capture in (item.get("status") or {}).get("captures") or []:
            found |= {(namespace, str(p.get("name", ""))) for p in capture.get("pods") or []}
    return found


def count(found: Iterable[Start]) -> collections.Counter[str]:
    """Outcome -> starts."""
    return collections.Counter(one.told.outcome for one in found)


def colds(found: Iterable[Start]) -> list[Cold]:
    """Starts that were not warm by their Reason, the most frequent first."""
    by: dict[str, list[Start]] = collections.defaultdict(list)
    for one in found:
        if one.told.outcome in COLD + FAILED:
            by[one.told.reason].append(one)
    made = [Cold(reason, group) for reason, group in by.items()]
    return sorted(made, key=lambda one: (-len(one.starts), one.reason))


def over_time(found: Iterable[Start]) -> tuple[str, list[Column], int]:
    """Starts by hour, or by day where they span more than three.

    Returns:
        The unit, its columns without gaps, and how many starts are older than the first.
    """
    timed = [one for one in found if one.when is not None and one.told.outcome in STARTED]
    if not timed:
        return "hour", [], 0
    times = [one.when.astimezone(datetime.UTC) for one in timed if one.when is not None]
    hour = datetime.timedelta(hours=1)
    by_day = max(times) - min(times) > MOST_HOURS * hour
    width = 24 * hour if by_day else hour
    first, last = _floor(min(times), by_day), _floor(max(times), by_day)
    if by_day:
        first = max(first, last - (MOST_DAYS - 1) * width)
    counts: dict[datetime.datetime, collections.Counter[str]] = collections.defaultdict(
        collections.Counter
    )
    for one, at in zip(timed, times, strict=True):
        counts[_floor(at, by_day)][one.told.outcome] += 1
    made, place = [], first
    while place <= last:
        here = counts.get(place, collections.Counter())
        sums = [sum(here[word] for word in words) for words in (WARM, COLD, FAILED)]
        label = f"{place:%Y-%m-%d}" if by_day else f"{place:%m-%d %H:00}"
        made.append(Column(label, *sums))
        place += width
    older = sum(at < first for at in times)
    return ("day" if by_day else "hour"), made, older


def _floor(at: datetime.datetime, by_day: bool) -> datetime.datetime:
    at = at.replace(minute=0, second=0, microsecond=0)
    return at.replace(hour=0) if by_day else at
