"""A store in a registry, over a real connection to a fake one."""

import asyncio
import base64
import dataclasses
import email.utils
import json
import logging
import time

import pytest

from chrek import config, deadline, errors, names
from chrek.registry import client, session
from chrek.remote import backend, ocikeys, ocimanifest, repository
from fakes import registry as fake

KEY = backend.Key("", "0123456789abcdef", "a1b2c3d4e5f6", "6ecd6e2e-3b9f-4c2c-9d0e-0d6f5c0a1b2c")
INNER = dataclasses.replace(KEY, namespace="team-a")
TAG = "0123456789abcdef.a1b2c3d4e5f6.6ecd6e2e-3b9f-4c2c-9d0e-0d6f5c0a1b2c"
PACK = bytes(range(256)) * 16
NAME = fake.digest(PACK)
CREATED = {ocimanifest.CREATED: "1970-01-01T00:01:00Z"}
BLOBS, UPLOADS = "/v2/acme/store/blobs/", "/v2/acme/store/blobs/uploads/"
MANIFESTS = "/v2/acme/store/manifests/"
SECRET = "the Secret of storage.oci.credentialsSecretRef"
LOST = b'{"errors": [{"code": "BLOB_UPLOAD_UNKNOWN", "message": "blob upload unknown"}]}'


