"""`helm uninstall`: everything goes but the claim with the checkpoints.

Runs after the tests that share the release.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Iterator

import pytest

from e2e import node, place, tiny
from showcase import cluster, commands, setup

NODES = ("n1", "n2")
SIGNALS = "/var/lib/chrek/signals"
LATE = "late-to-end"


def on(name: str, *argv: str) -> str:
    """Run a command on a node; returns its stdout."""
    return commands.run([setup.SCRIPTS / "cluster", "exec", name, "--", *argv]).stdout


def directories(name: str) -> set[str]:
    """What releases have on a node: `<namespace>-<release>` each."""
    return set(on(name, "ls", SIGNALS).split())


@pytest.fixture
def neighbors(here: place.Place) -> Iterator[set[str]]:
    """Directories of other releases, whose names begin or end like this one's."""
    names = {f"{here.namespace}-{setup.RELEASE}2", f"a-{here.namespace}-{setup.RELEASE}"}
    paths = [f"{SIGNALS}/{name}" for name in sorted(names)]
    for name in NODES:
        on(name, "mkdir", "-p", *paths)
    yield names
    for name in NODES:
        on(name, "rm", "-r", *paths)


def test_uninstall_keeps_the_claim(
    here: place.Place, counter: tiny.Worker, neighbors: set[str]
) -> None:
    """And nothing else: neither in the cluster nor on its nodes."""
    mine = f"{here.namespace}-{setup.RELEASE}"
    artifact = here.artifact(counter.hash)
    assert all(neighbors | {mine} <= directories(name) for name in NODES)
    said = here.live.helm("uninstall", setup.RELEASE, f"--namespace={here.namespace}", "--wait")
    assert "uninstalled" in said
    assert f"artifacts in claim {here.namespace}/chrek-pvc" in said
    for name in NODES:
        assert f"node {name}" in said
        found = directories(name)
        assert mine not in found
        assert neighbors <= found
    assert f"removed {SIGNALS}/{mine}" in said
    claim = here.live.get(f"/api/v1/namespaces/{here.namespace}/persistentvolumeclaims/chrek-pvc")
    assert claim is not None
    assert claim["status"]["phase"] == "Bound"
    assert "deletionTimestamp" not in claim["metadata"]
    assert (artifact / "manifest.json").exists()

    def left() -> str:
        kinds = (
            "daemonsets,deployments,jobs,pods,services,configmaps,secrets,serviceaccounts,leases,"
            "roles,rolebindings"
        )
        found = here.live.kubectl(
            "get", kinds, f"--namespace={here.namespace}", "-o", "name",
            "-l", f"app.kubernetes.io/instance={setup.RELEASE}",
        )  # fmt: skip
        # Objects of the whole cluster are named by namespace and release.
        kinds = "mutatingwebhookconfigurations,clusterroles,clusterrolebindings"
        wide = here.live.kubectl("get", kinds, "-o", "name").split()
        mine = [name for name in wide if f"/{here.namespace}-{setup.RELEASE}" in name]
        return found + "\n".join(mine)

    cluster.wait_until(lambda: not left(), left, timeout=60)


def test_a_node_is_cleaned_when_its_agent_has_ended(live: cluster.Cluster) -> None:
    """And not before; the others need not wait for it."""
    setup.install(live, namespace=LATE, values={"storage.pvc.size": '"1Gi"'})
    mine = f"{LATE}-{setup.RELEASE}"
    pid = node.agent_pid(node.agent(live, LATE, "n2"))
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            with node.stopped(pid):
                here = f"--namespace={LATE}"
                uninstalled = pool.submit(live.helm, "uninstall", setup.RELEASE, here)
                cluster.wait_until(
                    lambda: uninstalled.done() or mine not in directories("n1"),
                    "n1 is clean",
                    timeout=90,
                )
                assert not uninstalled.done(), uninstalled.result()
                assert mine in directories("n2")
            said = uninstalled.result()
        assert "2 of 2 cleaned" in said
        assert mine not in directories("n2")
    finally:
        live.kubectl("delete", "namespace", LATE, "--timeout=60s")


def test_pods_start_cold_without_chrek(here: place.Place) -> None:
    """Pods that ask for a checkpoint start as if chrek had never been there."""
    with here.pod(tiny.Worker("tiny/counter").pod("without-chrek")) as pod:
        assert "initContainers" not in pod["spec"]


def test_a_namespace_with_checkpoints_can_be_deleted(here: place.Place) -> None:
    """Nothing that the release put on objects holds them back when it is gone."""
    names = here.live.kubectl(
        "get", "dckpt", f"--namespace={here.namespace}", "-o",
        "jsonpath={range .items[*]}{.metadata.finalizers}{end}",
    )  # fmt: skip
    assert "nvidia.com/chrek" not in names
    begin = time.monotonic()
    here.live.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "to-be-deleted"}},
        namespace="default",
    )
    there = place.Place(here.live, "to-be-deleted")
    worker = tiny.Worker("tiny/never-captured")
    here.live.apply(worker.checkpoint(), worker.graph("never"), namespace=there.namespace)
    here.live.kubectl("delete", "namespace", there.namespace, "--timeout=60s")
    assert time.monotonic() - begin < 60


def test_installing_again_finds_the_checkpoints(here: place.Place) -> None:
    worker = tiny.Worker("tiny/counter")
    setup.install(here.live, namespace=here.namespace, values=here.values)
    with here.pod(worker.pod("warm-after-reinstall")) as pod:
        place.assert_warm(here.live, pod)
