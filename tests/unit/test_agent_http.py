"""/healthz, /readyz and /metrics over a real connection."""

import socket

import aiohttp
import pytest

from chrek.agent import http, metrics


@pytest.fixture
async def get():
    """Returns (get, problems): a function that asks, and the list that the agent would fill."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    problems = []
    runner = await http.serve(port, lambda: problems)
    async with aiohttp.ClientSession() as session:

        async def get(path):
            async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.status, answer.content_type, await answer.text()

        yield get, problems
    await runner.cleanup()


async def test_alive_whatever_is_wrong(get):
    ask, problems = get
    problems.append("x")
    assert await ask("/healthz") == (200, "text/plain", "ok\n")


async def test_ready_when_nothing_is_wrong(get):
    ask, problems = get
    assert await ask("/readyz") == (
        *(200, "application/json", '{"ready": true, "problems": []}\n'),
    )
    problems.append("/checkpoints cannot be written")
    status, _, text = await ask("/readyz")
    assert status == 503
    assert "/checkpoints cannot be written" in text


async def test_metrics(get):
    ask, _ = get
    metrics.STARTS.labels(outcome="cold", reason="NoVariant").inc()
    metrics.observe("restore", {"criu": 1.5})
    status, kind, text = await ask("/metrics")
    assert (status, kind) == (200, "text/plain")
    assert 'chrek_starts_total{outcome="cold",reason="NoVariant"}' in text
    assert 'chrek_step_seconds_bucket{le="2.0",operation="restore",step="criu"}' in text
    assert "chrek_connections 0.0" in text


async def test_anything_else_is_not_there(get):
    ask, _ = get
    assert (await ask("/"))[0] == 404
