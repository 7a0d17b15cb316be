"""`manifest.json`: what a capture is, what it needs, and a digest for every byte of it.

It is written last, so an artifact without one is no artifact. The DynamoCheckpoint's status holds
the manifest's own digest: an artifact whose manifest has another digest is never restored.
`schemas/manifest.schema.json` is generated from these classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from chrek import compatibility, errors, names

VERSION = 1
CHUNK_BYTES = 4 << 20
MAX_BYTES = 64 << 20
MAX_PID = 1 << 22
"""The kernel's own limit."""
NAME = "manifest.json"


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of an artifact."""

    name: str
    """Path below the artifact, no `..`, not absolute."""
    size: int
    chunks: list[str]
    """BLAKE3 (hex) of every `CHUNK_BYTES`, the last one shorter."""


class Volume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mount whose contents were captured."""

    path: str
    """Mount point in the container; `/` is the root file system's changes."""
    exclusive: bool
    """Only the managed container sees it: made equal to the capture. Else only added to."""


class Source(compatibility.Facts, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The captured container: facts that the new one is compared with, and its names."""

    architecture: str
    kernel: str
    hostname: str
    addresses: list[str]
    """Addresses of the container's network namespace, loopback excepted."""


class GpuProcess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A process whose device memory was brought into its own memory before the dump."""

    pid: Annotated[int, msgspec.Meta(gt=1, le=MAX_PID)]
    """In its PID namespace."""
    bytes: Annotated[int, msgspec.Meta(ge=0)]
    """Device memory that it used on all GPUs."""


class GpuState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a restore has to bring back to GPUs once the processes run again."""

    memory: Literal["host", "direct"] = "host"
    """Where device memory is: in the images of the processes' own memory, or (reserved for the
    driver's custom storage, not written and not restored yet) in files of its own."""
    processes: Annotated[list[GpuProcess], msgspec.Meta(min_length=1, max_length=4096)]
    used: Annotated[dict[str, int], msgspec.Meta(max_length=1024)]
    """UUID of a GPU -> bytes of its memory that they used."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """See the module."""

    version: int
    uuid: str
    identityHash: str
    variant: str
    createdAt: str
    chrekVersion: str
    rootPid: int
    """Pid of the tree's root in its PID namespace."""
    stdio: list[str]
    """What the root's descriptors 0, 1 and 2 were, such as `pipe:[123]`."""
    volumes: list[Volume]
    source: Source
    files: list[File]
    steps: dict[str, float]
    """Seconds of each step of the capture."""
    gpu: GpuState | msgspec.UnsetType = msgspec.UNSET
    """Absent where no process used a GPU: so older agents read such manifests as well."""

    @property
    def bytes(self) -> int:
        """Size of the artifact."""
        return sum(file.size for file in self.files)

    def file(self, name: str) -> File:
        """The entry of one file.

        Raises:
            ArtifactError: there is none.
        """
        for file in self.files:
            if file.name == name:
                return file
        raise errors.ArtifactError(f"manifest: no file {name}")


def encode(manifest: Manifest) -> bytes:
    """The text of a manifest."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def digest(data: bytes) -> str:
    """Digest of a manifest's text, as the status of a DynamoCheckpoint holds it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def decode(data: bytes, *, expected_digest: str | None = None) -> Manifest:
    """Read a manifest that may be damaged or hostile.

    Raises:
        ArtifactError: wrong digest, not a manifest, too new, or inconsistent in itself.
    """
    if expected_digest is not None and digest(data) != expected_digest:
        raise errors.ArtifactError(
            f"{NAME} has digest {digest(data)}, the checkpoint's status says {expected_digest}",
            reason=names.Reason.DIGEST_MISMATCH,
            hint="the artifact was replaced or damaged: make the checkpoint again",
        )
    try:
        version = msgspec.json.decode(data, type=_Version).version
        if version != VERSION:
            raise errors.ArtifactError(
                f"{NAME} has version {version}, this chrek reads version {VERSION}",
                reason=names.Reason.ARTIFACT_UNREADABLE,
                hint="use the chrek version that made it, or make the checkpoint again",
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise errors.ArtifactError(f"{NAME}: {err}") from err
    if not 1 < manifest.rootPid <= MAX_PID:
        raise errors.ArtifactError(f"{NAME}: the tree's root cannot have pid {manifest.rootPid}")
    if len(manifest.stdio) != 3:
        raise errors.ArtifactError(f"{NAME}: stdio has {len(manifest.stdio)} descriptors, not 3")
    for file in manifest.files:
        _check(file)
    if len({file.name for file in manifest.files}) != len(manifest.files):
        raise errors.ArtifactError(f"{NAME}: a file is named twice")
    return manifest


class _Version(msgspec.Struct, frozen=True):
    version: int


def _check(file: File) -> None:
    parts = file.name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or "\0" in file.name or len(parts) > 2:
        raise errors.ArtifactError(f"{NAME}: {file.name!r} is no name of an artifact's file")
    if file.size < 0 or len(file.chunks) != -(-file.size // CHUNK_BYTES):
        raise errors.ArtifactError(f"{NAME}: {file.name} has {len(file.chunks)} chunk digests")


def select(files: Iterable[File], prefix: str) -> list[File]:
    """The files whose name starts with a prefix."""
    return [file for file in files if file.name.startswith(prefix)]
