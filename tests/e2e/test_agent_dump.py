"""The agent is killed with SIGKILL in the middle of a dump."""

from __future__ import annotations

import os
import signal
import threading

from e2e import node, place, tiny
from showcase import example, pods

SOURCES = "labelSelector=nvidia.com%2Fchrek-is-checkpoint-source%3Dtrue"


def test_the_next_attempt_succeeds_and_nothing_is_left(here: place.Place) -> None:
    worker = tiny.Worker("tiny/interrupted", ballast=700)
    agent = node.agent_pid(node.agent(here.live, here.namespace, "n1"))
    seen: list[tiny.Object] = []

    def kill() -> None:
        node.catch(node.criu_of(agent), "CRIU", timeout=60)
        seen.extend(sources(here))
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
    # No frozen process, and none of CRIU's.
    for pod in [*seen, *sources(here)]:
        stuck = [p for p in node.processes(pod) if node.state(p) in ("T", "t", "D")]
        assert not stuck, [(p, node.name(p), node.state(p)) for p in stuck]
    with here.pod(worker.pod("after-interruption", node="n2")) as pod:
        place.assert_warm(here.live, pod)
        assert pods.state(here.live, pod, count=True).counter == 1


def sources(here: place.Place) -> list[tiny.Object]:
    """Pods of checkpoint jobs that have not ended."""
    found = here.live.items(f"{pods.path(here.namespace)}?{SOURCES}")
    return [pod for pod in found if pod["status"].get("phase") in ("Pending", "Running")]
