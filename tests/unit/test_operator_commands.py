"""What images run, asked of a fake registry with the pull secrets of a fake API server."""

import asyncio
import base64
import json

import pytest

from chrek import config, errors
from chrek.kube import api
from chrek.operator import commands
from chrek.registry import client as registry_client
from fakes import api_server
from fakes import registry as fake

RUN = {"Entrypoint": ["/bin/worker"], "Cmd": ["--port", "8000"]}
PASSWORD = "hunter2"
SECRETS = "/api/v1/namespaces/ns/secrets"
ARM = {"os": "linux", "architecture": "arm64"}
ATTESTATION = {"os": "unknown", "architecture": "unknown"}


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(registry_client.RANDOM, "uniform", lambda low, high: 0.001)


@pytest.fixture
def server():
    with fake.Registry() as made:
        made.image("acme/worker", "2", RUN)
        yield made


@pytest.fixture
def cluster():
    with api_server.ApiServer() as made:
        yield made


@pytest.fixture
async def connection(cluster):
    async with api.Client(api.Credentials(server=cluster.url, tls=None)) as made:
        yield made


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def look(server, connection, clock):
    """Makes what is tested."""

    def make(*pull_secret_names, **more):
        settings = {"plainHttpRegistries": [server.host], **more}
        settings["pullSecretNames"] = list(pull_secret_names)
        return commands.Commands(connection, config.ImageLookup(**settings), clock=clock)

    return make


def secret(cluster, name, host, *, user="me", password=PASSWORD, legacy=False, raw=None):
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    auths = {host: {"auth": pair}}
    text = raw or json.dumps(auths if legacy else {"auths": auths})
    key = ".dockercfg" if legacy else ".dockerconfigjson"
    body = {"metadata": {"name": name}, "data": {key: base64.b64encode(text.encode()).decode()}}
    cluster.add(SECRETS, body)


async def resolve(known, server, *secrets, image="acme/worker:2", namespace="ns"):
    entrypoint, cmd = await known.entrypoint(namespace, f"{server.host}/{image}", secrets)
    return [*entrypoint, *cmd]


async def unknown(known, server, *secrets, **more):
    with pytest.raises(errors.UnsupportedError) as raised:
        await resolve(known, server, *secrets, **more)
    err = raised.value
    assert err.reason == "CommandUnknown"
    assert commands.HINT in err.hint, "there is always a way out"
    assert "hunter2" not in str(err)
    return err


async def test_entrypoint_and_cmd(server, look):
    known = look()
    assert await resolve(known, server) == ["/bin/worker", "--port", "8000"]
    found = await known.entrypoint("ns", f"{server.host}/acme/worker:2", [])
    assert found == (["/bin/worker"], ["--port", "8000"])


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({"Cmd": ["a"]}, ["a"]),
        ({"Entrypoint": ["a"], "Cmd": None, "Env": ["A=b"], "ExposedPorts": {}}, ["a"]),
        ({"Entrypoint": None, "Cmd": ["a"]}, ["a"]),
    ],
)
async def test_either_may_be_absent(server, look, run, expected):
    server.image("acme/worker", "3", run)
    assert await resolve(look(), server, image="acme/worker:3") == expected


@pytest.mark.parametrize("run", [{}, None, {"Entrypoint": [], "Cmd": []}])
async def test_an_image_that_runs_nothing(server, look, run):
    server.image("acme/worker", "3", run)
    # The container's own args may be all it needs.
    assert await look().entrypoint("ns", f"{server.host}/acme/worker:3", []) == ([], [])


@pytest.mark.parametrize("docker", [False, True])
async def test_the_part_of_an_index_that_nodes_run(server, look, docker):
    arm = server.image("acme/worker", "arm", {"Cmd": ["arm"]}, docker=docker)
    amd = server.image("acme/worker", "amd", {"Cmd": ["amd"]}, docker=docker)
    parts = [(ATTESTATION, arm), (ARM, arm), (fake.LINUX, amd)]
    server.index("acme/worker", "3", parts, docker=docker)
    assert await resolve(look(), server, image="acme/worker:3") == ["amd"]
    nested = server.index("acme/worker", "4", parts, docker=docker)
    server.index("acme/worker", "5", [(fake.LINUX, nested)], docker=docker)
    assert await resolve(look(), server, image="acme/worker:5") == ["amd"]


async def test_an_index_without_the_platform_of_the_nodes(server, look):
    arm = server.image("acme/worker", "arm", RUN)
    server.index("acme/worker", "3", [(ARM, arm), (ATTESTATION, arm)])
    err = await unknown(look(), server, image="acme/worker:3")
    assert "it has no linux/amd64; it has linux/arm64, unknown/unknown" in err.message


