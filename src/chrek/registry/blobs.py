"""Blobs of a repository: written from memory, read in part.

A blob is there when the registry has taken all of it and its digest is the one that was told.
An upload that breaks off leaves at most a session, which the registry forgets after its own time.
Source: https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#push
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import urllib.parse

import aiohttp
import yarl

from chrek import errors, log
from chrek import retries as retries_module
from chrek.registry import client as client_module

LOG = log.get(__name__)
PUSH = ("pull", "push")
LOST = (404, 416)
"""What a registry says of an upload session that it does not know (any more)."""
REFUSED_MOUNT = (400, 401, 403, 404, 405)
THREAD_BYTES = 1 << 20
"""Digests of more are computed on a thread."""
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


async def describe(data: bytes | memoryview, media_type: str = "") -> client_module.Descriptor:
    """The descriptor of a blob, with its SHA-256."""
    size = memoryview(data).nbytes
    if size > THREAD_BYTES:
        digest = (await asyncio.to_thread(hashlib.sha256, data)).hexdigest()
    else:
        digest = hashlib.sha256(data).hexdigest()
    return client_module.Descriptor(f"sha256:{digest}", size, media_type)


async def upload(
    client: client_module.Client,
    repository: str,
    data: bytes | memoryview,
    digest: str,
    *,
    mount_from: str = "",
    look_first: bool = True,
) -> bool:
    """Store a blob, unless it is there; whatever breaks an upload begins it again.

    Args:
        digest: of `data`.
        mount_from: a repository of the same registry that may have it: then it is not sent.
        look_first: false sends it even if it is there.

    Returns:
        Whether it was not there.

    Raises:
        RegistryError: the registry refused or did not answer.
    """
    retries = client.retries()
    while True:
        again: tuple[int, ...] = ()
        try:
            if look_first and await client.once(_look(repository, digest), _found):
                return False
            where = await _begin(client, repository, digest, mount_from)
            if where is None:
                return True
            again = LOST
            await _finish(client, repository, data, digest, where)
            return True
        except errors.RegistryError as err:
            await retries.again(err, again)
            retries_module.count("PUT")


async def read(
    client: client_module.Client, repository: str, digest: str, offset: int, size: int
) -> bytes:
    """Exactly `size` bytes of a blob, from `offset`; they are not verified.

    A server that does not read by range sends the whole blob: what comes before is passed over,
    and a line in the log says so once.

    Raises:
        RegistryError: the registry refused or did not answer; status 416 when the blob is shorter.
    """
    if not size:
        return b""
    last = offset + size - 1
    request = client_module.Request(
        method="GET",
        repository=repository,
        path=f"blobs/{digest}",
        headers={"Accept": "*/*", "Range": f"bytes={offset}-{last}"},
        more_bytes=last + 1,
    )

    async def take(answer: aiohttp.ClientResponse) -> bytes:
        if answer.status == 206:
            _check_range(client, request.what, answer, offset, last)
        elif client.session.reads_ranges:
            client.session.reads_ranges = False
            LOG.warning("the registry does not read by range: reads are slow", path=request.what)
        skip = 0 if answer.status == 206 else offset
        found = await _exactly(answer, skip, size)
        if len(found) < size:
            why = f"it ends before byte {last}"
            raise client.words.unusable(request.what, why, status=416)
        return found

    return await client.do(request, take)


def _check_range(
    client: client_module.Client,
    what: str,
    answer: aiohttp.ClientResponse,
    offset: int,
    last: int,
) -> None:
    """See that what comes starts at `offset` and ends at `last`, or with the blob."""
    said = answer.headers.get("Content-Range", "")
    match = _RANGE.fullmatch(said)
    most = last if not match or match[3] == "*" else min(last, int(match[3]) - 1)
    if not match or int(match[1]) != offset or int(match[2]) != most:
        why = f"it sent {said[:64]!r} when asked for bytes {offset}-{last}"
        raise client.words.unusable(what, why)


async def _exactly(answer: aiohttp.ClientResponse, skip: int, size: int) -> bytes:
    """At most `size` bytes behind the first `skip`; fewer where the body ends."""
    parts: list[bytes] = []
    async for chunk in answer.content.iter_any():
        part = chunk[skip : skip + size]
        skip -= min(skip, len(chunk))
        size -= len(part)
        parts.append(part)
        if not size:
            break  # The rest of a whole blob is not waited for: its connection ends.
    return b"".join(parts)


def _look(repository: str, digest: str) -> client_module.Request:
    return client_module.Request(
        method="HEAD", repository=repository, path=f"blobs/{digest}", actions=PUSH, answers=(404,)
    )


async def _found(answer: aiohttp.ClientResponse) -> bool:
    return answer.status != 404


async def _begin(
    client: client_module.Client, repository: str, digest: str, mount_from: str
) -> yarl.URL | None:
    """Where to send the blob; None when it need not be sent."""
    path = "blobs/uploads/"
    if mount_from:
        query = urllib.parse.urlencode({"mount": digest, "from": mount_from})
        try:
            return await _session(client, repository, f"{path}?{query}", mount_from)
        except errors.RegistryError as err:
            # Who may push here may perhaps not pull there.
            if err.status not in REFUSED_MOUNT:
                raise
    return await _session(client, repository, path)


async def _session(
    client: client_module.Client, repository: str, path: str, source: str = ""
) -> yarl.URL | None:
    request = client_module.Request(
        method="POST", repository=repository, path=path, actions=PUSH, source=source
    )

    async def take(answer: aiohttp.ClientResponse) -> yarl.URL | None:
        if answer.status == 201:
            return None
        target = answer.headers.get("Location", "")
        if answer.status != 202 or not target:
            why = f"it answered {answer.status} and does not say where to send the blob"
            raise client.words.unusable(request.what, why)
        return client.location(answer.url, target, request.what)

    return await client.once(request, take)


async def _finish(
    client: client_module.Client,
    repository: str,
    data: bytes | memoryview,
    digest: str,
    where: yarl.URL,
) -> None:
    # The state that a registry puts into the URL is left as it is: it may be signed.
    separator = "&" if where.raw_query_string else "?"
    whole = f"{where}{separator}digest={urllib.parse.quote(digest, safe='')}"
    request = client_module.Request(
        method="PUT",
        repository=repository,
        path="blobs/uploads",
        url=yarl.URL(whole, encoded=True),
        actions=PUSH,
        body=data,
    )

    async def take(answer: aiohttp.ClientResponse) -> None:
        stored = answer.headers.get("Docker-Content-Digest", digest)
        if answer.status != 201 or stored != digest:
            why = f"it answered {answer.status} and stored {stored[:80]!r}, not {digest}"
            raise client.words.unusable(request.what, why)

    await client.once(request, take)
