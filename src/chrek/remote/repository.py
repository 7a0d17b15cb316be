"""A store in a repository of a container registry.

One artifact is one image manifest under a tag of its own (`ocimanifest`), in `<repository>`, or in
`<repository>/ns/<namespace>` for namespaces other than the release's. What a tag names is replaced
only when the artifact's chunks are in other packs.

A registry removes blobs that no manifest refers to, by a collection of its own. So packs are not
listed and not deleted here, and nobody says that he makes an artifact. A collection that runs
meanwhile may take packs before the manifest is there; then the commit fails, and says why.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import NoReturn

from chrek import config, errors, log, names
from chrek.registry import blobs, keyring, manifests, reference, words
from chrek.registry import client as registry
from chrek.remote import backend, layout, ocikeys, ocimanifest, ociwords, uri

LOG = log.get(__name__)
PACK_BYTES = 64 << 20
MOST_PACK_BYTES = 256 << 20
PATIENCE = registry.Patience(attempts=30, seconds=120.0)
CHECK_PATIENCE = registry.Patience(attempts=5, seconds=20.0)
"""Of what is done before anything else, when somebody waits to be told what is wrong."""
RESOLVED = 1024
"""So many artifacts' descriptors are remembered, less than 1 KiB each."""
AT_ONCE = 8
"""Manifests that are read side by side for a listing."""
PROBE = b"chrek: may this repository be written and read?\n"


