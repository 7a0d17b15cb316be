"""The startup taint goes when the agent is ready, and nothing else of the node is touched."""

import asyncio
import json
import logging

import pytest
from aiohttp import web

from chrek import errors
from chrek.agent import taint
from chrek.kube import api, client
from fakes import jsonpatch

KEY = "chrek.nvidia.com/starting"
MINE = {"key": KEY, "effect": "NoSchedule"}
MINE_TOO = {"key": KEY, "value": "x", "effect": "NoExecute"}
GPU = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}
OTHER = {"key": f"{KEY}-too", "value": KEY, "effect": "NoSchedule"}


class Node:
    """An API server with one node."""

    def __init__(self):
        self.object = {"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.0.0.0/24"}}
        self.asked, self.patches = 0, []
        self.meanwhile, self.conflicts = [], 0
        self.refusals = {}

    @property
    def taints(self):
        return self.object["spec"].get("taints")

    @taints.setter
    def taints(self, found):
        self.object["spec"]["taints"] = found

    async def answer(self, request):
        if refusal := self.refusals.get(request.method):
            return web.json_response({"message": refusal[1]}, status=refusal[0])
        if request.path != "/api/v1/nodes/n1":
            return web.json_response({"message": "not found"}, status=404)
        if request.method == "GET":
            self.asked += 1
            return web.json_response(self.object)
        assert request.content_type == "application/json-patch+json"
        if self.conflicts:
            self.conflicts -= 1
            return web.json_response({"message": "has been modified"}, status=409)
        if self.meanwhile:
            self.meanwhile.pop(0)()
        try:
            changed = jsonpatch.applied(self.object, patch := json.loads(await request.read()))
        except jsonpatch.TestFailedError:
            return web.json_response({"message": "testing value failed"}, status=422)
        self.patches.append(patch)
        self.object = changed
        return web.json_response(changed)


@pytest.fixture
async def node():
    made = Node()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def connected(node, monkeypatch):
    monkeypatch.setattr(client.RANDOM, "uniform", lambda low, high: 0.001)
    async with api.Client(api.Credentials(server=node.url, tls=None)) as made:
        yield made


@pytest.fixture
def one(connected):
    return taint.Taint(connected, "n1", KEY, ready=lambda: True)


async def test_all_of_the_key_go_and_no_other(node, one):
    node.taints = [GPU, MINE, OTHER, MINE_TOO]
    assert await one.remove() == 2
    assert node.taints == [GPU, OTHER]
    assert node.object["spec"]["podCIDR"] == "10.0.0.0/24"


async def test_the_last_one(node, one):
    node.taints = [MINE]
    assert await one.remove() == 1
    assert "taints" not in node.object["spec"]


@pytest.mark.parametrize("found", [None, [], [GPU, OTHER]])
async def test_nothing_is_written_when_there_is_none(node, one, found):
    node.taints = found
    assert await one.remove() == 0
    assert node.patches == []
    assert node.taints == found


async def test_who_changes_taints_meanwhile_is_not_overwritten(node, one):
    node.taints = [MINE]
    node.meanwhile = [lambda: node.taints.append(GPU), lambda: node.taints.insert(0, OTHER)]
    assert await one.remove() == 1
    assert node.taints == [OTHER, GPU]
    assert node.asked == 3


async def test_another_has_taken_it_off_meanwhile(node, one):
    node.taints = [MINE, GPU]
    node.meanwhile = [lambda: node.taints.remove(MINE)]
    assert await one.remove() == 0
    assert node.taints == [GPU]


async def test_a_node_that_is_changed_each_time(node, one):
    node.taints = [MINE]
    node.meanwhile = [lambda: node.taints.append(GPU)] * 2 * taint.ATTEMPTS
    with pytest.raises(errors.ApiError) as caught:
        await one.remove()
    assert caught.value.status == 422
    assert node.asked == taint.ATTEMPTS
    assert MINE in node.taints


async def test_a_conflict_is_tried_again(node, one):
    node.taints = [MINE]
    node.conflicts = 2
    assert await one.remove() == 1
    assert node.asked == 3


@pytest.fixture
def quick(monkeypatch):
    for name in ("READY_SECONDS", "LOOK_SECONDS", "AGAIN_SECONDS"):
        monkeypatch.setattr(taint, name, 0.01)


async def until(true):
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


async def test_never_before_the_agent_is_ready(node, connected, quick):
    node.taints = [MINE, GPU]
    ready = []
    task = asyncio.create_task(taint.Taint(connected, "n1", KEY, ready=lambda: bool(ready)).run())
    await asyncio.sleep(0.1)
    assert node.asked == 0
    ready.append(True)
    await until(lambda: node.taints == [GPU])
    # It comes again while the agent runs: at once, but not while the agent is not ready.
    ready.clear()
    await asyncio.sleep(0.05)
    node.taints = [GPU, MINE]
    await asyncio.sleep(0.1)
    assert node.taints == [GPU, MINE]
    ready.append(True)
    await until(lambda: node.taints == [GPU])
    task.cancel()


@pytest.mark.parametrize(
    ("method", "status", "hint"),
    [
        ("GET", 403, "let the agent's service account get and patch nodes"),
        ("PATCH", 403, "let the agent's service account get and patch nodes"),
        ("PATCH", 500, "it is tried again"),
    ],
)
async def test_an_error_is_told_once(node, one, quick, caplog, method, status, hint):
    node.taints = [MINE]
    node.refusals = {method: (status, "no")}
    with caplog.at_level(logging.INFO):
        task = asyncio.create_task(one.run())
        await until(lambda: caplog.records)
        await asyncio.sleep(0.1)
        (record,) = caplog.records
        assert (record.levelname, record.key) == ("ERROR", KEY)
        assert f"{status}: no" in record.error
        assert record.hint.startswith(hint)
        node.refusals = {}
        await until(lambda: not node.taints)
        await until(lambda: len(caplog.records) == 2)
        assert caplog.records[1].message == "startup taint removed"
    task.cancel()
