"""The admission webhook: an HTTPS server that answers AdmissionReviews about pods.

Always `allowed: true`. What cannot be managed starts as it is, and says why.
Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web

from chrek import config, errors, identity, log, names
from chrek.kube import api
from chrek.operator import injection, metrics, place, trust

LOG = log.get(__name__)
PATH = "/mutate-pods"
MAX_BYTES = 8 << 20


class Checkpoints:
    """DynamoCheckpoints in memory: every replica answers without asking the API server."""

    def __init__(self, client: api.Client, namespaces: Iterable[str]) -> None:
        self._by_hash: dict[tuple[str, str], dict[str, injection.Checkpoint]] = {}
        self._informers = {
            namespace: api.Informer(
                client,
                api.path(names.API_VERSION, names.CHECKPOINT_PLURAL, namespace),
                project=_project,
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
        """The checkpoint of this name or hash, a Ready one first."""
        informer = self._informers.get(namespace)
        found = informer.get(namespace, reference) if informer else None
        if found is not None:
            return found
        same = self._by_hash.get((namespace, reference), {})
        return min(same.values(), key=lambda one: (not one.ready, one.name), default=None)

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


def _project(item: dict[str, Any]) -> injection.Checkpoint:
    found = injection.project(item)
    if found.identity_hash:
        return found
    try:
        known = identity.parse(item["spec"]["identity"])
    except (errors.InputError, KeyError):
        return found
    return dataclasses.replace(found, identity_hash=known.hash())


class Webhook:
    """The server."""

    def __init__(
        self,
        settings: config.OperatorConfig,
        checkpoints: Checkpoints,
        certificates: trust.Trust,
        *,
        own: str,
    ) -> None:
        self._settings = settings
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
        except (msgspec.DecodeError, KeyError, TypeError) as err:
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
            settings=self._settings,
            where=place.of(self._settings.storage, namespace=namespace, own=self._own),
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
        )
        answer: dict[str, Any] = {
            "patchType": "JSONPatch",
            "patch": base64.b64encode(msgspec.json.encode(verdict.patch)).decode(),
        }
        if verdict.message:
            answer["warnings"] = [f"chrek: not managed: {verdict.outcome}: {verdict.message}"[:250]]
        return answer
