"""Which artifacts go by themselves: unused for too long, or over the quota of the store.

Pure functions of the DynamoCheckpoints and of who uses them now. What a checkpoint needs to stay
Ready, what a workload uses and what is only now being made never goes; a quota that cannot be met
without that is told, not forced.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from chrek import config, errors, names, quantity, variant
from chrek.operator import cache, conditions, pods, podshape, summary

Object = dict[str, Any]

SETTING = "dynamo-operator.checkpoint.storage.housekeeping"


class Rule(enum.StrEnum):
    """Why an artifact goes."""

    UNUSED = "unused"
    QUOTA = "quota"


class Keep(enum.StrEnum):
    """Why an artifact stays, whatever the settings say."""

    BEING_DELETED = "its DynamoCheckpoint is being deleted"
    NO_DELETION = "this release deletes no artifacts"
    UNKNOWN = "what uses it is not known"
    RETAINED = "deletionPolicy Retain"
    CAPTURED = "it is being captured"
    IN_USE = "a pod runs it or a graph asks for it"
    OWN = "a DynamoCheckpoint that chrek did not make stays Ready"
    NAMED = "a graph names its checkpoint, and it is that of the checkpoint's template"
    LAST = "a workload names its checkpoint, which has no other"


USED = (Keep.IN_USE, Keep.NAMED, Keep.LAST)
"""Kept by what uses them now."""


@dataclasses.dataclass(frozen=True, slots=True)
class Users:
    """Who uses the artifacts of one identity now.

    Attributes:
        variants: those of pods that are there, and those that graphs ask for.
        named: whether a pod or a graph names one of the checkpoints, of whatever variant.
        graph: whether a graph does: what pods it will have is not always known.
        known: whether that is all; False while graphs are still to be looked at.
    """

    variants: Set[str] = frozenset()
    named: bool = False
    graph: bool = False
    known: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Artifact:
    """One artifact that a DynamoCheckpoint lists.

    Attributes:
        checkpoint: name of the DynamoCheckpoint that owns it.
        used_at: its last use: seen, or restored, or made.
        kept: why it stays; None when it may go.
    """

    namespace: str
    identity_hash: str
    checkpoint: str
    variant: str
    uuid: str
    bytes: int
    used_at: datetime.datetime
    kept: Keep | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Removal:
    """An artifact that goes, and why, for a person."""

    artifact: Artifact
    rule: Rule
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What goes, and what the store holds then.

    Attributes:
        removals: in the order in which they are decided.
        used_bytes: of all artifacts that are listed.
        left_bytes: of what stays when the removals are gone.
        spare_bytes: of what stays, but may go.
        reserved_bytes: what captures that run are expected to add.
        complete: whether it was known of all artifacts what uses them.
    """

    removals: tuple[Removal, ...] = ()
    used_bytes: int = 0
    left_bytes: int = 0
    spare_bytes: int = 0
    reserved_bytes: int = 0
    complete: bool = True

    def over_bytes(self, settings: config.Housekeeping) -> int:
        """What the quota is passed by, and may not go."""
        return max(0, self.left_bytes - settings.maxBytes) if settings.maxBytes else 0


def users(
    workers: Iterable[pods.Pod], *, asked: Iterable[str], graph: bool, known: bool = True
) -> Users:
    """Who uses the artifacts of one identity.

    Args:
        workers: pods that opted in to one of its checkpoints.
        asked: variants that graphs ask for.
        graph: whether a graph names one of its checkpoints.
        known: whether all graphs were looked at.
    """
    # A pod that is ending counts: the next one of its workload may be about to come.
    alive = [pod for pod in workers if not pod.finished]
    variants = frozenset({pod.variant for pod in alive} | set(asked)) - {""}
    return Users(variants, named=graph or bool(alive or variants), graph=graph, known=known)


