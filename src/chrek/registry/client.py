"""Requests to one registry: who asks is proven, what is passing is tried again; reads of images.

A request that the registry cannot serve now (429, 5xx, no answer) is sent again, after the time it
asks for and a growing, random one, as long as deadline and patience let it. Redirects are followed
by hand: only the registry itself, and the token server it names, ever get a credential.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import hashlib
import math
import pathlib
import random
import time
import types
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Self, TypeVar

import aiohttp
import msgspec
import yarl

from chrek import errors
from chrek import retries as retries_module
from chrek.registry import challenge, keyring, reference, session, tokens, words

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = (OCI_INDEX, DOCKER_LIST)
ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))

MANIFEST_BYTES = 4 << 20
ATTEMPTS = 5
HOPS = 5
RANDOM = random.SystemRandom()
LONGEST_WAIT_SECONDS = 15.0
AGAIN = (0, 408, 429, 500, 502, 503, 504)
MOVED = (301, 302, 303, 307, 308)
MOVED_WITH_METHOD = (307, 308)

ResultT = TypeVar("ResultT")


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """Points to a manifest or a blob."""

    digest: str
    size: int
    media_type: str = ""
    platform: Mapping[str, str | list[str]] | None = None


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """What an image, or another artifact, consists of."""

    config: Descriptor | None = None
    layers: list[Descriptor] = []
    manifests: list[Descriptor] = []
    """Of an index: one for each platform."""
    media_type: str = ""
    schema_version: int = 2
    annotations: dict[str, str] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A manifest as it came.

    Attributes:
        digest: of its bytes.
    """

    manifest: Manifest
    digest: str


