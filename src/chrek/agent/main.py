"""`chrek agent`: one on every node, privileged, in the host's PID namespace."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import pathlib
import shutil
import signal
import socket
from concurrent import futures

from chrek import config, errors, log, peer, retries
from chrek import storage as storages
from chrek.agent import (
    calls,
    captures,
    capturing,
    connection,
    decision,
    gpus,
    http,
    journal,
    metrics,
    objects,
    prewarm,
    probation,
    readers,
    report,
    selfcheck,
    starts,
    taint,
)
from chrek.agent import slots as slots_module
from chrek.agent import sockets as sockets_module
from chrek.kube import api

LOG = log.get(__name__)
HELLO_SECONDS = 5.0
SWEEP_SECONDS = 3600.0
CACHE_SECONDS = 30.0


def run(config_path: pathlib.Path, log_level: str = "") -> int:
    """Run until SIGTERM.

    Args:
        log_level: instead of the configuration's.

    Raises:
        ConfigError: the configuration or the environment is not usable.
    """
    settings = config.load(config_path, config.AgentConfig)
    log.setup(log_level or settings.logLevel)
    missing = [name for name in ("NODE_NAME", "POD_NAMESPACE") if not os.environ.get(name)]
    if missing:
        raise errors.ConfigError(
            f"{' and '.join(missing)} not set", hint="the chart sets them by the downward API"
        )
    asyncio.run(Agent(settings, os.environ["NODE_NAME"], os.environ["POD_NAMESPACE"]).run())
    return 0


class Agent:
    """Ties informers, sockets and the two kinds of conversation together."""

    def __init__(self, settings: config.AgentConfig, node: str, namespace: str) -> None:
        self._settings = settings
        self._node = node
        self._namespace = namespace
        self._client = api.Client(
            api.credentials(), user_agent="chrek-agent", observe=metrics.requested
        )
        self._pods: dict[str, objects.Pod] = {}
        signals = pathlib.Path(settings.signalHostPath)
        self._journal = _journal(signals)
        self._reporter = report.Reporter(self._client, node)
        slots = slots_module.Slots(settings.maxConcurrentOperations)
        self._slots = slots
        self._storage = storages.Storage(
            settings.storage,
            namespace,
            transfer_seconds=settings.dumpTimeoutSeconds,
            on_transfer=metrics.transferred,
        )
        self._gpus = gpus.NodeGpus(settings)
        self._prewarm = prewarm.Prewarm(self._storage, self._checkpoints)
        self._capturing = capturing.Capturing(
            settings,
            node,
            self._storage,
            self._reporter,
            slots,
            journal.Results(signals),
            gpus_of=self._gpus.of,
        )
        self._captures = captures.Captures(settings, self._capturing)
        self._probation = probation.Probation(self._reporter, self._journal, look=self._look)
        self._readers = readers.Readers(
            self._client,
            node,
            release=settings.release,
            namespace=namespace,
            restore_seconds=settings.restoreTimeoutSeconds,
        )
        self._starts = starts.Starts(
            settings,
            self._storage,
            reporter=self._reporter,
            records=self._journal,
            slots=slots,
            trial=self._probation,
            marks=self._readers,
            source=self._captures,
            call=calls.call,
            gpus_of=self._gpus.of,
        )
        self._selfcheck = selfcheck.Selfcheck(
            selfcheck.of_node(
                settings, self._storage, node, self._server_date, gpus=self._gpus.helper
            )
        )
        self._taint = taint.Taint(
            self._client, node, settings.startupTaint, ready=lambda: not self.problems()
        )
        self._sockets = sockets_module.Sockets(pathlib.Path(settings.kubeletRoot), self._serve)
        self._pod_informers = [
            api.Informer(
                self._client,
                api.path("v1", "pods", name),
                query={
                    "fieldSelector": f"spec.nodeName={node}",
                    "labelSelector": "nvidia.com/chrek-managed=true",
                },
                project=objects.pod,
                on_change=self._pod_changed,
            )
            for name in settings.watchNamespaces
        ]
        self._checkpoint_informers = [
            api.Informer(
                self._client,
                api.path("nvidia.com/v1alpha1", "dynamocheckpoints", name),
                project=objects.checkpoint,
            )
            for name in settings.watchNamespaces
        ]

    async def run(self) -> None:
        """Serve until SIGTERM, then finish what is in flight."""
        shutil.rmtree(self._settings.stagingPath, ignore_errors=True)
        stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        retries.listen(metrics.retried)
        metrics.READY.set_function(lambda: not self.problems())
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, stop.set)
        runner = await http.serve(self._settings.httpPort, self.problems, self.preflight)
        tasks = [asyncio.create_task(informer.run()) for informer in self._checkpoint_informers]
        tasks += [asyncio.create_task(informer.run()) for informer in self._pod_informers]
        refusing = self._captures.refuse_others(self._pods, self._checkpoints)
        upkeep = [asyncio.create_task(self._prune_journal()), asyncio.create_task(self._sweep())]
        upkeep.append(asyncio.create_task(self._selfcheck.run()))
        if self._settings.startupTaint:
            upkeep.append(asyncio.create_task(self._taint.run()))
        if self._storage.has_cache:
            upkeep.append(asyncio.create_task(self._measure_cache()))
        upkeep.append(asyncio.create_task(self._prewarm.run()))
        upkeep.append(asyncio.create_task(refusing))
        upkeep.append(asyncio.create_task(self._capturing.tell_recovered()))
        upkeep.append(asyncio.create_task(asyncio.to_thread(self._gpus.warm_up)))
        LOG.info("agent started", node=self._node, namespaces=self._settings.watchNamespaces)
        await stop.wait()
        LOG.info("agent stopping")
        self._sockets.stop()
        # An update of the agent never interrupts a dump or a restore. A job whose worker is not
        # ready yet finds the next agent.
        if not await self._slots.idle(timeout_seconds=self._settings.dumpTimeoutSeconds):
            LOG.error("operations still running are given up")
        await asyncio.gather(self._reporter.drain(), self._readers.drain())
        for task in (*tasks, *upkeep):
            task.cancel()
        await runner.cleanup()
        await self._client.close()
        await asyncio.to_thread(self._storage.close)
        await asyncio.to_thread(self._gpus.close)

    def problems(self) -> list[str]:
        """What keeps this agent from restoring or capturing."""
        found = []
        synced = [informer.synced for informer in self._pod_informers]
        synced += [informer.synced for informer in self._checkpoint_informers]
        if not all(event.is_set() for event in synced):
            found.append("the API server has not answered yet")
        return found + self._selfcheck.problems()

    def preflight(self) -> http.Preflight:
        """What this agent knows of its node, for whoever installs or upgrades."""
        return http.Preflight(
            node=self._node,
            checks=self._selfcheck.outcomes(),
            captures=self._slots.in_flight["capture"],
            restores=self._slots.in_flight["restore"],
        )

    def _server_date(self) -> str:
        """The API server's clock; called by a thread of a check."""
        try:
            return asyncio.run_coroutine_threadsafe(self._client.date(), self._loop).result()
        except futures.CancelledError as err:
            raise errors.ApiError("the agent is ending") from err

    async def _measure_cache(self) -> None:
        while True:
            metrics.CACHE_BYTES.set(await asyncio.to_thread(self._storage.cache_bytes))
            await asyncio.sleep(CACHE_SECONDS)

    def _pod_changed(
        self, _key: str, pod: objects.Pod | None, previous: objects.Pod | None
    ) -> None:
        if pod is not None:
            self._probation.changed(pod)
            if not pod.finished:
                self._pods[pod.uid] = pod
                self._sockets.open(pod.uid)
        for gone in (previous, pod):
            if gone is not None and (pod is None or pod.finished or pod.uid != gone.uid):
                self._pods.pop(gone.uid, None)
                self._sockets.close(gone.uid)
                self._probation.gone(gone.uid)
                self._journal.drop(gone.uid)

    async def _look(self, pod: objects.Pod) -> objects.Pod | None:
        """A pod as the API server has it now."""
        item = await self._client.find("v1", "pods", pod.namespace, pod.name)
        if item is None or item["metadata"].get("uid") != pod.uid:
            return None
        return objects.pod(item)

    async def _prune_journal(self) -> None:
        for informer in self._pod_informers:
            await informer.synced.wait()
        self._journal.keep_only(set(self._pods))

    async def _sweep(self) -> None:
        """Remove what interrupted dumps left in the store, now and every hour."""
        age = 2.0 * self._settings.dumpTimeoutSeconds
        while True:
            for name in self._settings.watchNamespaces:
                store = self._storage.of(name)
                removed = await asyncio.to_thread(store.sweep, older_than_seconds=age)
                if removed:
                    LOG.info("abandoned stages removed", namespace=name, count=removed)
            await asyncio.sleep(SWEEP_SECONDS)

    async def _serve(self, pod_uid: str, directory: int, raw: socket.socket) -> None:
        conn = connection.Connection(raw)
        with metrics.IN_FLIGHT.track_inprogress(), contextlib.ExitStack() as stack:
            try:
                role = await asyncio.wait_for(conn.receive(), HELLO_SECONDS)
                caller = await asyncio.to_thread(peer.identify, raw)
                stack.callback(caller.close)
                pod = self._known(pod_uid, caller)
            except TimeoutError:
                await conn.send("cold", "PeerRefused", "no hello in time")
                return
            except errors.PeerError as err:
                LOG.warning("caller refused", pod_uid=pod_uid, error=str(err))
                await conn.send("cold", err.reason, str(err))
                return
            if pod.refused is not None:
                reason, message = pod.refused
                await conn.send("cold", reason, message)
                if pod.checkpoint:
                    metrics.went_cold(reason, ready=decision.ready(self._checkpoints(), pod))
                start = report.Start(outcome="cold", reason=reason, message=message)
                self._reporter.start(pod, start)
                return
            for informer in self._checkpoint_informers:
                await informer.synced.wait()
            pod_of = functools.partial(self._pods.get, pod_uid)
            if role == "chrek 1 source" and pod.capture:
                await self._captures.handle(conn, caller, pod_of, self._checkpoints(), directory)
            elif role == "chrek 1 start" and pod.checkpoint:
                await self._starts.handle(conn, caller, pod_of, self._checkpoints, directory)
            elif role == "chrek 1 serving" and pod.checkpoint:
                # Started by an agent before this one, to be captured while it serves.
                await self._captures.serve(conn, caller, pod_of, self._checkpoints, cold=None)
            else:
                await conn.send("cold", "PeerRefused", f"pod {pod.name} does not ask for that")

    def _known(self, pod_uid: str, caller: peer.Peer) -> objects.Pod:
        pod = self._pods.get(pod_uid)
        if pod is None or caller.pod_uid != pod_uid:
            raise errors.PeerError(f"the caller is of pod {caller.pod_uid}, not of {pod_uid}")
        if caller.container != pod.container:
            raise errors.PeerError(
                f"container {caller.container} of pod {pod.name} is not the managed one",
                hint=f"annotation nvidia.com/chrek-container names {pod.container}",
            )
        return pod

    def _checkpoints(self) -> list[objects.Checkpoint]:
        return [value for i in self._checkpoint_informers for _, value in i.items()]


def _journal(signals: pathlib.Path) -> journal.Journal:
    """The journal of the agent before this one, and of this one.

    Raises:
        ConfigError: it cannot be read or made: without it, a pod would be restored again and again.
    """
    try:
        return journal.Journal(signals)
    except OSError as err:
        raise errors.ConfigError(
            f"the signal path cannot be used: {err}",
            hint="set storage.signalHostPath to a directory of the nodes that root can write",
        ) from err
