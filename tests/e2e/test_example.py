"""The main job: examples/my-llm.yaml from its first cold pod to restored pods on both nodes."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from e2e import place, tiny
from showcase import cluster, commands, example, pods

Object = dict[str, Any]
COLUMNS = ["NAME", "MODEL", "BACKEND", "PHASE", "HASH", "AGE"]


class Watch:
    """`kubectl get dckpt --watch`, as a user would look at it."""

    def __init__(self, here: place.Place) -> None:
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close)
        argv = [
            commands.find("kubectl"),
            f"--kubeconfig={here.live.kubeconfig}",
            f"--namespace={here.namespace}",
            *("get", "dckpt", "--watch"),
        ]
        self.process = subprocess.Popen(argv, stdout=self.output, stderr=subprocess.DEVNULL)

    def rows(self, model: str) -> list[list[str]]:
        """Header and the rows of one model, in the order in which they were printed."""
        self.output.seek(0)
        rows = [line.split() for line in self.output.read().splitlines()]
        return [row for row in rows if row[:2] == COLUMNS[:2] or model in row]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.output.close()


@pytest.fixture(scope="module")
def llm(here: place.Place) -> Iterator[example.Example]:
    found = example.Example(here.live, here.namespace)
    found.remove()
    found.make_model()
    yield found
    found.remove()


@pytest.fixture(scope="module")
def watch(here: place.Place, counter: tiny.Worker, llm: example.Example) -> Iterator[Watch]:
    # `counter` exists, so that the watch starts with a header.
    found = Watch(here)
    yield found
    found.close()


@pytest.fixture(scope="module")
def first(llm: example.Example, watch: Watch) -> Object:
    """The first pod, as it is when it becomes Ready."""
    assert watch.process.poll() is None
    # A short warm-up: this is about what happens, not about how long it takes.
    llm.deploy(options="--warmup-tokens 64")
    name = llm.next_pod(set())
    cluster.wait_until(
        lambda: pods.container(llm.live.get(pods.path(llm.namespace, name)) or {}).get("started"),
        lambda: f"it has started\n{pods.describe(llm.live, llm.namespace, name)}",
        timeout=60,
    )
    # When both are ready, the capture may be quicker than the kubelet's next probe.
    phase = example.phase(llm.checkpoint())
    pod = pods.wait_ready(llm.live, llm.namespace, name, timeout=240)
    pod["seen"] = {"phase": phase}
    return pod


@pytest.fixture(scope="module")
def checkpoint(llm: example.Example, first: Object) -> Object:
    def ready() -> Object | None:
        found = llm.checkpoint()
        assert example.phase(found) != "Failed", found
        return found if example.phase(found) == "Ready" else None

    found: Object = cluster.wait_until(
        ready, lambda: f"the checkpoint is Ready: {llm.checkpoint()}", timeout=240
    )
    return found


@pytest.fixture(scope="module")
def scaled(llm: example.Example, first: Object, checkpoint: Object) -> list[Object]:
    """Restored pods, on both nodes."""
    known = {pods.name(pod) for pod in llm.pods()}
    found: list[Object] = []
    while {pods.node(pod) for pod in found} != {"n1", "n2"}:
        assert len(known) < 6, "six pods, and a node has none of them"
        llm.scale(len(known) + 1)
        name = llm.next_pod(known)
        known.add(name)
        found.append(pods.wait_ready(llm.live, llm.namespace, name, timeout=240))
    return found


def test_the_first_pod_serves_cold_while_the_checkpoint_job_runs(
    llm: example.Example, first: Object
) -> None:
    place.assert_cold(llm.live, first, {"CheckpointNotReady", "CheckpointNotFound"})
    assert first["seen"]["phase"] in ("Pending", "Creating")
    assert pods.complete(llm.live, first, tokens=4)


def test_phases_come_in_order_and_kubectl_shows_them(watch: Watch, checkpoint: Object) -> None:
    name = checkpoint["metadata"]["name"]
    model = checkpoint["spec"]["identity"]["model"]
    cluster.wait_until(
        lambda: any("Ready" in row for row in watch.rows(model)), "the watch shows it", timeout=10
    )
    header, *rows = watch.rows(model)
    assert header == COLUMNS
    seen = [phase for row in rows for phase in row if phase in PHASES]
    steps = [phase for phase, before in zip(seen, [None, *seen], strict=False) if phase != before]
    assert steps[-2:] == ["Creating", "Ready"], rows
    assert steps in (["Pending", "Creating", "Ready"], ["Creating", "Ready"]), rows
    last = rows[-1]
    assert last[:5] == [name, model, "vllm", "Ready", checkpoint["status"]["identityHash"]]


PHASES = ("Pending", "Creating", "Ready", "Failed")


def test_status_says_where_the_checkpoint_is(checkpoint: Object) -> None:
    status = checkpoint["status"]
    assert status["location"] == f"/checkpoints/{status['identityHash']}"
    assert status["storageType"] == "pvc"
    assert status["createdAt"]
    assert example.variant(checkpoint)["bytes"] > 1 << 30


def test_the_job_has_the_documented_name_and_label(here: place.Place, checkpoint: Object) -> None:
    jobs = here.live.kubectl(
        "get", "jobs", f"--namespace={here.namespace}", "-o", "name",
        "-l", "nvidia.com/chrek-is-checkpoint-source=true",
    )  # fmt: skip
    assert f"job.batch/checkpoint-{checkpoint['status']['identityHash']}" in jobs.split()


def test_new_pods_are_restored_on_both_nodes(llm: example.Example, scaled: list[Object]) -> None:
    for pod in scaled:
        place.assert_warm(llm.live, pod)
        assert pods.container(pod)["restartCount"] == 0


def test_answers_are_those_of_the_cold_pod(
    llm: example.Example, first: Object, scaled: list[Object]
) -> None:
    expected = pods.complete(llm.live, first, tokens=8)
    for pod in scaled:
        assert pods.complete(llm.live, pod, tokens=8) == expected


def test_memory_is_that_of_the_captured_worker(
    llm: example.Example, first: Object, scaled: list[Object]
) -> None:
    own = pods.state(llm.live, first).nonce
    states = [pods.state(llm.live, pod, count=True) for pod in scaled]
    again = [pods.state(llm.live, pod, count=True) for pod in scaled]
    assert {state.nonce for state in states} == {states[0].nonce}
    assert states[0].nonce != own
    assert [one.counter for one in again] == [one.counter + 1 for one in states]


def test_logs_and_exec(here: place.Place, llm: example.Example, scaled: list[Object]) -> None:
    for pod in scaled:
        pods.state(llm.live, pod)
        assert "state:" in pods.logs(llm.live, pod)
        assert here.exec(pod, "cat", "/proc/1/comm") == "chrek-init\n"
