"""A worker's start: answer chrek-init with `cold` or restore the container.

A worker that its checkpoint is to be captured from starts cold too, and is handed to the captures.
Nothing is changed in the container before chrek-init was told `restoring`. From then on every
failure ends that container (or, where it never restarts, its command starts cold in place), and the
journal makes the pod's next start cold.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import msgspec

from chrek import config, context, dynamo, errors, leftovers, log, names, peer, procfs, restore
from chrek import storage as storages
from chrek import store as stores
from chrek.agent import (
    connection,
    decision,
    journal,
    metrics,
    objects,
    probation,
    readers,
    report,
)
from chrek.agent import slots as slots_module
from chrek.cuda import gpus as devices

LOG = log.get(__name__)
_CAPTURABLE = frozenset(
    {
        names.Reason.CHECKPOINT_NOT_FOUND,
        names.Reason.CHECKPOINT_NOT_READY,
        names.Reason.NO_VARIANT,
        names.Reason.SUSPECT,
        *names.LOST_ARTIFACT,
    }
)
"""Of cold starts: there is no artifact for such a pod, so it may become the source of one."""
_UNHEALTHY = frozenset({names.Reason.WORKER_DIED, names.Reason.NEVER_READY})


class Source(Protocol):
    """Serves workers that may be captured while they serve."""

    async def serve(
        self,
        conn: connection.Connection,
        caller: peer.Peer,
        pod_of: Callable[[], objects.Pod | None],
        checkpoints_of: Callable[[], list[objects.Checkpoint]],
        cold: decision.Cold,
    ) -> None:
        """Start a worker with `serve` and stay with it to its end."""


class Call(Protocol):
    """Makes a quiesce or wake call."""

    async def __call__(
        self, action: Mapping[str, Any], *, pod_ip: str, caller: peer.Peer, reason: str
    ) -> None:
        """Raises ChrekError with that reason when it fails."""


class Starts:
    """Decides and restores for all workers of this node."""

    def __init__(
        self,
        settings: config.AgentConfig,
        storage: storages.Storage,
        *,
        reporter: report.Reporter,
        records: journal.Journal,
        slots: slots_module.Slots,
        trial: probation.Probation,
        marks: readers.Readers,
        source: Source,
        call: Call,
        gpus_of: Callable[[objects.Pod], devices.Gpus | None] = lambda _: None,
    ) -> None:
        """Nothing starts yet.

        Args:
            gpus_of: the GPUs of a pod's managed container; None where no driver can be used.
        """
        self._gpus_of = gpus_of
        self._settings = settings
        self._storage = storage
        self._reporter = reporter
        self._journal = records
        self._slots = slots
        self._probation = trial
        self._readers = marks
        self._source = source
        self._call = call

    async def handle(
        self,
        conn: connection.Connection,
        caller: peer.Peer,
        pod_of: Callable[[], objects.Pod | None],
        checkpoints_of: Callable[[], list[objects.Checkpoint]],
        directory: int,
    ) -> None:
        """Serve one connected chrek-init to the end.

        Args:
            pod_of: the pod as it is now; None once it is gone.
            checkpoints_of: all DynamoCheckpoints as they are now.
            directory: descriptor of the pod's chrek volume.
        """
        pod = pod_of()
        if pod is None:
            return
        begin = time.monotonic()
        logger = LOG.bind(**pod.log_fields, container=caller.container_id[:12])
        checkpoints = checkpoints_of()
        try:
            plan = await self._decide(pod, caller, checkpoints)
        except decision.Cold as cold:
            ready = decision.ready(checkpoints, pod)
            metrics.went_cold(cold.reason, ready=ready, artifact=bool(cold.uuid))
            self._cold(pod, cold, begin, logger)
            with contextlib.suppress(OSError):
                # A restart of a container that was restored: this one was not.
                context.remove(directory)
                dynamo.forget(directory)
            if cold.reason in _CAPTURABLE and _from_worker(pod, checkpoints):
                await self._source.serve(conn, caller, pod_of, checkpoints_of, cold)
            else:
                await conn.send("cold", cold.reason, cold.message)
            return
        logger = logger.bind(checkpoint=plan.artifact.manifest.identityHash, uuid=plan.record.uuid)
        await self._restore(conn, caller, pod_of, plan, logger, time.monotonic() - begin)

    def _cold(
        self, pod: objects.Pod, cold: decision.Cold, begin: float, logger: log.Logger
    ) -> None:
        logger.info(
            "cold",
            reason=cold.reason,
            detail=cold.message,
            decision_seconds=round(time.monotonic() - begin, 6),
        )
        start = report.Start(
            outcome="cold",
            reason=cold.reason,
            message=cold.message,
            uuid=cold.uuid,
            variant=cold.variant,
        )
        record = self._journal.get(pod.uid)
        previous = cold.reason == names.Reason.PREVIOUS_RESTORE_FAILED
        if record is not None and previous and record.reason in _UNHEALTHY:
            start = msgspec.structs.replace(
                start, outcome="unhealthy", at=report.rfc3339(record.at)
            )
        self._reporter.start(pod, start)

    def _record(self, pod: objects.Pod, record: journal.Record) -> None:
        try:
            self._journal.put(pod.uid, record)
        except OSError as err:
            self._journal.drop(pod.uid)
            raise decision.Cold(
                names.Reason.STORE_FAILED, f"the journal on the signal path: {err}"
            ) from err

    async def _decide(
        self, pod: objects.Pod, caller: peer.Peer, checkpoints: list[objects.Checkpoint]
    ) -> _Plan:
        found = decision.find(checkpoints, pod.namespace, pod.checkpoint)
        checkpoint, variant = decision.choose(found, pod)
        most = self._settings.maxQueuedRestores
        if self._slots.busy and self._slots.waiting >= most:
            raise decision.Cold(
                names.Reason.BUSY,
                f"{self._slots.waiting} dumps and restores wait for their turn on this node, and "
                f"agent.maxQueuedRestores is {most}",
            )
        await self._probation.settle(pod, caller.container_id)
        record = self._journal.get(pod.uid)
        if record is not None and record.state == "failed" and record.uuid == variant.uuid:
            raise decision.Cold(
                names.Reason.PREVIOUS_RESTORE_FAILED,
                f"the last restore in this pod failed: {record.reason}: {record.message}",
                uuid=variant.uuid,
                variant=variant.name,
            )
        store = self._storage.of(pod.namespace)
        artifact = await asyncio.to_thread(
            decision.artifact,
            *(store, checkpoint, variant, pod),
            init_pid=caller.pid,
            ignore=self._settings.ignoreDifferences,
            gpus=self._gpus_of(pod),
        )
        record = journal.Record(
            pod=f"{pod.namespace}/{pod.name}",
            state="restoring",
            uuid=variant.uuid,
            variant=variant.name,
            container=caller.container_id,
        )
        self._record(pod, record)
        return _Plan(store=store, artifact=artifact, record=record, wake=found.wake)

    async def _restore(
        self,
        conn: connection.Connection,
        caller: peer.Peer,
        pod_of: Callable[[], objects.Pod | None],
        plan: _Plan,
        logger: log.Logger,
        decided: float,
    ) -> None:
        pod = pod_of()
        described = plan.artifact.manifest
        on_failure = "exec" if pod and pod.never_restarts else "exit"
        silence = self._settings.silenceTimeoutSeconds
        line = ("restoring", str(silence), str(described.rootPid), on_failure)
        if pod is None or not await conn.send(*line):
            self._journal.drop(caller.pod_uid)
            return
        steps = ["queued"]
        beat = asyncio.create_task(_heartbeat(conn, steps, silence / 3))
        try:
            async with self._slots.taken("restore"), self._reading(pod.namespace, plan) as marked:
                result = await self._in_thread(caller, pod, plan, steps, marked, logger)
                if plan.wake is not None:
                    steps.append("wake")
                    with logger.step("wake", result.seconds):
                        await self._wake(plan.wake, caller, pod_of() or pod)
            if not caller.alive():
                raise errors.PeerError("the container ended during the restore")
        except Exception as err:
            beat.cancel()
            if not caller.alive() and not isinstance(err, errors.ChrekError):
                # Whatever was being done in it: a file of /proc that is gone, a broken pipe.
                err = errors.PeerError(f"the container ended during the restore: {err}")
            await self._failed(conn, caller, pod, plan.record, err, logger)
            return
        finally:
            beat.cancel()
        # Before chrek-init hears of it: its worker may end at any moment from then on.
        self._probation.begin(
            pod_of() or pod, msgspec.structs.replace(plan.record, state="restored")
        )
        await conn.send("restored")
        criu = result.seconds["criu"]
        logger.info(
            "restored",
            bytes=described.bytes,
            decision_seconds=round(decided, 6),
            criu_seconds=criu,
            total_seconds=result.total_seconds,
            steps=result.seconds,
        )
        metrics.restored(described.bytes, result.seconds)
        start = report.Start(
            outcome="restored",
            reason=names.Reason.RESTORED,
            message=f"restored {described.bytes / 1e9:.2f} GB of checkpoint "
            f"{described.identityHash} in {result.total_seconds:.2f} s ({criu:.2f} s in CRIU)",
            uuid=plan.record.uuid,
            variant=plan.record.variant,
            steps=result.seconds,
            seconds=result.total_seconds,
        )
        self._reporter.start(pod, start)

    @contextlib.asynccontextmanager
    async def _reading(self, namespace: str, plan: _Plan) -> AsyncIterator[asyncio.Task[None]]:
        """While inside, nobody deletes the artifact; yields what tells when that is so."""
        identity_hash = plan.artifact.manifest.identityHash
        task = asyncio.create_task(self._readers.enter(namespace, identity_hash))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._readers.leave(namespace, identity_hash)

    async def _in_thread(
        self,
        caller: peer.Peer,
        pod: objects.Pod,
        plan: _Plan,
        steps: list[str],
        marked: asyncio.Task[None],
        logger: log.Logger,
    ) -> restore.Restored:
        loop = asyncio.get_running_loop()

        def progress(name: str) -> None:
            steps.append(name)
            if name == "criu":
                # What came before it was the agent's own preparation.
                asyncio.run_coroutine_threadsafe(asyncio.wait_for(marked, None), loop).result()

        def work() -> restore.Restored:
            progress("fetch")
            begin = time.monotonic()
            artifact = plan.artifact
            with plan.store.arriving(artifact) as pages_arrive:
                fetched = round(time.monotonic() - begin, 6)
                done = restore.restore(
                    artifact,
                    caller.pid,
                    pathlib.Path(self._settings.stagingPath) / caller.container_id,
                    logger,
                    volumes={v.path: v.exclusive for v in pod.volumes},
                    pod=context.Pod(namespace=pod.namespace, name=pod.name, uid=pod.uid),
                    gpus=self._gpus_of(pod),
                    timeout_seconds=self._settings.restoreTimeoutSeconds,
                    progress=progress,
                    pages_arrive=pages_arrive,
                )
            return restore.Restored(
                seconds={"fetch": fetched, **done.seconds},
                total_seconds=round(fetched + done.total_seconds, 6),
            )

        return await asyncio.to_thread(work)

    async def _wake(self, action: Mapping[str, Any], caller: peer.Peer, pod: objects.Pod) -> None:
        # The kubelet tells the API server of an address later than the container has it.
        address = pod.ip or next(iter(procfs.addresses(caller.pid)), "")
        await self._call(action, pod_ip=address, caller=caller, reason=names.Reason.WAKE_FAILED)

    async def _failed(
        self,
        conn: connection.Connection,
        caller: peer.Peer,
        pod: objects.Pod,
        record: journal.Record,
        err: Exception,
        logger: log.Logger,
    ) -> None:
        reason = names.Reason.INTERNAL_ERROR.value
        if isinstance(err, errors.ChrekError):
            reason = err.reason
            logger.warning("restore failed", reason=reason, error=str(err), log=errors.log_of(err))
        else:
            logger.error("restore failed", reason=reason, error=repr(err), exc_info=err)
        failed = msgspec.structs.replace(record, state="failed", reason=reason, message=str(err))
        try:
            self._journal.put(pod.uid, failed)
        except OSError as problem:
            # Kept in memory; after a restart of the agent the record on disk says as much.
            logger.error("journal cannot be written", error=str(problem))
        if pod.never_restarts:
            await asyncio.to_thread(leftovers.end_all, caller.pid)
        await conn.send("failed", reason, str(err))
        metrics.restore_failed(reason)
        start = report.Start(
            outcome="failed",
            reason=reason,
            message=str(err),
            uuid=record.uuid,
            variant=record.variant,
        )
        self._reporter.start(pod, start)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A restore that is to be made."""

    store: storages.AnyStore
    artifact: stores.Artifact
    record: journal.Record
    wake: Mapping[str, Any] | None


def _from_worker(pod: objects.Pod, checkpoints: list[objects.Checkpoint]) -> bool:
    """Whether a pod's checkpoint is captured from serving pods; it may not be made yet."""
    try:
        source = decision.find(checkpoints, pod.namespace, pod.checkpoint).first.capture_source
    except decision.Cold:
        source = pod.capture_source
    return source == names.CaptureSource.WORKER


async def _heartbeat(conn: connection.Connection, steps: list[str], seconds: float) -> None:
    while await conn.send("progress", steps[-1]):
        await asyncio.sleep(seconds)
