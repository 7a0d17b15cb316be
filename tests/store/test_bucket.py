"""A bucket of a real server: what lies there, and what is said when something is wrong with it."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import pathlib
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import blake3
import pytest

from chrek import config, errors, names
from chrek.remote import backend, bucket, connection, layout
from fakes import bad_s3
from store import s3_server

pytestmark = pytest.mark.system

HASH = "0123456789abcdef"
KEY = backend.Key("", HASH, "a1b2c3", "9b2f1c1e-3f0f-4c6a-9d8e-0a1b2c3d4e5f")
THEIRS = dataclasses.replace(KEY, namespace="team-a")
PARTS = backend.Described(manifest=b"manifest", table=b"table", places=b"places", packs=[])
QUICK = connection.Limits(
    deadline_seconds=5, silence_seconds=2, connect_seconds=1, pause_seconds=0.02
)
AT_ONCE = connection.Limits(deadline_seconds=0.1, silence_seconds=2, connect_seconds=1)

NUMBERS = itertools.count()
ENDING = """
import asyncio, sys
from chrek import config
from chrek.remote import bucket

async def main():
    one = bucket.Bucket(config.S3(uri=sys.argv[1], plainHttp=True, credentialsPath=sys.argv[2]))
    assert await one.read_keys() is None

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.Server]:
    with s3_server.running(tmp_path_factory.mktemp("s3")) as started:
        yield started


@pytest.fixture
def home(server: s3_server.Server) -> str:
    """A bucket of the test's own."""
    name = f"bucket-{next(NUMBERS)}"
    server.make_bucket(name)
    return name


@pytest.fixture
def one(server: s3_server.Server, home: str) -> bucket.Bucket:
    return bucket.Bucket(server.settings(f"{home}/pre/fix"), limits=QUICK)


@pytest.fixture
async def bad(server: s3_server.Server) -> AsyncIterator[bad_s3.Proxy]:
    """A proxy in front of the server."""
    async with bad_s3.Proxy(server.host) as proxy:
        yield proxy


@pytest.fixture
def behind(server: s3_server.Server, home: str, bad: bad_s3.Proxy) -> bucket.Bucket:
    """The bucket as it is seen through the proxy."""
    return bucket.Bucket(server.settings(f"{home}/pre/fix", host=bad.host), limits=QUICK)


async def refusal(settings: config.S3) -> errors.ChrekError:
    """What preflight says."""
    with pytest.raises(errors.StoreError) as caught:
        await bucket.Bucket(settings, limits=AT_ONCE).check()
    return caught.value


async def test_an_artifacts_life(server: s3_server.Server, home: str, one: bucket.Bucket) -> None:
    await one.begin(KEY)
    (writer,) = await one.writers("")
    assert writer.key == KEY
    assert await one.writers("team-a") == []
    pack = await one.put_pack("", b"a pack")
    assert pack == backend.Pack(blake3.blake3(b"a pack").hexdigest(), 6)
    again = await one.put_pack("", memoryview(bytearray(b"a pack")))
    assert (again.name, again.size) == (pack.name, pack.size)
    assert again.modified > 0
    await one.commit(KEY, PARTS)
    await one.end(KEY)
    assert server.objects(home) == [
        f"pre/fix/{HASH}/{KEY.variant}/{KEY.uuid}/chunks.table",
        f"pre/fix/{HASH}/{KEY.variant}/{KEY.uuid}/manifest.json",
        f"pre/fix/{HASH}/{KEY.variant}/{KEY.uuid}/places.table",
        f"pre/fix/packs/{pack.name[:2]}/{pack.name}",
    ]
    assert [entry.key for entry in await one.entries("")] == [KEY]
    assert [entry.key for entry in await one.entries("", HASH)] == [KEY]
    assert await one.entries("", "f" * 16) == await one.entries("team-a") == []
    for part, data in zip(backend.Part, (b"manifest", b"table", b"places"), strict=True):
        assert await one.read(KEY, part) == data
    (found,) = await one.packs("")
    assert (found.name, found.size, found.modified) == (pack.name, 6, again.modified)
    assert await one.read_pack("", pack.name, 2, 3) == b"pac"
    await one.delete(KEY)
    await one.delete(KEY)
    await one.delete_pack("", pack.name)
    await one.delete_pack("", pack.name)
    await one.end(KEY)
    assert server.objects(home) == []
    assert await one.entries("") == await one.packs("") == await one.writers("") == []


