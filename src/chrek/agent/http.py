"""/healthz, /readyz, /preflight and /metrics."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence

import prometheus_client as prometheus
from aiohttp import web

import chrek
from chrek.checks import report


@dataclasses.dataclass(frozen=True)
class Preflight:
    """What an agent says of itself.

    Attributes:
        node: its name.
        checks: what each check of the node said last.
        captures: dumps that run or wait for their turn.
        restores: the same of restores.
    """

    node: str
    checks: Sequence[report.Outcome]
    captures: int
    restores: int


async def serve(
    port: int, problems: Callable[[], list[str]], preflight: Callable[[], Preflight]
) -> web.AppRunner:
    """Start the server on all addresses.

    Args:
        problems: what keeps the agent from being ready; empty when nothing does.
        preflight: asked for each `/preflight`.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        found = problems()
        return _json({"ready": not found, "problems": found}, status=503 if found else 200)

    async def preflighted(_: web.Request) -> web.Response:
        # Whoever asks wants to know what is wrong, not that something is: the status is always 200.
        found, about = problems(), preflight()
        return _json(
            {
                "node": about.node,
                "version": chrek.__version__,
                "ready": not found,
                "problems": found,
                "captures": about.captures,
                "restores": about.restores,
                "time": time.time(),
                "checks": [dataclasses.asdict(one) for one in about.checks],
            }
        )

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=prometheus.generate_latest(),
            headers={"Content-Type": prometheus.CONTENT_TYPE_LATEST},
        )

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/preflight", preflighted)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner


def _json(body: object, *, status: int = 200) -> web.Response:
    text = json.dumps(body) + "\n"
    return web.Response(text=text, status=status, content_type="application/json")
