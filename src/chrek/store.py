"""Artifacts on a volume that every node mounts.

    <basePath>/<hash>/<variant>/<uuid>/manifest.json     written last: without it, no artifact
                                       criu/*.img        CRIU's images
                                       files.index       changed files: metadata
                                       files.data        and contents
    <basePath>/ns/<namespace>/<hash>/...                 namespaces other than the release's

A generation directory is never changed after its manifest is there, and no rename, lock or
directory listing is relied upon: readers know the uuid and the manifest's digest from the
DynamoCheckpoint's status. A crash leaves a directory without manifest, which `sweep` removes.
Directories are 0700, files 0600: an artifact holds whatever secrets the worker had in memory.
How an artifact goes is told in `removal`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import os
import pathlib
import re
import shutil
import time
import uuid as uuids
from collections.abc import Callable, Iterator

from chrek import errors, manifest, names, removal, rootfd

IMAGES = removal.IMAGES
_HASH = re.compile(r"[0-9a-f]{16}")
_NAME = removal.NAME
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_ATTEMPTS = 5
_TEMPORARY = f".{manifest.NAME}"
"""What a manifest is called before it has all its bytes."""
OWN_NAMES = frozenset({manifest.NAME, _TEMPORARY, removal.DELETED, IMAGES})
"""What the store itself makes in a generation directory: no file of an artifact is called so."""
_NO_FILE = frozenset({errno.ELOOP, errno.EXDEV, errno.ENOTDIR, errno.ENOTSUP, errno.ENAMETOOLONG})
"""A link, another mount or whatever else stands where a file should: somebody put it there."""

ArtifactPath = tuple[str, str, str]
"""Identity hash, variant and uuid: where an artifact is below its namespace's part of a store."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A generation directory that is being filled."""

    uuid: str
    path: pathlib.Path

    @property
    def images(self) -> pathlib.Path:
        """Where CRIU writes."""
        return self.path / IMAGES


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A committed generation whose manifest has the expected digest."""

    path: pathlib.Path
    manifest: manifest.Manifest
    text: bytes = b""
    """The manifest as it was stored, where somebody may have to store it again."""


class Store:
    """The part of the volume that belongs to one namespace's checkpoints."""

    def __init__(self, base: pathlib.Path, namespace: str = "") -> None:
        """Describe where artifacts are; nothing is read yet.

        Args:
            base: `storage.pvc.basePath`.
            namespace: empty for the release's own namespace.
        """
        self._base = base
        self._root = base / "ns" / _valid(_NAMESPACE, namespace) if namespace else base

    @property
    def base(self) -> pathlib.Path:
        """Where the volume is mounted."""
        return self._base

    def location(self, identity_hash: str) -> str:
        """What the status of a DynamoCheckpoint calls Location."""
        return str(self._root / _valid(_HASH, identity_hash))

    def make_room(self, needed_bytes: int) -> None:
        """Nothing on a volume may go."""

    def stage(self, identity_hash: str, variant: str, uuid: str = "") -> Stage:
        """Make a new, empty generation directory.

        Args:
            uuid: of an artifact of another store; empty for a new one.

        Raises:
            StoreError: the volume cannot be written.
        """
        name = _valid(_NAME, uuid or str(uuids.uuid4()))
        parent = self._root / _valid(_HASH, identity_hash) / _valid(_NAME, variant)
        stage = Stage(uuid=name, path=parent / name)
        try:
            _make(stage.images)
            below = stage.path.relative_to(self._base).parts
            for depth in range(len(below)):
                self._base.joinpath(*below[: depth + 1]).chmod(0o700)
        except OSError as err:
            raise _unusable(parent, err) from err
        return stage

    def commit(self, stage: Stage, described: manifest.Manifest) -> str:
        """Write the manifest; from now on the artifact exists.

        The files that it names must be synced already (`sync`).

        Returns:
            The manifest's digest.
        """
        return self.commit_text(stage, manifest.encode(described))

    def commit_text(self, stage: Stage, data: bytes, *, durable: bool = True) -> str:
        """As `commit`, of a manifest that is encoded already; a copy need not outlive a crash."""
        self.check_new(stage)
        path = stage.path / manifest.NAME
        temporary = stage.path / _TEMPORARY
        try:
            fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.rename(path)
            for directory in (stage.path, *stage.path.parents[:3]) if durable else ():
                sync(directory)
        except OSError as err:
            raise _unusable(path, err) from err
        return manifest.digest(data)

    def check_new(self, stage: Stage) -> None:
        """Refuse a stage that was committed, or in which something stands in a commit's way.

        Raises:
            StoreError: it is such a stage.
        """
        for name in (manifest.NAME, _TEMPORARY):
            if os.path.lexists(path := stage.path / name):
                raise _unusable(path, FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)))

    def open(self, identity_hash: str, variant: str, uuid: str, digest: str) -> Artifact:
        """Find a committed artifact.

        Raises:
            ArtifactError: it is missing, or its manifest is not the one that was committed.
            StoreError: the volume cannot be read.
        """
        path, data = self._read(identity_hash, variant, uuid)
        described = manifest.decode(data, expected_digest=digest)
        if (described.identityHash, described.variant, described.uuid) != (
            identity_hash,
            variant,
            uuid,
        ):
            raise errors.ArtifactError(f"{path}: the manifest is that of another artifact")
        return Artifact(path=path, manifest=described, text=data)

    def stored_digest(self, identity_hash: str, variant: str, uuid: str) -> str:
        """Digest of the manifest that is there, for those who have no status that names it.

        Raises:
            ArtifactError: there is none. StoreError: the volume cannot be read.
        """
        return manifest.digest(self._read(identity_hash, variant, uuid)[1])

    def _read(self, identity_hash: str, variant: str, uuid: str) -> tuple[pathlib.Path, bytes]:
        """Where an artifact is, and its manifest."""
        path = (
            self._root / _valid(_HASH, identity_hash) / _valid(_NAME, variant) / _valid(_NAME, uuid)
        )
        try:
            with removal.opened(self._base) as base:
                below = path.relative_to(self._base) / manifest.NAME
                with os.fdopen(_file(base, below, path), "rb") as file:
                    return path, file.read(manifest.MAX_BYTES)
        except OSError as err:
            raise _unusable(path, err) from err

    def artifacts(self, identity_hash: str = "") -> list[ArtifactPath]:
        """Committed artifacts, of one identity or of all, in the order of their names.

        Raises:
            StoreError: the volume cannot be read.
        """
        only = identity_hash and _valid(_HASH, identity_hash)
        found: list[ArtifactPath] = []
        try:
            with removal.opened(self._base) as base, self._below(base) as root:
                for name in removal.directories(root, _HASH, only=only):
                    with removal.inside(root, name) as top:
                        for variant in removal.directories(top, _NAME):
                            with removal.inside(top, variant) as directory:
                                found += [(name, variant, uuid) for uuid in _committed(directory)]
        except OSError as err:
            raise _unusable(self._root, err) from err
        return found

    @contextlib.contextmanager
    def fetched(self, artifact: Artifact) -> Iterator[Artifact]:
        """They are there already."""
        yield artifact

    @contextlib.contextmanager
    def arriving(self, artifact: Artifact) -> Iterator[None]:
        """As `fetched`."""
        yield

    def empty(self, identity_hash: str) -> bool:
        """Whether nothing of an identity is left."""
        return not os.path.lexists(self.location(identity_hash))

    def discard(self, stage: Stage) -> None:
        """Remove a stage that was not committed."""
        shutil.rmtree(stage.path, ignore_errors=True)

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
        """Remove an identity's artifacts, one variant's, or one; again until it is done.

        Nobody may be reading them. What is not there is no error; what the store did not make
        stays, and so does, unless it is named by its uuid, the stage of a capture that may still be
        under way. A crash at any step leaves what the next call, or `sweep`, removes.

        Args:
            identity_hash: of the artifacts.
            variant: empty for all.
            uuid: empty for all of the variant.
            stage_seconds: a directory without manifest is abandoned when nothing has touched it
                for so long.
            on_deleted: told of each artifact that is gone.
            stopped: asked before each artifact; true ends the call early.

        Raises:
            InputError: a name is none of the store.
            StoreError: the volume cannot be read or written.
        """
        check_names(identity_hash, variant, uuid)
        # Whoever names an artifact knows it from its manifest: it is no stage, even without one.
        limit = math.inf if uuid else time.time() - stage_seconds
        scope = removal.Scope(identity_hash, variant, uuid, limit)
        try:
            with removal.opened(self._base) as base, self._below(base) as root:
                scope.remove(root, on_deleted=on_deleted, stopped=stopped)
        except OSError as err:
            raise _unusable(self._root / identity_hash, err) from err

    def sweep(self, *, older_than_seconds: float) -> int:
        """Remove what nobody will finish: abandoned stages, and deletions that were interrupted.

        Returns:
            How many directories it removed.
        """
        removed: list[removal.Deleted] = []
        limit = time.time() - older_than_seconds
        # A volume that is missing or cannot be written is told about by those who need it.
        with (
            contextlib.suppress(OSError),
            removal.opened(self._base) as base,
            self._below(base) as root,
        ):
            for name in removal.directories(root, _HASH):
                scope = removal.Scope(name, "", "", limit, committed=False)
                with contextlib.suppress(OSError):
                    scope.remove(root, on_deleted=removed.append)
        return len(removed)

    def _below(self, base: int) -> contextlib.AbstractContextManager[int | None]:
        return removal.inside(base, str(self._root.relative_to(self._base)))


