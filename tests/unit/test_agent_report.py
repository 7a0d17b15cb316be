"""What the API server is told, and that telling never fails what is told."""

import asyncio
import datetime
import json

import pytest

from chrek import errors, names
from chrek.agent import report
from chrek.kube import api
from fakes import watchable
from fakes.projected import POD


@pytest.fixture
async def server():
    async with watchable.Watchable() as made:
        yield made


@pytest.fixture
async def reporter(server):
    async with api.Client(api.Credentials(server=server.url, tls=None)) as client:
        yield report.Reporter(client, "node-1")


def told(server):
    return [(method, path, json.loads(body)) for method, path, _, body in server.requests]


RESTORED = report.Start(
    outcome="restored",
    reason="Restored",
    message="restored 1.00 GB",
    uuid="u-1",
    variant="aaaa",
    steps={"criu": 0.5},
    seconds=0.6,
)


def cold(reason="Incompatible", message="", **fields):
    return report.Start(**{"outcome": "cold", "reason": reason, "message": message, **fields})


async def test_a_restored_pod(server, reporter):
    """The condition and the annotation, which the operator reads, cost one request."""
    reporter.start(POD, RESTORED)
    await reporter.drain()
    requests = {method: (path, body) for method, path, body in told(server)}
    assert len(server.requests) == 2
    path, event = requests["POST"]
    assert path == "/apis/events.k8s.io/v1/namespaces/ns/events"
    assert (event["type"], event["reason"], event["note"]) == (
        *("Normal", "Restored", "restored 1.00 GB"),
    )
    assert event["regarding"]["uid"] == "uid-1"
    assert event["reportingInstance"] == "node-1"
    path, patch = requests["PATCH"]
    assert path == "/api/v1/namespaces/ns/pods/p/status"
    assert patch["metadata"]["uid"] == "uid-1"
    (condition,) = patch["status"]["conditions"]
    assert condition["type"] == names.CONDITION_RESTORED
    assert (condition["status"], condition["reason"]) == ("True", "Restored")
    start = json.loads(patch["metadata"]["annotations"][names.ANNOTATION_START])
    assert start == {
        "outcome": "restored",
        "reason": "Restored",
        "message": "restored 1.00 GB",
        "uuid": "u-1",
        "variant": "aaaa",
        "at": condition["lastTransitionTime"],
        "steps": {"criu": 0.5},
        "seconds": 0.6,
    }
    assert datetime.datetime.fromisoformat(start["at"]).tzinfo is not None


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (names.Reason.CHECKPOINT_NOT_FOUND, "Normal"),
        (names.Reason.CHECKPOINT_NOT_READY, "Normal"),
        (names.Reason.INCOMPATIBLE, "Warning"),
        (names.Reason.CRIU_FAILED, "Warning"),
    ],
)
async def test_a_cold_start(server, reporter, reason, kind):
    reporter.start(POD, cold(reason, "why " * 1000))
    await reporter.drain()
    bodies = {method: body for method, _, body in told(server)}
    assert bodies["POST"]["type"] == kind
    (condition,) = bodies["PATCH"]["status"]["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", reason)
    assert len(condition["message"]) == 1024
    start = json.loads(bodies["PATCH"]["metadata"]["annotations"][names.ANNOTATION_START])
    assert (start["outcome"], start["uuid"], start["variant"]) == ("cold", "", "")
    assert len(start["message"]) == 1024


async def test_a_worker_that_died_is_restored_no_more(server, reporter):
    reporter.start(
        POD, cold("WorkerDied", "it died", outcome="unhealthy", at="2026-01-01T00:00:00Z")
    )
    await reporter.drain()
    bodies = {method: body for method, _, body in told(server)}
    assert bodies["POST"]["type"] == "Warning"
    (condition,) = bodies["PATCH"]["status"]["conditions"]
    assert condition["status"] == "False"
    assert condition["lastTransitionTime"] == "2026-01-01T00:00:00Z"


async def test_of_one_pod_the_last_report_stays(reporter, monkeypatch):
    """A slow answer to the first must not let it overtake the second."""
    begun, ended = [], []

    async def patch(version, plural, namespace, name, body, **_):
        start = json.loads(body["metadata"]["annotations"][names.ANNOTATION_START])
        begun.append(start["message"])
        await asyncio.sleep(0.05 / len(begun))
        ended.append(start["message"])

    monkeypatch.setattr(reporter._client, "patch", patch)
    for number in range(3):
        reporter.start(POD, cold(message=str(number)))
    await asyncio.sleep(0.01)
    assert begun == ["0"]
    await reporter.drain()
    assert ended == ["0", "1", "2"]


async def test_a_server_that_refuses_fails_nothing(server, reporter, caplog):
    server.refusals = [(422, "invalid")] * 2
    reporter.start(POD, RESTORED)
    await reporter.drain()
    assert {r.getMessage() for r in caplog.records} >= {"cannot report a start on its pod"}


RESULT = {"uuid": "u", "bytes": 7, "steps": {"dump": 1.5}}


async def test_the_result_of_a_capture(server, reporter):
    await reporter.result(POD, RESULT)
    ((method, path, body),) = told(server)
    assert (method, path) == ("PATCH", "/api/v1/namespaces/ns/pods/p")
    assert body["metadata"]["uid"] == "uid-1"
    assert json.loads(body["metadata"]["annotations"][names.ANNOTATION_RESULT]) == RESULT


@pytest.fixture
def naps(monkeypatch):
    """Waiting takes no time here; how long it would have been, in seconds."""
    taken = []
    sleep = asyncio.sleep

    async def nap(seconds):
        taken.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", nap)
    return taken


async def test_a_result_is_tried_again(server, reporter, naps):
    server.refusals = [(503, "busy")] * 3
    await reporter.result(POD, RESULT)
    assert len(server.requests) == 4
    assert naps == sorted(naps)


async def test_a_start_is_told_once_the_server_is_back(server, reporter, naps):
    server.refusals = [(503, "no leader")] * 5
    reporter.start(POD, RESTORED)
    await reporter.drain()
    taken = told(server)[5:]
    assert sorted(method for method, _, _ in taken) == ["PATCH", "POST"]
    events = {body["metadata"]["name"] for method, _, body in told(server) if method == "POST"}
    assert len(events) == 1, "the same Event each time"


@pytest.mark.parametrize("status", [404, 409, 422])
async def test_a_result_for_a_pod_that_is_gone_is_not(server, reporter, status):
    server.refusals = [(status, "no")]
    with pytest.raises(errors.ApiError) as caught:
        await reporter.result(POD, RESULT)
    assert caught.value.status == status
    assert len(server.requests) == 1
