import pytest

from chrek import errors
from chrek.checks import prewarm, report
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
OK, WARNING, FAILED = report.Status.OK, report.Status.WARNING, report.Status.FAILED
URL = f"{release.CHECKPOINTS}/llama"


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


def look(api, *wanted, **changes):
    return prewarm.prewarm(release.connect(api), release.config(prewarm=[*wanted], **changes))


def test_the_api_server_is_asked_by_a_dry_run(api):
    assert look(api, release.prewarm()) == report.ok("prewarm", "1 to make")
    method, path, query, body = api.requests[-1]
    assert (method, path) == ("PATCH", URL)
    assert query["dryRun"] == "All"
    assert body["spec"] == release.prewarm()["spec"]
    assert api.objects == {}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"namespace": "x"}, "x/llama: namespace x is not served; dynamo-operator serves team"),
        ({"spec": {}}, "team/llama: spec.identity.model: required"),
        (
            {"spec": {"identity": {"model": "m", "framework": "tgi"}}},
            "spec.identity.backendFramework: 'tgi' is not one of",
        ),
        (
            {"spec": {"identity": release.IDENTITY}},
            "team/llama: spec.job.podTemplateSpec.spec.containers: required",
        ),
        (
            {"spec": {"identity": release.IDENTITY, "job": {"podTemplateSpec": {"spec": {}}}}},
            "team/llama: spec.job.podTemplateSpec.spec.containers: required",
        ),
    ],
)
def test_what_is_written_wrongly(api, changes, problem):
    found = look(api, release.prewarm(**changes))
    assert found.status is FAILED
    assert problem in found.detail
    assert found.hint == "correct dynamo-operator.checkpoint.prewarm"
    assert api.requests == []


def test_a_serving_pod_that_is_captured_needs_no_job(api):
    spec = {"identity": release.IDENTITY, "captureSource": "worker"}
    assert look(api, release.prewarm(spec=spec)).status is OK


def test_names_are_unique_in_a_namespace(api):
    twice = [release.prewarm(), release.prewarm()]
    found = look(api, *twice)
    assert found.status is FAILED
    assert found.detail == "team/llama: listed 2 times"
    other = release.prewarm(namespace="b")
    assert look(api, release.prewarm(), other, watchNamespaces=["team", "b"]).status is OK


def test_what_the_api_server_refuses(api):
    api.refuse("PATCH", URL, status=422, message="spec.quiesce: give either http or exec")
    found = look(api, release.prewarm())
    assert found.status is FAILED
    assert "team/llama: PATCH" in found.detail
    assert "spec.quiesce: give either http or exec" in found.detail


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "the server could not find it"), (400, "admission webhook x does not support dry run")],
)
def test_what_cannot_be_asked(api, status, message):
    api.refuse("PATCH", URL, status=status, message=message)
    found = look(api, release.prewarm())
    assert found.status is WARNING
    assert message in found.detail


def test_an_api_server_that_fails_is_not_judged(api):
    api.refuse("PATCH", URL, status=500, message="etcd is gone")
    with pytest.raises(errors.ApiError, match="etcd is gone"):
        look(api, release.prewarm())


@pytest.mark.parametrize(
    ("labels", "owner"),
    [
        ({}, "exists and was not made by this release"),
        ({"chrek.nvidia.com/release": "b-chrek"}, "made by release b-chrek"),
        # A copy that somebody else manages.
        ({"chrek.nvidia.com/release": "team-chrek"}, "made by release team-chrek"),
    ],
)
def test_one_that_another_has_made(api, labels, owner):
    api.add(release.CHECKPOINTS, {"spec": {}}, name="llama", labels=labels)
    found = look(api, release.prewarm())
    assert found.status is WARNING
    assert found.detail == f"team/llama: {owner}, it is left as it is"
    assert [method for method, *_ in api.requests] == ["GET"]


def test_one_that_this_release_has_made(api):
    config = release.config()
    api.add(release.CHECKPOINTS, {"spec": {}}, name="llama", labels=prewarm.labels(config))
    assert look(api, release.prewarm()).status is OK


@pytest.mark.parametrize(
    ("every", "annotations"), [(True, {"chrek.nvidia.com/prewarm": "true"}), (False, {})]
)
def test_nodes_fetch_it_ahead_if_that_is_wanted(every, annotations):
    config = release.config(prewarm=[release.prewarm(everyNode=every)])
    metadata = prewarm.body(config.prewarm[0], config)["metadata"]
    assert metadata["annotations"] == annotations
    assert metadata["labels"] == {
        "chrek.nvidia.com/release": "team-chrek",
        "app.kubernetes.io/managed-by": "chrek-hooks",
    }
