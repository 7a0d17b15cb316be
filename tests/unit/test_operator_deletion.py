"""Deletion Jobs over a real connection: made once, followed, replaced when they failed."""

import msgspec
import pytest
import yaml

from chrek import config, errors, names
from chrek.kube import api, client
from chrek.operator import deletion
from fakes import api_server, operator

HASH = "0123456789abcdef"
JOBS = "/apis/batch/v1/namespaces/own/jobs"
PODS = "/api/v1/namespaces/own/pods"
TEMPLATE = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"labels": {"app.kubernetes.io/component": "deletion"}},
    "spec": {
        "template": {
            "spec": {"containers": [{"name": "prune", "command": ["chrek", "prune"]}]},
        }
    },
}


@pytest.fixture
def server():
    with api_server.ApiServer() as made:
        yield made


@pytest.fixture
async def connection(server):
    async with api.Client(api.Credentials(server=server.url, tls=None)) as made:
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(client.RANDOM, "uniform", lambda low, high: 0.001)


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "deletion-job.yaml"
    path.write_text(yaml.safe_dump(TEMPLATE))
    return msgspec.structs.replace(operator.SETTINGS, deletionJobPath=str(path))


@pytest.fixture
def deletions(connection, settings):
    return deletion.Deletions(connection, settings, own="own")


def only(server):
    (job,) = [o for path, o in server.objects.items() if path.startswith(f"{JOBS}/")]
    return job


def ends(server, kind, **condition):
    job = only(server)
    job["metadata"]["uid"] = f"uid-{server.version}"
    job["status"] = {"conditions": [{"type": kind, "status": "True", **condition}]}
    return job["metadata"]["name"]


async def test_a_job_is_made_from_the_charts_template(server, deletions):
    outcome = await deletions.run("team", [f"{HASH}/b/2", f"{HASH}/a/1"])
    job = only(server)
    name = job["metadata"]["name"]
    assert outcome == deletion.Outcome("running", f"Job own/{name} was created")
    assert job["metadata"]["namespace"] == "own"
    assert job["metadata"]["labels"] == {
        "app.kubernetes.io/component": "deletion",
        names.LABEL_DELETION: "true",
    }
    template = job["spec"]["template"]
    assert template["metadata"]["labels"] == {names.LABEL_DELETION: "true"}
    (container,) = template["spec"]["containers"]
    assert container["command"] == ["chrek", "prune"]
    assert container["args"] == ["--namespace=team", f"{HASH}/a/1", f"{HASH}/b/2"]


def test_the_name_says_what_is_deleted(deletions):
    name = deletions.name("team", ["b", "a"])
    assert name == deletions.name("team", ["a", "b"])
    assert len(name) == len("delete-") + 10
    others = [deletions.name("team", ["a"]), deletions.name("other", ["a", "b"])]
    assert name not in others


async def test_it_is_made_once_and_removed_when_it_is_complete(server, deletions):
    await deletions.run("team", [HASH])
    for _ in range(2):
        outcome = await deletions.run("team", [HASH])
        assert outcome.state == "running"
    assert [r[0] for r in server.requests].count("POST") == 1
    ends(server, "Complete")
    assert await deletions.run("team", [HASH]) == deletion.Outcome("done", f"1 deleted: {HASH}")
    assert server.objects == {}


async def test_a_failure_is_told_with_the_programs_words_then_tried_again(server, deletions):
    await deletions.run("team", [HASH])
    name = ends(server, "Failed", reason="BackoffLimitExceeded", message="too often")
    said = "deleted a 1 bytes\nerror: pods on 2 nodes are being restored\n  hint: run it again\n"
    for created, message in (("1", "older"), ("2", said)):
        ended = {"state": {"terminated": {"message": message}}}
        server.add(
            PODS,
            {"status": {"containerStatuses": [ended]}},
            name=f"{name}-{created}",
            labels={deletion.POD_LABEL: name},
            creationTimestamp=created,
        )
    outcome = await deletions.run("team", [HASH])
    assert outcome == deletion.Outcome(
        "failed", f"Job own/{name}: BackoffLimitExceeded: pods on 2 nodes are being restored"
    )
    # Its log can be read until the caller tries again.
    first = only(server)["metadata"]["uid"]
    assert (await deletions.run("team", [HASH])).state == "running"
    assert only(server)["metadata"].get("uid") != first


