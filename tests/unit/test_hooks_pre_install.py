import pytest
import yaml

from chrek.checks import report
from chrek.hooks import crds, program
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
POD = {"metadata": {}, "spec": {"containers": []}}


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        release.healthy(server)
        yield server


@pytest.fixture(autouse=True)
def definitions(tmp_path, monkeypatch):
    """What the chart brings."""
    folder = tmp_path / "crds"
    folder.mkdir()
    (folder / "crd.yaml").write_text(yaml.safe_dump(release.crd()))
    monkeypatch.setattr(program, "CRDS", folder)


def check(api, directory, **changes):
    context = program.Context(release.connect(api), release.config(**changes), directory)
    return crds.check_and_apply(context)


def test_a_cluster_that_can_hold_the_release(api, tmp_path):
    (tmp_path / "agent-pod.yaml").write_text(yaml.safe_dump(POD))
    found = check(api, tmp_path)
    assert {outcome.status for outcome in found} == {report.Status.OK}
    assert [outcome.name for outcome in found] == [
        "kubernetes-version",
        "namespaces",
        "releases",
        "identities",
        "storage",
        "nodes",
        "pod-security",
        release.CRD,
    ]


def test_every_failure_is_told_at_once(api, tmp_path):
    api.objects.clear()
    release.webhook(api, "b-chrek", namespaces=("a",))
    api.refuse("POST", release.PODS, status=403, message="violates PodSecurity")
    pod = {**POD, "spec": {"containers": [], "runtimeClassName": "none"}}
    (tmp_path / "agent-pod.yaml").write_text(yaml.safe_dump(pod))
    found = report.failures(check(api, tmp_path, watchNamespaces=["a"]))
    assert [outcome.name for outcome in found] == [
        "namespaces",
        "releases",
        "storage",
        "runtime-class",
        "pod-security",
    ]
    assert all(outcome.hint for outcome in found)


def test_the_crds_are_all_that_is_changed(api, tmp_path):
    (tmp_path / "agent-pod.yaml").write_text(yaml.safe_dump(POD))
    there = dict(api.objects)
    found = check(api, tmp_path, prewarm=[release.prewarm()])
    assert not report.failures(found)
    writes = [(m, path, "dryRun" in query) for m, path, query, _ in api.requests if m != "GET"]
    assert writes == [
        ("POST", release.PODS, True),
        ("PATCH", f"{release.CRDS}/{release.CRD}", False),
        ("PATCH", f"{release.CHECKPOINTS}/llama", True),
    ]
    changed = {key for key in api.objects if api.objects[key] != there.get(key)}
    assert changed <= {f"{release.CRDS}/{release.CRD}"}


def test_checkpoints_are_not_looked_at_when_nobody_would_make_them(api, tmp_path):
    found = check(api, tmp_path, prewarm=[release.prewarm()], operatorName="")
    assert "prewarm" not in [outcome.name for outcome in found]


def test_the_namespace_is_asked_about_the_agent_although_its_runtime_class_is_missing(
    api, tmp_path
):
    """Admission says only the first thing that is wrong."""
    pod = {**POD, "spec": {"containers": [], "runtimeClassName": "none"}}
    (tmp_path / "agent-pod.yaml").write_text(yaml.safe_dump(pod))
    found = report.failures(check(api, tmp_path))
    assert [outcome.name for outcome in found] == ["runtime-class"]
    (body,) = [body for method, _, _, body in api.requests if method == "POST"]
    assert "runtimeClassName" not in body["spec"]


def test_a_store_on_a_server_needs_no_storage_class(api, tmp_path):
    """And what it needs is not looked for when no agent will ask the server."""
    api.objects.pop(f"{release.CLASSES}/shared")
    wanted = {"credentialsSecret": "s3-creds"}
    found = report.failures(check(api, tmp_path, server=wanted))
    assert [outcome.name for outcome in found] == ["credentials"]
    assert "Secret team/s3-creds: not found" in found[0].detail
    api.requests.clear()
    assert report.failures(check(api, tmp_path, server=wanted, agentName="")) == []
    assert [path for _, path, _, _ in api.requests if "secrets" in path or "storage" in path] == []


def test_a_release_without_agents_asks_for_no_pod(api, tmp_path):
    assert "pod-security" not in [outcome.name for outcome in check(api, tmp_path)]
