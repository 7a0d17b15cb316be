"""The round trip of GPU memory: a worker with memory on a GPU is captured and restored.

It has a worker (`chrek.hooks.counter_gpu`) and a checkpoint of its own, and goes on beside the
other one: where no GPU is free, or nodes have none, the rest is tested all the same.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from chrek import errors, names
from chrek.checks import node as node_checks
from chrek.hooks import trip_answers, trip_checkpoint, trip_facts, trip_pods, trip_steps
from chrek.kube import workstation

SCHEDULE_SECONDS = 30.0
"""So long a pod may be without a node: the GPU of the captured one is free when that has ended."""
EXCUSED = frozenset(
    {
        names.Reason.GPU_DRIVER_TOO_OLD,
        names.Reason.GPU_MEMORY_TOO_SMALL,
        names.Reason.GPU_PARTITIONED,
    }
)
"""Reasons that speak of the GPUs and of who else uses them, not of the release."""
REFUSALS = ("UnexpectedAdmissionError", "OutOf")
"""Beginnings of `status.reason` of pods whose GPU was given to another one at the last moment."""

Object = dict[str, Any]


class GpuTrip:
    """One run of it.

    Attributes:
        checkpoint: of its worker.
        steps: those that it took.
    """

    def __init__(
        self, checkpoint: trip_checkpoint.Checkpoint, patience: trip_steps.Patience
    ) -> None:
        self.checkpoint = checkpoint
        self.steps = trip_steps.Steps()
        self._patience = patience

    def run(self, said: Mapping[str, str]) -> str:
        """Do it; answers with what came back, for the table.

        Args:
            said: what agents say of the GPUs of their nodes, by node.

        Raises:
            NotTested: there is no GPU that could be used.
            ChrekError: what was captured did not come back; with the reason.
        """
        seen = {name: text for name, told in said.items() if (text := node_checks.gpus_seen(told))}
        if not seen:
            raise trip_steps.NotTested(trip_facts.no_gpu(said))
        source, before = self._start(list(seen))
        taken = self._capture(source)
        # The driver maps all GPUs of one node onto all of the other: they must be alike.
        alike = [name for name, text in seen.items() if text == seen.get(taken)] or [taken]
        start = self._restore(alike, taken)
        with self._step("gpu: memory compared") as note:
            after = self._patience.wait(
                lambda: trip_answers.attempt(trip_answers.gpu, start.address),
                "the restored worker to read the memory of its GPU",
            )
            trip_answers.compare_gpu(before, after)
            note(str(after))
        return (
            f"{before.size / 2**20:.0f} MiB came back, captured on {taken} ({before.uuid[:12]}), "
            f"restored on {start.node} ({after.uuid[:12]})"
        )

    def _start(self, nodes: Sequence[str]) -> tuple[str, trip_answers.Gpu]:
        """Have a worker started on one of the nodes; its address, and what is on its GPU."""
        with self._step("gpu: worker answers") as note:
            self.checkpoint.create(trip_pods.weights(nodes), only=nodes)
            self._place(self.checkpoint.sources)
            address = self._patience.wait(
                self._unless_refused(self.checkpoint.sources, self.checkpoint.source_address),
                "the checkpoint job's worker with a GPU to answer",
            )
            try:
                found = trip_answers.gpu(address)
            except (OSError, ValueError) as err:
                raise errors.ChrekError(
                    f"the worker at {address} stopped answering: {err}"
                ) from err
            if found.problem:
                raise trip_steps.NotTested(
                    f"the worker has no GPU that works: {found.problem}",
                    hint="if a RuntimeClass gives GPUs to pods, set tests.gpu.runtimeClassName",
                )
            note(str(found))
        return address, found

    def _capture(self, source: str) -> str:
        """Have the worker captured; the node on which it was."""
        with self._step("gpu: checkpoint ready") as note:
            trip_answers.release(source)
            status = self._patience.wait(
                self.checkpoint.ready_status, "the checkpoint with GPU memory to get Ready"
            )
            taken = trip_facts.node(status)
            note(f"{status.get('size', '')} on node {taken}".strip())
        return taken

    def _restore(self, nodes: Sequence[str], taken: str) -> trip_pods.Start:
        with self._step("gpu: pod restored") as note:
            self.checkpoint.restore(trip_pods.weights(nodes, taken=taken), only=nodes)
            self._place(self._pod)
            start = self._patience.wait(
                self._unless_refused(self._pod, self.checkpoint.restored),
                "the pod with a GPU to be restored",
            )
            note(f"on node {start.node}")
        return start

    def _pod(self) -> list[Object]:
        return [self.checkpoint.pods.get(self.checkpoint.pod_name)]

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[Callable[[str], None]]:
        """A step; a failure that speaks of the GPUs alone says that it was not tested."""
        with self.steps.step(name) as note:
            try:
                yield note
            except errors.ChrekError as err:
                cause = getattr(err, "cause", "") or err.reason
                if cause in EXCUSED:
                    raise trip_steps.NotTested(err.message, hint=err.hint) from err
                raise

    def _place(self, find: Callable[[], Sequence[Object]]) -> None:
        """Wait until a pod has a node."""
        until = time.monotonic() + SCHEDULE_SECONDS

        def look() -> bool | None:
            pods = find()
            if any(pod["spec"].get("nodeName") for pod in pods):
                return True
            if time.monotonic() < until:
                return None
            words = [workstation.condition(pod, "PodScheduled").get("message") for pod in pods]
            why = next(filter(None, words), "") or "there is no pod: a quota may forbid it"
            raise trip_steps.NotTested(
                f"no GPU within {SCHEDULE_SECONDS:.0f} s: {why.rstrip('.')}",
                hint="see tests.gpu.resourceName, or whether all GPUs are in use",
            )

        self._patience.wait(look, "a node for the pod with a GPU")

    def _unless_refused(
        self, find: Callable[[], Sequence[Object]], probe: Callable[[], trip_steps.T | None]
    ) -> Callable[[], trip_steps.T | None]:
        """A probe that gives up when the kubelet does not take a pod."""

        def look() -> trip_steps.T | None:
            for pod in find():
                status = pod.get("status") or {}
                if str(status.get("reason", "")).startswith(REFUSALS):
                    raise trip_steps.NotTested(f"no GPU: {status.get('message', '')}".strip())
            return probe()

        return look
