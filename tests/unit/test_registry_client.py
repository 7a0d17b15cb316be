"""Requests to a registry, over a real connection to a fake one."""

import asyncio
import email.utils
import json
import math
import socket
import time

import pytest

from chrek import errors, retries
from chrek.registry import client, keyring, reference
from fakes import registry as fake

RUN = {"Entrypoint": ["/bin/worker"], "Cmd": ["--port", "8000"]}
ME = keyring.Credential("secret ns/pull", "me", "hunter2")


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy of this machine, and no waiting between attempts."""
    fake.direct(monkeypatch)


@pytest.fixture
def server():
    with fake.Registry() as made:
        yield made


@pytest.fixture
def other():
    with fake.Registry() as made:
        yield made


def connect(server, credential=None, **options):
    options = {"plain_http": True, "deadline": 10.0, **options}
    return client.Client(server.host, credential=credential, **options)


def image(server, rest="acme/worker:2"):
    return reference.parse(f"{server.host}/{rest}")


async def config(server, credential=None, **options):
    """The configuration of acme/worker:2."""
    async with connect(server, credential, **options) as made:
        answer = await made.manifest(image(server))
        raw = await made.blob("acme/worker", answer.manifest.config, limit=4 << 20)
        return json.loads(raw)["config"]


async def refused(server, credential=None, **options):
    with pytest.raises(errors.RegistryError) as raised:
        await config(server, credential, **options)
    assert "hunter2" not in str(raised.value)
    return raised.value


async def test_a_manifest_and_its_configuration(server):
    stored = server.image("acme/worker", "2", RUN)
    assert await config(server) == RUN
    first = server.requests[0]
    assert first.path == "/v2/acme/worker/manifests/2"
    wanted = {fake.OCI_INDEX, fake.OCI_MANIFEST, fake.DOCKER_LIST, fake.DOCKER_MANIFEST}
    assert set(first.headers["Accept"].split(", ")) == wanted
    assert first.headers["User-Agent"].startswith("chrek/")
    assert not any(one.authorization for one in server.requests)
    async with connect(server) as made:
        assert (await made.manifest(image(server))).digest == stored["digest"]
        assert await made.digest(image(server)) == stored["digest"]
        by_digest = image(server, f"acme/worker@{stored['digest']}")
        assert (await made.manifest(by_digest)).digest == stored["digest"]


async def test_an_index_says_for_which_platforms(server):
    one = server.image("acme/worker", "amd64", RUN)
    server.index("acme/worker", "2", [(fake.LINUX, one)])
    async with connect(server) as made:
        (part,) = (await made.manifest(image(server))).manifest.manifests
    assert (part.digest, part.platform) == (one["digest"], fake.LINUX)


async def test_basic_proof_is_given_when_it_is_asked_for(server):
    server.image("acme/worker", "2", RUN)
    server.users, server.scheme = {"me": "hunter2"}, "basic"
    assert await config(server, ME) == RUN
    assert [bool(one.authorization) for one in server.requests] == [False, True, True]


async def test_a_token_is_fetched_once_for_a_repository(server):
    server.image("acme/worker", "2", RUN)
    server.users = {"me": "hunter2"}
    assert await config(server, ME) == RUN
    paths = [one.path for one in server.requests]
    assert paths.count("/token") == 1
    (asked,) = [one for one in server.requests if one.path == "/token"]
    assert asked.query == {"service": "fake", "scope": "repository:acme/worker:pull"}
    assert asked.authorization == ME.basic()
    others = [one for one in server.requests if one.path != "/token"]
    assert {one.authorization for one in others} == {"", f"Bearer {server.token}"}


async def test_a_token_that_has_expired_is_fetched_again(server):
    server.image("acme/worker", "2", RUN)
    server.users = {"me": "hunter2"}
    async with connect(server, ME) as made:
        await made.manifest(image(server))
        server.token = "another"
        assert (await made.manifest(image(server))).manifest.config


async def test_anonymous_tokens(server):
    """Public images of Docker Hub and others want a token, but no user."""
    server.image("acme/worker", "2", RUN)
    server.users = {"me": "hunter2"}
    server.token = "anonymous repository:acme/worker:pull"
    assert await config(server) == RUN
    assert not next(one for one in server.requests if one.path == "/token").authorization


async def test_an_identity_token_is_exchanged(server):
    server.image("acme/worker", "2", RUN)
    server.users, server.refresh_tokens = {"me": "hunter2"}, {"hunter2-refresh"}
    one = keyring.Credential("s", "00000000", "", "hunter2-refresh")
    assert await config(server, one) == RUN
    (asked,) = [one for one in server.requests if one.path == "/token"]
    assert asked.method == "POST"
    assert b"grant_type=refresh_token" in asked.body
    assert not asked.authorization


async def test_a_wrong_password(server):
    server.image("acme/worker", "2", RUN)
    server.users = {"me": "other"}
    err = await refused(server, ME)
    assert (err.status, err.denied) == (401, True)
    assert "incorrect username or password" in err.message
    assert "pull secret" in err.hint
    assert server.count("GET", "/token") == 1, "it is not tried again"
    server.scheme = "basic"
    err = await refused(server, ME)
    assert "401 UNAUTHORIZED: authentication required" in err.message


@pytest.mark.parametrize("challenge", ["", "Negotiate", "Bearer service=x", "Basic"])
async def test_proof_that_cannot_be_given(server, challenge):
    server.image("acme/worker", "2", RUN)
    server.users, server.challenge = {"me": "hunter2"}, challenge
    assert (await refused(server)).denied
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "realm", ["ftp://x/token", "/token", "http://", "https://u:p@x/token", "http://[", "x"]
)
async def test_credentials_go_to_no_odd_token_server(server, realm):
    server.image("acme/worker", "2", RUN)
    server.users, server.realm = {"me": "hunter2"}, realm
    assert "token server" in (await refused(server, ME)).message


async def test_tls_is_spoken_unless_told_otherwise(server):
    err = await refused(server, plain_http=False, deadline=1.0)
    assert (err.status, server.requests) == (0, [])
    assert "plainHttpRegistries" in err.hint


async def test_a_credential_does_not_follow_a_blob_to_another_host(server, other):
    server.image("acme/worker", "2", RUN)
    server.users, server.blobs_at, other.blobs = {"me": "hunter2"}, other.url, server.blobs
    for scheme in ("bearer", "basic"):
        server.scheme = scheme
        assert await config(server, ME) == RUN
    assert len(other.requests) == 2
    assert not any(one.authorization for one in other.requests)


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Bearer realm="{}/token",service="x"'])
async def test_nor_does_another_host_get_one_by_asking(server, other, challenge):
    server.image("acme/worker", "2", RUN)
    server.users, server.blobs_at = {"me": "hunter2"}, other.url
    asked = {"WWW-Authenticate": challenge.format(other.url)}
    other.script["/elsewhere/"] = [(401, asked, b"")]
    assert (await refused(server, ME)).status == 401
    assert len(other.requests) == 1
    assert not any(one.authorization for one in other.requests)


async def test_redirects_within_the_registry_keep_the_proof(server):
    server.image("acme/worker", "2", RUN)
    server.users, server.scheme, server.blobs_at = {"me": "hunter2"}, "basic", ""
    server.manifests["acme/old", "2"] = server.manifests["acme/worker", "2"]
    moved = {"Location": "/v2/acme/old/manifests/2"}
    server.script["/v2/acme/worker/manifests/"] = [
        (401, {"WWW-Authenticate": 'Basic realm="x"'}, b""),
        (307, moved, b""),
    ]
    assert await config(server, ME) == RUN


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("file:///etc/passwd", "redirects to file:"),
        ("http://[", "it redirects to 'http://['"),
        ("?again", "more than 5 redirects"),
    ],
)
async def test_redirects_that_lead_nowhere(server, target, message):
    server.script["/v2/"] = [(302, {"Location": target}, b"")] * 9
    assert message in (await refused(server)).message


async def test_what_is_passing_is_tried_again(server, monkeypatch):
    told = []
    monkeypatch.setattr(retries, "_listeners", [told.append])
    server.image("acme/worker", "2", RUN)
    server.users = {"me": "hunter2"}
    server.script["/v2/acme/worker/manifests/"] = [(503, {}, b""), (429, {}, b"")]
    server.script["/token"] = [(502, {}, b"")]
    server.script["/v2/acme/worker/blobs/"] = [(500, {}, b"")]
    assert await config(server, ME) == RUN
    assert told
    assert set(told) == {"get"}


async def test_it_waits_as_long_as_it_is_asked_to(server):
    server.image("acme/worker", "2", RUN)
    server.script["/v2/"] = [(429, {"Retry-After": "1"}, b"")]
    started = time.monotonic()
    assert await config(server) == RUN
    assert 0.9 < time.monotonic() - started < 5


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_but_not_beyond_the_deadline(server, form):
    seconds = "60" if form == "seconds" else email.utils.formatdate(time.time() + 900, usegmt=True)
    body = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}'
    server.script["/v2/"] = [(429, {"Retry-After": seconds}, body)]
    started = time.monotonic()
    err = await refused(server)
    assert "429 TOOMANYREQUESTS: slow down" in err.message
    assert err.wait >= 60
    assert time.monotonic() - started < 1
    assert len(server.requests) == 1


async def test_what_lasts_is_given_up(server):
    server.script["/v2/"] = [(503, {}, b"")] * 99
    assert (await refused(server)).status == 503
    assert len(server.requests) == client.ATTEMPTS


async def test_what_is_refused_is_not_tried_again(server):
    err = await refused(server)
    assert "404 MANIFEST_UNKNOWN: manifest unknown" in err.message
    assert "/manifests/2" in err.message
    assert len(server.requests) == 1


async def test_a_slow_registry(server):
    server.delay_seconds = 2.0
    started = time.monotonic()
    err = await refused(server, deadline=0.3)
    assert (err.status, err.retryable) == (0, True)
    assert time.monotonic() - started < 1.5


async def test_nobody_there():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        name = f"127.0.0.1:{bound.getsockname()[1]}"
        async with client.Client(name, plain_http=True, deadline=0.5) as made:
            with pytest.raises(errors.RegistryError, match="no answer") as raised:
                await made.manifest(reference.parse(f"{name}/x"))
    assert "reach" in raised.value.hint


async def test_bytes_that_are_not_what_was_asked_for(server):
    stored = server.image("acme/worker", "2", RUN)
    (blob,) = server.blobs
    server.blobs[blob] += b" "
    err = await refused(server)
    assert f"what it sent is not {blob}" in err.message
    kind, raw = server.manifests["acme/worker", stored["digest"]]
    server.manifests["acme/worker", stored["digest"]] = (kind, raw + b" ")
    async with connect(server) as made:
        with pytest.raises(errors.RegistryError, match="is not sha256:"):
            await made.manifest(image(server, f"acme/worker@{stored['digest']}"))


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b'{"config": 1}', b"\xff", b'{"schemaVersion": 1}', b'{"manifests": [{}]}'],
)
async def test_what_is_no_manifest(server, body):
    server.put("acme/worker", "2", fake.OCI_MANIFEST, body)
    err = await refused(server)
    assert "/manifests/2" in err.message
    assert not err.retryable


async def test_sizes_are_bounded(server):
    server.put("acme/worker", "2", fake.OCI_MANIFEST, b" " * (client.MANIFEST_BYTES + 1))
    assert "it has more than 4194304 bytes" in (await refused(server)).message
    raw = b" " * 100
    said = client.Descriptor(digest=server.blob(raw), size=100)
    understated = client.Descriptor(digest=said.digest, size=1)
    async with connect(server) as made:
        assert await made.blob("acme/worker", said, limit=100) == raw
        before = len(server.requests)
        with pytest.raises(errors.RegistryError, match="it has 100 bytes, more than 99"):
            await made.blob("acme/worker", said, limit=99)
        assert len(server.requests) == before
        with pytest.raises(errors.RegistryError, match="it has more than 99 bytes"):
            await made.blob("acme/worker", understated, limit=99)


async def test_digests_of_an_unknown_kind(server):
    odd = client.Descriptor(digest="md5:x", size=1)
    server.blobs["md5:x"] = b"x"
    async with connect(server) as made:
        with pytest.raises(errors.RegistryError, match="digests of 'md5' are not known"):
            await made.blob("acme/worker", odd, limit=9)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a\\nb"}'])
async def test_what_is_no_token(server, body):
    server.users = {"me": "hunter2"}
    server.script["/token"] = [(200, {}, body)]
    assert "the answer has no token" in (await refused(server, ME)).message


async def test_a_read_that_breaks_off_is_done_again(server):
    server.image("acme/worker", "2", RUN)
    (raw,) = server.blobs.values()
    for start in ("/v2/acme/worker/manifests/", "/v2/acme/worker/blobs/"):
        server.script[start] = [fake.reset(raw[:5]), fake.reset()]
    assert await config(server) == RUN


async def test_patience_ends_with_its_attempts_or_its_time(server):
    server.script["/v2/"] = [(503, {}, b"")] * 99
    assert (await refused(server, patience=client.Patience(attempts=2))).status == 503
    assert len(server.requests) == 2
    server.script["/v2/"] = [(503, {"Retry-After": "2"}, b"")] * 99
    await refused(server, patience=client.Patience(attempts=99, seconds=1.5))
    assert len(server.requests) == 3


async def test_the_same_client_with_less_patience(server):
    server.image("acme/worker", "2", RUN)
    server.users = {"me": "hunter2"}
    async with connect(server, ME) as made:
        less = made.within(client.Patience(attempts=1))
        assert (await less.manifest(image(server))).manifest.config
        server.script["/v2/"] = [(503, {}, b"")] * 3
        with pytest.raises(errors.RegistryError):
            await less.manifest(image(server))
        assert (await made.manifest(image(server))).manifest.config
    assert server.count("GET", "/token") == 1


async def test_each_operation_has_its_own_patience(server):
    server.image("acme/worker", "2", RUN)
    async with connect(server, patience=client.Patience(attempts=2, seconds=0.2)) as made:
        for _ in range(3):
            server.script["/v2/"] = [(503, {}, b"")]
            assert (await made.manifest(image(server))).manifest.config
            await asyncio.sleep(0.1)


async def test_waits_grow_and_are_random(monkeypatch):
    asked, slept = [], []

    def uniform(low, high):
        asked.append((low, high))
        return high

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(client.RANDOM, "uniform", uniform)
    monkeypatch.setattr(client.asyncio, "sleep", sleep)
    retries = client.Retries(client.Patience(attempts=10), math.inf)
    failed = errors.RegistryError("x", status=429)
    for wait in (0.0, 7.0, 0.0, 0.0, 0.0, 0.0, 0.0):
        failed.wait = wait
        await retries.again(failed)
    assert asked[:3] == [(0.25, 0.5), (0.5, 1.0), (1.0, 2.0)]
    assert slept == [0.5, 8.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    final = errors.RegistryError("x", status=404)
    with pytest.raises(errors.RegistryError):
        await retries.again(final)
    await retries.again(final, also=(404,))
    with pytest.raises(errors.RegistryError):
        await retries.again(failed)


async def test_another_credential_is_used_from_now_on(server):
    server.image("acme/worker", "2", RUN)
    server.users, server.scheme = {"me": "hunter2", "you": "hunter3"}, "basic"
    other = keyring.Credential("s", "you", "hunter3")
    async with connect(server, ME) as made:
        for one in (ME, other, other):
            made.use(one)
            await made.manifest(image(server))
            assert server.requests[-1].authorization == one.basic()
        before = len(server.requests)
        made.use(keyring.Credential("s", "you", "hunter3"))
        await made.manifest(image(server))
        assert len(server.requests) == before + 1, "the same proof is not asked for again"


async def test_hints_are_of_who_asks(server):
    err = await refused(server, hints={"MANIFEST_UNKNOWN": "look at {registry}"})
    assert err.hint == f"look at {server.host}"


async def test_annotations_of_a_manifest(server):
    for found in ({"a": "b"}, None):
        body = {"schemaVersion": 2, "annotations": found}
        server.put("acme/worker", "2", fake.OCI_MANIFEST, body)
        async with connect(server) as made:
            assert (await made.manifest(image(server))).manifest.annotations == found


async def test_queries_are_not_told(server):
    """They may be signatures."""
    signed = {"Location": "http://127.0.0.1:1/blob?signature=hunter2"}
    server.script["/v2/"] = [(307, signed, b"")] * 9
    err = await refused(server, patience=client.Patience(attempts=1))
    assert "no answer" in err.message
    server.script["/v2/"] = [(307, {"Location": "http://[?signature=hunter2"}, b"")]
    assert "it redirects to 'http://[?…'" in (await refused(server)).message
