"""A bucket of a real server: what lies there, also when its answers are lost or cut."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import pathlib
import random
import subprocess
import sys

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
ENDING = """
import asyncio, sys
from chrek import config
from chrek.remote import bucket

async def main():
    one = bucket.Bucket(config.S3(uri=sys.argv[1], plainHttp=True, credentialsPath=sys.argv[2]))
    assert await one.read_keys() is None

asyncio.run(main())
"""


async def test_an_artifacts_life(s3: s3_server.Server, home: str, one: bucket.Bucket) -> None:
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
    assert s3.objects(home) == [
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
    assert s3.objects(home) == []
    assert await one.entries("") == await one.packs("") == await one.writers("") == []


@pytest.mark.parametrize("prefix", ["", "/a", "/a/b.c_d-e"])
async def test_prefixes_and_namespaces_do_not_meet(
    s3: s3_server.Server, home: str, prefix: str
) -> None:
    one = bucket.Bucket(s3.settings(f"{home}{prefix}"), limits=s3_server.QUICK)
    other = bucket.Bucket(s3.settings(f"{home}/other"), limits=s3_server.QUICK)
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
    s3: s3_server.Server, home: str, one: bucket.Bucket
) -> None:
    keys = [dataclasses.replace(KEY, uuid=f"{n}") for n in range(3)]
    for age, key in enumerate(keys):
        await one.commit(key, PARTS)
        path = s3.data / home / "pre/fix" / layout.part(key, backend.Part.MANIFEST)
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
    s3: s3_server.Server, home: str, one: bucket.Bucket
) -> None:
    data = random.randbytes(1 << 20)
    packs = await asyncio.gather(*(one.put_pack("", data) for _ in range(8)))
    assert len({pack.name for pack in packs}) == 1
    assert sum(not pack.modified for pack in packs) == 1
    assert len(s3.objects(home)) == 1
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
    s3: s3_server.Server, home: str, one: bucket.Bucket
) -> None:
    pack = await one.put_pack("", b"0123456789")
    (s3.data / home / "pre/fix" / layout.pack("", pack.name)).write_bytes(b"0123")
    with pytest.raises(errors.StoreError, match="its name stands for 10"):
        await one.put_pack("", b"0123456789")


async def test_more_than_one_page_is_listed_and_others_names_are_passed_over(
    s3: s3_server.Server, home: str, one: bucket.Bucket
) -> None:
    folder = s3.data / home / "pre/fix"
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
    s3: s3_server.Server, home: str, one: bucket.Bucket
) -> None:
    assert await one.read_keys() is None
    made = await asyncio.gather(*(one.write_keys(b"%d" % n) for n in range(8)))
    assert sum(made) == 1
    assert await one.read_keys() == b"%d" % made.index(True)
    assert await one.write_keys(b"new", replace=True)
    assert await one.read_keys() == b"new"
    assert s3.objects(home) == ["pre/fix/keys.json"]


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
    s3: s3_server.Server, home: str, behind: bucket.Bucket, bad: bad_s3.Proxy
) -> None:
    await behind.commit(KEY, PARTS)
    bad.fail(method="DELETE", lost=True, times=2)
    await behind.delete(KEY)
    assert s3.objects(home) == []


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
    s3: s3_server.Server,
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
    assert s3.objects(home) == [f"pre/fix/{layout.pack('', pack.name)}"]
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


async def test_a_bucket_with_a_dot_in_its_name(s3: s3_server.Server) -> None:
    s3.make_bucket("a.dotted.bucket")
    settings = config.S3(
        uri="s3://a.dotted.bucket/p",
        endpoint=s3.url,
        plainHttp=True,
        credentialsPath=s3.secret(),
    )
    one = bucket.Bucket(settings, limits=s3_server.QUICK)
    await one.check()
    await one.commit(KEY, PARTS)
    assert len(s3.objects("a.dotted.bucket")) == 3


def test_a_process_that_ends_after_a_request_ends_well(s3: s3_server.Server, home: str) -> None:
    """Without a pause at the end the client's threads abort one in five of these."""
    argv = [sys.executable, "-c", ENDING, f"s3://{s3.host}/{home}", s3.secret()]
    for _ in range(8):
        subprocess.run(argv, check=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)})
