"""The DynamoCheckpoint controller: performs what `status` decides.

The operator is the only writer of status. Each write carries the resourceVersion it was decided on;
when somebody was faster the server refuses it and the key is looked at again.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from chrek import config, errors, identity, log, names
from chrek.kube import api
from chrek.operator import cache as cache_module
from chrek.operator import conditions, jobs, place, queue, status, writes

LOG = log.get(__name__)
COMPONENT = "chrek-operator"
TAKEN_SECONDS = 10.0

Object = dict[str, Any]


class Checkpoints:
    """Reconciles DynamoCheckpoints."""

    def __init__(
        self,
        client: api.Client,
        cache: cache_module.Cache,
        settings: config.OperatorConfig,
        *,
        own: str,
        instance: str,
        clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._client = client
        self._cache = cache
        self._settings = settings
        self._own = own
        self._instance = instance
        self._clock = clock

    async def reconcile(self, key: queue.Key) -> float | None:
        """Take the next step of one checkpoint."""
        found = cache_module.one(self._cache.checkpoints, key.namespace, key.name)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return None
        now = self._clock()
        try:
            known = identity.parse(found["spec"]["identity"], "spec.identity")
        except errors.InputError as err:
            await self._write(found, status.invalid(found, err, now=now))
            return None
        same = cache_module.many(self._cache.checkpoints_by_hash, key.namespace, known.hash())
        owner = cache_module.oldest(same) or found
        if owner["metadata"]["uid"] != found["metadata"]["uid"]:
            await self._write(found, status.shared(found, owner, now=now))
            return None
        return await self._advance(_inherited(found), found, known, now)

    async def _advance(
        self, checkpoint: Object, stored: Object, known: identity.Identity, now: datetime.datetime
    ) -> float | None:
        namespace, uid = checkpoint["metadata"]["namespace"], checkpoint["metadata"]["uid"]
        job = cache_module.one(self._cache.jobs, namespace, jobs.name(known.hash()))
        if job is not None and jobs.owner_uid(job) != uid:
            job = None
        pods = []
        if job is not None:
            found = cache_module.many(self._cache.pods, namespace, job["metadata"]["uid"])
            pods = sorted(found, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        decision = status.following(
            checkpoint,
            known=known,
            job=job,
            pods=pods,
            where=place.of(self._settings.storage, namespace=namespace, own=self._own),
            now=now,
        )
        await self._write(stored, decision.status)
        if decision.action is status.Action.CREATE_JOB:
            return await self._create(stored, known, now)
        if decision.action is status.Action.DELETE_JOB and job is not None:
            await self._delete(job)
        return decision.again_seconds

    async def _create(
        self, checkpoint: Object, known: identity.Identity, now: datetime.datetime
    ) -> float | None:
        namespace = checkpoint["metadata"]["namespace"]
        try:
            job = jobs.build(
                checkpoint, identity_hash=known.hash(), settings=self._settings, own=self._own
            )
        except (errors.InputError, errors.UnsupportedError) as err:
            await self._write(checkpoint, status.invalid(checkpoint, err, now=now))
            return None
        try:
            await self._client.create("batch/v1", "jobs", namespace, job)
        except errors.ApiError as err:
            if err.status == 409:
                return await self._taken(checkpoint, job)
            if err.status in (400, 422):
                problem = errors.InputError(f"spec.job.podTemplateSpec: {err.message}")
                await self._write(checkpoint, status.invalid(checkpoint, problem, now=now))
                return None
            waiting = status.moved(
                checkpoint.get("status") or {},
                names.Phase.PENDING,
                reason=names.Reason.API_FAILED,
                message=f"cannot create the checkpoint job: {err.message}",
                now=now,
            )
            await self._write(checkpoint, waiting)
            raise
        LOG.info("job created", namespace=namespace, job=job["metadata"]["name"])
        return None

    async def _taken(self, checkpoint: Object, job: Object) -> float | None:
        """The Job's name exists: ours that the cache has not seen yet, or somebody else's."""
        namespace, name = checkpoint["metadata"]["namespace"], job["metadata"]["name"]
        there = await self._client.find("batch/v1", "jobs", namespace, name)
        if there is not None and jobs.owner_uid(there) == checkpoint["metadata"]["uid"]:
            return None
        waiting = status.moved(
            checkpoint.get("status") or {},
            names.Phase.PENDING,
            reason=names.Reason.NAME_TAKEN,
            message=f"a Job {name} exists that belongs to something else; delete it",
            now=self._clock(),
        )
        # Most likely the Job of a deleted checkpoint of this identity, about to go.
        if there is not None and not there["metadata"].get("deletionTimestamp"):
            await self._write(checkpoint, waiting)
        return TAKEN_SECONDS

    async def _delete(self, job: Object) -> None:
        metadata = job["metadata"]
        if metadata.get("deletionTimestamp"):
            return
        try:
            await self._client.delete(
                "batch/v1", "jobs", metadata["namespace"], metadata["name"], uid=metadata["uid"]
            )
        except errors.ApiError as err:
            if err.status not in (404, 409):
                raise

    async def _write(self, checkpoint: Object, new: Object) -> None:
        """Write the status when it differs, and say on the object what changed."""
        old = checkpoint.get("status") or {}
        patch = conditions.difference(old, new)
        if not patch:
            return
        if await writes.status(self._client, names.CHECKPOINT_PLURAL, checkpoint, patch):
            await self._tell(checkpoint, old, new)

    async def _tell(self, checkpoint: Object, old: Object, new: Object) -> None:
        if new.get("message") == old.get("message") and new.get("phase") == old.get("phase"):
            return
        ready = conditions.get(new, names.CONDITION_READY) or {}
        metadata = checkpoint["metadata"]
        LOG.info(
            "checkpoint moved",
            checkpoint=metadata["name"],
            namespace=metadata["namespace"],
            phase=new.get("phase"),
            reason=ready.get("reason"),
            detail=new.get("message"),
        )
        bad = new.get("phase") == names.Phase.FAILED or " failed: " in new.get("message", "")
        await api.post_event(
            self._client,
            regarding=api.reference(
                {
                    "apiVersion": names.API_VERSION,
                    "kind": names.CHECKPOINT_KIND,
                    "metadata": metadata,
                }
            ),
            type_="Warning" if bad else "Normal",
            reason=ready.get("reason", "Changed"),
            note=f"{new.get('phase')}: {new.get('message', '')}",
            component=COMPONENT,
            instance=self._instance,
            action=f"Phase{new.get('phase')}",
        )


def _inherited(checkpoint: Object) -> Object:
    """The checkpoint, free of what an older one of its identity told it before that was deleted."""
    old = checkpoint.get("status") or {}
    if not conditions.get(old, names.CONDITION_SHARED):
        return checkpoint
    kept = conditions.without_condition(old, names.CONDITION_SHARED)
    if kept.get("phase") != names.Phase.READY:
        kept.pop("phase", None)
    else:
        kept["message"] = "the checkpoint that it was shared with was deleted"
    return {**checkpoint, "status": kept}
