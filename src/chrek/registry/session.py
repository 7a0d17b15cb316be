"""HTTP with one registry: connections, TLS, limits of time and of size."""

from __future__ import annotations

import asyncio
import email.utils
import math
import pathlib
import ssl
import time
from collections.abc import Mapping

import aiohttp
import yarl
from aiohttp import abc as aiohttp_abc

import chrek
from chrek import deadline as deadlines
from chrek import errors
from chrek.registry import words

CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 30.0
SLOWEST_BYTES_PER_SECOND = 256 << 10
"""A body has the time on top that it takes at this speed."""
SLICE_BYTES = 256 << 10
CONNECTIONS = 16


class Body(aiohttp.Payload):
    """A request's body in memory, which is sent slice by slice without being copied first."""

    _autoclose = True

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        super().__init__(self._data, content_type="application/octet-stream")
        self._size = len(self._data)

    async def write(self, writer: aiohttp_abc.AbstractStreamWriter) -> None:
        # Else aiohttp would send it a second time by itself when a kept connection breaks, perhaps
        # into an upload session that is gone.
        self._consumed = True
        try:
            for at in range(0, len(self._data), SLICE_BYTES):
                await writer.write(self._data[at : at + SLICE_BYTES])
        except asyncio.CancelledError:
            # There is an answer already, or nobody waits for one. A connection that was closed
            # would stay until the registry has read what it does not want.
            if isinstance(writer, aiohttp.http.StreamWriter) and writer.transport:
                writer.transport.abort()
            raise

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return bytes(self._data).decode(encoding, errors)


class Session:
    """Connections to one registry and to whom it refers; `start` before use, `close` after."""

    def __init__(
        self, spoken: words.Words, *, deadline: float | None, ca_bundle: pathlib.Path | None
    ) -> None:
        """Prepare.

        Args:
            spoken: makes errors.
            deadline: seconds from now after which no answer is awaited.
            ca_bundle: PEM file of authorities that are trusted as well as the system's.
        """
        self.words = spoken
        self._ends = math.inf if deadline is None else time.monotonic() + deadline
        self.reads_ranges = True
        """Until the registry sends more of a blob than it was asked for."""
        self._ca_bundle = ca_bundle
        self._session: aiohttp.ClientSession | None = None

    @property
    def ends(self) -> float:
        """On the monotonic clock: its own end, or that of the task that asks."""
        return min(self._ends, deadlines.ends())

    def start(self) -> None:
        """Be ready to send, in the running event loop; no effect when it is.

        Raises:
            ConfigError: the bundle of authorities cannot be read.
        """
        if self._session is not None:
            return
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls(), limit=CONNECTIONS),
            # Registries that also serve people take a request with a cookie for one of a browser.
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"chrek/{chrek.__version__}", "Accept-Encoding": "identity"},
            auto_decompress=False,  # Digests are of what is sent, and a small body stays small.
            trust_env=True,  # HTTPS_PROXY and NO_PROXY of a cluster behind a proxy.
        )

    async def close(self) -> None:
        """End connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def send(
        self,
        method: str,
        url: yarl.URL,
        headers: Mapping[str, str],
        *,
        data: Mapping[str, str] | bytes | memoryview | None = None,
        more_bytes: int = 0,
    ) -> aiohttp.ClientResponse:
        """Send a request once; redirects are not followed.

        Args:
            data: a form, or a body.
            more_bytes: so many are expected back, beyond an ordinary answer.

        Raises:
            aiohttp.ClientError, OSError: there was no answer in time.
        """
        if self._session is None:
            raise RuntimeError("use the client as an asynchronous context manager")
        body = Body(data) if isinstance(data, bytes | memoryview) else None
        expected = more_bytes + (body.size or 0 if body else 0)
        whole = REQUEST_SECONDS + expected / SLOWEST_BYTES_PER_SECOND
        left = min(self.ends - time.monotonic(), whole)
        if left <= 0:
            raise TimeoutError("there is no time left")
        limits = aiohttp.ClientTimeout(
            total=left,
            sock_connect=min(left, CONNECT_SECONDS),
            # After a body a registry may be silent while it stores that.
            sock_read=None if body else min(left, REQUEST_SECONDS),
        )
        return await self._session.request(
            method,
            url,
            headers=headers,
            data=data if body is None else body,
            allow_redirects=False,
            timeout=limits,
        )

    async def read(self, answer: aiohttp.ClientResponse, what: str, limit: int) -> bytes:
        """A body of at most `limit` bytes.

        Raises:
            RegistryError: it is larger.
            aiohttp.ClientError, OSError: it did not come to its end.
        """
        found, size = [], 0
        async for chunk in answer.content.iter_any():
            found.append(chunk)
            size += len(chunk)
            if size > limit:
                raise self.words.unusable(what, f"it has more than {limit} bytes")
        return b"".join(found)

    async def refused(self, answer: aiohttp.ClientResponse, what: str) -> errors.RegistryError:
        """What an answer with an error status says."""
        try:
            raw = await answer.content.read(1 << 16)
        finally:
            answer.release()
        failed = self.words.refused(what, answer.status, raw)
        failed.wait = _retry_after(answer.headers.get("Retry-After", ""))
        return failed

    def _tls(self) -> ssl.SSLContext:
        tls = ssl.create_default_context()
        # Python 3.13 refuses certificate authorities that every container runtime takes, such as
        # those without a key usage; names and signatures are verified.
        tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self._ca_bundle is not None:
            try:
                tls.load_verify_locations(cafile=self._ca_bundle)
            except OSError as err:  # Which errors of TLS are as well.
                raise errors.ConfigError(
                    f"certificate authorities in {self._ca_bundle}: {err.strerror or err}",
                    hint="it must be a file with certificates in PEM",
                ) from err
        return tls


def _retry_after(text: str) -> float:
    """Seconds that the header Retry-After asks for; it may be a number or a date."""
    try:
        if text.strip().isdigit():
            return float(text)
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0
