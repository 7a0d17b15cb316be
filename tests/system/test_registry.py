"""What images run, asked of the registry that most others descend from."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from chrek import config, errors
from chrek.kube import api
from chrek.operator import commands
from fakes import api_server
from showcase import sandbox

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))

from devcluster import cache, control_plane

pytestmark = pytest.mark.system
USERS = "me:$2b$04$sO1Yhh4UCguhYjGuikVL4OK.H.1f17xn44hC/hhYoFmwY0gkQwEqO\n"
"""Of htpasswd; the password is hunter2."""
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
PROOF = base64.b64encode(b"me:hunter2").decode()

Start = Callable[..., str]


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Start]:
    """Starts the registry of the development cluster, with or without users."""
    if not (sandbox.ROOT / "usr/bin/docker-registry").exists():
        pytest.skip(f"no registry in {sandbox.ROOT}: run scripts/cluster up once")
    started: list[subprocess.Popen[bytes]] = []

    def begin(*, private: bool) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            host = f"127.0.0.1:{free.getsockname()[1]}"
        (tmp_path / "users").write_text(USERS)
        settings = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(tmp_path / "data")}},
            "http": {"addr": host},
        }
        if private:
            settings["auth"] = {"htpasswd": {"realm": "r", "path": str(tmp_path / "users")}}
        path = tmp_path / "registry.json"
        path.write_text(json.dumps(settings))
        where = cache.Cache.from_environment()
        command = [*control_plane.from_node_root(where, "docker-registry"), "serve", str(path)]
        # Its own tracing would look for a collector.
        environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
        started.append(subprocess.Popen(command, env=environment))
        deadline = time.monotonic() + 10
        while True:
            try:
                send("GET", f"http://{host}/v2/")
            except OSError:
                assert time.monotonic() < deadline, "the registry does not answer"
                time.sleep(0.05)
            else:
                return host

    yield begin
    for one in started:
        one.terminate()
        one.wait(10)


def send(method: str, url: str, data: bytes = b"", kind: str = "application/octet-stream") -> str:
    """Send a request as a user of the registry; returns the header Location."""
    headers = {"Authorization": f"Basic {PROOF}", "Content-Type": kind}
    request = urllib.request.Request(  # noqa: S310 - the test's own server
        url, data or None, headers, method=method
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return str(answer.headers.get("Location", ""))


def push(host: str, image: str, run: object) -> str:
    """Store an image; returns its digest."""
    name, tag = image.split(":")

    def blob(raw: bytes, kind: str) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        where = send("POST", f"http://{host}/v2/{name}/blobs/uploads/")
        send("PUT", f"{where}&digest={digest}", raw)
        return {"mediaType": kind, "digest": digest, "size": len(raw)}

    body = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob(json.dumps({"os": "linux", "config": run}).encode(), CONFIG),
        "layers": [blob(b"layer", LAYER)],
    }
    raw = json.dumps(body).encode()
    send("PUT", f"http://{host}/v2/{name}/manifests/{tag}", raw, MANIFEST)
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


async def resolve(known, image, *secrets):
    entrypoint, cmd = await known.entrypoint("ns", image, secrets)
    return [*entrypoint, *cmd]


async def test_a_public_registry(start: Start) -> None:
    host = start(private=False)
    digest = push(host, "acme/worker:2", {"Entrypoint": ["/bin/worker"], "Cmd": ["--port", "1"]})
    settings = config.ImageLookup(plainHttpRegistries=[host])
    async with api.Client(api.Credentials(server="http://127.0.0.1:1", tls=None)) as client:
        known = commands.Commands(client, settings, clock=iter(range(0, 10**6, 1000)).__next__)
        for text in ("acme/worker:2", "acme/worker:2", f"acme/worker@{digest}"):
            found = await resolve(known, f"{host}/{text}")
            assert found == ["/bin/worker", "--port", "1"]
        with pytest.raises(errors.UnsupportedError) as raised:
            await resolve(known, f"{host}/acme/worker:3")
        assert "404 MANIFEST_UNKNOWN: manifest unknown" in raised.value.message


async def test_a_private_registry(start: Start) -> None:
    host = start(private=True)
    push(host, "acme/worker:2", {"Cmd": ["/bin/worker"]})
    settings = config.ImageLookup(plainHttpRegistries=[host], pullSecretNames=["pull"])
    raw = base64.b64encode(json.dumps({"auths": {host: {"auth": PROOF}}}).encode()).decode()
    with api_server.ApiServer() as cluster:
        for name in ("pull", "other"):
            cluster.add(
                "/api/v1/namespaces/ns/secrets",
                {"metadata": {"name": name}, "data": {".dockerconfigjson": raw}},
            )
        async with api.Client(api.Credentials(server=cluster.url, tls=None)) as client:
            known = commands.Commands(client, settings)
            image = f"{host}/acme/worker:2"
            assert await resolve(known, image, "pull") == ["/bin/worker"]
            with pytest.raises(errors.UnsupportedError) as raised:
                await resolve(known, image, "other")
    assert "401 UNAUTHORIZED: authentication required" in raised.value.message
    assert "list other under dynamo-operator.imageLookup.pullSecretNames" in str(raised.value)
