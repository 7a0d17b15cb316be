"""The store's wrapped keys in a registry: an image manifest under the tag `keys`.

A registry cannot be told to write a tag only when it is new, and all agents of a new release may
want to make the keys at once: two who both believed they had made them would encrypt with different
ones. So whoever finds none writes a second tag, waits, and makes the keys only when that tag is
still his. Looking and writing must take less long than the others wait, or it is not done.
Source: L. Lamport, A fast mutual exclusion algorithm, 1987, section 2 (Fischer's algorithm)
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator

from chrek import errors
from chrek.registry import blobs, manifests, reference, words
from chrek.registry import client as registry
from chrek.remote import keys, layout, ocimanifest

ARTIFACT_TYPE = "application/vnd.chrek.keys.v1+json"
TAG = "keys"
CLAIM = "keys.claim"
"""No tag of an artifact: those have two dots."""
SETTLE_SECONDS = 8.0
"""The wait."""
LONGEST_SECONDS = 4.0
"""So long may looking and writing take; it must be less."""
POLL_SECONDS = 0.5


async def read(client: registry.Client, image: reference.Reference) -> bytes | None:
    """The wrapped keys; None when there are none.

    Args:
        image: any of the repository.

    Raises:
        RegistryError: the registry refused, did not answer, or has something else there.
    """
    found = await _find(client, image, TAG)
    if found is None:
        return None
    return await client.blob(image.repository, found, limit=layout.KEYS_BYTES)


async def write(
    client: registry.Client, image: reference.Reference, data: bytes, *, replace: bool
) -> bool:
    """Store them; without `replace` only when there are none, and False when there are.

    Raises:
        RegistryError: the registry refused or did not answer.
        StoreError: it is too slow, or who was to make them has not.
    """
    one = await blobs.describe(data, ARTIFACT_TYPE)
    raw = ocimanifest.encode(ARTIFACT_TYPE, one, {keys.NAME: one}, {})
    digest = (await blobs.describe(raw)).digest

    async def put(tag: str) -> None:
        await manifests.put(client, image.repository, tag, raw, digest)

    if not replace and await _find(client, image, TAG):
        return False
    await blobs.upload(client, image.repository, data, one.digest)
    if replace:
        await put(TAG)
        return True
    async with _in_time(image):
        if await _find(client, image, TAG):
            return False
        await put(CLAIM)
    await asyncio.sleep(SETTLE_SECONDS)
    async with _in_time(image):
        if await _find(client, image, CLAIM) == one:
            if await _find(client, image, TAG):
                return False
            await put(TAG)
            return True
    await _made_by_another(client, image)
    return False


async def _made_by_another(client: registry.Client, image: reference.Reference) -> None:
    until = time.monotonic() + 2 * SETTLE_SECONDS
    while not await _find(client, image, TAG):
        if time.monotonic() > until:
            raise errors.StoreError(
                f"oci://{image}: another node was to make the store's keys, and has not",
                hint="it is tried again; see the logs of the other agents",
            )
        await asyncio.sleep(POLL_SECONDS)


@contextlib.asynccontextmanager
async def _in_time(image: reference.Reference) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            yield
    except TimeoutError as err:
        raise errors.StoreError(
            f"oci://{image}: the registry took more than {LONGEST_SECONDS:g} s to say whether"
            " the store has keys and to store a new one's tag",
            hint="it is tried again; see why the registry is slow",
        ) from err


async def _find(
    client: registry.Client, image: reference.Reference, tag: str
) -> registry.Descriptor | None:
    """The blob that a tag stands for."""
    tagged = dataclasses.replace(image, tag=tag)
    try:
        found = (await client.manifest(tagged)).manifest.config
    except errors.RegistryError as err:
        if words.absent(err):
            return None
        raise
    if found is None or found.media_type != ARTIFACT_TYPE:
        raise client.words.unusable(f"{image.repository}/manifests/{tag}", "it is not chrek's keys")
    return found
