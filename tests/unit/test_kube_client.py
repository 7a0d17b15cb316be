"""The API client over real connections: paths, errors, retries, watches."""

import asyncio
import email.utils
import json
import time

import pytest

from chrek import errors
from chrek.kube import api, client
from fakes import watchable


@pytest.fixture
async def server():
    async with watchable.Watchable() as made:
        yield made


@pytest.fixture
async def connected(server):
    credentials = api.Credentials(server=server.url, tls=None, token="secret-token")
    async with api.Client(credentials, user_agent="chrek-test") as made:
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(client, "backoff", lambda failures: 0.01)
    monkeypatch.setattr(client.RANDOM, "uniform", lambda low, high: 0.005)


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("v1", "pods"), "/api/v1/pods"),
        (("v1", "pods", "ns"), "/api/v1/namespaces/ns/pods"),
        (("v1", "pods", "ns", "p", "status"), "/api/v1/namespaces/ns/pods/p/status"),
        (("apps/v1", "deployments", "ns", "d"), "/apis/apps/v1/namespaces/ns/deployments/d"),
        (("nvidia.com/v1alpha1", "x", None, "a/b"), "/apis/nvidia.com/v1alpha1/x/a%2Fb"),
    ],
)
def test_paths(arguments, path):
    assert api.path(*arguments) == path


async def test_requests_say_who_asks(server, connected):
    await connected.create("v1", "pods", "ns", {"kind": "Pod"})
    method, path, headers, body = server.requests[0]
    assert (method, path, json.loads(body)) == (
        "POST",
        "/api/v1/namespaces/ns/pods",
        {"kind": "Pod"},
    )
    assert headers["Authorization"] == "Bearer secret-token"
    assert headers["User-Agent"] == "chrek-test"


@pytest.mark.parametrize(
    ("options", "media_type", "query"),
    [
        ({}, "application/merge-patch+json", ""),
        ({"kind": "strategic"}, "application/strategic-merge-patch+json", ""),
        ({"kind": "json"}, "application/json-patch+json", ""),
        (
            {"kind": "apply", "force": True},
            "application/apply-patch+yaml",
            "?fieldManager=chrek-test&force=true",
        ),
        ({"dry_run": True}, "application/merge-patch+json", "?dryRun=All"),
    ],
)
async def test_kinds_of_patches(server, connected, options, media_type, query):
    await connected.patch("v1", "pods", "ns", "p", {}, subresource="status", **options)
    method, path, headers, _ = server.requests[0]
    assert method == "PATCH"
    assert path == f"/api/v1/namespaces/ns/pods/p/status{query}"
    assert headers["Content-Type"] == media_type


async def test_a_refusal_has_the_words_of_the_server(server, connected):
    server.refusals = [(403, 'pods "p" is forbidden')]
    with pytest.raises(errors.ApiError) as caught:
        await connected.get("v1", "pods", "ns", "p")
    assert caught.value.status == 403
    assert str(caught.value) == 'GET /api/v1/namespaces/ns/pods/p: 403: pods "p" is forbidden'


async def test_what_is_not_there(server, connected):
    server.refusals = [(404, "not found")]
    assert await connected.find("v1", "pods", "ns", "p") is None


@pytest.mark.parametrize("status", [0, 429, 500, 503])
async def test_reads_are_tried_again(server, connected, status):
    server.refusals = [(status, "later"), (status, "later")]
    assert (await connected.list("v1", "pods"))["items"] == []


@pytest.mark.parametrize(("status", "requests"), [(429, 3), (500, 1), (503, 1), (0, 1), (409, 1)])
async def test_writes_are_tried_again_only_when_nothing_was_done(
    server, connected, status, requests
):
    server.refusals = [(status, "no")] * 5
    with pytest.raises(errors.ApiError) as caught:
        await connected.create("v1", "pods", "ns", {})
    assert caught.value.status == status
    assert len(server.requests) == requests


async def test_a_server_that_is_not_there():
    credentials = api.Credentials(server="http://127.0.0.1:9", tls=None)
    async with api.Client(credentials) as lonely:
        with pytest.raises(errors.ApiError, match="did not answer") as caught:
            await lonely.create("v1", "pods", "ns", {})
        assert caught.value.status == 0


async def test_a_list_in_pages(server, connected):
    for name in "abcde":
        await server.put(name)
    answer = await connected.list("v1", "pods", "ns")
    assert [item["metadata"]["name"] for item in answer["items"]] == list("abcde")
    assert len(server.requests) == 3


async def collect(connected, count, version="100"):
    seen = []
    watch = connected.watch("/api/v1/pods", resource_version=version)
    async for kind, item in watch:
        seen.append((kind, item["metadata"]["name"]))
        if len(seen) == count:
            break
    await watch.aclose()
    return seen


async def test_a_watch(server, connected):
    task = asyncio.create_task(collect(connected, 3))
    await server.put("a", text="x" * 100_000)
    await server.put("a")
    await server.delete("a")
    assert await asyncio.wait_for(task, 5) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


async def test_a_watch_that_is_cut_goes_on_where_it_was(server, connected):
    task = asyncio.create_task(collect(connected, 3))
    await server.put("a")
    await asyncio.sleep(0.05)
    await server.cut()
    await server.put("b")
    server.refusals = [(503, "starting"), (0, "")]
    await server.put("c")
    assert await asyncio.wait_for(task, 5) == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c")]


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_watch_that_is_refused_ends(server, connected, status):
    server.refusals = [(status, "no")]
    with pytest.raises(errors.ApiError) as caught:
        await asyncio.wait_for(collect(connected, 1), 5)
    assert caught.value.status == status


async def test_a_watch_whose_history_is_gone_ends(server, connected):
    await server.put("a")
    server.forget_history()
    with pytest.raises(errors.ApiError) as caught:
        await asyncio.wait_for(collect(connected, 1), 5)
    assert caught.value.status == 410


async def test_every_request_is_observed(server):
    seen = []
    credentials = api.Credentials(server=server.url, tls=None)
    async with api.Client(credentials, observe=lambda *asked: seen.append(asked)) as made:
        await made.create("v1", "pods", "ns", {"kind": "Pod"})
        await made.patch("v1", "pods", "ns", "p", {}, subresource="status")
        await made.patch("v1", "pods", "ns", "p", {}, dry_run=True)
    assert all(0 < seconds < 5 for *_, seconds in seen)
    assert [asked[:2] for asked in seen] == [
        ("POST", "/api/v1/namespaces/ns/pods"),
        ("PATCH", "/api/v1/namespaces/ns/pods/p/status"),
        ("DRY-RUN", "/api/v1/namespaces/ns/pods/p"),
    ]


async def test_the_servers_date_is_asked_once(server, connected):
    text = await connected.date()
    assert abs(email.utils.parsedate_to_datetime(text).timestamp() - time.time()) < 5
    assert [path for _, path, _, _ in server.requests] == ["/version"]
    server.refusals = [(503, "later"), (503, "later")]
    with pytest.raises(errors.ApiError):
        await connected.date()
    assert len(server.requests) == 2
