"""The DynamoCheckpoint controller: performs what `status` decides.

The operator is the only writer of status. Each write carries the resourceVersion it was decided on;
when somebody was faster the server refuses it and the key is looked at again. Nothing is done
before the status that it follows from is stored: after a write the controller waits for its echo.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any

from chrek import config, errors, identity, log, names
from chrek.kube import api
from chrek.operator import cache as cache_module
from chrek.operator import (
    captures,
    commands,
    conditions,
    deletion,
    finalization,
    housekeeper,
    jobs,
    metrics,
    news,
    place,
    platform,
    pods,
    queue,
    status,
    summary,
    templates,
    writes,
)

LOG = log.get(__name__)
GONE_SECONDS = 1.0
LOOK_UP_SECONDS = 300.0
TAKEN_SECONDS = 10.0
REFUSED_SECONDS = 30.0

Object = dict[str, Any]


class Checkpoints:
    """Reconciles DynamoCheckpoints."""

    def __init__(
        self,
        client: api.Client,
        cache: cache_module.Cache,
        settings: config.OperatorConfig,
        *,
        wanted: templates.Templates,
        images: commands.Commands,
        deletions: deletion.Deletions,
        owners: platform.Detector,
        keeper: housekeeper.Housekeeper,
        own: str,
        instance: str,
        clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._client = client
        self._cache = cache
        self._settings = settings
        self._templates = wanted
        self._images = images
        self._deletions = deletions
        self._platform = owners
        self._keeper = keeper
        self._own = own
        self._news = news.News(client, instance)
        self._clock = clock
        self._finalization = finalization.Finalization(client, cache, deletions)
        self._told: dict[str, str] = {}

    async def reconcile(self, key: queue.Key) -> float | None:
        """Take the next step of one checkpoint."""
        found = cache_module.one(self._cache.checkpoints, key.namespace, key.name)
        if found is None or self._platform.current.makes(found):
            return None
        if found["metadata"].get("deletionTimestamp"):
            return await self._finalize(found)
        now = self._clock()
        try:
            spec = found.get("spec") or {}
            known = identity.parse(spec.get("identity") or {}, "spec.identity")
        except errors.InputError as err:
            await self._write(found, summary.invalid(found, err, now=now))
            return None
        if await self._finalization.mark(found, wanted=bool(self._settings.deletionJobPath)):
            return None
        same = cache_module.many(self._cache.checkpoints_by_hash, key.namespace, known.hash())
        owner = cache_module.oldest(same) or found
        try:
            own = await self._template(found)
        except errors.UnsupportedError as err:
            old = found.get("status") or {}
            same_spec = old.get("observedGeneration") == found["metadata"].get("generation", 0)
            unknown = err.reason == names.Reason.COMMAND_UNKNOWN
            # A registry that is away for a while takes nothing from what was captured before.
            if not (unknown and same_spec and old.get("variants")):
                await self._write(found, summary.invalid(found, err, now=now))
            return LOOK_UP_SECONDS if unknown else None
        if owner["metadata"]["uid"] != found["metadata"]["uid"]:
            variant = own.variant if own else ""
            if summary.entries(found.get("status") or {}):
                # It went first until the older one was seen: the Jobs' names are that one's now.
                await self._finalization.stop_jobs(found)
            await self._write(found, summary.shared(found, owner, variant, now=now))
            return None
        return await self._advance(found, same, own, known, now)

    async def _advance(
        self,
        found: Object,
        same: Sequence[Object],
        own: templates.Wanted | None,
        known: identity.Identity,
        now: datetime.datetime,
    ) -> float | None:
        namespace = found["metadata"]["namespace"]
        references = {known.hash(), *(item["metadata"]["name"] for item in same)}
        workers = self._cache.workers(namespace, references)
        world = status.World(
            job=lambda name: self._job(found, name),
            pods_of=lambda uid: self._cache.of_job(namespace, uid),
            workers=workers,
            wanted=await self._wanted(found, same, own, workers, known.hash()),
            where=place.of(self._settings.storage, namespace=namespace, own=self._own),
            now=now,
            complete=self._templates.complete(k for k in self._cache.graphs if k[0] == namespace),
            room=lambda: self._keeper.room(namespace, known.hash()),
            removals=self._keeper.removals(namespace, known.hash()),
            users=self._keeper.users(namespace, known.hash()),
        )
        decision = status.following(inherited(found), known, world)
        if await self._write(found, decision.status):
            for removal in decision.pruned:
                metrics.PRUNED.labels(removal.rule).inc()
                await self._news.pruned(found, removal)
            return decision.again_seconds
        seconds = [decision.again_seconds]
        for action, variant in decision.actions:
            wanted = next((one for one in world.wanted if one.variant == variant), None)
            seconds.append(await self._act(action, found, variant, wanted, now))
        seconds.append(await self._tidy(found))
        return min((s for s in seconds if s is not None), default=None)

    def _job(self, checkpoint: Object, name: str) -> Object | None:
        metadata = checkpoint["metadata"]
        found = cache_module.one(self._cache.jobs, metadata["namespace"], name)
        return found if found and pods.owner_uid(found) == metadata["uid"] else None

    async def _template(self, checkpoint: Object) -> templates.Wanted | None:
        """What the checkpoint's own pod template asks for.

        Raises:
            UnsupportedError: it cannot be captured.
        """
        job = checkpoint["spec"].get("job") or {}
        if "podTemplateSpec" not in job:
            return None
        template = await templates.completed(
            self._images,
            checkpoint["metadata"]["namespace"],
            job["podTemplateSpec"],
            job.get("container"),
        )
        return templates.wanted(template, job=job)

    async def _wanted(
        self,
        owner: Object,
        same: Sequence[Object],
        own: templates.Wanted | None,
        workers: Sequence[pods.Pod],
        digest: str,
    ) -> list[templates.Wanted]:
        """Everything that should be captured of an identity, one for each variant."""
        namespace = owner["metadata"]["namespace"]
        found = [own] if own else []
        for item in same:
            if item is not owner and not item["metadata"].get("deletionTimestamp"):
                try:
                    theirs = await self._template(item)
                except errors.UnsupportedError:
                    continue  # Its own status says so.
                found += [theirs] if theirs else []
        found += self._templates.of(namespace, digest)
        of_workers = summary.from_worker(owner)
        for pod in workers:
            if pod.deleted or pod.finished or not pod.variant:
                continue
            if of_workers:
                found.append(templates.Wanted(variant=pod.variant, image="", template={}))
            elif pod.template and pod.identity:
                found.append(templates.wanted(pod.template))
        return list({one.variant: one for one in reversed(found)}.values())[::-1]

    async def _act(
        self,
        action: captures.Action,
        found: Object,
        variant: str,
        wanted: templates.Wanted | None,
        now: datetime.datetime,
    ) -> float | None:
        entry = next(e for e in summary.entries(found["status"]) if e["variant"] == variant)
        namespace, name = found["metadata"]["namespace"], entry.get("jobName", "")
        if action is captures.Action.CREATE_JOB and wanted:
            return await self._create(found, wanted, entry, now)
        job = self._job(found, name)
        if job is None:
            return None
        if action is captures.Action.END_JOB:
            body = {"metadata": {"uid": job["metadata"]["uid"]}, "spec": {"backoffLimit": 0}}
            await self._client.patch("batch/v1", "jobs", namespace, name, body)
        elif action is captures.Action.DELETE_JOB:
            await self._finalization.delete_job(job)
        return None

    async def _create(
        self, found: Object, wanted: templates.Wanted, entry: Object, now: datetime.datetime
    ) -> float | None:
        namespace, digest = found["metadata"]["namespace"], found["status"]["identityHash"]
        if self._finalization.under_way(namespace, digest):
            return finalization.POLL_SECONDS
        try:
            job = jobs.build(
                found,
                wanted,
                entry,
                identity_hash=digest,
                settings=self._settings,
                own=self._own,
            )
            refusal = await self._refusal(job)
            if refusal:
                await self._note(found, entry, names.Phase.PENDING, refusal, now)
                return REFUSED_SECONDS
            await self._client.create("batch/v1", "jobs", namespace, job)
        except (errors.InputError, errors.UnsupportedError) as err:
            await self._note(found, entry, names.Phase.FAILED, err, now)
            return None
        except errors.ApiError as err:
            if err.status == 409:
                return await self._taken(found, entry, now)
            if err.status in (400, 422):
                problem = errors.InputError(f"spec.job.podTemplateSpec: {err.message}")
                await self._note(found, entry, names.Phase.FAILED, problem, now)
                return None
            await self._note(found, entry, names.Phase.PENDING, err, now)
            raise
        LOG.info("job created", namespace=namespace, job=job["metadata"]["name"])
        return None

    async def _refusal(self, job: Object) -> errors.ChrekError | None:
        """Why the API server would not admit the Job's pods: Pod Security, quota, a webhook.

        A Job whose pods are refused says so in Events alone, and waits for ever.
        """
        pod = jobs.pod(job)
        where = api.path("v1", "pods", pod["metadata"]["namespace"])
        try:
            await self._client.request("POST", where, query={"dryRun": "All"}, body=pod)
        except errors.ApiError as err:
            if err.status == 403:
                return errors.UnsupportedError(
                    f"the checkpoint job's pod is not admitted: {err.message}",
                    reason=names.Reason.POD_REFUSED,
                    hint="it is tried again every half minute",
                )
            if err.status == 422:
                raise
            # Webhooks with side effects answer no dry run; the Job itself will tell.
            LOG.debug("dry run of a pod failed", error=str(err))
        return None

    async def _taken(self, found: Object, entry: Object, now: datetime.datetime) -> float | None:
        """The Job's name exists: ours that the cache has not seen yet, or somebody else's."""
        namespace, name = found["metadata"]["namespace"], entry["jobName"]
        there = await self._client.find("batch/v1", "jobs", namespace, name)
        if there is None:
            return GONE_SECONDS
        if pods.owner_uid(there) == found["metadata"]["uid"]:
            return None
        # Most likely the Job of a deleted checkpoint of this identity, about to go.
        if not there["metadata"].get("deletionTimestamp"):
            problem = errors.InputError(
                f"a Job {name} exists that belongs to something else",
                reason=names.Reason.NAME_TAKEN,
                hint="delete it",
            )
            await self._note(found, entry, names.Phase.PENDING, problem, now)
        return TAKEN_SECONDS

    async def _note(
        self,
        found: Object,
        entry: Object,
        phase: names.Phase,
        err: errors.ChrekError,
        now: datetime.datetime,
    ) -> None:
        """Write into a capture's entry why it does not go on."""
        new = captures.moved(entry, phase, reason=str(err.reason), message=str(err))
        others = [e for e in summary.entries(found["status"]) if e["variant"] != entry["variant"]]
        entries = sorted([*others, new], key=lambda e: str(e["variant"]))
        changed = {**found["status"], "captures": entries}
        own = await self._template(found)
        variant = own.variant if own else ""
        await self._write(found, summary.derived(found, changed, variant, now=now))

    async def _tidy(self, found: Object) -> float | None:
        """Have artifacts deleted that the status no longer lists."""
        old = found.get("status") or {}
        garbage = old.get("garbage") or []
        if not garbage:
            return None
        paths = [f"{old['identityHash']}/{path}" for path in garbage]
        outcome = await self._deletions.run(found["metadata"]["namespace"], paths)
        if outcome.state == "done":
            await self._write(found, {k: v for k, v in old.items() if k != "garbage"})
            return None
        if outcome.state == "failed":
            LOG.warning("artifacts are not deleted", paths=paths, error=outcome.message)
        return finalization.again_seconds(outcome)

    async def _finalize(self, found: Object) -> float | None:
        outcome = await self._finalization.run(found)
        if outcome is None:
            self._told.pop(found["metadata"]["uid"], None)
            return None
        uid = found["metadata"]["uid"]
        if outcome.state == "failed" and self._told.get(uid) != outcome.message:
            self._told[uid] = outcome.message
            await self._news.post(
                found,
                type_="Warning",
                reason=names.Reason.DELETION_FAILED,
                note=f"its artifacts are not deleted yet: {outcome.message}",
                action="Delete",
            )
        return finalization.again_seconds(outcome)

    async def _write(self, checkpoint: Object, new: Object) -> bool:
        """Write the status when it differs, and say on the object what changed."""
        old = checkpoint.get("status") or {}
        patch = conditions.difference(old, new)
        if not patch:
            return False
        if await writes.status(self._client, names.CHECKPOINT_PLURAL, checkpoint, patch):
            await self._news.moved(checkpoint, old, new)
        return True


def inherited(checkpoint: Object) -> Object:
    """The checkpoint, free of what an older one of its identity told it before that was deleted."""
    old = checkpoint.get("status") or {}
    if not conditions.get(old, names.CONDITION_SHARED):
        return checkpoint
    return {**checkpoint, "status": conditions.without_condition(old, names.CONDITION_SHARED)}
