"""A checkpoint job: prepare its container, wait until the worker is ready, dump it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
from collections.abc import Callable

from chrek import checkpoint, config, errors, log, names, peer, procfs
from chrek import store as stores
from chrek.agent import connection, metrics, objects, report
from chrek.agent import slots as slots_module
from chrek.criu import service

LOG = log.get(__name__)
ATTEMPTS = 3
RETRY_SECONDS = 5.0
_POLL_SECONDS = 0.1
_ENDING_SECONDS = 0.5


class Captures:
    """Serves the checkpoint jobs of this node."""

    def __init__(
        self,
        settings: config.AgentConfig,
        node: str,
        own_namespace: str,
        reporter: report.Reporter,
        slots: slots_module.Slots,
    ) -> None:
        self._settings = settings
        self._node = node
        self._own_namespace = own_namespace
        self._reporter = reporter
        self._slots = slots

    async def handle(
        self,
        conn: connection.Connection,
        caller: peer.Peer,
        pod_of: Callable[[], objects.Pod | None],
        checkpoints: list[objects.Checkpoint],
        directory: int,
    ) -> None:
        """Serve one connected chrek-init of a checkpoint job to the end.

        Args:
            pod_of: the pod as it is now; None once it is gone.
            directory: descriptor of the pod's chrek volume.
        """
        pod = pod_of()
        if pod is None:
            return
        logger = LOG.bind(pod=pod.name, namespace=pod.namespace, container=caller.container_id[:12])
        try:
            wanted = _verified(pod, checkpoints)
            await asyncio.to_thread(service.set_last_pid, caller.pidfd, names.FIRST_WORKER_PID)
            if not await conn.send("capture"):
                return
            root_pid = await self._started(conn, caller)
            ending = asyncio.create_task(conn.closed())
            try:
                await self._ready(pod_of, directory, ending)
                await self._capture(conn, caller, root_pid, pod, wanted, logger)
            finally:
                ending.cancel()
        except _GoneError:
            logger.info("checkpoint job ended before it was captured")
        except Exception as err:
            known = isinstance(err, errors.ChrekError)
            reason = err.reason if isinstance(err, errors.ChrekError) else "InternalError"
            details = err.log if isinstance(err, errors.ToolError) else ""
            logger.error(
                "capture failed",
                reason=reason,
                error=str(err) or repr(err),
                log=details,
                exc_info=None if known else err,
            )
            metrics.CAPTURES.labels(outcome="failed", reason=reason).inc()
            self._reporter.event(pod, "Warning", reason, str(err))
            with contextlib.suppress(errors.ApiError):
                await self._reporter.result(pod, {"reason": reason, "message": str(err)})
            await conn.send("failed", reason, str(err))

    async def _started(self, conn: connection.Connection, caller: peer.Peer) -> int:
        line = await conn.receive()
        if line is None:
            raise _GoneError
        word, _, number = line.partition(" ")
        if word != "started" or not number.isdecimal():
            raise errors.PeerError(f"expected `started <pid>`, got {line[:80]!r}")
        try:
            for pid in procfs.children(caller.pid):
                if procfs.status(pid).nspids[-1] == int(number):
                    return pid
        except (FileNotFoundError, ProcessLookupError) as err:
            raise _GoneError from err
        # A worker that ends at once takes the container with it.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(conn.closed(), _ENDING_SECONDS)
            raise _GoneError
        raise errors.PeerError(f"process {number} is not a child of the container's PID 1")

    async def _ready(
        self,
        pod_of: Callable[[], objects.Pod | None],
        directory: int,
        ending: asyncio.Task[None],
    ) -> None:
        """Return when the worker is ready: by its ready file or by its readiness probe."""
        name = pathlib.PurePath(names.READY_FILE).name
        deadline = asyncio.get_running_loop().time() + self._settings.readyTimeoutSeconds
        while True:
            pod = pod_of()
            if pod is None or ending.done():
                raise _GoneError
            mode = pod.capture.get("readiness", "auto")
            if mode == "probe" or (mode == "auto" and pod.has_readiness_probe):
                if pod.ready:
                    return
            elif _exists(directory, name):
                return
            if asyncio.get_running_loop().time() > deadline:
                raise errors.UnsupportedError(
                    f"the worker was not ready after {self._settings.readyTimeoutSeconds} s",
                    reason=names.Reason.READY_TIMEOUT,
                    hint="see the job's log; raise agent.readyTimeoutSeconds for slow models",
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def _capture(
        self,
        conn: connection.Connection,
        caller: peer.Peer,
        root_pid: int,
        pod: objects.Pod,
        wanted: objects.Checkpoint,
        logger: log.Logger,
    ) -> None:
        own = pod.namespace == self._own_namespace
        store = stores.Store(
            pathlib.Path(self._settings.storage.pvc.basePath), "" if own else pod.namespace
        )
        request = checkpoint.Capture(
            init_pid=caller.pid,
            root_pid=root_pid,
            identity_hash=wanted.identity_hash,
            variant=pod.variant,
            image=pod.image,
            command=pod.command,
            environment=pod.environment,
            volumes=pod.volumes,
            timeout_seconds=self._settings.dumpTimeoutSeconds,
        )
        loop = asyncio.get_running_loop()

        def committed(_: checkpoint.Captured) -> None:
            # The tree is frozen here, and ends only after chrek-init has been told why.
            sent = asyncio.run_coroutine_threadsafe(conn.send("committed"), loop).result()
            if not sent:
                raise errors.PeerError("the job's container ended during the dump")

        for attempt in range(1, ATTEMPTS + 1):
            async with self._slots.taken():
                if not await conn.send("dumping"):
                    raise _GoneError
                try:
                    done = await asyncio.to_thread(
                        checkpoint.capture, request, store, logger, on_committed=committed
                    )
                    break
                except errors.ChrekError as err:
                    if not caller.alive():
                        raise _GoneError from err
                    if attempt == ATTEMPTS:
                        raise
                    logger.warning("dump failed", attempt=attempt, error=str(err))
                    await conn.send("resumed", err.reason, str(err))
            await asyncio.sleep(RETRY_SECONDS)
        described = done.manifest
        metrics.CAPTURES.labels(outcome="captured", reason=names.Reason.CHECKPOINTED).inc()
        metrics.observe("checkpoint", described.steps)
        logger.info(
            "checkpointed",
            checkpoint=described.identityHash,
            uuid=described.uuid,
            bytes=described.bytes,
            steps=described.steps,
        )
        self._reporter.event(
            pod,
            "Normal",
            names.Reason.CHECKPOINTED,
            f"captured {described.bytes / 1e9:.2f} GB in {sum(described.steps.values()):.1f} s",
        )
        await self._reporter.result(
            pod,
            {
                "uuid": described.uuid,
                "variant": described.variant,
                "digest": done.digest,
                "location": store.location(described.identityHash),
                "bytes": described.bytes,
                "node": self._node,
                "image": described.source.image,
                "steps": described.steps,
                "createdAt": described.createdAt,
            },
        )


class _GoneError(Exception):
    """The container or its pod ended; there is nobody left to answer."""


def _verified(pod: objects.Pod, checkpoints: list[objects.Checkpoint]) -> objects.Checkpoint:
    """The DynamoCheckpoint that a job's pod works for.

    A pod can be labelled by whoever may create pods, so the operator's status has the last word.
    """
    name = pod.capture.get("checkpoint", "")
    for item in checkpoints:
        if (item.namespace, item.name) == (pod.namespace, name):
            if not pod.owner_job or all(c.job != pod.owner_job for c in item.captures):
                break
            return item
    raise errors.PeerError(
        f"pod {pod.name} is no checkpoint job of DynamoCheckpoint {name or '(none named)'}",
        hint="checkpoint jobs are made by the operator only",
    )


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True
