"""A container registry in the test's process: the distribution protocol over plain HTTP.

It keeps manifests and blobs in memory, asks for Basic or Bearer proof when it has users, redirects
blobs to another host when told, and fails as told by `script`. What was asked is in `requests`.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import http.server
import json
import threading
import time
import urllib.parse

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER = {OCI_INDEX: DOCKER_LIST, OCI_MANIFEST: DOCKER_MANIFEST, OCI_CONFIG: DOCKER_CONFIG}
LINUX = {"os": "linux", "architecture": "amd64"}


def digest(raw):
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: dict
    headers: dict
    body: bytes = b""

    @property
    def authorization(self):
        return self.headers.get("Authorization", "")


class Registry:
    """Use as a context manager; `host` is what its images' names start with."""

    def __init__(self):
        self.manifests = {}
        """(repository, tag or digest) -> (media type, bytes)"""
        self.blobs = {}
        self.users = {}
        """User -> password; when there are some, nobody else may read."""
        self.refresh_tokens = set()
        self.scheme = "bearer"
        self.realm = None
        """Another token server than its own."""
        self.challenge = None
        """What it asks for instead."""
        self.blobs_at = None
        """URL of another host that blobs are redirected to."""
        self.script = {}
        """Start of a path -> answers (status, headers, body) to give first, in this order."""
        self.delay_seconds = 0.0
        self.requests = []
        handler = type("Handler", (_Handler,), {"registry": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}"
        self.token = f"token-of-{self.host}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def count(self, method, start=""):
        return sum(one.method == method and one.path.startswith(start) for one in self.requests)

    def blob(self, raw):
        self.blobs[digest(raw)] = raw
        return digest(raw)

    def put(self, repository, tag, media_type, body):
        """Store a manifest; returns its descriptor."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        for name in (tag, digest(raw)):
            self.manifests[repository, name] = (media_type, raw)
        return {"mediaType": media_type, "digest": digest(raw), "size": len(raw)}

    def image(self, repository, tag, run, *, docker=False):
        """Store an image of one platform whose configuration says what it runs."""
        spell = (lambda kind: DOCKER[kind]) if docker else (lambda kind: kind)
        raw = json.dumps({"os": "linux", "architecture": "amd64", "config": run}).encode()
        config = {"mediaType": spell(OCI_CONFIG), "digest": self.blob(raw), "size": len(raw)}
        body = {"schemaVersion": 2, "config": config, "layers": []}
        return self.put(repository, tag, spell(OCI_MANIFEST), body)

    def index(self, repository, tag, parts, *, docker=False):
        """Store an index of (platform, descriptor)."""
        kind = DOCKER_LIST if docker else OCI_INDEX
        entries = [{**one, "platform": platform} for platform, one in parts]
        body = {"schemaVersion": 2, "mediaType": kind, "manifests": entries}
        return self.put(repository, tag, kind, body)


class _Handler(http.server.BaseHTTPRequestHandler):
    registry: Registry
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, status, body=b"", **headers):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def _error(self, status, code, message, **headers):
        self._answer(status, {"errors": [{"code": code, "message": message}]}, **headers)

    def _serve(self):
        registry = self.registry
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = dict(urllib.parse.parse_qsl(url.query))
        registry.requests.append(Asked(self.command, url.path, query, dict(self.headers), body))
        if registry.delay_seconds:
            time.sleep(registry.delay_seconds)
        for start, answers in registry.script.items():
            if url.path.startswith(start) and answers:
                status, headers, raw = answers.pop(0)
                return self._answer(status, raw, **headers)
        if url.path == "/token":
            return self._token(query, dict(urllib.parse.parse_qsl(body.decode())))
        if url.path.startswith("/elsewhere/"):
            return self._answer(200, registry.blobs[url.path.rpartition("/")[2]])
        if registry.users and not self._proven():
            return self._challenge(url.path)
        return self._read(url.path)

    do_GET = do_HEAD = do_POST = _serve  # noqa: N815 - http.server's names

    def _user(self):
        kind, _, text = self.headers.get("Authorization", "").partition(" ")
        name, _, password = base64.b64decode(text).decode().partition(":") if text else ("",) * 3
        return kind == "Basic" and self.registry.users.get(name) == password

    def _proven(self):
        if self.registry.scheme == "basic":
            return self._user()
        return self.headers.get("Authorization") == f"Bearer {self.registry.token}"

    def _challenge(self, path):
        registry = self.registry
        repository = path.removeprefix("/v2/").rsplit("/", 2)[0]
        asked = registry.challenge
        if asked is None and registry.scheme == "basic":
            asked = 'Basic realm="fake"'
        elif asked is None:
            asked = (
                f'Bearer realm="{registry.realm or f"{registry.url}/token"}",service="fake",'
                f'scope="repository:{repository}:pull"'
            )
        headers = {"WWW-Authenticate": asked} if asked else {}
        self._error(401, "UNAUTHORIZED", "authentication required", **headers)

    def _token(self, query, form):
        if form.get("refresh_token") in self.registry.refresh_tokens:
            return self._answer(200, {"access_token": self.registry.token, "scope": form["scope"]})
        if self._user():
            return self._answer(200, {"token": self.registry.token})
        if "Authorization" in self.headers or form:
            return self._answer(401, {"details": "incorrect username or password"})
        return self._answer(200, {"token": f"anonymous {query['scope']}"})

    def _read(self, path):
        registry = self.registry
        repository, kind, name = path.removeprefix("/v2/").rsplit("/", 2)
        if kind == "manifests" and (repository, name) in registry.manifests:
            media_type, raw = registry.manifests[repository, name]
            headers = {"Content_Type": media_type, "Docker_Content_Digest": digest(raw)}
            return self._answer(200, raw, **headers)
        if kind == "blobs" and name in registry.blobs:
            if registry.blobs_at:
                target = f"{registry.blobs_at}/elsewhere/{name}"
                return self._answer(307, Location=target)
            return self._answer(200, registry.blobs[name])
        code = "MANIFEST_UNKNOWN" if kind == "manifests" else "BLOB_UNKNOWN"
        return self._error(404, code, f"{kind[:-1]} unknown")
