"""`helm test`: capture a small process, restore it in another pod, prove that it is the same.

The process (`chrek.hooks.counter`) draws a nonce that exists nowhere but in its memory, counts the
questions it was asked, and writes files that no other process writes. The test asks it before the
capture; the restored pod, on another node if there is one, must know the nonce, count on and find
its files. Meanwhile a pod that asks for a checkpoint that does not exist must get ready without
one, and where agents see GPUs a second process goes the same way with memory on one of them.
Whatever is made is owned by the test's pod and goes with it, and is deleted at the end anyway.
"""

from __future__ import annotations

import os
import pathlib
import signal
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import click
import yaml

from chrek import errors
from chrek.checks import settings
from chrek.hooks import (
    program,
    trip_answers,
    trip_checkpoint,
    trip_facts,
    trip_gpu,
    trip_pods,
    trip_steps,
)
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
        gpu_worker: Object | None = None,
        gpu_needed: bool = False,
    ) -> None:
        """Prepare.

        Args:
            cluster: the connection.
            worker: template of the pod to capture and to start again.
            config: of the release, which tells its agents.
            namespace: where to make things.
            timeout_seconds: for everything together.
            owner: owner reference for what is made; none when the test runs outside the namespace.
            gpu_worker: the same of a pod with a GPU; None when none is to be asked for.
            gpu_needed: whether it is a failure when no GPU can be tested.
        """
        self._cluster = cluster
        self._config = config
        self._patience = trip_steps.Patience(timeout_seconds)

        def prepared(template: Object, name: str) -> trip_checkpoint.Checkpoint:
            return trip_checkpoint.Checkpoint(
                cluster,
                template,
                namespace=namespace,
                owners=[owner] if owner else [],
                name=name,
                timeout_seconds=timeout_seconds,
            )

        self._checkpoint = prepared(worker, "chrek-round-trip")
        self._pods = self._checkpoint.pods
        self._cold_name = f"chrek-round-trip-cold-{self._checkpoint.hash}"
        self._gpu_trip: trip_gpu.GpuTrip | None = None
        if gpu_worker is not None:
            checkpoint = prepared(gpu_worker, "chrek-round-trip-gpu")
            self._gpu_trip = trip_gpu.GpuTrip(checkpoint, self._patience)
        self._gpu_needed = gpu_needed
        self._gpu_note = ""
        self._warm_steps, self._cold_steps = trip_steps.Steps(), trip_steps.Steps()
        self._facts: list[trip_steps.Row] = []
        self._agents: dict[str, Object] = {}
        self._ended = False

    def end(self) -> None:
        """Have `run`, in another thread, clean up and raise."""
        self._ended = True
        self._patience.stop()

    def run(self) -> list[str]:
        """Do it; answers with what came back.

        Raises:
            ChrekError: what was captured did not come back, or the pod without a checkpoint did not
                start as it should; with the reason.
        """
        try:
            self._agents = trip_pods.agents(self._cluster, self._config)
            memory, nonce, gpu = self._all()
            if nonce == memory.nonce:
                raise errors.ChrekError(
                    f"the pod without a checkpoint has the nonce {nonce[:8]} of the captured one",
                    hint="it got memory that it did not ask for: report this as a bug",
                )
            # The last one, so that all else is told.
            tested = gpu.result()
        except trip_steps.GivenUp as err:
            if not self._ended:
                raise
            raise errors.ChrekError(
                "the test's pod was asked to end", hint="run helm test again"
            ) from err
        finally:
            self._patience.stop()
            self._clean_up()
        return ["memory", "files", *(["GPU memory"] if tested else [])]

    def table(self) -> Iterator[str]:
        """The steps so far, with seconds, and what was found beside them."""
        steps = [self._warm_steps, self._cold_steps]
        if self._gpu_trip:
            steps.append(self._gpu_trip.steps)
        rows = [*(row for one in steps for row in one.rows), *self._facts]
        if self._gpu_note:
            rows.append(trip_steps.Row("gpu", None, self._gpu_note))
        return trip_steps.table(rows)

    def _all(self) -> tuple[trip_answers.Memory, str, futures.Future[bool]]:
        """The cold start and the GPU take their time while others are waited for.

        A failure of the cold start ends the others; one of the GPU does not.
        """

        def ended(done: futures.Future[str]) -> None:
            if done.exception():
                self._patience.stop()

        with futures.ThreadPoolExecutor() as pool:
            gpu = pool.submit(self._gpu)
            cold = pool.submit(self._cold)
            cold.add_done_callback(ended)
            try:
                return self._warm(), cold.result(), gpu
            except trip_steps.GivenUp:
                # Because of the other one, whose error is the one to tell.
                cold.result()
                raise
            except BaseException:
                self._patience.stop()
                raise

    def _warm(self) -> trip_answers.Memory:
        """Capture, restore, compare; answers with what was captured."""
        steps, patience, checkpoint = self._warm_steps, self._patience, self._checkpoint
        with steps.step("capture: worker answers") as note:
            checkpoint.create(trip_pods.weights(self._agents))
            source = patience.wait(
                checkpoint.source_address, "the checkpoint job's worker to answer", look=NETWORK
            )
            memory, files = self._ask(source)
            note(f"{memory}; files: {files}")
            trip_answers.check_written(files)
        with steps.step("capture: checkpoint ready") as note:
            trip_answers.release(source)
            status = patience.wait(checkpoint.ready_status, "the checkpoint to get Ready")
            taken = trip_facts.node(status)
            note(f"{status.get('size', '')} on node {taken}".strip())
        with steps.step("restore: pod restored") as note:
            checkpoint.restore(trip_pods.weights(self._agents, taken=taken))
            start = patience.wait(checkpoint.restored, "the pod to be restored")
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
            self._wait_ready(checkpoint.pod_name)
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

    def _gpu(self) -> bool:
        """The round trip of GPU memory, and its line in the table; whether it was made."""
        try:
            if self._gpu_trip is None:
                raise trip_steps.NotTested("tests.gpu.when is never")
            said = trip_facts.gpus(self._agents, self._config.agentHttpPort)
            self._gpu_note = self._gpu_trip.run(said)
        except trip_steps.NotTested as err:
            self._gpu_note = f"not tested: {err}"
            if self._gpu_needed:
                raise errors.ChrekError(
                    f"no GPU was tested: {err.message}", hint=err.hint, reason=err.reason
                ) from err
            return False
        except trip_steps.GivenUp:
            self._gpu_note = "given up"
            raise
        except errors.ChrekError as err:
            self._gpu_note = f"FAILED: {err.reason}"
            raise
        return True

    def _wait_ready(self, name: str) -> None:
        self._patience.wait(lambda: self._pods.is_ready(name) or None, f"pod {name} to get Ready")

    def _ask(self, address: str) -> tuple[trip_answers.Memory, trip_answers.Files]:
        try:
            return trip_answers.memory(address), trip_answers.files(address)
        except (OSError, ValueError) as err:
            raise errors.ChrekError(f"the worker at {address} stopped answering: {err}") from err

    def _clean_up(self) -> None:
        checkpoints = [self._checkpoint]
        if self._gpu_trip:
            checkpoints.append(self._gpu_trip.checkpoint)
        names_of_pods = [self._cold_name, *(one.pod_name for one in checkpoints)]
        paths = [*map(self._pods.path, names_of_pods), *(one.path() for one in checkpoints)]
        for path in paths:
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
@click.option("--gpu-worker", type=click.Path(path_type=pathlib.Path), metavar="FILE")
@click.option("--gpu", type=click.Choice(["auto", "always"]), default="auto", show_default=True)
@click.option("--timeout", type=float, default=240, show_default=True, help="Seconds in all.")
def main(
    namespace: str,
    worker: pathlib.Path,
    release: pathlib.Path,
    gpu_worker: pathlib.Path | None,
    gpu: str,
    timeout: float,
) -> None:
    """Run the test and exit."""

    def run() -> int:
        return _main(namespace, worker, release, timeout, gpu_worker, gpu_needed=gpu == "always")

    program.with_errors("round-trip", run)


def _main(
    namespace: str,
    worker: pathlib.Path,
    release: pathlib.Path,
    timeout: float,
    gpu_worker: pathlib.Path | None,
    *,
    gpu_needed: bool,
) -> int:
    # An owner must be of the same namespace.
    owner = program.own_pod() if os.environ.get("POD_NAMESPACE") == namespace else None
    trip = RoundTrip(
        workstation.connect(),
        yaml.safe_load(worker.read_text()),
        config=settings.load(release),
        namespace=namespace,
        timeout_seconds=timeout,
        owner=owner,
        gpu_worker=yaml.safe_load(gpu_worker.read_text()) if gpu_worker else None,
        gpu_needed=gpu_needed,
    )
    # The first process of a container, which this is, would not notice without a handler. What is
    # interrupted may hold the lock that `end` needs: so that is another thread's.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=trip.end).start())
    try:
        *most, last = trip.run()
    finally:
        for line in trip.table():
            print(line)
    program.conclude(
        f"round-trip: passed: {', '.join(most)} and {last} came back in another pod, and a pod "
        "without a checkpoint started cold"
    )
    return 0
