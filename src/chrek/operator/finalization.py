"""The end of a DynamoCheckpoint: its Jobs and, with the last one of an identity, its artifacts.

The finalizer is put on before the first capture and taken off when nothing is left. A namespace
that is being deleted, or an operator without a deletion Job, never holds an object back.
"""

from __future__ import annotations

from typing import Any

from chrek import errors, identity, log, names
from chrek.kube import api
from chrek.operator import cache as cache_module
from chrek.operator import captures, deletion, pods, summary

LOG = log.get(__name__)
POLL_SECONDS = 1.0
FAILED_SECONDS = 30.0

Object = dict[str, Any]


def again_seconds(outcome: deletion.Outcome) -> float:
    """When to ask again about a deletion that is not done."""
    return FAILED_SECONDS if outcome.state == "failed" else POLL_SECONDS


class Finalization:
    """Puts the finalizer on, and does what it stands for."""

    def __init__(
        self, client: api.Client, cache: cache_module.Cache, deletions: deletion.Deletions
    ) -> None:
        self._client = client
        self._cache = cache
        self._deletions = deletions
        self._begun: set[str] = set()

    async def mark(self, checkpoint: Object, *, wanted: bool) -> bool:
        """Make the finalizer be there, or not, as the deletion policy says.

        Args:
            checkpoint: the object.
            wanted: whether artifacts can be deleted at all.

        Returns:
            Whether something was written: the object comes back with it.
        """
        keeps = checkpoint["spec"].get("deletionPolicy") == names.DeletionPolicy.RETAIN
        needed = wanted and not keeps
        there = names.FINALIZER in (checkpoint["metadata"].get("finalizers") or [])
        if needed == there:
            return False
        await self._write(checkpoint, present=needed)
        return True

    async def run(self, checkpoint: Object) -> deletion.Outcome | None:
        """Go on with the deletion of a checkpoint; None when there is nothing more to do."""
        metadata = checkpoint["metadata"]
        if names.FINALIZER not in (metadata.get("finalizers") or []):
            return None
        outcome = await self._outcome(checkpoint)
        if outcome.state != "done":
            return outcome
        LOG.info("checkpoint deleted", checkpoint=metadata["name"], detail=outcome.message)
        await self._write(checkpoint, present=False)
        return None

    async def _outcome(self, checkpoint: Object) -> deletion.Outcome:
        metadata, old = checkpoint["metadata"], checkpoint.get("status") or {}
        namespace = metadata["namespace"]
        try:
            spec = checkpoint.get("spec") or {}
            digest = identity.parse(spec.get("identity") or {}).hash()
        except errors.InputError:
            return deletion.Outcome("done", "it has no identity")
        if await self.stop_jobs(checkpoint):
            return deletion.Outcome("running", "its jobs are being stopped")
        if checkpoint["spec"].get("deletionPolicy") == names.DeletionPolicy.RETAIN:
            return deletion.Outcome("done", "its artifacts are kept")
        if not any(old.get(field) for field in ("variants", "captures", "garbage")):
            return deletion.Outcome("done", "it has no artifact")
        same = cache_module.many(self._cache.checkpoints_by_hash, namespace, digest)
        paths = [digest]
        if metadata["uid"] not in self._begun and cache_module.oldest(same) is not None:
            # Others go on with the artifacts; what they do not list goes.
            paths = [f"{digest}/{path}" for path in old.get("garbage") or []]
        if not paths:
            return deletion.Outcome("done", "another checkpoint has its artifacts")
        # Once begun it is followed to its end, also when somebody makes the checkpoint again.
        self._begun.add(metadata["uid"])
        return await self._deletions.run(namespace, paths)

    def under_way(self, namespace: str, digest: str) -> bool:
        """Whether artifacts of an identity may be being deleted: nothing is captured meanwhile."""
        same = cache_module.many(self._cache.checkpoints_by_hash, namespace, digest)
        return any(
            item["metadata"].get("deletionTimestamp")
            and names.FINALIZER in (item["metadata"].get("finalizers") or [])
            for item in same
        )

    async def stop_jobs(self, checkpoint: Object) -> bool:
        """Delete the checkpoint's Jobs; whether any of their pods still runs."""
        metadata, old = checkpoint["metadata"], checkpoint.get("status") or {}
        wanted = {old.get("jobName"), *(e.get("jobName") for e in summary.entries(old))}
        uids = {e["jobUID"] for e in summary.entries(old) if e.get("jobUID")}
        for name in sorted(filter(None, wanted)):
            job = cache_module.one(self._cache.jobs, metadata["namespace"], name)
            if job is None or pods.owner_uid(job) != metadata["uid"]:
                continue
            uids.add(job["metadata"]["uid"])
            # One that has ended goes with its owner, without a request of ours.
            if not captures.has_ended(job):
                await self.delete_job(job)
        # A Job goes at once, its pods may take a while and still write.
        alive = [pod for uid in uids for pod in self._cache.of_job(metadata["namespace"], uid)]
        return any(not pod.finished for pod in alive)

    async def delete_job(self, job: Object) -> None:
        """Delete a Job and its pods."""
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

    async def _write(self, checkpoint: Object, *, present: bool) -> None:
        metadata = checkpoint["metadata"]
        others = [f for f in metadata.get("finalizers") or [] if f != names.FINALIZER]
        body = {
            "metadata": {
                "resourceVersion": metadata["resourceVersion"],
                "finalizers": [*others, names.FINALIZER] if present else others,
            }
        }
        try:
            await self._client.patch(
                names.API_VERSION,
                names.CHECKPOINT_PLURAL,
                metadata["namespace"],
                metadata["name"],
                body,
            )
        except errors.ApiError as err:
            if err.status != 404:
                raise
