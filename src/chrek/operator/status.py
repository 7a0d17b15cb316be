"""The status of a DynamoCheckpoint: its captures, its variants, and what they amount to.

Pure functions. `phase`, `message` and the condition Ready are about the pod template of the object
itself; a variant that is listed can be restored whatever the phase is.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import msgspec

from chrek import identity, names
from chrek.operator import (
    captures,
    conditions,
    evidence,
    holdings,
    housekeeping,
    jobs,
    place,
    pods,
    summary,
    templates,
)

Object = dict[str, Any]

MAX_VARIANTS = 4
INCOMPLETE_SECONDS = 5.0
_RESTING = (names.Reason.TOO_MANY_VARIANTS, names.Reason.PRUNED)
REMAKE_SECONDS = 30
"""A lost artifact is made again after so long: whatever lost it may still be at work."""


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """What there is besides the checkpoint itself.

    Attributes:
        job: a Job of the checkpoint by name, None when there is none.
        pods_of: pods of a Job by its UID, oldest first.
        workers: pods that opted in, oldest first.
        wanted: what should be captured; the object's own template first, when it has one.
        complete: whether `wanted` is all; False while graphs are still to be looked at.
        room: asked before a capture begins: why it may not, empty when it may, None while that
            cannot be told.
        removals: artifacts that housekeeping has chosen, by UUID.
        users: who uses the artifacts.
        where: the artifacts of the namespace.
        now: the time, in UTC.
    """

    job: Callable[[str], Mapping[str, Any] | None]
    pods_of: Callable[[str], Sequence[pods.Pod]]
    workers: Sequence[pods.Pod]
    wanted: Sequence[templates.Wanted]
    where: place.Place
    now: datetime.datetime
    complete: bool = True
    room: Callable[[], str | None] = lambda: ""
    removals: Mapping[str, housekeeping.Removal] = dataclasses.field(default_factory=dict)
    users: housekeeping.Users = dataclasses.field(default_factory=housekeeping.Users)


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """What to write and do now.

    Attributes:
        status: the complete new status.
        actions: to do after it was written, each with its entry's variant.
        again_seconds: look again after so long, None to wait for an event.
        pruned: artifacts that the status no longer lists, for housekeeping.
    """

    status: Object
    actions: Sequence[tuple[captures.Action, str]] = ()
    again_seconds: float | None = None
    pruned: Sequence[housekeeping.Removal] = ()


def following(checkpoint: Mapping[str, Any], known: identity.Identity, world: World) -> Decision:
    """The next status of a checkpoint that owns the artifacts of its identity.

    Args:
        checkpoint: the object, its spec valid.
        known: its identity.
        world: everything else.
    """
    old = checkpoint.get("status") or {}
    digest = known.hash()
    status: Object = {
        **old,
        "identityHash": digest,
        "identity": msgspec.to_builtins(msgspec.json.decode(known.canonical())),
        "storageType": world.where.storage_type,
        "observedGeneration": checkpoint["metadata"].get("generation", 0),
    }
    _take_retry(checkpoint, status)
    entries = {entry["variant"]: entry for entry in summary.entries(status)}
    _look(checkpoint, status, entries, world)
    explained, pruned = holdings.prune(
        status,
        world.removals,
        wanted={one.variant for one in world.wanted},
        hint=summary.retry_hint(checkpoint),
        now=conditions.timestamp(world.now),
    )
    entries |= {entry["variant"]: entry for entry in explained}
    decision = _step(checkpoint, status, entries, world)
    own = primary(checkpoint, world.wanted)
    new = summary.derived(checkpoint, decision.status, own, now=world.now)
    return dataclasses.replace(decision, status=new, pruned=pruned)


def primary(checkpoint: Mapping[str, Any], wanted: Sequence[templates.Wanted]) -> str:
    """The variant of the object's own pod template, empty without one."""
    has_one = "podTemplateSpec" in (checkpoint["spec"].get("job") or {})
    return wanted[0].variant if has_one and wanted else ""


def _take_retry(checkpoint: Mapping[str, Any], status: Object) -> None:
    """A new value of the retry annotation: what failed, is suspect or was pruned is made again."""
    asked = (checkpoint["metadata"].get("annotations") or {}).get(names.ANNOTATION_RETRY, "")
    if not asked or asked == status.get("retried", ""):
        return
    status["retried"] = asked
    # Paths of lost artifacts are deleted now: somebody has looked.
    failed = [
        entry
        for entry in summary.entries(status)
        if entry["phase"] == names.Phase.FAILED or entry.get("reason") == names.Reason.PRUNED
    ]
    status["captures"] = [e for e in summary.entries(status) if e not in failed]
    holdings.discard(status, [path for entry in failed for path in entry.get("lost") or []])
    variants = status.get("variants") or []
    holdings.drop(status, [one for one in variants if one.get("suspect")])


