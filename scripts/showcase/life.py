"""The life of many objects under one operator, measured step by step."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

from chrek import names
from chrek.kube import api
from showcase import (
    commands,
    concurrency,
    errors,
    figures,
    load,
    scrape,
    site,
    standin,
    usage,
    view,
)

Object = dict[str, Any]

CREATORS = 16
CONVERGE_SECONDS = 3600.0
QUIET_SECONDS = 5.0
COME_TO_REST_SECONDS = 300.0
EXTRA = 20
"""Checkpoints that are made, and deleted, one after the other while all else is at rest."""


class Life:
    """Steps in the order in which they are taken; each returns its figures."""

    def __init__(
        self,
        client: api.Client,
        operator: site.Operator,
        seen: view.View,
        pods: standin.StandIn,
        *,
        namespace: str,
    ) -> None:
        self._client = client
        self._operator = operator
        self._seen = seen
        self._pods = pods
        self._namespace = namespace

    async def converge(self, checkpoints: int, graphs: int) -> Object:
        """Create everything and wait until all of it is Ready."""
        objects = self._objects(checkpoints, graphs)
        commands.say(f"creating {len(objects)} objects")
        before, used, began = await self._scrape(), self.usage(), time.monotonic()
        await concurrency.bounded(
            (self._create(plural, item) for plural, item in objects), CREATORS
        )
        created = time.monotonic() - began
        await self._all_ready(checkpoints, graphs)
        seconds = time.monotonic() - began
        commands.say(f"all Ready after {seconds:.1f} s")
        now = self.usage()
        # Graphs are told of their pods a little later; the Job controller's 20 requests a second
        # have it busy for longer than the operator, and all that follows would wait behind that.
        await self._jobs_ended()
        ended = time.monotonic() - began
        added = (await self._settled()).since(before)
        lags = [
            max(0.0, self._seen.ready_at[name] - self._pods.succeeded[job])
            for name, job in self._seen.jobs.items()
        ]
        counts = figures.writes(added)
        return {
            "created_seconds": round(created, 2),
            "jobs_created_seconds": round(max(self._seen.job_at.values()) - began, 2),
            "seconds": round(seconds, 2),
            "jobs_ended_seconds": round(ended, 2),
            "ready_after_pod_succeeded_seconds": figures.spread(lags),
            "requests_of_stand_in": self._pods.requests,
            "cpu_seconds": round(now.cpu_seconds - used.cpu_seconds, 2),
            "resident_bytes": now.resident_bytes,
            "peak_bytes": now.peak_bytes,
            "reconcile_seconds": figures.reconciles(added),
            "writes": figures.per_object(
                counts, events=await self._events(), checkpoints=checkpoints, graphs=graphs
            ),
        }

    async def rest(self, seconds: float) -> Object:
        """What the operator does while nothing happens."""
        commands.say(f"watching it at rest for {seconds:.0f} s")
        before, used = await self._scrape(), self.usage()
        await asyncio.sleep(seconds)
        after, now = await self._scrape(), self.usage()
        counts = figures.writes(after.since(before))
        return {
            "seconds": seconds,
            "writes": figures.of_objects(counts),
            "writes_of_the_lease": sum(counts.values()) - sum(figures.of_objects(counts).values()),
            "cpu_seconds": round(now.cpu_seconds - used.cpu_seconds, 2),
            "resident_bytes": now.resident_bytes,
        }

    async def reaction(self, first: int) -> Object:
        """From the creation of one more checkpoint to the operator's answers, as a client sees."""
        commands.say(f"{EXTRA} more checkpoints, one after the other")
        seen, status, job, own = self._seen, [], [], []
        for number in range(first, first + EXTRA):
            name = load.checkpoint_name(number)
            began = time.monotonic()
            await self._create(names.CHECKPOINT_PLURAL, load.checkpoint(number))
            own.append(time.monotonic() - began)
            for there, what in (
                (seen.status_at, "has a status"),
                (seen.job_at, "has a Job"),
                (seen.ready_at, "is Ready"),
            ):
                await concurrency.until(
                    lambda: name in there,  # noqa: B023
                    f"{name} {what}",
                    seconds=300,
                )
            status.append(seen.status_at[name] - began)
            job.append(seen.job_at[name] - began)
        return {
            "create_seconds": figures.spread(own),
            "first_status_after_create_seconds": figures.spread(status),
            "job_after_create_seconds": figures.spread(job),
        }

    async def deletion(self, first: int) -> Object:
        """What the deletion of a checkpoint costs."""
        commands.say(f"deleting {EXTRA} of them")
        before, began = await self._settled(), time.monotonic()
        deleted = [load.checkpoint_name(number) for number in range(first, first + EXTRA)]
        for name in deleted:
            where = (names.API_VERSION, names.CHECKPOINT_PLURAL, self._namespace, name)
            await self._client.delete(*where)
        await concurrency.until(
            lambda: not self._seen.are_there(deleted), "checkpoints are gone", seconds=300
        )
        seconds = time.monotonic() - began
        counts = figures.of_objects(figures.writes((await self._settled()).since(before)))
        return {
            "checkpoints": EXTRA,
            "seconds": round(seconds, 2),
            "writes": counts,
            "writes_per_checkpoint": round(sum(counts.values()) / EXTRA, 2),
        }

    async def restart(self, objects: int) -> Object:
        """A new process that meets all objects at once; `objects` is how many it looks at."""
        commands.say("restarting the operator")
        await asyncio.to_thread(self._operator.end, signal.SIGTERM)
        began = time.monotonic()
        await asyncio.to_thread(self._operator.start)
        await asyncio.to_thread(self._operator.ready)
        ready = time.monotonic() - began
        await concurrency.until(self._operator.leads, "the operator leads")
        leads = time.monotonic() - began
        while figures.reconciled(await self._scrape()) < objects:
            if time.monotonic() - began > COME_TO_REST_SECONDS:
                raise errors.ShowError(f"not all of {objects} objects were looked at")
            await asyncio.sleep(0.1)
        scraped = await self._settled(of=f"{figures.RECONCILE}_count")
        settled, now = time.monotonic() - began - QUIET_SECONDS, self.usage()
        return {
            "ready_seconds": round(ready, 2),
            "leads_seconds": round(leads, 2),
            "all_looked_at_seconds": round(settled, 2),
            "reconcile_seconds": figures.reconciles(scraped),
            "writes": figures.of_objects(figures.writes(scraped)),
            "cpu_seconds": round(now.cpu_seconds, 2),
            "resident_bytes": now.resident_bytes,
            "peak_bytes": now.peak_bytes,
        }

    def usage(self) -> usage.Usage:
        """What the operator's process uses.

        Raises:
            ShowError: it ended.
        """
        process = self._operator.process
        if process is None or process.poll() is not None:
            text = self._operator.log.read_text()[-3000:]
            raise errors.ShowError(f"the operator ended:\n{text}")
        return usage.of(process.pid)

    def _objects(self, checkpoints: int, graphs: int) -> list[tuple[str, Object]]:
        """Graphs among the checkpoints; for half of the graphs the operator makes them."""
        autos = (graphs + 1) // 2
        made = [(names.CHECKPOINT_PLURAL, load.checkpoint(n)) for n in range(autos, checkpoints)]
        every = len(made) // graphs + 1 if graphs else 1
        for number in range(graphs):
            one = (names.GRAPH_PLURAL, load.graph(number, auto=number < autos))
            made.insert(min(len(made), number * every), one)
        return made

    async def _create(self, plural: str, item: Object) -> None:
        await self._client.create(names.API_VERSION, plural, self._namespace, item)

    async def _all_ready(self, checkpoints: int, graphs: int) -> None:
        deadline, said = time.monotonic() + CONVERGE_SECONDS, time.monotonic()
        while True:
            made, served = len(self._seen.ready_at), self._seen.graphs_ready()
            if made >= checkpoints and served >= graphs:
                return
            self.usage()
            if self._seen.failed:
                name, message = next(iter(self._seen.failed.items()))
                text = f"{len(self._seen.failed)} checkpoints failed; {name}: {message}"
                raise errors.ShowError(text)
            state = f"{made} of {checkpoints} checkpoints, {served} of {graphs} graphs are Ready"
            if time.monotonic() > deadline:
                raise errors.ShowError(f"after {CONVERGE_SECONDS:.0f} s {state}")
            if time.monotonic() - said > 10:
                commands.say(state)
                said = time.monotonic()
            await asyncio.sleep(0.05)

    async def _jobs_ended(self) -> None:
        """Wait until the Job controller has said of every Job that it ended."""
        deadline = time.monotonic() + CONVERGE_SECONDS
        while True:
            listed = await self._client.list("batch/v1", "jobs", self._namespace)
            left = sum(not _ended(job) for job in listed["items"])
            if not left:
                return
            if time.monotonic() > deadline:
                raise errors.ShowError(f"after {CONVERGE_SECONDS:.0f} s {left} Jobs have not ended")
            await asyncio.sleep(2)

    async def _events(self) -> dict[str, int]:
        """The operator's Events by the kind of what they are about."""
        found: dict[str, int] = {}
        listed = await self._client.list("events.k8s.io/v1", "events", self._namespace)
        for event in listed["items"]:
            if str(event.get("reportingController")).endswith("chrek-operator"):
                kind = str((event.get("regarding") or {}).get("kind"))
                found[kind] = found.get(kind, 0) + 1
        return found

    async def _settled(self, of: str = figures.REQUESTS) -> scrape.Scrape:
        """The metrics once a counter, but for the Lease, has not moved for a while."""
        began = since = time.monotonic()
        last = await self._scrape()
        while time.monotonic() - since < QUIET_SECONDS:
            await asyncio.sleep(0.5)
            now = await self._scrape()
            moved = {key for key in now.since(last).by(of, "resource") if key != (figures.LEASES,)}
            if moved:
                since, last = time.monotonic(), now
            if time.monotonic() - began > COME_TO_REST_SECONDS:
                raise errors.ShowError(f"the operator does not come to rest: {sorted(moved)}")
        return await self._scrape()

    async def _scrape(self) -> scrape.Scrape:
        status, text = await asyncio.to_thread(self._operator.answers, "/metrics")
        if status != 200:
            raise errors.ShowError(f"the operator's /metrics: {status} {text[:300]}")
        return scrape.parse(text)


def _ended(job: Object) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)
