"""A pod is deleted in the middle of its restore or of its capture: nothing of it stays."""

from __future__ import annotations

import threading

import pytest

from e2e import node, place, tiny
from showcase import cluster, example, pods

SOURCES = "nvidia.com/chrek-is-checkpoint-source=true"


def delete(here: place.Place, pod: tiny.Object) -> None:
    """At once, as a node that is drained in a hurry or `kubectl delete --force` would."""
    path = pods.path(here.namespace, pods.name(pod))
    answer = here.live.request("DELETE", f"{path}?gracePeriodSeconds=0")
    assert answer.status == 200, answer.text


def assert_gone(pod: tiny.Object, criu: int) -> None:
    def left() -> list[tuple[int, str, str]]:
        found = [*node.processes(pod), *([criu] if node.state(criu) else [])]
        return [(pid, node.name(pid), node.state(pid)) for pid in found]

    cluster.wait_until(lambda: not left(), lambda: f"nothing of it is left: {left()}", timeout=60)


@pytest.fixture
def agents(here: place.Place) -> dict[str, int]:
    return {on: node.agent_pid(node.agent(here.live, here.namespace, on)) for on in ("n1", "n2")}


def assert_same(here: place.Place, agents: dict[str, int]) -> None:
    for on, pid in agents.items():
        assert node.agent_pid(node.agent(here.live, here.namespace, on)) == pid, "it lives"


def test_in_the_middle_of_its_restore(
    here: place.Place, heavy: tiny.Worker, agents: dict[str, int]
) -> None:
    caught: list[int] = []

    def catch() -> None:
        caught.append(node.catch(node.criu_of(agents["n2"]), "CRIU", timeout=60))
        delete(here, {"metadata": {"name": "deleted-restore"}})

    thread = threading.Thread(target=catch)
    thread.start()
    with here.created(heavy.pod("deleted-restore", node="n2")) as name:
        pod = here.live.get(pods.path(here.namespace, name))
        thread.join()
    assert pod is not None
    assert caught, "it was deleted while CRIU was at work"
    assert_gone(pod, caught[0])
    assert_same(here, agents)
    with here.pod(heavy.pod("after-deleted", node="n2")) as after:
        place.assert_warm(here.live, after)


def test_in_the_middle_of_its_capture(here: place.Place, agents: dict[str, int]) -> None:
    """The Job makes another pod, whose capture succeeds."""
    worker = tiny.Worker("tiny/deleted", ballast=700)
    caught: list[int] = []
    seen: list[tiny.Object] = []

    def catch() -> None:
        caught.append(node.catch(node.criu_of(agents["n1"]), "CRIU", timeout=60))
        seen.extend(here.pods_of(f"{SOURCES},nvidia.com/chrek-checkpoint-hash={worker.hash}"))
        for pod in seen:
            delete(here, pod)

    thread = threading.Thread(target=catch)
    thread.start()
    here.live.apply(worker.checkpoint(node="n1"), namespace=here.namespace)
    thread.join()
    assert len(seen) == 1, "it was deleted during the first attempt"
    found = here.wait_phase(worker.hash, "Ready", timeout=150)
    assert_gone(seen[0], caught[0])
    assert_same(here, agents)
    kept = example.variant(found)
    folder = here.volume() / worker.hash / kept["name"]
    complete = [path.name for path in folder.iterdir() if (path / "manifest.json").exists()]
    assert complete == [kept["uuid"]]
    with here.pod(worker.pod("after-deleted-capture", node="n2")) as after:
        place.assert_warm(here.live, after)
    here.forget(worker)
