"""Stores on servers, for the suite: a real S3 server and a real registry of this machine."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import dataclasses
import functools
import inspect
import json
import pathlib
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from chrek import config, manifest, storage
from chrek.registry import client as registry
from chrek.remote import backend, connection, layout, ocimanifest, opening, places, repository
from chrek.remote import store as remote
from store import places as kinds
from store import registry_server, s3_server, samples

OWN = "own"
"""The release's namespace."""
TRANSFER_SECONDS = 60.0
TABLES = (backend.Part.TABLE, backend.Part.PLACES)


class Remote(kinds.Place):
    """What both have in common: caches of nodes, and settings that name the server."""

    can = frozenset({"cache", "frees", "full", "filling", "read-only", "gone", "silent", "slow"})
    # What follows the chunks of a pack.
    unseen = frozenset({"a byte more", "twice"})

    def __init__(
        self,
        folder: pathlib.Path,
        server: s3_server.Server | registry_server.Server,
        volume: kinds.Volume | None = None,
    ) -> None:
        """Take a place on a server.

        Args:
            folder: for caches of nodes.
            volume: where the server has its data, when that and the server are the test's own.
        """
        self._folder = folder
        self._server = server
        self._volume = volume
        self._nodes: dict[str, storage.Storage] = {}
        self._lock = threading.Lock()

    @abc.abstractmethod
    def settings(self, node: str) -> config.Storage:
        """What an agent of the node would be configured with."""

    def store(self, node: str = "a", namespace: str = "") -> storage.AnyStore:
        with self._lock:
            if node not in self._nodes:
                self._nodes[node] = _storage(self.settings(node))
            return self._nodes[node].of(namespace or OWN)

    def restart(self, node: str) -> None:
        self._nodes.pop(node).close()

    def recipe(self, node: str = "a") -> dict[str, Any]:
        settings = self.settings(node)
        # Else there is a step more, the first time.
        pathlib.Path(settings.cache.path).mkdir(mode=0o700, exist_ok=True)
        arguments = {"settings": msgspec.to_builtins(settings)}
        return {"function": f"{__name__}:stepping", "arguments": arguments}

    def trouble(self, name: str) -> contextlib.AbstractContextManager[None]:
        assert self._volume, "others use the server: mark the test as one that needs this"
        return {
            "full": self._volume.full,
            "filling": functools.partial(self._volume.full, kinds.LEFT_BYTES),
            "read-only": self._server.read_only,
            "gone": self._server.process.away,
            "silent": self._server.process.silent,
            "slow": self._server.process.slow,
        }[name]()

    def close(self) -> None:
        for one in self._nodes.values():
            one.close()

    def _cache(self, node: str) -> config.Cache:
        return config.Cache(path=str(self._folder / f"cache-{node}"))

    def _places(self, name: str) -> list[str]:
        """Packs that a place table names, the largest first."""
        return [pack.name for pack in sorted(_packs(self.read(name)), key=lambda one: -one.size)]


