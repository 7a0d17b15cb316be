"""A node with a cache, and artifacts to give it: for tests of stores on a server."""

from __future__ import annotations

import pathlib
import random

import msgspec

from chrek import digest, manifest
from chrek import store as stores
from chrek.remote import cache, seal, server
from chrek.remote import store as remote

HASH = "0123456789abcdef"
VARIANT = "aaaa"
SOURCE = {"architecture": "x", "kernel": "6", "hostname": "h", "addresses": []}


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


FILES = {
    "criu/pages-1.img": noise(900_000) + bytes(600_000) + noise(300_000, 1),
    "criu/inventory.img": b"inventory" * 100,
    "criu/empty.img": b"",
    "criu/zeros.img": bytes(5 << 20),
    "files.data": b"text that can be compressed " * 40_000,
}


class Node:
    """What an agent holds of a server: its cache, and its stores by namespace."""

    def __init__(
        self,
        backend,
        path: pathlib.Path,
        *,
        sealer: seal.Sealer | None = None,
        unlock=None,
        size_bytes: int = 1 << 40,
    ) -> None:
        async def sealed(_):
            return sealer or seal.Plain()

        self.server = server.Server(lambda: backend, unlock or sealed)
        self.path = path
        self.cache = cache.Cache(path, size_bytes)
        self.known = remote.Known()
        self.transfers: list[tuple[str, int, float]] = []
        self.told: list[tuple[str, int]] = []
        """How many bytes more, of what comes and goes."""

    def store(self, namespace: str = "") -> remote.Store:
        return remote.Store(
            *(self.server, self.cache, lambda _, name: f"s3://b/{name}", namespace),
            transfer_seconds=30,
            known=self.known,
            on_transfer=lambda *told: self.transfers.append(told),
            on_bytes=lambda *told: self.told.append(told),
        )

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()


def fill(stage: stores.Stage, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = stage.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def described(stage: stores.Stage, *, identity_hash: str = HASH, variant: str = VARIANT):
    """A manifest of what is in a stage."""
    files = []
    with digest.Pool() as pool:
        for path in sorted(p for p in stage.path.rglob("*") if p.is_file()):
            with path.open("rb") as file:
                size = path.stat().st_size
                name = str(path.relative_to(stage.path))
                chunks = pool.chunks(file.fileno(), size)
                files.append(manifest.File(name=name, size=size, chunks=chunks))
    return manifest.Manifest(
        version=1,
        uuid=stage.uuid,
        identityHash=identity_hash,
        variant=variant,
        createdAt="2026-01-01T00:00:00Z",
        chrekVersion="0.1.0",
        rootPid=10001,
        stdio=["/dev/null"] * 3,
        volumes=[],
        source=msgspec.convert(SOURCE, manifest.Source),
        files=files,
        steps={},
    )


def make(store, files: dict[str, bytes], **names: str) -> tuple[str, str]:
    """Store an artifact; returns its uuid and digest."""
    stage = store.stage(names.get("identity_hash", HASH), names.get("variant", VARIANT))
    fill(stage, files)
    return stage.uuid, store.commit(stage, described(stage, **names))


def fetch(
    node: Node, uuid: str, digest: str, identity_hash: str = HASH, namespace: str = ""
) -> dict[str, bytes]:
    """All files of an artifact that a node has fetched."""
    store = node.store(namespace)
    with store.fetched(store.open(identity_hash, VARIANT, uuid, digest)) as found:
        return contents(found.path)


def contents(path: pathlib.Path) -> dict[str, bytes]:
    """All files of an artifact but its manifest."""
    return {
        str(one.relative_to(path)): one.read_bytes()
        for one in sorted(path.rglob("*"))
        if one.is_file() and one.name != manifest.NAME
    }
