"""One pod of `chrek bench` after the other: made, followed until it is Ready, deleted.

Times are those of this machine's monotonic clock when the API server tells of a change, so that no
clock of a node is compared with another. Pods are deleted by name, whatever happens.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from chrek import errors
from chrek.cli import (
    bench_checks,
    bench_pods,
    bench_records,
    explain_command,
    explanation,
    reading,
)

Object = dict[str, Any]

WATCH_SECONDS = 60
PAUSE_SECONDS = 0.1
"""Between two looks, where the server ends a watch at once."""
SETTLE_SECONDS = 10.0
"""How long after Ready the agent may take to say how the pod started."""
GONE_SECONDS = 120.0
"""How long beyond its grace period a pod may take to be gone."""
_OPEN = ("unknown", "pending")
"""Outcomes that are none yet."""
_AGAIN = (0, 429, 500, 502, 503, 504)
"""With which the API server says, if anything, that it may be better the next time."""


class Trials:
    """Makes the pods of a plan; use it as a context manager, which deletes what is left.

    Attributes:
        left: names of those that were not deleted yet.
        problem: why it ended early; empty when all pods were made.
    """

    def __init__(
        self,
        reader: reading.Reader,
        plan: bench_pods.Plan,
        *,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare.

        Args:
            reader: of the namespace.
            plan: what is measured.
            say: told a line at a time how it goes.
            clock: seconds that only grow.
            sleep: waits between two looks.
        """
        self.left: list[str] = []
        self.problem = ""
        self._reader = reader
        self._plan = plan
        self._say = say
        self._clock = clock
        self._sleep = sleep

    def run(self) -> Iterator[bench_records.Trial]:
        """A pod after the other, until one does not get Ready or does not go."""
        turns = self._plan.turns
        for number, turn in enumerate(turns, 1):
            label = f"{number}/{len(turns)} {turn.kind}"
            trial = self._trial(turn, label)
            self._say(f"{label}: {describe(trial)}")
            yield trial
            if trial.problem:
                self.problem = f"pod {trial.pod} {trial.problem}"
            elif not self._delete(trial.pod):
                self.problem = f"pod {trial.pod} is still being deleted, and the next would wait"
            if self.problem:
                return

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *_: object) -> None:
        """Delete what is left, whatever has happened."""
        try:
            self._clean_up()
        finally:
            # A signal may have come in the middle of it.
            self._clean_up()

    def _clean_up(self) -> None:
        for name in list(self.left):
            try:
                was_there = self._reader.cluster.delete(self._path(name))
            except errors.ApiError as err:
                self._say(
                    f"pod {name} could not be deleted: {err.message}; do it: kubectl delete pod "
                    f"{name} -n {self._reader.namespace}"
                )
            else:
                self.left.remove(name)
                if was_there:
                    self._say(f"pod {name} deleted")

    def _trial(self, turn: bench_pods.Turn, label: str) -> bench_records.Trial:
        wanted = bench_pods.pod(self._plan, turn)
        name, begin = str(wanted["metadata"]["name"]), self._clock()
        pod = self._create(wanted)
        moments, said = {"created": self._clock() - begin}, ""
        for now in self._follow(pod, begin + self._plan.timeout):
            at = self._clock() - begin
            if now is None:
                self.left.remove(name)
                return _trial(turn, pod, moments, problem="was deleted by somebody")
            pod = now
            for moment in reached(pod):
                moments.setdefault(moment, at)
            if "ready" in moments or _over(pod):
                break
            words = waits(pod)
            if words and words != said:
                said = words
                self._say(f"{label}: {name} waits: {words}")
        ready = "ready" in moments
        if ready and turn.kind == "warm":
            pod = self._settled(pod)
        (seen,) = explain_command.gather(self._reader, [pod])
        problem = "" if ready else self._why(pod)
        return _trial(turn, pod, moments, seen=seen, problem=problem)

    def _why(self, pod: Object) -> str:
        status = pod.get("status") or {}
        if _over(pod):
            words = f"{status.get('reason', '')} {status.get('message', '')}".strip()
            return f"ended before it was Ready: {words or status['phase']}"
        words = waits(pod) or (
            "its readiness probe does not pass"
            if "started" in reached(pod)
            else "not all of its containers run yet"
        )
        return f"was not Ready within {self._plan.timeout:.0f} s: {words}"

    def _create(self, wanted: Object) -> Object:
        name = str(wanted["metadata"]["name"])
        # Without an answer, or with one of a proxy, it may have been created all the same.
        self.left.append(name)
        try:
            return bench_checks.create(self._reader, wanted)
        except errors.ApiError as err:
            if 400 <= err.status < 500:
                self.left.remove(name)
            raise

    def _settled(self, pod: Object) -> Object:
        """The pod once its agent has said how it started."""
        deadline = self._clock() + SETTLE_SECONDS
        if explanation.told(pod).outcome in _OPEN:
            for now in self._follow(pod, deadline):
                pod = now or pod
                if now is None or explanation.told(pod).outcome not in _OPEN:
                    break
        return pod

    def _delete(self, name: str) -> bool:
        """Delete a pod and wait until it holds nothing any more, as long as its worker may take.

        Returns:
            Whether it is gone.
        """
        path = self._path(name)
        try:
            found = self._reader.cluster.get(path)
            self._reader.cluster.delete(path)
        except errors.ApiError as err:
            raise reading.explained(err, "delete", reading.PODS, self._reader.namespace) from err
        self.left.remove(name)
        if found is None:
            return True
        grace = float((found.get("spec") or {}).get("terminationGracePeriodSeconds") or 0)
        deadline = self._clock() + grace + GONE_SECONDS
        return any(now is None for now in self._follow(found, deadline))

    def _follow(self, pod: Object, deadline: float) -> Iterator[Object | None]:
        """A pod at each change, and None at the end when it is gone."""
        name, version = pod["metadata"]["name"], _version(pod)
        while (left := deadline - self._clock()) > 0:
            begin, seconds = self._clock(), math.ceil(min(left, WATCH_SECONDS))
            for kind, item in self._watch(name, version, seconds):
                version = _version(item)
                yield None if kind == "DELETED" else item
                if kind == "DELETED":
                    return
                if self._clock() >= deadline:
                    return
            if self._clock() - begin < seconds - 1:
                self._sleep(PAUSE_SECONDS)
            try:
                found = self._reader.get(reading.PODS, name)
            except errors.ApiError as err:
                if err.status not in _AGAIN:
                    raise
                continue
            if found is None or _version(found) != version:
                yield found
                if found is None:
                    return
                version = _version(found)

    def _watch(self, name: str, version: str, seconds: int) -> Iterator[tuple[str, Object]]:
        """Changes of a pod, as long as the server tells them."""
        from chrek.kube import workstation

        changes = self._reader.cluster.watch(
            workstation.path(*reading.PODS, self._reader.namespace),
            fields={"metadata.name": name},
            resource_version=version,
            seconds=seconds,
        )
        try:
            with contextlib.closing(changes):
                yield from changes
        except errors.ApiError as err:
            # 410: the version is too old by now, and a look gives a newer one.
            if err.status not in (410, *_AGAIN):
                namespace = self._reader.namespace
                raise reading.explained(err, "watch", reading.PODS, namespace) from err

    def _path(self, name: str) -> str:
        from chrek.kube import workstation

        return workstation.path(*reading.PODS, self._reader.namespace, name)


