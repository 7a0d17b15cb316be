import pytest
import yaml

from chrek.checks import report
from chrek.hooks import pre_upgrade, program
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
    assert found[-1] == report.ok(release.CRD, "applied")
    assert api.objects[URL]["spec"]["marker"] == "new"


def test_crds_of_another_chart_stay(api, crds):
    api.add(release.CRDS, release.crd(labels={}))
    found = upgrade(api, crds)
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
