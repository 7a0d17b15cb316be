"""An S3 server that fails when told to: a proxy in front of a real one, or alone without one.

    async with bad_s3.Proxy(server.host) as bad:
        bad.fail(method="PUT", status=503, code="SlowDown", times=2)

Every request that matches a fault gets it, the oldest fault first, `times` times; all others go to
the real server as they are, so that signatures stay valid. One connection serves one request. What
was asked is in `requests`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import struct
from collections.abc import Mapping

PIECES = 20
"""So many pieces a second are sent or read when a fault says how fast."""


@dataclasses.dataclass(kw_only=True)
class Fault:
    """What becomes of a request."""

    method: str = ""
    """Empty: any."""
    part: str = ""
    """Of path and query; empty: any."""
    times: int = 1 << 30
    every: int = 1
    """Of those that match, only every second, third, ... gets it."""
    status: int = 0
    """Answer this and ask nobody; the body is an error in S3's XML."""
    code: str = ""
    message: str = "as told"
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes | None = None
    """Instead of the XML."""
    deaf: bool = False
    """Reset the connection without asking anybody."""
    mute: bool = False
    """Ask nobody and say nothing, with the connection left open."""
    lost: bool = False
    """Ask the server, then reset the connection instead of the answer."""
    cut_after_bytes: int = -1
    """Reset the connection after so much of the answer's body."""
    stall_after_bytes: int = -1
    """Say no more after so much of the answer's body."""
    answer_bytes_per_second: int = 0
    request_bytes_per_second: int = 0
    """How fast the request's body is read."""
    unconditional: bool = False
    """Say 200 where the server refused because of `If-None-Match`."""
    until: asyncio.Event | None = None
    """Answer when it is set."""

    _matched: int = 0

    def matches(self, request: Request) -> bool:
        right = not self.method or self.method == request.method
        if not self.times or not right or self.part not in request.target:
            return False
        self._matched += 1
        return self._matched % self.every == 0


@dataclasses.dataclass(frozen=True)
class Request:
    """As it was asked; the names of headers are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]


class Proxy:
    """Use as an asynchronous context manager; `host` is what to talk to."""

    def __init__(self, upstream: str = "") -> None:
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.host = ""
        self._upstream = upstream
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        # A small buffer, or a slow reader would not be felt.
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=1 << 16)
        self.host = f"127.0.0.1:{listener.getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def fail(self, **facts: object) -> Fault:
        """From now on requests that match are treated so."""
        fault = Fault(**facts)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def count(self, method: str, part: str = "") -> int:
        """How many such requests there were."""
        return sum(one.method == method and part in one.target for one in self.requests)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            gone = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
            with contextlib.suppress(*gone):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        request = _request(head)
        self.requests.append(request)
        fault = next((one for one in self.faults if one.matches(request)), Fault())
        fault.times -= 1
        if fault.deaf:
            _reset(writer)
            return
        if fault.mute:
            await asyncio.sleep(3600)
        size = int(request.headers.get("content-length", 0))
        body = await _receive(reader, size, fault.request_bytes_per_second)
        if fault.status:
            status, headers, content = fault.status, dict(fault.headers), _error(fault)
            headers.setdefault("content-length", str(len(content)))
        else:
            status, headers, content = await self._ask(head, body)
        if fault.lost:
            _reset(writer)
            return
        if fault.unconditional and status == 412 and "if-none-match" in request.headers:
            status, headers, content = 200, {"etag": '"0"', "content-length": "0"}, b""
        if fault.until:
            await fault.until.wait()
        await _answer(writer, fault, status, headers, content)

    async def _ask(self, head: bytes, body: bytes) -> tuple[int, dict[str, str], bytes]:
        assert self._upstream, f"nobody to ask: {head[:200]!r}"
        name, _, port = self._upstream.partition(":")
        reader, writer = await asyncio.open_connection(name, int(port))
        try:
            writer.write(head[:-2] + b"connection: close\r\n\r\n" + body)
            await writer.drain()
            said = await reader.readuntil(b"\r\n\r\n")
            content = await reader.read(-1)
        finally:
            writer.close()
        lines = said.decode("latin-1").split("\r\n")
        headers = dict(_header(line) for line in lines[1:-2])
        return int(lines[0].split()[1]), headers, content


def _request(head: bytes) -> Request:
    lines = head.decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    return Request(method, target, dict(_header(line) for line in lines[1:-2]))


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


def _error(fault: Fault) -> bytes:
    if fault.body is not None:
        return fault.body
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{fault.code}</Code>'
        f"<Message>{fault.message}</Message></Error>"
    ).encode()


async def _receive(reader: asyncio.StreamReader, size: int, rate: int) -> bytes:
    if not rate:
        return await reader.readexactly(size)
    body = b""
    while len(body) < size:
        body += await reader.readexactly(min(rate // PIECES, size - len(body)))
        await asyncio.sleep(1 / PIECES)
    return body


async def _answer(
    writer: asyncio.StreamWriter,
    fault: Fault,
    status: int,
    headers: Mapping[str, str],
    content: bytes,
) -> None:
    lines = [f"HTTP/1.1 {status} Said"]
    lines += [f"{k}: {v}" for k, v in {**headers, "connection": "close"}.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    rate = fault.answer_bytes_per_second
    step = rate // PIECES if rate else len(content) or 1
    for end in (fault.cut_after_bytes, fault.stall_after_bytes):
        content = content if end < 0 else content[:end]
    for start in range(0, len(content), step):
        writer.write(content[start : start + step])
        await writer.drain()
        await asyncio.sleep(1 / PIECES if rate else 0)
    if fault.cut_after_bytes >= 0:
        await asyncio.sleep(1 / PIECES)
        _reset(writer)
    if fault.stall_after_bytes >= 0:
        await asyncio.sleep(3600)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, as a server or a balancer that dies does."""
    end: socket.socket = writer.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