def _version(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"].get("resourceVersion", ""))


def reached(pod: Mapping[str, Any]) -> Iterator[str]:
    """The moments of its start that a pod has behind it."""
    from chrek.kube import workstation

    status, wanted = pod.get("status") or {}, (pod.get("spec") or {}).get("containers") or []
    if (pod.get("spec") or {}).get("nodeName"):
        yield "scheduled"
    found = [one for one in status.get("containerStatuses") or [] if _has_run(one)]
    if found and len(found) == len(wanted):
        yield "started"
    if workstation.is_true(dict(pod), "Ready"):
        yield "ready"


def _has_run(container: Mapping[str, Any]) -> bool:
    now = container.get("state") or {}
    return "running" in now or "terminated" in now or bool(container.get("restartCount"))


def _over(pod: Mapping[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def waits(pod: Mapping[str, Any]) -> str:
    """What a pod waits for, in the words of the scheduler or the kubelet; empty if for nothing."""
    status = pod.get("status") or {}
    for one in status.get("conditions") or []:
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return _words(one)
    for field in ("initContainerStatuses", "containerStatuses"):
        for one in status.get(field) or []:
            waiting = (one.get("state") or {}).get("waiting") or {}
            if waiting.get("message"):
                return f"container {one.get('name')}: {_words(waiting)}"
    return ""


def _words(found: Mapping[str, Any]) -> str:
    return ": ".join(str(found[key]) for key in ("reason", "message") if found.get(key))


def _trial(
    turn: bench_pods.Turn,
    pod: Object,
    moments: Mapping[str, float],
    *,
    seen: explanation.Seen | None = None,
    problem: str,
) -> bench_records.Trial:
    start = explanation.explain(seen) if seen else None
    outcome = str(start.outcome) if start else "unknown"
    meant = "restored" if turn.kind == "warm" else "unmanaged"
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    pulling = [
        one for one in (seen.events if seen else None) or () if one.get("reason") == "Pulling"
    ]
    return bench_records.Trial(
        pod=str(pod["metadata"]["name"]),
        kind=turn.kind,
        node=str((pod.get("spec") or {}).get("nodeName") or ""),
        counted=not problem and outcome == meant,
        created=_rounded(moments.get("created")),
        scheduled=_rounded(moments.get("scheduled")),
        started=_rounded(moments.get("started")),
        ready=_rounded(moments.get("ready")),
        outcome=outcome,
        reason=start.reason if start else "",
        message=start.message if start else "",
        restore_seconds=start.seconds if start else None,
        steps=start.steps if start else {},
        pulled=bool(pulling),
        restarts=sum(int(one.get("restartCount") or 0) for one in statuses),
        problem=problem,
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def describe(trial: bench_records.Trial) -> str:
    """A pod's start in a line."""
    if trial.problem:
        return f"{trial.pod} {trial.problem}"
    where = f" on node {trial.node}" if trial.node else ""
    took = f"{trial.pod} Ready after {trial.ready:.2f} s{where}"
    if trial.counted:
        restored = trial.restore_seconds
        return f"{took}, restored in {restored:.2f} s" if restored is not None else took
    told = ": ".join(filter(None, (trial.reason, trial.message)))
    return f"{took}, not counted: it started {trial.outcome}{f': {told}' if told else ''}"
