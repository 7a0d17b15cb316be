"""The process that `helm test` captures: an HTTP server with a secret that only its memory holds.

`GET /count` answers with a nonce, drawn when the process started, and with how often it was asked.
Both go on after a restore; a cold start draws another nonce and counts from one. `POST /go` makes
`GET /ready` pass, so that the caller has asked before the process is captured. Nothing but the
standard library: it starts in a tenth of a second.
"""

from __future__ import annotations

import http.server
import json
import os
import pathlib
import secrets
import socket

from chrek import names

PORT = 8080


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers; its state lives in the class, that is in memory only."""

    nonce = secrets.token_hex(16)
    count = 0
    ready = False

    def do_GET(self) -> None:
        if self.path == "/ready":
            self._answer(200 if Handler.ready else 503, {"ready": Handler.ready})
        elif self.path == "/count":
            Handler.count += 1
            self._answer(200, {"nonce": Handler.nonce, "count": Handler.count})
        else:
            self._answer(404, {"error": "ask /count or /ready"})

    def do_POST(self) -> None:
        if self.path != "/go":
            self._answer(404, {"error": "post to /go"})
            return
        Handler.ready = True
        self._answer(200, {"ready": True})
        ready_file = os.environ.get(names.ENV_READY_FILE)
        if ready_file:
            # After the answer: from here on the process may be captured and ended.
            self.wfile.flush()
            self.close_connection = True
            pathlib.Path(ready_file).touch()

    def log_message(self, format: str, *args: object) -> None:
        """The kubelet asks every second; its questions are no news."""

    def _answer(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(http.server.HTTPServer):
    """Listens on every address of the family that the pod's own address has."""

    def __init__(self, port: int) -> None:
        own = socket.getaddrinfo(socket.gethostname(), port, type=socket.SOCK_STREAM)
        self.address_family = own[0][0]
        super().__init__(("", port), Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the resolver for a name that nobody needs.
        socketserver_bind = super(http.server.HTTPServer, self).server_bind
        socketserver_bind()
        self.server_name, self.server_port = "", self.server_address[1]


def main() -> None:
    with Server(PORT) as server:
        print(f"counter: serving on port {PORT}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
