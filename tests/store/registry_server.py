"""A real registry, that of the development cluster, over a temporary folder.

with registry_server.running(tmp_path) as server:
    one = repository.Repository(server.settings("acme/store"))
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from chrek import config
from fakes import registry as fake
from showcase import sandbox

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))

from devcluster import cache, control_plane

USERS = "me:$2b$04$sO1Yhh4UCguhYjGuikVL4OK.H.1f17xn44hC/hhYoFmwY0gkQwEqO\n"
"""Of htpasswd; the password is hunter2."""
PROOF = base64.b64encode(b"me:hunter2").decode()
START_SECONDS = 20


@dataclasses.dataclass(frozen=True)
class Server:
    """A registry that runs."""

    host: str
    folder: pathlib.Path
    private: bool
    tls: bool

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://{self.host}"

    @property
    def data(self) -> pathlib.Path:
        """Where it keeps everything, as files."""
        return self.folder / "data/docker/registry/v2"

    def settings(self, repository: str) -> config.Oci:
        """For a store in it, with credentials where they are wanted."""
        if self.private:
            found = {"auths": {self.host: {"auth": PROOF}}}
            (self.folder / "secret").mkdir(exist_ok=True)
            (self.folder / "secret/.dockerconfigjson").write_text(json.dumps(found))
        return config.Oci(
            uri=f"oci://{self.host}/{repository}",
            plainHttp=not self.tls,
            caBundlePath=str(self.folder / "ca.crt") if self.tls else "",
            credentialsPath=str(self.folder / "secret") if self.private else "",
        )

    def collect(self) -> None:
        """Have it remove what no manifest refers to; nobody may be writing."""
        command = [*_program(), "garbage-collect", str(self.folder / "registry.json")]
        subprocess.run(command, check=True, capture_output=True, env=_environment())


@contextlib.contextmanager
def running(
    folder: pathlib.Path, *, private: bool = False, deletes: bool = True, tls: bool = False
) -> Iterator[Server]:
    """Run one.

    Args:
        folder: its own.
        private: it wants a user.
        deletes: manifests may be deleted.
        tls: it is called localhost, and `ca.crt` in the folder vouches for it.
    """
    if not (sandbox.ROOT / "usr/bin/docker-registry").exists():
        pytest.skip(f"no registry in {sandbox.ROOT}: run scripts/cluster up once")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (folder / "users").write_text(USERS)
    settings = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "data")},
            "delete": {"enabled": deletes},
        },
        "http": {"addr": address},
    }
    if private:
        settings["auth"] = {"htpasswd": {"realm": "r", "path": str(folder / "users")}}
    if tls:
        fake.tls(folder)
        both = str(folder / "tls.pem")
        settings["http"] = {"addr": address, "tls": {"certificate": both, "key": both}}
    (folder / "registry.json").write_text(json.dumps(settings))
    host = address.replace("127.0.0.1", "localhost") if tls else address
    command = [*_program(), "serve", str(folder / "registry.json")]
    process = subprocess.Popen(command, env=_environment())
    try:
        _wait(address)
        yield Server(host, folder, private, tls)
    finally:
        process.terminate()
        process.wait(10)


def send(method: str, url: str, data: bytes = b"", kind: str = "application/octet-stream") -> str:
    """Send a request as a user of the registry; returns the header Location."""
    headers = {"Authorization": f"Basic {PROOF}", "Content-Type": kind}
    request = urllib.request.Request(  # noqa: S310 - the test's own server
        url, data or None, headers, method=method
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return str(answer.headers.get("Location", ""))


def _program() -> list[str]:
    return control_plane.from_node_root(cache.Cache.from_environment(), "docker-registry")


def _environment() -> dict[str, str]:
    # Its own tracing would look for a collector.
    return {**os.environ, "OTEL_TRACES_EXPORTER": "none"}


def _wait(address: str) -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "the registry does not answer"
            time.sleep(0.05)
        else:
            return
