"""What a node keeps of artifacts that live on a server: whole artifacts, laid out as on a volume.

Restores share them, and a new agent finds those of the one before it. An artifact that is in use,
or being fetched, stays; of the others the least recently used go when there is no room.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import pathlib
import threading
from collections.abc import Iterator

from chrek import errors, log, manifest, names
from chrek import store as stores
from chrek.remote import backend

LOG = log.get(__name__)
RESERVE_BYTES = 1 << 30
"""What eviction leaves free on the file system: the node has other needs."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """An artifact in the cache."""

    key: backend.Key
    path: pathlib.Path
    bytes: int
    """On the disk; holes are not counted."""
    used: float
    """When it was last fetched or restored, seconds since the epoch."""


class Cache:
    """One directory of the node, and nobody else's."""

    def __init__(self, path: pathlib.Path, size_bytes: int) -> None:
        """Describe it.

        Args:
            path: on a file system of the node; made when it is needed.
            size_bytes: the most that it should hold; one artifact in use may be more.
        """
        self.path = path
        self._size = size_bytes
        self._users: collections.Counter[backend.Key] = collections.Counter()
        self._turns: dict[backend.Key, threading.Lock] = {}
        self._lock = threading.Lock()

    def store(self, namespace: str) -> stores.Store:
        """The cache as a store of one namespace's artifacts."""
        return stores.Store(self.path, namespace)

    @contextlib.contextmanager
    def using(self, key: backend.Key) -> Iterator[None]:
        """While inside, the artifact is not evicted."""
        with self._lock:
            self._users[key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._users[key] -= 1
                if not self._users[key]:
                    del self._users[key]
                    self._turns.pop(key, None)

    @contextlib.contextmanager
    def alone(self, key: backend.Key) -> Iterator[None]:
        """One at a time fetches an artifact; inside `using`."""
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            yield

    def used(self, key: backend.Key) -> bool:
        """Whether somebody is inside `using`."""
        with self._lock:
            return key in self._users

    def touch(self, key: backend.Key) -> None:
        """Say that an artifact was used."""
        with contextlib.suppress(OSError):
            os.utime(self._directory(key) / manifest.NAME)

    def drop(self, key: backend.Key) -> None:
        """Remove an artifact; no error when it is not there."""
        parts = (key.identity_hash, key.variant, key.uuid)
        self.store(key.namespace).delete(*parts, stage_seconds=0)

    def kept(self) -> list[Kept]:
        """All artifacts, the least recently used first."""
        found = []
        spaces = [("", self.path)]
        with contextlib.suppress(OSError):
            spaces += [(entry.name, entry) for entry in (self.path / "ns").iterdir()]
        for namespace, root in spaces:
            for path in root.glob(f"{'[0-9a-f]' * 16}/*/*/{manifest.NAME}"):
                with contextlib.suppress(OSError):
                    *_, identity_hash, variant, uuid, _ = path.parts
                    key = backend.Key(namespace, identity_hash, variant, uuid)
                    used = path.stat().st_mtime
                    found.append(Kept(key, path.parent, disk_bytes(path.parent), used))
        return sorted(found, key=lambda one: one.used)

    def make_room(self, needed_bytes: int) -> None:
        """Evict until so much more fits.

        Raises:
            StoreError: reason NotEnoughSpace, when the disk has less than that even so.
        """
        with contextlib.suppress(OSError):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = self.kept()
        total = sum(one.bytes for one in kept)
        for one in kept:
            free = self._free()
            enough = free is None or free >= needed_bytes + RESERVE_BYTES
            if enough and total + needed_bytes <= self._size:
                return
            if not self.used(one.key):
                LOG.info("evicted", uuid=one.key.uuid, bytes=one.bytes, cache=str(self.path))
                self.drop(one.key)
                total -= one.bytes
        free = self._free()
        if free is not None and free < needed_bytes:
            raise errors.StoreError(
                f"the node's cache {self.path} has {free / 1e9:.2f} GB free,"
                f" {needed_bytes / 1e9:.2f} GB are needed",
                reason=names.Reason.NOT_ENOUGH_SPACE,
                hint="give storage.cache.hostPath a larger disk",
            )

    def _free(self) -> int | None:
        try:
            found = os.statvfs(self.path)
        except OSError:
            return None
        return found.f_bavail * found.f_frsize if found.f_blocks else None

    def _directory(self, key: backend.Key) -> pathlib.Path:
        root = self.path / "ns" / key.namespace if key.namespace else self.path
        return root / key.identity_hash / key.variant / key.uuid


def disk_bytes(directory: pathlib.Path) -> int:
    """What the files of a directory take on the disk."""
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total