async def test_what_is_no_image(server, look):
    kind = "application/vnd.cncf.helm.config.v1+json"
    chart = {"mediaType": kind, "digest": server.blob(b"{}"), "size": 2}
    body = {"schemaVersion": 2, "config": chart, "layers": []}
    server.put("acme/worker", "3", fake.OCI_MANIFEST, body)
    err = await unknown(look(), server, image="acme/worker:3")
    assert "not a container image" in err.message
    odd = {"mediaType": fake.OCI_CONFIG, "digest": server.blob(b'{"config": 1}'), "size": 13}
    server.put("acme/worker", "4", fake.OCI_MANIFEST, {**body, "config": odd})
    err = await unknown(look(), server, image="acme/worker:4")
    assert "configuration cannot be read" in err.message


async def test_a_digest_that_is_not_its_bytes_is_not_believed(server, look):
    for blob in server.blobs:
        server.blobs[blob] = server.blobs[blob].replace(b"/bin/worker", b"/bin/wicked")
    assert "what it sent is not sha256:" in (await unknown(look(), server)).message


async def test_the_registrys_words_and_what_to_do(server, look):
    err = await unknown(look(), server, image="acme/worker:none")
    assert f"image {server.host}/acme/worker:none: registry {server.host}: " in err.message
    assert "404 MANIFEST_UNKNOWN: manifest unknown" in err.message
    assert "name and tag" in err.hint


async def test_a_name_that_is_none(server, look):
    assert "'Acme' is no repository" in (await unknown(look(), server, image="Acme")).message


async def test_switched_off(server, look):
    err = await unknown(look(enabled=False), server)
    assert "imageLookup.enabled is false" in err.message
    assert server.requests == []


async def test_the_nodes_own_registry_is_not_the_operators(server, look):
    """`localhost` of a pod's image is the node, and the operator must not ask itself."""
    err = await unknown(look(plainHttpRegistries=[]), server)
    assert "is the node's own" in err.message
    assert server.requests == []


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("scheme", ["basic", "bearer"])
async def test_the_pods_pull_secret_opens_it(server, cluster, look, scheme, legacy):
    server.users, server.scheme = {"me": "hunter2"}, scheme
    secret(cluster, "pull", server.host, legacy=legacy)
    assert await resolve(look("pull"), server, "pull") == ["/bin/worker", "--port", "8000"]


async def test_secrets_that_are_not_listed_are_not_read(server, cluster, look):
    server.users = {"me": "hunter2"}
    secret(cluster, "pull", server.host)
    known = look("other")
    err = await unknown(known, server, "pull")
    assert "list pull under dynamo-operator.imageLookup.pullSecretNames" in err.hint
    assert cluster.requests == []
    server.users = {}
    err = await unknown(known, server, "pull", image="acme/hidden:1")
    assert "pullSecretNames" in err.hint, "registries hide what they do not show"


async def test_listed_secrets_that_a_pod_does_not_name_are_not_used(server, cluster, look):
    server.users = {"me": "hunter2"}
    secret(cluster, "pull", server.host)
    await unknown(look("pull"), server)
    assert cluster.requests == []


async def test_each_secret_is_tried(server, cluster, look):
    server.users = {"me": "hunter2"}
    secret(cluster, "a", server.host, password="old")
    secret(cluster, "b", "elsewhere.example.com")
    secret(cluster, "c", server.host)
    known = look("a", "b", "c", "missing")
    assert await resolve(known, server, "a", "missing", "b", "c") == [
        "/bin/worker",
        "--port",
        "8000",
    ]
    err = await unknown(known, server, "a", "missing")
    assert "incorrect username or password" in err.message


@pytest.mark.parametrize("raw", ["[]", '{"auths": {"x": {"auth": "hunter2"}}}'])
async def test_a_secret_that_cannot_be_used(server, cluster, look, raw):
    secret(cluster, "pull", server.host, raw=raw)
    assert "pull secret ns/pull" in (await unknown(look("pull"), server, "pull")).message


async def test_a_secret_that_is_not_base64(server, cluster, look):
    body = {"metadata": {"name": "pull"}, "data": {".dockerconfigjson": "%%"}}
    cluster.add(SECRETS, body)
    assert "is not base64" in (await unknown(look("pull"), server, "pull")).message


async def test_secrets_that_the_api_server_does_not_give(server, cluster, look):
    cluster.refuse("GET", f"{SECRETS}/pull", status=403, message="secrets is forbidden")
    assert "secrets is forbidden" in (await unknown(look("pull"), server, "pull")).message


async def test_a_tag_is_asked_about_again_after_minutes_only(server, look, clock):
    known = look()
    await resolve(known, server)
    asked = len(server.requests)
    clock.now += commands.FRESH_SECONDS - 1
    await resolve(known, server)
    assert len(server.requests) == asked
    clock.now += 2
    assert await resolve(known, server) == ["/bin/worker", "--port", "8000"]
    assert server.requests[asked].method == "HEAD"
    assert len(server.requests) == asked + 1, "nothing is downloaded that is known"
    server.image("acme/worker", "2", {"Cmd": ["new"]})
    clock.now += commands.FRESH_SECONDS + 1
    assert await resolve(known, server) == ["new"]


