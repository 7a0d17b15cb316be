"""`helm test`: capture a small process, restore it in a second pod, prove that memory came back.

The process (`chrek.hooks.counter`) draws a nonce that exists nowhere but in its memory and counts
the questions it was asked. The test asks it before the capture; the restored pod must know the
nonce and count on. Whatever is made is owned by the test's pod and goes with it, and is deleted at
the end anyway.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
import yaml

from chrek import errors, identity, names
from chrek.hooks import counter, program
from chrek.kube import workstation

POLL_SECONDS = 0.2
CLEAN_UP_SECONDS = 10
T = TypeVar("T")
Object = dict[str, Any]


class RoundTrip:
    """One run of the test."""

    def __init__(
        self,
        cluster: workstation.Cluster,
        worker: Object,
        *,
        namespace: str,
        timeout_seconds: float,
        owner: Object | None,
    ) -> None:
        """Prepare.

        Args:
            cluster: the connection.
            worker: spec of the pod to capture and to start again.
            namespace: where to make things.
            timeout_seconds: for everything together.
            owner: owner reference for what is made; none when the test runs outside the namespace.
        """
        self._cluster = cluster
        self._worker = worker
        self._namespace = namespace
        self._timeout_seconds = timeout_seconds
        self._deadline = time.monotonic() + timeout_seconds
        self._owners = [owner] if owner else []
        # No other run has this identity, so no artifact of another run can be taken for ours.
        self._identity = {
            "model": "chrek/round-trip",
            "backendFramework": "vllm",
            "extraParameters": {"run": uuid.uuid4().hex},
        }
        self._hash = identity.parse(self._identity).hash()
        self._pod_name = f"chrek-round-trip-{self._hash}"
        self.steps: list[tuple[str, float, str]] = []

    def run(self) -> None:
        """Do it.

        Raises:
            ChrekError: the memory did not come back, with the reason.
        """
        try:
            with self._step("capture: worker answers") as note:
                self._create_checkpoint()
                source = self._wait(self._source_address, "the checkpoint job's worker to answer")
                before = self._ask(source)
                note(f"nonce {before['nonce'][:8]}, count {before['count']}")
            with self._step("capture: checkpoint ready") as note:
                self._release(source)
                note(self._wait(self._checkpoint_ready, "the checkpoint to get Ready"))
            with self._step("restore: pod restored") as note:
                self._create_pod()
                address, node = self._wait(self._restored_address, "the pod to be restored")
                note(f"on node {node}")
            with self._step("restore: memory compared") as note:
                after = self._wait(lambda: self._try_ask(address), "the restored worker to answer")
                compare(before, after)
                note(f"nonce {after['nonce'][:8]}, count {after['count']}")
            with self._step("restore: pod ready"):
                self._wait(self._pod_ready, "the restored pod to get Ready")
        finally:
            self._clean_up()

    def table(self) -> Iterator[str]:
        """The steps so far, with seconds."""
        width = max((len(name) for name, _, _ in self.steps), default=0)
        for name, seconds, note in self.steps:
            yield f"{name:{width}}  {seconds:6.2f} s  {note}".rstrip()

    @contextmanager
    def _step(self, name: str) -> Iterator[Callable[[str], None]]:
        start = time.monotonic()
        notes: list[str] = []
        try:
            yield notes.append
        except errors.ChrekError:
            notes.append("FAILED")
            raise
        finally:
            self.steps.append((name, time.monotonic() - start, " ".join(notes)))

    def _wait(self, probe: Callable[[], T | None], what: str) -> T:
        while True:
            found = probe()
            if found is not None:
                return found
            if time.monotonic() >= self._deadline:
                raise errors.ChrekError(
                    f"waited {self._timeout_seconds:.0f} s in all, at the end for {what}",
                    hint="see the logs of the agents and of the operator, or raise "
                    "tests.timeoutSeconds",
                    reason=names.Reason.RESTORE_TIMEOUT,
                )
            time.sleep(POLL_SECONDS)

    def _metadata(self, name: str) -> Object:
        return {"name": name, "namespace": self._namespace, "ownerReferences": self._owners}

    def _path(self, plural: str, name: str = "") -> str:
        version = names.API_VERSION if plural == names.CHECKPOINT_PLURAL else "v1"
        return workstation.path(version, plural, self._namespace, name)

    def _create_checkpoint(self) -> None:
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.CHECKPOINT_KIND,
            "metadata": self._metadata(self._hash),
            "spec": {
                "identity": self._identity,
                "job": {
                    "activeDeadlineSeconds": max(1, int(self._timeout_seconds)),
                    # A second attempt would wait for /go, and hide the first one's reason.
                    "backoffLimit": 0,
                    "podTemplateSpec": {"spec": self._worker},
                },
            },
        }
        self._cluster.create(self._path(names.CHECKPOINT_PLURAL), body)

    def _checkpoint(self) -> Object:
        found = self._cluster.get(self._path(names.CHECKPOINT_PLURAL, self._hash))
        if found is None:
            raise errors.ChrekError(
                f"DynamoCheckpoint {self._hash} was deleted during the test", hint="run it again"
            )
        status: Object = found.get("status") or {}
        if status.get("phase") == names.Phase.FAILED:
            raise errors.ChrekError(
                f"the capture failed: {status.get('message') or 'no message'}",
                hint="see the agent's log on the node of the checkpoint job",
                reason=names.Reason.JOB_FAILED,
            )
        return status

    def _source_address(self) -> str | None:
        job = self._checkpoint().get("jobName") or f"checkpoint-{self._hash}"
        pods = self._cluster.find(self._path("pods"), labels={"batch.kubernetes.io/job-name": job})
        for pod in pods:
            address = (pod.get("status") or {}).get("podIP")
            if address and pod["status"].get("phase") == "Running" and self._try_ask(address):
                return str(address)
        return None

    def _checkpoint_ready(self) -> str | None:
        status = self._checkpoint()
        if status.get("phase") != names.Phase.READY:
            return None
        nodes = [str(v.get("node", "")) for v in status.get("variants") or []]
        return f"{status.get('size', '')} on node {', '.join(nodes)}".strip()

    def _create_pod(self) -> None:
        metadata = self._metadata(self._pod_name)
        metadata["annotations"] = {names.ANNOTATION_CHECKPOINT: self._hash}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": self._worker}
        made = self._cluster.create(self._path("pods"), body)["metadata"]
        skipped = (made.get("annotations") or {}).get(names.ANNOTATION_SKIPPED)
        if skipped:
            raise errors.ChrekError(f"the webhook did not prepare the pod: {skipped}")
        if (made.get("labels") or {}).get(names.LABEL_MANAGED) != "true":
            raise errors.ChrekError(
                "the pod was admitted without the webhook",
                hint="see whether the operator runs, whether the API server reaches its Service, "
                "and whether the MutatingWebhookConfiguration has a caBundle",
            )

    def _pod(self) -> Object:
        found = self._cluster.get(self._path("pods", self._pod_name))
        if found is None:
            raise errors.ChrekError(f"pod {self._pod_name} is gone", hint="run the test again")
        return found

    def _condition(self, pod: Object, kind: str) -> Object:
        conditions = (pod.get("status") or {}).get("conditions") or []
        return next((c for c in conditions if c["type"] == kind), {})

    def _restored_address(self) -> tuple[str, str] | None:
        pod = self._pod()
        condition = self._condition(pod, names.CONDITION_RESTORED)
        if condition.get("status") == "False":
            self._cold(str(condition.get("reason")), str(condition.get("message", "")))
        if condition.get("status") != "True":
            # chrek-init itself may have given the agent up; then nobody sets the condition.
            said = self._fall_back_line()
            if said:
                reason, _, message = said.partition(": ")
                self._cold(reason, message)
            return None
        return str(pod["status"]["podIP"]), str(pod["spec"]["nodeName"])

    def _fall_back_line(self) -> str:
        log = self._cluster.log(self._namespace, self._pod_name, container=names.DEFAULT_CONTAINER)
        marker = "Falling back to cold start: "
        return next((ln.partition(marker)[2] for ln in log.splitlines() if marker in ln), "")

    def _cold(self, reason: str, message: str) -> None:
        raise errors.ChrekError(
            f"the pod started cold: {reason}: {message}",
            hint=f"see the agent's log on the pod's node and {reason} in the troubleshooting guide",
            reason=reason,
        )

    def _pod_ready(self) -> bool | None:
        return self._condition(self._pod(), "Ready").get("status") == "True" or None

    def _ask(self, address: str) -> Object:
        return self._http("GET", address, "/count")

    def _try_ask(self, address: str) -> Object | None:
        try:
            return self._ask(address)
        except (OSError, ValueError):
            return None

    def _release(self, address: str) -> None:
        try:
            self._http("POST", address, "/go")
        except (OSError, ValueError) as err:
            raise errors.ChrekError(f"the worker at {address} stopped answering: {err}") from err

    def _http(self, method: str, address: str, path: str) -> Object:
        host = f"[{address}]" if ":" in address else address
        request = urllib.request.Request(f"http://{host}:{counter.PORT}{path}", method=method)
        with urllib.request.urlopen(request, timeout=2) as answer:  # noqa: S310 - as above
            found: Object = json.load(answer)
        return found

    def _clean_up(self) -> None:
        for path in (
            self._path("pods", self._pod_name),
            self._path(names.CHECKPOINT_PLURAL, self._hash),
        ):
            try:
                self._cluster.delete(path)
            except errors.ApiError as err:
                print(f"could not delete {path}: {err}; it goes with the test's pod")
                return
        # So that nothing of the test is left when helm says that it is over.
        patience = time.monotonic() + CLEAN_UP_SECONDS
        while self._exists() and time.monotonic() < patience:
            time.sleep(POLL_SECONDS)

    def _exists(self) -> bool:
        return self._cluster.get(self._path("pods", self._pod_name)) is not None


def compare(before: Object, after: Object) -> None:
    """Whether the same memory answered twice.

    Raises:
        ChrekError: the nonce is another or the counter did not go on.
    """
    if after["nonce"] != before["nonce"]:
        raise errors.ChrekError(
            f"another process answers: its nonce is {after['nonce'][:8]}, the captured one's was "
            f"{before['nonce'][:8]}",
            hint="the pod says that it was restored, but its memory is new: report this as a bug",
        )
    if after["count"] <= before["count"]:
        raise errors.ChrekError(
            f"the counter went from {before['count']} to {after['count']}",
            hint="memory of an earlier moment came back: report this as a bug",
        )


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--namespace", required=True, help="Where to make the checkpoint and the pods.")
@click.option("--worker", required=True, type=click.Path(path_type=pathlib.Path), metavar="FILE")
@click.option("--timeout", type=float, default=240, show_default=True, help="Seconds in all.")
def main(namespace: str, worker: pathlib.Path, timeout: float) -> None:
    """Run the test and exit."""
    program.with_errors("round-trip", lambda: _main(namespace, worker, timeout))


def _main(namespace: str, worker: pathlib.Path, timeout: float) -> int:
    own = {key: os.environ.get(key, "") for key in ("POD_NAME", "POD_NAMESPACE", "POD_UID")}
    owner = None
    # An owner must be of the same namespace.
    if all(own.values()) and own["POD_NAMESPACE"] == namespace:
        owner = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": own["POD_NAME"],
            "uid": own["POD_UID"],
        }
    trip = RoundTrip(
        workstation.connect(),
        yaml.safe_load(worker.read_text()),
        namespace=namespace,
        timeout_seconds=timeout,
        owner=owner,
    )
    try:
        trip.run()
    finally:
        for line in trip.table():
            print(line)
    program.conclude("round-trip: passed: memory came back in another pod")
    return 0
