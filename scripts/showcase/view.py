"""What a client sees of the operator's work in a namespace, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Any

from chrek import names
from chrek.kube import api

Object = dict[str, Any]


class View:
    """Follows checkpoints, their Jobs and graphs.

    Times are seconds of the monotonic clock.

    Attributes:
        status_at: name of a checkpoint -> when it had a phase.
        job_at: name of a checkpoint -> when its first Job was there.
        ready_at: name of a checkpoint -> when it was Ready.
        jobs: name of a checkpoint -> name of its first Job.
        failed: name of a checkpoint that is Failed -> its message.
    """

    def __init__(self, client: api.Client, namespace: str) -> None:
        self.status_at: dict[str, float] = {}
        self.job_at: dict[str, float] = {}
        self.ready_at: dict[str, float] = {}
        self.jobs: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self._namespace = namespace

        def collection(group_version: str, plural: str) -> str:
            return api.path(group_version, plural, namespace)

        self._checkpoints: api.Informer[Object] = api.Informer(
            client,
            collection(names.API_VERSION, names.CHECKPOINT_PLURAL),
            project=lambda item: item.get("status") or {},
            on_change=self._checkpoint,
        )
        self._graphs: api.Informer[bool] = api.Informer(
            client, collection(names.API_VERSION, names.GRAPH_PLURAL), project=_served
        )
        self._jobs: api.Informer[str] = api.Informer(
            client, collection("batch/v1", "jobs"), project=_owner, on_change=self._job
        )

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as group:
            for followed in (self._checkpoints, self._graphs, self._jobs):
                group.create_task(followed.run())

    async def synced(self) -> None:
        """Wait until what is there was seen."""
        for followed in (self._checkpoints, self._graphs, self._jobs):
            await followed.synced.wait()

    def graphs_ready(self) -> int:
        """How many graphs have pods that start warm from now on."""
        return sum(ready for _, ready in self._graphs.items())

    def are_there(self, checkpoints: Collection[str]) -> bool:
        """Whether any of these checkpoints exists."""
        return any(self._checkpoints.get(self._namespace, one) is not None for one in checkpoints)

    def _checkpoint(self, key: str, status: Object | None, previous: Object | None) -> None:
        name = key.rpartition("/")[2]
        phase = (status or {}).get("phase")
        if status is None or not phase:
            return
        now = time.monotonic()
        self.status_at.setdefault(name, now)
        if phase == names.Phase.READY:
            self.ready_at.setdefault(name, now)
        if phase == names.Phase.FAILED:
            self.failed[name] = str(status.get("message", ""))

    def _job(self, key: str, owner: str | None, previous: str | None) -> None:
        if owner:
            self.job_at.setdefault(owner, time.monotonic())
            self.jobs.setdefault(owner, key.rpartition("/")[2])


def _served(graph: Mapping[str, Any]) -> bool:
    services = ((graph.get("status") or {}).get("services") or {}).values()
    return bool(services) and all(service.get("ready") for service in services)


def _owner(job: Mapping[str, Any]) -> str | None:
    owners = job["metadata"].get("ownerReferences") or []
    return next((str(o["name"]) for o in owners if o.get("kind") == names.CHECKPOINT_KIND), None)
