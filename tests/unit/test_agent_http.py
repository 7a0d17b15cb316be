"""/healthz, /readyz, /preflight and /metrics over a real connection."""

import json
import socket
import time

import aiohttp
import pytest

import chrek
from chrek.agent import http, metrics
from chrek.checks import agents, report

CHECKS = [
    report.ok("store", "fine"),
    report.warning("clock", "6 s ahead", "set it"),
    report.failed("kernel", "4.18", "upgrade"),
]


@pytest.fixture
async def get():
    """Returns (get, problems): a function that asks, and the list that the agent would fill."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    problems = []
    about = http.Preflight(node="n1", checks=CHECKS, captures=2, restores=1)
    runner = await http.serve(port, lambda: problems, lambda: about)
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


async def test_preflight(get):
    ask, problems = get
    status, kind, text = await ask("/preflight")
    assert (status, kind) == (200, "application/json")
    found = json.loads(text)
    assert abs(found.pop("time") - time.time()) < 5
    assert found == {
        **{"node": "n1", "version": chrek.__version__, "ready": True, "problems": []},
        **{"captures": 2, "restores": 1},
        "checks": [
            {"name": "store", "status": "ok", "detail": "fine", "hint": ""},
            {"name": "clock", "status": "warn", "detail": "6 s ahead", "hint": "set it"},
            {"name": "kernel", "status": "fail", "detail": "4.18", "hint": "upgrade"},
        ],
    }
    problems.append("kernel: 4.18")
    status, _, text = await ask("/preflight")
    assert (status, json.loads(text)["ready"]) == (200, False)
    assert json.loads(text)["problems"] == ["kernel: 4.18"]


async def test_preflight_is_what_hooks_read(get):
    ask, problems = get
    problems.append("kernel: 4.18")
    pod = {"metadata": {"name": "agent-1"}, "spec": {}, "status": {}}
    _, _, text = await ask("/preflight")
    preflight = agents.read([pod], lambda _: text.encode())["agent-1"].preflight
    assert (preflight.node, preflight.ready, preflight.captures) == ("n1", False, 2)
    assert [check.name for check in preflight.failed()] == ["kernel"]


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
