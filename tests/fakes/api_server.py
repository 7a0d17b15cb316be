"""An API server of dictionaries: objects by path, plain HTTP, in a thread of the test's process.

It knows get, list with label selectors, create (with dry run and generated names), server-side
apply (without merging) and delete; `refuse` makes it answer with an error, `on_create` may change
what is created. What was asked is in `requests`.
"""

from __future__ import annotations

import http.server
import json
import threading
import urllib.parse


class ApiServer:
    """Use as a context manager; `url` is its address."""

    def __init__(self):
        self.objects = {}
        self.refusals = {}
        self.requests = []
        self.texts = {}
        self.on_create = lambda path, body: None
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def refuse(self, method, path, *, status, message):
        self.refusals[method, path] = (status, message)

    def add(self, collection, body, **metadata):
        """Put an object into a collection."""
        body = {**body, "metadata": {**body.get("metadata", {}), **metadata}}
        self.objects[f"{collection}/{body['metadata']['name']}"] = body
        return body


class _Handler(http.server.BaseHTTPRequestHandler):
    api: ApiServer

    def log_message(self, *_):
        pass

    def _answer(self, status, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _serve(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        api, method = self.api, self.command
        api.requests.append((method, url.path, query, body))
        if (method, url.path) in api.refusals:
            status, message = api.refusals[method, url.path]
            return self._answer(status, {"kind": "Status", "message": message, "code": status})
        if url.path in api.texts:
            return self._answer(200, api.texts[url.path])
        return getattr(self, f"_{method.lower()}")(url.path, query, body)

    do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - http.server's names

    def _missing(self, path):
        return self._answer(404, {"kind": "Status", "message": f"{path} not found", "code": 404})

    def _get(self, path, query, _):
        if path in self.api.objects:
            return self._answer(200, self.api.objects[path])
        inside = [o for p, o in self.api.objects.items() if p.rpartition("/")[0] == path]
        if not inside and path.rpartition("/")[2] not in _COLLECTIONS:
            return self._missing(path)
        wanted = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
        items = [o for o in inside if wanted.items() <= o["metadata"].get("labels", {}).items()]
        return self._answer(200, {"kind": "List", "items": items})

    def _post(self, path, query, body):
        metadata = body["metadata"]
        metadata.setdefault("name", f"{metadata.get('generateName')}x1")
        self.api.on_create(path, body)
        if "dryRun" not in query:
            self.api.objects[f"{path}/{metadata['name']}"] = body
        return self._answer(201, body)

    def _patch(self, path, query, body):
        if "dryRun" not in query:
            self.api.objects[path] = body
        return self._answer(200, body)

    def _delete(self, path, *_):
        if self.api.objects.pop(path, None) is None:
            return self._missing(path)
        return self._answer(200, {"kind": "Status", "status": "Success"})


_COLLECTIONS = {
    "configmaps",
    "daemonsets",
    "dynamocheckpoints",
    "nodes",
    "pods",
    "storageclasses",
}
