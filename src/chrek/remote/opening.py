"""The server that the configuration names, with the node's cache and the store's keys."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable, Sequence

from chrek import config, errors
from chrek.remote import (
    backend,
    bucket,
    cache,
    heap,
    keys,
    rekey,
    repository,
    seal,
    server,
    storekeys,
    uri,
)
from chrek.remote import store as remote

CHECK_SECONDS = 60.0


class Remote:
    """One server, and the stores of all namespaces on it."""

    def __init__(
        self,
        settings: config.Storage,
        *,
        transfer_seconds: float,
        on_transfer: Callable[[str, int, float], None],
        on_bytes: Callable[[str, int], None],
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            settings: `type` is not `pvc`.
            transfer_seconds: the longest time for an upload or a download.
            on_transfer: told of each: `up` or `down`, bytes, seconds.
            on_bytes: told meanwhile: `up` or `down`, how many bytes more.

        Raises:
            ConfigError: the URI cannot be used.
        """
        if settings.type == "s3":
            uri.bucket_place(settings.s3)
        else:
            uri.repository_place(settings.oci.uri)
        heap.keep_small()
        self._settings = settings
        self._seconds = transfer_seconds
        self._on_transfer = on_transfer
        self._on_bytes = on_bytes
        self._cache = cache.Cache(pathlib.Path(settings.cache.path), settings.cache.sizeBytes)
        self._server = server.Server(
            functools.partial(_backend, settings), functools.partial(_unlock, settings.encryption)
        )
        self._known = remote.Known()

    def store(self, namespace: str) -> remote.Store:
        """The store of a namespace, which is empty for the release's own."""
        return remote.Store(
            *(self._server, self._cache, self._location, namespace),
            transfer_seconds=self._seconds,
            known=self._known,
            on_transfer=self._on_transfer,
            on_bytes=self._on_bytes,
        )

    def cache_bytes(self) -> int:
        """What this node's cache holds."""
        return sum(one.bytes for one in self._cache.kept())

    def _location(self, namespace: str, identity_hash: str) -> str:
        return f"{self._settings.base(namespace)}/{identity_hash}"

    def check(self) -> None:
        """See that the server takes, gives and removes objects, and that the cache can be written.

        Raises:
            StoreError, ConfigError: says what is wrong.
        """
        self._server.run(lambda one, _: one.check(), timeout_seconds=CHECK_SECONDS)
        self._cache.make_room(0)
        if not os.access(self._cache.path, os.W_OK):
            raise errors.StoreError(
                f"the cache {self._cache.path} cannot be written",
                hint="check storage.cache.hostPath on this node",
            )

    def rekey(
        self, namespaces: Sequence[str], *, writer_seconds: float, report: Callable[[str], None]
    ) -> None:
        """Seal everything with a new data key: see `rekey`.

        Raises:
            StoreError, ConfigError, ArtifactError: it is not finished; says why.
        """
        if not self._settings.encryption.keyPath:
            raise errors.StoreError(
                "the store is not encrypted",
                hint="set storage.encryption.keySecretRef; what is there is captured again then",
            )
        wrappings = keys.read(pathlib.Path(self._settings.encryption.keyPath))
        self._server.run(
            lambda one, _: rekey.run(
                one, wrappings, namespaces, writer_seconds=writer_seconds, report=report
            ),
            timeout_seconds=rekey.LONGEST_SECONDS,
        )

    def close(self) -> None:
        """End connections."""
        self._server.close()


def _backend(settings: config.Storage) -> backend.Backend:
    if settings.type == "s3":
        return bucket.Bucket(settings.s3)
    return repository.Repository(settings.oci)


async def _unlock(settings: config.Encryption, one: backend.Backend) -> seal.Sealer:
    """What seals and opens artifacts: by the store's keys, which are made when it has none.

    Raises:
        ConfigError: the Secret has no usable key. StoreError: it is not the store's.
    """
    stored = await one.read_keys()
    if not settings.keyPath:
        if stored is not None:
            raise errors.StoreError(
                "the store is encrypted and this release has no key",
                hint="name the Secret with its key in storage.encryption.keySecretRef",
            )
        return seal.Plain()
    wrappings = keys.read(pathlib.Path(settings.keyPath))
    if stored is None:
        stored = await _first_keys(wrappings[0], one)
    rewrapped = storekeys.rewrap(stored, wrappings)
    if rewrapped != stored:
        await one.write_keys(rewrapped, replace=True)
    return seal.Sealed(storekeys.unwrap(rewrapped, wrappings))


async def _first_keys(wrapping: keys.Wrapping, one: backend.Backend) -> bytes:
    """Make the store's keys, or find those that somebody else has just made.

    Raises:
        StoreError: it had some, for there are artifacts that were sealed with them.
    """
    for entry in (await one.entries(""))[:1]:
        text = await one.read(entry.key, backend.Part.MANIFEST)
        if text.startswith(seal.MAGIC):
            raise errors.StoreError(
                f"{keys.NAME} of the store is gone, and artifact {entry.key.uuid} is encrypted",
                hint="put it back from a backup, or delete the checkpoints and begin anew",
            )
    made = storekeys.new_store_keys(wrapping)
    if await one.write_keys(made):
        return made
    stored = await one.read_keys()
    if stored is None:
        raise errors.StoreError("the store's keys were made and are gone", hint="try again")
    return stored
