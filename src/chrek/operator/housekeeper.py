"""The operator's housekeeping: when it is looked at what may go, and whether there is room.

Nothing is written here. What has to go is remembered, and the checkpoints that list it are woken;
their controller takes it out of the status, and deletes it. At rest that costs no write.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from typing import Any

from chrek import config, log, names, quantity
from chrek.operator import cache as cache_module
from chrek.operator import housekeeping, metrics, platform, queue, summary, templates

LOG = log.get(__name__)
INTERVAL_SECONDS = 60.0
SHORTEST_SECONDS = 5.0
"""Between two looks, however much changes."""
GRANTED_SECONDS = 60.0
"""So long a capture that may begin counts before it is seen to run."""

Object = dict[str, Any]
Key = tuple[str, str]
"""A namespace, and an identity hash in it."""


class Housekeeper:
    """Decides what goes and whether more may come."""

    def __init__(
        self,
        cache: cache_module.Cache,
        settings: config.OperatorConfig,
        *,
        wanted: templates.Templates,
        owners: platform.Detector,
        wake: Callable[[str, str], None],
        clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        """Prepare; nothing goes and nothing comes before the first look.

        Args:
            cache: the cluster as it is.
            settings: the operator's configuration.
            wanted: what graphs ask for.
            owners: whose the checkpoints are.
            wake: has the checkpoints of a namespace and a hash looked at.
            clock: the time, in UTC.
        """
        self._cache = cache
        self._settings = settings.housekeeping
        self._deletes = bool(settings.deletionJobPath)
        self._templates = wanted
        self._platform = owners
        self._wake = wake
        self._clock = clock
        self._plan: housekeeping.Plan | None = None
        self._looked: datetime.datetime | None = None
        self._chosen: dict[Key, dict[str, housekeeping.Removal]] = {}
        self._seen: dict[str, datetime.datetime] = {}
        """When an artifact was last seen in use, by UUID: pods outlive what their start tells."""
        self._granted: dict[Key, tuple[int, datetime.datetime]] = {}
        self._over = 0

    async def reconcile(self, _: queue.Key) -> float | None:
        """Look at the whole store, unless that has just been done."""
        now = self._clock()
        # A clock that was set back must not put it off.
        passed = abs((now - self._looked).total_seconds()) if self._looked else INTERVAL_SECONDS
        acts = self._settings.maxBytes or self._settings.unusedSeconds
        wait = (SHORTEST_SECONDS if acts else INTERVAL_SECONDS) - passed
        if wait > 0:
            return wait
        self._looked = now
        self._look(now)
        return INTERVAL_SECONDS

    def users(self, namespace: str, digest: str) -> housekeeping.Users:
        """Who uses the artifacts of an identity now."""
        return self._users((namespace, digest), known=self._complete(namespace))

    def _users(self, key: Key, *, known: bool) -> housekeeping.Users:
        namespace, digest = key
        same = cache_module.many(self._cache.checkpoints_by_hash, namespace, digest)
        references = {digest, *(item["metadata"]["name"] for item in same)}
        return housekeeping.users(
            self._cache.workers(namespace, references),
            asked=[one.variant for one in self._templates.of(namespace, digest)],
            graph=any((namespace, one) in self._cache.graphs_by_reference for one in references),
            known=known,
        )

    def _complete(self, namespace: str) -> bool:
        """Whether all graphs of a namespace were looked at."""
        return self._templates.complete(k for k in self._cache.graphs if k[0] == namespace)

    def removals(self, namespace: str, digest: str) -> dict[str, housekeeping.Removal]:
        """Artifacts of an identity that go, by UUID; what is used since it was chosen stays."""
        chosen = self._chosen.get((namespace, digest))
        if not chosen:
            return {}
        now = self._clock()
        found = self._artifacts((namespace, digest), self.users(namespace, digest), now)
        return {one.uuid: chosen[one.uuid] for one in found if not one.kept and one.uuid in chosen}

    def room(self, namespace: str, digest: str) -> str | None:
        """Why no capture of an identity may begin; as `housekeeping.refusal` tells it."""
        if not self._settings.maxBytes:
            return ""
        if self._plan is None:
            return None
        now, key = self._clock(), (namespace, digest)
        expected = housekeeping.expected_bytes(self._artifacts(key, self.users(*key), now))
        others = sum(size for one, (size, _) in self._granted.items() if one != key)
        said = housekeeping.refusal(self._plan, self._settings, expected=expected, granted=others)
        if said == "" and expected:
            self._granted[key] = (expected, now)
        return said

    def _look(self, now: datetime.datetime) -> None:
        found: list[housekeeping.Artifact] = []
        woken: set[Key] = set()
        reserved = 0
        keys = list(self._cache.checkpoints_by_hash)
        complete = {namespace: self._complete(namespace) for namespace in {key[0] for key in keys}}
        for key in keys:
            there = self._artifacts(key, self._users(key, known=complete[key[0]]), now)
            found += there
            runs = housekeeping.running(self._of(key))
            reserved += runs * housekeeping.expected_bytes(there)
            if runs:
                self._granted.pop(key, None)
            if self._waits(key):
                woken.add(key)
        self._granted = {
            key: grant
            for key, grant in self._granted.items()
            if (now - grant[1]).total_seconds() < GRANTED_SECONDS
        }
        used = {one.uuid: now for one in found if one.kept in housekeeping.USED}
        there_still = {one.uuid for one in found}
        self._seen = {u: at for u, at in self._seen.items() if u in there_still} | used
        self._plan = housekeeping.plan(found, self._settings, now=now, reserved_bytes=reserved)
        self._chosen = {}
        for removal in self._plan.removals:
            key = (removal.artifact.namespace, removal.artifact.identity_hash)
            self._chosen.setdefault(key, {})[removal.artifact.uuid] = removal
        for key in sorted(woken | self._chosen.keys()):
            self._wake(*key)
        self._tell(self._plan, found)

    def _tell(self, made: housekeeping.Plan, found: Iterable[housekeeping.Artifact]) -> None:
        sizes: dict[str, list[int]] = {}
        for one in found:
            sizes.setdefault(one.namespace, []).append(one.bytes)
        over = made.over_bytes(self._settings)
        metrics.stored(sizes, quota=self._settings.maxBytes, over=over)
        there = (item for same in self._cache.checkpoints.values() for item in same)
        makes = self._platform.current.makes
        metrics.listed(item for item in there if not makes(item))
        if over and over != self._over:
            LOG.warning(
                "the store's quota is passed, and nothing more may go",
                store=quantity.human(made.left_bytes),
                quota=quantity.human(self._settings.maxBytes),
                see="chrek prune --dry-run",
            )
        elif self._over and not over:
            LOG.info("the store's quota is met again", store=quantity.human(made.left_bytes))
        self._over = over

    def _waits(self, key: Key) -> bool:
        """Whether a capture waits for room."""
        return any(
            entry.get("reason") == names.Reason.STORE_NEARLY_FULL
            for item in self._of(key)
            for entry in summary.entries(item.get("status") or {})
        )

    def _artifacts(
        self, key: Key, users: housekeeping.Users, now: datetime.datetime
    ) -> list[housekeeping.Artifact]:
        return housekeeping.artifacts(
            self._of(key),
            users,
            now=now,
            deletes=self._deletes,
            seen=self._seen,
        )

    def _of(self, key: Key) -> list[Object]:
        found = cache_module.many(self._cache.checkpoints_by_hash, *key)
        return [item for item in found if not self._platform.current.makes(item)]