def _look(
    checkpoint: Mapping[str, Any], status: Object, entries: dict[str, Object], world: World
) -> None:
    """What the workers say about the variants; lost ones go, and are made again once."""
    variants = [evidence.noted(one, world.workers) for one in status.get("variants") or []]
    status["variants"] = variants
    auto = (checkpoint["metadata"].get("labels") or {}).get(names.LABEL_AUTO) == "true"
    for one in variants:
        start = evidence.lost(one, world.workers)
        if start is None:
            continue
        name = one.get("wantedAs") or one["name"]
        # Its files stay until there is another: one node's word deletes nothing.
        status["variants"] = [v for v in status["variants"] if v["uuid"] != one["uuid"]]
        remade = int((entries.get(name) or {}).get("remade", 0))
        text = f"the artifact was lost: {start.reason}: {start.message}"
        wanted = next((w for w in world.wanted if w.variant == name), None)
        entry = captures.begin(
            name,
            image=one.get("image", ""),
            job_name="",
            attempt="",
            template=wanted.digest() if wanted else "",
            remade=remade + 1,
            not_before=conditions.timestamp(
                world.now + datetime.timedelta(seconds=REMAKE_SECONDS * 2**remade)
            ),
            message=f"{text}; it is made again",
            reason=start.reason,
        )
        entry["lost"] = sorted({holdings.path(one), *_lost(entries, name)})
        if remade or not auto:
            again = (
                "it was made again once already" if remade else "it was not made by chrek itself"
            )
            text = f"{text}; {again}: {summary.retry_hint(checkpoint)}"
            entry = captures.moved(entry, names.Phase.FAILED, reason=start.reason, message=text)
        entries[name] = entry


def _lost(entries: Mapping[str, Mapping[str, Any]], name: str) -> list[str]:
    """Artifacts of a variant that were lost and whose files are still there."""
    return list((entries.get(name) or {}).get("lost") or [])


def _step(
    checkpoint: Mapping[str, Any],
    status: Object,
    entries: dict[str, Object],
    world: World,
) -> Decision:
    """Take each capture's next step."""
    actions: list[tuple[captures.Action, str]] = []
    again: list[float] = []
    usable = {name for one in status["variants"] for name in summary.known_as(one)}
    wanted: dict[str, templates.Wanted] = {}
    for one in world.wanted:
        wanted.setdefault(one.variant, one)
    stopping: set[str] = set()
    for name, one in wanted.items():
        if name in entries and _of_other_source(checkpoint, entries[name]):
            job = world.job(entries[name].get("jobName", ""))
            if job is not None:
                actions.append((captures.Action.DELETE_JOB, name))
                stopping.add(name)
                continue
            entries[name] = _begun_anew(entries[name])
        if name in entries and holdings.rests(entries[name], world.users, alone=not usable):
            continue
        if name not in usable:
            entries[name] = _entry(checkpoint, status, entries, one, len(usable & wanted.keys()))
    for name in [name for name in entries if name not in stopping]:
        entry = entries[name]
        if entry["phase"] == names.Phase.READY or name in usable:
            _settle(entries, name)
            continue
        if name not in wanted and entry["phase"] != names.Phase.CREATING:
            if not world.complete:
                again.append(INCOMPLETE_SECONDS)
                continue
            # Nobody asks for it any more.
            _abandon(entries, name, world, actions)
            continue
        if entry.get("reason") in _RESTING:
            continue
        step = _with_room(entry, _one(checkpoint, entry, world), world)
        entries[name] = step.entry
        if step.again_seconds is not None:
            again.append(step.again_seconds)
        if step.action is not captures.Action.NOTHING:
            actions.append((step.action, name))
        if step.made:
            _add(status, step.made, entry, keep=wanted.keys(), world=world)
            _settle(entries, name)
    status["captures"] = [entries[name] for name in sorted(entries)]
    return Decision(status, actions, min(again, default=None))


