"""Artifacts on a server, behind the same interface as those on a volume.

A capture fills a stage in the node's cache; commit uploads it, and it stays as this node's copy. A
restore finds the artifact in the cache, or fetches it into it first. What the cache has from an
agent before this one is compared with its manifest once, before anything is restored from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator

from chrek import errors, log, manifest, removal, verification
from chrek import store as stores
from chrek.remote import backend, fetch, index, upkeep, upload, usage
from chrek.remote import cache as caches
from chrek.remote import server as servers

LOG = log.get(__name__)
OPEN_SECONDS = 10.0
"""For a manifest: a pod waits for the decision."""
QUICK_SECONDS = 30.0
"""For what is small: a listing, a deletion."""


@dataclasses.dataclass(frozen=True)
class Known:
    """What a process has found out."""

    intact: set[str] = dataclasses.field(default_factory=set)
    """uuids of what is in the cache and was compared with its manifest."""
    usage: dict[str, usage.Known] = dataclasses.field(default_factory=dict)
    """By namespace."""


class Store:
    """The artifacts of one namespace."""

    def __init__(
        self,
        server: servers.Server,
        cache: caches.Cache,
        location: Callable[[str, str], str],
        namespace: str,
        *,
        transfer_seconds: float,
        known: Known,
        on_transfer: Callable[[str, int, float], None] = lambda *_: None,
        on_bytes: Callable[[str, int], None] = lambda *_: None,
    ) -> None:
        """Describe; nothing is read yet.

        Args:
            location: namespace and identity hash -> URI.
            namespace: empty for the release's own.
            transfer_seconds: the longest time for an upload or a download.
            known: shared by the stores of a process.
            on_transfer: told of each: `up` or `down`, bytes, seconds.
            on_bytes: told meanwhile: `up` or `down`, how many bytes more.
        """
        self._server = server
        self._cache = cache
        self._location = location
        self._namespace = namespace
        self._seconds = transfer_seconds
        self._local = cache.store(namespace)
        self._intact = known.intact
        self._upkeep = upkeep.Upkeep(server, namespace, known.usage.setdefault(namespace, {}))
        self._on_transfer = on_transfer
        self._on_bytes = on_bytes

    @property
    def base(self) -> pathlib.Path:
        """The cache, where stages are filled."""
        return self._cache.path

    def location(self, identity_hash: str) -> str:
        """What the status of a DynamoCheckpoint calls Location."""
        self._local.location(identity_hash)
        return self._location(self._namespace, identity_hash)

    def make_room(self, needed_bytes: int) -> None:
        """Evict artifacts from the cache.

        Raises:
            StoreError: reason NotEnoughSpace.
        """
        self._cache.make_room(needed_bytes)

    def stage(self, identity_hash: str, variant: str, uuid: str = "") -> stores.Stage:
        """Make a new, empty generation directory in the cache."""
        return self._local.stage(identity_hash, variant, uuid)

    def commit(self, stage: stores.Stage, described: manifest.Manifest) -> str:
        """Upload the stage and make the artifact exist.

        Returns:
            The manifest's digest.

        Raises:
            StoreError: the server failed; there is no such artifact.
        """
        return self.commit_text(stage, manifest.encode(described))

    def commit_text(self, stage: stores.Stage, data: bytes) -> str:
        """As `commit`, of a manifest that is encoded already: it is stored byte for byte."""
        described = manifest.decode(data)
        key = self._key(described.identityHash, described.variant, described.uuid)
        self._local.check_new(stage)
        begin = time.monotonic()
        tell = functools.partial(self._on_bytes, "up")
        with self._cache.using(key):
            done = self._server.run(
                lambda one, sealer: upload.upload(
                    one, sealer, key, stage.path, data, on_bytes=tell
                ),
                timeout_seconds=self._seconds,
                fresh=True,
            )
            LOG.info(
                "uploaded",
                uuid=described.uuid,
                bytes=described.bytes,
                sent_bytes=done.sent_bytes,
                packs=done.packs,
                chunks=done.chunks,
                known_chunks=done.known_chunks,
                seconds=round(time.monotonic() - begin, 3),
            )
            self._on_transfer("up", done.sent_bytes, time.monotonic() - begin)
            try:
                self._local.commit_text(stage, data)
                self._intact.add(described.uuid)
            except errors.StoreError as err:
                # The artifact exists; this node has to fetch it like any other.
                LOG.warning("not kept in the cache", uuid=described.uuid, error=str(err))
                self._local.discard(stage)
        return manifest.digest(data)

    def open(self, identity_hash: str, variant: str, uuid: str, digest: str) -> stores.Artifact:
        """Find a committed artifact, in the cache or on the server.

        Raises:
            ArtifactError: missing, or its manifest is not the one that was committed.
            StoreError: the server cannot be reached.
        """
        parts = (identity_hash, variant, uuid)
        key = self._key(*parts)
        with contextlib.suppress(errors.ArtifactError, errors.StoreError):
            return self._local.open(*parts, digest)
        path = pathlib.Path(self._local.location(identity_hash)) / variant / uuid
        data = self._text(key)
        described = manifest.decode(data, expected_digest=digest)
        if (described.identityHash, described.variant, described.uuid) != parts:
            raise errors.ArtifactError(f"{path}: the manifest is that of another artifact")
        return stores.Artifact(path=path, manifest=described, text=data)

    def _text(self, key: backend.Key) -> bytes:
        """The manifest, as it is on the server."""
        return self._server.run(
            lambda one, sealer: index.part(one, sealer, key, backend.Part.MANIFEST),
            timeout_seconds=OPEN_SECONDS,
        )

    def stored_digest(self, identity_hash: str, variant: str, uuid: str) -> str:
        """Digest of the manifest on the server, for those who have no status that names it.

        Raises:
            ArtifactError: there is none. StoreError: the server failed.
        """
        return manifest.digest(self._text(self._key(identity_hash, variant, uuid)))

    def artifacts(self, identity_hash: str = "") -> list[stores.ArtifactPath]:
        """Artifacts on the server, of one identity or of all, in the order of their names.

        Raises:
            StoreError: the server failed.
        """
        if identity_hash:
            stores.check_names(identity_hash)
        found = self._entries(identity_hash)
        return sorted((e.key.identity_hash, e.key.variant, e.key.uuid) for e in found)

    @contextlib.contextmanager
    def fetched(self, artifact: stores.Artifact) -> Iterator[stores.Artifact]:
        """While inside, the artifact is in the cache and stays there.

        Whoever finds it damaged raises that out of here, and the next one looks at it anew.

        Raises:
            ArtifactError: missing or damaged on the server. StoreError: the server or the disk.
        """
        with self.arriving(artifact) as rest:
            if rest:
                rest()
            yield artifact

    @contextlib.contextmanager
    def arriving(self, artifact: stores.Artifact) -> Iterator[Callable[[], None] | None]:
        """As `fetched`, but page files are there only after what it gives was called, if it does.

        Whoever leaves without having called that gives up what has not arrived.
        """
        described = artifact.manifest
        key = self._key(described.identityHash, described.variant, described.uuid)
        with self._cache.using(key), contextlib.ExitStack() as turn:
            turn.enter_context(self._cache.alone(key))
            if self._have(key, artifact):
                turn.close()
                self._cache.touch(key)
                rest = None
            else:
                rest = self._fetch(key, artifact, turn)
            try:
                yield rest
            except errors.ArtifactError:
                self._intact.discard(key.uuid)
                raise

    def _fetch(
        self, key: backend.Key, artifact: stores.Artifact, turn: contextlib.ExitStack
    ) -> Callable[[], None]:
        """Begin, and wait for all but the page files."""
        one = fetch.Fetch(
            *(self._server, self._cache, key, artifact),
            timeout_seconds=self._seconds,
            on_transfer=self._on_transfer,
            on_bytes=functools.partial(self._on_bytes, "down"),
        )
        turn.callback(one.close)
        one.first()

        def rest() -> None:
            one.end()
            self._intact.add(key.uuid)
            turn.close()

        return rest

    def _have(self, key: backend.Key, artifact: stores.Artifact) -> bool:
        """Whether the cache has it, undamaged."""
        try:
            there = self._local.stored_digest(key.identity_hash, key.variant, key.uuid)
        except (errors.ArtifactError, errors.StoreError):
            self._intact.discard(key.uuid)
            return False
        try:
            if there != manifest.digest(fetch.text(artifact)):
                raise errors.ArtifactError("another manifest is there")
            if key.uuid not in self._intact:
                verification.whole(artifact)
        except (errors.ArtifactError, errors.StoreError) as err:
            LOG.warning("damaged in the cache", uuid=key.uuid, error=str(err))
            self._intact.discard(key.uuid)
            self._cache.drop(key)
            return False
        self._intact.add(key.uuid)
        return True

    def discard(self, stage: stores.Stage) -> None:
        """Remove a stage that was not committed."""
        self._local.discard(stage)

    def empty(self, identity_hash: str) -> bool:
        """Whether nothing of an identity is left on the server.

        Raises:
            StoreError: the server failed.
        """
        stores.check_names(identity_hash)
        return not self._entries(identity_hash)

    def _entries(self, identity_hash: str = "") -> list[backend.Entry]:
        return self._server.run(
            lambda one, _: one.entries(self._namespace, identity_hash),
            timeout_seconds=QUICK_SECONDS,
        )

    def delete(
        self,
        identity_hash: str,
        variant: str = "",
        uuid: str = "",
        *,
        stage_seconds: float,
        on_deleted: Callable[[removal.Deleted], None] = lambda _: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Remove an identity's artifacts, one variant's, or one; then packs that nobody needs.

        Raises:
            InputError: a name is none of the store.
            StoreError: the server failed.
        """
        stores.check_names(identity_hash, variant, uuid)
        if self.base.exists():
            self._local.delete(
                identity_hash, variant, uuid, stage_seconds=stage_seconds, stopped=stopped
            )
        found = self._entries(identity_hash)
        for entry in found:
            key = entry.key
            if variant not in ("", key.variant) or uuid not in ("", key.uuid):
                continue
            if stopped():
                return
            size = self._bytes(key)
            self._remove(key)
            path = f"{key.identity_hash}/{key.variant}/{key.uuid}"
            on_deleted(removal.Deleted(path=path, bytes=size))
        if found:
            self._upkeep.after_deletions(writer_seconds=stage_seconds)

    def _remove(self, key: backend.Key) -> None:
        self._server.run(lambda one, _: one.delete(key), timeout_seconds=QUICK_SECONDS)

    def _bytes(self, key: backend.Key) -> int:
        """What an artifact holds; 0 when it does not say."""
        with contextlib.suppress(errors.ChrekError):
            return manifest.decode(self._text(key)).bytes
        return 0

    def sweep(self, *, older_than_seconds: float) -> int:
        """Remove abandoned stages, copies of what was deleted, and packs that nobody needs."""
        removed = self._local.sweep(older_than_seconds=older_than_seconds)
        try:
            removed += self._forget_deleted()
            removed += self._upkeep.after_a_while(writer_seconds=older_than_seconds)
        except errors.ChrekError as err:
            LOG.warning("not swept", namespace=self._namespace, error=str(err))
        return removed

    def _forget_deleted(self) -> int:
        kept = [one for one in self._cache.kept() if one.key.namespace == self._namespace]
        if not kept:
            return 0
        there = {entry.key for entry in self._entries()}
        gone = [one.key for one in kept if one.key not in there and not self._cache.used(one.key)]
        for key in gone:
            self._cache.drop(key)
        return len(gone)

    def _key(self, identity_hash: str, variant: str, uuid: str) -> backend.Key:
        stores.check_path(identity_hash, variant, uuid)
        return backend.Key(self._namespace, identity_hash, variant, uuid)
