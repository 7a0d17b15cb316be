"""An API server of dictionaries: objects by path, plain HTTP, in a thread of the test's process.

It knows get, list with label selectors, create (with dry run and generated names), server-side
apply (without merging), merge patch and delete, with resource versions as preconditions; `refuse`
makes it answer with an error, `on_create` and `on_patch` may change what is written, `on_delete` is
told what is gone. What was asked is in `requests`.
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
        self.on_patch = lambda path, body: None
        self.on_delete = lambda path: None
        self.version = 1
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, folder, namespace):
        """Write the file with which a user of a namespace finds it; returns its path."""
        context = {"cluster": "c", "user": "u", "namespace": namespace}
        raw = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": context}],
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {}}],
        }
        path = folder / "config"
        path.write_text(json.dumps(raw))
        return path

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

    def _conflict(self, message):
        return self._answer(409, {"kind": "Status", "message": message, "code": 409})

    def _versioned(self, body):
        """What is kept of a body, which itself stays as it was asked."""
        self.api.version += 1
        metadata = {**body["metadata"], "resourceVersion": str(self.api.version)}
        return {**body, "metadata": metadata}

    @staticmethod
    def _same(found, wanted):
        keys = ("uid", "resourceVersion")
        return all(found["metadata"].get(key) == wanted[key] for key in keys if wanted.get(key))

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
        target = f"{path}/{metadata['name']}"
        if target in self.api.objects and metadata["name"] != f"{metadata.get('generateName')}x1":
            return self._conflict(f"{target} already exists")
        if "dryRun" not in query:
            # What `on_create` was given goes on to be the object.
            body["metadata"] = self._versioned(body)["metadata"]
            self.api.objects[target] = body
        return self._answer(201, body)

    def _patch(self, path, query, body):
        self.api.on_patch(path, body)
        if self.headers["Content-Type"] == "application/merge-patch+json":
            found = self.api.objects.get(path)
            if found is None:
                return self._missing(path)
            if not self._same(found, body.get("metadata") or {}):
                return self._conflict(f"{path} has been modified")
            merged = self._versioned(_merge(found, body))
            self.api.objects[path] = merged
            return self._answer(200, merged)
        found = self.api.objects.get(path)
        if found is not None and _unversioned(found) == _unversioned(body):
            return self._answer(200, found)
        if "dryRun" not in query:
            body = self._versioned(body)
            self.api.objects[path] = body
        return self._answer(200, body)

    def _delete(self, path, _, body):
        found = self.api.objects.get(path)
        if found is None:
            return self._missing(path)
        if not self._same(found, (body or {}).get("preconditions") or {}):
            return self._conflict(f"{path} is another one")
        del self.api.objects[path]
        self.api.on_delete(path)
        return self._answer(200, {"kind": "Status", "status": "Success"})


def _unversioned(item):
    metadata = {k: v for k, v in item["metadata"].items() if k != "resourceVersion"}
    return {**item, "metadata": metadata}


def _merge(old, new):
    """RFC 7386."""
    if not isinstance(new, dict):
        return new
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in new.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


_COLLECTIONS = {
    "configmaps",
    "daemonsets",
    "dynamocheckpoints",
    "events",
    "jobs",
    "leases",
    "mutatingwebhookconfigurations",
    "nodes",
    "pods",
    "storageclasses",
}
