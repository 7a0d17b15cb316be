"""Artifacts are deleted by Jobs: the operator has no access to the store.

The Job is the chart's template with a name, a label and arguments filled in; `chrek prune` runs in
it. Its name follows from what it deletes, so that asking again finds it, also after a restart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import yaml

from chrek import config, errors, log, names
from chrek.kube import api

LOG = log.get(__name__)
JOBS = ("batch/v1", "jobs")
POD_LABEL = "batch.kubernetes.io/job-name"

Object = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How far a deletion is.

    Attributes:
        state: a deletion that failed is tried again by asking again.
        message: for a person.
    """

    state: Literal["done", "running", "failed"]
    message: str


class Deletions:
    """Makes deletion Jobs and follows them."""

    def __init__(self, client: api.Client, settings: config.OperatorConfig, *, own: str) -> None:
        """Prepare.

        Args:
            client: connection.
            settings: the operator's configuration.
            own: the release's namespace, where the Jobs run.
        """
        self._client = client
        self._settings = settings
        self._own = own
        self._told: set[str] = set()
        """UIDs of failed Jobs whose failure was reported: asked again, they are replaced."""

    async def run(self, namespace: str, paths: Sequence[str]) -> Outcome:
        """Have artifacts deleted; ask again until it is done.

        Args:
            namespace: of the checkpoints.
            paths: `<hash>`, `<hash>/<variant>` or `<hash>/<variant>/<uuid>`.

        Raises:
            ApiError: the API server did not answer, or not for a reason that lasts.
        """
        if not self._settings.deletionJobPath:
            return Outcome("done", "the files are kept: this release deletes none")
        name = self.name(namespace, paths)
        job = await self._client.find(*JOBS, self._own, name)
        if job is None:
            return await self._create(name, namespace, paths)
        metadata = job["metadata"]
        if metadata.get("deletionTimestamp"):
            return Outcome("running", f"Job {name} is being removed")
        ended = _ended(job)
        if ended.get("type") == "Complete":
            await self._remove(job)
            return Outcome("done", f"{len(paths)} deleted: {', '.join(sorted(paths))}")
        if ended.get("type") == "Failed":
            if metadata["uid"] not in self._told:
                self._told.add(metadata["uid"])
                return await self._failed(job, ended)
            await self._remove(job)
            return await self._create(name, namespace, paths)
        return Outcome("running", f"Job {self._own}/{name} deletes the artifacts")

    def name(self, namespace: str, paths: Sequence[str]) -> str:
        """Of the Job that deletes these; releases of one namespace do not meet."""
        text = "\n".join([self._settings.release, namespace, *sorted(paths)])
        return f"delete-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    async def _create(self, name: str, namespace: str, paths: Sequence[str]) -> Outcome:
        try:
            body = self._job(name, namespace, paths)
            await self._client.create(*JOBS, self._own, body)
        except errors.ConfigError as err:
            return Outcome("failed", str(err))
        except errors.ApiError as err:
            if err.status == 409:
                return Outcome("running", f"Job {self._own}/{name} exists already")
            if err.status == 403 and "being terminated" in err.message:
                return Outcome("done", f"namespace {self._own} is being deleted, {self._fate()}")
            if err.status in (400, 403, 404, 422):
                return Outcome("failed", err.message)
            raise
        LOG.info("deletion started", job=name, checkpoint_namespace=namespace, paths=list(paths))
        return Outcome("running", f"Job {self._own}/{name} was created")

    def _fate(self) -> str:
        """What becomes of artifacts when the release's namespace is deleted."""
        storage = self._settings.storage
        if storage.type == "pvc":
            return "with the volume"
        uri = storage.s3.uri if storage.type == "s3" else storage.oci.uri
        return f"and the files stay in {uri}"

    def _job(self, name: str, namespace: str, paths: Sequence[str]) -> Object:
        # Read each time: the chart's new one counts without a restart.
        file = pathlib.Path(self._settings.deletionJobPath)
        try:
            job: Object = yaml.safe_load(file.read_text())
            metadata, template = job["metadata"], job["spec"]["template"]
            container = template["spec"]["containers"][0]
        except (OSError, yaml.YAMLError, KeyError, TypeError, IndexError) as err:
            raise errors.ConfigError(f"{file}: {err!r}", hint="the chart writes this file") from err
        metadata.pop("generateName", None)
        metadata.update(name=name, namespace=self._own)
        for labelled in (metadata, template.setdefault("metadata", {})):
            labelled["labels"] = {**(labelled.get("labels") or {}), names.LABEL_DELETION: "true"}
        container["args"] = [f"--namespace={namespace}", *sorted(paths)]
        return job

    async def _failed(self, job: Object, condition: Object) -> Outcome:
        name = job["metadata"]["name"]
        said = await self._last_words(name) or str(condition.get("message", ""))
        reason = condition.get("reason", "Failed")
        return Outcome("failed", f"Job {self._own}/{name}: {reason}: {said}".rstrip(": "))

    async def _last_words(self, name: str) -> str:
        """What the newest of a Job's pods said at its end."""
        try:
            query = {"labelSelector": f"{POD_LABEL}={name}"}
            pods = (await self._client.list("v1", "pods", self._own, query=query))["items"]
        except errors.ApiError as err:
            LOG.warning("cannot read why a deletion failed", job=name, error=str(err))
            return ""
        said = ""
        for pod in sorted(pods, key=lambda p: str(p["metadata"].get("creationTimestamp"))):
            for container in (pod.get("status") or {}).get("containerStatuses") or []:
                ended = (container.get("state") or {}).get("terminated") or {}
                lines = str(ended.get("message", "")).strip().splitlines()
                told = [ln.removeprefix("error: ") for ln in lines if ln.startswith("error: ")]
                if told or lines:
                    said = (told or lines)[-1]
        return said

    async def _remove(self, job: Object) -> None:
        metadata = job["metadata"]
        self._told.discard(metadata["uid"])
        try:
            await self._client.delete(*JOBS, self._own, metadata["name"], uid=metadata["uid"])
        except errors.ApiError as err:
            # Gone, or another one by now.
            if err.status not in (404, 409):
                raise


def _ended(job: Object) -> Object:
    """The condition that says how a Job ended; empty while it has not."""
    for condition in (job.get("status") or {}).get("conditions") or []:
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            found: Object = condition
            return found
    return {}