def open_file(artifact: Artifact, name: str) -> int:
    """Open a file of an artifact to be read; nothing but a file, and through no link.

    Raises:
        ArtifactError: there is no such file. StoreError: it cannot be read.
    """
    path = artifact.path / name
    try:
        with removal.opened(artifact.path) as directory:
            return _file(directory, pathlib.Path(name), path)
    except OSError as err:
        raise _unusable(path, err) from err


def _file(directory: int, below: pathlib.Path, path: pathlib.Path) -> int:
    try:
        return rootfd.file(directory, str(below))
    except FileNotFoundError as err:
        raise _missing(path) from err
    except OSError as err:
        if err.errno not in _NO_FILE:
            raise
        raise errors.ArtifactError(f"{path}: {err.strerror}") from err


def _missing(path: pathlib.Path) -> errors.ArtifactError:
    return errors.ArtifactError(
        f"no artifact at {path}",
        reason=names.Reason.ARTIFACT_MISSING,
        hint="it was deleted: make the checkpoint again",
    )


def sync(path: pathlib.Path) -> None:
    """Fsync a file or directory; network file systems that cannot sync directories are forgiven."""
    fd = os.open(path, os.O_RDONLY)
    try:
        removal.fsync(fd)
    finally:
        os.close(fd)


def _committed(variant: int | None) -> Iterator[str]:
    """Names of the generations in a variant's directory that have a manifest."""
    for uuid in removal.directories(variant, _NAME):
        with removal.inside(variant, uuid) as directory, contextlib.suppress(FileNotFoundError):
            if directory is not None:
                os.stat(manifest.NAME, dir_fd=directory, follow_symlinks=False)
                yield uuid


