"""`helm uninstall`: everything goes but the claim with the checkpoints.

Runs after the tests that share the release.
"""

from __future__ import annotations

import time

from e2e import place, tiny
from showcase import cluster, setup


def test_uninstall_keeps_the_claim(here: place.Place, counter: tiny.Worker) -> None:
    artifact = here.artifact(counter.hash)
    said = here.live.helm("uninstall", setup.RELEASE, f"--namespace={here.namespace}", "--wait")
    assert "uninstalled" in said
    claim = here.live.get(f"/api/v1/namespaces/{here.namespace}/persistentvolumeclaims/chrek-pvc")
    assert claim is not None
    assert claim["status"]["phase"] == "Bound"
    assert "deletionTimestamp" not in claim["metadata"]
    assert (artifact / "manifest.json").exists()

    def left() -> str:
        kinds = "daemonsets,deployments,jobs,services,configmaps,serviceaccounts"
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
    setup.install(here.live, values={"storage.pvc.size": '"20Gi"'})
    with here.pod(worker.pod("warm-after-reinstall")) as pod:
        place.assert_warm(here.live, pod)