async def test_a_digest_is_asked_about_once(server, look, clock):
    stored = server.image("acme/worker", "2", RUN)
    known, image = look(), f"acme/worker@{stored['digest']}"
    await resolve(known, server, image=image)
    asked = len(server.requests)
    clock.now += 1e6
    await resolve(known, server, image=image)
    assert len(server.requests) == asked


async def test_tags_of_one_image_share_what_is_known_of_it(server, look):
    server.image("acme/worker", "latest", RUN)
    known = look()
    await resolve(known, server)
    before = server.count("GET", "/v2/acme/worker/blobs/")
    await resolve(known, server, image="acme/worker")
    assert server.count("GET", "/v2/acme/worker/blobs/") == before == 1


async def test_what_one_may_see_is_not_told_to_others(server, cluster, look):
    server.users = {"me": "hunter2"}
    secret(cluster, "pull", server.host)
    known = look("pull")
    await resolve(known, server, "pull")
    await unknown(known, server)
    await unknown(known, server, "pull", namespace="theirs")


async def test_failures_are_remembered_for_longer_and_longer(server, look, clock):
    known = look()
    asked, waits = 0, []
    for _ in range(6):
        await unknown(known, server, image="acme/worker:3")
        asked, before = len(server.requests), asked
        assert asked > before
        waited = 0
        while len(server.requests) == asked:
            clock.now += 10
            waited += 10
            await unknown(known, server, image="acme/worker:3")
        waits.append(waited)
        asked = len(server.requests) - 1
    assert waits[:2] == [30, 60]
    assert max(waits) == 240
    server.image("acme/worker", "3", RUN)
    clock.now += 241
    assert await resolve(known, server, image="acme/worker:3")


async def test_a_registry_that_is_down_changes_nothing_that_is_known(server, look, clock):
    known = look()
    await resolve(known, server)
    clock.now += commands.FRESH_SECONDS + 1
    server.script["/v2/"] = [(503, {}, b"")] * 99
    assert await resolve(known, server) == ["/bin/worker", "--port", "8000"]
    asked = len(server.requests)
    await resolve(known, server)
    assert len(server.requests) == asked, "and it is left alone for a while"
    server.script.clear()
    server.manifests.clear()
    clock.now += commands.FRESH_SECONDS + 1
    assert "404" in (await unknown(known, server)).message


async def test_a_registry_is_left_alone_as_long_as_it_asks(server, look, clock):
    server.script["/v2/"] = [(429, {"Retry-After": "120"}, b"")]
    known = look()
    assert "429" in (await unknown(known, server)).message
    clock.now += 119
    await unknown(known, server)
    clock.now += 2
    assert await resolve(known, server)


async def test_those_who_ask_at_once_share_one_look_up(server, look):
    server.delay_seconds = 0.05
    known = look()
    found = await asyncio.gather(*(resolve(known, server) for _ in range(20)))
    assert found == [["/bin/worker", "--port", "8000"]] * 20
    assert len(server.requests) == 2


async def test_one_who_goes_away_does_not_end_it_for_the_others(server, look):
    server.delay_seconds = 0.05
    known = look()
    first = asyncio.create_task(resolve(known, server))
    second = asyncio.create_task(resolve(known, server))
    await asyncio.sleep(0.02)
    first.cancel()
    assert await second == ["/bin/worker", "--port", "8000"]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_reconciliation_is_not_held_up(server, look, monkeypatch):
    monkeypatch.setattr(commands, "LOOKUP_SECONDS", 0.4)
    monkeypatch.setattr(commands, "MARGIN_SECONDS", 0.1)
    server.delay_seconds = 2.0
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert "no answer" in (await unknown(look(), server)).message
    assert loop.time() - started < 1.0


async def test_nor_by_the_api_server(server, cluster, look, monkeypatch):
    monkeypatch.setattr(commands, "LOOKUP_SECONDS", 0.2)
    cluster.refuse("GET", f"{SECRETS}/pull", status=503, message="later")
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert "no answer within" in (await unknown(look("pull"), server, "pull")).message
    assert loop.time() - started < 1.0


async def test_memory_is_bounded(server, look, monkeypatch):
    monkeypatch.setattr(commands, "REMEMBERED", 3)
    known = look()
    for tag in "abcdef":
        server.image("acme/worker", tag, {"Cmd": [tag]})
        assert await resolve(known, server, image=f"acme/worker:{tag}") == [tag]
    asked = len(server.requests)
    await resolve(known, server, image="acme/worker:f")
    assert len(server.requests) == asked
    await resolve(known, server, image="acme/worker:a")
    assert len(server.requests) > asked
