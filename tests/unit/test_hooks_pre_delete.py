import threading

import pytest

from chrek import names
from chrek.checks import report
from chrek.hooks import pre_delete, program
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
JOBS = "/apis/batch/v1/namespaces/{}/jobs"
CHECKPOINTS = "/apis/nvidia.com/v1alpha1/namespaces/{}/dynamocheckpoints"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/team/leases"
SCALE = f"{release.DEPLOYMENTS}/chrek-operator/scale"
OWNER = {"apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoCheckpoint", "name": "a", "uid": "1"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(pre_delete, "POLL_SECONDS", 0.01)


@pytest.fixture
def api():
    """A release that serves two namespaces; its operator ends when it is told to."""
    with api_server.ApiServer() as server:
        server.objects[SCALE] = {"metadata": {"name": "chrek-operator"}, "spec": {"replicas": 2}}
        for name in ("x", "y"):
            server.add(release.PODS, {}, name=name, labels=release.OPERATOR_LABELS)

        def scaled(path, body):
            if path == SCALE and body["spec"]["replicas"] == 0:
                for name in ("x", "y"):
                    server.objects.pop(f"{release.PODS}/{name}", None)

        server.on_patch = scaled
        yield server


def checkpoint(api, name, *finalizers, namespace="team", **metadata):
    return api.add(
        CHECKPOINTS.format(namespace),
        {"spec": {"identity": {}}},
        name=name,
        finalizers=list(finalizers),
        resourceVersion="1",
        **metadata,
    )


def job(api, name, *, namespace="team", owner=OWNER, ended="", labels=pre_delete.CAPTURES):
    conditions = [{"type": ended, "status": "True"}] if ended else []
    return api.add(
        JOBS.format(namespace),
        {"status": {"conditions": conditions}},
        name=name,
        labels=dict(labels),
        ownerReferences=[owner],
    )


def clean_up(api, directory, **changes):
    changes.setdefault("watchNamespaces", ["team", "other"])
    context = program.Context(release.connect(api), release.config(**changes), directory)
    return {outcome.name: outcome for outcome in pre_delete.clean_up(context)}


def finalizers(api, name, namespace="team"):
    return api.objects[f"{CHECKPOINTS.format(namespace)}/{name}"]["metadata"]["finalizers"]


def test_finalizers_go_and_checkpoints_stay(api, tmp_path):
    checkpoint(api, "a", names.FINALIZER)
    checkpoint(api, "b", "example.com/theirs", names.FINALIZER, namespace="other")
    checkpoint(api, "c", namespace="other")
    found = clean_up(api, tmp_path)
    assert {outcome.status for outcome in found.values()} == {report.Status.OK}
    assert finalizers(api, "a") == []
    assert finalizers(api, "b", "other") == ["example.com/theirs"]
    assert found["checkpoints in other"].detail == "finalizer taken off 1 of 2"
    patches = [path for method, path, _, _ in api.requests if method == "PATCH"]
    assert len(patches) == 3


def test_it_says_what_stays_and_how_to_remove_it(api, tmp_path):
    checkpoint(api, "a", names.FINALIZER)
    kept = clean_up(api, tmp_path)["kept"]
    assert kept.detail == "1 DynamoCheckpoints, artifacts in claim team/chrek-pvc"
    assert "kubectl delete dynamocheckpoints --all -n team; " in kept.hint
    assert kept.hint.endswith("kubectl delete pvc chrek-pvc -n team")
    assert "-n other" not in kept.hint


def test_it_says_what_stays_on_a_server():
    kept = pre_delete.told(release.config(server={"uri": "s3://bucket/p"}), {"team": 0})
    assert kept.detail == "0 DynamoCheckpoints, artifacts in s3://bucket/p"
    assert kept.hint.endswith(
        "to remove them: what is below s3://bucket/p, with a client of that server"
    )


def test_the_operator_is_gone_before_anything_else_happens(api, tmp_path):
    checkpoint(api, "a", names.FINALIZER)
    told = api.on_patch
    api.on_patch = lambda path, body: threading.Timer(0.2, told, [path, body]).start()
    clean_up(api, tmp_path)
    writes = [path for method, path, _, _ in api.requests if method != "GET"]
    assert writes[0] == SCALE
    looks = [path for method, path, _, _ in api.requests if path == release.PODS]
    assert len(looks) > 2
    assert api.objects[SCALE]["spec"]["replicas"] == 0


def test_an_operator_that_does_not_end_is_told_about(api, tmp_path, monkeypatch):
    monkeypatch.setattr(pre_delete, "OPERATOR_SECONDS", 0.05)
    api.on_patch = lambda path, body: None
    checkpoint(api, "a", names.FINALIZER)
    found = clean_up(api, tmp_path)
    assert found["operator"].status is report.Status.WARNING
    assert "x, y" in found["operator"].detail
    assert finalizers(api, "a") == []


@pytest.mark.parametrize("operator", ["chrek-operator", ""])
def test_a_release_without_an_operator(api, tmp_path, operator):
    del api.objects[SCALE]
    checkpoint(api, "a", names.FINALIZER)
    found = clean_up(api, tmp_path, operatorName=operator)
    assert not report.failures(found.values())
    assert ("operator" in found) == bool(operator)
    assert finalizers(api, "a") == []


def test_captures_under_way_are_stopped(api, tmp_path):
    job(api, "running")
    job(api, "elsewhere", namespace="other")
    job(api, "complete", ended="Complete")
    job(api, "failed", ended="Failed")
    job(api, "a-users", owner={**OWNER, "apiVersion": "batch/v1", "kind": "CronJob"})
    job(api, "a-platforms", labels={names.LABEL_SOURCE: "true"})
    found = clean_up(api, tmp_path)
    left = [path.rpartition("/")[2] for path in api.objects if "/jobs/" in path]
    assert left == ["complete", "failed", "a-users", "a-platforms"]
    assert found["captures in team"].detail == "1 stopped"


def test_nothing_of_the_release_is_left_in_its_namespace(api, tmp_path):
    job(api, "delete-1", labels=pre_delete.DELETIONS)
    for name in ("team-chrek.team.0123456789abcdef", "team-chrek2.team.0", "chrek-operator"):
        api.add(LEASES, {}, name=name)
    for name in ("chrek-test-round-trip", "a-users"):
        api.add(release.PODS, {}, name=name)
    assert clean_up(api, tmp_path)["leftovers"].detail.startswith("3 deleted")
    left = {path.rpartition("/")[2] for path in api.objects} - {"scale"}
    assert left == {"team-chrek2.team.0", "chrek-operator", "a-users"}


def test_again_it_finds_nothing_to_do(api, tmp_path):
    checkpoint(api, "a", names.FINALIZER)
    job(api, "running")
    clean_up(api, tmp_path)
    before = {path: value for path, value in api.objects.items() if path != SCALE}
    found = clean_up(api, tmp_path)
    assert {outcome.status for outcome in found.values()} == {report.Status.OK}
    assert {path: value for path, value in api.objects.items() if path != SCALE} == before


def test_somebody_else_writes_at_the_same_moment(api, tmp_path):
    item = checkpoint(api, "a", names.FINALIZER)
    path = f"{CHECKPOINTS.format('team')}/a"
    told = api.on_patch
    others = iter(["example.com/first", "example.com/second"])

    def patched(where, body):
        told(where, body)
        if where == path and (other := next(others, "")):
            item["metadata"]["resourceVersion"] += "1"
            item["metadata"]["finalizers"].append(other)

    api.on_patch = patched
    found = clean_up(api, tmp_path)
    assert not report.failures(found.values())
    assert finalizers(api, "a") == ["example.com/first", "example.com/second"]


def test_a_finalizer_that_stays_fails_with_a_way_out(api, tmp_path):
    checkpoint(api, "a", names.FINALIZER)
    checkpoint(api, "b", names.FINALIZER)
    path = f"{CHECKPOINTS.format('team')}/a"
    api.refuse("PATCH", path, status=422, message="spec.identity is invalid")
    (failed,) = report.failures(clean_up(api, tmp_path).values())
    assert failed.detail.startswith("1 keep their finalizer, a among them: ")
    assert "spec.identity is invalid" in failed.detail
    assert "kubectl patch dynamocheckpoints a -n team --type=json -p " in failed.hint
    assert finalizers(api, "b") == []


def test_time_is_over(api, tmp_path, monkeypatch):
    monkeypatch.setattr(pre_delete, "DEADLINE_SECONDS", -1.0)
    checkpoint(api, "a", names.FINALIZER)
    (failed,) = report.failures(clean_up(api, tmp_path).values())
    assert "no time left" in failed.detail


def test_a_namespace_that_is_gone_holds_nothing_up(api, tmp_path):
    """Its Role went with it, so that the API server refuses."""
    api.refuse("GET", JOBS.format("other"), status=403, message="forbidden")
    checkpoint(api, "a", names.FINALIZER)
    found = clean_up(api, tmp_path, watchNamespaces=["other", "team"])
    assert found["namespace other"].status is report.Status.WARNING
    assert not report.failures(found.values())
    assert finalizers(api, "a") == []


def test_crds_that_are_gone_hold_nothing_up(api, tmp_path):
    for namespace in ("team", "other"):
        api.refuse("GET", CHECKPOINTS.format(namespace), status=404, message="not found")
    found = clean_up(api, tmp_path)
    assert {outcome.status for outcome in found.values()} == {report.Status.OK}
