"""Whether a starting container is restored or starts cold, and why.

Decided from what is in memory plus one small file, the manifest: a few milliseconds.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterable

from chrek import errors, manifest, names
from chrek import store as stores
from chrek.agent import objects


@dataclasses.dataclass(frozen=True)
class Cold(Exception):  # noqa: N818 - a decision, not an error
    """The container starts cold."""

    reason: str
    message: str


def find(
    checkpoints: Iterable[objects.Checkpoint], namespace: str, wanted: str
) -> objects.Checkpoint:
    """The DynamoCheckpoint that an annotation names: by name, else by identity hash.

    Raises:
        Cold: there is none.
    """
    here = [c for c in checkpoints if c.namespace == namespace]
    named = [c for c in here if c.name == wanted]
    hashed = [c for c in here if c.identity_hash == wanted]
    ready = [c for c in (*named, *hashed) if c.phase == names.Phase.READY]
    found = next(iter(ready or named or hashed), None)
    if found is None:
        raise Cold(
            names.Reason.CHECKPOINT_NOT_FOUND,
            f"no DynamoCheckpoint {wanted} in namespace {namespace}",
        )
    return found


def choose(checkpoint: objects.Checkpoint, pod: objects.Pod) -> objects.Variant:
    """The variant that fits a pod.

    Raises:
        Cold: the checkpoint is not Ready or has none that fits.
    """
    if checkpoint.phase != names.Phase.READY:
        raise Cold(
            names.Reason.CHECKPOINT_NOT_READY,
            f"DynamoCheckpoint {checkpoint.name} is {checkpoint.phase or 'not seen yet'}",
        )
    for variant in checkpoint.variants:
        if variant.name == pod.variant:
            return variant
    raise Cold(
        names.Reason.NO_VARIANT,
        f"DynamoCheckpoint {checkpoint.name} was captured from another image or command than "
        f"{pod.image} {' '.join(pod.command)}",
    )


def artifact(
    store: stores.Store,
    checkpoint: objects.Checkpoint,
    variant: objects.Variant,
    pod: objects.Pod,
) -> stores.Artifact:
    """Open and compare the artifact.

    Raises:
        Cold: it is missing, not the one that status names, or does not fit this container.
    """
    try:
        found = store.open(checkpoint.identity_hash, variant.name, variant.uuid, variant.digest)
        compare(found.manifest, pod)
    except errors.ChrekError as err:
        raise Cold(err.reason, str(err)) from err
    return found


def compare(described: manifest.Manifest, pod: objects.Pod) -> None:
    """Compare what was captured with what is starting.

    Raises:
        CompatibilityError: naming the first fact that differs.
    """
    source = described.source
    if source.architecture != platform.machine():
        raise errors.CompatibilityError(
            f"captured on {source.architecture}, this node is {platform.machine()}",
            hint="make a checkpoint on this architecture",
        )
    if (source.image, tuple(source.command)) != (pod.image, pod.command):
        raise errors.CompatibilityError("the captured image or command differs from this pod's")
    if source.environment != pod.environment:
        differing = sorted(
            name
            for name in source.environment.keys() | pod.environment.keys()
            if source.environment.get(name) != pod.environment.get(name)
        )
        raise errors.CompatibilityError(
            f"environment variables differ from the captured ones: {', '.join(differing[:8])}",
            hint="give checkpoint job and worker the same env",
        )
