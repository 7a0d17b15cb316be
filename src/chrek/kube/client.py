"""A small asynchronous client of the Kubernetes API.

Objects are plain dictionaries. Every request has a timeout; reads are tried again when the server
does not answer, writes only when the server said that it did nothing (429).
Source: https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import asyncio
import enum
import random
import socket
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Self

import aiohttp
import msgspec

from chrek import errors, log
from chrek.kube import credentials as credentials_module

LOG = log.get(__name__)
REQUEST_SECONDS = 30.0
WATCH_SECONDS = 290
ATTEMPTS = 3
PAGE = 100
"""Objects in one answer: few enough that a listing of thousands takes little memory."""
RANDOM = random.SystemRandom()

Object = dict[str, Any]
Query = Mapping[str, str | int | bool]


class PatchKind(enum.StrEnum):
    """Kinds of PATCH and their media types."""

    MERGE = "merge"
    STRATEGIC = "strategic"
    JSON = "json"
    APPLY = "apply"

    @property
    def media_type(self) -> str:
        """Content-Type of the request."""
        return {
            PatchKind.MERGE: "application/merge-patch+json",
            PatchKind.STRATEGIC: "application/strategic-merge-patch+json",
            PatchKind.JSON: "application/json-patch+json",
            # JSON is YAML; the server takes no other media type for this before 1.32.
            PatchKind.APPLY: "application/apply-patch+yaml",
        }[self]


def path(
    group_version: str,
    plural: str,
    namespace: str | None = None,
    name: str | None = None,
    subresource: str | None = None,
) -> str:
    """URL path of a collection or of an object.

    Args:
        group_version: `v1`, `apps/v1`, `nvidia.com/v1alpha1`, …
        plural: the resource, such as `pods`.
        namespace: None for cluster-scoped resources and for all namespaces.
        name: None for the collection.
        subresource: such as `status`.
    """
    parts = ["apis" if "/" in group_version else "api", *group_version.split("/")]
    if namespace:
        parts += ["namespaces", namespace]
    parts.append(plural)
    if name:
        parts.append(name)
    if subresource:
        parts.append(subresource)
    return "/" + "/".join(urllib.parse.quote(part, safe="") for part in parts)


class Client:
    """A connection pool to one API server."""

    def __init__(
        self,
        credentials: credentials_module.Credentials,
        *,
        user_agent: str = "chrek",
        observe: Callable[[str, str, float | None], None] = lambda method, path, seconds: None,
    ) -> None:
        """Prepare; connections are made when they are needed.

        Args:
            credentials: where the server is and who asks.
            user_agent: name of the program, also as the manager of fields.
            observe: told method (or `WATCH`, `DRY-RUN`), path, seconds (none of a watch) of each.
        """
        self.credentials = credentials
        self._user_agent = user_agent
        self._observe = observe
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        content_type: str | None = None,
        timeout: float = REQUEST_SECONDS,
    ) -> Object:
        """Send one request and decode the answer.

        Raises:
            ApiError: with the server's status and words, or status 0 when it did not answer.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return (await self._once(method, path, query, body, content_type, timeout))[1]
            except errors.ApiError as err:
                again = err.status == 429 or (method == "GET" and err.status in (0, 500, 503, 504))
                if not again or attempt == ATTEMPTS:
                    raise
            await asyncio.sleep(RANDOM.uniform(0.5, 1.0) * 2 ** (attempt - 1))

    async def date(self, *, timeout: float = 5.0) -> str:
        """The server's clock, as the header `Date` of an answer has it; asked once."""
        headers, _ = await self._once("GET", "/version", None, None, None, timeout)
        return headers.get("Date", "")

    async def get(
        self,
        group_version: str,
        plural: str,
        namespace: str | None,
        name: str,
        subresource: str | None = None,
    ) -> Object:
        """Read one object."""
        return await self.request("GET", path(group_version, plural, namespace, name, subresource))

    async def find(
        self, group_version: str, plural: str, namespace: str | None, name: str
    ) -> Object | None:
        """Read one object, None when there is none."""
        try:
            return await self.get(group_version, plural, namespace, name)
        except errors.ApiError as err:
            if err.status == 404:
                return None
            raise

    async def list(
        self,
        group_version: str,
        plural: str,
        namespace: str | None = None,
        *,
        query: Query | None = None,
    ) -> Object:
        """Read a whole collection: `items` and `metadata.resourceVersion`."""
        whole: Object = {}
        async for page in self.pages(path(group_version, plural, namespace), query=query):
            whole = {**page, "items": [*whole.get("items", ()), *(page.get("items") or ())]}
        return whole

    async def pages(self, path: str, *, query: Query | None = None) -> AsyncIterator[Object]:
        """Read a whole collection, page by page; status 410 where its rest is no longer known."""
        parameters: dict[str, str | int | bool] = {**(query or {}), "limit": PAGE}
        while True:
            page = await self.request("GET", path, query=parameters)
            yield page
            if not (token := page.get("metadata", {}).get("continue")):
                return
            parameters["continue"] = token

    async def create(
        self, group_version: str, plural: str, namespace: str | None, body: Object
    ) -> Object:
        """Create an object; status 409 when it exists."""
        return await self.request("POST", path(group_version, plural, namespace), body=body)

    async def replace(
        self,
        group_version: str,
        plural: str,
        namespace: str | None,
        name: str,
        body: Object,
        *,
        subresource: str | None = None,
    ) -> Object:
        """Replace an object; status 409 when its resourceVersion is not the newest."""
        target = path(group_version, plural, namespace, name, subresource)
        return await self.request("PUT", target, body=body)

    async def delete(
        self,
        group_version: str,
        plural: str,
        namespace: str | None,
        name: str,
        *,
        propagation: str = "Background",
        uid: str | None = None,
    ) -> Object:
        """Delete an object; with `uid` only that very one (status 409 otherwise)."""
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        body["propagationPolicy"] = propagation
        if uid:
            body["preconditions"] = {"uid": uid}
        return await self.request("DELETE", path(group_version, plural, namespace, name), body=body)

    async def patch(
        self,
        group_version: str,
        plural: str,
        namespace: str | None,
        name: str,
        body: Object | Sequence[Object],
        *,
        kind: PatchKind | str = PatchKind.MERGE,
        subresource: str | None = None,
        field_manager: str | None = None,
        force: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """Patch an object: merge, strategic, json (a list of operations) or apply."""
        kind = PatchKind(kind)
        query: dict[str, str | int | bool] = {}
        if field_manager or kind is PatchKind.APPLY:
            query["fieldManager"] = field_manager or self._user_agent
        if force:
            query["force"] = True
        if dry_run:
            query["dryRun"] = "All"
        target = path(group_version, plural, namespace, name, subresource)
        return await self.request(
            "PATCH", target, query=query, body=body, content_type=kind.media_type
        )

    async def watch(
        self, path: str, *, query: Query | None = None, resource_version: str
    ) -> AsyncIterator[tuple[str, Object]]:
        """Follow a collection: yields `(ADDED | MODIFIED | DELETED | BOOKMARK, object)` for ever.

        Reconnects by itself, with back-off when the server does not answer.

        Raises:
            ApiError: status 410 when the server no longer knows `resource_version` (list again),
                or when the server refuses the request (401, 403, 404).
        """
        failures = 0
        while True:
            parameters = {
                **(query or {}),
                "watch": True,
                "allowWatchBookmarks": True,
                "resourceVersion": resource_version,
                "timeoutSeconds": WATCH_SECONDS + RANDOM.randrange(30),
            }
            started = time.monotonic()
            try:
                async for kind, item in self._stream(path, parameters):
                    failures = 0
                    if kind == "ERROR":
                        status = int(item.get("code") or 500)
                        text = f"watch {path}: {item.get('message', 'failed')}"
                        raise errors.ApiError(text, status=status)
                    resource_version = item["metadata"]["resourceVersion"]
                    yield kind, item
            except errors.ApiError as err:
                if err.status not in (0, 429, 500, 502, 503, 504):
                    raise
                LOG.debug("watch interrupted", path=path, error=str(err))
                failures += 1
            if time.monotonic() - started < 1.0:
                failures = max(failures, 1)  # A proxy that hangs up at once must not spin us.
            if failures:
                await asyncio.sleep(backoff(failures))

    async def _once(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: object,
        content_type: str | None,
        timeout: float,
    ) -> tuple[Mapping[str, str], Object]:
        headers = self._headers()
        data = None
        if body is not None:
            data = msgspec.json.encode(body)
            headers["Content-Type"] = content_type or "application/json"
        limits = aiohttp.ClientTimeout(total=timeout)
        begin = time.monotonic()
        try:
            async with self._open().request(
                method, self._url(path, query), data=data, headers=headers, timeout=limits
            ) as answer:
                raw = await answer.read()
                if answer.status >= 400:
                    raise _refused(method, path, answer.status, raw)
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            raise _unanswered(method, path, err) from err
        finally:
            said = "DRY-RUN" if query and query.get("dryRun") else method
            self._observe(said, path, time.monotonic() - begin)
        return answer.headers, msgspec.json.decode(raw) if raw else {}

    async def _stream(self, path: str, query: Query) -> AsyncIterator[tuple[str, Object]]:
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=REQUEST_SECONDS, sock_read=WATCH_SECONDS + 60
        )
        self._observe("WATCH", path, None)
        try:
            async with self._open().get(
                self._url(path, query), headers=self._headers(), timeout=limits
            ) as answer:
                if answer.status >= 400:
                    raise _refused("watch", path, answer.status, await answer.read())
                rest = b""
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        event = msgspec.json.decode(line)
                        yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as err:
            raise _unanswered("watch", path, err) from err

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": self._user_agent}
        token = self.credentials.bearer()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _url(self, path: str, query: Query | None) -> str:
        parameters = {
            k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in (query or {}).items()
        }
        suffix = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        return f"{self.credentials.server}{path}{suffix}"

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                ssl=self.credentials.tls or False, limit=64, socket_factory=_socket
            )
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self._session


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row: up to 30, with jitter."""
    return min(30.0, 0.25 * 2.0 ** min(failures, 8)) * RANDOM.uniform(0.5, 1.0)


def _socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that notices within a minute that its server vanished: watches are silent."""
    family, kind, protocol, _, _ = info
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    made.setblocking(False)
    return made


def _refused(method: str, path: str, status: int, raw: bytes) -> errors.ApiError:
    try:
        message = msgspec.json.decode(raw).get("message", "")
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError):
        message = raw[:256].decode(errors="replace").strip()
    return errors.ApiError(f"{method} {path}: {status}: {message}", status=status)


def _unanswered(method: str, path: str, err: BaseException) -> errors.ApiError:
    text = str(err) or type(err).__name__
    return errors.ApiError(f"{method} {path}: the API server did not answer: {text}")
