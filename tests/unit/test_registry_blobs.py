"""Blobs that are pushed to a registry and read in part, over a real connection to a fake one."""

import asyncio
import gc
import hashlib
import logging
import threading
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chrek import errors
from chrek.registry import blobs, client, keyring, manifests, session
from fakes import registry as fake

ME = keyring.Credential("secret", "me", "hunter2")
DATA = bytes(range(256)) * 4
DIGEST = fake.digest(DATA)
UPLOADS = "/v2/acme/store/blobs/uploads/"


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


async def upload(server, data=DATA, credential=None, **options):
    async with connect(server, credential) as made:
        await blobs.upload(made, "acme/store", data, fake.digest(data), **options)


async def upload_refused(server, **options):
    with pytest.raises(errors.RegistryError) as raised:
        await upload(server, **options)
    assert "hunter2" not in str(raised.value)
    assert "_state" not in str(raised.value)
    return raised.value


async def read(server, offset, size, digest=DIGEST, **options):
    async with connect(server, **options) as made:
        return await blobs.read(made, "acme/store", digest, offset, size)


async def read_refused(server, offset, size, **options):
    with pytest.raises(errors.RegistryError) as raised:
        await read(server, offset, size, **options)
    return raised.value


def asked(server):
    return [(one.method, one.path.rpartition("/")[0]) for one in server.requests]


@pytest.mark.parametrize("size", [0, 1, blobs.THREAD_BYTES + 1])
async def test_a_descriptor_has_the_sha256_of_the_bytes(size):
    data = b"x" * size
    for form in (data, memoryview(data)):
        found = await blobs.describe(form, "a/b")
        assert found.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert (found.size, found.media_type) == (size, "a/b")


async def test_a_blob_is_looked_for_and_then_sent_in_one_piece(server):
    await upload(server)
    assert server.blobs[DIGEST] == DATA
    assert [one.method for one in server.requests] == ["HEAD", "POST", "PUT"]
    put = server.requests[-1]
    assert put.headers["Content-Length"] == str(len(DATA))
    assert "Transfer-Encoding" not in put.headers
    assert put.raw_query == f"_state=a%2Fb%3D%3D&digest=sha256%3A{DIGEST[7:]}"


async def test_one_that_is_there_is_not_sent(server):
    await upload(server)
    server.requests.clear()
    await upload(server)
    assert [one.method for one in server.requests] == ["HEAD"]
    await upload(server, look_first=False)
    assert [one.method for one in server.requests] == ["HEAD", "POST", "PUT"]


async def test_large_blobs_and_views_of_memory_are_sent_as_they_are(server):
    data = bytes(range(251)) * (4 * session.SLICE_BYTES // 251)
    view = memoryview(data)[1:-1]
    async with connect(server) as made:
        digest = (await blobs.describe(view)).digest
        await blobs.upload(made, "acme/store", view, digest)
    assert server.blobs[digest] == data[1:-1]


@pytest.mark.parametrize(
    "location", ["{path}", "{path}?_state=x", "{url}{path}?_state=x", "{url}{path}#part"]
)
async def test_where_to_send_it_may_be_relative_or_absolute(server, location):
    server.location = location
    await upload(server)
    assert server.blobs[DIGEST] == DATA


async def test_a_credential_goes_to_no_other_host_with_a_blob(server, other):
    server.users = {"me": "hunter2"}
    server.location = f"{other.url}{{path}}?signature=x"
    other.script["PUT /"] = [(201, {}, b"")]
    await upload(server, credential=ME)
    (sent,) = other.requests
    assert (sent.method, sent.authorization, sent.body) == ("PUT", "", DATA)
    assert server.requests[-1].authorization


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("file:///x", "redirects to file:"),
        ("http://[", "redirects to 'http://['"),
        ("", "it answered 202 and does not say where to send the blob"),
    ],
)
async def test_where_to_send_it_may_be_nonsense(server, location, message):
    server.location = location
    assert message in (await upload_refused(server)).message
    assert server.count("POST") == 1


