"""A bucket whose server does as told: what is asked of it, and what is made of its answers.

What a real server makes of the same requests is in tests/store.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import subprocess
import sys
import time
import traceback

import blake3
import pytest

from chrek import config, deadline, errors, names
from chrek.remote import backend, bucket, connection, s3objects
from fakes import bad_s3

HASH = "0123456789abcdef"
KEY = backend.Key("", HASH, "a1b2c3", "9b2f1c1e")
PARTS = backend.Described(manifest=b"manifest", table=b"table", places=b"places", packs=[])
PACK = blake3.blake3(b"pack").hexdigest()
STORED = {"etag": '"0"'}
QUICK = connection.Limits(
    deadline_seconds=2.0,
    silence_seconds=0.5,
    connect_seconds=0.3,
    bytes_per_second=1 << 20,
    pause_seconds=0.02,
)
TIME = "2026-01-02T03:04:05.000Z"
MODIFIED = 1767323045.0


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.mkdir()
    (path / "AWS_ACCESS_KEY_ID").write_text("first-key")
    (path / "AWS_SECRET_ACCESS_KEY").write_text("hunter2")
    (path / "AWS_SESSION_TOKEN").write_text("t0k3n")
    return path


@pytest.fixture
async def bad():
    async with bad_s3.Proxy() as proxy:
        yield proxy


@pytest.fixture
def one(bad, secret):
    return made(bad.host, secret)


def made(host, secret, *, limits=QUICK, **settings):
    settings = {"uri": f"s3://{host}/artifacts/p", "plainHttp": True, **settings}
    return bucket.Bucket(config.S3(credentialsPath=str(secret), **settings), limits=limits)


def content(body, *, whole=0, start=0):
    """The answer to a read; of a part of an object that has `whole` bytes."""
    headers = {"etag": '"0"', "last-modified": "Fri, 02 Jan 2026 03:04:05 GMT"}
    if not whole:
        return {"status": 200, "body": body, "headers": headers}
    end = start + len(body) - 1
    headers["content-range"] = f"bytes {start}-{end}/{whole}"
    return {"status": 206, "body": body, "headers": headers}


def listing(*entries, folders=(), token=""):
    objects = "".join(
        f"<Contents><Key>p/{name}</Key><LastModified>{TIME}</LastModified><ETag>x</ETag>"
        f"<Size>{size}</Size></Contents>"
        for name, size in entries
    )
    prefixes = "".join(
        f"<CommonPrefixes><Prefix>p/{name}/</Prefix></CommonPrefixes>" for name in folders
    )
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    body = f"<ListBucketResult>{objects}{prefixes}{more}</ListBucketResult>".encode()
    return {"method": "GET", "part": "list-type=2", "status": 200, "body": body}


ENDING = """
import atexit, sys, time
from chrek import config
from chrek.remote import bucket

