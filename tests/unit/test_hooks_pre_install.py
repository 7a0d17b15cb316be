import pytest
import yaml

from chrek.checks import report
from chrek.hooks import pre_install, program
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
POD = {"metadata": {}, "spec": {"containers": []}}


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        release.healthy(server)
        yield server


def check(api, directory, **changes):
    context = program.Context(release.connect(api), release.config(**changes), directory)
    return pre_install.check(context)


def test_a_cluster_that_can_hold_the_release(api, tmp_path):
    (tmp_path / "agent-pod.yaml").write_text(yaml.safe_dump(POD))
    found = check(api, tmp_path)
    assert {outcome.status for outcome in found} == {report.Status.OK}
    assert [outcome.name for outcome in found] == [
        "kubernetes-version",
        "namespaces",
        "releases",
        "identities",
        "crds",
        "storage",
        "nodes",
        "pod-security",
    ]


def test_every_failure_is_told_at_once(api, tmp_path):
    api.objects.clear()
    release.webhook(api, "b-chrek", namespaces=("a",))
    api.refuse("POST", release.PODS, status=403, message="violates PodSecurity")
    pod = {**POD, "spec": {"containers": [], "runtimeClassName": "none"}}
    (tmp_path / "agent-pod.yaml").write_text(yaml.safe_dump(pod))
    wanted = {"watchNamespaces": ["a"], "prewarm": [release.prewarm()]}
    found = report.failures(check(api, tmp_path, **wanted))
    assert [outcome.name for outcome in found] == [
        "namespaces",
        "releases",
        "crds",
        "prewarm",
        "storage",
        "runtime-class",
        "pod-security",
    ]
    assert all(outcome.hint for outcome in found)


def test_nothing_is_changed(api, tmp_path):
    (tmp_path / "agent-pod.yaml").write_text(yaml.safe_dump(POD))
    before = dict(api.objects)
    found = check(api, tmp_path, prewarm=[release.prewarm()])
    assert not report.failures(found)
    writes = [(m, query["dryRun"]) for m, _, query, _ in api.requests if m != "GET"]
    assert writes == [("PATCH", "All"), ("POST", "All")]
    assert api.objects == before


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
    method, _, _, body = api.requests[-1]
    assert method == "POST"
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
