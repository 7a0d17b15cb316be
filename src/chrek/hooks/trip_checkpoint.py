"""A worker of the round trip: captured by a DynamoCheckpoint of this run, restored in a pod."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from typing import Any

from chrek import errors, identity, names, state
from chrek.hooks import trip_pods
from chrek.kube import workstation

Object = dict[str, Any]


class CaptureFailed(errors.ChrekError):
    """The checkpoint is Failed.

    Attributes:
        cause: the reason that it gives; may be empty.
    """

    reason = names.Reason.JOB_FAILED

    def __init__(self, message: str, *, cause: str) -> None:
        hint = "see the agent's log on the node of the checkpoint job"
        super().__init__(f"the capture failed: {message}", hint=hint)
        self.cause = cause


class Checkpoint:
    """One checkpoint and the pod that is restored from it.

    Attributes:
        hash: of its identity, and its name.
        pod_name: of that pod.
        pods: of this worker.
    """

    def __init__(
        self,
        cluster: workstation.Cluster,
        worker: Object,
        *,
        namespace: str,
        owners: list[Object],
        name: str,
        timeout_seconds: float,
    ) -> None:
        """Prepare; nothing is made yet.

        Args:
            cluster: the connection.
            worker: template of the pod to capture and to start again.
            namespace: where to make things.
            owners: their owner references.
            name: beginning of the names of pods.
            timeout_seconds: how long the capture may take.
        """
        self._cluster = cluster
        self._worker = worker
        self._namespace = namespace
        self._owners = owners
        self._timeout_seconds = timeout_seconds
        # No other run has this identity, so no artifact of another run can be taken for ours.
        self._identity = {
            "model": "chrek/round-trip",
            "backendFramework": "vllm",
            "extraParameters": {"run": uuid.uuid4().hex},
        }
        self.hash = identity.parse(self._identity).hash()
        self._job = f"checkpoint-{self.hash}"
        self.pod_name = f"{name}-{self.hash}"
        self.pods = trip_pods.Pods(cluster, worker, namespace=namespace, owners=owners)

    def path(self) -> str:
        """Of the DynamoCheckpoint."""
        return workstation.path(
            names.API_VERSION, names.CHECKPOINT_PLURAL, self._namespace, self.hash
        )

    def create(self, preferred: Mapping[str, int], *, only: Collection[str] = ()) -> None:
        """Have the worker captured; see `trip_pods.template`."""
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.CHECKPOINT_KIND,
            "metadata": {
                "name": self.hash,
                "namespace": self._namespace,
                "ownerReferences": self._owners,
            },
            "spec": {
                "identity": self._identity,
                "job": {
                    "activeDeadlineSeconds": max(1, int(self._timeout_seconds)),
                    # A second attempt would wait for /go, and hide the first one's reason.
                    "backoffLimit": 0,
                    "podTemplateSpec": trip_pods.template(self._worker, preferred, only=only),
                },
            },
        }
        path = workstation.path(names.API_VERSION, names.CHECKPOINT_PLURAL, self._namespace)
        self._cluster.create(path, body)

    def status(self) -> Object:
        """Of the DynamoCheckpoint.

        Raises:
            ChrekError: it is gone.
            CaptureFailed: it is Failed.
        """
        found = self._cluster.get(self.path())
        if found is None:
            raise errors.ChrekError(
                f"DynamoCheckpoint {self.hash} was deleted during the test", hint="run it again"
            )
        status = state.status_of(found)
        if status.get("phase") == names.Phase.FAILED:
            ready = workstation.condition({"status": status}, names.CONDITION_READY)
            raise CaptureFailed(
                status.get("message") or "no message", cause=str(ready.get("reason", ""))
            )
        self._job = status.get("jobName") or self._job
        return status

    def ready_status(self) -> Object | None:
        """The status once there is an artifact."""
        status = self.status()
        return status if status.get("phase") == names.Phase.READY else None

    def sources(self) -> list[Object]:
        """The pods of its job: one, or none yet."""
        return self.pods.labelled({"batch.kubernetes.io/job-name": self._job})

    def source_address(self) -> str | None:
        """Where the worker answers that is to be captured.

        Raises:
            ChrekError: as `status`.
        """
        self.status()
        return next(filter(None, map(trip_pods.answering, self.sources())), None)

    def restore(self, preferred: Mapping[str, int], *, only: Collection[str] = ()) -> None:
        """Make the pod; see `trip_pods.template`.

        Raises:
            ChrekError: chrek did not prepare it.
        """
        self.pods.create(self.pod_name, self.hash, preferred=preferred, only=only)

    def restored(self) -> trip_pods.Start | None:
        """How the pod started; None until that is known.

        Raises:
            ChrekError: cold, with the reason why.
        """
        start = self.pods.start(self.pod_name)
        if start is not None and not start.restored:
            raise errors.ChrekError(
                f"the pod started cold: {start.reason}: {start.message}",
                hint=f"see the agent's log on node {start.node} and {start.reason} in the "
                "troubleshooting guide",
                reason=start.reason,
            )
        return start
