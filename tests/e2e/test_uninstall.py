"""`helm uninstall`: everything goes but the claim with the checkpoints. Runs last."""

from __future__ import annotations

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


def test_installing_again_finds_the_checkpoints(here: place.Place) -> None:
    worker = tiny.Worker("tiny/counter")
    setup.install(here.live, values={"storage.pvc.size": '"20Gi"'})
    with here.pod(worker.pod("warm-after-reinstall")) as pod:
        place.assert_warm(here.live, pod)
