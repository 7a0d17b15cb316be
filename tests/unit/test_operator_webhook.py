"""What the webhook keeps in memory of checkpoints and of graphs."""

import asyncio
import contextlib

import msgspec
import pytest

from chrek import config
from chrek.kube import api
from chrek.operator import injection, platform, webhook
from fakes import operator, watchable

HASH = "5941a4cb3c363457"
IDENTITY = {"model": "meta-llama/Llama-3-8B", "backendFramework": "vllm", "dtype": "bfloat16"}


@pytest.fixture
async def server():
    async with watchable.Watchable() as made:
        yield made


@pytest.fixture
async def client(server):
    credentials = api.Credentials(server=server.url, tls=None, token="t")
    async with api.Client(credentials) as made:
        yield made


@contextlib.asynccontextmanager
async def running(follower, **options):
    task = asyncio.create_task(follower.run(**options))
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def checkpoint(*variants, command=()):
    container = {"name": "main", "image": "llama:1", "command": list(command)}
    job = {"podTemplateSpec": {"spec": {"containers": [container]}}}
    made = [{"name": name, "uuid": "u", "digest": "d"} for name in variants]
    return {"spec": {"identity": IDENTITY, "job": job}, "status": {"variants": made}}


async def test_checkpoints_by_name_and_by_hash(server, client):
    await server.put("a", **checkpoint("one"))
    await server.put("b", **checkpoint("two", command=["python3"]))
    async with running(webhook.Checkpoints(client, ["ns"])) as known:
        await until(known.synced)
        assert known.find("ns", "a").variants == {"one", "two"}, "artifacts are shared"
        assert known.find("ns", HASH).name == "b", "it has a command"
        assert known.find("ns", "a").command == ()
        assert known.find("ns", "c") is None
        assert known.find("other", "a") is None
        await server.delete("b")
        await until(lambda: known.find("ns", "b") is None)
        assert known.find("ns", HASH).variants == {"one"}


def detector(client, graphs):
    policy = config.Platform(graphs=graphs)
    return platform.Detector(client, msgspec.structs.replace(operator.SETTINGS, platform=policy))


SECTION = {"enabled": True, "checkpointRef": "my-ckpt"}
GRAPH = {"spec": {"services": {"VllmWorker": {"checkpoint": SECTION}, "Frontend": {}, "x": None}}}


async def test_services_by_the_label_of_their_pods(server, client):
    await server.put("llama", **GRAPH)
    await server.put("empty", spec={})
    found = injection.Service("VllmWorker", SECTION)
    async with running(webhook.Graphs(client, ["ns"], detector(client, "platform"))) as known:
        await until(known.synced)
        assert known.find("ns", "llama", "VllmWorker") == found
        assert known.find("ns", "llama", "vllmworker") == found
        assert known.find("ns", "llama", "Frontend") is None
        assert known.find("ns", "empty", "VllmWorker") is None
        assert known.find("ns", "another", "VllmWorker") is None
        assert known.find("other", "llama", "VllmWorker") is None


async def test_services_whose_names_differ_in_case_only(server, client):
    sections = {name: {"checkpoint": {"checkpointRef": name}} for name in ("worker", "Worker")}
    await server.put("llama", spec={"services": sections})
    async with running(webhook.Graphs(client, ["ns"], detector(client, "platform"))) as known:
        await until(known.synced)
        for name in ("worker", "Worker"):
            assert known.find("ns", "llama", name).name == name


async def test_graphs_are_followed_from_the_moment_that_the_platform_makes_them(server, client):
    await server.put("llama", **GRAPH)
    seen = detector(client, "auto")
    known = webhook.Graphs(client, ["ns"], seen)
    async with running(known, interval_seconds=0.01):
        await asyncio.sleep(0.05)
        assert known.synced(), "nothing to wait for"
        assert known.find("ns", "llama", "VllmWorker") is None
        assert server.requests == []
        seen.current = platform.Platform(graphs_foreign=True)
        await until(lambda: known.find("ns", "llama", "VllmWorker"))
        seen.current = platform.Platform()
        assert known.find("ns", "llama", "VllmWorker") is None
