"""Broken environments: which check finds each of them, and the line that its user reads."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import time

import pytest
import yaml

from chart import broken, rendered
from chrek.checks import report, settings
from chrek.hooks import crds, program
from chrek.kube import workstation

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.helm,
    # The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
    pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning"),
]
SETTLE_SECONDS = 30
CRDS = pathlib.Path(__file__).resolve().parents[2] / "charts" / "chrek" / "files" / "crds"


class Cluster:
    """kubectl, and the connection that hooks have."""

    def __init__(self, kubectl: str, kubeconfig: pathlib.Path) -> None:
        self._kubectl = kubectl
        self._environment = {**os.environ, "KUBECONFIG": os.fspath(kubeconfig)}
        self.connection = workstation.connect(kubeconfig)

    def run(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        done = subprocess.run(
            [self._kubectl, *args],
            input=stdin,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def objects(self, *wanted: broken.Object):
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(wanted)})
        try:
            self.run("apply", "--filename=-", stdin=text)
            yield
        finally:
            # A claim waits for the controller that takes its finalizer off.
            self.run("delete", "--filename=-", "--ignore-not-found", "--timeout=60s", stdin=text)

    @contextlib.contextmanager
    def labelled(self, namespace: str, labels: dict[str, str]):
        label = ("label", "namespace", namespace, "--overwrite")
        self.run(*label, *(f"{key}={value}" for key, value in labels.items()))
        try:
            yield
        finally:
            self.run(*label, *(f"{key}-" for key in labels))


@pytest.fixture(scope="module")
def cluster(cache, tool_path):
    path = pathlib.Path(os.environ.get("KUBECONFIG") or cache / "cluster/pki/admin.kubeconfig")
    found = Cluster(tool_path("kubectl"), path)
    if "Server Version" not in found.run("version", check=False):
        pytest.skip("no cluster: run scripts/cluster up")
    found.run("apply", "--server-side", "--force-conflicts", f"--filename={CRDS}")
    found.run("delete", "namespace", broken.NAMESPACE, "--ignore-not-found")
    found.run("create", "namespace", broken.NAMESPACE)
    # Admission looks up the account of the agent's pod.
    found.run("create", "serviceaccount", "chrek-hooks", f"--namespace={broken.NAMESPACE}")
    yield found
    found.run("delete", "namespace", broken.NAMESPACE, "--wait=false")


@pytest.fixture
def crd_folder(tmp_path, monkeypatch):
    """Where hooks find the CRDs of the chart."""
    folder = tmp_path / "crds"
    shutil.copytree(CRDS, folder)
    monkeypatch.setattr(program, "CRDS", folder)
    return folder


def looked(cluster, helm, folder, *values, edit=None) -> list[report.Outcome]:
    """What the hook finds before an installation with these values."""
    documents = helm.template(*values, namespace=broken.NAMESPACE)
    maps = rendered.maps_with(documents, "release.yaml")
    found = rendered.find(maps, "ConfigMap", "chrek-hooks")
    release = yaml.safe_load(found["data"]["release.yaml"])
    if edit:
        edit(release)
    (folder / "release.yaml").write_text(yaml.safe_dump(release))
    (folder / "agent-pod.yaml").write_text(found["data"]["agent-pod.yaml"])
    config = settings.load(folder / "release.yaml")
    context = program.Context(cluster.connection, config, folder)
    return crds.check_and_apply(context)


@pytest.mark.usefixtures("crd_folder")
def test_nothing_is_wrong_without_these(cluster, helm, tmp_path):
    found = looked(cluster, helm, tmp_path)
    assert report.failures(found) == []


def test_there_are_many():
    names = [environment.name for environment in broken.ALL]
    assert len(set(names)) == len(names) >= 40


@pytest.mark.parametrize("environment", broken.ALL, ids=lambda one: one.name)
def test_a_broken_environment(cluster, helm, tmp_path, crd_folder, environment):
    if environment.crds:
        for path in crd_folder.iterdir():
            path.unlink()
        for number, one in enumerate(environment.crds):
            (crd_folder / f"{number}.yaml").write_text(yaml.safe_dump(one))
    with contextlib.ExitStack() as stack:
        if environment.objects:
            stack.enter_context(cluster.objects(*environment.objects))
        if environment.labels:
            stack.enter_context(cluster.labelled(broken.NAMESPACE, environment.labels))
        deadline = time.monotonic() + (SETTLE_SECONDS if environment.settles else 0)
        while True:
            found = looked(cluster, helm, tmp_path, *environment.values, edit=environment.edit)
            if report.failures(found) or time.monotonic() >= deadline:
                break
            time.sleep(1)
    lines = [*report.lines(found)]
    wrong = [one for one in found if one.status is not report.Status.OK]
    mine = [one for one in wrong if one.name == environment.check]
    assert [environment.says in one.detail for one in mine] == [True], "\n".join(lines)
    assert environment.do in mine[0].hint
    status = report.Status.FAILED if environment.fails else report.Status.WARNING
    assert mine[0].status is status
    # Nothing else fails, so that the last line speaks of what is wrong.
    assert report.failures(found) == (mine if environment.fails else [])
    said = report.verdict(found, again="install again")
    assert not environment.fails or environment.says in said
