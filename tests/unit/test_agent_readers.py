"""Marks of readers on Leases: a deletion and a restore never miss each other."""

import asyncio
import datetime
import json
import urllib.parse

import pytest
from aiohttp import web

from chrek import errors, names
from chrek.agent import readers
from chrek.kube import api

HASH = "0123456789abcdef"
NAME = f"chrek-system-chrek.ns.{HASH}"
PATH = f"/apis/coordination.k8s.io/v1/namespaces/chrek-system/leases/{NAME}"
KEY = "chrek.nvidia.com/reading-35971be6"  # of node-1


class Leases:
    """An API server with Leases: applies make them, merge patches need them."""

    def __init__(self):
        self.leases = {}
        self.requests = []
        self.delay = 0.0
        self.refuse = 0

    async def answer(self, request):
        body = await request.json()
        self.requests.append(request)
        await asyncio.sleep(self.delay)
        if self.refuse:
            return web.json_response({"message": "no"}, status=self.refuse)
        made = request.content_type == "application/apply-patch+yaml"
        if not made and request.path not in self.leases:
            return web.json_response({"message": "not found"}, status=404)
        lease = self.leases.setdefault(request.path, {"metadata": {"annotations": {}}, "spec": {}})
        for key, value in body["metadata"]["annotations"].items():
            lease["metadata"]["annotations"][key] = value
            if value is None:
                del lease["metadata"]["annotations"][key]
        return web.json_response(json.loads(json.dumps(lease)))

    def marks(self):
        return self.leases[PATH]["metadata"]["annotations"]

    def held(self, holder, **spec):
        lease = {"metadata": {"annotations": {}}, "spec": {"holderIdentity": holder, **spec}}
        self.leases[PATH] = lease


@pytest.fixture
async def server():
    made = Leases()
    app = web.Application()
    app.router.add_route("PATCH", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def marks(server):
    async with api.Client(api.Credentials(server=server.url, tls=None)) as client:
        yield readers.Readers(
            client,
            "node-1",
            release="chrek-system-chrek",
            namespace="chrek-system",
            restore_seconds=300,
        )


def seconds_from_now(text):
    there = datetime.datetime.fromisoformat(text)
    return (there - datetime.datetime.now(datetime.UTC)).total_seconds()


async def test_a_reader_comes_and_goes(server, marks):
    await marks.enter("ns", HASH)
    (request,) = server.requests
    assert request.path == PATH
    query = urllib.parse.parse_qs(request.query_string)
    assert query == {"fieldManager": ["chrek-agent-node-1"], "force": ["true"]}
    ((key, expiry),) = server.marks().items()
    assert key == KEY
    assert 355 < seconds_from_now(expiry) <= 360
    marks.leave("ns", HASH)
    await marks.drain()
    assert server.marks() == {}


async def test_two_restores_of_one_node_share_a_mark(server, marks):
    await asyncio.gather(marks.enter("ns", HASH), marks.enter("ns", HASH))
    marks.leave("ns", HASH)
    await marks.drain()
    assert KEY in server.marks()
    marks.leave("ns", HASH)
    await marks.drain()
    assert KEY not in server.marks()


async def test_a_mark_is_not_taken_from_whoever_comes_next(server, marks):
    await marks.enter("ns", HASH)
    server.delay = 0.02
    marks.leave("ns", HASH)
    await marks.enter("ns", HASH)
    await marks.drain()
    assert KEY in server.marks()


async def test_a_lease_that_was_deleted_stays_so(server, marks):
    await marks.enter("ns", HASH)
    server.leases.clear()
    marks.leave("ns", HASH)
    await marks.drain()
    assert server.leases == {}


def ago(seconds):
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    return then.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# Made when the test runs: the time counts from then.
HELD = {
    "without an end": lambda: {},
    "lately renewed": lambda: {"renewTime": ago(0), "leaseDurationSeconds": 30},
    "past its end by little": lambda: {"renewTime": ago(60), "leaseDurationSeconds": 30},
    "an unreadable end": lambda: {"renewTime": "soon", "leaseDurationSeconds": 30},
}


@pytest.mark.parametrize("made", HELD.values(), ids=list(HELD))
async def test_a_deletion_was_there_first(server, marks, made):
    spec = made()
    server.held("deletion/delete-0123456789", **spec)
    with pytest.raises(errors.ArtifactError, match=f"{HASH} are being deleted") as caught:
        await marks.enter("ns", HASH)
    assert caught.value.reason == names.Reason.BEING_DELETED
    marks.leave("ns", HASH)
    await marks.drain()
    assert server.marks() == {}


@pytest.mark.parametrize("holder", ["deletion/delete-0123456789", "somebody", ""])
async def test_whoever_no_longer_deletes_stops_nobody(server, marks, holder):
    server.held(holder, renewTime=ago(3600), leaseDurationSeconds=30)
    await marks.enter("ns", HASH)
    assert KEY in server.marks()


@pytest.mark.parametrize("status", [403, 500])
async def test_a_server_that_does_not_take_the_mark_stops_nobody(server, marks, status, caplog):
    server.refuse = status
    await marks.enter("ns", HASH)
    marks.leave("ns", HASH)
    await marks.drain()
    assert "cannot mark an artifact as read" in {r.getMessage() for r in caplog.records}


async def test_a_server_that_does_not_answer_is_not_waited_for(server, marks, monkeypatch):
    monkeypatch.setattr(readers, "ANSWER_SECONDS", 0.05)
    server.delay = 1.0
    async with asyncio.timeout(0.5):
        await marks.enter("ns", HASH)
