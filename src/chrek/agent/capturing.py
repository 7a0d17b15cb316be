"""One capture of a worker: quiesce it, dump it, wake it when it runs on, tell the API.

A worker runs on when it serves, or when its dump failed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from concurrent import futures

from chrek import (
    checkpoint,
    compatibility,
    config,
    eligibility,
    errors,
    gpustate,
    leftovers,
    log,
    names,
    peer,
    procfs,
)
from chrek import storage as storages
from chrek.agent import calls, connection, journal, metrics, objects, report
from chrek.agent import slots as slots_module
from chrek.cuda import gpus as devices

LOG = log.get(__name__)
ATTEMPTS = 3
RETRY_SECONDS = 5.0


_FINAL = frozenset(
    {
        names.Reason.QUIESCE_FAILED,
        names.Reason.INSUFFICIENT_HOST_MEMORY,
        names.Reason.GPU_STATE_UNSUPPORTED,
        names.Reason.GPU_DRIVER_TOO_OLD,
        names.Reason.GPU_PARTITIONED,
    }
)
"""Of captures: trying again in a few seconds would end the same way."""


class GoneError(Exception):
    """The container or its pod ended; there is nobody left to answer."""


class Capturing:
    """Makes captures for one agent."""

    def __init__(
        self,
        settings: config.AgentConfig,
        node: str,
        storage: storages.Storage,
        reporter: report.Reporter,
        slots: slots_module.Slots,
        results: journal.Results,
        gpus_of: Callable[[objects.Pod], devices.Gpus | None] = lambda _: None,
    ) -> None:
        """Captures nothing yet.

        Args:
            gpus_of: the GPUs of a pod's managed container; None where no driver can be used.
        """
        self._gpus_of = gpus_of
        self._settings = settings
        self._node = node
        self._storage = storage
        self._reporter = reporter
        self._slots = slots
        self._results = results
        self.recovered = {uid for uid, _ in results.items()}
        """Pods that the agent before this one captured, and did not tell the API of."""

    def request(
        self,
        caller: peer.Peer,
        root_pid: int,
        pod: objects.Pod,
        wanted: objects.Checkpoint,
        *,
        leave_running: bool = False,
    ) -> checkpoint.Capture:
        return checkpoint.Capture(
            init_pid=caller.pid,
            root_pid=root_pid,
            identity_hash=wanted.identity_hash,
            variant=pod.variant,
            image=pod.image,
            command=pod.command,
            environment=pod.environment,
            origin=pod.origin,
            volumes=pod.volumes,
            timeout_seconds=self._settings.dumpTimeoutSeconds,
            leave_running=leave_running,
        )

    async def capture(
        self,
        conn: connection.Connection,
        caller: peer.Peer,
        pod_of: Callable[[], objects.Pod | None],
        wanted: objects.Checkpoint,
        request: checkpoint.Capture,
        logger: log.Logger,
    ) -> None:
        attempt = 0
        allowed = self._settings.envFromSecrets == config.EnvFromSecrets.ALLOW
        while True:
            attempt += 1
            pod = pod_of()
            if pod is None:
                raise GoneError
            eligibility.check_secrets(
                pod.secret_variables,
                allowed=allowed or pod.secrets_acknowledged or wanted.secrets_acknowledged,
            )
            try:
                async with self._slots.taken("capture"):
                    done = await self._attempt(conn, caller, pod, wanted, request, logger)
            except Exception as err:
                if not caller.alive():
                    raise GoneError from err
                metrics.store_failed("capture", reason_of(err))
                if attempt == ATTEMPTS or not _again(err, serving=request.leave_running):
                    raise
                logger.warning("dump failed", attempt=attempt, error=str(err))
                if not request.leave_running:
                    await self._runs_on(conn, caller, pod, wanted, logger, err)
            else:
                await self._captured(pod, done, request, logger)
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _attempt(
        self,
        conn: connection.Connection,
        caller: peer.Peer,
        pod: objects.Pod,
        wanted: objects.Checkpoint,
        request: checkpoint.Capture,
        logger: log.Logger,
    ) -> checkpoint.Captured:
        """Quiesce and dump; a serving worker has been woken when this returns or raises."""
        loop = asyncio.get_running_loop()
        runs_on: list[futures.Future[None]] = []

        def committed(done: checkpoint.Captured) -> None:
            self._keep(pod, done)
            # A job's tree is frozen here, and ends only after chrek-init has been told why.
            sent = asyncio.run_coroutine_threadsafe(conn.send("committed"), loop).result()
            if not sent and not request.leave_running:
                self._results.drop(pod.uid)
                raise errors.PeerError("the job's container ended during the dump")

        def resumed() -> None:
            # Meanwhile the artifact is completed.
            work = self._runs_on(conn, caller, pod, wanted, logger)
            runs_on.append(asyncio.run_coroutine_threadsafe(work, loop))

        try:
            await calls.call(
                wanted.quiesce,
                pod_ip=_address(pod, caller),
                caller=caller,
                reason=names.Reason.QUIESCE_FAILED,
            )
            if not await conn.send("dumping"):
                raise GoneError
            return await asyncio.to_thread(
                checkpoint.capture,
                *(request, self._storage.of(pod.namespace), logger),
                gpus=self._gpus_of(pod),
                on_committed=committed,
                on_resumed=resumed,
            )
        except Exception as err:
            if request.leave_running and caller.alive():
                if runs_on:
                    await conn.send("resumed", reason_of(err), str(err))
                else:
                    await self._runs_on(conn, caller, pod, wanted, logger, err)
            raise
        finally:
            for future in runs_on:
                await asyncio.wrap_future(future)

    async def _runs_on(
        self,
        conn: connection.Connection,
        caller: peer.Peer,
        pod: objects.Pod,
        wanted: objects.Checkpoint,
        logger: log.Logger,
        err: Exception | None = None,
    ) -> None:
        """The worker is thawed: have its signals delivered, and wake it."""
        await (
            conn.send("resumed") if err is None else conn.send("resumed", reason_of(err), str(err))
        )
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await calls.call(
                    wanted.wake,
                    pod_ip=_address(pod, caller),
                    caller=caller,
                    reason=names.Reason.WAKE_FAILED,
                )
            except errors.ChrekError as problem:
                logger.error("wake failed", attempt=attempt, error=str(problem))
                if attempt == ATTEMPTS:
                    self._reporter.event(pod, "Warning", problem.reason, str(problem))
                elif not caller.alive():
                    return
                else:
                    await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def recover(self, pod: objects.Pod, root_pid: int, logger: log.Logger) -> None:
        """Have a tree go on that an agent, which was killed, was capturing."""
        await asyncio.to_thread(leftovers.clear, root_pid)
        try:
            await asyncio.to_thread(gpustate.release, root_pid, self._gpus_of(pod), logger)
        except errors.GpuError as err:
            logger.error("gpu memory was not released", error=str(err))

    async def failed(self, pod: objects.Pod, err: Exception, logger: log.Logger) -> None:
        known = isinstance(err, errors.ChrekError)
        reason = reason_of(err)
        logger.error(
            "capture failed",
            reason=reason,
            error=str(err) or repr(err),
            log=errors.log_of(err),
            exc_info=None if known else err,
        )
        metrics.CAPTURES.labels(outcome="failed", reason=metrics.known(reason)).inc()
        self._reporter.event(pod, "Warning", reason, str(err))
        with contextlib.suppress(errors.ApiError):
            await self._reporter.result(pod, {"reason": reason, "message": str(err)})

    async def _captured(
        self,
        pod: objects.Pod,
        done: checkpoint.Captured,
        request: checkpoint.Capture,
        logger: log.Logger,
    ) -> None:
        described, serving = done.manifest, request.leave_running
        frozen = described.steps.get("dump", 0.0) + described.steps.get("files", 0.0)
        metrics.captured(described.bytes, described.steps)
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
            f"captured {described.bytes / 1e9:.2f} GB in {sum(described.steps.values()):.1f} s"
            + (f"; the worker was frozen for {frozen:.1f} s of them" if serving else ""),
        )
        await self._tell(pod, self._result(pod, done))

    def _result(self, pod: objects.Pod, done: checkpoint.Captured) -> dict[str, object]:
        described = done.manifest
        return {
            "uuid": described.uuid,
            "variant": described.variant,
            "digest": done.digest,
            "location": self._storage.of(pod.namespace).location(described.identityHash),
            "bytes": described.bytes,
            "node": self._node,
            "image": described.source.image,
            "gpu": str(compatibility.GpuFacts(devices=tuple(described.source.gpuDevices or ()))),
            "steps": described.steps,
            "createdAt": described.createdAt,
        }

    def _keep(self, pod: objects.Pod, done: checkpoint.Captured) -> None:
        """From here on an agent that is killed does not cost the artifact."""
        record = journal.Result(
            namespace=pod.namespace, name=pod.name, uid=pod.uid, result=self._result(pod, done)
        )
        try:
            self._results.put(pod.uid, record)
        except OSError as err:
            LOG.error("journal cannot be written", error=str(err))

    async def _tell(self, pod: objects.Pod | journal.Result, result: Mapping[str, object]) -> None:
        try:
            await self._reporter.result(pod, result)
        except errors.ApiError as err:
            if err.status == 0 or err.status >= 500:
                LOG.error("result is left to the next agent", pod=pod.name, error=str(err))
                return
            LOG.warning("result is lost", pod=pod.name, error=str(err))
        self._results.drop(pod.uid)

    async def tell_recovered(self) -> None:
        """Tell the API what the agent before this one could not tell it."""
        for uid, record in self._results.items():
            LOG.info("result of an earlier capture", pod=record.name, pod_uid=uid)
            await self._tell(record, record.result)


def reason_of(err: Exception) -> str:
    """The Reason that stands for an error in Events and results."""
    return err.reason if isinstance(err, errors.ChrekError) else names.Reason.INTERNAL_ERROR


def _again(err: Exception, *, serving: bool) -> bool:
    """Whether a capture that failed is tried again; each time costs a serving pod a pause."""
    if not isinstance(err, errors.ChrekError) or err.reason in _FINAL:
        return False
    return not serving or err.retryable or err.reason == names.Reason.PROCESSES_OUTSIDE_TREE


def _address(pod: objects.Pod, caller: peer.Peer) -> str:
    """Of the pod; the kubelet tells the API server of it later than the container has it."""
    with contextlib.suppress(OSError):
        return pod.ip or next(iter(procfs.addresses(caller.pid)), "")
    return ""
