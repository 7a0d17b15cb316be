import threading

import pytest
import yaml

from chrek.checks import report
from chrek.hooks import crds, pre_upgrade, program
from fakes import agents as fake_agents
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
URL = f"{release.CRDS}/{release.CRD}"


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        release.healthy(server)
        yield server


@pytest.fixture
def folder(tmp_path, monkeypatch):
    new = release.crd()
    new["spec"]["marker"] = "new"
    (tmp_path / "crd.yaml").write_text(yaml.safe_dump(new))
    monkeypatch.setattr(program, "CRDS", tmp_path)
    return tmp_path


def upgrade(api, directory, **changes):
    context = program.Context(release.connect(api), release.config(**changes), directory)
    return pre_upgrade.prepare(context)


@pytest.mark.parametrize("installed", [True, False])
def test_crds_are_applied(api, folder, installed):
    if not installed:
        del api.objects[URL]
    found = upgrade(api, folder)
    assert found[-2:] == [
        report.ok(release.CRD, "applied"),
        report.ok("captures", "none in flight"),
    ]
    assert api.objects[URL]["spec"]["marker"] == "new"


def test_crds_of_another_chart_stay(api, folder):
    api.add(release.CRDS, release.crd(labels={}))
    found = upgrade(api, folder, agentName="")
    assert found[-1].status is report.Status.WARNING
    assert "managed by 'dynamo-platform'" in found[-1].detail
    assert "marker" not in api.objects[URL]["spec"]


def test_a_crd_of_another_chart_that_does_not_serve_our_version(api, folder):
    api.add(release.CRDS, release.crd(version="v1beta9", labels={}))
    found = upgrade(api, folder)[-1]
    assert found.status is report.Status.FAILED
    assert found.detail == "version v1alpha1 is not served"
    assert "upgrade what installed it, 'dynamo-platform'" in found.hint


def test_a_kind_that_is_new_takes_a_moment(api):
    """Until then the API server knows no such path."""
    api.refuse("PATCH", f"{release.CHECKPOINTS}/llama", status=404, message="not found")
    config = release.config(prewarm=[release.prewarm()])
    (found,) = crds.prewarm(release.connect(api), config, settle_seconds=0)
    assert found.status is report.Status.WARNING
    timer = threading.Timer(0.1, api.refusals.clear)
    timer.start()
    (found,) = crds.prewarm(release.connect(api), config, settle_seconds=60)
    timer.join()
    assert found.status is report.Status.OK


def test_before_an_installation_nobody_captures(api, folder):
    context = program.Context(release.connect(api), release.config(), folder)
    found = crds.check_and_apply(context)
    assert found[-1] == report.ok(release.CRD, "applied")


def test_nothing_is_applied_when_a_check_fails(api, folder):
    found = upgrade(api, folder, watchNamespaces=["none"])
    assert [outcome.name for outcome in report.failures(found)] == ["namespaces"]
    assert "marker" not in api.objects[URL]["spec"]


def test_the_store_is_checked_before_anything_is_applied(api, folder):
    found = upgrade(api, folder, server={"credentialsSecret": "none"})
    assert [outcome.name for outcome in report.failures(found)] == ["credentials"]
    assert "marker" not in api.objects[URL]["spec"]
    api.objects.pop(f"{release.CLASSES}/shared")
    found = upgrade(api, folder)
    assert [outcome.name for outcome in report.failures(found)] == ["storage"]


def test_a_crd_that_is_refused(api, folder):
    api.refuse("PATCH", URL, status=422, message="spec.versions is invalid")
    found = upgrade(api, folder)[-1]
    assert found.status is report.Status.FAILED
    assert "spec.versions is invalid" in found.detail
    assert "captures" not in [outcome.name for outcome in upgrade(api, folder)]


def test_captures_are_waited_for_when_all_else_is_fine(api, folder):
    with fake_agents.Agent(fake_agents.preflight(captures=1)) as agent:
        release.agent(api, "n1", ready=True, port=agent.port)
        found = upgrade(api, folder, timeoutSeconds=0)
        assert found[-1] == report.warning(
            "captures",
            "after 0 s still n1: 1 capture",
            "nothing: an agent finishes its capture before it is replaced",
        )
        asked = agent.asked
        upgrade(api, folder, watchNamespaces=["none"])
        assert agent.asked == asked


def test_checkpoints_are_looked_at_by_the_new_crds(api, folder):
    found = upgrade(api, folder, prewarm=[release.prewarm()])
    assert [outcome.name for outcome in found[-3:]] == [release.CRD, "prewarm", "captures"]
    patches = [path for method, path, _, _ in api.requests if method == "PATCH"]
    assert patches == [URL, f"{release.CHECKPOINTS}/llama"]


def test_an_api_server_may_take_a_moment_to_see_a_new_crd(api):
    path = f"{release.CHECKPOINTS}/llama"
    api.refuse("PATCH", path, status=422, message="unknown word")
    config = release.config(prewarm=[release.prewarm()])
    (found,) = crds.prewarm(release.connect(api), config, settle_seconds=0)
    assert found.status is report.Status.FAILED
    timer = threading.Timer(0.1, api.refusals.clear)
    timer.start()
    (found,) = crds.prewarm(release.connect(api), config, settle_seconds=60)
    timer.join()
    assert found.status is report.Status.OK