def _entry(
    checkpoint: Mapping[str, Any],
    status: Mapping[str, Any],
    entries: Mapping[str, Object],
    one: templates.Wanted,
    there: int,
) -> Object:
    """The entry of a variant that is wanted and not there."""
    digest = one.digest()
    entry = entries.get(one.variant)
    if entry and entry["phase"] == names.Phase.FAILED and entry.get("template", digest) == digest:
        return {**entry, "template": digest}
    fresh = entry is None or entry["phase"] in (names.Phase.FAILED, names.Phase.READY)
    if entry and entry["phase"] == names.Phase.PENDING and entry.get("template", digest) != digest:
        fresh = True  # What could not start, for want of resources say, may have been corrected.
    full = (entry or {}).get("reason") in _RESTING
    # The Job that made an artifact that was pruned may still be there.
    since = (entry or {}).get("notBefore", "") if full else ""
    if entry is not None and not fresh and not full and entry.get("attempt"):
        return entry
    remade = int((entry or {}).get("remade", 0))
    lost = _lost(entries, one.variant)
    busy = sum(1 for e in entries.values() if _in_flight(e) and e["variant"] != one.variant)
    if there + busy >= MAX_VARIANTS:
        text = f"{MAX_VARIANTS} variants of this identity are in use; one must go first"
        made = captures.begin(
            one.variant, image=one.image, job_name="", attempt="", template=digest, remade=remade,
            reason=names.Reason.TOO_MANY_VARIANTS, message=text, not_before=since,
        )  # fmt: skip
        return {**made, "lost": lost} if lost else made
    worker = summary.from_worker(checkpoint)
    waiting = entry if entry is not None and not fresh and not full else None
    retried = hashlib.sha256(str(status.get("retried", "")).encode()).hexdigest()[:6]
    made = captures.begin(
        one.variant,
        image=one.image,
        job_name="" if worker else _job_name(str(status["identityHash"]), one.variant, entries),
        attempt=f"{digest}.{retried}.{remade}" + (f".{since}" if since else ""),
        template=digest,
        remade=remade,
        not_before=(waiting or {}).get("notBefore", ""),
    )
    if lost:
        made["lost"] = lost
    if worker:
        text = "waiting for a Ready pod that opted in and started cold"
        reason = names.Reason.WAITING_FOR_WORKER
        made = captures.moved(made, names.Phase.PENDING, reason=reason, message=text)
    if waiting:
        made |= {key: waiting[key] for key in ("reason", "message")}
    return made


def _in_flight(entry: Mapping[str, Any]) -> bool:
    return (
        entry["phase"] in (names.Phase.PENDING, names.Phase.CREATING)
        and entry.get("reason") not in _RESTING
    )


def _job_name(digest: str, variant: str, entries: Mapping[str, Object]) -> str:
    plain = jobs.name(digest)
    taken = {e.get("jobName") for e in entries.values() if e["variant"] != variant}
    return jobs.name(digest, variant) if plain in taken else plain


def _of_other_source(checkpoint: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether a capture was begun before the checkpoint's captureSource was changed."""
    by_job = bool(entry.get("jobName"))
    return bool(entry.get("attempt")) and by_job == summary.from_worker(checkpoint)


def _begun_anew(entry: Mapping[str, Any]) -> Object:
    """The entry without what an attempt left in it."""
    kept = ("variant", "image", "template", "remade", "lost", "reason", "message")
    return {
        **{key: value for key, value in entry.items() if key in kept},
        "phase": str(names.Phase.PENDING),
    }


def _settle(entries: dict[str, Object], name: str) -> None:
    """A variant is there: nothing is kept of its capture but how often it was lost."""
    entry = entries.pop(name)
    if entry.get("remade"):
        entries[name] = {
            "variant": name,
            "phase": str(names.Phase.READY),
            "remade": entry["remade"],
        }


def _abandon(
    entries: dict[str, Object],
    name: str,
    world: World,
    actions: list[tuple[captures.Action, str]],
) -> None:
    entry = entries[name]
    job = world.job(entry.get("jobName", "")) if entry.get("jobName") else None
    if job is not None and entry["phase"] != names.Phase.FAILED:
        actions.append((captures.Action.DELETE_JOB, name))
    elif not entry.get("remade"):
        del entries[name]


def _add(
    status: Object,
    made: pods.Result,
    entry: Mapping[str, Any],
    *,
    keep: Set[str],
    world: World,
) -> None:
    created = made.createdAt or conditions.timestamp(world.now)
    holdings.add(status, made, entry, created=created, keep=keep, most=MAX_VARIANTS)
    status["createdAt"] = created
    status["location"] = world.where.location(status["identityHash"])


def _with_room(entry: Object, step: captures.Step, world: World) -> captures.Step:
    """The step, unless it begins a capture for which the store has no room."""
    named = step.entry["phase"] == names.Phase.CREATING and not entry.get("jobName")
    if step.action is not captures.Action.CREATE_JOB and not (
        named and entry["phase"] == names.Phase.PENDING
    ):
        return step
    refusal = world.room()
    if refusal is None:
        return captures.Step(entry, again_seconds=INCOMPLETE_SECONDS)
    full = names.Reason.STORE_NEARLY_FULL
    if refusal:
        return captures.Step(
            captures.moved(entry, names.Phase.PENDING, reason=full, message=refusal)
        )
    if entry.get("reason") == full and not named:
        text, reason = "waiting for the checkpoint job's pod", names.Reason.WAITING_FOR_POD
        return captures.Step(
            captures.moved(entry, names.Phase.PENDING, reason=reason, message=text)
        )
    return step


def _one(checkpoint: Mapping[str, Any], entry: Object, world: World) -> captures.Step:
    if not entry.get("jobName"):
        limit = int((checkpoint["spec"].get("job") or {}).get("backoffLimit", 3))
        return captures.from_worker(entry, workers=world.workers, limit=limit, now=world.now)
    job = world.job(entry["jobName"])
    return captures.from_job(
        entry,
        job=job,
        attempt=jobs.attempt(job) if job else "",
        found=world.pods_of(job["metadata"]["uid"]) if job else (),
        now=world.now,
    )
