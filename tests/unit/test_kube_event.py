"""Events as the API server takes them."""

import json

import pytest

from chrek.kube import api
from fakes import watchable

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"namespace": "ns", "name": "p", "uid": "u", "labels": {}},
}


@pytest.fixture
async def server():
    async with watchable.Watchable() as made:
        yield made


async def post(server, **changed):
    fields = {
        "regarding": api.reference(POD),
        "type_": "Normal",
        "reason": "Restored",
        "note": "restored in 2.1 s",
        "component": "chrek-agent",
        "instance": "n1",
    }
    async with api.Client(api.Credentials(server=server.url, tls=None)) as connected:
        return await api.post_event(connected, **{**fields, **changed})


async def test_an_event(server):
    assert await post(server)
    _, path, _, body = server.requests[0]
    assert path == "/apis/events.k8s.io/v1/namespaces/ns/events"
    event = json.loads(body)
    reference = {"apiVersion": "v1", "kind": "Pod", "namespace": "ns", "name": "p", "uid": "u"}
    assert event["regarding"] == reference
    assert event["reportingController"] == "nvidia.com/chrek-agent"
    assert event["reportingInstance"] == "n1"
    assert (event["reason"], event["action"]) == ("Restored", "Restored")
    assert event["eventTime"].endswith("Z")


async def test_a_note_is_cut_to_a_kibibyte(server):
    await post(server, note="é" * 2000)
    note = json.loads(server.requests[0][3])["note"]
    assert len(note.encode()) <= 1024
    assert note.endswith("...")


async def test_an_event_that_is_refused_fails_nothing(server):
    server.refusals = [(403, "forbidden")]
    assert not await post(server)


async def test_an_event_whose_answer_was_lost_is_not_posted_twice(server, monkeypatch):
    monkeypatch.setattr("chrek.kube.persistence.FIRST_PAUSE_SECONDS", 0.01)
    server.refusals = [(500, "timed out"), (409, "already exists")]
    assert await post(server, patience_seconds=5)
    names = {json.loads(body)["metadata"]["name"] for _, _, _, body in server.requests}
    assert (len(server.requests), len(names)) == (2, 1)


async def test_without_patience_an_event_is_tried_once(server):
    server.refusals = [(503, "no")]
    assert not await post(server)
    assert len(server.requests) == 1
