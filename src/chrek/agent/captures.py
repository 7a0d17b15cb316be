"""Captures: of checkpoint jobs, which end with it, and of serving pods, which serve on.

Either way: prepare the container, have its worker started, wait until it is ready, capture it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping

from chrek import config, dynamo, errors, log, names, peer, procfs
from chrek.agent import capturing, connection, decision, namings, objects
from chrek.criu import service

LOG = log.get(__name__)
_POLL_SECONDS = 0.1
_SERVING_POLL_SECONDS = 0.25
_ENDING_SECONDS = 0.5
REFUSAL_SECONDS = 10.0
"""How long a pod that is to be captured may be without its chrek-init on the line.

After a restart of the agent each chrek-init calls again within five seconds.
"""


class Captures:
    """Serves the checkpoint jobs of this node, and its workers that may be captured."""

    def __init__(
        self,
        settings: config.AgentConfig,
        made_by: capturing.Capturing,
    ) -> None:
        self._settings = settings
        self._capturing = made_by
        self._namings = namings.Namings()
        self._served: dict[str, connection.Connection] = {}

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
        logger = LOG.bind(**pod.log_fields, container=caller.container_id[:12])
        try:
            wanted = _verified(pod, checkpoints)
            await asyncio.to_thread(service.set_last_pid, caller.pidfd, names.FIRST_WORKER_PID)
            if not await conn.send("capture"):
                return
            root_pid = await self._started(conn, caller)
            ending = asyncio.create_task(conn.closed())
            try:
                await self._ready(pod_of, directory, ending)
                request = self._capturing.request(caller, root_pid, pod, wanted)
                await self._capturing.capture(conn, caller, pod_of, wanted, request, logger)
            finally:
                ending.cancel()
        except capturing.GoneError:
            logger.info("checkpoint job ended before it was captured")
        except Exception as err:
            await self._capturing.failed(pod, err, logger)
            with contextlib.suppress(OSError):
                dynamo.failed(caller.pid)
            await conn.send("failed", capturing.reason_of(err), str(err))

    async def serve(
        self,
        conn: connection.Connection,
        caller: peer.Peer,
        pod_of: Callable[[], objects.Pod | None],
        checkpoints_of: Callable[[], list[objects.Checkpoint]],
        cold: decision.Cold | None,
    ) -> None:
        """Serve one connected chrek-init of a worker that may be captured while it serves.

        It is captured each time that a DynamoCheckpoint begins to name it, once it is Ready.

        Args:
            pod_of: the pod as it is now; None once it is gone.
            checkpoints_of: all DynamoCheckpoints as they are now.
            cold: why the worker starts cold; None when it serves already.
        """
        pod = pod_of()
        if pod is None:
            return
        logger = LOG.bind(**pod.log_fields, container=caller.container_id[:12])
        try:
            if cold is not None and not await _begun(conn, caller, cold, logger):
                return
            root_pid = await self._started(conn, caller)
            if cold is None:
                # The agent before this one may have been killed in the middle of a dump.
                await self._capturing.recover(pod, root_pid, logger)
        except capturing.GoneError:
            return
        except errors.PeerError as err:
            logger.error("worker cannot be captured", error=str(err))
            return
        self._served[pod.uid] = conn
        ending = asyncio.create_task(conn.closed())
        try:
            await self._wait_and_capture(
                *(conn, caller, root_pid, pod_of, checkpoints_of, ending, logger)
            )
        except capturing.GoneError:
            logger.debug("worker ended")
        finally:
            ending.cancel()
            if self._served.get(pod.uid) is conn:
                del self._served[pod.uid]

    async def refuse_others(
        self,
        pods: Mapping[str, objects.Pod],
        checkpoints_of: Callable[[], list[objects.Checkpoint]],
    ) -> None:
        """Answer, for as long as the agent runs, for pods that are named but cannot be captured.

        Args:
            pods: UID -> pod of this node, as they are now.
        """
        since: dict[str, float] = {}
        refused: set[str] = set()
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(REFUSAL_SECONDS / 10)
            named = {
                uid: pod
                for namespace, uid in self._namings.all(checkpoints_of)
                if (pod := pods.get(uid)) is not None and pod.namespace == namespace
            }
            missing = {
                uid: pod for uid, pod in named.items() if pod.ready and uid not in self._served
            }
            since = {uid: since.get(uid, clock()) for uid in missing}
            refused &= named.keys()
            for uid, pod in missing.items():
                if uid not in refused and clock() - since[uid] >= REFUSAL_SECONDS:
                    refused.add(uid)
                    err = errors.UnsupportedError(
                        f"pod {pod.name} was not started so that it can be captured",
                        reason=names.Reason.NOT_CAPTURABLE,
                        hint="restart it, or capture a pod that started after the checkpoint "
                        "was made with captureSource worker",
                    )
                    await self._capturing.failed(pod, err, LOG.bind(**pod.log_fields))

    async def _started(self, conn: connection.Connection, caller: peer.Peer) -> int:
        line = await conn.receive()
        if line is None:
            raise capturing.GoneError
        word, _, number = line.partition(" ")
        if word != "started" or not number.isdecimal():
            raise errors.PeerError(f"expected `started <pid>`, got {line[:80]!r}")
        try:
            for pid in procfs.children(caller.pid):
                if procfs.status(pid).nspids[-1] == int(number):
                    return pid
        except (FileNotFoundError, ProcessLookupError) as err:
            raise capturing.GoneError from err
        # A worker that ends at once takes the container with it.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(conn.closed(), _ENDING_SECONDS)
            raise capturing.GoneError
        raise errors.PeerError(f"process {number} is not a child of the container's PID 1")

    async def _ready(
        self,
        pod_of: Callable[[], objects.Pod | None],
        directory: int,
        ending: asyncio.Task[None],
    ) -> None:
        """Return when the worker is ready: by its ready file or by its readiness probe."""
        deadline = asyncio.get_running_loop().time() + self._settings.readyTimeoutSeconds
        while True:
            pod = pod_of()
            if pod is None or ending.done():
                raise capturing.GoneError
            mode = pod.capture.get("readiness", "auto")
            if mode == "probe" or (mode == "auto" and pod.has_readiness_probe):
                if pod.ready:
                    return
            elif any(_exists(directory, name) for name in dynamo.READY_FILES):
                return
            if asyncio.get_running_loop().time() > deadline:
                raise errors.UnsupportedError(
                    f"the worker was not ready after {self._settings.readyTimeoutSeconds} s",
                    reason=names.Reason.READY_TIMEOUT,
                    hint="see the job's log; raise agent.readyTimeoutSeconds for slow models",
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def _wait_and_capture(
        self,
        conn: connection.Connection,
        caller: peer.Peer,
        root_pid: int,
        pod_of: Callable[[], objects.Pod | None],
        checkpoints_of: Callable[[], list[objects.Checkpoint]],
        ending: asyncio.Task[None],
        logger: log.Logger,
    ) -> None:
        recovered = self._capturing.recovered
        done = False
        while True:
            pod = pod_of()
            if pod is None or ending.done():
                raise capturing.GoneError
            wanted = self._namings.of(pod, checkpoints_of)
            if wanted is None:
                done = False
                recovered.discard(pod.uid)
            elif pod.uid in recovered:
                done = True  # Until the operator has read the result.
            elif not done and pod.ready:
                done = True
                request = self._capturing.request(caller, root_pid, pod, wanted, leave_running=True)
                try:
                    await self._capturing.capture(conn, caller, pod_of, wanted, request, logger)
                except capturing.GoneError:
                    raise
                except Exception as err:
                    await self._capturing.failed(pod, err, logger)
            await asyncio.sleep(_SERVING_POLL_SECONDS)


async def _begun(
    conn: connection.Connection, caller: peer.Peer, cold: decision.Cold, logger: log.Logger
) -> bool:
    """Have a worker started so that it can be captured; else it starts as any cold one."""
    try:
        await asyncio.to_thread(service.set_last_pid, caller.pidfd, names.FIRST_WORKER_PID)
    except errors.ChrekError as err:
        logger.error("worker cannot be captured", error=str(err))
        await conn.send("cold", cold.reason, cold.message)
        return False
    return await conn.send("serve", cold.reason, cold.message)


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
