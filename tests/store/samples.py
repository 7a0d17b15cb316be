"""Small artifacts with every kind of file, and a reader that is the restore's own."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import random
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from chrek import digest, errors, manifest, names, restore, storage
from chrek import store as stores

HASH, OTHER = "0123456789abcdef", "fedcba9876543210"
VARIANT = "aaaa"
CHUNK = manifest.CHUNK_BYTES
PAGES, CORE = "criu/pages-1.img", "criu/core-10001.img"
Files = Mapping[str, bytes]


@dataclasses.dataclass(frozen=True)
class Sample:
    """An artifact as it was committed, and as the status of a DynamoCheckpoint names it."""

    identity_hash: str
    variant: str
    uuid: str
    digest: str
    manifest: manifest.Manifest
    files: Files

    @property
    def path(self) -> str:
        """As deletions name it."""
        return f"{self.identity_hash}/{self.variant}/{self.uuid}"


@functools.cache
def every(seed: int = 0) -> Files:
    """21 MiB: random, repetitive and zero chunks, remainders, whole chunks only, nothing at all."""
    noise = random.Random(seed)
    text = (b"%08d the same words again " % seed * (CHUNK // 32 + 1))[:CHUNK]
    return {
        PAGES: noise.randbytes(CHUNK) + bytes(CHUNK) + text + noise.randbytes(12345),
        "criu/pages-2.img": bytes(CHUNK),
        "criu/pages-3.img": text[:-1] + bytes(2),
        CORE: noise.randbytes(300) * 7,
        "criu/core-10002.img": noise.randbytes(300) * 7,
        "criu/empty.img": b"",
        "files.index": b"\x90",
        "files.data": noise.randbytes(CHUNK - 1),
    }


@functools.cache
def few(seed: int = 0) -> Files:
    """As many as damage needs: two chunks that differ, two files of one size."""
    noise = random.Random(f"few {seed}")
    return {
        PAGES: noise.randbytes(2 * CHUNK),
        "criu/core-10001.img": noise.randbytes(5000),
        "criu/core-10002.img": noise.randbytes(5000),
    }


@functools.cache
def tiny(seed: int = 0) -> Files:
    """For what is about the artifact as a whole."""
    noise = random.Random(f"tiny {seed}")
    return {PAGES: noise.randbytes(9000), "files.data": noise.randbytes(100)}


def fill(stage: stores.Stage, files: Files) -> None:
    """Write and sync files, as a capture does."""
    for name, data in files.items():
        fd = os.open(stage.path / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    stores.sync(stage.images)


def describe(
    stage: stores.Stage,
    paths: Iterable[str],
    identity_hash: str = HASH,
    variant: str = VARIANT,
    **changed: Any,
) -> manifest.Manifest:
    """The manifest of a stage with these files; `changed` replaces fields of it."""
    fields = {
        "version": manifest.VERSION,
        "uuid": stage.uuid,
        "identityHash": identity_hash,
        "variant": variant,
        "createdAt": "2026-01-01T00:00:00Z",
        "chrekVersion": "0.1.0",
        "rootPid": 10001,
        "stdio": ["/dev/null"] * 3,
        "volumes": [],
        "source": {"architecture": "x", "kernel": "6", "hostname": "h", "addresses": []},
        "files": [_entry(stage.path, name) for name in sorted(paths)],
        "steps": {},
    }
    return msgspec.convert({**fields, **changed}, manifest.Manifest)


def commit(
    store: storage.AnyStore,
    files: Files,
    identity_hash: str = HASH,
    variant: str = VARIANT,
    *,
    announce: Callable[[Sample], None] = lambda _: None,
) -> Sample:
    """Make an artifact, or clear up as a capture does.

    Args:
        announce: told of it before it exists.
    """
    stage = store.stage(identity_hash, variant)
    try:
        fill(stage, files)
        described = describe(stage, files, identity_hash, variant)
        text = manifest.digest(manifest.encode(described))
        sample = Sample(identity_hash, variant, stage.uuid, text, described, files)
        announce(sample)
        assert store.commit(stage, described) == text
    except BaseException:
        store.discard(stage)
        raise
    return sample


def find(store: storage.AnyStore, sample: Sample) -> stores.Artifact:
    """Open it, by what the status says of it."""
    return store.open(sample.identity_hash, sample.variant, sample.uuid, sample.digest)


def read(store: storage.AnyStore, sample: Sample) -> Files:
    """All its files, through the eyes of a restore, which believes nothing.

    Raises:
        ChrekError: it is missing, damaged or hostile, or the store failed.
    """
    with contextlib.ExitStack() as stack:
        artifact = stack.enter_context(store.fetched(find(store, sample)))
        staging = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "staging"
        pool = stack.enter_context(digest.Pool())
        futures = restore._verify_pages(artifact, pool, stack)
        stack.callback(pool.cancel)
        found = dict(restore._stage(artifact, staging))
        for future in futures:
            future.result()
        for file in artifact.manifest.files:
            if file.name not in found:
                staged = staging / file.name.removeprefix(f"{stores.IMAGES}/")
                found[file.name] = _bytes(staged if staged.exists() else artifact.path / file.name)
    return found


def _bytes(path: pathlib.Path) -> bytes:
    """What CRIU would read now, for whom it may have vanished since it was verified."""
    try:
        return path.read_bytes()
    except OSError as err:
        reason = names.Reason.ARTIFACT_MISSING
        raise errors.ArtifactError(f"{path}: {err.strerror}", reason=reason) from err


def check(store: storage.AnyStore, sample: Sample) -> None:
    """Assert that it is there, byte for byte."""
    found = read(store, sample)
    assert found.keys() == sample.files.keys()
    # No comparison that pytest would explain, at length.
    assert [name for name in found if found[name] != sample.files[name]] == []


def _entry(base: pathlib.Path, name: str) -> manifest.File:
    with digest.Pool(1) as pool, (base / name).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return manifest.File(name=name, size=size, chunks=pool.chunks(file.fileno(), size))
