"""Whether a starting container is restored or starts cold, and why.

Decided from what is in memory, one small file (the manifest) and what the kernel says of the
container: a few milliseconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from chrek import compatibility, errors, facts, gpustate, manifest, names, storage
from chrek import store as stores
from chrek.agent import objects
from chrek.cuda import gpus as devices


@dataclasses.dataclass(frozen=True)
class Cold(Exception):  # noqa: N818 - a decision, not an error
    """The container starts cold."""

    reason: str
    message: str
    uuid: str = ""
    """The artifact that was not used; empty where there is none."""
    variant: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """All DynamoCheckpoints of one identity in a namespace; they share their artifacts."""

    first: objects.Checkpoint
    """The one that was named, else one that is Ready, if any is."""
    others: tuple[objects.Checkpoint, ...] = ()

    @property
    def all(self) -> tuple[objects.Checkpoint, ...]:
        """The first, then the others."""
        return (self.first, *self.others)

    @property
    def wake(self) -> Mapping[str, Any] | None:
        """The call that a restored worker needs."""
        return next((c.wake for c in self.all if c.wake), None)


def find(checkpoints: Iterable[objects.Checkpoint], namespace: str, wanted: str) -> Found:
    """What an annotation names: by name, else by identity hash.

    One that is being deleted counts only while another of its identity lives: its artifacts go
    with the last.

    Raises:
        Cold: there is none.
    """
    here = [c for c in checkpoints if c.namespace == namespace]
    named = [c for c in here if c.name == wanted]
    identity = next((c.identity_hash for c in named if c.identity_hash), "")
    group = named + [
        c for c in here if c.name != wanted and c.identity_hash and c.identity_hash == identity
    ]
    group = group or [c for c in here if c.identity_hash == wanted]
    if not group:
        raise Cold(
            names.Reason.CHECKPOINT_NOT_FOUND,
            f"no DynamoCheckpoint {wanted} in namespace {namespace}",
        )
    if all(c.deleting for c in group):
        raise Cold(names.Reason.BEING_DELETED, f"DynamoCheckpoint {group[0].name} is being deleted")
    group.sort(key=lambda c: (c.deleting, c.name != wanted, c.phase != names.Phase.READY))
    return Found(group[0], tuple(group[1:]))


def ready(checkpoints: Iterable[objects.Checkpoint], pod: objects.Pod) -> bool:
    """Whether a pod could expect a warm start: what it names is Ready."""
    try:
        found = find(checkpoints, pod.namespace, pod.checkpoint)
    except Cold:
        return False
    return any(c.phase == names.Phase.READY for c in found.all)


def choose(found: Found, pod: objects.Pod) -> tuple[objects.Checkpoint, objects.Variant]:
    """The newest variant that fits a pod, and a DynamoCheckpoint that has it.

    Raises:
        Cold: there is none that fits and is usable.
    """
    fitting = [(c, v) for c in found.all for v in c.variants if v.name == pod.variant]
    suspect = {v.uuid for _, v in fitting if v.suspect}
    usable = [(c, v) for c, v in fitting if v.uuid not in suspect]
    if usable:
        return max(usable, key=lambda pair: pair[1].created_at)
    if fitting:
        checkpoint, variant = fitting[0]
        raise Cold(
            names.Reason.SUSPECT,
            "workers restored from it died or never got Ready; to try again: kubectl annotate "
            f"dckpt {checkpoint.name} --namespace {checkpoint.namespace} "
            f"{names.ANNOTATION_RETRY}=<anything new> --overwrite",
            uuid=variant.uuid,
            variant=variant.name,
        )
    ready = next((c for c in found.all if c.phase == names.Phase.READY), None)
    if ready is None:
        first = found.first
        state = f"DynamoCheckpoint {first.name} is {first.phase or 'not seen yet'}"
        why = ": ".join(text for text in (first.reason, first.message) if text)
        raise Cold(names.Reason.CHECKPOINT_NOT_READY, f"{state}: {why}" if why else state)
    raise Cold(names.Reason.NO_VARIANT, _difference(ready, found, pod))


def _difference(ready: objects.Checkpoint, found: Found, pod: objects.Pod) -> str:
    """What about a pod no variant was captured with."""
    images = sorted({v.image for c in found.all for v in c.variants if v.image})
    if images and pod.image not in images:
        differs = f"image {', '.join(images)}; this pod's is {pod.image}"
    elif images:
        differs = f"another command; this pod's is {' '.join(pod.command)}"
    else:
        differs = f"another image or command than {pod.image} {' '.join(pod.command)}"
    text = f"DynamoCheckpoint {ready.name} was captured with {differs}"
    states = [c.phase for f in found.all for c in f.captures if c.variant == pod.variant]
    return f"{text} (the capture for this pod is {states[0]})" if states else text


def artifact(
    store: storage.AnyStore,
    checkpoint: objects.Checkpoint,
    variant: objects.Variant,
    pod: objects.Pod,
    *,
    init_pid: int,
    ignore: Collection[str] = (),
    gpus: devices.Gpus | None = None,
) -> stores.Artifact:
    """Open and compare the artifact.

    Args:
        init_pid: PID 1 of the container that is starting.
        ignore: what may differ, see `compatibility.compare`.
        gpus: of the container; None where no NVIDIA driver can be used.

    Raises:
        Cold: it is missing, not the one that status names, or does not fit this container.
    """
    try:
        found = store.open(checkpoint.identity_hash, variant.name, variant.uuid, variant.digest)
        compare(found.manifest, pod, init_pid=init_pid, ignore=ignore, gpus=gpus)
    except errors.ChrekError as err:
        raise Cold(err.reason, str(err), uuid=variant.uuid, variant=variant.name) from err
    return found


def compare(
    described: manifest.Manifest,
    pod: objects.Pod,
    *,
    init_pid: int,
    ignore: Collection[str] = (),
    gpus: devices.Gpus | None = None,
) -> None:
    """Compare what was captured with what is starting.

    Raises:
        CompatibilityError: naming the first fact that differs.
        UnsupportedError, GpuError: device memory cannot be brought back in this container.
    """
    declared = compatibility.Facts(
        image=pod.image, command=[*pod.command], environment=pod.environment
    )
    present = gpus.facts(init_pid) if gpus is not None else compatibility.GpuFacts()
    try:
        here = facts.present(init_pid, pod.origin, declared, described.source, gpus=present)
    except (OSError, ProcessLookupError) as err:
        raise errors.PeerError(f"the facts of container process {init_pid}: {err}") from err
    gpustate.check(described, init_pid, gpus)
    compatibility.compare(described.source, here, ignore=ignore)
    gpustate.plan(described, init_pid, gpus)