async def test_preflight_leaves_nothing(
    server: s3_server.Server, home: str, one: bucket.Bucket
) -> None:
    await one.check()
    assert server.objects(home) == []


@pytest.mark.parametrize("prefix", ["", "/a", "/a/b.c_d-e"])
async def test_prefixes_and_namespaces_do_not_meet(
    server: s3_server.Server, home: str, prefix: str
) -> None:
    one = bucket.Bucket(server.settings(f"{home}{prefix}"), limits=QUICK)
    other = bucket.Bucket(server.settings(f"{home}/other"), limits=QUICK)
    await one.commit(KEY, PARTS)
    await one.commit(THEIRS, PARTS)
    await one.put_pack("team-a", b"theirs")
    await other.commit(KEY, PARTS)
    for namespace, key in (("", KEY), ("team-a", THEIRS)):
        assert [entry.key for entry in await one.entries(namespace)] == [key]
    assert await one.packs("") == []
    assert len(await one.packs("team-a")) == 1
    await one.delete(THEIRS)
    assert [entry.key for entry in await one.entries("")] == [KEY]
    assert [entry.key for entry in await other.entries("")] == [KEY]


async def test_the_newest_artifact_is_first(
    server: s3_server.Server, home: str, one: bucket.Bucket
) -> None:
    keys = [dataclasses.replace(KEY, uuid=f"{n}") for n in range(3)]
    for age, key in enumerate(keys):
        await one.commit(key, PARTS)
        path = server.data / home / "pre/fix" / layout.part(key, backend.Part.MANIFEST)
        os.utime(path, (1.7e9 - 100 * age, 1.7e9 - 100 * age))
    found = await one.entries("")
    assert [entry.key for entry in found] == keys
    assert [entry.modified for entry in found] == [1.7e9, 1.7e9 - 100, 1.7e9 - 200]


async def test_of_two_who_commit_the_same_name_one_is_told(one: bucket.Bucket) -> None:
    others = [dataclasses.replace(PARTS, manifest=b"m%d" % n) for n in range(8)]
    told = await asyncio.gather(
        *(one.commit(KEY, parts) for parts in others), return_exceptions=True
    )
    won = [parts for parts, err in zip(others, told, strict=True) if err is None]
    lost = [err for err in told if err is not None]
    assert len(won) == 1
    assert await one.read(KEY, backend.Part.MANIFEST) == won[0].manifest
    assert all(isinstance(err, errors.StoreError) for err in lost)
    assert "there is another artifact of that name" in str(lost[0])


async def test_tables_of_an_artifact_are_never_replaced(one: bucket.Bucket) -> None:
    await one.commit(KEY, PARTS)
    for change in ({"table": b"x"}, {"places": b"x"}, {"manifest": b"x"}):
        with pytest.raises(errors.StoreError, match="another artifact"):
            await one.commit(KEY, dataclasses.replace(PARTS, **change))
    assert await one.read(KEY, backend.Part.TABLE) == b"table"
    assert await one.read(KEY, backend.Part.PLACES) == b"places"


async def test_a_pack_that_many_store_at_once_is_there_once(
    server: s3_server.Server, home: str, one: bucket.Bucket
) -> None:
    data = random.randbytes(1 << 20)
    packs = await asyncio.gather(*(one.put_pack("", data) for _ in range(8)))
    assert len({pack.name for pack in packs}) == 1
    assert sum(not pack.modified for pack in packs) == 1
    assert len(server.objects(home)) == 1
    assert await one.read_pack("", packs[0].name, 0, len(data)) == data


