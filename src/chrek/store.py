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
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
import time
import uuid as uuids

from chrek import errors, manifest, names

IMAGES = "criu"
_HASH = re.compile(r"[0-9a-f]{16}")
_NAME = re.compile(r"[0-9a-f-]{1,64}")


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


class Store:
    """The part of the volume that belongs to one namespace's checkpoints."""

    def __init__(self, base: pathlib.Path, namespace: str = "") -> None:
        """Describe where artifacts are; nothing is read yet.

        Args:
            base: `storage.pvc.basePath`.
            namespace: empty for the release's own namespace.
        """
        self._base = base
        self._root = base / "ns" / namespace if namespace else base

    def location(self, identity_hash: str) -> str:
        """What the status of a DynamoCheckpoint calls Location."""
        return str(self._root / _valid(_HASH, identity_hash))

    def stage(self, identity_hash: str, variant: str) -> Stage:
        """Make a new, empty generation directory.

        Raises:
            StoreError: the volume cannot be written.
        """
        name = str(uuids.uuid4())
        parent = self._root / _valid(_HASH, identity_hash) / _valid(_NAME, variant)
        stage = Stage(uuid=name, path=parent / name)
        try:
            stage.images.mkdir(mode=0o700, parents=True)
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
        data = manifest.encode(described)
        path = stage.path / manifest.NAME
        temporary = stage.path / f".{manifest.NAME}"
        try:
            fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            for directory in (stage.path, *stage.path.parents[:3]):
                sync(directory)
        except OSError as err:
            raise _unusable(path, err) from err
        return manifest.digest(data)

    def open(self, identity_hash: str, variant: str, uuid: str, digest: str) -> Artifact:
        """Find a committed artifact.

        Raises:
            ArtifactError: it is missing, or its manifest is not the one that was committed.
            StoreError: the volume cannot be read.
        """
        path = (
            self._root / _valid(_HASH, identity_hash) / _valid(_NAME, variant) / _valid(_NAME, uuid)
        )
        try:
            with (path / manifest.NAME).open("rb") as file:
                data = file.read(manifest.MAX_BYTES)
        except FileNotFoundError as err:
            raise errors.ArtifactError(
                f"no artifact at {path}",
                reason=names.Reason.ARTIFACT_MISSING,
                hint="it was deleted: make the checkpoint again",
            ) from err
        except OSError as err:
            raise _unusable(path, err) from err
        described = manifest.decode(data, expected_digest=digest)
        if (described.identityHash, described.variant, described.uuid) != (
            identity_hash,
            variant,
            uuid,
        ):
            raise errors.ArtifactError(f"{path}: the manifest is that of another artifact")
        return Artifact(path=path, manifest=described)

    def discard(self, stage: Stage) -> None:
        """Remove a stage that was not committed."""
        shutil.rmtree(stage.path, ignore_errors=True)

    def sweep(self, *, older_than_seconds: float) -> int:
        """Remove abandoned stages: directories without manifest that nothing has touched lately."""
        limit = time.time() - older_than_seconds
        removed = 0
        for path in self._root.glob("[0-9a-f]*/*/*"):
            if (path / manifest.NAME).exists() or not path.is_dir():
                continue
            touched = [p.stat().st_mtime for p in (path, path / IMAGES) if p.exists()]
            if max(touched, default=limit) < limit:
                shutil.rmtree(path, ignore_errors=True)
                removed += 1
        return removed


def sync(path: pathlib.Path) -> None:
    """Fsync a file or directory; network file systems that cannot sync directories are forgiven."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as err:
        if err.errno != 22:
            raise
    finally:
        os.close(fd)


def _valid(pattern: re.Pattern[str], name: str) -> str:
    if not pattern.fullmatch(name):
        raise errors.InputError(f"{name!r} is not a name in the store")
    return name


def _unusable(path: pathlib.Path, err: OSError) -> errors.StoreError:
    return errors.StoreError(
        f"{path}: {err.strerror}", hint="check the volume of storage.pvc and its free space"
    )
