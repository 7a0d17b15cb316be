"""Leadership by a Lease: one replica reconciles, the others wait and serve the webhook.

The same rules as client-go's: who holds the lease renews it; who does not takes it only after it
has not changed for its whole duration, measured by the own clock. A leader that could not renew in
time stops at once, well before another one may start.
Source: https://kubernetes.io/docs/concepts/architecture/leases/
"""

from __future__ import annotations

import asyncio
import datetime
import time
from typing import Any

from chrek import errors, log
from chrek.kube import api

LOG = log.get(__name__)
LEASE_SECONDS = 15
HELD_SECONDS = 10.0
"""So long after its last renewal a leader believes in itself."""
RENEW_SECONDS = 3.0
RETRY_SECONDS = 2.0

GROUP_VERSION = "coordination.k8s.io/v1"
Object = dict[str, Any]


class LostError(Exception):
    """This replica is no longer the leader and must end."""


class Leader:
    """This replica's part in the election."""

    def __init__(self, client: api.Client, *, namespace: str, name: str, identity: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._renewed = -HELD_SECONDS
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = 0.0
        self._released = False

    def held(self) -> bool:
        """Whether this replica may act now."""
        return not self._released and time.monotonic() - self._renewed < HELD_SECONDS

    async def acquire(self) -> None:
        """Wait until this replica is the leader."""
        while not await self._try():
            await asyncio.sleep(RETRY_SECONDS)
        LOG.info("leading", identity=self._identity)

    async def keep(self) -> None:
        """Renew for ever; only sleep once released.

        Raises:
            LostError: the lease could not be renewed in time, or somebody else holds it.
        """
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            renewed = not self._released and await self._try()
            if self._released:
                continue
            if not renewed and self._seen[0] != self._identity:
                raise LostError(f"lease {self._name} is held by {self._seen[0]!r}")
            if not self.held():
                raise LostError(f"lease {self._name} was not renewed for {HELD_SECONDS:g} s")

    async def release(self) -> None:
        """Let another replica lead without waiting; this one never leads again."""
        held, self._released = self.held(), True
        if not held:
            return
        for _ in range(3):
            try:
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._give_up()
                return
            except (errors.ApiError, TimeoutError) as err:
                # A renewal that was under way makes a conflict.
                LOG.debug("cannot release the lease", error=str(err))

    async def _give_up(self) -> None:
        lease = await self._client.get(GROUP_VERSION, "leases", self._namespace, self._name)
        if lease["spec"].get("holderIdentity") == self._identity:
            lease["spec"]["holderIdentity"] = ""
            await self._replace(lease)

    async def _try(self) -> bool:
        started = time.monotonic()
        try:
            async with asyncio.timeout(HELD_SECONDS / 2):
                taken = await self._take()
        except (errors.ApiError, TimeoutError) as err:
            if not (isinstance(err, errors.ApiError) and err.status == 409):
                LOG.warning("cannot renew or take the lease", error=str(err) or "no answer")
            return False
        if taken:
            self._renewed = started
        return taken and not self._released

    async def _take(self) -> bool:
        lease = await self._client.find(GROUP_VERSION, "leases", self._namespace, self._name)
        if lease is None:
            await self._client.create(GROUP_VERSION, "leases", self._namespace, self._new())
            self._seen = (self._identity, "")
            return True
        spec: Object = lease.setdefault("spec", {})
        holder = spec.get("holderIdentity") or ""
        seen = (holder, str(spec.get("renewTime", "")))
        if seen != self._seen:
            self._seen, self._seen_at = seen, time.monotonic()
        if holder and holder != self._identity:
            duration = float(spec.get("leaseDurationSeconds") or LEASE_SECONDS)
            if time.monotonic() - self._seen_at < duration:
                return False
        if holder != self._identity:
            spec["acquireTime"] = _now()
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
        spec["holderIdentity"] = self._identity
        spec["leaseDurationSeconds"] = LEASE_SECONDS
        spec["renewTime"] = _now()
        await self._replace(lease)
        self._seen, self._seen_at = (self._identity, spec["renewTime"]), time.monotonic()
        return True

    async def _replace(self, lease: Object) -> None:
        await self._client.replace(GROUP_VERSION, "leases", self._namespace, self._name, lease)

    def _new(self) -> Object:
        return {
            "apiVersion": GROUP_VERSION,
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": LEASE_SECONDS,
                "acquireTime": _now(),
                "renewTime": _now(),
                "leaseTransitions": 0,
            },
        }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