async def test_the_largest_pack_takes_no_second_copy(one: bucket.Bucket) -> None:
    data = memoryview(bytearray(random.randbytes(connection.LARGEST_BYTES)))
    await one.put_pack("", b"warm up")
    before = peak_bytes(reset=True)
    pack = await one.put_pack("", data)
    taken = peak_bytes() - before
    assert taken < connection.LARGEST_BYTES // 4, f"{taken >> 20} MiB for a pack of 64"
    middle = (1 << 20) - 5
    assert await one.read_pack("", pack.name, middle, 10) == data[middle : middle + 10]
    assert await one.read_pack("", pack.name, 0, len(data)) == data


def peak_bytes(*, reset: bool = False) -> int:
    """The most memory that this process has had since it was last reset."""
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


async def test_a_pack_that_is_too_short_or_gone_is_the_artifacts_fault(
    one: bucket.Bucket,
) -> None:
    pack = await one.put_pack("", b"0123456789")
    assert await one.read_pack("", pack.name, 9, 1) == b"9"
    for offset, size in ((9, 2), (10, 1), (5, 100)):
        with pytest.raises(errors.ArtifactError) as caught:
            await one.read_pack("", pack.name, offset, size)
        assert caught.value.reason == names.Reason.ARTIFACT_CORRUPT
    await one.delete_pack("", pack.name)
    for call in (one.read_pack("", pack.name, 0, 1), one.read(KEY, backend.Part.MANIFEST)):
        with pytest.raises(errors.ArtifactError) as caught:
            await call
        assert caught.value.reason == names.Reason.ARTIFACT_MISSING


async def test_a_damaged_pack_is_not_taken_for_the_same(
    server: s3_server.Server, home: str, one: bucket.Bucket
) -> None:
    pack = await one.put_pack("", b"0123456789")
    (server.data / home / "pre/fix" / layout.pack("", pack.name)).write_bytes(b"0123")
    with pytest.raises(errors.StoreError, match="its name stands for 10"):
        await one.put_pack("", b"0123456789")


async def test_more_than_one_page_is_listed_and_others_names_are_passed_over(
    server: s3_server.Server, home: str, one: bucket.Bucket
) -> None:
    folder = server.data / home / "pre/fix"
    expected = {blake3.blake3(b"%d" % n).hexdigest() for n in range(2300)}
    for name in expected:
        path = folder / layout.pack("", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    for stray in ("packs/README", "packs/00/x", "README", f"{HASH}/README", "writing/x", "ns/x"):
        path = folder / stray
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    await one.commit(KEY, PARTS)
    assert {pack.name for pack in await one.packs("")} == expected
    assert [entry.key for entry in await one.entries("")] == [KEY]
    assert await one.writers("") == []


async def test_many_identities_are_listed(one: bucket.Bucket) -> None:
    keys = {dataclasses.replace(KEY, identity_hash=f"{n:016x}") for n in range(30)}
    await asyncio.gather(*(one.commit(key, PARTS) for key in keys))
    assert {entry.key for entry in await one.entries("")} == keys


async def test_the_stores_keys_are_made_once(
    server: s3_server.Server, home: str, one: bucket.Bucket
) -> None:
    assert await one.read_keys() is None
    made = await asyncio.gather(*(one.write_keys(b"%d" % n) for n in range(8)))
    assert sum(made) == 1
    assert await one.read_keys() == b"%d" % made.index(True)
    assert await one.write_keys(b"new", replace=True)
    assert await one.read_keys() == b"new"
    assert server.objects(home) == ["pre/fix/keys.json"]


@pytest.mark.parametrize("part", ["/packs/", "chunks.table", "manifest.json", "/writing/"])
async def test_a_lost_answer_changes_nothing(
    behind: bucket.Bucket, bad: bad_s3.Proxy, part: str
) -> None:
    bad.fail(method="PUT", part=part, lost=True, times=2)
    await behind.begin(KEY)
    pack = await behind.put_pack("", b"a pack")
    await behind.commit(KEY, PARTS)
    assert bad.faults[0].times == 0
    assert await behind.read_pack("", pack.name, 0, 6) == b"a pack"
    assert await behind.read(KEY, backend.Part.MANIFEST) == b"manifest"


async def test_a_lost_answer_to_a_deletion_changes_nothing(
    server: s3_server.Server, home: str, behind: bucket.Bucket, bad: bad_s3.Proxy
) -> None:
    await behind.commit(KEY, PARTS)
    bad.fail(method="DELETE", lost=True, times=2)
    await behind.delete(KEY)
    assert server.objects(home) == []


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "code": "TooManyRequests", "headers": {"retry-after": "1"}},
        {"status": 500, "code": "InternalError"},
        {"status": 503, "code": "SlowDown"},
        {"deaf": True},
        {"method": "GET", "cut_after_bytes": 3},
    ],
)
async def test_everything_works_with_a_server_that_fails_every_other_time(
    server: s3_server.Server,
    home: str,
    behind: bucket.Bucket,
    bad: bad_s3.Proxy,
    fault: dict[str, object],
) -> None:
    bad.fail(every=2, **fault)
    await behind.begin(KEY)
    data = random.randbytes(1 << 20)
    pack = await behind.put_pack("", data)
    await behind.commit(KEY, PARTS)
    assert await behind.read_pack("", pack.name, 0, len(data)) == data
    assert [entry.key for entry in await behind.entries("")] == [KEY]
    assert [found.name for found in await behind.packs("")] == [pack.name]
    await behind.end(KEY)
    await behind.delete(KEY)
    await behind.check()
    assert server.objects(home) == [f"pre/fix/{layout.pack('', pack.name)}"]
    assert len(bad.requests) > 20