class Repository:
    """See the module; implements `backend.Backend`."""

    pack_bytes = PACK_BYTES
    collects = True

    def __init__(self, settings: config.Oci) -> None:
        """Prepare; nothing is asked yet.

        Raises:
            ConfigError: the settings cannot be used.
        """
        place = uri.repository_place(settings.uri)
        name = reference.HUB if place.registry in reference.HUB_ALIASES else place.registry
        self._image = reference.Reference(name, place.repository)
        self._keyring = keyring.Mounted(
            pathlib.Path(settings.credentialsPath) if settings.credentialsPath else None,
            source=f"the Secret of {ociwords.SECRET}",
        )
        self._user: keyring.Credential | None = None
        self._registry = registry.Client(
            name,
            plain_http=settings.plainHttp,
            ca_bundle=pathlib.Path(settings.caBundlePath) if settings.caBundlePath else None,
            patience=PATIENCE,
            hints=ociwords.HINTS,
        )
        self._resolved: collections.OrderedDict[backend.Key, ocimanifest.Resolved] = (
            collections.OrderedDict()
        )

    async def check(self) -> None:
        """See that this repository can be written and read; that it cannot be deleted from is told.

        What is left behind is the same each time: one blob, which the registry may collect, and
        where deletions are disabled one manifest without a tag.

        Raises:
            StoreError: it cannot be written or read.
        """
        repository = self._image.repository
        one = await blobs.describe(PROBE, ocimanifest.TYPES[backend.Part.MANIFEST])
        raw = ocimanifest.artifact([one] * 3, {ocimanifest.CREATED: "1970-01-01T00:00:00Z"})
        digest = (await blobs.describe(raw)).digest
        with self._told(patience=CHECK_PATIENCE) as client:
            await blobs.upload(client, repository, PROBE, one.digest, look_first=False)
            if await blobs.read(client, repository, one.digest, 7, 4) != PROBE[7:11]:
                raise client.words.unusable(f"{repository}/blobs", "it sends other bytes")
            await manifests.put(client, repository, digest, raw, digest)
            try:
                await manifests.delete(client, repository, digest)
            except errors.RegistryError as err:
                LOG.warning("the registry does not delete: artifacts stay there", error=str(err))

    async def begin(self, key: backend.Key) -> None:
        """Nothing: the registry collects."""

    async def end(self, key: backend.Key) -> None:
        """Nothing: the registry collects."""

    async def writers(self, namespace: str) -> list[backend.Writer]:
        """Nobody."""
        return []

    async def put_pack(self, namespace: str, data: bytes | memoryview) -> backend.Pack:
        """Store a pack, unless it is there or in the release's own repository.

        `Pack.modified` of one that was there is the time at which it was seen.
        """
        size = memoryview(data).nbytes
        if not 0 < size <= MOST_PACK_BYTES:
            raise errors.InputError(f"a pack of {size} bytes, not of 1 to {MOST_PACK_BYTES}")
        one = await blobs.describe(data)
        own = self._image.repository if namespace else ""
        with self._told() as client:
            sent = await blobs.upload(
                client, self._repository(namespace), data, one.digest, mount_from=own
            )
        return backend.Pack(one.digest, one.size, 0.0 if sent else time.time())

    async def read_pack(self, namespace: str, name: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes of a pack, from `offset`.

        Raises:
            ArtifactError: the pack is not there, or shorter.
        """
        if not ocimanifest.DIGEST.fullmatch(name) or min(offset, size) < 0:
            raise errors.ArtifactError(
                f"{size} bytes from {offset} of a pack called {name[:80]!r} cannot be read",
                hint="the artifact is damaged: make the checkpoint again",
            )
        with self._told(missing=f"pack {name}") as client:
            return await blobs.read(client, self._repository(namespace), name, offset, size)

    async def commit(self, key: backend.Key, described: backend.Described) -> None:
        """Make the artifact exist.

        A registry cannot be told to write a tag only when it is new. So the tag is looked at
        first; between that and the writing another may come. Uuids are random: nobody else writes
        this tag. The same artifact once more is no error, so a commit whose answer was lost is
        repeated.

        Raises:
            StoreError: also when the tag names something else.
        """
        listed = await ocimanifest.descriptors(described)
        raw = ocimanifest.artifact(listed, described.annotations)
        texts = backend.texts(described)
        image = self._tagged(key)
        with self._told() as client:
            there: list[registry.Descriptor | None] = []
            with _absent():
                found = (await client.manifest(image)).manifest
                there = [found.config, *found.layers]
            if there == listed:
                return
            if there:
                raise errors.StoreError(
                    f"oci://{image}: there is something else of that name already",
                    hint="an artifact is never replaced: capture again, under a new name",
                )
            for part, one in zip(ocimanifest.TYPES, listed, strict=False):
                await blobs.upload(client, image.repository, texts[part], one.digest)
            digest = (await blobs.describe(raw)).digest
            await manifests.put(client, image.repository, image.tag, raw, digest)

    async def replace(
        self,
        key: backend.Key,
        parts: Mapping[backend.Part, bytes],
        packs: Sequence[backend.Pack],
    ) -> None:
        """See `backend.Backend`; all parts are exchanged at once.

        A registry cannot be told to write a tag only while it names what it did, so of two who do
        this at the same moment one may not be told. What the other wrote is then without a tag.
        """
        image = self._tagged(key)
        with self._told(missing=f"artifact oci://{image}") as client:
            answer = await client.manifest(image)
            old = ocimanifest.decode(answer, f"oci://{image}")
            made = {part: await ocimanifest.part(part, text) for part, text in parts.items()}
            for part, text in parts.items():
                await blobs.upload(client, image.repository, text, made[part].digest)
            listed = [*({**old.parts, **made}).values(), *ocimanifest.packs(packs)]
            raw = ocimanifest.artifact(listed, answer.manifest.annotations or {})
            digest = (await blobs.describe(raw)).digest
            if (await client.manifest(image)).digest != answer.digest:
                raise client.words.unusable(
                    f"{image.repository}/manifests/{image.tag}", "somebody else has written it"
                )
            await manifests.put(client, image.repository, image.tag, raw, digest)
            self._resolved.pop(key, None)
            if digest != answer.digest:
                # Without a tag it would keep the packs that it names.
                with _absent():
                    await manifests.delete(client, image.repository, answer.digest)

    async def read(self, key: backend.Key, part: backend.Part) -> bytes:
        """A part of a committed artifact, as the digest in the registry's manifest says.

        Whether there is the artifact is asked with `MANIFEST`, and remembered for the rest: of what
        another one deletes meanwhile, that may be read until the registry has collected it.

        Raises:
            ArtifactError: it is not there, or something else is.
        """
        if part == backend.Part.MANIFEST:
            self._resolved.pop(key, None)
        what = f"{part} of oci://{self._tagged(key)}"
        one = (await self._resolve(key)).parts[part]
        try:
            with self._told(missing=what) as client:
                found = await ocimanifest.blob(client, self._repository(key.namespace), one)
        except errors.ArtifactError:
            self._resolved.pop(key, None)
            raise
        if (await blobs.describe(found)).digest != one.digest:
            self._resolved.pop(key, None)
            first = part == backend.Part.MANIFEST
            raise errors.ArtifactError(
                f"{what}: what the registry has is not {one.digest}",
                reason=names.Reason.DIGEST_MISMATCH if first else None,
                hint="the artifact is damaged: make the checkpoint again",
            )
        return found

    async def entries(self, namespace: str, identity_hash: str = "") -> list[backend.Entry]:
        """Committed artifacts, newest first.

        A list of tags has no dates. `modified` is the annotation `created` instead, by the clock
        of the node that captured; it costs one request for each artifact, once. Tags that name
        nothing are left out; so is, with a line in the log, what is no artifact.
        """
        with self._told() as client:
            tags = await manifests.tags(client, self._repository(namespace))
        keys = {
            key: None
            for tag in tags
            if (key := ocimanifest.key(namespace, tag)) and identity_hash in ("", key.identity_hash)
        }
        slots = asyncio.Semaphore(AT_ONCE)
        found: list[backend.Entry] = []

        async def look(key: backend.Key) -> None:
            async with slots:
                try:
                    one = await self._resolve(key)
                except errors.ArtifactError as err:
                    if err.reason != names.Reason.ARTIFACT_MISSING:
                        LOG.warning("a tag names no artifact", error=str(err))
                    return
            found.append(backend.Entry(key, one.created))

        await _together([look(key) for key in keys])
        return sorted(found, key=lambda entry: (entry.modified, entry.key), reverse=True)

    async def delete(self, key: backend.Key) -> None:
        """Remove an artifact's manifest; its packs go when the registry collects.

        Raises:
            StoreError: also when the registry does not delete.
        """
        image = self._tagged(key)
        with self._told() as client, _absent():
            digest = (await client.manifest(image)).digest
            try:
                await manifests.delete(client, image.repository, digest)
            except errors.RegistryError as err:
                if err.status != 400:
                    raise
                # Some registries want a manifest's tags to go first.
                await manifests.delete(client, image.repository, image.tag)
                await manifests.delete(client, image.repository, digest)
        self._resolved.pop(key, None)

    async def packs(self, namespace: str) -> list[backend.Pack]:
        """None: the registry collects."""
        return []

    async def delete_pack(self, namespace: str, name: str) -> None:
        """Nothing: the registry collects."""

    async def namespaces(self) -> list[str]:
        """None: a registry need not list repositories."""
        return []

    async def read_keys(self) -> bytes | None:
        with self._told(patience=CHECK_PATIENCE) as client:
            return await ocikeys.read(client, self._image)

    async def write_keys(self, data: bytes, *, replace: bool = False) -> bool:
        with self._told() as client:
            return await ocikeys.write(client, self._image, data, replace=replace)

    async def close(self) -> None:
        """End connections."""
        await self._registry.session.close()

    async def _resolve(self, key: backend.Key) -> ocimanifest.Resolved:
        known = self._resolved.get(key)
        if known is None:
            image = self._tagged(key)
            with self._told(missing=f"artifact oci://{image}") as client:
                answer = await client.manifest(image)
            known = ocimanifest.decode(answer, f"oci://{image}")
            self._resolved[key] = known
        self._resolved.move_to_end(key)
        while len(self._resolved) > RESOLVED:
            self._resolved.popitem(last=False)
        return known

    def _repository(self, namespace: str) -> str:
        if not namespace:
            return self._image.repository
        if not layout.NAMESPACE.fullmatch(namespace):
            raise errors.InputError(f"{namespace!r} is not a name in the store")
        return f"{self._image.repository}/ns/{namespace}"

    def _tagged(self, key: backend.Key) -> reference.Reference:
        repository = self._repository(key.namespace)
        return dataclasses.replace(self._image, repository=repository, tag=ocimanifest.tag(key))

    @contextlib.contextmanager
    def _told(
        self, *, missing: str = "", patience: registry.Patience | None = None
    ) -> Iterator[registry.Client]:
        """The client; what goes wrong with it is told as the store's error.

        Args:
            missing: what is not there when the registry says so; empty when it is no part of an
                artifact.
            patience: other than usual.
        """
        try:
            self._user = self._keyring.credential(self._image)
            self._registry.use(self._user)
            self._registry.session.start()
            yield self._registry if patience is None else self._registry.within(patience)
        except errors.RegistryError as err:
            self._raise(err, missing)
        except errors.ConfigError as err:
            raise errors.StoreError(err.message, hint=err.hint) from err

    def _raise(self, err: errors.RegistryError, missing: str) -> NoReturn:
        if missing and words.absent(err):
            raise errors.ArtifactError(
                f"{missing} is not there: {err.message}",
                reason=names.Reason.ARTIFACT_MISSING,
                hint="it was deleted: make the checkpoint again",
            ) from err
        if missing and err.status == 416:
            raise errors.ArtifactError(
                err.message, hint="the artifact is damaged: make the checkpoint again"
            ) from err
        hint = self._unproven() if err.status == 401 else err.hint
        reason = names.Reason.STORE_FAILED
        if err.denied:
            reason = names.Reason.STORE_DENIED
        elif not err.status and err.retryable:
            reason = names.Reason.STORE_UNREACHABLE
        failed = errors.StoreError(err.message, hint=hint, reason=reason)
        failed.retryable = err.retryable and err.status in registry.AGAIN
        raise failed from err

    def _unproven(self) -> str:
        """What to do when the registry does not take who asks."""
        if not self._keyring.mounted:
            return f"it wants to know who asks: name a Secret with a user in {ociwords.SECRET}"
        if self._user is None:
            where = f"{self._image.registry}/{self._image.repository}"
            return f"the Secret of {ociwords.SECRET} has no entry for {where}"
        return (
            f"are user and password in the Secret of {ociwords.SECRET} right and not expired,"
            " and may the user push here?"
        )


@contextlib.contextmanager
def _absent() -> Iterator[None]:
    """End without an error where the registry says that it has no such thing."""
    try:
        yield
    except errors.RegistryError as err:
        if not words.absent(err):
            raise


async def _together(work: Sequence[Coroutine[None, None, None]]) -> None:
    """Run side by side; when one fails, the others are ended."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
