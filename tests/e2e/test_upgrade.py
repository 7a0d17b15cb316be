"""From the last release to this one, back, and again: its checkpoints go on being restored.

The last release is installed from its own commit, with images that its own scripts/build makes.
The tests are one story, in the order of this file.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from devcluster import cache
from e2e import documented, place, tiny
from showcase import cluster, commands, pods, setup

NAMESPACE = "upgraded-team"
RELEASED = yaml.safe_load(Path(__file__).with_name("released.yaml").read_text())
VALUES = {"storage.pvc.size": '"5Gi"'}
OLD, NEW = tiny.Worker("tiny/of-the-last-release"), tiny.Worker("tiny/of-this-release")
CRD = "dynamocheckpoints.nvidia.com"


@pytest.fixture(scope="module")
def released(live: cluster.Cluster) -> Path:
    """The last release's tree; its images are on the nodes."""
    commit, version = RELEASED["commit"], RELEASED["version"]
    asked = ["git", "-C", commands.ROOT, "cat-file", "-e", f"{commit}^{{commit}}"]
    if subprocess.run(asked, capture_output=True, check=False).returncode:
        shallow = commands.run(
            ["git", "-C", commands.ROOT, "rev-parse", "--is-shallow-repository"]
        ).stdout.strip()
        # Whoever fetched no history cannot build what was released; whoever did must have it.
        prefix = "optional: " if shallow == "true" else ""
        pytest.skip(f"{prefix}no commit {commit} here, release {version}: git fetch --unshallow")
    assert version != setup.VERSION, f"{version} is out: raise the version of what comes next"
    program, word = documented.one("scripts/build released").text.split()
    commands.stream([commands.ROOT / program, word])
    where = cache.Cache.from_environment().root / "released"
    for name in ("chrek", "chrek-init"):
        commands.stream([setup.SCRIPTS / "cluster", "load", where / "images" / f"{name}.tar"])
    return where / "tree"


def crds_of(tree: Path) -> Path:
    """Where a chart has its CRDs: until 0.1.0 in Helm's own place."""
    chart = tree / "charts" / "chrek"
    return next(path for path in (chart / "files" / "crds", chart / "crds") if path.is_dir())


def apply_crds(live: cluster.Cluster, tree: Path) -> None:
    folder = crds_of(tree)
    live.kubectl("apply", "--server-side", "--force-conflicts", "-f", os.fspath(folder))


def crds_differ(live: cluster.Cluster, tree: Path) -> str:
    """What is different between the cluster's CRDs and those of a tree."""
    folder = crds_of(tree)
    # It exits with 1 when there are differences.
    return live.kubectl(
        "diff", "--server-side", "--force-conflicts", "--field-manager=chrek-crds", "-f",
        os.fspath(folder), check=False,
    )  # fmt: skip


def spoil_crd(live: cluster.Cluster) -> None:
    """The CRD lacks a column, as one of another version would."""
    column = '[{"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns/0"}]'
    live.kubectl("patch", "crd", CRD, "--type=json", f"--patch={column}")


@pytest.fixture(scope="module")
def here(live: cluster.Cluster, released: Path) -> Iterator[place.Place]:
    """The last release, with a Ready checkpoint."""
    apply_crds(live, released)
    live.helm(
        "install", setup.RELEASE, os.fspath(released / "charts" / "chrek"),
        f"--namespace={NAMESPACE}", "--create-namespace", "--wait", "--timeout=5m",
        *(f"--set-json={key}={value}" for key, value in VALUES.items()),
    )  # fmt: skip
    found = place.Place(live, NAMESPACE, VALUES)
    found.capture(OLD, node="n1")
    yield found
    live.helm("uninstall", setup.RELEASE, f"--namespace={NAMESPACE}", check=False)
    live.kubectl("delete", "namespace", NAMESPACE, "--timeout=60s")
    # Other tests go on with those of this release, wherever a failure has left them.
    apply_crds(live, commands.ROOT)


def version(here: place.Place) -> str:
    """What the agents are of."""
    path = f"/apis/apps/v1/namespaces/{here.namespace}/daemonsets/chrek-agent"
    found = here.live.get(path)
    assert found is not None
    image: str = found["spec"]["template"]["spec"]["containers"][0]["image"]
    return image.rpartition(":")[2]


def assert_restores(here: place.Place, name: str, *workers: tiny.Worker) -> None:
    """Pods of these workers start warm on a node that did not capture them."""
    for number, worker in enumerate(workers):
        here.wait_phase(worker.hash, "Ready", timeout=20)
        with here.pod(worker.pod(f"{name}-{number}", node="n2")) as pod:
            place.assert_warm(here.live, pod)


def test_an_upgrade_keeps_checkpoints_and_brings_its_crds(here: place.Place) -> None:
    assert version(here) == RELEASED["version"]
    made = here.checkpoint(OLD.hash)["status"]["variants"]
    spoil_crd(here.live)
    assert crds_differ(here.live, commands.ROOT)
    setup.install(here.live, namespace=NAMESPACE, values=VALUES)
    assert version(here) == setup.VERSION
    assert crds_differ(here.live, commands.ROOT) == ""
    assert here.checkpoint(OLD.hash)["status"]["variants"] == made, "it was made again"
    assert_restores(here, "upgraded", OLD)
    here.capture(NEW, node="n1")


def test_a_rollback_keeps_them_too(here: place.Place, released: Path) -> None:
    spoil_crd(here.live)
    here.live.helm(
        "rollback", setup.RELEASE, "1", f"--namespace={NAMESPACE}", "--wait", "--timeout=5m"
    )
    assert version(here) == RELEASED["version"]
    assert crds_differ(here.live, released) == ""
    assert_restores(here, "rolled-back", OLD)
    # What a later release made is restored or not, and the pod serves in any case.
    with here.pod(NEW.pod("from-the-future", node="n2")) as pod:
        assert pods.is_ready(pod)


def test_upgrading_again_by_helm_4(here: place.Place) -> None:
    """Helm 4 takes over a release of Helm 3."""
    commands.run(
        [
            commands.find("helm4"), f"--kubeconfig={here.live.kubeconfig}",
            "upgrade", setup.RELEASE, setup.CHART, f"--namespace={NAMESPACE}", "--wait",
            "--timeout=5m", "--server-side=true", *setup.pod_stamps(here.live),
            *(f"--set-json={key}={value}" for key, value in VALUES.items()),
        ]
    )  # fmt: skip
    assert version(here) == setup.VERSION
    assert crds_differ(here.live, commands.ROOT) == ""
    assert_restores(here, "upgraded-again", OLD, NEW)


def test_installed_again_onto_the_claim_that_was_kept(here: place.Place) -> None:
    artifact = here.artifact(OLD.hash)
    here.live.helm("uninstall", setup.RELEASE, f"--namespace={NAMESPACE}", "--wait")
    assert (artifact / "manifest.json").exists()
    setup.install(here.live, namespace=NAMESPACE, values=VALUES)
    assert_restores(here, "installed-again", OLD, NEW)
