"""An agent's HTTP server, with what it says of its node."""

from __future__ import annotations

import http.server
import json
import threading
import time


def check(name, status="ok", detail="as it should be", hint=""):
    return {"name": name, "status": status, "detail": detail, "hint": hint}


def preflight(node="n1", *, checks=(), problems=(), captures=0):
    """What the agent of a node says."""
    return {
        "node": node,
        "version": "0.1.0",
        "ready": not problems,
        "problems": list(problems),
        "captures": captures,
        "restores": 0,
        "time": 1790000000.5,
        "checks": list(checks),
    }


class Agent:
    """Use as a context manager; `port` is where it answers on 127.0.0.1.

    `body` is what it says (bytes as they are), `status` with which code, `delay` after how many
    seconds; all may change while it runs. `asked` counts.
    """

    def __init__(self, body=None, *, status=200, delay=0.0):
        self.body = preflight() if body is None else body
        self.status = status
        self.delay = delay
        self.asked = 0
        handler = type("Handler", (_Handler,), {"agent": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    agent: Agent

    def log_message(self, *_):
        pass

    def do_GET(self):
        agent = self.agent
        agent.asked += 1
        time.sleep(agent.delay)
        status = agent.status if self.path == "/preflight" else 404
        data = agent.body if isinstance(agent.body, bytes) else json.dumps(agent.body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
