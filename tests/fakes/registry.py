"""A container registry in the test's process: the distribution protocol over HTTP, or with TLS.

It keeps manifests and blobs in memory, asks for Basic or Bearer proof when it has users, redirects
blobs to another host when told, and fails as told by `script`. What was asked is in `requests`.
A blob that was pushed is in that repository alone; one that a test puts there is in all.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import http.server
import json
import socket
import ssl
import struct
import threading
import time
import urllib.parse
import uuid

from chrek.operator import certificates
from chrek.registry import client

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER = {OCI_INDEX: DOCKER_LIST, OCI_MANIFEST: DOCKER_MANIFEST, OCI_CONFIG: DOCKER_CONFIG}
LINUX = {"os": "linux", "architecture": "amd64"}
ACTIONS = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}
"""Of a token; others need pull and push."""


PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def direct(monkeypatch):
    """No proxy of this machine, and no waiting between attempts."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(client.RANDOM, "uniform", lambda low, high: 0.001)


def digest(raw):
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def tls(folder):
    """TLS of a server called localhost, and the PEM file of the authority that vouches for it."""
    made = certificates.renewed(None, ["localhost"], now=datetime.datetime.now(datetime.UTC))
    for name, raw in (("ca.crt", made.authorities), ("tls.pem", made.certificate + made.key)):
        (folder / name).write_bytes(raw)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem")
    return context, folder / "ca.crt"


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: dict
    headers: dict
    body: bytes = b""
    raw_query: str = ""

    @property
    def scopes(self):
        """Of a token that was asked for."""
        return urllib.parse.parse_qs(self.raw_query).get("scope", [])

    @property
    def authorization(self):
        return self.headers.get("Authorization", "")


class Registry:
    """Use as a context manager; `host` is what its images' names start with."""

    def __init__(self, tls=None):
        """With TLS when there is an `ssl.SSLContext`."""
        self.manifests = {}
        """(repository, tag or digest) -> (media type, bytes)"""
        self.blobs = {}
        self.holders = {}
        """Digest -> repositories that a blob was pushed to."""
        self.sessions = set()
        """Paths that uploads may be sent to."""
        self.location = "{path}?_state=a%2Fb%3D%3D"
        """How it tells where to send an upload: `{path}`, `{url}` of this server."""
        self.deletes = True
        self.ranges = True
        self.page = 1000
        """Most tags that it lists at once."""
        self.users = {}
        """User -> password; when there are some, nobody else may read."""
        self.refresh_tokens = set()
        self.scheme = "bearer"
        self.scoped = False
        """Whether a token is good only for what it was asked for."""
        self.realm = None
        """Another token server than its own."""
        self.challenge = None
        """What it asks for instead."""
        self.blobs_at = None
        """URL of another host that blobs are redirected to."""
        self.script = {}
        """Start of a path, or `METHOD start`, -> what to do first, in this order: an answer
        (status, headers, body), or a function of the handler. It has read the request then."""
        self.before_reading = {}
        """The same, before the request's body is read; functions only."""
        self.delay_seconds = 0.0
        self.requests = []
        handler = type("Handler", (_Handler,), {"registry": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.host = f"{'localhost' if tls else '127.0.0.1'}:{self._server.server_address[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
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


def reset(sent=b""):
    """Answer with the start of a body, if any, and break the connection."""

    def do(handler):
        if sent:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(sent) + 1))
            handler.end_headers()
            handler.wfile.write(sent)
            time.sleep(0.05)  # Else what was sent goes with the connection.
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.close_connection = True

    return do


def slow(seconds, body=b"xx"):
    """Answer, and take so long for the last byte."""

    def do(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[:-1])
        time.sleep(seconds)
        handler.wfile.write(body[-1:])

    return do