async def test_a_read_goes_on_where_it_broke(behind: bucket.Bucket, bad: bad_s3.Proxy) -> None:
    data = random.randbytes(8 << 20)
    pack = await behind.put_pack("", data)
    bad.requests.clear()
    bad.fail(method="GET", cut_after_bytes=3 << 20, times=2)
    assert await behind.read_pack("", pack.name, 0, len(data)) == data
    starts = [int(one.headers["range"].split("=")[1].split("-")[0]) for one in bad.requests]
    assert starts == sorted(starts)
    assert starts[-1] > 1 << 20


async def test_a_server_without_conditional_writes_is_refused(
    server: s3_server.Server, home: str, behind: bucket.Bucket, bad: bad_s3.Proxy
) -> None:
    bad.fail(method="PUT", unconditional=True)
    with pytest.raises(errors.StoreError, match="ignores conditional writes"):
        await behind.check()
    assert server.objects(home) == []


@pytest.mark.parametrize(
    ("method", "part", "permission"),
    [
        ("PUT", "", "s3:PutObject"),
        ("GET", "/checks/", "s3:GetObject"),
        ("GET", "list-type", "s3:ListBucket"),
        ("DELETE", "", "s3:DeleteObject"),
    ],
)
async def test_preflight_names_the_permission_that_is_missing(
    behind: bucket.Bucket, bad: bad_s3.Proxy, method: str, part: str, permission: str
) -> None:
    bad.fail(method=method, part=part, status=403, code="AccessDenied", message="Access Denied.")
    with pytest.raises(errors.StoreError) as caught:
        await behind.check()
    assert permission in str(caught.value.hint)
    assert "403 AccessDenied: Access Denied." in caught.value.message


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (400, "ExpiredToken", "renew AWS_SESSION_TOKEN"),
        (403, "RequestTimeTooSkewed", "synchronize"),
        (301, "PermanentRedirect", "set storage.s3.region"),
        (404, "", "an S3 server"),
    ],
)
async def test_preflight_explains_what_the_server_answers(
    server: s3_server.Server, bad: bad_s3.Proxy, home: str, status: int, code: str, hint: str
) -> None:
    bad.fail(status=status, code=code)
    err = await refusal(server.settings(home, host=bad.host))
    assert hint in str(err.hint)
    assert f"bucket {home} at http://{bad.host}" in err.message


