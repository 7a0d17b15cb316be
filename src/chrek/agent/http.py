"""/healthz, /readyz and /metrics."""

from __future__ import annotations

import json
from collections.abc import Callable

import prometheus_client as prometheus
from aiohttp import web


async def serve(port: int, problems: Callable[[], list[str]]) -> web.AppRunner:
    """Start the server on all addresses.

    Args:
        problems: what keeps the agent from being ready; empty when nothing does.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        found = problems()
        body = json.dumps({"ready": not found, "problems": found}) + "\n"
        return web.Response(
            text=body, status=503 if found else 200, content_type="application/json"
        )

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=prometheus.generate_latest(),
            headers={"Content-Type": prometheus.CONTENT_TYPE_LATEST},
        )

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
