"""What the agent tells the API: Events, the pod condition, the result of a capture.

One call logs and posts, so that the container's log, the Event, the condition and the agent's log
all carry the same Reason. A failure to post never fails what is reported.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from chrek import errors, log, names
from chrek.agent import objects
from chrek.kube import api

LOG = log.get(__name__)
RESULT_ATTEMPTS = 8


class Reporter:
    """Posts on behalf of one agent."""

    def __init__(self, client: api.Client, node: str) -> None:
        self._client = client
        self._node = node
        self._pending: set[asyncio.Task[None]] = set()

    def start(self, pod: objects.Pod, reason: str, message: str, *, restored: bool) -> None:
        """Report how a container started; returns at once."""
        kind = "Normal" if restored or reason in _EXPECTED else "Warning"
        self._spawn(self._event(pod, kind, reason, message))
        self._spawn(self._condition(pod, reason, message, restored=restored))

    def event(self, pod: objects.Pod, kind: str, reason: str, message: str) -> None:
        """Post an Event on a pod; returns at once."""
        self._spawn(self._event(pod, kind, reason, message))

    async def result(self, pod: objects.Pod, result: Mapping[str, object]) -> None:
        """Write a capture's result onto the job's pod, where the operator takes it from.

        Raises:
            ApiError: after several attempts, or when the pod is gone.
        """
        text = json.dumps(result, separators=(",", ":"))
        # With the UID, a pod of the same name that came later refuses the patch.
        body = {"metadata": {"uid": pod.uid, "annotations": {names.ANNOTATION_RESULT: text}}}
        for attempt in range(RESULT_ATTEMPTS):
            try:
                await self._client.patch("v1", "pods", pod.namespace, pod.name, body)
            except errors.ApiError as err:
                if err.status in (404, 409, 422) or attempt == RESULT_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(min(30.0, 0.5 * 2**attempt))
            else:
                return

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
        )

    async def _condition(
        self, pod: objects.Pod, reason: str, message: str, *, restored: bool
    ) -> None:
        condition = {
            "type": names.CONDITION_RESTORED,
            "status": "True" if restored else "False",
            "reason": reason,
            "message": message[:1024],
            "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        body = {"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}}
        try:
            await self._client.patch(
                *("v1", "pods", pod.namespace, pod.name, body),
                kind="strategic",
                subresource="status",
            )
        except errors.ApiError as err:
            LOG.warning("cannot set the pod condition", pod=pod.name, error=str(err))


_EXPECTED = frozenset({names.Reason.CHECKPOINT_NOT_READY, names.Reason.CHECKPOINT_NOT_FOUND})
