"""A worker's start: answer chrek-init with `cold` or restore the container.

Nothing is changed in the container before chrek-init was told `restoring`. From then on every
failure ends that container (or, where it never restarts, its command starts cold in place), and the
journal makes the pod's next start cold.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import time

from chrek import config, errors, log, names, peer, procfs, restore
from chrek import store as stores
from chrek.agent import connection, decision, journal, metrics, objects, report
from chrek.agent import slots as slots_module

LOG = log.get(__name__)


class Starts:
    """Decides and restores for all workers of this node."""

    def __init__(
        self,
        settings: config.AgentConfig,
        own_namespace: str,
        reporter: report.Reporter,
        records: journal.Journal,
        slots: slots_module.Slots,
    ) -> None:
        self._settings = settings
        self._own_namespace = own_namespace
        self._reporter = reporter
        self._journal = records
        self._slots = slots

    async def handle(
        self,
        conn: connection.Connection,
        caller: peer.Peer,
        pod: objects.Pod,
        checkpoints: list[objects.Checkpoint],
    ) -> None:
        """Serve one connected chrek-init to the end."""
        begin = time.monotonic()
        logger = LOG.bind(pod=pod.name, namespace=pod.namespace, container=caller.container_id[:12])
        try:
            variant, artifact = await self._decide(pod, checkpoints)
            record = journal.Record(
                pod=f"{pod.namespace}/{pod.name}", state="restoring", uuid=variant.uuid
            )
            self._record(pod, record)
        except decision.Cold as cold:
            await conn.send("cold", cold.reason, cold.message)
            logger.info(
                "cold",
                reason=cold.reason,
                detail=cold.message,
                decision_seconds=round(time.monotonic() - begin, 6),
            )
            metrics.STARTS.labels(outcome="cold", reason=cold.reason).inc()
            self._reporter.start(pod, cold.reason, cold.message, restored=False)
            return
        logger = logger.bind(checkpoint=artifact.manifest.identityHash, uuid=variant.uuid)
        decided = time.monotonic() - begin
        await self._restore(conn, caller, pod, artifact, record, logger, decided)

    def _record(self, pod: objects.Pod, record: journal.Record) -> None:
        try:
            self._journal.put(pod.uid, record)
        except OSError as err:
            self._journal.drop(pod.uid)
            raise decision.Cold(
                names.Reason.STORE_FAILED, f"the journal on the signal path: {err}"
            ) from err

    async def _decide(
        self, pod: objects.Pod, checkpoints: list[objects.Checkpoint]
    ) -> tuple[objects.Variant, stores.Artifact]:
        checkpoint = decision.find(checkpoints, pod.namespace, pod.checkpoint)
        variant = decision.choose(checkpoint, pod)
        record = self._journal.get(pod.uid)
        if record is not None and record.state == "failed" and record.uuid == variant.uuid:
            raise decision.Cold(
                names.Reason.PREVIOUS_RESTORE_FAILED,
                f"the last restore in this pod failed: {record.reason}: {record.message}",
            )
        store = stores.Store(
            pathlib.Path(self._settings.storage.pvc.basePath),
            "" if pod.namespace == self._own_namespace else pod.namespace,
        )
        found = await asyncio.to_thread(decision.artifact, store, checkpoint, variant, pod)
        return variant, found

    async def _restore(
        self,
        conn: connection.Connection,
        caller: peer.Peer,
        pod: objects.Pod,
        artifact: stores.Artifact,
        record: journal.Record,
        logger: log.Logger,
        decided: float,
    ) -> None:
        described = artifact.manifest
        on_failure = "exec" if pod.never_restarts else "exit"
        silence = self._settings.silenceTimeoutSeconds
        if not await conn.send("restoring", str(silence), str(described.rootPid), on_failure):
            self._journal.drop(pod.uid)
            return
        steps = ["queued"]
        beat = asyncio.create_task(_heartbeat(conn, steps, silence / 3))
        try:
            async with self._slots.taken():
                result = await asyncio.to_thread(
                    restore.restore,
                    artifact,
                    caller.pid,
                    pathlib.Path(self._settings.stagingPath) / caller.container_id,
                    logger,
                    volumes={v.path: v.exclusive for v in pod.volumes},
                    timeout_seconds=self._settings.restoreTimeoutSeconds,
                    progress=lambda name: steps.append(name),
                )
            if not caller.alive():
                raise errors.PeerError("the container ended during the restore")
        except Exception as err:
            beat.cancel()
            await self._failed(conn, caller, pod, record, err, logger)
            return
        finally:
            beat.cancel()
        self._journal.drop(pod.uid)
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
        metrics.STARTS.labels(outcome="restored", reason=names.Reason.RESTORED).inc()
        metrics.observe("restore", result.seconds)
        self._reporter.start(
            pod,
            names.Reason.RESTORED,
            f"restored {described.bytes / 1e9:.2f} GB of checkpoint {described.identityHash} in "
            f"{result.total_seconds:.2f} s ({criu:.2f} s in CRIU)",
            restored=True,
        )

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
            logger.warning("restore failed", reason=reason, error=str(err), log=_log_of(err))
        else:
            logger.error("restore failed", reason=reason, error=repr(err), exc_info=err)
        failed = journal.Record(
            pod=record.pod, state="failed", uuid=record.uuid, reason=reason, message=str(err)
        )
        try:
            self._journal.put(pod.uid, failed)
        except OSError as problem:
            # Kept in memory; after a restart of the agent the record on disk says as much.
            logger.error("journal cannot be written", error=str(problem))
        if pod.never_restarts:
            await asyncio.to_thread(_empty, caller.pid)
        await conn.send("failed", reason, str(err))
        metrics.STARTS.labels(outcome="failed", reason=reason).inc()
        self._reporter.start(pod, reason, str(err), restored=False)


async def _heartbeat(conn: connection.Connection, steps: list[str], seconds: float) -> None:
    while await conn.send("progress", steps[-1]):
        await asyncio.sleep(seconds)


def _empty(init_pid: int) -> None:
    """End everything in a container but its PID 1."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        for pid in procfs.in_pid_namespace(init_pid):
            if pid != init_pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _log_of(err: errors.ChrekError) -> str:
    return err.log if isinstance(err, errors.ToolError) else ""
