"""A checkpoint of one run and the pod that is restored from it, against an API server."""

import pytest

from chrek import errors
from chrek.hooks import trip_checkpoint
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
WORKER = {"spec": {"containers": [{"name": "main", "image": "chrek:1"}]}}
OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "test", "uid": "1"}


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        server.on_create = release.inject
        yield server


def checkpoint(api, name="trip"):
    return trip_checkpoint.Checkpoint(
        release.connect(api),
        WORKER,
        namespace="team",
        owners=[OWNER],
        name=name,
        timeout_seconds=70.5,
    )


def with_status(api, made, **status):
    made.create({})
    api.objects[made.path()]["status"] = status
    return made


def test_it_is_made_once_and_on_the_nodes_that_were_said(api):
    made = checkpoint(api)
    made.create({"n1": 100}, only=["n1", "n2"])
    body = api.objects[made.path()]
    assert body["metadata"]["name"] == made.hash
    assert body["metadata"]["ownerReferences"] == [OWNER]
    job = body["spec"]["job"]
    assert (job["activeDeadlineSeconds"], job["backoffLimit"]) == (70, 0)
    pod = job["podTemplateSpec"]["spec"]
    assert pod["containers"] == WORKER["spec"]["containers"]
    affinity = pod["affinity"]["nodeAffinity"]
    assert len(affinity["preferredDuringSchedulingIgnoredDuringExecution"]) == 1
    required = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    assert len(required["nodeSelectorTerms"]) == 2


def test_no_two_share_an_artifact(api):
    assert checkpoint(api).hash != checkpoint(api).hash


def test_names_tell_whose_pods_they_are(api):
    made = checkpoint(api, name="other")
    assert made.pod_name == f"other-{made.hash}"


def test_readiness(api):
    assert with_status(api, checkpoint(api), phase="Creating").ready_status() is None
    ready = with_status(api, checkpoint(api), phase="Ready", size="1 MiB")
    assert ready.ready_status()["size"] == "1 MiB"


@pytest.mark.parametrize(
    ("conditions", "cause"),
    [
        ([], ""),
        ([{"type": "Ready", "status": "False", "reason": "GpuPartitioned"}], "GpuPartitioned"),
    ],
)
def test_a_capture_that_failed(api, conditions, cause):
    made = with_status(api, checkpoint(api), phase="Failed", message="why", conditions=conditions)
    with pytest.raises(trip_checkpoint.CaptureFailed, match="the capture failed: why") as caught:
        made.status()
    assert (caught.value.reason, caught.value.cause) == ("JobFailed", cause)


def test_a_checkpoint_that_was_deleted(api):
    with pytest.raises(errors.ChrekError, match="was deleted during the test"):
        checkpoint(api).status()


@pytest.mark.parametrize("named", [False, True])
def test_the_pods_of_its_job(api, named):
    made = checkpoint(api)
    job = "another" if named else f"checkpoint-{made.hash}"
    with_status(api, made, phase="Creating", **({"jobName": job} if named else {}))
    assert made.sources() == []
    labels = {"batch.kubernetes.io/job-name": job}
    api.add(release.PODS, {"status": {}}, name="source", labels=labels)
    assert made.source_address() is None, "it does not answer"
    assert [pod["metadata"]["name"] for pod in made.sources()] == ["source"]


def test_pods_of_a_failed_capture_can_be_looked_at(api):
    made = with_status(api, checkpoint(api), phase="Failed")
    labels = {"batch.kubernetes.io/job-name": f"checkpoint-{made.hash}"}
    api.add(release.PODS, {"status": {}}, name="source", labels=labels)
    assert len(made.sources()) == 1
    with pytest.raises(trip_checkpoint.CaptureFailed):
        made.source_address()


@pytest.mark.parametrize("warm", [True, False])
def test_how_its_pod_started(api, warm):
    made = checkpoint(api)
    made.restore({"n1": 25}, only=["n1"])
    pod = api.objects[f"{release.PODS}/{made.pod_name}"]
    assert pod["metadata"]["annotations"]["nvidia.com/chrek-checkpoint"] == made.hash
    assert "requiredDuringSchedulingIgnoredDuringExecution" in str(pod["spec"]["affinity"])
    assert made.restored() is None
    reason = "Restored" if warm else "CriuFailed"
    said = {"type": "nvidia.com/Restored", "status": str(warm), "reason": reason, "message": "x"}
    pod["status"] = {"conditions": [said], "podIP": "10.0.0.1"}
    if warm:
        assert made.restored().address == "10.0.0.1"
        return
    with pytest.raises(errors.ChrekError, match="started cold: CriuFailed: x") as caught:
        made.restored()
    assert caught.value.reason == "CriuFailed"
