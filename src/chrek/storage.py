"""The stores that the configuration names: on a volume, in a bucket or in a registry."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from chrek import config, errors, manifest, removal
from chrek import store as stores

if TYPE_CHECKING:
    from chrek.remote import opening


class AnyStore(Protocol):
    """What every kind of store can do: `Store` on a volume, `remote.store` on a server."""

    @property
    def base(self) -> pathlib.Path:
        """Where stages are filled."""
        ...

    def location(self, identity_hash: str) -> str:
        """What the status of a DynamoCheckpoint calls Location."""
        ...

    def make_room(self, needed_bytes: int) -> None:
        """Before a stage is filled: free what may go from where stages are."""
        ...

    def stage(self, identity_hash: str, variant: str, uuid: str = "") -> stores.Stage:
        """Make a new, empty generation directory; `uuid` is that of another store's artifact."""
        ...

    def commit(self, stage: stores.Stage, described: manifest.Manifest) -> str:
        """Make the artifact exist; returns the manifest's digest."""
        ...

    def commit_text(self, stage: stores.Stage, data: bytes) -> str:
        """As `commit`, of a manifest that is encoded already: it is stored byte for byte."""
        ...

    def artifacts(self, identity_hash: str = "") -> list[stores.ArtifactPath]:
        """Committed artifacts, of one identity or of all."""
        ...

    def stored_digest(self, identity_hash: str, variant: str, uuid: str) -> str:
        """Digest of the manifest that is there, for those who have no status that names it."""
        ...

    def open(self, identity_hash: str, variant: str, uuid: str, digest: str) -> stores.Artifact:
        """Find a committed artifact; its files are where it says only inside `fetched`."""
        ...

    def fetched(
        self, artifact: stores.Artifact
    ) -> contextlib.AbstractContextManager[stores.Artifact]:
        """While inside, all files of the artifact are at its path."""
        ...

    def arriving(
        self, artifact: stores.Artifact
    ) -> contextlib.AbstractContextManager[Callable[[], None] | None]:
        """As `fetched`, but page files (`verification.is_pages`) are there only after a call.

        Gives what is to be called, which waits for them and raises as `fetched` does; None when all
        is there.
        """
        ...

    def discard(self, stage: stores.Stage) -> None:
        """Remove a stage that was not committed."""
        ...

    def empty(self, identity_hash: str) -> bool:
        """Whether nothing of an identity is left."""
        ...

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
        """Remove an identity's artifacts, one variant's, or one."""
        ...

    def sweep(self, *, older_than_seconds: float) -> int:
        """Remove what nobody will finish; returns how much."""
        ...


class Storage:
    """All namespaces' stores of one release, with what they share."""

    def __init__(
        self,
        settings: config.Storage,
        own_namespace: str,
        *,
        transfer_seconds: float,
        on_transfer: Callable[[str, int, float], None] = lambda *_: None,
        on_bytes: Callable[[str, int], None] = lambda *_: None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            own_namespace: the release's.
            transfer_seconds: the longest time for an upload to a server or a download.
            on_transfer: told of each: `up` or `down`, bytes, seconds.
            on_bytes: told meanwhile, on any thread: `up` or `down`, how many bytes more of the
                artifact, as its manifest counts them. What is begun again is told again.

        Raises:
            ConfigError: a URI cannot be used.
        """
        self._own = own_namespace
        self._base = pathlib.Path(settings.pvc.basePath)
        self._remote: opening.Remote | None = None
        if settings.type != "pvc":
            # With a volume nothing of it is needed, and the agent stays small.
            from chrek.remote import opening

            self._remote = opening.Remote(
                settings,
                transfer_seconds=transfer_seconds,
                on_transfer=on_transfer,
                on_bytes=on_bytes,
            )

    def of(self, namespace: str) -> AnyStore:
        """The store of one namespace's artifacts."""
        inside = "" if namespace == self._own else namespace
        return self._remote.store(inside) if self._remote else stores.Store(self._base, inside)

    @property
    def has_cache(self) -> bool:
        """Whether artifacts are fetched before they are restored."""
        return self._remote is not None

    def cache_bytes(self) -> int:
        """What this node keeps of artifacts that are on a server."""
        return self._remote.cache_bytes() if self._remote else 0

    def check(self) -> None:
        """See that a server takes, gives and removes objects; of a volume nothing is asked.

        Raises:
            StoreError, ConfigError: says what is wrong.
        """
        if self._remote is not None:
            self._remote.check()

    def rekey(
        self, namespaces: Sequence[str], *, writer_seconds: float, report: Callable[[str], None]
    ) -> None:
        """Seal everything that is on a server with a new key, while it is in use.

        Args:
            namespaces: that the release serves.
            writer_seconds: a capture that began longer ago has died.
            report: takes a line for each artifact, and for the end.

        Raises:
            InputError: the store is on a volume.
            StoreError, ConfigError, ArtifactError: it is not finished; says why.
        """
        if self._remote is None:
            raise errors.InputError(
                "storage.type is pvc: chrek encrypts nothing on a volume",
                hint="see to the encryption of the volume itself",
            )
        inside = ["" if name == self._own else name for name in namespaces]
        self._remote.rekey(["", *inside], writer_seconds=writer_seconds, report=report)

    def close(self) -> None:
        """End connections."""
        if self._remote is not None:
            self._remote.close()