async def test_a_registry_that_does_not_know_of_its_tls(tmp_path):
    context, authority = fake.tls(tmp_path)
    with fake.Registry(context) as server:
        server.location = f"http://{server.host}{{path}}"
        async with connect(server, plain_http=False, ca_bundle=authority) as made:
            with pytest.raises(errors.RegistryError) as raised:
                await blobs.upload(made, "acme/store", DATA, DIGEST)
    assert "it redirects to http:, which is not https" in raised.value.message
    assert "X-Forwarded-Proto" in raised.value.hint


async def test_a_blob_of_another_repository_is_mounted(server):
    async with connect(server) as made:
        await blobs.upload(made, "acme/other", DATA, DIGEST)
        server.requests.clear()
        await blobs.upload(made, "acme/store", DATA, DIGEST, mount_from="acme/other")
    assert server.holders[DIGEST] == {"acme/other", "acme/store"}
    assert [one.method for one in server.requests] == ["HEAD", "POST"]
    assert server.requests[-1].query == {"mount": DIGEST, "from": "acme/other"}


async def test_one_that_is_not_there_is_sent_in_the_same_session(server):
    await upload(server, mount_from="acme/other")
    assert [one.method for one in server.requests] == ["HEAD", "POST", "PUT"]
    assert server.holders[DIGEST] == {"acme/store"}


@pytest.mark.parametrize("status", blobs.REFUSED_MOUNT)
async def test_a_repository_that_must_not_be_pulled_from_is_done_without(server, status):
    server.script[f"POST {UPLOADS}"] = [(status, {}, b"")]
    await upload(server, mount_from="acme/other")
    assert server.requests[-2].query == {}
    assert server.blobs[DIGEST] == DATA


async def test_a_token_for_pushing_is_fetched_once(server):
    server.users, server.scoped = {"me": "hunter2"}, True
    async with connect(server, ME) as made:
        for data in (b"a", b"b"):
            await blobs.upload(made, "acme/store", data, fake.digest(data))
    (token,) = [one for one in server.requests if one.path == "/token"]
    assert token.scopes == ["repository:acme/store:pull,push"]


async def test_tokens_are_kept_for_what_they_allow(server):
    """One for pulling is of no use for pushing, nor one for another repository."""
    server.users, server.scoped = {"me": "hunter2"}, True
    server.blob(DATA)
    async with connect(server, ME) as made:
        for _ in range(2):
            await blobs.read(made, "acme/store", DIGEST, 0, 4)
            await blobs.upload(made, "acme/store", b"a", fake.digest(b"a"))
            await blobs.upload(made, "acme/store", b"b", fake.digest(b"b"), mount_from="acme/other")
            await manifests.delete(made, "acme/store", "t")
    tokens = [sorted(one.scopes) for one in server.requests if one.path == "/token"]
    assert tokens == [
        ["repository:acme/store:pull"],
        ["repository:acme/store:pull,push"],
        ["repository:acme/other:pull", "repository:acme/store:pull,push"],
        ["repository:acme/store:delete"],
    ]


async def test_a_token_that_expires_in_mid_upload(server):
    server.users = {"me": "hunter2"}
    async with connect(server, ME) as made:
        await blobs.upload(made, "acme/store", b"a", fake.digest(b"a"))

        def expire(handler):
            server.token = "another"
            handler._answer(202, Location=f"{UPLOADS}x")

        server.sessions.add(f"{UPLOADS}x")
        server.script[f"POST {UPLOADS}"] = [expire]
        await blobs.upload(made, "acme/store", DATA, DIGEST)
    assert server.blobs[DIGEST] == DATA
    assert [one.body for one in server.requests if one.method == "PUT"][-2:] == [DATA, DATA]


