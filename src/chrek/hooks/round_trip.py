"""`helm test`: capture a small process, restore it in another pod, prove that it is the same.

The process (`chrek.hooks.counter`) draws a nonce that exists nowhere but in its memory, counts the
questions it was asked, and writes files that no other process writes. The test asks it before the
capture; the restored pod, on another node if there is one, must know the nonce, count on and find
its files. Meanwhile a pod that asks for a checkpoint that does not exist must get ready without
one. Whatever is made is owned by the test's pod and goes with it, and is deleted at the end anyway.
"""

from __future__ import annotations

import os
import pathlib
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import click
import yaml

from chrek import errors, identity, names, state
from chrek.checks import settings
from chrek.hooks import program, trip_answers, trip_facts, trip_pods, trip_steps
from chrek.kube import workstation

CLEAN_UP_SECONDS = 10
NETWORK = "see whether a NetworkPolicy keeps the test's pod from port 8080 of its workers"
Object = dict[str, Any]


class RoundTrip:
    """One run of the test."""

    def __init__(
        self,
        cluster: workstation.Cluster,
        worker: Object,
        *,
        config: settings.ReleaseConfig,
        namespace: str,
        timeout_seconds: float,
        owner: Object | None,
    ) -> None:
        """Prepare.

        Args:
            cluster: the connection.
            worker: template of the pod to capture and to start again.
            config: of the release, which tells its agents.
            namespace: where to make things.
            timeout_seconds: for everything together.
            owner: owner reference for what is made; none when the test runs outside the namespace.
        """
        self._cluster = cluster
        self._worker = worker
        self._config = config
        self._namespace = namespace
        self._timeout_seconds = timeout_seconds
        self._owners = [owner] if owner else []
        # No other run has this identity, so no artifact of another run can be taken for ours.
        self._identity = {
            "model": "chrek/round-trip",
            "backendFramework": "vllm",
            "extraParameters": {"run": uuid.uuid4().hex},
        }
        self._hash = identity.parse(self._identity).hash()
        self._warm_name = f"chrek-round-trip-{self._hash}"
        self._cold_name = f"chrek-round-trip-cold-{self._hash}"
        self._pods = trip_pods.Pods(cluster, worker, namespace=namespace, owners=self._owners)
        self._patience = trip_steps.Patience(timeout_seconds)
        self._warm_steps, self._cold_steps = trip_steps.Steps(), trip_steps.Steps()
        self._facts: list[trip_steps.Row] = []
        self._agents: dict[str, Object] = {}
        self._ended = False

    def end(self) -> None:
        """Have `run`, in another thread, clean up and raise."""
        self._ended = True
        self._patience.stop()

    def run(self) -> None:
        """Do it.

        Raises:
            ChrekError: what was captured did not come back, or the pod without a checkpoint did not
                start as it should; with the reason.
        """
        try:
            self._agents = trip_pods.agents(self._cluster, self._config)
            memory, nonce = self._both()
            if nonce == memory.nonce:
                raise errors.ChrekError(
                    f"the pod without a checkpoint has the nonce {nonce[:8]} of the captured one",
                    hint="it got memory that it did not ask for: report this as a bug",
                )
        except trip_steps.GivenUp as err:
            if not self._ended:
                raise
            raise errors.ChrekError(
                "the test's pod was asked to end", hint="run helm test again"
            ) from err
        finally:
            self._patience.stop()
            self._clean_up()

    def table(self) -> Iterator[str]:
        """The steps so far, with seconds, and what was found beside them."""
        rows = [*self._warm_steps.rows, *self._cold_steps.rows, *self._facts]
        return trip_steps.table(rows)

    def _both(self) -> tuple[trip_answers.Memory, str]:
        """The cold start takes its time while others are waited for; a failure ends both."""

        def ended(done: futures.Future[str]) -> None:
            if done.exception():
                self._patience.stop()

        with futures.ThreadPoolExecutor() as pool:
            cold = pool.submit(self._cold)
            cold.add_done_callback(ended)
            try:
                return self._warm(pool), cold.result()
            except trip_steps.GivenUp:
                # Because of the other one, whose error is the one to tell.
                cold.result()
                raise
            except BaseException:
                self._patience.stop()
                raise

    def _warm(self, pool: futures.Executor) -> trip_answers.Memory:
        """Capture, restore, compare; answers with what was captured."""
        steps, patience = self._warm_steps, self._patience
        with steps.step("capture: worker answers") as note:
            self._create_checkpoint()
            source = patience.wait(
                self._source_address, "the checkpoint job's worker to answer", look=NETWORK
            )
            memory, files = self._ask(source)
            note(f"{memory}; files: {files}")
            trip_answers.check_written(files)
        with steps.step("capture: checkpoint ready") as note:
            trip_answers.release(source)
            status = patience.wait(self._ready_status, "the checkpoint to get Ready")
            taken = trip_facts.node(status)
            note(f"{status.get('size', '')} on node {taken}".strip())
        gpu = pool.submit(trip_facts.gpu, self._agents.get(taken), self._config.agentHttpPort)
        with steps.step("restore: pod restored") as note:
            preferred = trip_pods.weights(self._agents, taken=taken)
            self._pods.create(self._warm_name, self._hash, preferred=preferred)
            start = patience.wait(
                lambda: self._pods.start(self._warm_name), "the pod to be restored"
            )
            self._check_restored(start)
            note(f"on node {start.node}")
        self._facts += [
            trip_facts.nodes(taken, start.node, list(self._agents)),
            trip_facts.store(status, start.node),
        ]
        with steps.step("restore: memory compared") as note:
            again = patience.wait(
                lambda: trip_answers.attempt(trip_answers.memory, start.address),
                "the restored worker to answer",
                look=NETWORK,
            )
            trip_answers.compare_memory(memory, again)
            note(str(again))
        with steps.step("restore: files compared") as note:
            found = patience.wait(
                lambda: trip_answers.attempt(trip_answers.files, start.address),
                "the restored worker to read its files",
            )
            trip_answers.compare_files(files, found)
            note(str(found))
        with steps.step("restore: pod ready"):
            self._wait_ready(self._warm_name)
        self._facts.append(gpu.result())
        return memory

    def _cold(self) -> str:
        """Start a pod whose checkpoint does not exist; answers with its nonce."""
        name, patience = self._cold_name, self._patience
        with self._cold_steps.step("cold: pod ready") as note:
            self._pods.create(name, name, preferred=trip_pods.weights(self._agents))
            start = patience.wait(
                lambda: self._pods.start(name), "the pod without a checkpoint to say how it started"
            )
            if start.restored:
                raise errors.ChrekError(
                    f"pod {name} says that it was restored, from a checkpoint that does not exist",
                    hint="report this as a bug",
                )
            address = patience.wait(
                lambda: self._pods.address(name),
                "the worker of the pod without a checkpoint to answer",
                look=NETWORK,
            )
            nonce = self._ask(address)[0].nonce
            trip_answers.release(address)
            self._wait_ready(name)
            note(f"{start.reason} on node {start.node}, nonce {nonce[:8]}")
        self._cluster.delete(self._pods.path(name))
        return nonce

    def _wait_ready(self, name: str) -> None:
        self._patience.wait(lambda: self._pods.is_ready(name) or None, f"pod {name} to get Ready")

    def _ask(self, address: str) -> tuple[trip_answers.Memory, trip_answers.Files]:
        try:
            return trip_answers.memory(address), trip_answers.files(address)
        except (OSError, ValueError) as err:
            raise errors.ChrekError(f"the worker at {address} stopped answering: {err}") from err

    def _checkpoint_path(self, name: str = "") -> str:
        plural = names.CHECKPOINT_PLURAL
        return workstation.path(names.API_VERSION, plural, self._namespace, name)

    def _create_checkpoint(self) -> None:
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.CHECKPOINT_KIND,
            "metadata": {
                "name": self._hash,
                "namespace": self._namespace,
                "ownerReferences": self._owners,
            },
            "spec": {
                "identity": self._identity,
                "job": {
                    "activeDeadlineSeconds": max(1, int(self._timeout_seconds)),
                    # A second attempt would wait for /go, and hide the first one's reason.
                    "backoffLimit": 0,
                    "podTemplateSpec": trip_pods.template(
                        self._worker, trip_pods.weights(self._agents)
                    ),
                },
            },
        }
        self._cluster.create(self._checkpoint_path(), body)

    def _status(self) -> Object:
        found = self._cluster.get(self._checkpoint_path(self._hash))
        if found is None:
            raise errors.ChrekError(
                f"DynamoCheckpoint {self._hash} was deleted during the test", hint="run it again"
            )
        status = state.status_of(found)
        if status.get("phase") == names.Phase.FAILED:
            raise errors.ChrekError(
                f"the capture failed: {status.get('message') or 'no message'}",
                hint="see the agent's log on the node of the checkpoint job",
                reason=names.Reason.JOB_FAILED,
            )
        return status

    def _source_address(self) -> str | None:
        job = self._status().get("jobName") or f"checkpoint-{self._hash}"
        return self._pods.answering({"batch.kubernetes.io/job-name": job})

    def _ready_status(self) -> Object | None:
        status = self._status()
        return status if status.get("phase") == names.Phase.READY else None

    def _check_restored(self, start: trip_pods.Start) -> None:
        if not start.restored:
            raise errors.ChrekError(
                f"the pod started cold: {start.reason}: {start.message}",
                hint=f"see the agent's log on node {start.node} and {start.reason} in the "
                "troubleshooting guide",
                reason=start.reason,
            )

    def _clean_up(self) -> None:
        names_of_pods = (self._warm_name, self._cold_name)
        for path in (*map(self._pods.path, names_of_pods), self._checkpoint_path(self._hash)):
            try:
                self._cluster.delete(path)
            except errors.ApiError as err:
                print(f"could not delete {path}: {err}; it goes with the test's pod")
                return
        # So that nothing of the test is left when helm says that it is over.
        patience = time.monotonic() + CLEAN_UP_SECONDS
        while any(map(self._pods.exists, names_of_pods)) and time.monotonic() < patience:
            time.sleep(trip_steps.POLL_SECONDS)


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--namespace", required=True, help="Where to make the checkpoint and the pods.")
@click.option("--worker", required=True, type=click.Path(path_type=pathlib.Path), metavar="FILE")
@click.option("--release", required=True, type=click.Path(path_type=pathlib.Path), metavar="FILE")
@click.option("--timeout", type=float, default=240, show_default=True, help="Seconds in all.")
def main(namespace: str, worker: pathlib.Path, release: pathlib.Path, timeout: float) -> None:
    """Run the test and exit."""
    program.with_errors("round-trip", lambda: _main(namespace, worker, release, timeout))


def _main(namespace: str, worker: pathlib.Path, release: pathlib.Path, timeout: float) -> int:
    # An owner must be of the same namespace.
    owner = program.own_pod() if os.environ.get("POD_NAMESPACE") == namespace else None
    trip = RoundTrip(
        workstation.connect(),
        yaml.safe_load(worker.read_text()),
        config=settings.load(release),
        namespace=namespace,
        timeout_seconds=timeout,
        owner=owner,
    )
    # The first process of a container, which this is, would not notice without a handler. What is
    # interrupted may hold the lock that `end` needs: so that is another thread's.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=trip.end).start())
    try:
        trip.run()
    finally:
        for line in trip.table():
            print(line)
    program.conclude(
        "round-trip: passed: memory and files came back in another pod, and a pod without a "
        "checkpoint started cold"
    )
    return 0
