"""Manifests and tags of a registry, over a real connection to a fake one."""

import json

import pytest

from chrek import errors
from chrek.registry import client, keyring, manifests, words
from fakes import registry as fake

ME = keyring.Credential("secret", "me", "hunter2")


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy of this machine, and no waiting between attempts."""
    fake.direct(monkeypatch)


@pytest.fixture
def server():
    with fake.Registry() as made:
        yield made


@pytest.fixture
async def connected(server):
    made = client.Client(server.host, plain_http=True, deadline=10.0, credential=ME)
    async with made:
        yield made


def text(server, **more):
    """A manifest of one blob."""
    one = {"mediaType": "a/b", "digest": server.blob(b"x"), "size": 1}
    return json.dumps({"schemaVersion": 2, "config": one, "layers": [one], **more}).encode()


async def put(connected, server, reference="t", raw=None, repository="acme/store"):
    raw = raw or text(server)
    digest = fake.digest(raw)
    await manifests.put(connected, repository, reference or digest, raw, digest)
    return digest


async def refused(work):
    with pytest.raises(errors.RegistryError) as raised:
        await work
    return raised.value


async def test_a_manifest_is_stored_under_its_tag(connected, server):
    digest = await put(connected, server)
    assert server.manifests["acme/store", "t"] == (fake.OCI_MANIFEST, text(server))
    assert ("acme/store", digest) in server.manifests
    assert server.requests[-1].headers["Content-Type"] == fake.OCI_MANIFEST


async def test_or_under_its_digest_alone(connected, server):
    digest = await put(connected, server, reference="")
    assert set(server.manifests) == {("acme/store", digest)}


async def test_what_is_passing_is_tried_again(connected, server):
    server.script["PUT /v2/"] = [(503, {}, b""), fake.reset()]
    await put(connected, server)
    assert ("acme/store", "t") in server.manifests


async def test_a_manifest_whose_blobs_are_gone(connected, server):
    raw = text(server)
    server.blobs.clear()
    err = await refused(put(connected, server, raw=raw))
    assert "acme/store/manifests/t: 400 MANIFEST_BLOB_UNKNOWN: blob unknown" in err.message
    assert not err.retryable


async def test_a_manifest_that_is_stored_as_another(connected, server):
    server.script["PUT /v2/"] = [(201, {"Docker-Content-Digest": "sha256:0"}, b"")]
    assert "it stored 'sha256:0', not sha256:" in (await refused(put(connected, server))).message


async def test_a_repository_that_is_not_there_has_no_tags(connected):
    assert await manifests.tags(connected, "acme/store") == []


@pytest.mark.parametrize("page", [1, 2, 7, 1000])
async def test_tags_page_by_page(connected, server, page):
    server.page = page
    names = [f"t{number}" for number in range(7)]
    for name in names:
        await put(connected, server, name)
    await put(connected, server, "elsewhere", repository="acme/store/ns/x")
    server.requests.clear()
    assert await manifests.tags(connected, "acme/store") == names
    assert len(server.requests) == -(-7 // page)
    assert server.requests[0].query == {"n": str(manifests.PAGE_TAGS)}


@pytest.mark.parametrize(
    "link",
    [
        "<{url}/v2/acme/store/tags/list?last=t0>; rel=next",
        '</v2/acme/store/tags/list?last=t0>; rel="next"',
        '<list?last=t0>; title="x"; rel="next"',
    ],
)
async def test_spellings_of_where_there_are_more(connected, server, link):
    await put(connected, server, "t1")
    body = b'{"name": "acme/store", "tags": ["t0"]}'
    server.script["GET /v2/"] = [(200, {"Link": link.format(url=server.url)}, body)]
    assert await manifests.tags(connected, "acme/store") == ["t0", "t1"]


async def test_other_links_lead_nowhere(connected, server):
    link = {"Link": '</v2/x>; rel="prev", </v2/y>; rel="nextish"'}
    server.script["GET /v2/"] = [(200, link, b'{"tags": ["t0"]}')]
    assert await manifests.tags(connected, "acme/store") == ["t0"]


async def test_a_credential_does_not_follow_a_list_to_another_host(server):
    server.users, server.scheme = {"me": "hunter2"}, "basic"
    with fake.Registry() as other:
        other.script["GET /"] = [(200, {}, b'{"tags": ["stolen"]}')]
        link = {"Link": f'<{other.url}/more>; rel="next"'}
        challenge = {"WWW-Authenticate": "Basic realm=x"}
        server.script["GET /v2/"] = [(401, challenge, b""), (200, link, b'{"tags": ["t0"]}')]
        async with client.Client(server.host, plain_http=True, credential=ME) as made:
            await manifests.tags(made, "acme/store")
        assert [one.authorization for one in other.requests] == [""]
    assert server.requests[-1].authorization == ME.basic()


@pytest.mark.parametrize("body", [b'{"tags": null}', b"{}"])
async def test_a_repository_without_tags(connected, server, body):
    server.script["GET /v2/"] = [(200, {}, body)]
    assert await manifests.tags(connected, "acme/store") == []


@pytest.mark.parametrize("body", [b"", b"[]", b'{"tags": [1]}', b"\xff"])
async def test_what_is_no_list_of_tags(connected, server, body):
    server.script["GET /v2/"] = [(200, {}, body)]
    err = await refused(manifests.tags(connected, "acme/store"))
    assert "acme/store/tags/list: it is no list of tags" in err.message


async def test_a_list_that_has_no_end(connected, server, monkeypatch):
    monkeypatch.setattr(manifests, "MOST_PAGES", 5)
    link = {"Link": '<list>; rel="next"'}
    server.script["GET /v2/"] = [(200, link, b'{"tags": ["t"]}')] * 9
    err = await refused(manifests.tags(connected, "acme/store"))
    assert "more than 5 pages" in err.message
    assert len(server.requests) == 5


async def test_a_list_that_is_too_long(connected, server, monkeypatch):
    monkeypatch.setattr(manifests, "MOST_TAGS", 5)
    link = {"Link": '<list>; rel="next"'}
    server.script["GET /v2/"] = [(200, link, b'{"tags": ["a", "b", "c"]}')] * 9
    err = await refused(manifests.tags(connected, "acme/store"))
    assert "more than 5 tags" in err.message
    assert len(server.requests) == 2


async def test_a_list_that_is_gone_in_its_middle(connected, server):
    """Half a list must not be taken for all of it."""
    link = {"Link": '<list>; rel="next"'}
    server.script["GET /v2/"] = [(200, link, b'{"tags": ["t"]}')]
    assert (await refused(manifests.tags(connected, "acme/store"))).status == 404


async def test_a_404_of_something_else_is_no_empty_list(connected, server):
    server.script["GET /v2/"] = [(404, {}, b"<html>default backend</html>")]
    assert (await refused(manifests.tags(connected, "acme/store"))).status == 404


async def test_a_deleted_manifest_is_gone_with_its_tag(connected, server):
    digest = await put(connected, server)
    await manifests.delete(connected, "acme/store", digest)
    assert server.manifests == {}
    await manifests.delete(connected, "acme/store", digest)


async def test_a_token_for_deleting(server):
    server.users, server.scoped = {"me": "hunter2"}, True
    raw = text(server)
    server.put("acme/store", "t", fake.OCI_MANIFEST, raw)
    async with client.Client(server.host, plain_http=True, credential=ME) as made:
        await manifests.tags(made, "acme/store")
        await manifests.delete(made, "acme/store", fake.digest(raw))
    tokens = [one.scopes for one in server.requests if one.path == "/token"]
    assert tokens == [["repository:acme/store:pull"], ["repository:acme/store:delete"]]


async def test_deletions_that_are_disabled(connected, server):
    digest = await put(connected, server)
    server.deletes = False
    err = await refused(manifests.delete(connected, "acme/store", digest))
    assert err.status == 405
    assert "405 UNSUPPORTED: The operation is unsupported." in err.message
    assert "REGISTRY_STORAGE_DELETE_ENABLED=true" in err.hint
    assert "artifacts stay" in err.hint
    assert ("acme/store", "t") in server.manifests


async def test_a_registry_that_says_so_with_another_status(connected, server):
    body = b'{"errors": [{"code": "UNSUPPORTED", "message": "no"}]}'
    server.script["DELETE /v2/"] = [(400, {}, body), (403, {}, b"")]
    for hint in (words.NO_DELETION, words.HINTS["403"]):
        assert (await refused(manifests.delete(connected, "acme/store", "t"))).hint == hint
