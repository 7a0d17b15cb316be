"""Artifacts on the way: from one store into another, into a file, and out of one.

The manifest's text stays the same, byte for byte, so that the digest in the status of a
DynamoCheckpoint is true of every copy. Every byte is compared with the manifest on its way, a chunk
at a time, before it is written; an artifact exists at its target as a whole or not at all.
Names that only a hostile manifest has are refused before anything is made of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import pathlib
import re
import stat
from collections.abc import Callable, Iterator

import blake3

from chrek import errors, manifest, names, storage, tarball
from chrek import store as stores

BLOCK_BYTES = 64 << 10
"""Runs of so many zeros become holes."""
TOUCHED_CHUNKS = 256
"""After so many a stage is touched: the agents' sweep takes what nobody touches for an abandoned
one."""
_FILE = re.compile(rf"({stores.IMAGES}/)?[A-Za-z0-9_][A-Za-z0-9._-]{{0,89}}")
_ZEROS = bytes(BLOCK_BYTES)
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
"""What opening says of a name that is no file's."""
_DAMAGED = "this copy is damaged: take another one, or make the checkpoint again"

Chunks = Callable[[manifest.File], Iterator[bytes]]
"""A file's contents, in pieces as the manifest has digests of."""


class Watch:
    """Who is told how an artifact gets on; this one makes nothing of it."""

    def begins(self, total: int) -> None:
        """It is there, of so many bytes, and is not at its target yet."""

    def moved(self, step: str, count: int) -> None:
        """So many bytes more, on any thread.

        Args:
            step: `files`; or `down` from a server before that and `up` to one after it, which
                `storage.Storage` tells of.
        """


NOBODY = Watch()
FILES = "files"
"""The step in which an artifact's files are read and compared, and written."""


@dataclasses.dataclass(frozen=True)
class Moved:
    """An artifact that is where it should be."""

    path: stores.ArtifactPath
    digest: str
    """Of its manifest."""
    bytes: int
    already: bool = False
    """It was there before, with the same manifest; nothing was moved."""

    def __str__(self) -> str:
        line = f"{'/'.join(self.path)} {self.digest} {self.bytes}"
        return f"{line} already there" if self.already else line


def parse(path: str) -> stores.ArtifactPath:
    """Hash, variant and uuid of a path; the last two may be empty.

    Raises:
        InputError: it is no path of the store.
    """
    found = stores.parse_path(path)
    stores.check_names(*found)
    return found


def select(store: storage.AnyStore, wanted: stores.ArtifactPath) -> list[stores.ArtifactPath]:
    """The artifacts that a path means.

    Raises:
        ArtifactError: there is none. StoreError: the store cannot be read.
    """
    identity_hash, variant, uuid = wanted
    if uuid:
        return [wanted]
    found = [one for one in store.artifacts(identity_hash) if variant in ("", one[1])]
    if not found:
        raise errors.ArtifactError(
            f"no artifact {'/'.join(filter(None, wanted))} in {store.location(identity_hash)}",
            reason=names.Reason.ARTIFACT_MISSING,
            hint="check the store, the path and the namespace",
        )
    return found


def copy(
    source: storage.AnyStore,
    target: storage.AnyStore,
    path: stores.ArtifactPath,
    *,
    watch: Watch = NOBODY,
) -> Moved:
    """Copy an artifact from one store into another.

    Raises:
        ArtifactError: it is missing, damaged or hostile, or the target has another one of its name.
        StoreError: one of the stores failed; at the target is nothing of it.
    """
    artifact, digest = _opened(source, path)
    described = artifact.manifest
    if _is_there(target, path, digest):
        return Moved(path, digest, described.bytes, already=True)
    watch.begins(described.bytes)
    with source.fetched(artifact) as there:
        _receive(target, described, artifact.text, lambda file: _read(there.path, file), watch)
    return Moved(path, digest, described.bytes)


