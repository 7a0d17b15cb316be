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
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from chrek import config
from fakes import registry as fake
from showcase import sandbox
from store import daemon

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))

from devcluster import cache, control_plane

USERS = "me:$2b$04$sO1Yhh4UCguhYjGuikVL4OK.H.1f17xn44hC/hhYoFmwY0gkQwEqO\n"
"""Of htpasswd; the password is hunter2."""
ENVIRONMENT = {"OTEL_TRACES_EXPORTER": "none"}
"""Its own tracing would look for a collector."""
PROOF = base64.b64encode(b"me:hunter2").decode()


@dataclasses.dataclass(frozen=True)
class Server:
    """A registry that runs."""

    process: daemon.Daemon
    folder: pathlib.Path
    root: pathlib.Path
    private: bool
    deletes: bool
    tls: bool

    @property
    def host(self) -> str:
        found = self.process.address
        return found.replace("127.0.0.1", "localhost") if self.tls else found

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://{self.host}"

    @property
    def data(self) -> pathlib.Path:
        """Where it keeps everything, as files."""
        return self.root / "docker/registry/v2"

    def argv(self, configuration: str = "registry.json", **maintenance: Any) -> list[str]:
        """Its command line, with a configuration that is written.

        Args:
            configuration: the name of its file.
            maintenance: what `storage.maintenance` of that has.
        """
        settings: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.root)},
                "delete": {"enabled": self.deletes},
                "maintenance": maintenance,
            },
            "http": {"addr": self.process.address},
        }
        if self.private:
            users = str(self.folder / "users")
            settings["auth"] = {"htpasswd": {"realm": "r", "path": users}}
        if self.tls:
            both = str(self.folder / "tls.pem")
            settings["http"]["tls"] = {"certificate": both, "key": both}
        (self.folder / configuration).write_text(json.dumps(settings))
        return [*_program(), "serve", str(self.folder / configuration)]

    def read_only(self) -> contextlib.AbstractContextManager[None]:
        """While inside, nobody may write."""
        return self.process.replaced(self.argv("read-only.json", readonly={"enabled": True}))

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
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **ENVIRONMENT})


@contextlib.contextmanager
def running(
    folder: pathlib.Path,
    *,
    data: pathlib.Path | None = None,
    private: bool = False,
    deletes: bool = True,
    tls: bool = False,
) -> Iterator[Server]:
    """Run one.

    Args:
        folder: its own.
        data: where it keeps everything; None: in `folder`.
        private: it wants a user.
        deletes: manifests may be deleted.
        tls: it is called localhost, and `ca.crt` in the folder vouches for it.
    """
    if not (sandbox.ROOT / "usr/bin/docker-registry").exists():
        pytest.skip(f"no registry in {sandbox.ROOT}: run scripts/cluster up once")
    folder.mkdir(exist_ok=True)
    (folder / "users").write_text(USERS)
    if tls:
        fake.tls(folder)
    process = daemon.Daemon(folder / "log", ENVIRONMENT)
    server = Server(process, folder, data or folder / "data", private, deletes, tls)
    with process.running(server.argv()):
        yield server


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
