"""An artifact on its way into a node's cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from chrek import log, manifest
from chrek import store as stores
from chrek.remote import backend, cache, download
from chrek.remote import server as servers

LOG = log.get(__name__)


def text(artifact: stores.Artifact) -> bytes:
    """Its manifest, byte for byte as it is stored where that is known."""
    return artifact.text or manifest.encode(artifact.manifest)


class Fetch:
    """It has begun: the artifact is known to fit, and its stage is there."""

    def __init__(
        self,
        server: servers.Server,
        room: cache.Cache,
        key: backend.Key,
        artifact: stores.Artifact,
        *,
        timeout_seconds: float,
        on_transfer: Callable[[str, int, float], None],
        on_bytes: Callable[[int], None],
    ) -> None:
        """Begin.

        Args:
            artifact: where it will be, and its manifest.
            timeout_seconds: for all of it.
            on_transfer: told at its end: `down`, bytes, seconds.
            on_bytes: told meanwhile how many bytes more are there.

        Raises:
            ArtifactError: missing or damaged. StoreError: the server or the disk.
        """
        self._server = server
        self._local = room.store(key.namespace)
        self._artifact = artifact
        self._key = key
        self._seconds = timeout_seconds
        self._on_transfer = on_transfer
        self._begin = time.monotonic()
        contents = server.run(
            lambda one, sealer: download.find(one, sealer, key, artifact.manifest),
            timeout_seconds=timeout_seconds,
        )
        covered = sum(row.size for row in contents.rows)
        room.make_room(covered)
        self._local.discard(stores.Stage(key.uuid, artifact.path))
        self._stage = self._local.stage(key.identity_hash, key.variant, key.uuid)
        # The rest is holes.
        on_bytes(artifact.manifest.bytes - covered)
        self._first = threading.Event()
        self._ended = False
        self._future = server.start(
            lambda one, sealer: download.download(
                *(one, sealer, key, contents, self._stage.path),
                on_first=self._first.set,
                on_bytes=on_bytes,
            ),
            timeout_seconds=max(1.0, self._begin + timeout_seconds - time.monotonic()),
        )
        self._future.add_done_callback(lambda _: self._first.set())

    def first(self) -> None:
        """Wait until all but the page files is there.

        Raises:
            ArtifactError, StoreError: it failed.
        """
        self._first.wait()
        if self._future.done():
            self._server.wait(self._future, self._seconds)

    def end(self) -> None:
        """Wait until all is there, and keep it.

        Raises:
            ArtifactError, StoreError: it failed.
        """
        if self._ended:
            return
        read = self._server.wait(self._future, self._seconds)
        # A crash of the node may leave it damaged: an agent compares before it restores from it.
        self._local.commit_text(self._stage, text(self._artifact), durable=False)
        self._ended = True
        seconds, size = round(time.monotonic() - self._begin, 3), self._artifact.manifest.bytes
        LOG.info("fetched", uuid=self._key.uuid, bytes=size, read_bytes=read, seconds=seconds)
        self._on_transfer("down", read, seconds)

    def close(self) -> None:
        """Unless it has ended, give it up."""
        if not self._ended:
            self._future.cancel()
            self._local.discard(self._stage)
