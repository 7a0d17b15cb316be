import threading

import pytest
import yaml

from chrek.checks import report
from chrek.hooks import pre_upgrade, program
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
def crds(tmp_path, monkeypatch):
    new = release.crd()
    new["spec"]["marker"] = "new"
    (tmp_path / "crd.yaml").write_text(yaml.safe_dump(new))
    monkeypatch.setattr(program, "CRDS", tmp_path)
    return tmp_path


def upgrade(api, directory, **changes):
    context = program.Context(release.connect(api), release.config(**changes), directory)
    return pre_upgrade.check_and_apply(context)


@pytest.mark.parametrize("installed", [True, False])
def test_crds_are_applied(api, crds, installed):
    if not installed:
        del api.objects[URL]
    found = upgrade(api, crds)
    assert found[-2:] == [
        report.ok(release.CRD, "applied"),
        report.ok("captures", "none in flight"),
    ]
    assert api.objects[URL]["spec"]["marker"] == "new"


def test_crds_of_another_chart_stay(api, crds):
    api.add(release.CRDS, release.crd(labels={}))
    found = upgrade(api, crds, agentName="")
    assert found[-1].status is report.Status.WARNING
    assert "managed by 'dynamo-platform'" in found[-1].detail
    assert "marker" not in api.objects[URL]["spec"]


def test_nothing_is_applied_when_a_check_fails(api, crds):
    found = upgrade(api, crds, watchNamespaces=["none"])
    assert [outcome.name for outcome in report.failures(found)] == ["namespaces"]
    assert "marker" not in api.objects[URL]["spec"]


def test_the_store_is_checked_before_anything_is_applied(api, crds):
    found = upgrade(api, crds, server={"credentialsSecret": "none"})
    assert [outcome.name for outcome in report.failures(found)] == ["credentials"]
    assert "marker" not in api.objects[URL]["spec"]
    api.objects.pop(f"{release.CLASSES}/shared")
    found = upgrade(api, crds)
    assert [outcome.name for outcome in report.failures(found)] == ["storage"]


def test_a_crd_that_is_refused(api, crds):
    api.refuse("PATCH", URL, status=422, message="spec.versions is invalid")
    found = upgrade(api, crds)[-1]
    assert found.status is report.Status.FAILED
    assert "spec.versions is invalid" in found.detail
    assert "captures" not in [outcome.name for outcome in upgrade(api, crds)]


def test_captures_are_waited_for_when_all_else_is_fine(api, crds):
    with fake_agents.Agent(fake_agents.preflight(captures=1)) as agent:
        release.agent(api, "n1", ready=True, port=agent.port)
        found = upgrade(api, crds, timeoutSeconds=0)
        assert found[-1] == report.warning(
            "captures",
            "after 0 s still n1: 1 capture",
            "nothing: an agent finishes its capture before it is replaced",
        )
        asked = agent.asked
        upgrade(api, crds, watchNamespaces=["none"])
        assert agent.asked == asked


def test_checkpoints_are_looked_at_by_the_new_crds(api, crds):
    found = upgrade(api, crds, prewarm=[release.prewarm()])
    assert [outcome.name for outcome in found[-3:]] == [release.CRD, "prewarm", "captures"]
    patches = [path for method, path, _, _ in api.requests if method == "PATCH"]
    assert patches == [URL, f"{release.CHECKPOINTS}/llama"]


def test_an_api_server_may_take_a_moment_to_see_a_new_crd(api):
    path = f"{release.CHECKPOINTS}/llama"
    api.refuse("PATCH", path, status=422, message="unknown word")
    config = release.config(prewarm=[release.prewarm()])
    (found,) = pre_upgrade.prewarm(release.connect(api), config, settle_seconds=0)
    assert found.status is report.Status.FAILED
    timer = threading.Timer(0.1, api.refusals.clear)
    timer.start()
    (found,) = pre_upgrade.prewarm(release.connect(api), config, settle_seconds=60)
    timer.join()
    assert found.status is report.Status.OK