@dataclasses.dataclass(frozen=True, slots=True)
class Patience:
    """How long something is tried.

    Attributes:
        attempts: at most so many.
        seconds: none begins later than this after the first.
    """

    attempts: int = ATTEMPTS
    seconds: float = math.inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of the registry.

    Attributes:
        path: below `/v2/<repository>/`; a query is not part of messages.
        url: where to go instead, when the registry has said.
        actions: that a token must allow.
        source: another repository that must be allowed to be pulled from.
        answers: statuses of errors that are no errors here.
        more_bytes: expected back, beyond an ordinary answer.
    """

    method: str
    repository: str
    path: str
    url: yarl.URL | None = None
    actions: tuple[str, ...] = ("pull",)
    source: str = ""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes | memoryview | None = None
    answers: Collection[int] = ()
    more_bytes: int = 0

    @property
    def what(self) -> str:
        """For messages."""
        return f"{self.repository}/{self.path.partition('?')[0]}"

    @property
    def scopes(self) -> tuple[str, ...]:
        """Of the token that it needs."""
        more = (tokens.scope(f"repository:{self.source}", ["pull"]),) if self.source else ()
        return (tokens.scope(f"repository:{self.repository}", self.actions), *more)


class Retries:
    """Counts the attempts of one operation, and waits between them."""

    def __init__(self, patience: Patience, ends: float) -> None:
        self._left = patience.attempts
        self._ends = min(ends, time.monotonic() + patience.seconds)
        self._longest = 0.5

    async def again(self, failed: errors.RegistryError, also: Collection[int] = ()) -> None:
        """Wait for the next attempt.

        Args:
            failed: why the last one did not succeed; raised when there shall be no other.
            also: statuses that are worth another as well.
        """
        self._left -= 1
        worth = failed.status in also or (failed.retryable and failed.status in AGAIN)
        # Never sooner than the registry asks for; the random part keeps the many from being one.
        wait = failed.wait + RANDOM.uniform(self._longest / 2, self._longest)
        self._longest = min(self._longest * 2, LONGEST_WAIT_SECONDS)
        if not worth or self._left <= 0 or time.monotonic() + wait >= self._ends:
            raise failed
        await asyncio.sleep(wait)


class Client:
    """Talks to one registry as one user; use as an asynchronous context manager."""

    def __init__(
        self,
        registry: str,
        *,
        credential: keyring.Credential | None = None,
        plain_http: bool = False,
        ca_bundle: pathlib.Path | None = None,
        deadline: float | None = None,
        patience: Patience | None = None,
        hints: Mapping[str, str] = words.HINTS,
    ) -> None:
        """Prepare; connections are made when they are needed.

        Args:
            registry: `host[:port]` as images name it.
            credential: who asks; None for nobody.
            plain_http: speak HTTP without TLS, to the registry and to its token server.
            ca_bundle: PEM file of authorities that are trusted as well as the system's.
            deadline: seconds from now after which nothing is tried again and no answer awaited.
            patience: of each operation.
            hints: what users are told to do, see `words`.
        """
        self.registry = registry
        self.words = words.Words(registry, hints)
        self.session = session.Session(self.words, deadline=deadline, ca_bundle=ca_bundle)
        scheme = "http" if plain_http else "https"
        self._base = yarl.URL(f"{scheme}://{reference.endpoint(registry)}/v2/")
        self._plain = plain_http
        self._patience = patience or Patience()
        self._prover = tokens.Prover(self.session, credential, plain_http=plain_http)
        self._proof: dict[tuple[str, ...], str] = {}
        """Scopes -> value of the header Authorization that the registry took last."""

    async def __aenter__(self) -> Self:
        self.session.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        await self.session.close()

    def within(self, patience: Patience) -> Self:
        """The same client, with other patience."""
        made = copy.copy(self)
        made._patience = patience
        return made

    def use(self, credential: keyring.Credential | None) -> None:
        """Ask as somebody else from now on; no effect when it is the same."""
        if credential != self._prover.credential:
            self._prover.credential = credential
            self._proof.clear()

    async def digest(self, image: reference.Reference) -> str:
        """Digest of what a tag names now, empty when the registry does not say; costs no body.

        Raises:
            RegistryError: it refused or did not answer.
        """

        async def take(answer: aiohttp.ClientResponse) -> str:
            return answer.headers.get("Docker-Content-Digest", "")

        return await self.do(_manifest_request("HEAD", image), take)

    async def manifest(self, image: reference.Reference) -> Answer:
        """The manifest or index that a tag or digest names, verified.

        Raises:
            RegistryError: it refused, did not answer, or sent something else.
        """
        request = _manifest_request("GET", image)

        async def take(answer: aiohttp.ClientResponse) -> bytes:
            return await self.session.read(answer, request.what, MANIFEST_BYTES)

        raw = await self.do(request, take)
        if image.digest:
            self._verify(raw, image.digest, request.what)
        try:
            manifest = msgspec.json.decode(raw, type=Manifest)
        except (msgspec.DecodeError, UnicodeDecodeError) as err:
            raise self.words.unusable(request.what, f"it is not a manifest: {err}") from err
        if manifest.schema_version != 2:
            why = f"schemaVersion {manifest.schema_version} is not 2"
            raise self.words.unusable(request.what, why)
        digest = image.digest or f"sha256:{hashlib.sha256(raw).hexdigest()}"
        return Answer(manifest, digest)

    async def blob(self, repository: str, descriptor: Descriptor, *, limit: int) -> bytes:
        """A small blob, verified.

        Args:
            repository: where it is.
            descriptor: of a manifest.
            limit: most bytes that it may have.

        Raises:
            RegistryError: it refused, did not answer, or sent something else.
        """
        request = Request(
            method="GET",
            repository=repository,
            path=f"blobs/{descriptor.digest}",
            headers={"Accept": "*/*"},
            more_bytes=max(0, descriptor.size),
        )
        if descriptor.size > limit:
            why = f"it has {descriptor.size} bytes, more than {limit}"
            raise self.words.unusable(request.what, why)

        async def take(answer: aiohttp.ClientResponse) -> bytes:
            return await self.session.read(answer, request.what, limit)

        raw = await self.do(request, take)
        self._verify(raw, descriptor.digest, request.what)
        return raw

    def retries(self) -> Retries:
        """Of an operation that begins now."""
        return Retries(self._patience, self.session.ends)

    async def do(
        self,
        request: Request,
        take: Callable[[aiohttp.ClientResponse], Awaitable[ResultT]],
    ) -> ResultT:
        """Ask, again where that is worth it, and take the answer in; `take` may be called again.

        Raises:
            RegistryError: the registry refused, did not answer, or sent what `take` does not take.
        """
        retries = self.retries()
        while True:
            try:
                return await self.once(request, take)
            except errors.RegistryError as err:
                await retries.again(err)
                retries_module.count(request.method)

    async def once(
        self,
        request: Request,
        take: Callable[[aiohttp.ClientResponse], Awaitable[ResultT]],
    ) -> ResultT:
        """The same without trying again."""
        try:
            answer = await self._authorized(request)
            try:
                if answer.status >= 300 and answer.status not in request.answers:
                    raise await self.session.refused(answer, request.what)
                return await take(answer)
            finally:
                answer.release()
        except (aiohttp.ClientError, OSError) as err:
            raise self.words.unanswered(request.what, err) from err

    def location(self, url: yarl.URL, target: str, what: str) -> yarl.URL:
        """Where a header of an answer leads: it may be relative, and is left as it is written.

        Raises:
            RegistryError: it is no URL, or leads away from TLS.
        """
        try:
            found = url.join(yarl.URL(target, encoded=True)).with_fragment(None)
        except ValueError as err:
            shown = words.without_queries(target)[:128]
            raise self.words.unusable(what, f"it redirects to {shown!r}") from err
        schemes = ("https", "http") if self._plain else ("https",)
        if found.scheme not in schemes or not found.host:
            hint = None
            if found.host == self._base.host:
                hint = "it does not know that it is asked with TLS: set its http.host, or have the"
                hint += " proxy before it send X-Forwarded-Proto"
            why = f"it redirects to {found.scheme}:, which is not https"
            raise self.words.unusable(what, why, hint=hint)
        return found

    async def _authorized(self, request: Request) -> aiohttp.ClientResponse:
        known = self._proof.get(request.scopes)
        answer = await self._follow(request, known)
        if answer.status != 401 or answer.url.origin() != self._base.origin():
            return answer
        asked = challenge.parse(answer.headers.getall("WWW-Authenticate", []))
        try:
            proof = await self._prover.prove(asked, request.scopes)
        except BaseException:
            answer.release()
            raise
        if proof is None or proof == known:
            return answer
        answer.release()
        answer = await self._follow(request, proof)
        if answer.status not in (401, 403):
            self._proof[request.scopes] = proof
        return answer

    async def _follow(self, request: Request, proof: str | None) -> aiohttp.ClientResponse:
        path = yarl.URL(f"{request.repository}/{request.path}")
        url, sent = request.url or self._base.join(path), dict(request.headers)
        moved = MOVED if request.method in ("GET", "HEAD") else MOVED_WITH_METHOD
        if proof:
            sent["Authorization"] = proof
        for _ in range(HOPS):
            if url.origin() != self._base.origin():
                sent.pop("Authorization", None)
            answer = await self.session.send(
                request.method, url, sent, data=request.body, more_bytes=request.more_bytes
            )
            target = answer.headers.get("Location", "")
            if answer.status not in moved or not target:
                return answer
            answer.release()
            url = self.location(url, target, request.what)
        raise self.words.unusable(request.what, f"more than {HOPS} redirects")

    def _verify(self, raw: bytes, digest: str, what: str) -> None:
        algorithm, _, wanted = digest.partition(":")
        if algorithm not in ("sha256", "sha512"):
            raise self.words.unusable(what, f"digests of {algorithm!r} are not known")
        if hashlib.new(algorithm, raw).hexdigest() != wanted:
            raise self.words.unusable(what, f"what it sent is not {digest}")


def _manifest_request(method: str, image: reference.Reference) -> Request:
    return Request(
        method=method,
        repository=image.repository,
        path=f"manifests/{image.wanted}",
        headers={"Accept": ACCEPT},
    )
