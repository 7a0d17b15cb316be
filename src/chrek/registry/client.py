"""Requests to one registry: manifests and blobs, each verified against its digest.

A request that the registry cannot serve now (429, 5xx, no answer) is sent again, after the time it
asks for or after a growing one, as long as the client's deadline lets it. Redirects are followed by
hand: only the registry itself, and the token server it names, ever get a credential.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import email.utils
import hashlib
import math
import random
import ssl
import time
import types
from collections.abc import AsyncIterator, Mapping
from typing import Self

import aiohttp
import msgspec
import yarl

import chrek
from chrek import errors
from chrek.registry import challenge, keyring, reference, words

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = (OCI_INDEX, DOCKER_LIST)
ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))

MANIFEST_BYTES = 4 << 20
TOKEN_BYTES = 1 << 20
CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 30.0
ATTEMPTS = 5
HOPS = 5
RANDOM = random.SystemRandom()
AGAIN = (0, 429, 500, 502, 503, 504)
MOVED = (301, 302, 303, 307, 308)


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


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A manifest as it came.

    Attributes:
        digest: of its bytes.
    """

    manifest: Manifest
    digest: str


class Client:
    """Talks to one registry as one user; use as an asynchronous context manager."""

    def __init__(
        self,
        registry: str,
        *,
        credential: keyring.Credential | None = None,
        plain_http: bool = False,
        deadline: float | None = None,
    ) -> None:
        """Prepare; connections are made when they are needed.

        Args:
            registry: `host[:port]` as images name it.
            credential: who asks; None for nobody.
            plain_http: speak HTTP without TLS, to the registry and to its token server.
            deadline: seconds from now after which nothing is tried again and no answer awaited.
        """
        self.registry = registry
        scheme = "http" if plain_http else "https"
        self._base = yarl.URL(f"{scheme}://{reference.endpoint(registry)}/v2/")
        self._credential = credential
        self._plain = plain_http
        self._ends = math.inf if deadline is None else time.monotonic() + deadline
        self._proof: dict[str, str] = {}
        """Repository -> value of the header Authorization that the registry took last."""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        tls = ssl.create_default_context()
        # Python 3.13 refuses certificate authorities that every container runtime takes, such as
        # those without a key usage; names and signatures are verified.
        tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=16),
            headers={"User-Agent": f"chrek/{chrek.__version__}", "Accept-Encoding": "identity"},
            auto_decompress=False,  # Digests are of what is sent, and a small body stays small.
            trust_env=True,  # HTTPS_PROXY and NO_PROXY of a cluster behind a proxy.
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def digest(self, image: reference.Reference) -> str:
        """Digest of what a tag names now, empty when the registry does not say; costs no body.

        Raises:
            RegistryError: it refused or did not answer.
        """
        path = f"{image.repository}/manifests/{image.wanted}"
        async with self._open("HEAD", path, image.repository, accept=ACCEPT) as answer:
            return answer.headers.get("Docker-Content-Digest", "")

    async def manifest(self, image: reference.Reference) -> Answer:
        """The manifest or index that a tag or digest names, verified.

        Raises:
            RegistryError: it refused, did not answer, or sent something else.
        """
        path = f"{image.repository}/manifests/{image.wanted}"
        async with self._open("GET", path, image.repository, accept=ACCEPT) as answer:
            raw = await self._read(answer, path, MANIFEST_BYTES)
        if image.digest:
            self._verify(raw, image.digest, path)
        try:
            manifest = msgspec.json.decode(raw, type=Manifest)
        except (msgspec.DecodeError, UnicodeDecodeError) as err:
            raise self._unusable(path, f"it is not a manifest: {err}") from err
        if manifest.schema_version != 2:
            raise self._unusable(path, f"schemaVersion {manifest.schema_version} is not 2")
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
        path = f"{repository}/blobs/{descriptor.digest}"
        if descriptor.size > limit:
            raise self._unusable(path, f"it has {descriptor.size} bytes, more than {limit}")
        async with self._open("GET", path, repository, accept="*/*") as answer:
            raw = await self._read(answer, path, limit)
        self._verify(raw, descriptor.digest, path)
        return raw

    @contextlib.asynccontextmanager
    async def _open(
        self, method: str, path: str, repository: str, *, accept: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is not an error."""
        answer = await self._persistent(method, path, repository, accept)
        try:
            yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            raise self._unanswered(path, err) from err
        finally:
            answer.release()

    async def _persistent(
        self, method: str, path: str, repository: str, accept: str
    ) -> aiohttp.ClientResponse:
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = await self._authorized(method, path, repository, accept)
                if answer.status < 300:
                    return answer
                failed = await self._refused(path, answer)
            except errors.RegistryError as err:
                failed = err
            except (aiohttp.ClientError, TimeoutError, OSError) as err:
                failed = self._unanswered(path, err)
            wait = max(RANDOM.uniform(0.25, 0.5) * 2 ** (attempt - 1), failed.wait)
            late = time.monotonic() + wait >= self._ends
            if failed.status not in AGAIN or not failed.retryable or attempt >= ATTEMPTS or late:
                raise failed
            await asyncio.sleep(wait)

    async def _authorized(
        self, method: str, path: str, repository: str, accept: str
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": accept}
        known = self._proof.get(repository)
        if known:
            headers["Authorization"] = known
        answer = await self._follow(method, path, headers)
        if answer.status != 401 or answer.url.origin() != self._base.origin():
            return answer
        asked = challenge.parse(answer.headers.getall("WWW-Authenticate", []))
        try:
            proof = await self._prove(asked, repository)
        except BaseException:
            answer.release()
            raise
        if proof is None or proof == known:
            return answer
        answer.release()
        answer = await self._follow(method, path, {**headers, "Authorization": proof})
        if answer.status < 300:
            self._proof[repository] = proof
        return answer

    async def _follow(
        self, method: str, path: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        url, sent = self._base.join(yarl.URL(path)), dict(headers)
        for _ in range(HOPS):
            answer = await self._send(method, url, sent)
            target = answer.headers.get("Location", "")
            if answer.status not in MOVED or not target:
                return answer
            answer.release()
            try:
                url = url.join(yarl.URL(target, encoded=True))
            except ValueError as err:
                raise self._unusable(path, f"it redirects to {target[:128]!r}") from err
            if url.scheme != "https" and not (self._plain and url.scheme == "http"):
                raise self._unusable(path, f"it redirects to {url.scheme}:, which is not https")
            if url.origin() != self._base.origin():
                sent.pop("Authorization", None)
        raise self._unusable(path, f"more than {HOPS} redirects")

    async def _prove(self, asked: list[challenge.Challenge], repository: str) -> str | None:
        """Value of the header Authorization, None when there is nothing more to offer."""
        for one in asked:
            if one.scheme == "bearer" and one.parameters.get("realm"):
                return f"Bearer {await self._token(one.parameters, repository)}"
        if any(one.scheme == "basic" for one in asked) and self._credential:
            return self._credential.basic()
        return None

    async def _token(self, asked: Mapping[str, str], repository: str) -> str:
        """A token of the server that the registry names."""
        schemes = ("https", "http") if self._plain else ("https",)
        try:
            realm = yarl.URL(asked["realm"])
            usable = realm.scheme in schemes and realm.host and not realm.user
        except ValueError:
            usable = False
        if not usable:
            why = f"the token server that it names, {asked['realm'][:128]!r}, is not at https:"
            raise self._unusable("token", why)
        fields = {"scope": asked.get("scope") or f"repository:{repository}:pull"}
        if asked.get("service"):
            fields["service"] = asked["service"]
        one, headers = self._credential, {"Accept": "application/json"}
        if one and one.identity_token:
            form = {"grant_type": "refresh_token", "refresh_token": one.identity_token}
            data = {**fields, **form, "client_id": "chrek"}
            answer = await self._send("POST", realm, headers, data=data)
        else:
            if one:
                headers["Authorization"] = one.basic()
            answer = await self._send("GET", realm.update_query(fields), headers)
        try:
            if answer.status != 200:
                raise await self._refused(f"token of {realm.host}", answer)
            raw = await self._read(answer, f"token of {realm.host}", TOKEN_BYTES)
        finally:
            answer.release()
        try:
            decoded = msgspec.json.decode(raw, type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError):
            decoded = {}
        token = decoded.get("token") or decoded.get("access_token")
        if not isinstance(token, str) or not token.isprintable():
            raise self._unusable(f"token of {realm.host}", "the answer has no token")
        return token

    async def _send(
        self,
        method: str,
        url: yarl.URL,
        headers: Mapping[str, str],
        *,
        data: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("use the client as an asynchronous context manager")
        left = min(self._ends - time.monotonic(), REQUEST_SECONDS)
        if left <= 0:
            raise TimeoutError("there is no time left")
        limits = aiohttp.ClientTimeout(total=left, connect=min(left, CONNECT_SECONDS))
        return await self._session.request(
            method, url, headers=headers, data=data, allow_redirects=False, timeout=limits
        )

    async def _read(self, answer: aiohttp.ClientResponse, path: str, limit: int) -> bytes:
        found = bytearray()
        async for chunk in answer.content.iter_chunked(1 << 16):
            found += chunk
            if len(found) > limit:
                answer.close()
                raise self._unusable(path, f"it has more than {limit} bytes")
        return bytes(found)

    async def _refused(self, path: str, answer: aiohttp.ClientResponse) -> errors.RegistryError:
        try:
            raw = await answer.content.read(1 << 16)
        finally:
            answer.release()
        failed = words.refused(self.registry, path, answer.status, raw)
        failed.wait = _retry_after(answer.headers.get("Retry-After", ""))
        return failed

    def _unanswered(self, path: str, err: BaseException) -> errors.RegistryError:
        return words.unanswered(self.registry, path, err)

    def _unusable(self, path: str, why: str) -> errors.RegistryError:
        return words.unusable(self.registry, path, why)

    def _verify(self, raw: bytes, digest: str, path: str) -> None:
        algorithm, _, wanted = digest.partition(":")
        if algorithm not in ("sha256", "sha512"):
            raise self._unusable(path, f"digests of {algorithm!r} are not known")
        if hashlib.new(algorithm, raw).hexdigest() != wanted:
            raise self._unusable(path, f"what it sent is not {digest}")


def _retry_after(text: str) -> float:
    """Seconds that the header Retry-After asks for; it may be a number or a date."""
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0