async def test_a_session_that_is_lost_is_begun_again(server):
    lost = b'{"errors": [{"code": "BLOB_UPLOAD_UNKNOWN", "message": "unknown"}]}'
    server.script[f"PUT {UPLOADS}"] = [(404, {}, lost), (416, {}, b"")]
    await upload(server)
    assert server.blobs[DIGEST] == DATA
    assert server.count("POST") == 3


async def test_unless_it_is_always(server):
    lost = b'{"errors": [{"code": "BLOB_UPLOAD_UNKNOWN", "message": "blob upload unknown"}]}'
    server.script[f"PUT {UPLOADS}"] = [(404, {}, lost)] * 99
    err = await upload_refused(server)
    assert "acme/store/blobs/uploads: 404 BLOB_UPLOAD_UNKNOWN: blob upload unknown" in err.message
    assert server.count("PUT") == client.ATTEMPTS


async def test_a_repository_that_cannot_be_made_is_not_tried_again(server):
    unknown = b'{"errors": [{"code": "NAME_UNKNOWN", "message": "no such project"}]}'
    server.script[f"POST {UPLOADS}"] = [(404, {}, unknown)] * 99
    assert "404 NAME_UNKNOWN: no such project" in (await upload_refused(server)).message
    assert server.count("POST") == 1


async def test_what_is_passing_begins_the_upload_again(server):
    server.script["HEAD /v2/acme/store/blobs/"] = [(502, {}, b"")]
    server.script[f"POST {UPLOADS}"] = [(503, {}, b"")]
    server.script[f"PUT {UPLOADS}"] = [fake.reset(), (500, {}, b"")]
    await upload(server)
    assert server.blobs[DIGEST] == DATA


async def test_a_connection_that_breaks_while_the_body_is_sent(server):
    data = b"x" * (8 << 20)
    server.before_reading[f"PUT {UPLOADS}"] = [fake.reset()] * 2
    await upload(server, data)
    assert server.blobs[fake.digest(data)] == data


async def test_a_connection_that_always_does(server):
    server.script[f"PUT {UPLOADS}"] = [fake.reset()] * 99
    err = await upload_refused(server)
    assert "acme/store/blobs/uploads: no answer: " in err.message


def test_a_connection_on_which_the_rest_is_not_wanted_does_not_stay(server):
    """A server that has refused need not read on; whoever waited for that would wait for long."""
    ended = threading.Event()

    def refuse(handler):
        handler._answer(500)
        ended.wait(10)
        handler.close_connection = True

    data = b"x" * (32 << 20)
    server.before_reading[f"PUT {UPLOADS}"] = [refuse]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        asyncio.run(upload(server, data))
        gc.collect()
    ended.set()
    assert [str(one.message) for one in told] == []
    assert server.blobs[fake.digest(data)] == data


async def test_an_upload_whose_answer_is_lost_is_not_sent_again(server):
    def store(handler):
        server.blob(DATA)
        fake.reset()(handler)

    server.script[f"PUT {UPLOADS}"] = [store]
    await upload(server)
    assert server.count("PUT") == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((202, {}, b""), "it answered 202"),
        ((201, {"Docker-Content-Digest": "sha256:0"}, b""), "stored 'sha256:0', not sha256:"),
    ],
)
async def test_a_blob_that_is_not_stored_after_all(server, answer, message):
    server.script[f"PUT {UPLOADS}"] = [answer]
    assert message in (await upload_refused(server)).message


async def test_a_digest_that_is_not_that_of_the_bytes(server):
    async with connect(server) as made:
        with pytest.raises(errors.RegistryError, match="400 DIGEST_INVALID"):
            await blobs.upload(made, "acme/store", b"x", DIGEST)


async def test_bodies_are_not_sent_where_a_get_would_be_redirected(server):
    """301 and 302 make a GET of what they redirect."""
    server.script[f"POST {UPLOADS}"] = [(302, {"Location": "/elsewhere"}, b"")]
    assert (await upload_refused(server)).status == 302


