"""The DaemonSet of the hook after an uninstallation: it goes where agents went, with few rights."""

import importlib.util
import pathlib

import pytest
import yaml

from chart import rendered
from chrek.checks import settings
from chrek.hooks import post_delete

ROOT = pathlib.Path(__file__).resolve().parents[2]
VALUES = sorted((ROOT / "charts" / "chrek" / "ci").glob("*-values.yaml"))

pytestmark = pytest.mark.helm


@pytest.fixture(scope="module", params=VALUES, ids=lambda path: path.name.partition("-values")[0])
def documents(helm, request):
    return helm.template(f"--values={request.param}")


@pytest.fixture
def files(documents):
    """Of the hook: its ConfigMap's; none without hooks."""
    found = rendered.maps_with(documents, post_delete.MANIFEST)
    return found[0]["data"] if found else None


@pytest.fixture
def pod(files):
    if files is None:
        pytest.skip("optional: these values have no hooks")
    return yaml.safe_load(files[post_delete.MANIFEST])["spec"]["template"]["spec"]


def test_it_is_there_with_the_hooks(documents, files):
    assert (files is not None) == bool(rendered.of_kind(documents, "Job"))


def test_it_runs_wherever_agents_ran(documents, pod):
    daemon_sets = rendered.of_kind(documents, "DaemonSet")
    if not daemon_sets:
        return
    agent = daemon_sets[0]["spec"]["template"]["spec"]
    same = ("affinity", "nodeSelector", "tolerations", "priorityClassName", "imagePullSecrets")
    for field in same:
        assert pod.get(field) == agent.get(field), field
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["image"] == agent["containers"][0]["image"]


def test_it_removes_what_the_release_alone_uses_on_nodes(documents, files, pod, tmp_path):
    (container,) = pod["initContainers"]
    assert container["name"] == post_delete.CONTAINER
    python, flag, module, root, *paths = container["command"]
    assert (python, flag, root) == ("python3", "-m", "--root=/node")
    assert importlib.util.find_spec(module)
    (tmp_path / "release.yaml").write_text(files["release.yaml"])
    assert settings.load(tmp_path / "release.yaml").nodePaths == paths
    # Each is below a mount, at the place where the program looks for it.
    parents = [str(pathlib.PurePath(path).parent) for path in paths]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"]}
    assert list(volumes.values()) == parents
    assert mounts == {name: f"/node{path}" for name, path in volumes.items()}
    for daemon_set in rendered.of_kind(documents, "DaemonSet"):
        used = {
            volume["hostPath"]["path"]
            for volume in daemon_set["spec"]["template"]["spec"]["volumes"]
            if volume["name"] in ("signals", "cache")
        }
        assert used == set(paths)


def test_it_can_do_nothing_else(documents, pod):
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostPID", "hostIPC", "hostNetwork"} & set(pod)
    for container in (*pod["initContainers"], *pod["containers"]):
        context = container["securityContext"]
        assert "privileged" not in context
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
    (waits,) = pod["containers"]
    assert "volumeMounts" not in waits
    assert waits["securityContext"]["runAsNonRoot"] is True


def test_it_may_be_made_by_the_hook(documents, files):
    if files is None:
        return
    manifest = yaml.safe_load(files[post_delete.MANIFEST])
    (role,) = [
        d for d in rendered.of_kind(documents, "Role") if "post-delete" in rendered.events(d)
    ]
    named = [name for rule in role["rules"] for name in rule.get("resourceNames", [])]
    assert named == [manifest["metadata"]["name"]]
    job = next(d for d in rendered.of_kind(documents, "Job") if "post-delete" in rendered.events(d))
    account = job["spec"]["template"]["spec"]["serviceAccountName"]
    assert manifest["spec"]["template"]["spec"]["serviceAccountName"] == account
    labels = manifest["spec"]["template"]["metadata"]["labels"]
    assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_its_pods_are_no_agents(files):
    """It is kept off nodes that have one."""
    if files is None:
        return
    labels = yaml.safe_load(files[post_delete.MANIFEST])["spec"]["template"]["metadata"]["labels"]
    agents = yaml.safe_load(files["release.yaml"])["agentLabels"]
    assert not agents.items() <= labels.items()
