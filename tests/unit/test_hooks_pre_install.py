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
        "identities",
        "crds",
        "storage",
        "pod-security",
    ]


def test_every_failure_is_told_at_once(api, tmp_path):
    api.objects.clear()
    found = report.failures(check(api, tmp_path, watchNamespaces=["a"]))
    assert [outcome.name for outcome in found] == ["namespaces", "crds", "storage"]
    assert all(outcome.hint for outcome in found)


def test_nothing_is_changed(api, tmp_path):
    (tmp_path / "agent-pod.yaml").write_text(yaml.safe_dump(POD))
    check(api, tmp_path)
    writes = [(m, query) for m, _, query, _ in api.requests if m != "GET"]
    assert writes == [("POST", {"dryRun": "All"})]


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
