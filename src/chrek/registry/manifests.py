"""Manifests and tags of a repository: written, listed, deleted.

Source: https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#content-discovery
"""

from __future__ import annotations

import re

import aiohttp
import msgspec
import yarl

from chrek import errors
from chrek.registry import client as client_module
from chrek.registry import words

PUSH = ("pull", "push")
DELETE = ("delete",)
PAGE_TAGS = 1000
MOST_TAGS = 100_000
MOST_PAGES = 1000
"""Registries may give fewer at once than they are asked for."""
PAGE_BYTES = 4 << 20
_NEXT = re.compile(r"<([^>]*)>\s*;[^,]*\brel=\"?next\b")


class _Page(msgspec.Struct, frozen=True):
    tags: list[str] | None = None


async def put(
    client: client_module.Client, repository: str, reference: str, raw: bytes, digest: str
) -> None:
    """Store a manifest of the OCI, under a tag or its digest; what has the tag loses it.

    Args:
        reference: the tag or the digest.
        raw: the manifest.
        digest: of `raw`.

    Raises:
        RegistryError: the registry refused, did not answer, or stored something else.
    """
    request = client_module.Request(
        method="PUT",
        repository=repository,
        path=f"manifests/{reference}",
        actions=PUSH,
        headers={"Content-Type": client_module.OCI_MANIFEST},
        body=raw,
    )

    async def take(answer: aiohttp.ClientResponse) -> None:
        stored = answer.headers.get("Docker-Content-Digest", digest)
        if stored != digest:
            why = f"it stored {stored[:80]!r}, not {digest}"
            raise client.words.unusable(request.what, why)

    await client.do(request, take)


async def tags(client: client_module.Client, repository: str) -> list[str]:
    """All tags of a repository; none when the registry has no such repository.

    Raises:
        RegistryError: the registry refused, did not answer, or has too many.
    """
    found: list[str] = []
    path, url = f"tags/list?n={PAGE_TAGS}", None
    for _ in range(MOST_PAGES):
        request = client_module.Request(
            method="GET",
            repository=repository,
            path=path,
            url=url,
            headers={"Accept": "application/json"},
        )
        try:
            page, url = await _page(client, request)
        except errors.RegistryError as err:
            if words.absent(err) and not found:
                return []
            raise
        found += page
        if url is None:
            return found
        if len(found) > MOST_TAGS:
            break
    why = f"it has more than {MOST_TAGS} tags, or more than {MOST_PAGES} pages of them"
    raise client.words.unusable(request.what, why)


async def delete(client: client_module.Client, repository: str, reference: str) -> None:
    """Remove a manifest, by its digest with all its tags; no error when it is not there.

    Raises:
        RegistryError: the registry refused or did not answer.
    """
    request = client_module.Request(
        method="DELETE", repository=repository, path=f"manifests/{reference}", actions=DELETE
    )
    try:
        await client.do(request, _done)
    except errors.RegistryError as err:
        if words.absent(err):
            return
        if err.status == 405 or "UNSUPPORTED" in err.message:
            err.hint = words.NO_DELETION
        raise


async def _done(_answer: aiohttp.ClientResponse) -> None:
    pass


async def _page(
    client: client_module.Client, request: client_module.Request
) -> tuple[list[str], yarl.URL | None]:
    """Tags, and where there are more."""

    async def take(answer: aiohttp.ClientResponse) -> tuple[bytes, yarl.URL | None]:
        raw = await client.session.read(answer, request.what, PAGE_BYTES)
        match = _NEXT.search(", ".join(answer.headers.getall("Link", [])))
        return raw, client.location(answer.url, match[1], request.what) if match else None

    raw, more = await client.do(request, take)
    try:
        return msgspec.json.decode(raw, type=_Page).tags or [], more
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise client.words.unusable(request.what, f"it is no list of tags: {err}") from err