class _Handler(http.server.BaseHTTPRequestHandler):
    registry: Registry
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except (ConnectionError, ssl.SSLError):
            self.close_connection = True  # The client has had enough, or does not trust us.

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

    def _scripted(self, script, path):
        for start, answers in script.items():
            method, _, rest = start.rpartition(" ")
            if path.startswith(rest) and method in ("", self.command) and answers:
                return answers.pop(0)
        return None

    def _serve(self):
        registry = self.registry
        url = urllib.parse.urlsplit(self.path)
        if early := self._scripted(registry.before_reading, url.path):
            return early(self)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = dict(urllib.parse.parse_qsl(url.query))
        registry.requests.append(
            Asked(self.command, url.path, query, dict(self.headers), body, url.query)
        )
        if registry.delay_seconds:
            time.sleep(registry.delay_seconds)
        if scripted := self._scripted(registry.script, url.path):
            if callable(scripted):
                return scripted(self)
            status, headers, raw = scripted
            return self._answer(status, raw, **headers)
        if url.path == "/token":
            return self._token(url.query, dict(urllib.parse.parse_qsl(body.decode())))
        if url.path.startswith("/elsewhere/"):
            return self._blob(registry.blobs[url.path.rpartition("/")[2]])
        if registry.users and not self._proven(url.path, query):
            return self._challenge(url.path, query)
        if "/blobs/uploads/" in url.path:
            return self._upload(url.path, query, body)
        if url.path.endswith("/tags/list"):
            return self._tags(url.path, query)
        if self.command == "PUT":
            return self._put(url.path, body)
        if self.command == "DELETE":
            return self._delete(url.path)
        return self._read(url.path)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - http.server's names

    def _user(self):
        kind, _, text = self.headers.get("Authorization", "").partition(" ")
        name, _, password = base64.b64decode(text).decode().partition(":") if text else ("",) * 3
        return kind == "Basic" and self.registry.users.get(name) == password

    def _scopes(self, path, query):
        """What a token must be good for."""
        repository = path.removeprefix("/v2/")
        for end in ("/blobs/", "/manifests/", "/tags/"):
            repository = repository.partition(end)[0]
        actions = ACTIONS.get(self.command, "pull,push")
        found = {(repository, one) for one in actions.split(",")}
        return found | ({(query["from"], "pull")} if "from" in query else set())

    def _proven(self, path, query):
        if self.registry.scheme == "basic":
            return self._user()
        text = self.headers.get("Authorization", "")
        if not self.registry.scoped:
            return text == f"Bearer {self.registry.token}"
        start, _, scopes = text.partition(" for ")
        given = {
            (repository, action)
            for repository, _, actions in (one.rpartition(":") for one in scopes.split())
            for action in actions.split(",")
        }
        wanted = {(f"repository:{name}", action) for name, action in self._scopes(path, query)}
        return start == f"Bearer {self.registry.token}" and wanted <= given

    def _challenge(self, path, query):
        registry = self.registry
        asked = registry.challenge
        if asked is None and registry.scheme == "basic":
            asked = 'Basic realm="fake"'
        elif asked is None:
            actions = {}
            for repository, action in sorted(self._scopes(path, query)):
                actions.setdefault(repository, []).append(action)
            scopes = (f"repository:{name}:{','.join(some)}" for name, some in actions.items())
            asked = (
                f'Bearer realm="{registry.realm or f"{registry.url}/token"}",service="fake",'
                f'scope="{" ".join(scopes)}"'
            )
        headers = {"WWW-Authenticate": asked} if asked else {}
        self._error(401, "UNAUTHORIZED", "authentication required", **headers)

    def _token(self, query, form):
        scopes = urllib.parse.parse_qs(query).get("scope", [])
        token = self.registry.token
        if self.registry.scoped:
            token = f"{token} for {' '.join(scopes)}"
        if form.get("refresh_token") in self.registry.refresh_tokens:
            return self._answer(200, {"access_token": token, "scope": form["scope"]})
        if self._user():
            return self._answer(200, {"token": token})
        if "Authorization" in self.headers or form:
            return self._answer(401, {"details": "incorrect username or password"})
        return self._answer(200, {"token": f"anonymous {' '.join(scopes)}"})

    def _upload(self, path, query, body):
        registry = self.registry
        repository = path.removeprefix("/v2/").partition("/blobs/")[0]
        if self.command == "POST":
            mounted = query.get("mount", "")
            if query.get("from") in registry.holders.get(mounted, ()):
                registry.holders[mounted].add(repository)
                return self._answer(201, Docker_Content_Digest=mounted)
            where = f"{path}{uuid.uuid4()}"
            registry.sessions.add(where)
            return self._answer(
                202, Location=registry.location.format(path=where, url=registry.url)
            )
        if path not in registry.sessions:
            return self._error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        registry.sessions.discard(path)
        if digest(body) != query["digest"]:
            return self._error(400, "DIGEST_INVALID", "provided digest did not match")
        registry.holders.setdefault(registry.blob(body), set()).add(repository)
        return self._answer(201, Docker_Content_Digest=digest(body))

    def _put(self, path, body):
        registry = self.registry
        repository, _, name = path.removeprefix("/v2/").rsplit("/", 2)
        described = json.loads(body)
        for one in (described["config"], *described["layers"]):
            if not self._has(repository, one["digest"]):
                return self._error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")
        registry.put(repository, name, self.headers["Content-Type"], body)
        return self._answer(201, Docker_Content_Digest=digest(body))

    def _delete(self, path):
        registry = self.registry
        repository, _, name = path.removeprefix("/v2/").rsplit("/", 2)
        if not registry.deletes:
            return self._error(405, "UNSUPPORTED", "The operation is unsupported.")
        if (repository, name) not in registry.manifests:
            return self._error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        _, raw = registry.manifests[repository, name]
        for key in list(registry.manifests):
            if key[0] == repository and registry.manifests[key][1] == raw:
                del registry.manifests[key]
        return self._answer(202)

    def _tags(self, path, query):
        repository = path.removeprefix("/v2/").removesuffix("/tags/list")
        names = {name for where, name in self.registry.manifests if where == repository}
        if not names:
            return self._error(404, "NAME_UNKNOWN", "repository name not known to registry")
        names = sorted(n for n in names if ":" not in n and n > query.get("last", ""))
        page = names[: min(int(query.get("n", 1000)), self.registry.page)]
        headers = {}
        if len(page) < len(names):
            following = urllib.parse.urlencode({"last": page[-1], "n": query.get("n", 1000)})
            headers["Link"] = f'<{urllib.parse.urlsplit(self.path).path}?{following}>; rel="next"'
        return self._answer(200, {"name": repository, "tags": page}, **headers)

    def _has(self, repository, name):
        holders = self.registry.holders.get(name)
        return name in self.registry.blobs and (holders is None or repository in holders)

    def _blob(self, raw):
        start, _, end = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not start or not self.registry.ranges:
            return self._answer(200, raw)
        if int(start) >= len(raw):
            return self._answer(416, Content_Range=f"bytes */{len(raw)}")
        part = raw[int(start) : int(end) + 1]
        span = f"bytes {start}-{int(start) + len(part) - 1}/{len(raw)}"
        return self._answer(206, part, Content_Range=span)

    def _read(self, path):
        registry = self.registry
        repository, kind, name = path.removeprefix("/v2/").rsplit("/", 2)
        if kind == "manifests" and (repository, name) in registry.manifests:
            media_type, raw = registry.manifests[repository, name]
            headers = {"Content_Type": media_type, "Docker_Content_Digest": digest(raw)}
            return self._answer(200, raw, **headers)
        if kind == "blobs" and self._has(repository, name):
            if registry.blobs_at:
                target = f"{registry.blobs_at}/elsewhere/{name}"
                return self._answer(307, Location=target)
            return self._blob(registry.blobs[name])
        code = "MANIFEST_UNKNOWN" if kind == "manifests" else "BLOB_UNKNOWN"
        return self._error(404, code, f"{kind[:-1]} unknown")
