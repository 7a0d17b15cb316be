"""The process that `helm test` captures: an HTTP server with secrets that only it has.

`GET /count` answers with a nonce, drawn when the process started, and with how often it was asked.
`GET /ballast` answers with the digest of random bytes in memory, `GET /files` with those of random
files, read again for each answer. All of it goes on after a restore; a cold start draws and writes
everything anew and counts from one. `POST /go` makes `GET /ready` pass, so that the caller has
asked before the process is captured. Nothing but the standard library: it starts in a tenth of a
second.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import pathlib
import secrets
import socket
from collections.abc import Sequence
from typing import Any

from chrek import names

PORT = 8080
PLACES = ("/tmp", "/files", "/dev/shm")  # noqa: S108 - in a container of its own
"""Directories that get a file: of the root file system, an emptyDir and shared memory."""
BALLAST_BYTES = 8 << 20
FILE_BYTES = 64 << 10


class Files:
    """Files of random bytes, written once: one in each place, and one that is deleted but open."""

    def __init__(self, places: Sequence[str]) -> None:
        """Write them; what cannot be written is told by `problems`."""
        self.problems: dict[str, str] = {}
        self._paths: list[pathlib.Path] = []
        self._deleted: dict[str, int] = {}
        name = f"chrek-counter-{secrets.token_hex(4)}"
        for place in places:
            path = pathlib.Path(place, name)
            try:
                path.write_bytes(secrets.token_bytes(FILE_BYTES))
            except OSError as err:
                self.problems[str(path)] = str(err)
            else:
                self._paths.append(path)
        self._leave_open(pathlib.Path(places[0], f"{name}-open"))

    def _leave_open(self, path: pathlib.Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, secrets.token_bytes(FILE_BYTES))
            path.unlink()
        except OSError as err:
            self.problems[str(path)] = str(err)
        else:
            self._deleted[f"{path} (deleted)"] = descriptor

    def answer(self) -> dict[str, dict[str, str]]:
        """Digest of each file as it is now, and what is wrong with the others, by path."""
        digests: dict[str, str] = {}
        problems = dict(self.problems)
        for path in self._paths:
            try:
                digests[str(path)] = digest(path.read_bytes())
            except OSError as err:
                problems[str(path)] = str(err)
        for name, descriptor in self._deleted.items():
            try:
                digests[name] = digest(os.pread(descriptor, 2 * FILE_BYTES, 0))
            except OSError as err:
                problems[name] = str(err)
        return {"digests": digests, "problems": problems}


class State:
    """What only this process has."""

    def __init__(self, places: Sequence[str] = PLACES) -> None:
        self.nonce = secrets.token_hex(16)
        self.ballast = secrets.token_bytes(BALLAST_BYTES)
        self.files = Files(places)
        self.count = 0
        self.ready = False


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers from the state of its server."""

    server: Server

    def do_GET(self) -> None:
        state = self.server.state
        if self.path == "/ready":
            self.answer(200 if state.ready else 503, {"ready": state.ready})
        elif self.path == "/count":
            state.count += 1
            self.answer(200, {"nonce": state.nonce, "count": state.count})
        elif self.path == "/ballast":
            self.answer(200, {"bytes": len(state.ballast), "digest": digest(state.ballast)})
        elif self.path == "/files":
            self.answer(200, state.files.answer())
        else:
            self.answer(404, {"error": "ask /count, /ballast, /files or /ready"})

    def do_POST(self) -> None:
        if self.path != "/go":
            self.answer(404, {"error": "post to /go"})
            return
        self.server.state.ready = True
        self.answer(200, {"ready": True})
        ready_file = os.environ.get(names.ENV_READY_FILE)
        if ready_file:
            # After the answer: from here on the process may be captured and ended.
            self.wfile.flush()
            self.close_connection = True
            pathlib.Path(ready_file).touch()

    def log_message(self, format: str, *args: object) -> None:
        """The kubelet asks every second; its questions are no news."""

    def answer(self, status: int, body: dict[str, Any]) -> None:
        """Send an object."""
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(http.server.HTTPServer):
    """Listens on every address of the family that the pod's own address has, or on one."""

    handler: type[Handler] = Handler

    def __init__(self, port: int, state: State, host: str = "") -> None:
        self.state = state
        own = socket.getaddrinfo(host or socket.gethostname(), port, type=socket.SOCK_STREAM)
        self.address_family = own[0][0]
        super().__init__((host, port), self.handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the resolver for a name that nobody needs.
        socketserver_bind = super(http.server.HTTPServer, self).server_bind
        socketserver_bind()
        self.server_name, self.server_port = "", self.server_address[1]


def main() -> None:
    with Server(PORT, State()) as server:
        print(f"counter: serving on port {PORT}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
