"""`chrek operator`: wires the parts together.

Every replica serves the webhook and keeps its certificates. The one that holds the Lease also runs
the controllers; when it loses the Lease it ends at once and the kubelet starts it again.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from chrek import config, errors, log, names
from chrek.kube import api
from chrek.operator import (
    adoption,
    cache,
    checkpoints,
    commands,
    controllers,
    deletion,
    graphs,
    health,
    housekeeper,
    leader,
    metrics,
    news,
    platform,
    queue,
    templates,
    trust,
    webhook,
)

LOG = log.get(__name__)
FIRST = asyncio.FIRST_COMPLETED
DRAIN_SECONDS = 3.0
"""A stopping replica answers so long while the API server learns that it is gone."""


def run(config_path: pathlib.Path, log_level: str = "") -> int:
    """Run until SIGTERM; returns the exit code.

    Args:
        log_level: instead of the configuration's.

    Raises:
        ConfigError: the configuration or the credentials cannot be used.
    """
    settings = config.load(config_path, config.OperatorConfig)
    log.setup(log_level or settings.logLevel)
    credentials = api.credentials()
    return asyncio.run(Operator(settings, credentials).run())


class Operator:
    """One replica."""

    def __init__(self, settings: config.OperatorConfig, credentials: api.Credentials) -> None:
        namespace = os.environ.get("POD_NAMESPACE") or credentials.namespace
        self._instance = os.environ.get("POD_NAME") or socket.gethostname()
        self._settings = settings
        self._namespace = namespace
        self._client = api.Client(
            credentials, user_agent="chrek-operator", observe=metrics.requested
        )
        self._trust = trust.Trust(self._client, settings, namespace=namespace)
        self._owners = platform.Detector(self._client, settings, on_change=self._owners_changed)
        self._look_again: Callable[[], None] = lambda: None
        self._known = webhook.Checkpoints(self._client, settings.watchNamespaces)
        self._graphs = webhook.Graphs(self._client, settings.watchNamespaces, self._owners)
        self._webhook = webhook.Webhook(
            settings, self._known, self._trust, own=namespace, graphs=self._graphs
        )
        self._leader = leader.Leader(
            self._client,
            namespace=namespace,
            name=settings.leaseName,
            identity=f"{self._instance}_{secrets.token_hex(4)}",
        )
        self._stopping = asyncio.Event()
        self._health = health.Health(
            settings.httpPort,
            {
                "certificate": self._trust.ready.is_set,
                "checkpoints in memory": self._known.synced,
                "graphs in memory": self._graphs.synced,
                "not stopping": lambda: not self._stopping.is_set(),
            },
        )

    async def run(self) -> int:
        """Serve until told to stop or something ends that must not."""
        self._take_signals()
        await self._health.start()
        # Before it is ready: pods of the platform are recognized from the first one on.
        await self._owners.refresh()
        tasks = [
            _task("certificates", self._trust.keep()),
            _task("checkpoints", self._known.run()),
            _task("owners of the CRDs", self._owners.run()),
            _task("graphs", self._graphs.run()),
            _task("webhook", self._serve()),
            _task("controllers", self._lead()),
            _task("stop", self._stopping.wait()),
        ]
        code = 0
        done, _ = await asyncio.wait(tasks, return_when=FIRST)
        for task in done:
            code = max(code, self._outcome(task))
        await self._stop(tasks)
        return code

    def _outcome(self, task: asyncio.Task[Any]) -> int:
        err = task.exception()
        if err is None:
            return 0
        LOG.error("ended unexpectedly", part=task.get_name(), error=str(err), exc_info=err)
        return err.exit_code if isinstance(err, errors.ChrekError) else 1

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)

    async def _stop(self, tasks: list[asyncio.Task[Any]]) -> None:
        """Stop reconciling at once; answer the webhook until the API server asks others."""
        LOG.info("stopping")
        self._stopping.set()
        await self._leader.release()
        await asyncio.sleep(DRAIN_SECONDS)
        await self._webhook.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._health.stop()
        await self._client.close()

    async def _serve(self) -> None:
        await self._trust.ready.wait()
        await self._webhook.start()
        await asyncio.Event().wait()

    async def _lead(self) -> None:
        await self._leader.acquire()
        metrics.LEADING.set(1)
        await self._check_resources()
        known = cache.Cache()
        handlers: dict[str, queue.Handler] = {}
        work = queue.Queue(handlers, allowed=self._leader.held, observe=metrics.reconciled)
        handlers |= self._handlers(known, work)
        self._look_again = lambda: controllers.wake_all(known, work)
        follower = controllers.Follower(
            self._client, self._settings.watchNamespaces, controllers.Changes(known, work)
        )

        async def reconcile() -> None:
            # Nothing is decided on half of the cluster.
            await follower.synced()
            work.add(controllers.HOUSEKEEPING)
            await work.run()

        await asyncio.gather(self._keep(), follower.run(), reconcile())

    def _owners_changed(self, _: platform.Platform) -> None:
        self._look_again()

    def _handlers(self, known: cache.Cache, work: queue.Queue) -> dict[str, queue.Handler]:
        """The controllers, by kind of key."""
        wanted = templates.Templates()
        images = commands.Commands(self._client, self._settings.imageLookup)
        shared: dict[str, Any] = {
            "wanted": wanted,
            "images": images,
            "owners": self._owners,
            "instance": self._instance,
        }

        def wake(namespace: str, digest: str) -> None:
            controllers.wake_checkpoints(known, work, namespace, digest)

        keeper = housekeeper.Housekeeper(
            known, self._settings, wanted=wanted, owners=self._owners, wake=wake
        )
        found = checkpoints.Checkpoints(
            self._client,
            known,
            self._settings,
            deletions=deletion.Deletions(self._client, self._settings, own=self._namespace),
            keeper=keeper,
            own=self._namespace,
            **shared,
        )
        made = graphs.Graphs(self._client, known, self._settings, wake=wake, **shared)
        adopted = adoption.Adopter(self._client, known)
        return {
            controllers.CHECKPOINT: found.reconcile,
            controllers.GRAPH: made.reconcile,
            controllers.ADOPTION: adopted.reconcile,
            controllers.HOUSEKEEPING.kind: keeper.reconcile,
            controllers.SKIPPED_POD: self._tell_skipped,
        }

    async def _keep(self) -> None:
        try:
            await self._leader.keep()
        except leader.LostError as err:
            # Another replica may reconcile from now on: not one more write, no tidying up.
            LOG.error("no longer the leader, ending at once", error=str(err))
            os._exit(1)

    async def _check_resources(self) -> None:
        """The CRDs must be there: whoever follows them would wait for them."""
        for plural in (names.CHECKPOINT_PLURAL, names.GRAPH_PLURAL):
            for namespace in self._settings.watchNamespaces:
                try:
                    where = api.path(names.API_VERSION, plural, namespace)
                    await self._client.request("GET", where, query={"limit": 1})
                except errors.ApiError as err:
                    if err.status == 404:
                        raise errors.ConfigError(
                            f"the API server does not know {plural}.{names.GROUP}",
                            hint="install the CRDs: kubectl apply -f charts/chrek/files/crds",
                        ) from err
                    raise

    async def _tell_skipped(self, key: queue.Key) -> float | None:
        """The webhook cannot post an Event about a pod that does not exist yet."""
        pod = await self._client.find("v1", "pods", key.namespace, key.name)
        annotations = ((pod or {}).get("metadata") or {}).get("annotations") or {}
        reason, _, message = annotations.get(names.ANNOTATION_SKIPPED, "").partition(": ")
        if pod and reason:
            await api.post_event(
                self._client,
                regarding=api.reference({**pod, "apiVersion": "v1", "kind": "Pod"}),
                type_="Warning",
                reason=reason,
                note=f"Not managed by chrek, starts cold: {message}",
                component=news.COMPONENT,
                instance=self._instance,
                action="Inject",
            )
        return None


def _task(name: str, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(coroutine, name=name)