def export_to(
    out: tarball.Output,
    source: storage.AnyStore,
    path: stores.ArtifactPath,
    *,
    compressed: bool,
    watch: Watch = NOBODY,
) -> Moved:
    """Write an artifact as a tar.

    Args:
        out: takes the tar; what it has got when this fails is refused by `import_from`.
        compressed: whether zstd is put around it.
        watch: told how it gets on.

    Raises:
        ArtifactError: it is missing, damaged or hostile. StoreError: the store failed.
        OSError: of `out`.
    """
    artifact, digest = _opened(source, path)
    described = artifact.manifest
    watch.begins(described.bytes)
    with source.fetched(artifact) as there:
        tar = tarball.Writer(out, compressed=compressed)
        tar.add(manifest.NAME, len(artifact.text), [artifact.text])
        for file in described.files:
            chunks = _verified(file, _read(there.path, file))
            tar.add(file.name, file.size, _watched(chunks, watch))
        tar.close()
    return Moved(path, digest, described.bytes)


def import_from(
    stream: tarball.Input,
    target: storage.AnyStore,
    *,
    where: str,
    digest: str = "",
    of: str = "",
    watch: Watch = NOBODY,
) -> Moved:
    """Take an artifact out of a tar, which may be hostile, into a store.

    Args:
        stream: the tar.
        where: its name, for messages.
        digest: what its manifest must have; empty when nobody knows.
        of: identity hash that it must have; empty for any.
        watch: told how it gets on.

    Raises:
        ArtifactError: it is no such tar, or damaged, or the store has another artifact of its name.
        InputError: it cannot be read. StoreError: the store failed; it holds nothing of it.
    """
    tar = tarball.Reader(stream, where)
    text = tar.text()
    found = manifest.digest(text)
    if digest not in ("", found):
        raise errors.ArtifactError(
            f"{where}: {manifest.NAME} has digest {found}, {digest} was asked for",
            reason=names.Reason.DIGEST_MISMATCH,
            hint="it is another artifact, or was changed",
        )
    described = _decoded(text, where)
    check(described)
    path = (described.identityHash, described.variant, described.uuid)
    if of not in ("", path[0]):
        raise errors.ArtifactError(
            f"{where}: it is of identity hash {path[0]}, {of} was asked for",
            hint="give the identity that it was captured with",
        )
    if _is_there(target, path, found):
        return Moved(path, found, described.bytes, already=True)
    watch.begins(described.bytes)
    _receive(target, described, text, tar.chunks, watch, at_end=tar.end)
    return Moved(path, found, described.bytes)


def check(described: manifest.Manifest) -> None:
    """Refuse what only a hostile manifest says.

    Raises:
        ArtifactError: a name could lead out of a stage, or be taken for what the store itself
            puts there.
    """
    path = (described.identityHash, described.variant, described.uuid)
    try:
        if not all(path):
            raise errors.InputError("a part of its path in the store is empty")
        stores.check_names(*path)
    except errors.InputError as err:
        raise errors.ArtifactError(f"{manifest.NAME}: {err.message}") from err
    for file in described.files:
        if not _FILE.fullmatch(file.name) or file.name in (manifest.NAME, stores.IMAGES):
            raise errors.ArtifactError(
                f"{manifest.NAME}: {file.name[:200]!r} is no name of an artifact's file"
            )


def _decoded(text: bytes, where: str) -> manifest.Manifest:
    """A manifest; what is told of one that is none has nothing for a terminal to obey."""
    try:
        return manifest.decode(text)
    except errors.ArtifactError as err:
        said = err.message.encode("unicode_escape").decode()
        raise errors.ArtifactError(f"{where}: {said}", reason=err.reason, hint=err.hint) from err


def _opened(source: storage.AnyStore, path: stores.ArtifactPath) -> tuple[stores.Artifact, str]:
    """An artifact whose manifest nobody vouches for but the store, and the manifest's digest."""
    digest = source.stored_digest(*path)
    artifact = source.open(*path, digest)
    check(artifact.manifest)
    return artifact, digest


def _is_there(target: storage.AnyStore, path: stores.ArtifactPath, digest: str) -> bool:
    try:
        found = target.stored_digest(*path)
    except errors.ArtifactError as err:
        if err.reason == names.Reason.ARTIFACT_MISSING:
            return False
        raise
    if found != digest:
        raise errors.ArtifactError(
            f"{target.location(path[0])} has {'/'.join(path)} already, with another manifest: "
            f"{found} instead of {digest}",
            reason=names.Reason.DIGEST_MISMATCH,
            hint="one of the two was changed: delete the wrong one",
        )
    return True


