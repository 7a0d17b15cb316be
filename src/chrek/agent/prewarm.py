"""Fetches artifacts into the node's cache before a pod needs them.

Those of DynamoCheckpoints that ask for it, one after another, the newest variants first. It is no
operation of a slot: a restore never waits for it, and one that needs the same artifact joins it.
What fails is tried again when the checkpoint changes, and a while later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from chrek import errors, log
from chrek import storage as storages
from chrek.agent import metrics, objects

LOG = log.get(__name__)
RETRY_SECONDS = 300.0
POLL_SECONDS = 2.0


class Prewarm:
    """What this node fetches ahead."""

    def __init__(
        self,
        storage: storages.Storage,
        checkpoints_of: Callable[[], Iterable[objects.Checkpoint]],
    ) -> None:
        self._storage = storage
        self._checkpoints_of = checkpoints_of
        self._fetched: set[str] = set()
        """uuids."""
        self._failed: dict[str, float] = {}
        """uuid -> when it may be tried again, by the loop's clock."""

    async def run(self) -> None:
        """Fetch what is asked for, for ever; at once when artifacts are on a volume."""
        if not self._storage.has_cache:
            return
        while True:
            wanted = self._next()
            if wanted is None:
                await asyncio.sleep(POLL_SECONDS)
            else:
                await self._fetch(*wanted)

    def _next(self) -> tuple[objects.Checkpoint, objects.Variant] | None:
        found = [
            (checkpoint, variant)
            for checkpoint in self._checkpoints_of()
            if checkpoint.prewarm and not checkpoint.deleting
            for variant in checkpoint.variants
            if not variant.suspect and variant.uuid not in self._fetched
        ]
        now = asyncio.get_running_loop().time()
        due = [pair for pair in found if self._failed.get(pair[1].uuid, 0.0) <= now]
        return max(due, key=lambda pair: pair[1].created_at, default=None)

    async def _fetch(self, checkpoint: objects.Checkpoint, variant: objects.Variant) -> None:
        try:
            await asyncio.to_thread(self._fetch_now, checkpoint, variant)
        except errors.ChrekError as err:
            again = asyncio.get_running_loop().time() + RETRY_SECONDS
            self._failed[variant.uuid] = again
            metrics.store_failed("prewarm", err.reason)
            LOG.warning(
                "not fetched ahead",
                checkpoint=checkpoint.name,
                uuid=variant.uuid,
                reason=err.reason,
                error=str(err),
            )
        else:
            self._failed.pop(variant.uuid, None)
            self._fetched.add(variant.uuid)
            LOG.info("fetched ahead", checkpoint=checkpoint.name, uuid=variant.uuid)

    def _fetch_now(self, checkpoint: objects.Checkpoint, variant: objects.Variant) -> None:
        store = self._storage.of(checkpoint.namespace)
        parts = (checkpoint.identity_hash, variant.name, variant.uuid, variant.digest)
        with store.fetched(store.open(*parts)):
            pass
