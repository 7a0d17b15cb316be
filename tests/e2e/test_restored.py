"""A restored pod is an ordinary pod: its memory, namespaces, logs, restarts and exit code."""

from __future__ import annotations

import re
import time

import pytest

from e2e import node, place, tiny
from showcase import cluster, pods


@pytest.mark.parametrize("where", ["n1", "n2"])
def test_memory_continues_on_both_nodes(
    here: place.Place, counter: tiny.Worker, where: str
) -> None:
    with here.pod(counter.pod(f"continues-{where}", node=where)) as pod:
        place.assert_warm(here.live, pod)
        first = pods.state(here.live, pod, count=True)
        second = pods.state(here.live, pod, count=True)
        assert second.counter == first.counter + 1
        assert pods.container(pod)["restartCount"] == 0
        assert first.pid > 10000, "the worker has the PID that it was captured with"
        # The captured worker printed its start before the capture; this one never started.
        written = pods.logs(here.live, pod)
        assert tiny.STARTS not in written
        assert f"asked /counter counter {second.counter}" in written, "the log carries on"


def test_two_restored_pods_have_one_memory_and_then_part(
    here: place.Place, counter: tiny.Worker
) -> None:
    one, two = counter.pod("part-1", node="n1"), counter.pod("part-2", node="n2")
    with here.pod(one) as first, here.pod(two) as second:
        assert pods.state(here.live, first).nonce == pods.state(here.live, second).nonce
        before = pods.state(here.live, second).counter
        pods.state(here.live, first, count=True)
        assert pods.state(here.live, second).counter == before


def test_the_worker_is_in_the_pods_own_namespaces(here: place.Place, counter: tiny.Worker) -> None:
    with here.pod(counter.pod("namespaces", node="n2")) as pod:
        place.assert_warm(here.live, pod)
        worker = pods.state(here.live, pod)
        script = (
            f"for p in 1 {worker.pid}; do"
            " for n in cgroup ipc mnt net pid pid_for_children user uts; do"
            " echo $p $n $(readlink /proc/$p/ns/$n); done;"
            " echo $p mountinfo $(md5sum < /proc/$p/mountinfo);"
            " echo $p cgroups $(md5sum < /proc/$p/cgroup);"
            " echo $p root $(readlink /proc/$p/root); done; hostname"
        )
        *lines, hostname = here.exec(pod, "sh", "-c", script).splitlines()
        facts = {tuple(line.split(" ", 2)[:2]): line.split(" ", 2)[2] for line in lines}
        differing = [
            name
            for pid, name in facts
            if pid == "1" and facts["1", name] != facts[str(worker.pid), name]
        ]
        assert not differing, facts
        assert len(facts) == 22
        assert hostname == pods.name(pod)
        parent = here.exec(pod, "sh", "-c", f"grep PPid /proc/{worker.pid}/status")
        tree = here.exec(pod, "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline")
        assert tree.startswith("/chrek/chrek-init"), tree
        # The worker's parent is the tree's root, chrek-init --tree, whose parent is PID 1.
        root = re.findall(r"\d+", parent)[0]
        grandparent = here.exec(pod, "sh", "-c", f"grep PPid /proc/{root}/status")
        assert re.findall(r"\d+", grandparent) == ["1"]


def test_exec_works_beside_the_restored_worker(here: place.Place, counter: tiny.Worker) -> None:
    with here.pod(counter.pod("exec", node="n1")) as pod:
        for number in range(3):
            assert here.exec(pod, "echo", f"said {number}") == f"said {number}\n"
        assert pods.state(here.live, pod).nonce


def test_three_container_restarts_are_warm(here: place.Place, counter: tiny.Worker) -> None:
    with here.pod(counter.pod("restarts", node="n1")) as pod:
        nonce = pods.state(here.live, pod).nonce
        for count in (1, 2, 3):
            counted = pods.state(here.live, pod, count=True).counter
            exit_worker(here, pod, 0)
            pod = here.wait_restarted(pod, count, timeout=90)
            state = pods.state(here.live, pod)
            assert state.nonce == nonce
            assert state.counter < counted, "the counter is that of the capture again"
            assert tiny.STARTS not in pods.logs(here.live, pod)
        place.assert_warm(here.live, pod)


@pytest.fixture(scope="module")
def mortal(here: place.Place) -> tiny.Worker:
    """A worker of its own: one that dies soon after restores makes its artifact suspect."""
    worker = tiny.Worker("tiny/mortal")
    here.capture(worker)
    return worker


@pytest.mark.parametrize("code", [0, 42])
def test_the_exit_code_of_a_restored_worker_is_the_containers(
    here: place.Place, mortal: tiny.Worker, code: int
) -> None:
    wanted = mortal.pod(f"exits-{code}", node="n2", restartPolicy="Never")
    with here.pod(wanted) as pod:
        place.assert_warm(here.live, pod)
        exit_worker(here, pod, code)
        assert ended(here, pod)["exitCode"] == code


def test_a_killed_worker_gives_137(here: place.Place, mortal: tiny.Worker) -> None:
    with here.pod(mortal.pod("killed", node="n1", restartPolicy="Never")) as pod:
        worker = pods.state(here.live, pod).pid
        here.exec(pod, "sh", "-c", f"kill -KILL {worker}")
        assert ended(here, pod)["exitCode"] == 137


def test_deleting_a_restored_pod_ends_it_by_sigterm(
    here: place.Place, counter: tiny.Worker
) -> None:
    wanted = counter.pod("terminated", node="n1", terminationGracePeriodSeconds=60)
    with here.pod(wanted) as pod:
        begin = time.monotonic()
        path = pods.path(here.namespace, pods.name(pod))
        here.live.kubectl(
            "delete", "pod", pods.name(pod), f"--namespace={here.namespace}", "--wait=false"
        )
        cluster.wait_until(lambda: here.live.get(path) is None, "the pod is gone", timeout=40)
        assert time.monotonic() - begin < 30
        assert not node.processes(pod)


def exit_worker(here: place.Place, pod: tiny.Object, code: int) -> None:
    """Ask the worker to end; the connection breaks, so the answer does not matter."""
    here.live.pod_request(pod, 8001, f"/exit/{code}")


def ended(here: place.Place, pod: tiny.Object) -> tiny.Object:
    """How the container ended."""

    def terminated() -> tiny.Object | None:
        status = pods.container(pods.reload(here.live, pod))
        found: tiny.Object | None = status.get("state", {}).get("terminated")
        return found

    found: tiny.Object = cluster.wait_until(terminated, "the container has ended", timeout=30)
    return found