async def test_a_failure_without_words_tells_the_jobs(server, deletions):
    await deletions.run("team", [HASH])
    name = ends(server, "Failed", reason="DeadlineExceeded", message="took too long")
    server.refuse("GET", PODS, status=403, message="no")
    outcome = await deletions.run("team", [HASH])
    assert outcome.message == f"Job own/{name}: DeadlineExceeded: took too long"


async def test_an_operator_that_starts_again_tells_a_failure_once_more(
    server, deletions, connection
):
    await deletions.run("team", [HASH])
    ends(server, "Failed")
    assert (await deletions.run("team", [HASH])).state == "failed"
    again = deletion.Deletions(connection, deletions._settings, own="own")
    assert (await again.run("team", [HASH])).state == "failed"


async def test_a_job_that_is_being_removed_is_waited_for(server, deletions):
    await deletions.run("team", [HASH])
    only(server)["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    ends(server, "Complete")
    assert (await deletions.run("team", [HASH])).state == "running"


@pytest.mark.parametrize(
    ("status", "message", "state"),
    [
        (
            403,
            "unable to create new content in namespace own because it is being terminated",
            "done",
        ),
        (403, 'User "x" cannot create resource "jobs"', "failed"),
        (403, "exceeded quota: q", "failed"),
        (404, 'namespaces "own" not found', "failed"),
        (422, "spec.template: Invalid value", "failed"),
        (409, "exists", "running"),
    ],
)
async def test_what_the_api_server_says_to_a_job(server, deletions, status, message, state):
    server.refuse("POST", JOBS, status=status, message=message)
    outcome = await deletions.run("team", [HASH])
    assert outcome.state == state
    assert state != "failed" or message in outcome.message


@pytest.mark.parametrize(
    ("storage", "told"),
    [
        (config.Storage(), "namespace own is being deleted, with the volume"),
        (
            config.Storage(type="s3", s3=config.S3(uri="s3://bucket/p")),
            "namespace own is being deleted, and the files stay in s3://bucket/p",
        ),
        (
            config.Storage(type="oci", oci=config.Oci(uri="oci://r.io/p")),
            "namespace own is being deleted, and the files stay in oci://r.io/p",
        ),
    ],
)
async def test_the_namespace_goes(server, connection, settings, storage, told):
    server.refuse("POST", JOBS, status=403, message="because it is being terminated")
    settings = msgspec.structs.replace(settings, storage=storage)
    outcome = await deletion.Deletions(connection, settings, own="own").run("team", [HASH])
    assert (outcome.state, outcome.message) == ("done", told)


async def test_a_failure_that_passes_is_raised(server, deletions):
    server.refuse("POST", JOBS, status=500, message="etcd")
    with pytest.raises(errors.ApiError, match="etcd"):
        await deletions.run("team", [HASH])


@pytest.mark.parametrize("text", [None, "a: [", "{}", "spec: {template: {spec: {containers: []}}}"])
async def test_a_template_that_cannot_be_used_is_named(server, deletions, tmp_path, text):
    path = tmp_path / "deletion-job.yaml"
    path.unlink() if text is None else path.write_text(text)
    outcome = await deletions.run("team", [HASH])
    assert outcome.state == "failed"
    assert str(path) in outcome.message
    assert server.objects == {}


async def test_a_release_that_deletes_nothing_says_so(server, connection):
    keeping = deletion.Deletions(connection, operator.SETTINGS, own="own")
    outcome = await keeping.run("team", [HASH])
    assert outcome.state == "done"
    assert "kept" in outcome.message
    assert server.requests == []
