"""Calls into a worker, with a server on the other end that may do anything."""

import asyncio
import contextlib
import os

import pytest

from chrek import errors, inside, peer
from chrek.agent import calls

REASON = "QuiesceFailed"


def caller():
    return peer.Peer(pid=os.getpid(), pidfd=-1, pod_uid="u", container_id="c", container="main")


@contextlib.asynccontextmanager
async def server(answer):
    """Reads a request and writes what it is given; yields (port, requests)."""
    requests, serving = [], set()

    async def serve(reader, writer):
        serving.add(asyncio.current_task())
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            await answer(writer)

    made = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield made.sockets[0].getsockname()[1], requests
    finally:
        made.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await asyncio.sleep(0)


def says(text):
    async def answer(writer):
        writer.write(text)
        await writer.drain()

    return answer


async def post(port, path="/sleep", seconds=5):
    action = {"http": {"port": port, "path": path}, "timeoutSeconds": seconds}
    async with asyncio.timeout(8):
        await calls.call(action, pod_ip="127.0.0.1", caller=caller(), reason=REASON)


async def test_a_post_that_succeeds():
    async with server(says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as (port, requests):
        await post(port, "/sleep?level=1&a=%2F")
    assert requests[0].startswith(b"POST /sleep?level=1&a=%2F HTTP/1.1\r\n")


async def test_no_call_is_asked_for():
    await calls.call(None, pod_ip="", caller=caller(), reason=REASON)
    await calls.call({}, pod_ip="", caller=caller(), reason=REASON)


async def test_a_redirect_is_not_followed():
    there = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with server(says(there)) as (port, requests):
        await post(port)
    assert len(requests) == 1


async def endless(writer):
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def silent(writer):
    await asyncio.sleep(20)


async def headers(writer):
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"A: " + b"x" * 65536)
        await writer.drain()


FAILURES = {
    "refused": (
        says(b"HTTP/1.1 500 No\r\nContent-Length: 7\r\n\r\nno room"),
        "POST port {port} /sleep: status 500: no room",
    ),
    "a long refusal": (
        says(b"HTTP/1.1 400 No\r\nContent-Length: 90000\r\n\r\n" + b"y" * 90000),
        "status 400: " + "y" * 512,
    ),
    "no answer": (silent, "no answer after 0.5 seconds"),
    "an answer without an end": (endless, "no answer after 0.5 seconds"),
    "headers without an end": (headers, "POST port"),
    "closed": (says(b""), "POST port"),
    "no HTTP": (says(b"hello\r\n\r\n"), "POST port"),
}


@pytest.mark.parametrize(("answer", "message"), FAILURES.values(), ids=list(FAILURES))
async def test_a_post_that_fails(answer, message):
    async with server(answer) as (port, _):
        with pytest.raises(errors.ToolError) as caught:
            await post(port, seconds=0.5)
        assert message.format(port=port) in str(caught.value)
        assert len(str(caught.value)) < 1000
    assert caught.value.reason == REASON


async def test_nobody_listens():
    async with server(silent) as (port, _):
        pass
    with pytest.raises(errors.ToolError, match="POST port"):
        await post(port)


BAD = [
    {"http": {"port": 1, "path": "/"}, "ip": ""},
    {"http": {"port": 1, "path": "/"}, "ip": "evil.example"},
    {"http": {"path": "/"}, "ip": "127.0.0.1"},
    {"exec": {}, "ip": ""},
    {"timeoutSeconds": 3, "ip": ""},
]


@pytest.mark.parametrize("action", BAD, ids=range(len(BAD)))
async def test_what_is_no_call(action):
    with pytest.raises(errors.ToolError, match="cannot be made") as caught:
        await calls.call(action, pod_ip=action["ip"], caller=caller(), reason=REASON)
    assert caught.value.reason == REASON


async def test_a_program(monkeypatch):
    asked = []

    def run(pid, pidfd, argv, *, timeout_seconds):
        asked.append((pid, argv, timeout_seconds))
        if argv == ["fail"]:
            raise errors.ToolError("fail: exited with status 3: why", returncode=3)

    monkeypatch.setattr(inside, "run", run)
    for command in (["sleep-well", "now"], ["fail"]):
        action = {"exec": {"command": command}, "timeoutSeconds": 7}
        work = calls.call(action, pod_ip="", caller=caller(), reason=REASON)
        if command == ["fail"]:
            with pytest.raises(errors.ToolError, match="status 3: why") as caught:
                await work
            assert caught.value.reason == REASON
        else:
            await work
    assert asked == [(os.getpid(), ["sleep-well", "now"], 7.0), (os.getpid(), ["fail"], 7.0)]
