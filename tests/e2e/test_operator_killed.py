"""The operator is killed between any two steps: nothing is made twice, everything converges."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Sequence

import pytest

from e2e import node, place, tiny
from showcase import cluster, example

POINTS = range(10)
"""Each is 0.15 s later after the operator leads than the one before."""


class Killer:
    """Ends the operator's process with SIGKILL, again and again, at growing intervals."""

    def __init__(self, here: place.Place, points: Sequence[int]) -> None:
        self._here = here
        self._points = points
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.kills = 0

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for point in self._points:
            while not self._stop.is_set():
                pid = self._pid()
                if pid and self._leads():
                    break
                time.sleep(0.1)
            time.sleep(0.15 * point)
            if self._stop.is_set():
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid(), signal.SIGKILL)
                self.kills += 1
            time.sleep(1)

    def _pods(self) -> list[place.Object]:
        return self._here.pods_of("app.kubernetes.io/component=operator")

    def _pid(self) -> int:
        for pod in self._pods():
            for pid in node.processes(pod):
                line = node.command(pid)
                if "operator" in line and any(part.endswith("chrek") for part in line):
                    return pid
        return 0

    def _leads(self) -> bool:
        for pod in self._pods():
            answer = self._here.live.pod_request(pod, 8089, "/metrics", timeout=5)
            if "chrek_operator_leading 1.0" in answer.text:
                return True
        return False


@pytest.mark.parametrize(
    "points",
    [
        pytest.param(POINTS[::3], id="some"),
        # The kubelet waits longer from kill to kill.
        pytest.param(POINTS, id="all", marks=pytest.mark.heavy),
    ],
)
def test_killed_at_ten_points(here: place.Place, points: Sequence[int]) -> None:
    workers = [tiny.Worker(f"tiny/killed-{number}") for number in range(3)]
    with Killer(here, points) as killer:
        for number, worker in enumerate(workers):
            here.live.apply(worker.graph(f"killed-{number}"), namespace=here.namespace)
            if number == 1:
                # A deletion in the middle as well.
                cluster.wait_until(
                    lambda: here.live.get(here.checkpoint_path(workers[0].hash)),
                    "the first checkpoint is there",
                    timeout=120,
                )
        for worker in workers:
            cluster.wait_until(
                lambda worker=worker: here.live.get(here.checkpoint_path(worker.hash)),
                "the checkpoint is there",
                timeout=240,
            )
            here.wait_phase(worker.hash, "Ready", timeout=240)
        cluster.wait_until(lambda: killer.kills >= len(points), "killed at all points", timeout=240)
    # The kubelet pauses before it starts one again; without one, pods start as if there were none.
    here.live.kubectl(
        "wait", "pods", f"--namespace={here.namespace}", "--for=condition=Ready",
        "-l", "app.kubernetes.io/component=operator", "--timeout=110s",
    )  # fmt: skip
    here.wait_webhook(workers[0])
    for number, worker in enumerate(workers):
        found = here.checkpoint(worker.hash)
        assert len(found["status"]["variants"]) == 1
        jobs = here.live.kubectl(
            "get", "jobs", f"--namespace={here.namespace}", "-o", "name",
            "-l", f"nvidia.com/chrek-checkpoint-hash={worker.hash}",
        )  # fmt: skip
        assert len(jobs.split()) == 1, jobs
        generations = [p for p in (here.volume() / worker.hash).glob("*/*") if p.is_dir()]
        assert len(generations) == 1, generations
        assert example.variant(found)["uuid"] == generations[0].name
        with here.pod(worker.pod(f"killed-warm-{number}")) as pod:
            place.assert_warm(here.live, pod)
        here.remove(f"dgd/killed-{number}")
        here.forget(worker)
        assert not (here.volume() / worker.hash).exists()
