"""What the agent tells the API: Events, the pod condition, the result of a capture.

One call logs and posts, so that the container's log, the Event, the condition and the agent's log
all carry the same Reason. A failure to post never fails what is reported.
"""

from __future__ import annotations

import asyncio
import json
import time
import weakref
from collections.abc import Coroutine, Mapping
from typing import Any, Literal

import msgspec

from chrek import errors, log, names
from chrek.agent import journal, objects
from chrek.kube import api

LOG = log.get(__name__)
REPORT_SECONDS = 900.0
"""How long a report waits for an API server that is away: nobody waits for the report."""
MESSAGE_CHARACTERS = 1024


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """How a managed container started, as the annotation says it; the operator reads it there."""

    outcome: Literal["restored", "cold", "failed", "unhealthy"]
    """`failed`: the restore; `unhealthy`: the restored worker, which died or never got ready. A
    pod that starts cold because of that stays `unhealthy`, lest the operator miss it."""
    reason: str
    message: str
    uuid: str = ""
    """The artifact, where it matters; empty where there was none."""
    variant: str = ""
    at: str = ""
    """RFC 3339; filled in when it is reported."""
    steps: dict[str, float] = {}
    """Seconds of each step of a restore."""
    seconds: float = 0.0
    """Of a whole restore, of which some steps overlap; 0 where there was none."""


class Reporter:
    """Posts on behalf of one agent."""

    def __init__(self, client: api.Client, node: str) -> None:
        self._client = client
        self._node = node
        self._pending: set[asyncio.Task[None]] = set()
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def start(self, pod: objects.Pod, start: Start) -> None:
        """Report how a container started; returns at once. Of one pod the last report stays."""
        start = msgspec.structs.replace(
            start, message=start.message[:MESSAGE_CHARACTERS], at=start.at or rfc3339(time.time())
        )
        normal = start.outcome == "restored" or start.reason in _EXPECTED
        kind = "Normal" if normal else "Warning"
        self._spawn(self._event(pod, kind, start.reason, start.message))
        turn = self._turns.setdefault(pod.uid, asyncio.Lock())
        self._spawn(self._started(pod, start, turn))

    def event(self, pod: objects.Pod, kind: str, reason: str, message: str) -> None:
        """Post an Event on a pod; returns at once."""
        self._spawn(self._event(pod, kind, reason, message))

    async def result(self, pod: objects.Pod | journal.Result, result: Mapping[str, object]) -> None:
        """Write a capture's result onto the job's pod, where the operator takes it from.

        Raises:
            ApiError: the server was away for too long, or the pod is gone.
        """
        text = json.dumps(result, separators=(",", ":"))
        # With the UID, a pod of the same name that came later refuses the patch.
        body = {"metadata": {"uid": pod.uid, "annotations": {names.ANNOTATION_RESULT: text}}}
        await api.persist(
            lambda: self._client.patch("v1", "pods", pod.namespace, pod.name, body),
            REPORT_SECONDS,
        )

    async def drain(self) -> None:
        """Wait for what is still being posted."""
        if self._pending:
            await asyncio.wait(self._pending, timeout=5)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _event(self, pod: objects.Pod, kind: str, reason: str, message: str) -> None:
        await api.post_event(
            self._client,
            regarding={
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": pod.namespace,
                "name": pod.name,
                "uid": pod.uid,
            },
            type_=kind,
            reason=reason,
            note=message,
            component="chrek-agent",
            instance=self._node,
            patience_seconds=REPORT_SECONDS,
        )

    async def _started(self, pod: objects.Pod, start: Start, turn: asyncio.Lock) -> None:
        """Annotation and condition in one request: the status of a pod carries its metadata."""
        condition = {
            "type": names.CONDITION_RESTORED,
            "status": "True" if start.outcome == "restored" else "False",
            "reason": start.reason,
            "message": start.message,
            "lastTransitionTime": start.at,
        }
        annotations = {names.ANNOTATION_START: msgspec.json.encode(start).decode()}
        body = {
            "metadata": {"uid": pod.uid, "annotations": annotations},
            "status": {"conditions": [condition]},
        }
        try:
            async with turn:
                await api.persist(
                    lambda: self._client.patch(
                        *("v1", "pods", pod.namespace, pod.name, body),
                        kind="strategic",
                        subresource="status",
                    ),
                    REPORT_SECONDS,
                )
        except errors.ApiError as err:
            LOG.warning("cannot report a start on its pod", pod=pod.name, error=str(err))


def rfc3339(seconds: float) -> str:
    """A time since the epoch as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


_EXPECTED = frozenset({names.Reason.CHECKPOINT_NOT_READY, names.Reason.CHECKPOINT_NOT_FOUND})