@pytest.mark.parametrize(
    ("change", "code", "hint"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "404 XAdminUserNotFound", "AWS_ACCESS_KEY_ID"),
        (
            {"AWS_SECRET_ACCESS_KEY": "wr0ng"},
            "403 SignatureDoesNotMatch",
            "AWS_SECRET_ACCESS_KEY",
        ),
        ({"AWS_SESSION_TOKEN": "t0k3n"}, "400 InvalidToken", "AWS_SESSION_TOKEN"),
        ({"AWS_REGION": "eu-west-1"}, "400 AuthorizationHeaderMalformed", "region to us-east-1"),
    ],
)
async def test_preflight_explains_what_is_wrong_with_the_secret(
    server: s3_server.Server, home: str, change: dict[str, str], code: str, hint: str
) -> None:
    settings = server.settings(home, credentials=server.secret(f"wrong-{home}", **change))
    err = await refusal(settings)
    assert code in err.message
    assert hint in str(err.hint)
    for text in (server.secret_access_key, server.access_key_id, "wr0ng", "t0k3n"):
        assert text not in str(err)


async def test_preflight_explains_a_bucket_that_is_missing(server: s3_server.Server) -> None:
    err = await refusal(server.settings("missing"))
    assert f"bucket missing at {server.url}: put checks/" in err.message
    assert "404 NoSuchBucket" in err.message
    assert "make the bucket" in str(err.hint)


@pytest.mark.parametrize(
    ("host", "why"),
    [("127.0.0.1:1", "refuses connections"), ("missing.invalid:9000", "name is not known")],
)
async def test_preflight_explains_a_server_that_is_not_there(
    server: s3_server.Server, host: str, why: str
) -> None:
    err = await refusal(server.settings("artifacts", host=host))
    assert f"bucket artifacts at http://{host}" in err.message
    assert why in err.message


async def test_a_secret_that_is_corrected_is_used_at_once(
    server: s3_server.Server, home: str
) -> None:
    path = server.secret(f"corrected-{home}", AWS_SECRET_ACCESS_KEY="wr0ng")
    one = bucket.Bucket(server.settings(home, credentials=path), limits=QUICK)
    with pytest.raises(errors.StoreError):
        await one.check()
    server.secret(f"corrected-{home}")
    await one.check()


async def test_a_bucket_with_a_dot_in_its_name(server: s3_server.Server) -> None:
    server.make_bucket("a.dotted.bucket")
    settings = config.S3(
        uri="s3://a.dotted.bucket/p",
        endpoint=server.url,
        plainHttp=True,
        credentialsPath=server.secret(),
    )
    one = bucket.Bucket(settings, limits=QUICK)
    await one.check()
    await one.commit(KEY, PARTS)
    assert len(server.objects("a.dotted.bucket")) == 3


async def test_tls(server: s3_server.Server, tmp_path: pathlib.Path) -> None:
    with s3_server.running(tmp_path / "tls", tls=True) as safe:
        safe.make_bucket("artifacts")
        settings = safe.settings("artifacts/p")
        one = bucket.Bucket(settings, limits=QUICK)
        await one.check()
        data = random.randbytes(1 << 20)
        pack = await one.put_pack("", data)
        assert await one.read_pack("", pack.name, 0, len(data)) == data
        unknown = config.S3(uri=settings.uri, credentialsPath=settings.credentialsPath)
        err = await refusal(unknown)
        assert "its certificate is of an authority that is not known" in err.message
        assert "storage.s3.caBundle" in str(err.hint)
        assert not err.retryable
    err = await refusal(config.S3(uri=f"s3://{server.host}/x00", credentialsPath=server.secret()))
    assert "it does not speak TLS" in err.message
    assert "plainHttp" in str(err.hint)


def test_a_process_that_ends_after_a_request_ends_well(server: s3_server.Server, home: str) -> None:
    """Without a pause at the end the client's threads abort one in five of these."""
    argv = [sys.executable, "-c", ENDING, f"s3://{server.host}/{home}", server.secret()]
    for _ in range(8):
        subprocess.run(argv, check=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)})
