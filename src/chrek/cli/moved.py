"""What `chrek copy`, `export` and `import` print as JSON and YAML; see `records`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from chrek import transfer


class _Record(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    pass


class Artifact(_Record, frozen=True, kw_only=True):
    """An artifact that is where it should be."""

    path: str
    """`HASH/VARIANT/UUID`."""
    hash: str
    variant: str
    uuid: str
    digest: str
    """Of its manifest."""
    bytes: int
    already: bool
    """It was there before, with the same manifest; nothing was moved."""
    seconds: float
    bytes_per_second: int
    """0 where nothing was moved."""


class Failure(_Record, frozen=True, kw_only=True):
    """An artifact that is missing or damaged, or of which the target has another one."""

    path: str
    error: str


class Movement(_Record, frozen=True, kw_only=True):
    """`chrek copy`, `chrek export` and `chrek import`."""

    artifacts: list[Artifact]
    failed: list[Failure]


def of(done: transfer.Moved, seconds: float) -> Artifact:
    """The record of an artifact that took so long."""
    identity_hash, variant, uuid = done.path
    return Artifact(
        path="/".join(done.path),
        hash=identity_hash,
        variant=variant,
        uuid=uuid,
        digest=done.digest,
        bytes=done.bytes,
        already=done.already,
        seconds=round(seconds, 3),
        bytes_per_second=0 if done.already else round(done.bytes / max(seconds, 1e-3)),
    )