def artifacts(
    checkpoints: Sequence[Object],
    found: Users,
    *,
    now: datetime.datetime,
    deletes: bool = True,
    seen: Mapping[str, datetime.datetime] | None = None,
) -> list[Artifact]:
    """The artifacts of one identity; those that several checkpoints list are one.

    Args:
        checkpoints: all DynamoCheckpoints of the identity in a namespace.
        found: who uses them.
        now: the time, in UTC.
        deletes: whether the release deletes artifacts at all.
        seen: when the artifact of a UUID was last seen in use.
    """
    owner = cache.oldest(checkpoints)
    general = _general(owner, checkpoints, found, deletes=deletes)
    kept = _kept(owner, checkpoints, found) if owner else {}
    made: dict[str, Artifact] = {}
    for item in [owner] if owner else checkpoints:
        status = item.get("status") or {}
        for one in status.get("variants") or []:
            uuid = str(one["uuid"])
            made[uuid] = Artifact(
                namespace=item["metadata"]["namespace"],
                identity_hash=str(status.get("identityHash", "")),
                checkpoint=item["metadata"]["name"],
                variant=str(one["name"]),
                uuid=uuid,
                bytes=int(one.get("bytes") or 0),
                used_at=max(_used_at(one, now), (seen or {}).get(uuid, _NEVER)),
                kept=general or kept.get(uuid),
            )
    return list(made.values())


_NEVER = datetime.datetime.min.replace(tzinfo=datetime.UTC)


def _used_at(one: Mapping[str, Any], default: datetime.datetime) -> datetime.datetime:
    """The last use that the status tells; the default when it tells none that can be read."""
    told = [conditions.parse(one.get(field)) for field in ("lastRestoredAt", "createdAt")]
    return max((time for time in told if time), default=default)


def _general(
    owner: Object | None, checkpoints: Sequence[Object], found: Users, *, deletes: bool
) -> Keep | None:
    """Why all artifacts of an identity stay, if they do."""
    if owner is None:
        return Keep.BEING_DELETED
    if not deletes:
        return Keep.NO_DELETION
    if not found.known:
        return Keep.UNKNOWN
    return Keep.RETAINED if any(map(_retains, checkpoints)) else None


def _kept(owner: Object, checkpoints: Sequence[Object], found: Users) -> dict[str, Keep]:
    """Why artifacts of an identity stay, by UUID."""
    status = owner.get("status") or {}
    variants: list[Object] = list(status.get("variants") or [])
    usable = [one for one in variants if not one.get("suspect")]
    captured = {entry["variant"] for entry in summary.entries(status) if _runs(entry)}
    kept: dict[str, Keep] = {}
    for one in variants:
        if summary.known_as(one) & captured:
            kept[one["uuid"]] = Keep.CAPTURED
        elif summary.known_as(one) & found.variants:
            kept[one["uuid"]] = Keep.IN_USE
    for item in checkpoints:
        if item["metadata"].get("deletionTimestamp"):
            continue
        own = _own(item, usable) or usable[:1]
        reason = Keep.OWN
        if is_automatic(item):
            own, reason = _own(item, variants) if found.graph else [], Keep.NAMED
        for one in own:
            kept.setdefault(one["uuid"], reason)
    if found.named and not any(one["uuid"] in kept for one in usable):
        last = max(usable or variants, key=lambda one: _used_at(one, _NEVER), default=None)
        if last:
            kept[last["uuid"]] = Keep.LAST
    return kept


def is_automatic(checkpoint: Mapping[str, Any]) -> bool:
    """Whether chrek made a DynamoCheckpoint, and would make it again."""
    labels = checkpoint["metadata"].get("labels") or {}
    return bool(labels.get(names.LABEL_AUTO) == "true")


def _retains(checkpoint: Mapping[str, Any]) -> bool:
    spec = checkpoint.get("spec") or {}
    return bool(spec.get("deletionPolicy") == names.DeletionPolicy.RETAIN)


def _runs(entry: Mapping[str, Any]) -> bool:
    """Whether a capture runs."""
    return bool(entry["phase"] == names.Phase.CREATING)


def _own(checkpoint: Mapping[str, Any], variants: Sequence[Object]) -> list[Object]:
    """Those of the artifacts that are of a checkpoint's own pod template.

    By their image where the template has no command: then its registry alone knows the variant.
    """
    job = (checkpoint.get("spec") or {}).get("job") or {}
    template = job.get("podTemplateSpec") or {}
    spec = template.get("spec") or {}
    annotations = (template.get("metadata") or {}).get("annotations") or {}
    named = job.get("container") or annotations.get(names.ANNOTATION_CONTAINER)
    try:
        container = spec["containers"][podshape.container_index(spec, named)]
    except (errors.UnsupportedError, KeyError):
        return []
    if not container.get("command"):
        return [one for one in variants if one.get("image") == container.get("image")]
    own = variant.of_container(container)
    return [one for one in variants if own in summary.known_as(one)]


