"""A server in memory that keeps the contract of `chrek.remote.backend`, and can be made to fail."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

import blake3

from chrek import errors, names
from chrek.remote import backend


@dataclasses.dataclass
class Stored:
    """Bytes on the server, and since when."""

    data: bytes
    modified: float = dataclasses.field(default_factory=time.time)


class Memory:
    """See `backend.Backend`."""

    def __init__(self, *, pack_bytes: int = 256 << 10, collects: bool = False) -> None:
        self.pack_bytes = pack_bytes
        self.collects = collects
        self.parts: dict[tuple[backend.Key, str], Stored] = {}
        self.stored: dict[tuple[str, str], Stored] = {}
        self.begun: dict[backend.Key, float] = {}
        self.keys: bytes | None = None
        self.calls: list[str] = []
        self.fails_at: int | None = None
        """Number of the call that fails, from 0; None for none."""

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.fails_at is not None and len(self.calls) > self.fails_at:
            raise errors.StoreError(f"{name}: the server is gone")

    async def check(self) -> None:
        self._called("check")

    async def begin(self, key: backend.Key) -> None:
        self._called("begin")
        self.begun[key] = time.time()

    async def end(self, key: backend.Key) -> None:
        self._called("end")
        self.begun.pop(key, None)

    async def writers(self, namespace: str) -> list[backend.Writer]:
        self._called("writers")
        found = [backend.Writer(key, at) for key, at in self.begun.items()]
        return [writer for writer in found if writer.key.namespace == namespace]

    async def put_pack(self, namespace: str, data: bytes | memoryview) -> backend.Pack:
        self._called("put_pack")
        name = blake3.blake3(data).hexdigest()
        there = self.stored.get((namespace, name))
        if there is None:
            self.stored[namespace, name] = Stored(bytes(data))
        return backend.Pack(name, len(data), there.modified if there else 0.0)

    async def read_pack(self, namespace: str, name: str, offset: int, size: int) -> bytes:
        self._called("read_pack")
        try:
            data = self.stored[namespace, name].data[offset : offset + size]
        except KeyError:
            raise missing(name) from None
        if len(data) != size:
            raise errors.StoreError(f"{name}: {len(data)} bytes instead of {size}")
        return data

    async def commit(self, key: backend.Key, described: backend.Described) -> None:
        self._called("commit tables")
        if (key, backend.Part.MANIFEST) in self.parts:
            raise errors.StoreError("there is one already")
        self.parts[key, backend.Part.TABLE] = Stored(described.table)
        self.parts[key, backend.Part.PLACES] = Stored(described.places)
        self._called("commit manifest")
        self.parts[key, backend.Part.MANIFEST] = Stored(described.manifest)

    async def replace(
        self,
        key: backend.Key,
        parts: Mapping[backend.Part, bytes],
        packs: Sequence[backend.Pack],
    ) -> None:
        for part, data in parts.items():
            self._called(f"replace {part}")
            if (key, part) not in self.parts:
                raise missing(part)
            self.parts[key, part] = Stored(data, self.parts[key, part].modified)

    async def read(self, key: backend.Key, part: backend.Part) -> bytes:
        self._called(f"read {part}")
        try:
            return self.parts[key, part].data
        except KeyError:
            raise missing(part) from None

    async def entries(self, namespace: str, identity_hash: str = "") -> list[backend.Entry]:
        self._called("entries")
        found = [
            backend.Entry(key, stored.modified, self._version(key))
            for (key, part), stored in self.parts.items()
            if part == backend.Part.MANIFEST
            and key.namespace == namespace
            and identity_hash in ("", key.identity_hash)
        ]
        return sorted(found, key=lambda entry: -entry.modified)

    def _version(self, key: backend.Key) -> str:
        return blake3.blake3(self.parts[key, backend.Part.PLACES].data).hexdigest()

    async def delete(self, key: backend.Key) -> None:
        for part in backend.Part:
            self._called(f"delete {part}")
            self.parts.pop((key, part), None)

    async def packs(self, namespace: str) -> list[backend.Pack]:
        self._called("packs")
        if self.collects:
            return []
        return [
            backend.Pack(name, len(stored.data), stored.modified)
            for (space, name), stored in self.stored.items()
            if space == namespace
        ]

    async def delete_pack(self, namespace: str, name: str) -> None:
        self._called("delete_pack")
        self.stored.pop((namespace, name), None)

    async def namespaces(self) -> list[str]:
        self._called("namespaces")
        return sorted({key.namespace for key, _ in self.parts} - {""})

    async def read_keys(self) -> bytes | None:
        self._called("read_keys")
        return self.keys

    async def write_keys(self, data: bytes, *, replace: bool = False) -> bool:
        self._called("write_keys")
        if self.keys is not None and not replace:
            return False
        self.keys = data
        return True

    async def close(self) -> None:
        self.calls.append("close")


def missing(what: str) -> errors.ArtifactError:
    return errors.ArtifactError(f"{what}: not there", reason=names.Reason.ARTIFACT_MISSING)
