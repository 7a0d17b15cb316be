"""Readers of artifacts, said aloud: nothing is deleted under a running restore.

One Lease for each identity hash, in the release's namespace. A restoring agent puts an annotation
with an expiry on it and looks at who holds it, in one request; the Job that deletes artifacts holds
it first and then waits until no reader is left. Whoever comes second gives way.
Without an answer of the API server the restore goes on: an artifact that vanishes meanwhile fails
its verification, and the pod starts cold.
Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from __future__ import annotations

import asyncio
import collections
import datetime
import hashlib
import time
from collections.abc import Mapping
from typing import Any

from chrek import errors, log, names
from chrek.agent import report
from chrek.kube import api

LOG = log.get(__name__)
GROUP_VERSION = "coordination.k8s.io/v1"
PREFIX = "chrek.nvidia.com/reading-"
DELETION = "deletion/"
MARGIN_SECONDS = 60.0
"""A mark outlives the restore's time limit, and a deletion's Lease its end, by this."""
ANSWER_SECONDS = 5.0


class Readers:
    """What this node is restoring from."""

    def __init__(
        self,
        client: api.Client,
        node: str,
        *,
        release: str,
        namespace: str,
        restore_seconds: float,
    ) -> None:
        """Prepare.

        Args:
            release: key of the release, the first part of every Lease's name.
            namespace: of the release, where the Leases are.
            restore_seconds: the longest time a restore takes.
        """
        self._client = client
        self._manager = f"chrek-agent-{node}"[:128]
        self._key = PREFIX + hashlib.sha256(node.encode()).hexdigest()[:8]
        self._release = release
        self._namespace = namespace
        self._seconds = restore_seconds + MARGIN_SECONDS
        self._counts: collections.Counter[str] = collections.Counter()
        self._turns: dict[str, asyncio.Lock] = {}
        self._pending: set[asyncio.Task[None]] = set()

    async def enter(self, namespace: str, identity_hash: str) -> None:
        """Mark that artifacts of an identity are being read; `leave` must follow.

        Raises:
            ArtifactError: reason BeingDeleted, when a deletion was there first.
        """
        name = self._name(namespace, identity_hash)
        self._counts[name] += 1
        async with self._turns.setdefault(name, asyncio.Lock()):
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    lease = await self._mark(name)
            except (errors.ApiError, TimeoutError) as err:
                LOG.warning("cannot mark an artifact as read", lease=name, error=str(err))
                return
        holder = _deletion(lease)
        if holder:
            raise errors.ArtifactError(
                f"artifacts of {identity_hash} are being deleted by {holder}",
                reason=names.Reason.BEING_DELETED,
            )

    def leave(self, namespace: str, identity_hash: str) -> None:
        """Take the mark back, unless another restore of this node needs it; returns at once."""
        name = self._name(namespace, identity_hash)
        self._counts[name] -= 1
        if not self._counts[name]:
            task = asyncio.get_running_loop().create_task(self._unmark(name))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def drain(self) -> None:
        """Wait for what is still being taken back."""
        if self._pending:
            await asyncio.wait(self._pending, timeout=ANSWER_SECONDS)

    def _name(self, namespace: str, identity_hash: str) -> str:
        return f"{self._release}.{namespace}.{identity_hash}"

    async def _mark(self, name: str) -> dict[str, Any]:
        expiry = report.rfc3339(time.time() + self._seconds)
        body = {
            "apiVersion": GROUP_VERSION,
            "kind": "Lease",
            "metadata": {"name": name, "annotations": {self._key: expiry}},
        }
        return await self._client.patch(
            *(GROUP_VERSION, "leases", self._namespace, name, body),
            kind="apply",
            field_manager=self._manager,
            force=True,
        )

    async def _unmark(self, name: str) -> None:
        """A merge patch: unlike an apply, it does not make a Lease that was deleted again."""
        async with self._turns.setdefault(name, asyncio.Lock()):
            if self._counts[name]:
                return
            body = {"metadata": {"annotations": {self._key: None}}}
            try:
                await self._client.patch(
                    *(GROUP_VERSION, "leases", self._namespace, name, body),
                    field_manager=self._manager,
                )
            except errors.ApiError as err:
                if err.status != 404:
                    # The mark has an end of its own.
                    LOG.warning("cannot take back a reader's mark", lease=name, error=str(err))
            if not self._counts[name]:
                self._counts.pop(name, None)


def _deletion(lease: Mapping[str, Any]) -> str:
    """The deletion that holds a Lease; empty when there is none or it died long ago."""
    spec = lease.get("spec") or {}
    holder = str(spec.get("holderIdentity") or "")
    if not holder.startswith(DELETION):
        return ""
    try:
        renewed = datetime.datetime.fromisoformat(spec["renewTime"]).timestamp()
        end = renewed + spec["leaseDurationSeconds"] + MARGIN_SECONDS
    except (KeyError, TypeError, ValueError):
        return holder
    return holder if time.time() < end else ""
