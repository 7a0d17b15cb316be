"""Keeps the webhook's certificates: the Secret, the API server's caBundle, the server's context.

Every replica does this. The chart makes the Secret; it is replaced with its resourceVersion, so
that of several replicas one wins and the others use what it made. The caBundle is written before
the new certificate is served.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import ssl
from collections.abc import Sequence

from chrek import config, errors, log
from chrek.kube import api, credentials
from chrek.operator import certificates

LOG = log.get(__name__)
PERIOD_SECONDS = 60.0
RETRY_SECONDS = 2.0
GROUP_VERSION = "admissionregistration.k8s.io/v1"
PLURAL = "mutatingwebhookconfigurations"


class Trust:
    """The certificates that this replica serves with.

    Attributes:
        tls: context of the webhook's server; a renewed certificate is loaded into it.
        ready: set while it holds a certificate that the API server trusts.
    """

    def __init__(
        self, client: api.Client, settings: config.OperatorConfig, *, namespace: str
    ) -> None:
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self.ready = asyncio.Event()
        self._client = client
        self._settings = settings
        self._namespace = namespace
        self._loaded: certificates.Bundle | None = None

    async def keep(self) -> None:
        """Fill and renew for ever."""
        while True:
            try:
                await self.ensure()
                await asyncio.sleep(PERIOD_SECONDS)
            except errors.ApiError as err:
                LOG.warning("cannot keep the webhook's certificates", error=str(err))
                await asyncio.sleep(RETRY_SECONDS)

    async def ensure(self) -> None:
        """Do now what is due."""
        bundle = await self._bundle()
        await self._publish(bundle.authorities)
        if bundle != self._loaded:
            credentials.load_certificate(self.tls, bundle.certificate + bundle.key)
            self._loaded = bundle
            LOG.info("serving with a new certificate", secret=self._settings.certificateSecretName)
        self.ready.set()

    async def _bundle(self) -> certificates.Bundle:
        name = self._settings.certificateSecretName
        dns_names = certificates.service_names(self._settings.webhookServiceName, self._namespace)
        while True:
            secret = await self._client.find("v1", "secrets", self._namespace, name)
            if secret is None:
                raise errors.ApiError(
                    f"Secret {name} in namespace {self._namespace} is missing",
                    status=404,
                    hint="`helm upgrade` makes it again",
                )
            present = certificates.from_data(secret.get("data"))
            now = datetime.datetime.now(datetime.UTC)
            bundle = certificates.renewed(present, dns_names, now=now)
            if bundle is None and present is not None:
                return present
            if bundle is None:  # pragma: no cover - renewed() makes one of nothing
                continue
            try:
                secret["data"] = bundle.data()
                await self._client.replace("v1", "secrets", self._namespace, name, secret)
            except errors.ApiError as err:
                if err.status == 409:
                    continue  # Another replica was faster: use what it made.
                raise
            return bundle

    async def _publish(self, authorities: bytes) -> None:
        """Have the API server trust these CAs."""
        name = self._settings.webhookName
        found = await self._client.find(GROUP_VERSION, PLURAL, None, name)
        if found is None:
            LOG.warning("no webhook configuration: pods are not injected", webhook=name)
            return
        wanted = base64.b64encode(authorities).decode()
        patch = _patch(found.get("webhooks") or [], wanted)
        if patch:
            await self._client.patch(
                GROUP_VERSION, PLURAL, None, name, patch, kind=api.PatchKind.JSON
            )
            LOG.info("caBundle written", webhook=name)


def _patch(webhooks: Sequence[dict[str, object]], wanted: str) -> list[dict[str, object]]:
    patch: list[dict[str, object]] = []
    for index, webhook in enumerate(webhooks):
        settings = webhook.get("clientConfig")
        if isinstance(settings, dict) and settings.get("caBundle") != wanted:
            here = f"/webhooks/{index}"
            patch.append({"op": "test", "path": f"{here}/name", "value": webhook["name"]})
            patch.append({"op": "add", "path": f"{here}/clientConfig/caBundle", "value": wanted})
    return patch
