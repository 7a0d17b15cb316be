"""Says of pods what kubelet and agent would: they start, are captured, end well.

Pods of checkpoint jobs run, get a result and succeed; those of jobs that delete artifacts succeed;
those of graphs run and have started cold.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from chrek import errors, names
from chrek.kube import api
from showcase import load

Object = dict[str, Any]


class StandIn:
    """Follows the pods of a namespace.

    Attributes:
        succeeded: name of a Job -> when its pod had succeeded, in seconds of the monotonic clock.
        requests: how many it sent.
    """

    def __init__(self, client: api.Client, namespace: str) -> None:
        self.succeeded: dict[str, float] = {}
        self.requests = 0
        self._client = client
        self._namespace = namespace
        self._seen: set[str] = set()
        self._work: asyncio.Queue[Object] = asyncio.Queue()
        self._pods: api.Informer[Object] = api.Informer(
            client,
            api.path("v1", "pods", namespace),
            project=_managed,
            on_change=self._changed,
        )

    async def run(self, workers: int = 8) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pods.run())
            for _ in range(workers):
                group.create_task(self._serve())

    def _changed(self, key: str, pod: Object | None, previous: Object | None) -> None:
        if pod is not None and pod["metadata"]["uid"] not in self._seen:
            self._seen.add(pod["metadata"]["uid"])
            self._work.put_nowait(pod)

    async def _serve(self) -> None:
        while True:
            pod = await self._work.get()
            try:
                await self._live(pod)
            except errors.ApiError as err:
                # Replaced by another pod, or removed with its job.
                if err.status not in (404, 409):
                    raise

    async def _live(self, pod: Object) -> None:
        labels = pod["metadata"].get("labels") or {}
        if names.LABEL_SOURCE in labels:
            digest = str(labels.get(names.LABEL_HASH, ""))
            await self._patch(pod, {"status": load.running(pod)}, "status")
            annotations = {names.ANNOTATION_RESULT: load.result(pod, digest)}
            await self._patch(pod, {"metadata": {"annotations": annotations}})
            await self._patch(pod, {"status": load.succeeded(pod)}, "status")
            self.succeeded[pod["job"]] = time.monotonic()
        elif names.LABEL_GRAPH in labels:
            annotations = {names.ANNOTATION_START: load.cold_start()}
            status = load.running(pod)
            body = {"metadata": {"annotations": annotations}, "status": status}
            await self._patch(pod, body, "status")
        else:
            await self._patch(pod, {"status": load.succeeded(pod)}, "status")

    async def _patch(self, pod: Object, body: Object, subresource: str | None = None) -> None:
        self.requests += 1
        body["metadata"] = {**body.get("metadata", {}), "uid": pod["metadata"]["uid"]}
        name = pod["metadata"]["name"]
        await self._client.patch(
            "v1",
            "pods",
            self._namespace,
            name,
            body,
            kind=api.PatchKind.STRATEGIC,
            subresource=subresource,
        )


def _managed(pod: Mapping[str, Any]) -> Object | None:
    """What is needed of a pod; None of those that are about to go."""
    metadata = pod["metadata"]
    if metadata.get("deletionTimestamp"):
        return None
    kept = {key: metadata[key] for key in ("name", "uid", "labels") if key in metadata}
    owners = metadata.get("ownerReferences") or [{}]
    return {
        "job": str(owners[0].get("name", "")),
        "metadata": kept,
        "spec": {"containers": pod["spec"]["containers"]},
    }
