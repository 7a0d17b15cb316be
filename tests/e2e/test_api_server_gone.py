"""The API server is killed and comes back: captures end, restarts are warm, nothing is doubled."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chrek.agent import probation
from devcluster import control_plane
from devcluster.cache import Cache
from devcluster.processes import Process, Records
from e2e import node, place, tiny
from showcase import cluster, example, pods, setup

AWAY_SECONDS = 5
CANARY = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "canary"},
    "spec": {
        "template": {
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {
                        "name": "main",
                        "image": setup.image("chrek"),
                        "command": ["true"],
                        "imagePullPolicy": "IfNotPresent",
                    }
                ],
            }
        }
    },
}
"""Done once the cluster's controllers, scheduler and kubelets are back, each in its own time."""


class ApiServer:
    """The API server's process, which is one of this machine's."""

    def __init__(self) -> None:
        self._where = Cache.from_environment()
        self._records = Records(self._where.run, f"{self._where.cluster}")

    def kill(self) -> None:
        """End it with SIGKILL, as a crash or a lost machine would."""
        process = self._records.load(control_plane.API_SERVER)
        assert process is not None, "the API server runs"
        process.kill(signal.SIGKILL)
        cluster.wait_until(lambda: not process.alive(), "it is gone", timeout=10, interval=0.01)

    def start(self) -> None:
        """Start it again, unless it runs."""
        control_plane.start_api(self._where, self._records)
        control_plane.wait_for_api(self._where, self._records)

    def restart_clients(self) -> None:
        """Those of the control plane: what they were refused at first, they ask for a minute later.

        An API server that has just started forbids everything for a moment.
        """
        names = (control_plane.CONTROLLER_MANAGER, control_plane.SCHEDULER)
        found = [self._records.load(name) for name in names]
        self._records.stop([process for process in found if process is not None])
        control_plane.start_companions(self._where, self._records)


@contextlib.contextmanager
def kept_away() -> Iterator[ApiServer]:
    """Whatever happens in the test, there is an API server afterwards."""
    server = ApiServer()
    try:
        yield server
    finally:
        server.start()


@pytest.fixture(scope="module", autouse=True)
def well_again(here: place.Place) -> Iterator[None]:
    """What comes after these tests finds a cluster that works."""
    yield
    ApiServer().restart_clients()
    here.live.apply(CANARY, namespace=here.namespace)
    try:
        here.live.kubectl(
            "wait", "job/canary", f"--namespace={here.namespace}", "--for=condition=Complete",
            "--timeout=180s", timeout=200,
        )  # fmt: skip
    finally:
        here.remove("job/canary")


@pytest.fixture(scope="module")
def restored(here: place.Place, counter: tiny.Worker) -> Iterator[tuple[place.Object, float]]:
    """A restored pod and since when; the first test passes while it is on probation."""
    with here.pod(counter.pod("api-gone-restart", node="n1")) as pod:
        yield pod, time.monotonic()


@pytest.mark.usefixtures("restored")
def test_in_the_middle_of_a_capture(here: place.Place) -> None:
    """The dump goes on, its result is told later; one Job, one artifact, and it is used."""
    worker = tiny.Worker("tiny/api-gone", ballast=500)
    agent = node.agent_pid(node.agent(here.live, here.namespace, "n1"))
    files = here.volume() / worker.hash
    caught: list[Process | None] = []

    with kept_away() as server:

        def kill() -> None:
            criu = node.catch(node.criu_of(agent), "CRIU", timeout=60)
            caught.append(Process.of(criu))
            server.kill()

        thread = threading.Thread(target=kill)
        thread.start()
        here.live.apply(worker.checkpoint(node="n1"), namespace=here.namespace)
        thread.join()
        criu = caught[0]
        assert criu is not None
        assert criu.alive(), "it was killed while CRIU was at work"
        cluster.wait_until(lambda: not criu.alive(), "CRIU ends without it", timeout=60)
        cluster.wait_until(lambda: committed(files), "the artifact is complete", timeout=60)
        time.sleep(AWAY_SECONDS)
    found = here.wait_phase(worker.hash, "Ready", timeout=120)
    jobs = here.live.kubectl(
        "get", "jobs", f"--namespace={here.namespace}", "-o", "name",
        "-l", f"nvidia.com/chrek-checkpoint-hash={worker.hash}",
    )  # fmt: skip
    assert len(jobs.split()) == 1, jobs
    assert committed(files) == [example.variant(found)["uuid"]]
    with here.pod(worker.pod("api-gone-warm", node="n2")) as pod:
        place.assert_warm(here.live, pod)
    here.forget(worker)


def test_a_container_that_restarts_meanwhile_is_warm(
    here: place.Place, restored: tuple[place.Object, float]
) -> None:
    """The agent decides by what it knows, and tells the API server later.

    Not on probation: how a worker ended then, the agent learns from the API server alone.
    """
    pod, since = restored
    time.sleep(max(0.0, since + probation.PROBATION_SECONDS + 2 - time.monotonic()))
    before = pods.state(here.live, pod, count=True)
    first = worker_of(pod)
    assert first is not None
    with kept_away() as server:
        server.kill()
        first.kill(signal.SIGTERM)
        cluster.wait_until(lambda: not first.alive(), "the worker ends", timeout=20)
        cluster.wait_until(lambda: worker_of(pod), "there is another worker", timeout=60)
    pod = here.wait_restarted(pod, 1, timeout=90)
    after = pods.state(here.live, pod)
    assert (after.nonce, after.pid) == (before.nonce, before.pid)
    assert after.counter < before.counter, "the memory is that of the capture again"
    assert tiny.STARTS not in pods.logs(here.live, pod)
    cluster.wait_until(
        lambda: len(restores(here, pod)) == 2,
        lambda: f"both restores have an Event: {restores(here, pod)}",
        timeout=60,
    )


def committed(files: Path) -> list[str]:
    """The complete generations of a checkpoint."""
    return [path.parent.name for path in files.glob("*/*/manifest.json")]


def worker_of(pod: place.Object) -> Process | None:
    """The restored worker's process."""
    found = [pid for pid in node.processes(pod) if node.name(pid).startswith("python")]
    return Process.of(found[0]) if found else None


def restores(here: place.Place, pod: place.Object) -> list[place.Object]:
    return [event for event in pods.events(here.live, pod) if event["reason"] == "Restored"]
