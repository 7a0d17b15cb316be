"""Artifacts in a real registry: Debian's docker-registry, from which most others descend."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import logging
import pathlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest

from chrek import config, errors, names
from chrek.registry import client as registry
from chrek.registry import manifests
from chrek.remote import backend, ocikeys, ocimanifest, repository
from store import registry_server

pytestmark = pytest.mark.system
KEY = backend.Key("", "0123456789abcdef", "a1b2c3d4e5f6", "6ecd6e2e-3b9f-4c2c-9d0e-0d6f5c0a1b2c")
OTHER = dataclasses.replace(KEY, uuid="11111111-3b9f-4c2c-9d0e-0d6f5c0a1b2c")
SMALL = 1 << 20


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[registry_server.Server]:
    with registry_server.running(tmp_path) as made:
        yield made


@contextlib.asynccontextmanager
async def opened(settings: config.Oci) -> AsyncIterator[repository.Repository]:
    made = repository.Repository(settings)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def store(server: registry_server.Server) -> AsyncIterator[repository.Repository]:
    async with opened(server.settings("acme/store")) as made:
        yield made


def data(number: int, size: int = SMALL) -> bytes:
    return hashlib.sha256(b"%d" % number).digest() * (size // 32)


async def commit(
    store: repository.Repository, key: backend.Key, *packs: bytes
) -> backend.Described:
    listed = [await store.put_pack(key.namespace, one) for one in packs]
    described = backend.Described(
        manifest=b"manifest of " + key.uuid.encode(),
        table=b"table",
        places=b"places",
        packs=listed,
        annotations={"org.opencontainers.image.created": "2026-11-25T10:00:00Z"},
    )
    await store.commit(key, described)
    return described


def blobs(server: registry_server.Server) -> set[str]:
    """Digests of what the registry stores, whoever refers to it."""
    return {f"sha256:{path.parent.name}" for path in server.data.glob("blobs/sha256/*/*/data")}


async def is_gone(store: repository.Repository, key: backend.Key) -> None:
    assert await store.entries(key.namespace) == []
    with pytest.raises(errors.ArtifactError) as raised:
        await store.read(key, backend.Part.MANIFEST)
    assert raised.value.reason == names.Reason.ARTIFACT_MISSING


async def test_an_artifact_is_made_read_and_deleted(
    store: repository.Repository, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        await store.check()
        await is_gone(store, KEY)
        described = await commit(store, KEY, data(1), data(2))
        assert [(entry.key, entry.modified) for entry in await store.entries("")] == [
            (KEY, 1795600800.0)
        ]
        assert await store.entries("", KEY.identity_hash) == await store.entries("")
        assert await store.entries("", "f" * 16) == []
        for part, text in backend.texts(described).items():
            assert await store.read(KEY, part) == text
        for number, pack in enumerate(described.packs, start=1):
            for offset, size in ((0, SMALL), (5, 77), (SMALL - 1, 1)):
                expected = data(number)[offset : offset + size]
                assert await store.read_pack("", pack.name, offset, size) == expected
        await store.commit(KEY, described)
        with pytest.raises(errors.StoreError, match="there is something else of that name"):
            await store.commit(KEY, dataclasses.replace(described, table=b"another"))
        for _ in range(2):
            await store.delete(KEY)
        await is_gone(store, KEY)
    assert caplog.records == []


async def test_a_preflight_leaves_no_manifest(
    server: registry_server.Server, store: repository.Repository
) -> None:
    for _ in range(2):
        await store.check()
    assert not list(server.data.glob("repositories/acme/store/_manifests/tags/*"))
    revisions = "repositories/acme/store/_manifests/revisions/sha256/*/link"
    assert not list(server.data.glob(revisions))


async def test_an_equal_pack_is_sent_once_and_mounted_into_other_namespaces(
    server: registry_server.Server, store: repository.Repository
) -> None:
    first = await store.put_pack("", data(1))
    assert (first.modified, first.size) == (0.0, SMALL)
    again = await store.put_pack("", memoryview(data(1)))
    assert again.modified > 0
    (path,) = server.data.glob("blobs/sha256/*/*/data")
    before = path.stat()
    assert (await store.put_pack("team-a", data(1))).name == first.name
    after = path.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    digest = first.name.removeprefix("sha256:")
    link = server.data / f"repositories/acme/store/ns/team-a/_layers/sha256/{digest}/link"
    assert link.read_text() == first.name
    assert not list(server.data.glob("repositories/**/_uploads/*"))


async def test_namespaces_are_repositories_of_their_own(store: repository.Repository) -> None:
    inner = dataclasses.replace(KEY, namespace="team-a")
    await commit(store, KEY, data(1))
    await commit(store, inner, data(1))
    assert [entry.key for entry in await store.entries("")] == [KEY]
    assert [entry.key for entry in await store.entries("team-a")] == [inner]
    await store.delete(KEY)
    assert await store.read(inner, backend.Part.TABLE) == b"table"


async def test_the_registry_collects_what_nobody_needs(
    server: registry_server.Server, store: repository.Repository
) -> None:
    one = await commit(store, KEY, data(1), data(2))
    await commit(store, OTHER, data(2), data(3))
    await store.delete(KEY)
    server.collect()
    kept = {hashlib.sha256(data(number)).hexdigest() for number in (2, 3)}
    assert {f"sha256:{name}" for name in kept} <= blobs(server)
    assert one.packs[0].name not in blobs(server)
    with pytest.raises(errors.ArtifactError) as raised:
        await store.read_pack("", one.packs[0].name, 0, 10)
    assert raised.value.reason == names.Reason.ARTIFACT_MISSING
    assert await store.read_pack("", one.packs[1].name, 0, 10) == data(2)[:10]


async def test_a_pack_that_went_before_the_commit(
    server: registry_server.Server, store: repository.Repository
) -> None:
    pack = await store.put_pack("", data(1))
    server.collect()
    digest = pack.name.removeprefix("sha256:")
    shutil.rmtree(server.data / f"repositories/acme/store/_layers/sha256/{digest}")
    described = backend.Described(manifest=b"m", table=b"t", places=b"p", packs=[pack])
    with pytest.raises(errors.StoreError, match="MANIFEST_BLOB_UNKNOWN") as raised:
        await store.commit(KEY, described)
    assert "collect garbage only while nobody writes" in (raised.value.hint or "")
    await is_gone(store, KEY)


async def test_a_registry_that_does_not_delete(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    with registry_server.running(tmp_path, deletes=False) as server:
        async with opened(server.settings("acme/store")) as store:
            with caplog.at_level(logging.WARNING):
                await store.check()
            (line,) = caplog.records
            assert line.getMessage() == "the registry does not delete: artifacts stay there"
            await commit(store, KEY, data(1))
            with pytest.raises(errors.StoreError, match="405 UNSUPPORTED") as raised:
                await store.delete(KEY)
            assert "REGISTRY_STORAGE_DELETE_ENABLED=true" in (raised.value.hint or "")
            assert [entry.key for entry in await store.entries("")] == [KEY]


async def test_a_private_registry(tmp_path: pathlib.Path) -> None:
    with registry_server.running(tmp_path, private=True) as server:
        settings = server.settings("acme/store")
        async with opened(settings) as store:
            await store.check()
            await commit(store, KEY, data(1))
            # The Secret is changed while the agent runs.
            path = pathlib.Path(settings.credentialsPath) / ".dockerconfigjson"
            right = path.read_text()
            path.write_text(json.dumps({"auths": {server.host: {"auth": "bWU6d3Jvbmc="}}}))
            with pytest.raises(errors.StoreError, match="401 UNAUTHORIZED") as raised:
                await store.entries("")
            assert "are user and password in the Secret" in (raised.value.hint or "")
            path.write_text(right)
            assert [entry.key for entry in await store.entries("")] == [KEY]
        nobody = config.Oci(uri=settings.uri, plainHttp=True)
        async with opened(nobody) as store:
            with pytest.raises(errors.StoreError, match="401 UNAUTHORIZED") as raised:
                await store.check()
            assert "name a Secret with a user" in (raised.value.hint or "")


async def test_a_registry_with_tls(tmp_path: pathlib.Path) -> None:
    with registry_server.running(tmp_path, tls=True) as server:
        async with opened(server.settings("acme/store")) as store:
            await store.check()
            described = await commit(store, KEY, data(1, 8 * SMALL))
            (pack,) = described.packs
            assert await store.read_pack("", pack.name, 3, SMALL) == data(1)[3:] + data(1)[:3]


async def test_keys_are_made_once(
    server: registry_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ocikeys, "SETTLE_SECONDS", 4.5)  # And not 8, to be done sooner.
    async with contextlib.AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(opened(server.settings("acme/store"))) for _ in range(5)
        ]
        assert await nodes[0].read_keys() is None
        made = await asyncio.gather(
            *(node.write_keys(b"keys of %d" % number) for number, node in enumerate(nodes))
        )
        assert sum(made) == 1
        expected = b"keys of %d" % made.index(True)
        assert {await node.read_keys() for node in nodes} == {expected}
        assert await nodes[0].write_keys(b"others") is False
        assert await nodes[0].write_keys(b"wrapped anew", replace=True)
        assert await nodes[1].read_keys() == b"wrapped anew"
        assert await nodes[0].entries("") == []
        await nodes[0].check()


async def test_many_tags_are_listed(store: repository.Repository) -> None:
    described = await commit(store, KEY)
    keys = [
        dataclasses.replace(KEY, uuid=f"{number:08x}-3b9f-4c2c-9d0e-0d6f5c0a1b2c")
        for number in range(40)
    ]
    for key in keys:
        await store.commit(key, described)
    assert {entry.key for entry in await store.entries("")} == {KEY, *keys}


def skopeo(*arguments: str) -> str:
    program = shutil.which("skopeo")
    if program is None:
        pytest.fail("this test needs skopeo: apt-get install skopeo", pytrace=False)
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_other_tools_list_inspect_and_copy_it(
    server: registry_server.Server, store: repository.Repository, tmp_path: pathlib.Path
) -> None:
    await commit(store, KEY, data(1), data(2))
    name = f"docker://{server.host}/acme/store"
    tag = ocimanifest.tag(KEY)
    assert json.loads(skopeo("list-tags", "--tls-verify=false", name))["Tags"] == [tag]
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"{name}:{tag}")
    described = json.loads(raw)
    assert described["artifactType"] == "application/vnd.chrek.checkpoint.v1+json"
    assert described["config"]["mediaType"] == "application/vnd.chrek.manifest.v1+json"
    assert [one["annotations"][ocimanifest.TITLE] for one in described["layers"]] == [
        *("chunks.table", "places.table", "00000.pack", "00001.pack")
    ]
    assert described["annotations"][ocimanifest.CREATED] == "2026-11-25T10:00:00Z"
    copied = tmp_path / "copied"
    skopeo("copy", "--src-tls-verify=false", f"{name}:{tag}", f"dir:{copied}")
    assert (copied / "manifest.json").read_text() == raw
    for one in (described["config"], *described["layers"]):
        content = (copied / one["digest"].removeprefix("sha256:")).read_bytes()
        assert len(content) == one["size"]
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == one["digest"]
    # And back, into another registry, as a migration would do it.
    skopeo(
        *("copy", "--dest-tls-verify=false", f"dir:{copied}"),
        f"docker://{server.host}/acme/moved:{tag}",
    )
    async with opened(server.settings("acme/moved")) as moved:
        assert await moved.read(KEY, backend.Part.TABLE) == b"table"
        assert await moved.entries("") == [backend.Entry(KEY, 1795600800.0)]


async def test_tags_of_others_are_left_alone(
    server: registry_server.Server, store: repository.Repository
) -> None:
    await commit(store, KEY, data(1))
    kind = "application/vnd.oci.image.manifest.v1+json"
    digest = f"sha256:{hashlib.sha256(data(1)).hexdigest()}"
    one = {"mediaType": "a/b", "digest": digest, "size": SMALL}
    body = {"schemaVersion": 2, "mediaType": kind, "config": one, "layers": []}
    strange = ocimanifest.tag(OTHER)
    for tag in ("latest", strange):
        url = f"{server.url}/v2/acme/store/manifests/{tag}"
        registry_server.send("PUT", url, json.dumps(body).encode(), kind)
    assert [entry.key for entry in await store.entries("")] == [KEY]
    with pytest.raises(errors.ArtifactError, match="it has no usable manifest"):
        await store.read(OTHER, backend.Part.MANIFEST)
    await store.delete(KEY)
    async with registry.Client(server.host, plain_http=True) as client:
        assert sorted(await manifests.tags(client, "acme/store")) == sorted(["latest", strange])