@given(offset=st.integers(0, 1023), size=st.integers(0, 1024), ranges=st.booleans())
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_part_of_a_blob(server, offset, size, ranges):
    server.blob(DATA)
    server.ranges = ranges
    size = min(size, len(DATA) - offset)
    assert await read(server, offset, size) == DATA[offset : offset + size]


async def test_only_the_part_is_asked_for(server):
    server.blob(DATA)
    assert await read(server, 10, 5) == DATA[10:15]
    assert server.requests[-1].headers["Range"] == "bytes=10-14"


async def test_no_bytes_cost_no_request(server):
    assert await read(server, 10, 0) == b""
    assert server.requests == []


async def test_a_registry_without_ranges_is_told_about_once(server, caplog):
    server.blob(DATA)
    server.ranges = False
    with caplog.at_level(logging.WARNING):
        async with connect(server) as made:
            for _ in range(3):
                assert await blobs.read(made, "acme/store", DIGEST, 10, 5) == DATA[10:15]
    (line,) = caplog.records
    assert line.getMessage() == "the registry does not read by range: reads are slow"
    assert line.path == f"acme/store/blobs/{DIGEST}"


async def test_the_rest_of_a_whole_blob_is_not_waited_for(server):
    server.script["GET /v2/acme/store/blobs/"] = [fake.slow(30.0, b"x" * 100_000)]
    assert await read(server, 10, 5, deadline=5.0) == b"xxxxx"


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("offset", [0, 1000, 1024, 5000])
async def test_a_blob_that_is_too_short(server, ranges, offset):
    server.blob(DATA)
    server.ranges = ranges
    err = await read_refused(server, offset, 2000)
    assert (err.status, err.retryable and err.status in client.AGAIN) == (416, False)
    assert f"acme/store/blobs/{DIGEST}: " in err.message
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "said", ["", "bytes 0-4/1024", "bytes 10-13/1024", "bytes 10-15/1024", "bytes */1024", "x"]
)
async def test_another_part_than_was_asked_for(server, said):
    headers = {"Content-Range": said} if said else {}
    server.script["GET /v2/acme/store/blobs/"] = [(206, headers, b"xxxxx")]
    err = await read_refused(server, 10, 5)
    assert f"it sent {said!r} when asked for bytes 10-14" in err.message


async def test_a_part_of_unknown_whole(server):
    headers = {"Content-Range": "bytes 10-14/*"}
    server.script["GET /v2/acme/store/blobs/"] = [(206, headers, b"xxxxx")]
    assert await read(server, 10, 5) == b"xxxxx"


async def test_parts_at_another_host_are_read_without_a_credential(server, other):
    server.users, server.blobs_at = {"me": "hunter2"}, other.url
    server.blob(DATA)
    other.blob(DATA)
    assert await read(server, 10, 5, credential=ME) == DATA[10:15]
    (sent,) = other.requests
    assert (sent.headers["Range"], sent.authorization) == ("bytes=10-14", "")


async def test_a_read_that_breaks_off_is_done_again(server):
    server.blob(DATA)
    server.script["GET /v2/acme/store/blobs/"] = [fake.reset(DATA[:5]), (503, {}, b"")]
    assert await read(server, 0, 8) == DATA[:8]


async def test_a_body_that_does_not_come(server, monkeypatch):
    monkeypatch.setattr(session, "REQUEST_SECONDS", 0.2)
    server.blob(DATA)
    server.script["GET /v2/acme/store/blobs/"] = [fake.slow(1.0)]
    assert await read(server, 0, 8) == DATA[:8]
    server.script["GET /v2/acme/store/blobs/"] = [fake.slow(1.0)] * 9
    async with connect(server, patience=client.Patience(attempts=2)) as made:
        with pytest.raises(errors.RegistryError, match="no answer: it took too long"):
            await blobs.read(made, "acme/store", DIGEST, 0, 8)
