"""The agent is killed with SIGKILL in the middle of a dump."""

from __future__ import annotations

import os
import signal
import threading

from e2e import node, place, tiny
from showcase import cluster, example, pods

SOURCES = "labelSelector=nvidia.com%2Fchrek-is-checkpoint-source%3Dtrue"


def test_the_next_attempt_succeeds_and_nothing_is_left(here: place.Place) -> None:
    worker = tiny.Worker("tiny/interrupted", ballast=700)
    agent = node.agent_pid(node.agent(here.live, here.namespace, "n1"))
    seen: list[tiny.Object] = []

    criu: list[int] = []

    def kill() -> None:
        criu.append(node.catch(node.criu_of(agent), "CRIU", timeout=60))
        seen.extend(sources(here))
        # In the middle: CRIU has seized the worker.
        cluster.wait_until(
            lambda: stuck(seen), "the worker is frozen by CRIU", timeout=20, interval=0.001
        )
        os.kill(agent, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    here.live.apply(worker.checkpoint(node="n1"), namespace=here.namespace)
    thread.join()
    assert len(seen) == 1, "the agent was killed during the first attempt"
    found = here.wait_phase(worker.hash, "Ready", timeout=150)

    # No half artifact: one generation, the one of the status, and it is complete.
    kept = example.variant(found)
    folder = here.volume() / worker.hash / kept["name"]
    complete = [path.name for path in folder.iterdir() if (path / "manifest.json").exists()]
    assert complete == [kept["uuid"]]
    # No frozen process, and CRIU ended with its agent.
    assert not stuck([*seen, *sources(here)])
    assert not node.state(criu[0]), node.command(criu[0])
    with here.pod(worker.pod("after-interruption", node="n2")) as pod:
        place.assert_warm(here.live, pod)
        assert pods.state(here.live, pod, count=True).counter == 1


def stuck(found: list[tiny.Object]) -> list[tuple[int, str, str]]:
    """Processes of pods that are stopped, traced or in an endless wait."""
    return [
        (pid, node.name(pid), node.state(pid))
        for pod in found
        for pid in node.processes(pod)
        if node.state(pid) in ("T", "t", "D")
    ]


def sources(here: place.Place) -> list[tiny.Object]:
    """Pods of checkpoint jobs that have not ended."""
    found = here.live.items(f"{pods.path(here.namespace)}?{SOURCES}")
    return [pod for pod in found if pod["status"].get("phase") in ("Pending", "Running")]
