"""The first minute of restored workers: one that dies, or never gets ready, is not restored again.

What became of a worker is read from its pod's status, which carries the exit code; a descriptor of
the process would not tell the agent, which is not its parent. The journal keeps who is on
probation, so that an agent that was started since goes on with it, and so that a container that
starts before the status has arrived is not restored on a guess.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from chrek import errors, log, names
from chrek.agent import journal, metrics, objects, report

LOG = log.get(__name__)
PROBATION_SECONDS = 60.0
VERDICT_SECONDS = 2.0
"""How long a starting container waits for what the kubelet says of the one before it.

Less than the time that chrek-init gives the agent to answer.
"""


class Probation:
    """The restored workers of this node that have not proven themselves yet."""

    def __init__(
        self,
        reporter: report.Reporter,
        records: journal.Journal,
        *,
        look: Callable[[objects.Pod], Awaitable[objects.Pod | None]],
        seconds: float = PROBATION_SECONDS,
    ) -> None:
        """Prepare.

        Args:
            look: reads a pod from the API server; None when it is gone or another.
            seconds: how long a restored worker must live. To get ready it has as long after the
                first moment at which its probes can have passed.
        """
        self._reporter = reporter
        self._journal = records
        self._look = look
        self._seconds = seconds
        self._pods: dict[str, objects.Pod] = {}
        self._ready: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changes: dict[str, asyncio.Event] = {}

    def begin(self, pod: objects.Pod, record: journal.Record) -> None:
        """A worker was restored. `record` is its journal record, in state `restored`."""
        self._stop(pod.uid)
        try:
            self._journal.put(pod.uid, record)
        except OSError as err:
            # Kept in memory; after a restart of the agent the record on disk says that the
            # restore was cut off, and the pod's next start is cold.
            LOG.warning("journal cannot be written", error=str(err))
        self._watch(pod)

    def changed(self, pod: objects.Pod) -> None:
        """A pod's status changed; also what an agent that was started since hears of first."""
        record = self._journal.get(pod.uid)
        if record is None or record.state != "restored":
            return
        if pod.uid not in self._tasks:
            self._watch(pod)
        self._pods[pod.uid] = pod
        self._changes[pod.uid].set()
        if pod.ready and pod.container_id == record.container and pod.uid not in self._ready:
            self._ready.add(pod.uid)
            since = round(time.time() - record.at, 3)
            logger = LOG.bind(**pod.log_fields, uuid=record.uuid)
            logger.info("restored worker ready", seconds=since)
        if record.container in pod.exits:
            self._ended(pod, record)

    def gone(self, pod_uid: str) -> None:
        """A pod is no more."""
        self._stop(pod_uid)

    async def settle(self, pod: objects.Pod, container_id: str) -> None:
        """Have the journal say what became of a pod's restored worker, if there was one.

        Args:
            container_id: the container that starts now.
        """
        self.changed(pod)
        record = self._on_probation(pod.uid)
        if record is None or record.container == container_id:
            return
        deadline = time.monotonic() + VERDICT_SECONDS
        while self._on_probation(pod.uid) is not None:
            change = self._changes[pod.uid]
            change.clear()
            try:
                await asyncio.wait_for(change.wait(), deadline - time.monotonic())
            except TimeoutError:
                break
        if self._on_probation(pod.uid) is not None:
            self._blame(pod, record, names.Reason.WORKER_DIED, "it ended")

    def _on_probation(self, pod_uid: str) -> journal.Record | None:
        record = self._journal.get(pod_uid)
        return record if record is not None and record.state == "restored" else None

    def _watch(self, pod: objects.Pod) -> None:
        self._pods[pod.uid] = pod
        self._changes[pod.uid] = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._run(pod.uid))
        self._tasks[pod.uid] = task

    def _stop(self, pod_uid: str) -> None:
        task = self._tasks.pop(pod_uid, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        change = self._changes.pop(pod_uid, None)
        if change is not None:
            change.set()
        self._pods.pop(pod_uid, None)
        self._ready.discard(pod_uid)

    async def _run(self, pod_uid: str) -> None:
        """Until the end of one probation."""
        record = self._on_probation(pod_uid)
        if record is None:
            return
        await asyncio.sleep(record.at + self._seconds - time.time())
        pod = self._pods[pod_uid]
        if pod.has_readiness_probe and pod_uid not in self._ready:
            await asyncio.sleep(record.at + pod.probe_delay_seconds + self._seconds - time.time())
        if pod.has_readiness_probe and pod_uid not in self._ready:
            found = await self._asked(pod)
            if found is None:
                self._stop(pod_uid)
                return
            # Counts as a change: it may say that the worker is ready or has ended.
            self.changed(found)
            if self._on_probation(pod_uid) is None:
                return
            if found.container_id == record.container and pod_uid not in self._ready:
                if found.ending:
                    self._drop(pod_uid)
                else:
                    window = time.time() - record.at
                    self._blame(
                        found,
                        record,
                        names.Reason.NEVER_READY,
                        f"its readiness probe did not pass within {window:.0f} s",
                    )
                return
        self._drop(pod_uid)

    async def _asked(self, pod: objects.Pod) -> objects.Pod | None:
        """The pod, from the API server itself: watches may be behind when blame is due."""
        while True:
            try:
                return await self._look(pod)
            except errors.ApiError as err:
                LOG.warning("cannot read a pod on probation", pod=pod.name, error=str(err))
            await asyncio.sleep(self._seconds / 12)

    def _drop(self, pod_uid: str) -> None:
        self._journal.drop(pod_uid)
        self._stop(pod_uid)

    def _ended(self, pod: objects.Pod, record: journal.Record) -> None:
        code = pod.exits[record.container]
        if code == 0 or pod.ending:
            self._drop(pod.uid)
        else:
            self._blame(pod, record, names.Reason.WORKER_DIED, f"it ended with exit code {code}")

    def _blame(
        self, pod: objects.Pod, record: journal.Record, reason: names.Reason, what: str
    ) -> None:
        message = f"the worker restored from {record.uuid} was not well: {what}"
        failed = msgspec.structs.replace(record, state="failed", reason=reason, message=message)
        try:
            self._journal.put(pod.uid, failed)
        except OSError as err:
            # Kept in memory; an agent that is started now takes the worker for on probation.
            LOG.error("journal cannot be written", error=str(err))
        self._stop(pod.uid)
        LOG.warning(
            "restored worker failed", pod=record.pod, reason=reason, uuid=record.uuid, detail=what
        )
        metrics.UNHEALTHY.labels(reason=reason).inc()
        start = report.Start(
            outcome="unhealthy",
            reason=reason,
            message=message,
            uuid=record.uuid,
            variant=record.variant,
        )
        self._reporter.start(pod, start)
