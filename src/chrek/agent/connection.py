"""One conversation with a chrek-init: lines over a Unix stream socket.

The protocol is described at the head of src/c/chrek-init.c. What comes in is bounded and checked;
what goes out is one line, without control characters.
"""

from __future__ import annotations

import asyncio
import socket

from chrek import errors

MAX_LINE_BYTES = 1024
SEND_SECONDS = 5.0


class Connection:
    """A connected socket, line by line."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self._buffer = b""
        self._lock = asyncio.Lock()

    async def receive(self) -> str | None:
        """The next line without its end; None when the peer has closed.

        Raises:
            PeerError: the line is too long or not ASCII.
        """
        loop = asyncio.get_running_loop()
        while b"\n" not in self._buffer:
            if len(self._buffer) >= MAX_LINE_BYTES:
                raise errors.PeerError(f"a line longer than {MAX_LINE_BYTES} bytes")
            try:
                data = await loop.sock_recv(self.socket, 4096)
            except ConnectionError:
                data = b""
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        if len(line) >= MAX_LINE_BYTES:
            raise errors.PeerError(f"a line longer than {MAX_LINE_BYTES} bytes")
        try:
            return line.decode("ascii")
        except UnicodeDecodeError as err:
            raise errors.PeerError("a line that is not ASCII") from err

    async def send(self, *words: str) -> bool:
        """Send one line; False when the peer is gone or does not read."""
        text = " ".join(words)
        clean = "".join(c if " " <= c <= "~" else " " for c in text)
        data = clean.encode("ascii")[: MAX_LINE_BYTES - 1] + b"\n"
        loop = asyncio.get_running_loop()
        try:
            async with self._lock:
                await asyncio.wait_for(loop.sock_sendall(self.socket, data), SEND_SECONDS)
        except (OSError, TimeoutError):
            return False
        return True

    async def closed(self) -> None:
        """Return when the peer closes; lines that it still sends are dropped."""
        try:
            while await self.receive() is not None:
                continue
        except errors.PeerError:
            return

    def close(self) -> None:
        """Close our end."""
        self.socket.close()