class S3(Remote):
    """A bucket: names are those of objects below the prefix."""

    kind = "s3"

    _server: s3_server.Server

    def __init__(self, folder, server, bucket: str, volume: kinds.Volume | None = None) -> None:
        super().__init__(folder, server, volume)
        self._bucket = bucket
        server.make_bucket(bucket)

    def settings(self, node: str) -> config.Storage:
        s3 = self._server.settings(f"{self._bucket}/prefix")
        return config.Storage(type="s3", s3=s3, cache=self._cache(node))

    def manifest(self, sample: samples.Sample, namespace: str = "") -> str:
        return layout.part(_key(sample, namespace), backend.Part.MANIFEST)

    def contents(self, sample: samples.Sample, namespace: str = "") -> list[str]:
        tables = [layout.part(_key(sample, namespace), part) for part in TABLES]
        packs = [layout.pack(namespace, name) for name in self._places(tables[1])]
        return [*packs, *tables]

    def listing(self) -> set[str]:
        found = self._server.objects(self._bucket)
        return {name.removeprefix("prefix/") for name in found}

    def _path(self, name: str) -> pathlib.Path:
        return self._server.data / self._bucket / "prefix" / name

    def read(self, name: str) -> bytes:
        return self._path(name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        self._path(name).parent.mkdir(parents=True, exist_ok=True)
        self._path(name).write_bytes(data)

    def remove(self, name: str) -> None:
        self._path(name).unlink()

    def strangers(self) -> list[str]:
        a, b = samples.HASH, samples.VARIANT
        return ["notes.txt", f"{a}/notes.txt", f"{a}/{b}/notes.txt", "packs/zz/notes.txt"]


class Oci(Remote):
    """A repository: names are `tag/...` and `blob/...`, as the registry keeps them."""

    kind = "oci"
    # A registry keeps what it has of an upload for some days, and cannot be told to forget it.
    can = Remote.can - {"frees"}

    _server: registry_server.Server

    def __init__(self, folder, server, name: str, volume: kinds.Volume | None = None) -> None:
        super().__init__(folder, server, volume)
        self._name = name
        self._damaged: set[pathlib.Path] = set()

    def close(self) -> None:
        super().close()
        # Other repositories of the registry have the same blobs.
        for path in self._damaged:
            path.unlink(missing_ok=True)

    def settings(self, node: str) -> config.Storage:
        return config.Storage(
            type="oci", oci=self._server.settings(self._name), cache=self._cache(node)
        )

    def _blob(self, digest: str) -> pathlib.Path:
        algorithm, _, text = digest.partition(":")
        return self._server.data / "blobs" / algorithm / text[:2] / text / "data"

    def _repository(self, namespace: str) -> pathlib.Path:
        name = f"{self._name}/ns/{namespace}" if namespace else self._name
        return self._server.data / "repositories" / name

    def _image(self, sample: samples.Sample, namespace: str) -> dict[str, Any]:
        tags = self._repository(namespace) / "_manifests" / "tags"
        digest = (tags / ocimanifest.tag(_key(sample, namespace)) / "current/link").read_text()
        found: dict[str, Any] = json.loads(self._blob(digest).read_bytes())
        return found

    def manifest(self, sample: samples.Sample, namespace: str = "") -> str:
        return "blob/" + str(self._image(sample, namespace)["config"]["digest"])

    def contents(self, sample: samples.Sample, namespace: str = "") -> list[str]:
        layers = self._image(sample, namespace)["layers"]
        tables, packs = layers[:2], sorted(layers[2:], key=lambda one: -one["size"])
        return [f"blob/{one['digest']}" for one in [*packs, *tables]]

    def listing(self) -> set[str]:
        base = self._server.data / "repositories" / self._name
        tags = base.rglob("_manifests/tags/*/current/link")
        return {"tag/" + path.parents[1].name for path in tags}

    def read(self, name: str) -> bytes:
        return self._blob(name.removeprefix("blob/")).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        path = self._blob(name.removeprefix("blob/"))
        self._damaged.add(path)
        path.write_bytes(data)

    def remove(self, name: str) -> None:
        self._blob(name.removeprefix("blob/")).unlink()

    def plant(self, sample: samples.Sample, text: bytes) -> samples.Sample:
        """As `Place.plant`: names of blobs are their digests, so the tag has to name another."""
        asyncio.run(self._replace(_key(sample, ""), text))
        return dataclasses.replace(sample, digest=manifest.digest(text))

    async def _replace(self, key: backend.Key, text: bytes) -> None:
        one = repository.Repository(self._server.settings(self._name))
        try:
            table, where = [await one.read(key, part) for part in TABLES]
            packs = _packs(where)
            await one.delete(key)
            made = backend.Described(manifest=text, table=table, places=where, packs=packs)
            await one.commit(key, made)
        finally:
            await one.close()

    def strangers(self) -> list[str]:
        return []


def hasten(monkeypatch: pytest.MonkeyPatch, *, silence: bool) -> None:
    """Have nodes give up sooner than usual, for tests in which they do.

    Args:
        silence: also on who does not answer; else only on who answers that it cannot.
    """
    limits = functools.partial(connection.Limits, deadline_seconds=1, pause_seconds=0.05)
    monkeypatch.setattr(connection, "Limits", limits)
    for name in ("PATIENCE", "CHECK_PATIENCE"):
        monkeypatch.setattr(repository, name, registry.Patience(seconds=1))
    if silence:
        for module, name in (
            (remote, "OPEN_SECONDS"),
            (remote, "QUICK_SECONDS"),
            (sys.modules[__name__], "TRANSFER_SECONDS"),
        ):
            monkeypatch.setattr(module, name, 1.0)


def stepping(step: kinds.Step, *, settings: dict[str, Any]) -> storage.AnyStore:
    """A store on a server; every request, and every change of the cache, is told of before."""
    kinds.tell_changes(step)
    real = opening._backend

    class Told:
        def __init__(self, one: backend.Backend) -> None:
            self._one = one

        def __getattr__(self, name: str) -> Any:
            found = getattr(self._one, name)
            if not inspect.iscoroutinefunction(found):
                return found

            async def told(*arguments: Any, **named: Any) -> Any:
                step(name)
                return await found(*arguments, **named)

            return told

    make: Callable[[config.Storage], Any] = lambda known: Told(real(known))  # noqa: E731
    opening._backend = make
    return _storage(msgspec.convert(settings, config.Storage)).of(OWN)


def _packs(data: bytes) -> Sequence[backend.Pack]:
    """Those that a place table names."""
    return places.decode(data, int.from_bytes(data[8:16], "little")).packs


def _storage(settings: config.Storage) -> storage.Storage:
    return storage.Storage(settings, OWN, transfer_seconds=TRANSFER_SECONDS)


def _key(sample: samples.Sample, namespace: str) -> backend.Key:
    return backend.Key(namespace, sample.identity_hash, sample.variant, sample.uuid)
