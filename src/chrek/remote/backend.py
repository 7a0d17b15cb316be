"""What a server must be able to do to be a store of artifacts.

An artifact there is a manifest (the same text as on a volume), a chunk table, a place table and the
packs that the place table names. The manifest is what makes it exist: it is written last, and what
it says never changes. Where its chunks lie may: the place table is exchanged when they get into
other packs. Packs are named by their content, so equal ones are stored once, and several artifacts
of a namespace may refer to one.

Nothing that a server answers is believed: names and sizes are checked here, contents by whoever
reads them, against digests that start at the one in the DynamoCheckpoint's status.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Protocol


@dataclasses.dataclass(frozen=True, order=True)
class Key:
    """Which artifact; every part has been checked against the store's patterns of names."""

    namespace: str
    """Empty for the release's own namespace."""
    identity_hash: str
    variant: str
    uuid: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """A committed artifact, as a listing shows it."""

    key: Key
    modified: float
    """Seconds since the epoch, by the server's clock."""
    places: str = ""
    """Another one after the place table was exchanged; empty where the server does not say."""


@dataclasses.dataclass(frozen=True)
class Pack:
    """A pack in the store."""

    name: str
    """BLAKE3 of its bytes in hex at S3, `sha256:...` at a registry."""
    size: int
    modified: float = 0.0
    """Seconds since the epoch; 0 where the server does not say."""


@dataclasses.dataclass(frozen=True)
class Writer:
    """Somebody who is making an artifact, and may refer to packs that nobody else needs."""

    key: Key
    modified: float


class Part(enum.StrEnum):
    """What an artifact consists of beside its packs."""

    MANIFEST = "manifest.json"
    TABLE = "chunks.table"
    PLACES = "places.table"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """All of an artifact but its packs."""

    manifest: bytes
    table: bytes
    places: bytes
    packs: Sequence[Pack]
    """Those that `places` names, in its order."""
    annotations: dict[str, str] = dataclasses.field(default_factory=dict)
    """For people and tools that look at the server, `org.criu.checkpoint.*`; may be ignored."""


def texts(described: Described) -> dict[Part, bytes]:
    """What is stored of an artifact beside its packs."""
    return {
        Part.MANIFEST: described.manifest,
        Part.TABLE: described.table,
        Part.PLACES: described.places,
    }


class Backend(Protocol):
    """One server. All calls are coroutines of one event loop, and may run side by side.

    Each retries what is worth it (no answer, 429, 5xx, a connection that broke) with growing,
    jittered waits until its deadline, and raises:
        StoreError: the server refuses, is not there or answers nonsense; message, reason and hint
            are for the user: what was asked of whom, the answer, what to do.
        ArtifactError: reason ArtifactMissing, when what is read is not there (any more).
    """

    pack_bytes: int
    """The size that packs should have."""
    collects: bool
    """The server itself removes packs that no artifact refers to; `packs` lists none."""

    async def check(self) -> None:
        """Preflight: reachable, allowed to write, read and delete, and safe to commit to."""
        ...

    async def begin(self, key: Key) -> None:
        """Say that an artifact is being made, before anything of the store is looked at for it."""
        ...

    async def end(self, key: Key) -> None:
        """Take that back, committed or not; no error when it is not there."""
        ...

    async def writers(self, namespace: str) -> list[Writer]:
        """Those who have begun and not ended."""
        ...

    async def put_pack(self, namespace: str, data: bytes | memoryview) -> Pack:
        """Store a pack, once; on return it is durable.

        `Pack.modified` is 0 when it was stored now, and not when it was there already.
        """
        ...

    async def read_pack(self, namespace: str, name: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes of a pack, from `offset`."""
        ...

    async def commit(self, key: Key, described: Described) -> None:
        """Make the artifact exist: its tables, then its manifest.

        Raises:
            StoreError: also when there is one of that key.
        """
        ...

    async def replace(self, key: Key, parts: Mapping[Part, bytes], packs: Sequence[Pack]) -> None:
        """Exchange parts of a committed artifact, each as a whole.

        Whoever reads meanwhile may find one as it was and another as it is: they must go together.

        Args:
            parts: the new ones; others stay.
            packs: all that the artifact refers to from now on, in the order of its place table.

        Raises:
            ArtifactError: reason ArtifactMissing, when it has been deleted.
            StoreError: also when somebody else has exchanged it at the same time.
        """
        ...

    async def read(self, key: Key, part: Part) -> bytes:
        """A part of a committed artifact, at most `manifest.MAX_BYTES`."""
        ...

    async def entries(self, namespace: str, identity_hash: str = "") -> list[Entry]:
        """Committed artifacts of a namespace, or of one identity; newest first."""
        ...

    async def delete(self, key: Key) -> None:
        """Remove an artifact, its manifest first; packs stay. No error when it is not there."""
        ...

    async def packs(self, namespace: str) -> list[Pack]:
        """All packs of a namespace; empty where the server collects."""
        ...

    async def delete_pack(self, namespace: str, name: str) -> None:
        """Remove a pack; no error when it is not there."""
        ...

    async def namespaces(self) -> list[str]:
        """Namespaces other than the release's that have something; none where nobody can tell."""
        ...

    async def read_keys(self) -> bytes | None:
        """The store's wrapped keys; None when it has none. See `seal`."""
        ...

    async def write_keys(self, data: bytes, *, replace: bool = False) -> bool:
        """Store them; without `replace` only when there are none, and False when there are."""
        ...

    async def close(self) -> None:
        """End connections."""
        ...
