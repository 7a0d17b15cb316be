"""What images run, asked of the registry that most others descend from."""

from __future__ import annotations

import base64
import hashlib
import json
import pathlib

import pytest

from chrek import config, errors
from chrek.kube import api
from chrek.operator import commands
from fakes import api_server
from store import registry_server

pytestmark = pytest.mark.system
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def push(host: str, image: str, run: object) -> str:
    """Store an image; returns its digest."""
    name, tag = image.split(":")

    def blob(raw: bytes, kind: str) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        where = registry_server.send("POST", f"http://{host}/v2/{name}/blobs/uploads/")
        registry_server.send("PUT", f"{where}&digest={digest}", raw)
        return {"mediaType": kind, "digest": digest, "size": len(raw)}

    body = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob(json.dumps({"os": "linux", "config": run}).encode(), CONFIG),
        "layers": [blob(b"layer", LAYER)],
    }
    raw = json.dumps(body).encode()
    registry_server.send("PUT", f"http://{host}/v2/{name}/manifests/{tag}", raw, MANIFEST)
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


async def resolve(known, image, *secrets):
    entrypoint, cmd = await known.entrypoint("ns", image, secrets)
    return [*entrypoint, *cmd]


async def test_a_public_registry(tmp_path: pathlib.Path) -> None:
    with registry_server.running(tmp_path) as server:
        host = server.host
        digest = push(
            host, "acme/worker:2", {"Entrypoint": ["/bin/worker"], "Cmd": ["--port", "1"]}
        )
        settings = config.ImageLookup(plainHttpRegistries=[host])
        async with api.Client(api.Credentials(server="http://127.0.0.1:1", tls=None)) as client:
            clock = iter(range(0, 10**6, 1000)).__next__
            known = commands.Commands(client, settings, clock=clock)
            for text in ("acme/worker:2", "acme/worker:2", f"acme/worker@{digest}"):
                found = await resolve(known, f"{host}/{text}")
                assert found == ["/bin/worker", "--port", "1"]
            with pytest.raises(errors.UnsupportedError) as raised:
                await resolve(known, f"{host}/acme/worker:3")
            assert "404 MANIFEST_UNKNOWN: manifest unknown" in raised.value.message


async def test_a_private_registry(tmp_path: pathlib.Path) -> None:
    with (
        registry_server.running(tmp_path, private=True) as server,
        api_server.ApiServer() as cluster,
    ):
        host = server.host
        push(host, "acme/worker:2", {"Cmd": ["/bin/worker"]})
        settings = config.ImageLookup(plainHttpRegistries=[host], pullSecretNames=["pull"])
        secret = {"auths": {host: {"auth": registry_server.PROOF}}}
        raw = base64.b64encode(json.dumps(secret).encode()).decode()
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
