"""/healthz, /readyz and /metrics over plain HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web

from chrek import log
from chrek.operator import metrics

LOG = log.get(__name__)


class Health:
    """The server for the kubelet and for Prometheus."""

    def __init__(self, port: int, checks: Mapping[str, Callable[[], bool]]) -> None:
        """Prepare; `start()` listens.

        Args:
            port: to listen on.
            checks: what must be true for /readyz, by name.
        """
        self._port = port
        self._checks = checks
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, None, self._port).start()
        LOG.info("health listens", port=self._port)

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner:
            await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        missing = [name for name, check in self._checks.items() if not check()]
        if missing:
            return web.Response(status=503, text=f"waiting for: {', '.join(missing)}\n")
        return web.Response(text="ok\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), content_type="text/plain", charset="utf-8")
