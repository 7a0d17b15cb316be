"""An API server over HTTP that can be watched, for tests of the client and the informer.

It holds one collection of objects with resource versions and keeps the history since `oldest`.
Connections can be cut and requests refused, as real ones do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

from aiohttp import web


class Watchable:
    """Use as an async context manager; `url` is its address."""

    def __init__(self):
        self.version = 100
        self.objects = {}
        self.history = []
        self.oldest = 0
        self.requests = []
        self.refusals = []
        self.cut_after = None
        self.url = ""
        self._changed = asyncio.Condition()
        self._streams = set()

    async def __aenter__(self):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_):
        await self.cut()
        await self._runner.cleanup()

    async def put(self, name, **fields):
        await self._record("MODIFIED" if name in self.objects else "ADDED", name, fields)

    async def delete(self, name):
        await self._record("DELETED", name, {})

    def forget_history(self):
        """Compaction: watches from before now are answered with 410."""
        self.oldest = self.version + 1

    async def cut(self):
        """End all watches."""
        for task in list(self._streams):
            task.cancel()

    async def _record(self, kind, name, fields):
        async with self._changed:
            self.version += 1
            metadata = {"namespace": "ns", "name": name, "resourceVersion": str(self.version)}
            item = {"metadata": metadata, **fields}
            self.objects[name] = item
            if kind == "DELETED":
                del self.objects[name]
            self.history.append((self.version, {"type": kind, "object": item}))
            self._changed.notify_all()

    async def _answer(self, request):
        body = await request.read()
        self.requests.append((request.method, request.path_qs, dict(request.headers), body))
        if self.refusals:
            status, message = self.refusals.pop(0)
            if status == 0:
                request.transport.abort()
            return web.json_response({"kind": "Status", "message": message}, status=status or 500)
        if request.query.get("watch"):
            return await self._watch(request)
        if request.method == "GET":
            return self._list(request)
        return web.json_response(json.loads(body) if body else {})

    def _list(self, request):
        items = [self.objects[name] for name in sorted(self.objects)]
        start = int(request.query.get("continue", 0))
        limit = min(int(request.query.get("limit", 0)) or len(items), 2)
        metadata = {"resourceVersion": str(self.version)}
        if limit and start + limit < len(items):
            metadata["continue"] = str(start + limit)
        return web.json_response({"metadata": metadata, "items": items[start : start + limit]})

    async def _watch(self, request):
        since = int(request.query["resourceVersion"])
        stream = web.StreamResponse()
        await stream.prepare(request)
        self._streams.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            if since < self.oldest:
                gone = {"code": 410, "message": "too old resource version"}
                await self._send(stream, {"type": "ERROR", "object": gone})
                return stream
            while True:
                for version, event in self.history:
                    if version > since:
                        since = version
                        await self._send(stream, event)
                async with self._changed:
                    await self._changed.wait_for(lambda: self.version > since)  # noqa: B023
        return stream

    @staticmethod
    async def _send(stream, event):
        text = json.dumps(event).encode() + b"\n"
        # In two pieces: a client must not take a part for the whole.
        await stream.write(text[: len(text) // 2])
        await asyncio.sleep(0)
        await stream.write(text[len(text) // 2 :])