def _make(path: pathlib.Path) -> None:
    """Make a directory with its parents, which a deletion may take away while they are empty."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):
            path.mkdir(mode=0o700, parents=True)
            return
    path.mkdir(mode=0o700, parents=True)


def parse_path(text: str) -> ArtifactPath:
    """Hash, variant and uuid of a path; the last two may be empty.

    Raises:
        InputError: it is no path of the store.
    """
    parts = text.split("/")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise errors.InputError(
            f"{text!r} is not a path in the store", hint="write HASH, HASH/VARIANT or the whole"
        )
    identity_hash, variant, uuid = [*parts, "", ""][:3]
    return identity_hash, variant, uuid


def check_names(identity_hash: str, variant: str = "", uuid: str = "") -> None:
    """Refuse what is no name of the store; the last two may be empty.

    Raises:
        InputError: one is none.
    """
    for pattern, name in ((_HASH, identity_hash), (_NAME, variant), (_NAME, uuid)):
        if name or pattern is _HASH:
            _valid(pattern, name)


def check_path(identity_hash: str, variant: str, uuid: str) -> None:
    """Refuse what is no name of one artifact.

    Raises:
        InputError: a part is none.
    """
    for pattern, name in ((_HASH, identity_hash), (_NAME, variant), (_NAME, uuid)):
        _valid(pattern, name)


def _valid(pattern: re.Pattern[str], name: str) -> str:
    if not pattern.fullmatch(name):
        raise errors.InputError(f"{name!r} is not a name in the store")
    return name


def _unusable(path: pathlib.Path, err: OSError) -> errors.StoreError:
    return errors.StoreError(
        f"{path}: {err.strerror}", hint="check the volume of storage.pvc and its free space"
    )
