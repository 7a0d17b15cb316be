import pytest

from chrek import errors
from chrek.checks import report
from chrek.hooks import prewarm
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
URL = f"{release.CHECKPOINTS}/llama"
NAME = "prewarm team/llama"
OURS = {
    "chrek.nvidia.com/release": "team-chrek",
    "app.kubernetes.io/managed-by": "chrek-hooks",
}


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


def write(api, *wanted, **changes):
    return prewarm.write(release.connect(api), release.config(prewarm=[*wanted], **changes))


def test_one_is_made_and_then_left_alone(api):
    assert write(api, release.prewarm()) == [report.ok(NAME, "created")]
    made = api.objects[URL]
    assert made["kind"] == "DynamoCheckpoint"
    assert made["metadata"]["labels"] == OURS
    assert made["metadata"]["annotations"] == {"chrek.nvidia.com/prewarm": "true"}
    assert made["spec"] == release.prewarm()["spec"]
    version = made["metadata"]["resourceVersion"]
    assert write(api, release.prewarm()) == [report.ok(NAME, "unchanged")]
    assert api.objects[URL]["metadata"]["resourceVersion"] == version
    # A manager of its own: fields that others set are theirs.
    managers = {query.get("fieldManager") for m, _, query, _ in api.requests if m == "PATCH"}
    assert managers == {"chrek-prewarm"}


def test_one_changes_with_the_values(api):
    write(api, release.prewarm())
    assert write(api, release.prewarm(everyNode=False)) == [report.ok(NAME, "changed")]
    assert api.objects[URL]["metadata"]["annotations"] == {}


def test_a_change_that_the_api_server_refuses(api):
    api.refuse("PATCH", URL, status=422, message="the identity of a checkpoint cannot change")
    (found,) = write(api, release.prewarm())
    assert found.status is report.Status.FAILED
    assert "the identity of a checkpoint cannot change" in found.detail
    assert "another name" in found.hint


def test_one_of_somebody_else_is_left_alone(api):
    api.add(release.CHECKPOINTS, {"spec": {"a": 1}}, name="llama")
    (found,) = write(api, release.prewarm())
    assert found.status is report.Status.WARNING
    assert found.detail == "exists and was not made by this release, left as it is"
    assert api.objects[URL]["spec"] == {"a": 1}
    assert write(api) == []
    assert URL in api.objects


def test_one_that_is_being_deleted(api):
    api.add(release.CHECKPOINTS, {"spec": {}}, name="llama", labels=OURS, deletionTimestamp="now")
    (found,) = write(api, release.prewarm())
    assert found.status is report.Status.WARNING
    assert "run helm upgrade chrek -n team again" in found.hint
    assert write(api) == []


def test_one_that_left_the_values_is_deleted(api):
    write(api, release.prewarm(), release.prewarm(name="qwen"))
    found = write(api, release.prewarm(name="qwen"))
    assert [(one.name, one.detail) for one in found] == [
        ("prewarm team/qwen", "unchanged"),
        (NAME, "no longer listed; removed"),
    ]
    assert list(api.objects) == [f"{release.CHECKPOINTS}/qwen"]


def test_one_that_is_to_be_retained_is_kept_and_found_again(api):
    spec = {**release.prewarm()["spec"], "deletionPolicy": "Retain"}
    write(api, release.prewarm(spec=spec))
    kept = report.ok(NAME, "no longer listed; kept, since its deletionPolicy is Retain")
    assert write(api) == [kept]
    assert api.objects[URL]["metadata"]["labels"] == OURS
    assert write(api, release.prewarm(spec=spec)) == [report.ok(NAME, "unchanged")]


def test_those_of_another_release_are_not_deleted(api):
    other = {**OURS, "chrek.nvidia.com/release": "b-chrek"}
    api.add(release.CHECKPOINTS, {"spec": {}}, name="llama", labels=other)
    assert write(api) == []
    assert URL in api.objects


def test_every_namespace_that_is_served_is_looked_at(api):
    collection = release.CHECKPOINTS.replace("/team/", "/b/")
    api.add(collection, {"spec": {}}, name="llama", labels=OURS)
    found = write(api, watchNamespaces=["team", "b"])
    assert [one.name for one in found] == ["prewarm b/llama"]
    assert api.objects == {}


def test_a_cluster_without_the_kind(api):
    api.refuse("GET", release.CHECKPOINTS, status=404, message="not found")
    assert write(api) == []
    api.refuse("GET", release.CHECKPOINTS, status=500, message="etcd is gone")
    with pytest.raises(errors.ApiError, match="etcd is gone"):
        write(api)


def test_rights_that_are_missing_are_told_of_each(api):
    api.refuse("GET", URL, status=403, message="cannot get")
    api.refuse("GET", release.CHECKPOINTS, status=403, message="cannot list")
    made, removed = write(api, release.prewarm())
    assert (made.name, made.status) == (NAME, report.Status.FAILED)
    assert (removed.name, removed.status) == ("prewarm in team", report.Status.FAILED)
    assert "cannot list" in removed.detail
    assert "kubectl get role team-chrek-hooks -n team" in removed.hint


def test_without_an_operator_nothing_is_made(api):
    assert write(api, release.prewarm(), operatorName="") == []
    assert api.requests == []