def expected_bytes(found: Iterable[Artifact]) -> int:
    """What another artifact of an identity is expected to take: the largest's; 0 without one."""
    return max((one.bytes for one in found), default=0)


def running(checkpoints: Sequence[Object]) -> int:
    """How many captures of an identity run."""
    owner = cache.oldest(checkpoints) or {}
    return sum(1 for entry in summary.entries(owner.get("status") or {}) if _runs(entry))


def plan(
    found: Iterable[Artifact],
    settings: config.Housekeeping,
    *,
    now: datetime.datetime,
    reserved_bytes: int = 0,
) -> Plan:
    """Decide what goes.

    Args:
        found: all artifacts of the release's store.
        settings: quota and time.
        now: the time, in UTC.
        reserved_bytes: what captures that run are expected to add.
    """
    there = {(one.namespace, one.identity_hash, one.uuid): one for one in found}
    used = sum(one.bytes for one in there.values())
    free = sorted(
        (one for one in there.values() if one.kept is None),
        key=lambda one: (one.used_at, one.namespace, one.uuid),
    )
    removals = _removals(free, settings, now=now, held=used + reserved_bytes)
    left = used - sum(removal.artifact.bytes for removal in removals)
    going = {id(removal.artifact) for removal in removals}
    return Plan(
        removals=tuple(removals),
        used_bytes=used,
        left_bytes=left,
        spare_bytes=sum(one.bytes for one in free if id(one) not in going),
        reserved_bytes=reserved_bytes,
        complete=not any(one.kept is Keep.UNKNOWN for one in there.values()),
    )


def _removals(
    free: Iterable[Artifact], settings: config.Housekeeping, *, now: datetime.datetime, held: int
) -> list[Removal]:
    """What goes of what may, the least recently used first.

    Args:
        free: what may go, in that order.
        settings: quota and time.
        now: the time, in UTC.
        held: bytes of all artifacts, and of what captures that run will add.
    """
    removals: list[Removal] = []
    for one in free:
        since = conditions.timestamp(one.used_at)
        over = held - settings.maxBytes if settings.maxBytes else 0
        if settings.unusedSeconds and (now - one.used_at).total_seconds() > settings.unusedSeconds:
            why = f"not used since {since}, longer than {SETTING}.unusedFor"
            removals.append(Removal(one, Rule.UNUSED, why))
        elif over > 0 and one.bytes:
            why = (
                f"least recently used ({since}), and the store needs {quantity.human(over)} more"
                f" than {SETTING}.maxBytes"
            )
            removals.append(Removal(one, Rule.QUOTA, why))
        else:
            continue
        held -= one.bytes
    return removals


def refusal(
    made: Plan, settings: config.Housekeeping, *, expected: int, granted: int = 0
) -> str | None:
    """Why no capture may begin; empty when one may, None while that cannot be told.

    Args:
        made: the newest plan.
        settings: quota and when it is nearly reached.
        expected: bytes that the capture will add, 0 when nobody knows.
        granted: bytes for captures that may begin and do not run yet.
    """
    quota, running = settings.maxBytes, made.reserved_bytes + granted
    held = made.left_bytes + running
    nearly = held * 100 >= quota * settings.nearlyFullPercent
    if not quota or (held + expected <= quota and not nearly):
        return ""
    if not made.complete:
        return None
    if made.spare_bytes and held + expected - made.spare_bytes <= quota:
        return ""
    more = f", this artifact needs about {quantity.human(expected)}" if expected else ""
    wait = f", captures that run need about {quantity.human(running)}" if running else ""
    return (
        f"the store holds {quantity.human(made.left_bytes)} of {quantity.human(quota)}"
        f" ({SETTING}.maxBytes){wait}{more}, and not enough of it may go (see chrek prune"
        " --dry-run): raise maxBytes, set unusedFor, or delete DynamoCheckpoints that are not"
        " needed; it goes on when there is room, and pods start cold until then"
    )


def occupied(checkpoint: Mapping[str, Any] | None) -> frozenset[str]:
    """Changes with what a checkpoint takes, or is about to take, of the store."""
    status = (checkpoint or {}).get("status") or {}
    uuids = {str(one["uuid"]) for one in status.get("variants") or []}
    return frozenset(uuids | {e["variant"] for e in summary.entries(status) if _runs(e)})