atexit.register(lambda: print(time.monotonic() - ended))  # Runs after what is registered later.
bucket.Bucket(config.S3(uri="s3://artifacts", credentialsPath=sys.argv[1]))
ended = time.monotonic()
"""


async def failing(call):
    with pytest.raises(errors.ChrekError) as caught:
        await call
    return caught.value


def test_packs_are_as_large_as_promised():
    assert bucket.Bucket.pack_bytes == 32 << 20
    assert not bucket.Bucket.collects


async def test_a_pack_is_created_under_its_digest_and_never_overwritten(bad, one):
    bad.fail(method="PUT", status=200, body=b"", headers=STORED)
    assert await one.put_pack("", b"pack") == backend.Pack(PACK, 4)
    assert await one.put_pack("team-a", memoryview(b"pack")) == backend.Pack(PACK, 4)
    assert [one.target for one in bad.requests] == [
        f"/artifacts/p/packs/{PACK[:2]}/{PACK}",
        f"/artifacts/p/ns/team-a/packs/{PACK[:2]}/{PACK}",
    ]
    assert {one.headers["if-none-match"] for one in bad.requests} == {"*"}


async def test_an_artifact_is_created_manifest_last(bad, one):
    bad.fail(method="PUT", status=200, body=b"", headers=STORED)
    await one.commit(KEY, PARTS)
    start = f"/artifacts/p/{HASH}/a1b2c3/9b2f1c1e"
    assert [one.target for one in bad.requests] == [
        f"{start}/chunks.table",
        f"{start}/places.table",
        f"{start}/manifest.json",
    ]
    assert {one.headers["if-none-match"] for one in bad.requests} == {"*"}


async def test_no_manifest_is_written_when_a_table_was_not(bad, one):
    bad.fail(method="PUT", part="places.table", status=403, code="AccessDenied")
    bad.fail(method="PUT", status=200, body=b"", headers=STORED)
    await failing(one.commit(KEY, PARTS))
    assert not bad.count("PUT", "manifest.json")


async def test_an_artifact_is_deleted_manifest_first(bad, one):
    bad.fail(method="DELETE", status=204, body=b"")
    await one.delete(KEY)
    assert [one.target.rpartition("/")[2] for one in bad.requests] == [
        "manifest.json",
        "places.table",
        "chunks.table",
    ]


async def test_the_mark_of_a_writer_is_renewed(bad, one):
    bad.fail(method="PUT", status=200, body=b"", headers=STORED)
    await one.begin(KEY)
    await one.begin(KEY)
    for asked in bad.requests:
        assert asked.target == f"/artifacts/p/writing/{HASH}.a1b2c3.9b2f1c1e"
        assert "if-none-match" not in asked.headers


async def test_what_is_deleted_need_not_be_there(bad, one):
    bad.fail(method="DELETE", status=404, code="NoSuchKey")
    await one.end(KEY)
    await one.delete(KEY)
    await one.delete_pack("", PACK)
    assert bad.count("DELETE") == 5


async def test_a_bucket_that_is_not_there_is_no_deletion(bad, one):
    bad.fail(method="DELETE", status=404, code="NoSuchBucket")
    assert "make the bucket" in (await failing(one.delete_pack("", PACK))).hint


async def test_a_pack_that_is_there_is_success_when_its_size_is_right(bad, one):
    bad.fail(method="PUT", status=412, code="PreconditionFailed")
    bad.fail(method="GET", **content(b"p", whole=4))
    assert await one.put_pack("", b"pack") == backend.Pack(PACK, 4, MODIFIED)


async def test_a_pack_of_another_size_is_damaged(bad, one):
    bad.fail(method="PUT", status=412, code="PreconditionFailed")
    bad.fail(method="GET", **content(b"p", whole=3))
    err = await failing(one.put_pack("", b"pack"))
    assert "it has 3 bytes, and its name stands for 4" in err.message
    assert "delete it" in err.hint


async def test_a_pack_that_was_there_and_is_deleted_is_made_again(bad, one):
    bad.fail(method="PUT", status=412, code="PreconditionFailed", times=1)
    bad.fail(method="GET", status=404, code="NoSuchKey", times=1)
    bad.fail(method="PUT", status=200, body=b"", headers=STORED)
    assert await one.put_pack("", b"pack") == backend.Pack(PACK, 4)


async def test_a_server_that_is_at_it_for_somebody_else_is_asked_again(bad, one):
    bad.fail(method="PUT", status=409, code="ConditionalRequestConflict", times=1)
    bad.fail(method="PUT", status=200, body=b"", headers=STORED)
    assert await one.put_pack("", b"pack") == backend.Pack(PACK, 4)


@pytest.mark.parametrize("size", [0, (64 << 20) + 1])
async def test_no_pack_is_empty_or_too_large(bad, one, size):
    with pytest.raises(errors.InputError):
        await one.put_pack("", bytes(size))
    assert not bad.requests


async def test_a_lost_answer_to_a_creation_is_recognized(bad, one):
    bad.fail(method="PUT", deaf=True, times=1)
    bad.fail(method="PUT", status=412, code="PreconditionFailed", times=1)
    bad.fail(method="GET", **content(b"table"))
    bad.fail(method="PUT", status=200, body=b"", headers=STORED)
    await one.commit(KEY, PARTS)
    assert [one.method for one in bad.requests] == ["PUT", "PUT", "GET", "PUT", "PUT"]


async def test_another_artifact_of_that_name_is_no_lost_answer(bad, one):
    bad.fail(method="PUT", part="manifest.json", status=412, code="PreconditionFailed")
    bad.fail(method="GET", **content(b"MANIFEST"))
    bad.fail(method="PUT", status=200, body=b"", headers=STORED)
    err = await failing(one.commit(KEY, PARTS))
    assert isinstance(err, errors.StoreError)
    assert "there is another artifact of that name" in err.message
    assert not err.retryable


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503, "code": "SlowDown"},
        {"status": 500, "code": "InternalError"},
        {"status": 429, "code": "TooManyRequests", "headers": {"retry-after": "1"}},
        {"deaf": True},
        {"mute": True},
    ],
)
@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
async def test_what_passes_is_tried_again(bad, one, method, fault):
    bad.fail(method=method, times=1, **fault)
    bad.fail(method="PUT", status=200, body=b"", headers=STORED)
    bad.fail(method="GET", **content(b"table"))
    bad.fail(method="DELETE", status=204, body=b"")
    if method == "PUT":
        await one.begin(KEY)
    elif method == "GET":
        assert await one.read(KEY, backend.Part.TABLE) == b"table"
    else:
        await one.end(KEY)
    assert bad.count(method) == 2


@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (404, "NoSuchBucket"), (400, "ExpiredToken")]
)
async def test_what_does_not_pass_is_told_at_once(bad, one, method, status, code):
    bad.fail(status=status, code=code)
    call = {
        "PUT": lambda: one.put_pack("", b"pack"),
        "GET": lambda: one.read(KEY, backend.Part.TABLE),
        "DELETE": lambda: one.end(KEY),
    }[method]
    err = await failing(call())
    assert f"bucket artifacts at http://{bad.host}: {method.lower()} p/" in err.message
    assert f"{status} {code}" in err.message
    assert bad.count(method) == 1


@pytest.mark.parametrize("fault", [{"status": 503, "code": "SlowDown"}, {"mute": True}])
@pytest.mark.parametrize("what", ["put", "get", "list", "delete"])
async def test_every_call_ends(bad, secret, what, fault):
    limits = dataclasses.replace(QUICK, silence_seconds=0.2).within(0.2)
    one = made(bad.host, secret, limits=limits)
    bad.fail(**fault)
    started = time.monotonic()
    call = {
        "put": lambda: one.put_pack("", b"pack"),
        "get": lambda: one.read_pack("", PACK, 0, 4),
        "list": lambda: one.entries(""),
        "delete": lambda: one.delete_pack("", PACK),
    }[what]
    err = await failing(call())
    assert err.retryable
    # The deadline, and the attempt that was under way.
    assert time.monotonic() - started < limits.deadline_seconds + limits.seconds(0) + 0.5


async def test_a_404_of_somebody_else_does_not_make_an_artifact_missing(bad, one):
    bad.fail(times=1, status=404, body=b"<html>not here</html>")
    err = await failing(one.read(KEY, backend.Part.MANIFEST))
    assert isinstance(err, errors.StoreError)
    bad.fail(status=404, code="NoSuchKey")
    err = await failing(one.read(KEY, backend.Part.MANIFEST))
    assert isinstance(err, errors.ArtifactError)
    assert err.reason == names.Reason.ARTIFACT_MISSING


async def test_a_part_of_a_pack_is_exactly_that(bad, one):
    fault = bad.fail(method="GET", **content(b"2345", whole=9, start=2))
    assert await one.read_pack("", PACK, 2, 4) == b"2345"
    assert type(await one.read_pack("", PACK, 2, 4)) is bytes
    assert bad.requests[0].headers["range"] == "bytes=2-5"
    # A pack that ends early: servers then send what there is.
    fault.times = 0
    bad.fail(method="GET", **content(b"234", whole=5, start=2))
    err = await failing(one.read_pack("", PACK, 2, 4))
    assert isinstance(err, errors.ArtifactError)
    assert err.reason == names.Reason.ARTIFACT_CORRUPT
    assert "it has 5 bytes" in err.message


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (content(b"0123456789"), "other bytes of the object"),
        (content(b"0123", whole=9, start=0), "other bytes of the object"),
    ],
)
async def test_other_bytes_than_those_that_were_asked_for_are_refused(bad, one, answer, why):
    bad.fail(method="GET", **answer)
    err = await failing(one.read_pack("", PACK, 2, 4))
    assert isinstance(err, errors.StoreError)
    assert why in err.message


async def test_a_server_that_sends_on_and_on_is_not_listened_to(bad, secret):
    one = made(bad.host, secret, limits=QUICK.within(0.1))
    headers = {"content-range": "bytes 2-5/9", "content-length": str(1 << 30)}
    headers |= content(b"")["headers"]
    body = bytes(4 << 20)
    bad.fail(method="GET", status=206, body=body, headers=headers, stall_after_bytes=len(body))
    started = time.monotonic()
    err = await failing(one.read_pack("", PACK, 2, 4))
    assert isinstance(err, errors.StoreError)
    assert "more or less than it had announced" in err.message
    assert time.monotonic() - started < QUICK.silence_seconds


async def test_a_part_that_is_too_large_is_not_read(bad, one):
    large = content(b"")
    large["headers"]["content-length"] = str((64 << 20) + 1)
    bad.fail(method="GET", **large)
    err = await failing(one.read(KEY, backend.Part.MANIFEST))
    assert isinstance(err, errors.ArtifactError)
    assert f"it has {(64 << 20) + 1} bytes" in err.message


async def test_a_body_that_breaks_off_is_continued_where_it_broke(bad, one):
    bad.fail(method="GET", times=1, cut_after_bytes=40, **content(bytes(range(100)), whole=100))
    bad.fail(method="GET", **content(bytes(range(40, 100)), whole=100, start=40))
    assert await one.read_pack("", PACK, 0, 100) == bytes(range(100))
    assert [one.headers["range"] for one in bad.requests] == ["bytes=0-99", "bytes=40-99"]


async def test_a_slow_body_is_no_failure_and_silence_is(bad, secret):
    limits = connection.Limits(
        deadline_seconds=0.1, silence_seconds=0.3, connect_seconds=0.2, bytes_per_second=20_000
    )
    one = made(bad.host, secret, limits=limits)
    body = bytes(40_000)
    fault = bad.fail(method="GET", answer_bytes_per_second=50_000, **content(body, whole=40_000))
    started = time.monotonic()
    assert await one.read_pack("", PACK, 0, 40_000) == body
    assert time.monotonic() - started > limits.silence_seconds
    fault.times = 0
    bad.fail(method="GET", stall_after_bytes=20_000, **content(body, whole=40_000))
    started = time.monotonic()
    err = await failing(one.read_pack("", PACK, 0, 40_000))
    assert "said nothing for too long" in err.message
    assert time.monotonic() - started < limits.seconds(40_000)


async def test_a_slow_upload_is_no_failure(bad, secret):
    limits = connection.Limits(
        deadline_seconds=0.1, silence_seconds=0.3, connect_seconds=0.2, bytes_per_second=1 << 20
    )
    one = made(bad.host, secret, limits=limits)
    # More than the buffers of both ends' kernels, which take some without anybody reading.
    data = bytes(16 << 20)
    bad.fail(method="PUT", status=200, body=b"", headers=STORED, request_bytes_per_second=20 << 20)
    started = time.monotonic()
    await one.put_pack("", data)
    assert time.monotonic() - started > limits.silence_seconds + limits.connect_seconds


async def test_an_upload_that_stands_still_ends(bad, secret):
    limits = connection.Limits(
        deadline_seconds=0.1, silence_seconds=0.3, connect_seconds=0.1, bytes_per_second=16 << 20
    )
    one = made(bad.host, secret, limits=limits)
    bad.fail(method="PUT", mute=True)
    started = time.monotonic()
    err = await failing(one.put_pack("", bytes(8 << 20)))
    assert "it took too long" in err.message
    assert time.monotonic() - started < limits.seconds(8 << 20) + 0.5


async def test_listings_show_what_is_ours(bad, one):
    other = KEY.uuid + "-0"
    bad.fail(**listing(folders=[HASH, "packs", "ns", "writing", "checks", "x" * 16]), times=1)
    bad.fail(
        **listing(
            (f"{HASH}/a1b2c3/{other}/chunks.table", 5),
            (f"{HASH}/a1b2c3/{KEY.uuid}/chunks.table", 5),
            (f"{HASH}/a1b2c3/{KEY.uuid}/manifest.json", 8),
            (f"{HASH}/a1b2c3/{KEY.uuid}/README.md", 8),
            (f"{HASH}/README.md", 8),
        ),
        times=1,
    )
    assert await one.entries("") == [backend.Entry(KEY, MODIFIED)]
    assert "delimiter=%2F" in bad.requests[0].target
    assert f"prefix=p%2F{HASH}%2F" in bad.requests[1].target
    assert len(bad.requests) == 2


async def test_an_identity_is_listed_with_one_request(bad, one):
    bad.fail(**listing((f"{HASH}/a1b2c3/{KEY.uuid}/manifest.json", 8)))
    assert await one.entries("", HASH) == [backend.Entry(KEY, MODIFIED)]
    assert len(bad.requests) == 1


async def test_packs_and_writers_are_listed(bad, one):
    bad.fail(
        **listing((f"packs/{PACK[:2]}/{PACK}", 4), (f"packs/00/{PACK}", 4), ("packs/x", 1)), times=1
    )
    assert await one.packs("") == [backend.Pack(PACK, 4, MODIFIED)]
    bad.fail(**listing((f"writing/{HASH}.a1b2c3.9b2f1c1e", 0), ("writing/x", 0)), times=1)
    assert await one.writers("") == [backend.Writer(KEY, MODIFIED)]


async def test_a_listing_keeps_its_place(bad, one):
    first, second = (blake3.blake3(data).hexdigest() for data in (b"1", b"2"))
    bad.fail(**(listing((f"packs/{second[:2]}/{second}", 2)) | {"part": "continuation-token=next"}))
    bad.faults[0].times = 0
    page, faults = bad.faults[0], bad.faults
    bad.fail(method="GET", part="continuation-token=next", status=503, code="SlowDown", times=1)
    faults.append(faults.pop(0))
    bad.fail(**listing((f"packs/{first[:2]}/{first}", 1), token="next"), times=1)
    page.times = 1
    found = {pack.name: pack.size for pack in await one.packs("")}
    assert found == {first: 1, second: 2}
    assert bad.count("GET", "continuation-token=next") == 2
    assert len(bad.requests) == 3


async def test_the_listing_of_nothing_is_believed_of_an_s3_server_only(bad, one):
    page = bad.fail(method="GET", part="list-type=2", status=200, body=b"<html>log in</html>")
    elsewhere = bad.fail(method="GET", **content(b"<html>log in</html>"))
    for call in (one.packs(""), one.entries(""), one.writers("")):
        assert "proxy in front of" in (await failing(call)).hint
    page.times = elsewhere.times = 0
    bad.fail(**listing())
    bad.fail(method="GET", status=404, code="NoSuchKey")
    assert await one.packs("") == await one.entries("") == await one.writers("") == []


async def test_a_listing_without_end_is_ended(bad, one, monkeypatch):
    monkeypatch.setattr(s3objects, "LISTED", 2)
    monkeypatch.setattr(s3objects, "PAGE", 1)
    bad.fail(**listing((f"packs/{PACK[:2]}/{PACK}", 4), token="more"))
    assert "more than 2 objects" in (await failing(one.packs(""))).message


async def test_a_name_that_the_client_cannot_read_is_told(bad, one):
    bad.fail(**listing(("packs//x", 4)))
    assert "two slashes in a row" in (await failing(one.packs(""))).message


async def test_the_stores_keys(bad, one):
    bad.fail(method="GET", times=1, status=404, code="NoSuchKey")
    assert await one.read_keys() is None
    bad.fail(method="PUT", times=1, status=200, body=b"", headers=STORED)
    assert await one.write_keys(b"new")
    assert bad.requests[-1].headers["if-none-match"] == "*"
    bad.fail(method="GET", **content(b"new"))
    assert await one.read_keys() == b"new"
    refused = bad.fail(method="PUT", status=412, code="PreconditionFailed")
    assert await one.write_keys(b"new"), "those are the same: an answer was lost"
    assert not await one.write_keys(b"other")
    refused.times = 0
    bad.fail(method="PUT", status=200, body=b"", headers=STORED)
    assert await one.write_keys(b"other", replace=True)
    assert "if-none-match" not in bad.requests[-1].headers
    assert {one.target for one in bad.requests} == {"/artifacts/p/keys.json"}


async def test_keys_that_cannot_be_read_are_not_taken_for_none(bad, one):
    bad.fail(times=1, status=404, body=b"")
    assert isinstance(await failing(one.read_keys()), errors.StoreError)
    bad.fail(**content(bytes((1 << 20) + 1)))
    err = await failing(one.read_keys())
    assert isinstance(err, errors.StoreError)
    assert "restore keys.json" in err.hint


async def test_preflight_refuses_a_server_without_conditional_writes(bad, one):
    bad.fail(method="PUT", status=200, body=b"", headers=STORED)
    bad.fail(method="DELETE", status=204, body=b"")
    err = await failing(one.check())
    assert "this server ignores conditional writes" in err.message
    assert "use a server that has them" in err.hint
    assert len({one.target for one in bad.requests}) == 1
    assert bad.requests[-1].method == "DELETE"
    assert bad.requests[0].target.startswith("/artifacts/p/checks/")


async def test_the_client_signs_with_the_key_that_is_there_now(bad, one, secret):
    bad.fail(method="PUT", status=200, body=b"", headers=STORED)
    await one.begin(KEY)
    (secret / "AWS_ACCESS_KEY_ID").write_text("second-key")
    (secret / "AWS_SESSION_TOKEN").unlink()
    await one.begin(KEY)
    first, second = (one.headers for one in bad.requests)
    assert "Credential=first-key/" in first["authorization"]
    assert first["x-amz-security-token"] == "t0k3n"
    assert "Credential=second-key/" in second["authorization"]
    assert "x-amz-security-token" not in second


async def test_a_key_that_is_replaced_under_way_is_tried(bad, one, secret):
    replaced = asyncio.Event()
    bad.fail(method="PUT", times=1, status=403, code="InvalidAccessKeyId", until=replaced)
    bad.fail(method="PUT", status=200, body=b"", headers=STORED)
    begun = asyncio.create_task(one.begin(KEY))
    while not bad.requests:
        await asyncio.sleep(0.01)
    (secret / "AWS_ACCESS_KEY_ID").write_text("second-key")
    replaced.set()
    await begun
    assert "Credential=second-key/" in bad.requests[1].headers["authorization"]


async def test_a_key_that_is_gone_is_told(bad, one, secret):
    (secret / "AWS_SECRET_ACCESS_KEY").unlink()
    err = await failing(one.begin(KEY))
    assert isinstance(err, errors.StoreError)
    assert "there is no AWS_SECRET_ACCESS_KEY" in err.message
    assert not bad.requests


async def test_no_secret_is_shown_whatever_the_server_repeats(bad, secret, caplog):
    one = made(bad.host, secret, limits=QUICK.within(0.2))
    caplog.set_level(logging.DEBUG)
    for status in (403, 503):
        bad.faults.clear()
        bad.fail(status=status, code="AccessDenied", message="with t0k3n and hunter2 of first-key")
        try:
            await one.begin(KEY)
        except errors.StoreError as err:
            shown = "".join(traceback.format_exception(err)) + str(err) + repr(err)
        for text in ("t0k3n", "hunter2", "first-key"):
            assert text not in shown + caplog.text
        assert f"{status} AccessDenied" in shown


async def test_variables_of_the_environment_lead_nowhere_else(bad, secret, monkeypatch):
    async with bad_s3.Proxy() as other:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
            monkeypatch.setenv(name, f"http://{other.host}")
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
        monkeypatch.setenv("AWS_BUCKET", "elsewhere")
        bad.fail(method="PUT", status=200, body=b"", headers=STORED)
        await made(bad.host, secret).put_pack("", b"pack")
        assert not other.requests
    (asked,) = bad.requests
    assert asked.target.startswith("/artifacts/p/packs/")
    assert asked.headers["if-none-match"] == "*"
    assert "Credential=first-key/" in asked.headers["authorization"]


async def test_without_a_secret_the_environments_key_signs(bad, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    settings = config.S3(uri=f"s3://{bad.host}/artifacts", plainHttp=True)
    one = bucket.Bucket(settings, limits=QUICK)
    bad.fail(times=1, status=200, body=b"", headers=STORED)
    await one.begin(KEY)
    assert "Credential=somebody/" in bad.requests[0].headers["authorization"]
    bad.fail(status=403, code="AccessDenied", message="with hunter2")
    assert "hunter2" not in str(await failing(one.begin(KEY)))


async def test_certificates_that_are_none_are_refused(secret, tmp_path):
    path = tmp_path / "ca.crt"
    path.write_text("-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n")
    with pytest.raises(errors.ConfigError, match=r"storage\.s3\.caBundle"):
        made("minio.example.com", secret, plainHttp=False, caBundlePath=str(path))


@pytest.mark.parametrize(
    ("answer", "reason", "says"),
    [
        ({"status": 503, "code": "SlowDown"}, "StoreFailed", "503 SlowDown"),
        ({"mute": True}, "StoreUnreachable", "it took too long"),
    ],
    ids=["busy", "silent"],
)
async def test_whoever_waits_less_long_is_told_why(bad, secret, answer, reason, says):
    """And not only that it took too long."""
    bad.fail(**answer)
    one = made(bad.host, secret, limits=connection.Limits())
    started = time.monotonic()
    with deadline.within(4):
        err = await failing(one.read(KEY, backend.Part.MANIFEST))
    assert err.reason == reason
    assert says in str(err)
    assert time.monotonic() - started < connection.Limits().deadline_seconds / 10


async def test_a_call_that_is_cancelled_ends_at_once(bad, one):
    bad.fail(mute=True)
    task = asyncio.create_task(one.begin(KEY))
    while not bad.requests:
        await asyncio.sleep(0.01)
    task.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 0.1


async def test_the_first_failure_of_many_listings_is_told(bad, one):
    bad.fail(**(listing(folders=[f"{n:016x}" for n in range(40)]) | {"part": "delimiter"}))
    bad.fail(status=403, code="AccessDenied")
    err = await failing(one.entries(""))
    assert isinstance(err, errors.StoreError)
    assert "s3:ListBucket" in err.hint
    assert len(bad.requests) <= 1 + bucket.AT_ONCE


def test_a_process_ends_a_moment_later_so_that_the_clients_threads_let_go_of_it(secret):
    argv = [sys.executable, "-c", ENDING, str(secret)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert float(done.stdout) >= connection.SETTLE_SECONDS
