"""An informer's copy equals what is on the server, whatever happens to the connection."""

import asyncio
import contextlib

import pytest

from chrek.kube import api, client
from fakes import watchable


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(client, "backoff", lambda failures: 0.01)
    monkeypatch.setattr(client.RANDOM, "uniform", lambda low, high: 0.005)


@pytest.fixture
async def server():
    async with watchable.Watchable() as made:
        yield made


@contextlib.asynccontextmanager
async def following(server, project=lambda item: item.get("value", 0), **options):
    credentials = api.Credentials(server=server.url, tls=None)
    async with api.Client(credentials) as connected:
        made = api.Informer(connected, "/api/v1/pods", project=project, **options)
        task = asyncio.create_task(made.run())
        await asyncio.wait_for(made.synced.wait(), 5)
        yield made
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(true):
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.01)


async def test_it_knows_what_was_there_and_what_comes(server):
    for name in "abc":
        await server.put(name, value=1)
    async with following(server) as informer:
        assert dict(informer.items()) == {"ns/a": 1, "ns/b": 1, "ns/c": 1}
        await server.put("a", value=2)
        await server.delete("b")
        await until(lambda: informer.get("ns", "a") == 2 and informer.get("ns", "b") is None)
        assert informer.connected


async def test_changes_are_told_with_what_was_before(server):
    told = []
    await server.put("a", value=1)
    async with following(server, on_change=lambda *what: told.append(what)):
        await server.put("a", value=2)
        await server.delete("a")
        await until(lambda: len(told) == 3)
    assert told == [("ns/a", 1, None), ("ns/a", 2, 1), ("ns/a", None, 2)]


async def test_objects_that_are_projected_to_nothing_are_not_kept(server):
    told = []
    async with following(
        server,
        project=lambda item: item["value"] if item["value"] > 1 else None,
        on_change=lambda *what: told.append(what),
    ) as informer:
        await server.put("a", value=1)
        await server.put("a", value=2)
        await server.put("a", value=1)
        await until(lambda: len(told) == 2)
        assert informer.items() == []
    assert told == [("ns/a", 2, None), ("ns/a", None, 2)]


async def test_what_happened_while_the_history_was_lost_is_told(server):
    told = []
    await server.put("stays", value=1)
    await server.put("goes", value=1)
    async with following(server, on_change=lambda *what: told.append(what)) as informer:
        await asyncio.sleep(0.05)
        told.clear()
        server.refusals = [(503, "restarting")] * 3
        await server.cut()
        await server.put("comes", value=1)
        await server.delete("goes")
        server.forget_history()
        await until(lambda: informer.get("ns", "comes") and informer.get("ns", "goes") is None)
    assert sorted(told) == [("ns/comes", 1, None), ("ns/goes", None, 1)]


async def test_one_bad_object_hides_no_other(server):
    await server.put("bad")
    await server.put("good", value=1)
    async with following(server, project=lambda item: item["value"]) as informer:
        assert dict(informer.items()) == {"ns/good": 1}
