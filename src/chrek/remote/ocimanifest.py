"""What an artifact is in a registry: an image manifest of the OCI, and its tag.

    <repository>[/ns/<namespace>]:<hash>.<variant>.<uuid>
        config      manifest.json
        layers      chunks.table, places.table, then the packs, in the order of the place table

No name has a dot, so a tag is read back in one way only.

Source: https://github.com/opencontainers/image-spec/blob/v1.1.0/manifest.md
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence

import aiohttp
import msgspec

from chrek import errors, manifest
from chrek.registry import blobs
from chrek.registry import client as registry
from chrek.remote import backend, layout

ARTIFACT_TYPE = "application/vnd.chrek.checkpoint.v1+json"
TYPES: Mapping[backend.Part, str] = {
    backend.Part.MANIFEST: "application/vnd.chrek.manifest.v1+json",
    backend.Part.TABLE: "application/vnd.chrek.chunks.v1",
    backend.Part.PLACES: "application/vnd.chrek.places.v1",
}
"""In their order: the first is the config."""
PACK_TYPE = "application/vnd.chrek.pack.v1"
CREATED = "org.opencontainers.image.created"
TITLE = "org.opencontainers.image.title"
MOST_BYTES = 3 << 20
"""Registries take manifests of 4 MiB; some count more than the text."""
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
LONGEST_TAG = 128

_TAG = re.compile(rf"({layout.HASH.pattern})\.({layout.NAME.pattern})\.({layout.NAME.pattern})")


@dataclasses.dataclass(frozen=True, slots=True)
class Resolved:
    """An artifact's manifest in the registry, without the packs."""

    digest: str
    parts: Mapping[backend.Part, registry.Descriptor]
    created: float
    """Seconds since the epoch; 0 where it does not say."""


def tag(key: backend.Key) -> str:
    """The tag of an artifact.

    Raises:
        InputError: a name is none of the store, or they are too long together.
    """
    made = f"{key.identity_hash}.{key.variant}.{key.uuid}"
    if not _TAG.fullmatch(made) or len(made) > LONGEST_TAG:
        raise errors.InputError(f"{made!r} is not a name in the store")
    return made


def key(namespace: str, tag: str) -> backend.Key | None:
    """The artifact that has a tag; None: it is somebody else's."""
    match = _TAG.fullmatch(tag)
    return backend.Key(namespace, *match.groups()) if match else None


async def descriptors(described: backend.Described) -> list[registry.Descriptor]:
    """Of all blobs of an artifact: the config, then the layers."""
    texts = backend.texts(described)
    return [*[await part(which, texts[which]) for which in TYPES], *packs(described.packs)]


async def part(which: backend.Part, text: bytes) -> registry.Descriptor:
    """Of the blob of a part."""
    return await blobs.describe(text, TYPES[which])


def packs(listed: Sequence[backend.Pack]) -> list[registry.Descriptor]:
    """Of the blobs of packs."""
    return [registry.Descriptor(one.name, one.size, PACK_TYPE) for one in listed]


def artifact(described: Sequence[registry.Descriptor], annotations: Mapping[str, str]) -> bytes:
    """The text of an artifact's manifest.

    Args:
        described: the config, then the layers.
        annotations: the time of creation is added where they have none.

    Raises:
        StoreError: it is too large.
    """
    first, table, places, *packs = described
    layers = {str(backend.Part.TABLE): table, str(backend.Part.PLACES): places}
    layers |= {f"{number:05}.pack": one for number, one in enumerate(packs)}
    raw = encode(ARTIFACT_TYPE, first, layers, annotations)
    if len(raw) > MOST_BYTES:
        raise errors.StoreError(
            f"an artifact of {len(packs)} packs has a manifest in the registry of {len(raw)} bytes:"
            f" more than {MOST_BYTES}, which not every registry takes",
            hint="use a store of type s3 or pvc for workers so large",
        )
    return raw


def encode(
    artifact_type: str,
    first: registry.Descriptor,
    layers: Mapping[str, registry.Descriptor],
    annotations: Mapping[str, str],
) -> bytes:
    """The text of a manifest.

    Args:
        artifact_type: what it is.
        first: the config.
        layers: by the names of the files to which tools write them.
        annotations: the time of creation is added where they have none.
    """
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": registry.OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": _described(first),
            "layers": [
                {**_described(one), "annotations": {TITLE: name}} for name, one in layers.items()
            ],
            "annotations": {CREATED: now, **annotations},
        }
    )


def decode(answer: registry.Answer, where: str) -> Resolved:
    """What a manifest in the registry, which may be anything, says.

    Args:
        answer: what the registry sent.
        where: it is, for messages.

    Raises:
        ArtifactError: it is not that of an artifact.
    """
    found = answer.manifest
    described = [found.config, *found.layers[: len(TYPES) - 1]]
    described += [None] * (len(TYPES) - len(described))
    parts: dict[backend.Part, registry.Descriptor] = {}
    for (part, media_type), one in zip(TYPES.items(), described, strict=True):
        if (
            one is None
            or one.media_type != media_type
            or not DIGEST.fullmatch(one.digest)
            or not 0 <= one.size <= manifest.MAX_BYTES
        ):
            raise errors.ArtifactError(
                f"{where}: it has no usable {part}",
                hint="something else than chrek wrote it, or a later version",
            )
        parts[part] = one
    return Resolved(answer.digest, parts, _seconds((found.annotations or {}).get(CREATED, "")))


async def blob(client: registry.Client, repository: str, one: registry.Descriptor) -> bytes:
    """What is stored as a part, which may be anything; at most a byte more than it should have.

    Raises:
        RegistryError: the registry refused or did not answer.
    """
    request = registry.Request(
        method="GET",
        repository=repository,
        path=f"blobs/{one.digest}",
        headers={"Accept": "*/*"},
        more_bytes=one.size,
    )

    async def take(answer: aiohttp.ClientResponse) -> bytes:
        found = bytearray()
        async for piece in answer.content.iter_any():
            found += piece
            if len(found) > one.size:
                break  # However much more would come.
        return bytes(found[: one.size + 1])

    return await client.do(request, take)


def _described(one: registry.Descriptor) -> dict[str, object]:
    return {"mediaType": one.media_type, "digest": one.digest, "size": one.size}


def _seconds(created: str) -> float:
    try:
        then = datetime.datetime.fromisoformat(created)
        return then.replace(tzinfo=then.tzinfo or datetime.UTC).timestamp()
    except (ValueError, OverflowError):
        return 0.0