def _receive(
    target: storage.AnyStore,
    described: manifest.Manifest,
    text: bytes,
    chunks: Chunks,
    watch: Watch,
    *,
    at_end: Callable[[], None] = lambda: None,
) -> None:
    """Fill a stage and commit it."""
    target.make_room(described.bytes)
    with _staged(target, described) as stage:
        for file in described.files:
            _write(stage, file, _watched(_verified(file, chunks(file)), watch))
        at_end()
        stores.sync(stage.images)
        target.commit_text(stage, text)


@contextlib.contextmanager
def _staged(target: storage.AnyStore, described: manifest.Manifest) -> Iterator[stores.Stage]:
    """A stage of which nothing is left when the block fails."""
    try:
        stage = target.stage(described.identityHash, described.variant, described.uuid)
    except errors.StoreError as err:
        if isinstance(err.__cause__, FileExistsError):
            raise errors.StoreError(
                f"{described.uuid} is on its way already, or was and did not get there",
                hint="wait for the other import; what a killed one left is swept by the agents "
                "within hours",
            ) from err
        raise
    try:
        yield stage
    except BaseException:
        target.discard(stage)
        _drop_empty(stage.path.parent, target.base)
        raise


def _drop_empty(path: pathlib.Path, above: pathlib.Path) -> None:
    """Remove directories that have nothing in them, up to one that stays."""
    with contextlib.suppress(OSError):
        while path != above:
            path.rmdir()
            path = path.parent


def _write(stage: stores.Stage, file: manifest.File, chunks: Iterator[bytes]) -> None:
    path = stage.path / file.name
    try:
        with _descriptor(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as fd:
            os.ftruncate(fd, file.size)
            for index, data in enumerate(chunks):
                if index % TOUCHED_CHUNKS == 0:
                    os.utime(stage.path)
                _put(fd, data, index * manifest.CHUNK_BYTES)
            os.fsync(fd)
    except OSError as err:
        raise errors.StoreError(
            f"{path}: {err.strerror}", hint="check the disk and its free space"
        ) from err


@contextlib.contextmanager
def _descriptor(path: pathlib.Path, flags: int) -> Iterator[int]:
    """Of a file that is no link, and for whose other end, if it is a pipe, nobody waits."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _put(fd: int, data: bytes, offset: int) -> None:
    """Write what is not zero; the rest stays a hole."""
    for at in range(0, len(data), BLOCK_BYTES):
        block = data[at : at + BLOCK_BYTES]
        if block == _ZEROS[: len(block)]:
            continue
        view = memoryview(block)
        while view:
            count = os.pwrite(fd, view, offset + at + len(block) - len(view))
            view = view[count:]


def _verified(file: manifest.File, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, each compared with its digest."""
    for index, data in enumerate(chunks):
        if blake3.blake3(data).hexdigest() != file.chunks[index]:
            raise errors.ArtifactError(
                f"{file.name}: the bytes from {index * manifest.CHUNK_BYTES} on are not those that "
                "were captured",
                hint=_DAMAGED,
            )
        yield data


def _watched(chunks: Iterator[bytes], watch: Watch) -> Iterator[bytes]:
    """The same chunks; each is told of when the next one is asked for."""
    for data in chunks:
        yield data
        watch.moved(FILES, len(data))


def _read(directory: pathlib.Path, file: manifest.File) -> Iterator[bytes]:
    """Chunks of a file of a store, not verified."""
    path = directory / file.name
    try:
        with _descriptor(path, os.O_RDONLY) as fd:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
                raise errors.ArtifactError(
                    f"{path}: it is no regular file of {file.size} bytes", hint=_DAMAGED
                )
            for _ in file.chunks:
                yield _chunk(fd)
    except OSError as err:
        if err.errno in _NOT_THERE:
            raise errors.ArtifactError(f"{path}: {err.strerror}", hint=_DAMAGED) from err
        raise errors.StoreError(f"{path}: {err.strerror}", hint="check the disk") from err


def _chunk(fd: int) -> bytes:
    """The next chunk; shorter at the end of the file."""
    data = os.read(fd, manifest.CHUNK_BYTES)
    while len(data) < manifest.CHUNK_BYTES:
        more = os.read(fd, manifest.CHUNK_BYTES - len(data))
        if not more:
            break
        data += more
    return data
