"""The admission webhook: an HTTPS server that answers AdmissionReviews about pods.

Always `allowed: true`. What cannot be managed starts as it is, and says why.
Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from chrek import config, log, names
from chrek.kube import api
from chrek.operator import injection, metrics, place, platform, trust

LOG = log.get(__name__)
PATH = "/mutate-pods"
MAX_BYTES = 8 << 20
PLATFORM_SECONDS = 5.0
"""How often it is asked whether graphs have become the platform's."""


class Checkpoints:
    """DynamoCheckpoints in memory: every replica answers without asking the API server."""

    def __init__(self, client: api.Client, namespaces: Iterable[str]) -> None:
        self._by_hash: dict[tuple[str, str], dict[str, injection.Checkpoint]] = {}
        self._informers = {
            namespace: api.Informer(
                client,
                api.path(names.API_VERSION, names.CHECKPOINT_PLURAL, namespace),
                project=injection.project,
                on_change=self._changed,
            )
            for namespace in namespaces
        }

    def synced(self) -> bool:
        """Whether all that exist are in memory."""
        return all(informer.synced.is_set() for informer in self._informers.values())

    async def run(self) -> None:
        """Follow them for ever."""
        async with asyncio.TaskGroup() as group:
            for informer in self._informers.values():
                group.create_task(informer.run())

    def find(self, namespace: str, reference: str) -> injection.Checkpoint | None:
        """The checkpoint of this name or hash, with the variants of all of its identity."""
        informer = self._informers.get(namespace)
        found = informer.get(namespace, reference) if informer else None
        if found is None:
            same = self._by_hash.get((namespace, reference), {}).values()
            # Any will do for its artifacts; one that holds a command also helps pods without.
            found = min(same, key=lambda one: (not one.command, one.name), default=None)
        if found is None or not found.identity_hash:
            return found
        sharing = self._by_hash.get((namespace, found.identity_hash), {}).values()
        variants = found.variants.union(*(one.variants for one in sharing))
        return dataclasses.replace(found, variants=variants)

    def serves(self, namespace: str) -> bool:
        """Whether pods of this namespace are ours to change."""
        return namespace in self._informers

    def _changed(
        self,
        key: str,
        value: injection.Checkpoint | None,
        previous: injection.Checkpoint | None,
    ) -> None:
        namespace = key.partition("/")[0]
        if previous:
            self._by_hash.get((namespace, previous.identity_hash), {}).pop(key, None)
        if value:
            self._by_hash.setdefault((namespace, value.identity_hash), {})[key] = value


Sections = Mapping[str, injection.Service]


class Graphs:
    """Services of DynamoGraphDeployments in memory, where the platform makes their pods.

    Such pods carry nothing of chrek, only labels that say which service they are of.
    """

    def __init__(
        self, client: api.Client, namespaces: Iterable[str], detector: platform.Detector
    ) -> None:
        self._detector = detector
        self._informers: dict[str, api.Informer[Sections]] = {
            namespace: api.Informer(
                client,
                api.path(names.API_VERSION, names.GRAPH_PLURAL, namespace),
                project=_sections,
            )
            for namespace in namespaces
        }

    def synced(self) -> bool:
        """Whether all that matter are in memory."""
        return not self._matter() or all(
            informer.synced.is_set() for informer in self._informers.values()
        )

    async def run(self, interval_seconds: float = PLATFORM_SECONDS) -> None:
        """Follow them for ever, from the moment that they matter."""
        while not self._matter():
            await asyncio.sleep(interval_seconds)
        async with asyncio.TaskGroup() as group:
            for informer in self._informers.values():
                group.create_task(informer.run())

    def find(self, namespace: str, graph: str, service: str) -> injection.Service | None:
        """A service by the label of its pods, in which its name may be in lower case."""
        informer = self._informers.get(namespace)
        if informer is None or not self._matter():
            return None
        found = informer.get(namespace, graph) or {}
        return found.get(service) or found.get(service.lower())

    def _matter(self) -> bool:
        return self._detector.current.makes_graphs


def _sections(item: Mapping[str, Any]) -> Sections:
    """The services that have a checkpoint section, by their names and those in lower case."""
    found = {
        name: injection.Service(name, service["checkpoint"])
        for name, service in ((item.get("spec") or {}).get("services") or {}).items()
        if isinstance((service or {}).get("checkpoint"), Mapping)
    }
    return {**{name.lower(): service for name, service in found.items()}, **found}


class Webhook:
    """The server."""

    def __init__(
        self,
        settings: config.OperatorConfig,
        checkpoints: Checkpoints,
        certificates: trust.Trust,
        *,
        own: str,
        graphs: Graphs | None = None,
    ) -> None:
        self._settings = settings
        self._graphs = graphs
        self._own = own
        self._checkpoints = checkpoints
        self._trust = certificates
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen on the configured port; there must be a certificate."""
        app = web.Application(client_max_size=MAX_BYTES)
        app.router.add_post(PATH, self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=3.0)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, None, self._settings.webhookPort, ssl_context=self._trust.tls
        )
        await site.start()
        LOG.info("webhook listens", port=self._settings.webhookPort)

    async def stop(self) -> None:
        """Answer what is being asked, then stop."""
        if self._runner:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        started = time.monotonic()
        try:
            review = msgspec.json.decode(await request.read())
            asked = review["request"]
            answer = {"uid": asked["uid"], "allowed": True}
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError) as err:
            raise web.HTTPBadRequest(text=f"not an AdmissionReview: {err}\n") from err
        try:
            answer |= self._review(asked)
        except Exception:
            # A bug of ours must not keep a pod from starting.
            LOG.exception("cannot review a pod", namespace=asked.get("namespace"))
            metrics.ADMISSIONS.labels(names.Reason.INTERNAL_ERROR).inc()
        metrics.ADMISSION_SECONDS.observe(time.monotonic() - started)
        body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")

    def _review(self, asked: dict[str, Any]) -> dict[str, Any]:
        namespace, pod = asked.get("namespace", ""), asked.get("object") or {}
        if not self._checkpoints.serves(namespace) or asked.get("operation") != "CREATE":
            return {}
        verdict = injection.decide(
            pod,
            lambda reference: self._checkpoints.find(namespace, reference),
            services=lambda graph, service: (
                self._graphs.find(namespace, graph, service) if self._graphs else None
            ),
            settings=self._settings,
            where=place.of(self._settings.storage, namespace=namespace, own=self._own),
            trace=str(asked.get("uid", "")),
        )
        metrics.ADMISSIONS.labels(verdict.outcome).inc()
        if not verdict.patch:
            return {}
        metadata = pod.get("metadata") or {}
        LOG.info(
            "pod reviewed",
            namespace=namespace,
            pod=metadata.get("name") or metadata.get("generateName"),
            outcome=verdict.outcome,
            detail=verdict.message,
            trace=asked.get("uid"),
        )
        answer: dict[str, Any] = {
            "patchType": "JSONPatch",
            "patch": base64.b64encode(msgspec.json.encode(verdict.patch)).decode(),
        }
        if verdict.message:
            answer["warnings"] = [f"chrek: not managed: {verdict.outcome}: {verdict.message}"[:250]]
        return answer