def code(name, message=""):
    return json.dumps({"errors": [{"code": name, "message": message}]}).encode()


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy of this machine, and no waiting between attempts."""
    fake.direct(monkeypatch)
    monkeypatch.setattr(repository, "PATIENCE", client.Patience(attempts=4, seconds=5.0))


@pytest.fixture
def server():
    with fake.Registry() as made:
        yield made


@pytest.fixture
def secret(tmp_path):
    """Writes the mounted Secret."""

    def write(host, pair="me:hunter2"):
        auth = base64.b64encode(pair.encode()).decode()
        found = json.dumps({"auths": {host: {"auth": auth}}})
        (tmp_path / ".dockerconfigjson").write_text(found)
        return str(tmp_path)

    return write


@pytest.fixture
async def connect(server):
    """Makes what is tested."""
    made = []

    def make(**options):
        options = {"uri": f"oci://{server.host}/acme/store", "plainHttp": True, **options}
        made.append(repository.Repository(config.Oci(**options)))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.fixture
def store(connect):
    return connect()


def described(*packs, **more):
    texts = {"manifest": b"manifest", "table": b"table", "places": b"places"}
    return backend.Described(**{**texts, "packs": packs, "annotations": CREATED, **more})


async def commit(store, key=KEY, **more):
    made = described(await store.put_pack(key.namespace, PACK), **more)
    await store.commit(key, made)
    return made


async def refused(work, kind=errors.StoreError):
    with pytest.raises(kind) as raised:
        await work
    assert type(raised.value) is kind
    assert "hunter2" not in str(raised.value)
    assert "_state" not in str(raised.value)
    return raised.value


# What a store does.


async def test_an_artifact_is_committed_and_read(store, server):
    made = await commit(store)
    kind, raw = server.manifests["acme/store", TAG]
    assert kind == fake.OCI_MANIFEST
    assert raw == ocimanifest.artifact(await ocimanifest.descriptors(made), CREATED)
    for part, text in backend.texts(made).items():
        assert await store.read(KEY, part) == text
    assert await store.read_pack("", NAME, 10, 20) == PACK[10:30]


async def test_its_manifest_is_written_last(store, server):
    await commit(store)
    writes = [one.path for one in server.requests if one.method in ("PUT", "POST")]
    assert writes[-1] == f"{MANIFESTS}{TAG}"
    assert len(writes) == 1 + 2 * 4


async def test_where_it_is_is_asked_once(store, server):
    await commit(store)
    server.requests.clear()
    for part in backend.Part:
        await store.read(KEY, part)
    assert server.count("GET", MANIFESTS) == 1


async def test_but_not_everything_is_remembered(store, server, monkeypatch):
    monkeypatch.setattr(repository, "RESOLVED", 2)
    keys = [dataclasses.replace(KEY, uuid=f"{number}") for number in range(4)]
    for key in keys:
        await commit(store, key)
    for key in keys:
        await store.read(key, backend.Part.TABLE)
    assert list(store._resolved) == keys[2:]


async def test_a_pack_is_sent_once(store, server):
    assert await store.put_pack("", memoryview(PACK)) == backend.Pack(NAME, len(PACK), 0.0)
    server.requests.clear()
    again = await store.put_pack("", PACK)
    assert time.time() - 60 < again.modified <= time.time()
    assert [one.method for one in server.requests] == ["HEAD"]


async def test_another_namespace_has_a_repository_of_its_own(store, server):
    await commit(store)
    server.requests.clear()
    await commit(store, INNER)
    assert server.holders[NAME] == {"acme/store", "acme/store/ns/team-a"}
    mounted = next(one for one in server.requests if one.method == "POST")
    assert mounted.query == {"mount": NAME, "from": "acme/store"}
    assert ("acme/store/ns/team-a", TAG) in server.manifests
    assert [entry.key for entry in await store.entries("")] == [KEY]
    assert [entry.key for entry in await store.entries("team-a")] == [INNER]
    await store.delete(KEY)
    assert await store.read(INNER, backend.Part.TABLE) == b"table"


async def test_the_same_commit_again_is_no_error(store, server):
    made = await commit(store)
    before = server.count("PUT")
    await store.commit(KEY, made)
    await store.commit(KEY, dataclasses.replace(made, annotations={"other": "x"}))
    assert server.count("PUT") == before


async def test_an_artifact_is_never_replaced(store, server):
    made = await commit(store)
    before = dict(server.manifests)
    for change in ({"table": b"x"}, {"packs": []}, {"manifest": b"x"}):
        err = await refused(store.commit(KEY, dataclasses.replace(made, **change)))
        where = f"oci://{server.host}/acme/store:{TAG}"
        assert err.message == f"{where}: there is something else of that name already"
    server.index("acme/store", TAG, [])
    before = dict(server.manifests)
    await refused(store.commit(KEY, made))
    assert server.manifests == before


async def test_a_commit_whose_answer_is_lost(store, server):
    def store_it(handler):
        asked = server.requests[-1]
        server.put("acme/store", TAG, fake.OCI_MANIFEST, asked.body)
        fake.reset()(handler)

    server.script[f"PUT {MANIFESTS}"] = [store_it]
    made = await commit(store)
    await store.commit(KEY, made)
    assert await store.read(KEY, backend.Part.TABLE) == b"table"


async def test_listings_are_of_artifacts_newest_first(store, server):
    keys = [dataclasses.replace(KEY, uuid=f"{number}") for number in range(3)]
    for number, key in zip((2, 9, 5), keys, strict=True):
        await commit(store, key, annotations={ocimanifest.CREATED: f"1970-01-01T00:00:0{number}Z"})
    other = dataclasses.replace(KEY, identity_hash="f" * 16)
    await commit(store, other)
    await store.write_keys(b"keys", replace=True)
    server.image("acme/store", "latest", {})
    assert await store.entries("") == [
        backend.Entry(other, 60.0),
        backend.Entry(keys[1], 9.0),
        backend.Entry(keys[2], 5.0),
        backend.Entry(keys[0], 2.0),
    ]
    server.requests.clear()
    server.page = 2
    found = await store.entries("", KEY.identity_hash)
    assert [entry.key for entry in found] == [keys[1], keys[2], keys[0]]
    assert {one.path for one in server.requests} == {"/v2/acme/store/tags/list"}, "it remembers"


async def test_a_tag_that_names_nothing_is_left_out(store, server):
    """Some registries keep the tags of what was deleted by its digest."""
    await commit(store)
    server.script["GET /v2/acme/store/tags/list"] = [
        (200, {}, json.dumps({"tags": [TAG, TAG.replace("0123", "abcd")]}).encode())
    ]
    assert [entry.key for entry in await store.entries("")] == [KEY]


async def test_one_that_names_something_else_is_told(store, server, caplog):
    server.image("acme/store", TAG, {})
    with caplog.at_level(logging.WARNING):
        assert await store.entries("") == []
    (line,) = caplog.records
    assert f"{TAG}: it has no usable manifest.json" in line.error


async def test_a_listing_that_fails_in_its_middle_fails(store, server):
    for number in range(20):
        await commit(store, dataclasses.replace(KEY, uuid=f"{number}"))
    server.script[f"GET {MANIFESTS}"] = [(403, {}, b"")]
    await refused(store.entries(""))
    await asyncio.sleep(0.05)
    assert len(await store.entries("")) == 20


async def test_a_store_that_has_never_been_written(store):
    assert await store.entries("") == []
    assert await store.read_keys() is None
    await store.delete(KEY)
    err = await refused(store.read(KEY, backend.Part.MANIFEST), errors.ArtifactError)
    assert err.reason == names.Reason.ARTIFACT_MISSING


async def test_a_deleted_artifact_is_gone(store, server):
    await commit(store)
    await store.read(KEY, backend.Part.TABLE)
    for _ in range(2):
        await store.delete(KEY)
    assert ("acme/store", TAG) not in server.manifests
    assert await store.entries("") == []
    err = await refused(store.read(KEY, backend.Part.TABLE), errors.ArtifactError)
    assert err.reason == names.Reason.ARTIFACT_MISSING
    assert f"artifact oci://{server.host}/acme/store:{TAG} is not there" in err.message
    assert err.hint == "it was deleted: make the checkpoint again"


async def test_registries_that_want_tags_to_go_first(store, server):
    await commit(store)
    _, raw = server.manifests["acme/store", TAG]
    referred = code("GOOGLE_MANIFEST_DANGLING_TAG", "Manifest is still referenced by tag")
    server.script[f"DELETE {MANIFESTS}"] = [(400, {}, referred), (202, {}, b"")]
    await store.delete(KEY)
    deleted = [one.path for one in server.requests if one.method == "DELETE"]
    digest = fake.digest(raw)
    assert deleted == [f"{MANIFESTS}{one}" for one in (digest, TAG, digest)]
    assert server.manifests == {}


async def test_parts_that_are_gone(store, server):
    made = await commit(store)
    server.blobs.pop(fake.digest(made.table))
    err = await refused(store.read(KEY, backend.Part.TABLE), errors.ArtifactError)
    assert err.reason == names.Reason.ARTIFACT_MISSING
    assert err.message.startswith(f"chunks.table of oci://{server.host}/acme/store:{TAG} is not")
    assert KEY not in store._resolved


@pytest.mark.parametrize("damage", [b"", b"tab", b"fable", b"table ", b"table" * 1000])
async def test_parts_that_are_damaged(store, server, damage):
    made = await commit(store)
    server.blobs[fake.digest(made.table)] = damage
    err = await refused(store.read(KEY, backend.Part.TABLE), errors.ArtifactError)
    assert err.reason == names.Reason.ARTIFACT_CORRUPT
    assert err.message.endswith(f"what the registry has is not {fake.digest(made.table)}")
    server.blobs[fake.digest(made.table)] = made.table
    assert await store.read(KEY, backend.Part.TABLE) == made.table


@pytest.mark.parametrize("damage", [b"", b"another", b"manifest" * 1000])
async def test_a_damaged_manifest_has_another_digest(store, server, damage):
    made = await commit(store)
    server.blobs[fake.digest(made.manifest)] = damage
    err = await refused(store.read(KEY, backend.Part.MANIFEST), errors.ArtifactError)
    assert err.reason == names.Reason.DIGEST_MISMATCH


async def test_what_another_one_has_deleted_is_not_there(store, server):
    await commit(store)
    await store.read(KEY, backend.Part.MANIFEST)
    server.manifests.clear()
    err = await refused(store.read(KEY, backend.Part.MANIFEST), errors.ArtifactError)
    assert err.reason == names.Reason.ARTIFACT_MISSING


async def test_packs_that_are_gone_or_too_short(store, server):
    err = await refused(store.read_pack("", NAME, 0, 1), errors.ArtifactError)
    assert err.reason == names.Reason.ARTIFACT_MISSING
    assert err.message.startswith(f"pack {NAME} is not there: ")
    await store.put_pack("", PACK)
    for offset in (len(PACK) - 1, 2 * len(PACK)):
        err = await refused(store.read_pack("", NAME, offset, 2), errors.ArtifactError)
        assert err.reason == names.Reason.ARTIFACT_CORRUPT
        assert "the artifact is damaged" in err.hint


@pytest.mark.parametrize(
    ("name", "offset", "size"),
    [("sha256:x", 0, 1), ("../x", 0, 1), (NAME, -1, 1), (NAME, 0, -1), (NAME + "\n", 0, 1)],
)
async def test_packs_that_cannot_be(store, server, name, offset, size):
    err = await refused(store.read_pack("", name, offset, size), errors.ArtifactError)
    assert f"{size} bytes from {offset} of a pack called {name!r} cannot be read" in err.message
    assert server.requests == []


async def test_packs_of_a_size_that_none_has(store, server, monkeypatch):
    monkeypatch.setattr(repository, "MOST_PACK_BYTES", 10)
    for data in (b"", b"x" * 11):
        err = await refused(store.put_pack("", data), errors.InputError)
        assert f"a pack of {len(data)} bytes, not of 1 to 10" in err.message
    assert server.requests == []


async def test_a_manifest_that_not_every_registry_takes(store, server):
    packs = [backend.Pack(f"sha256:{number:064x}", 64 << 20) for number in range(20_000)]
    err = await refused(store.commit(KEY, described(*packs)))
    assert "an artifact of 20000 packs has a manifest in the registry of" in err.message
    assert "more than 3145728, which not every registry takes" in err.message
    assert "s3 or pvc" in err.hint
    assert server.requests == []


@pytest.mark.parametrize("namespace", ["a/b", "..", "A", "a" * 64, "-"])
async def test_namespaces_that_cannot_be(store, server, namespace):
    wrong = dataclasses.replace(KEY, namespace=namespace)
    for work in (
        store.put_pack(namespace, PACK),
        store.read_pack(namespace, NAME, 0, 1),
        store.entries(namespace),
        store.read(wrong, backend.Part.TABLE),
        store.delete(wrong),
        store.commit(wrong, described()),
    ):
        await refused(work, errors.InputError)
    assert server.requests == []


async def test_the_registry_collects(store, server):
    assert store.collects
    assert store.pack_bytes == 64 << 20
    await store.begin(KEY)
    assert await store.writers("") == []
    await store.put_pack("", PACK)
    assert await store.packs("") == []
    await store.delete_pack("", NAME)
    await store.end(KEY)
    assert NAME in server.blobs


async def test_the_stores_keys(store, server, monkeypatch):
    monkeypatch.setattr(ocikeys, "SETTLE_SECONDS", 0.1)
    assert await store.write_keys(b"mine")
    assert await store.write_keys(b"others") is False
    assert await store.read_keys() == b"mine"
    assert await store.write_keys(b"anew", replace=True)
    assert await store.read_keys() == b"anew"
    assert await store.entries("") == []


async def test_connections_end_and_begin_again(store):
    await store.put_pack("", PACK)
    await store.close()
    assert await store.read_pack("", NAME, 0, 4) == PACK[:4]


# Preflight.


async def test_a_check_tries_everything_and_leaves_no_manifest(store, server, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            server.requests.clear()
            await store.check()
            methods = [one.method for one in server.requests]
            assert methods == ["POST", "PUT", "GET", "PUT", "DELETE"]
    assert server.manifests == {}
    assert list(server.blobs.values()) == [repository.PROBE]
    assert caplog.records == []


async def test_a_check_tells_that_nothing_can_be_deleted(store, server, caplog):
    server.deletes = False
    with caplog.at_level(logging.WARNING):
        await store.check()
    (line,) = caplog.records
    assert line.getMessage() == "the registry does not delete: artifacts stay there"
    assert "405 UNSUPPORTED" in line.error
    assert "REGISTRY_STORAGE_DELETE_ENABLED=true" in line.error


async def test_a_check_tells_that_reads_are_slow(store, server, caplog):
    server.ranges = False
    with caplog.at_level(logging.WARNING):
        await store.check()
    (line,) = caplog.records
    assert line.getMessage() == "the registry does not read by range: reads are slow"


@pytest.mark.parametrize(
    ("request_", "answer", "message"),
    [
        (f"POST {UPLOADS}", (403, {}, b""), "acme/store/blobs/uploads/: 403"),
        (f"PUT {UPLOADS}", (413, {}, b""), "acme/store/blobs/uploads: 413"),
        (f"GET {BLOBS}", (403, {}, b""), "acme/store/blobs/sha256:"),
        (
            f"GET {BLOBS}",
            (206, {"Content-Range": "bytes 7-10/48"}, b"xxxx"),
            "acme/store/blobs: it sends other bytes",
        ),
        (f"PUT {MANIFESTS}", (400, {}, code("MANIFEST_INVALID")), "400 MANIFEST_INVALID"),
    ],
)
async def test_a_check_fails_where_a_capture_would(store, server, request_, answer, message):
    server.script[request_] = [answer] * 9
    assert message in (await refused(store.check())).message


async def test_a_check_does_not_wait_for_long(store, server, monkeypatch):
    monkeypatch.setattr(repository, "CHECK_PATIENCE", client.Patience(attempts=2))
    for work in (store.check, store.read_keys):
        server.requests.clear()
        server.script["/v2/"] = [(503, {}, b"")] * 2
        assert ": 503" in (await refused(work())).message
        assert len(server.requests) == 2


# What users are told.


async def test_an_expired_token_is_renewed_and_not_told(connect, server, secret):
    server.users, server.scoped = {"me": "hunter2"}, True
    store = connect(credentialsPath=secret(server.host))
    await commit(store)
    server.token = "another"
    assert await store.read(KEY, backend.Part.TABLE) == b"table"
    server.token = "a third"
    assert (await store.put_pack("", b"more")).size == 4


async def test_401_of_a_wrong_password(connect, server, secret):
    server.users = {"me": "other"}
    store = connect(credentialsPath=secret(server.host))
    err = await refused(store.put_pack("", PACK))
    assert f"registry {server.host}: token of 127.0.0.1: 401 incorrect username" in err.message
    assert err.hint.startswith(f"are user and password in {SECRET} right")
    assert not err.retryable
    secret(server.host, "me:other")
    assert await store.put_pack("", PACK), "the Secret is read again when it changes"


async def test_401_without_a_secret(store, server):
    server.users, server.scheme = {"me": "x"}, "basic"
    err = await refused(store.entries(""))
    assert "acme/store/tags/list: 401 UNAUTHORIZED: authentication required" in err.message
    assert err.hint == (
        "it wants to know who asks: name a Secret with a user in storage.oci.credentialsSecretRef"
    )


async def test_401_with_a_secret_for_another_registry(connect, server, secret):
    server.users = {"me": "x"}
    server.token = "not the anonymous one"
    store = connect(credentialsPath=secret("ghcr.io"))
    err = await refused(store.put_pack("", PACK))
    assert err.hint == f"{SECRET} has no entry for {server.host}/acme/store"


async def test_a_secret_that_is_none(connect, server, tmp_path):
    store = connect(credentialsPath=str(tmp_path))
    err = await refused(store.check())
    path = tmp_path / ".dockerconfigjson"
    assert err.message == f"{SECRET}: {path}: No such file or directory"
    assert err.hint == "it must be of type kubernetes.io/dockerconfigjson"
    path.write_text("hunter2")
    assert f"{SECRET}: it is not a Docker config file" in (await refused(store.check())).message
    assert server.requests == []


@pytest.mark.parametrize(
    ("answer", "message", "hint"),
    [
        ((403, {}, b""), "403", f"the user of {SECRET} needs to pull, push and delete here"),
        (
            (403, {}, code("DENIED", "requested access to the resource is denied")),
            "403 DENIED: requested access to the resource is denied",
            "some registries say so too when the project does not exist",
        ),
        (
            (403, {}, code("DENIED", "Quota exceeded when processing the request of adding 9 GiB")),
            "403 DENIED: Quota exceeded when processing the request of adding 9 GiB",
            "its quota is used up: raise it, or delete checkpoints",
        ),
        (
            (404, {}, code("NAME_UNKNOWN", "repository name not known to registry")),
            "404 NAME_UNKNOWN: repository name not known to registry",
            "make the repository, or its project",
        ),
        ((404, {}, b"<html>"), "404", "check storage.oci.uri: is it a registry"),
        ((405, {}, code("UNSUPPORTED")), "405 UNSUPPORTED:", "is it read-only, or a cache"),
        ((413, {}, b"<html>"), "413", "a proxy before {host} takes no body so large"),
        (
            (429, {}, code("TOOMANYREQUESTS", "slow down")),
            "429 TOOMANYREQUESTS: slow down",
            "it limits requests",
        ),
        (
            (500, {}, code("UNKNOWN", "unknown error")),
            "500 UNKNOWN: unknown error",
            "registry's log",
        ),
        ((503, {}, b""), "503", "see the registry's log"),
        ((507, {}, b""), "507", "its storage is full"),
        (fake.reset(), "no answer: ", "can the nodes and the release's namespace reach {host}?"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_why_a_pack_cannot_be_stored(store, server, method, answer, message, hint):
    server.script[f"{method} {UPLOADS}"] = [answer] * 99
    err = await refused(store.put_pack("", PACK))
    assert err.message.startswith(f"registry {server.host}: acme/store/blobs/")
    assert message in err.message
    assert hint.format(host=server.host) in err.hint
    assert NAME not in server.blobs


@pytest.mark.parametrize(
    ("answer", "message"),
    [((status, {}, b""), f": {status}") for status in (400, 403, 405, 429, 500, 503)]
    + [(fake.reset(), ": no answer: ")],
)
async def test_why_it_cannot_be_told_whether_a_pack_is_there(store, server, answer, message):
    server.script[f"HEAD {BLOBS}"] = [answer] * 99
    err = await refused(store.put_pack("", PACK))
    assert err.message.startswith(f"registry {server.host}: acme/store/blobs/{NAME}{message}")
    assert server.count("POST") == 0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((403, {}, b""), ": 403"),
        ((404, {}, b"<html>default backend</html>"), ": 404"),
        ((429, {}, b""), ": 429"),
        ((500, {}, b""), ": 500"),
        (fake.reset(b"x"), "no answer: "),
    ],
)
async def test_why_a_pack_cannot_be_read(store, server, answer, message):
    await store.put_pack("", PACK)
    server.script[f"GET {BLOBS}"] = [answer] * 99
    err = await refused(store.read_pack("", NAME, 0, 100))
    assert err.message.startswith(f"registry {server.host}: acme/store/blobs/{NAME}: ")
    assert message in err.message
    assert err.hint


@pytest.mark.parametrize(
    "answer", [(429, {"Retry-After": "0"}, b""), (500, {}, b""), fake.reset(), fake.reset(b"x" * 9)]
)
async def test_what_passes_is_not_told(store, server, answer):
    made = await commit(store)
    for method in ("HEAD", "GET", "POST", "PUT"):
        server.script[f"{method} /v2/acme/store/"] = [answer]
    assert await store.read_pack("", NAME, 0, 100) == PACK[:100]
    server.script["GET /v2/acme/store/"] = [answer]
    assert await store.read(KEY, backend.Part.PLACES) == b"places"
    server.script["GET /v2/acme/store/"] = [answer]
    assert len(await store.entries("")) == 1
    await store.put_pack("", b"another")
    server.script["PUT /v2/acme/store/manifests/"] = [answer]
    server.script["DELETE /v2/acme/store/"] = [answer]
    await store.commit(dataclasses.replace(KEY, uuid="1"), made)
    await store.delete(KEY)


async def test_a_registry_that_asks_for_more_time_than_there_is(store, server):
    until = email.utils.formatdate(time.time() + 900, usegmt=True)
    server.script[f"POST {UPLOADS}"] = [(429, {"Retry-After": until}, code("TOOMANYREQUESTS"))]
    started = time.monotonic()
    err = await refused(store.put_pack("", PACK))
    assert "429 TOOMANYREQUESTS" in err.message
    assert err.retryable
    assert time.monotonic() - started < 2


async def test_whoever_waits_less_long_is_told_why(store, server):
    """And not only that it took too long."""
    server.script[f"POST {UPLOADS}"] = [(503, {}, code("UNAVAILABLE"))] * 99
    started = time.monotonic()
    with deadline.within(1):
        err = await refused(store.put_pack("", PACK))
    assert "503 UNAVAILABLE" in err.message
    assert time.monotonic() - started < repository.PATIENCE.seconds / 10


async def test_a_body_that_does_not_come(store, server, monkeypatch):
    await store.put_pack("", PACK)
    monkeypatch.setattr(session, "REQUEST_SECONDS", 0.1)
    server.script[f"GET {BLOBS}"] = [fake.slow(0.5)] * 9
    err = await refused(store.read_pack("", NAME, 0, 100))
    assert err.message.endswith(f"{NAME}: no answer: it took too long")
    assert err.retryable


async def test_an_upload_session_that_is_always_lost(store, server):
    server.script[f"PUT {UPLOADS}"] = [(404, {}, LOST)] * 99
    err = await refused(store.put_pack("", PACK))
    assert "acme/store/blobs/uploads: 404 BLOB_UPLOAD_UNKNOWN: blob upload unknown" in err.message
    assert server.count("PUT") == repository.PATIENCE.attempts


async def test_one_that_is_lost_once_is_begun_again(store, server):
    server.script[f"PUT {UPLOADS}"] = [(404, {}, LOST)]
    await store.put_pack("", PACK)
    assert server.blobs[NAME] == PACK


async def test_packs_at_another_host_are_read_there_without_a_credential(connect, server, secret):
    server.users = {"me": "hunter2"}
    with fake.Registry() as other:
        store = connect(credentialsPath=secret(server.host))
        await store.put_pack("", PACK)
        server.blobs_at = other.url
        other.blobs = server.blobs
        assert await store.read_pack("", NAME, 5, 9) == PACK[5:14]
        assert [one.authorization for one in other.requests] == [""]
        other.script["/elsewhere/"] = [(403, {}, b"<Error>AccessDenied</Error>")] * 9
        err = await refused(store.read_pack("", NAME, 5, 9))
        assert f"{NAME}: 403" in err.message


async def test_a_commit_whose_packs_are_gone(store, server):
    pack = await store.put_pack("", PACK)
    server.blobs.clear()
    err = await refused(store.commit(KEY, described(pack)))
    assert "400 MANIFEST_BLOB_UNKNOWN" in err.message
    assert "collect garbage only while nobody writes" in err.hint


async def test_a_deletion_that_is_disabled(store, server):
    await commit(store)
    server.deletes = False
    err = await refused(store.delete(KEY))
    assert "405 UNSUPPORTED: The operation is unsupported." in err.message
    assert "artifacts stay: set storage.delete.enabled in the registry's configuration" in err.hint
    assert ("acme/store", TAG) in server.manifests


async def test_a_registry_whose_authority_is_not_known(tmp_path):
    context, authority = fake.tls(tmp_path)
    with fake.Registry(context) as server:
        settings = config.Oci(uri=f"oci://{server.host}/acme/store")
        store = repository.Repository(settings)
        err = await refused(store.check())
        await store.close()
        assert "CERTIFICATE_VERIFY_FAILED" in err.message
        assert err.hint.endswith("name a ConfigMap that has it in storage.oci.caBundle")
        trusting = config.Oci(uri=settings.uri, caBundlePath=str(authority))
        store = repository.Repository(trusting)
        await store.check()
        await store.close()


async def test_a_bundle_of_authorities_that_is_none(connect, tmp_path):
    path = tmp_path / "ca.crt"
    path.write_text("x")
    err = await refused(connect(caBundlePath=str(path)).check())
    assert f"certificate authorities in {path}" in err.message


async def test_a_registry_without_tls(connect, server):
    err = await refused(connect(plainHttp=False).check())
    assert err.hint == f"set storage.oci.plainHttp if {server.host} has no TLS"


async def test_a_registry_that_is_not_there(connect):
    err = await refused(connect(uri="oci://127.0.0.1:1/acme/store").check())
    assert "no answer: Cannot connect to host 127.0.0.1:1" in err.message
    assert err.retryable


def test_docker_hub_by_any_of_its_names():
    for name in ("docker.io", "index.docker.io", "registry-1.docker.io"):
        store = repository.Repository(config.Oci(uri=f"oci://{name}/acme/store"))
        assert str(store._tagged(KEY)) == f"docker.io/acme/store:{TAG}"


def test_a_uri_that_cannot_be_used():
    with pytest.raises(errors.ConfigError):
        repository.Repository(config.Oci(uri="oci://registry.example.com"))


async def test_nothing_of_a_secret_is_shown(connect, server, secret):
    server.users = {"me": "hunter2"}
    store = connect(credentialsPath=secret(server.host))
    await store.put_pack("", PACK)
    assert "hunter2" not in repr(vars(store)) + repr(vars(store._keyring))
