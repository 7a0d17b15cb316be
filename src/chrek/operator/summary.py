"""What a DynamoCheckpoint's captures and variants amount to: phase, message, conditions."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from chrek import errors, names, quantity
from chrek.operator import conditions, evidence, jobs

Object = dict[str, Any]

COPIED = (
    "identityHash",
    "identity",
    "location",
    "storageType",
    "createdAt",
    "size",
    "variants",
)
"""What a checkpoint that shares another one's artifacts has from it."""


def entries(status: Mapping[str, Any]) -> list[Object]:
    """The captures of a status."""
    return list(status.get("captures") or [])


def from_worker(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a serving pod is to be captured."""
    return bool(checkpoint["spec"].get("captureSource") == names.CaptureSource.WORKER)


def known_as(variant: Mapping[str, Any]) -> set[str]:
    """Names of a variant: what was captured, and what was asked for where that is another."""
    return {variant["name"], variant.get("wantedAs") or variant["name"]}


def retry_hint(checkpoint: Mapping[str, Any]) -> str:
    """What a person runs to have an artifact made again."""
    return (
        f"kubectl annotate dckpt {checkpoint['metadata']['name']}"
        f' {names.ANNOTATION_RETRY}="$(date)" --overwrite has it made again'
    )


def derived(
    checkpoint: Mapping[str, Any], status: Object, own: str, *, now: datetime.datetime
) -> Object:
    """Phase, message, size and conditions of a status whose captures and variants are final."""
    variants = status.get("variants") or []
    by_variant = {entry["variant"]: entry for entry in entries(status)}
    for field in ("captures", "garbage", "variants"):
        if field in status and not status[field]:
            del status[field]
    if variants:
        status["size"] = quantity.human(sum(v.get("bytes", 0) for v in variants))
    else:
        for field in ("size", "location", "createdAt"):
            status.pop(field, None)
    name = (by_variant.get(own) or {}).get("jobName") or status.get("jobName")
    if not name and not from_worker(checkpoint):
        name = jobs.name(status["identityHash"])
    if name:
        status["jobName"] = name
    phase, reason, message = _amount(checkpoint, variants, by_variant, own)
    status = moved(status, phase, reason=reason, message=message, now=now)
    return _suspect(checkpoint, status, variants, now)


def _amount(
    checkpoint: Mapping[str, Any],
    variants: Sequence[Mapping[str, Any]],
    by_variant: Mapping[str, Object],
    own: str,
) -> tuple[names.Phase, str, str]:
    """Phase, reason and message."""
    # An entry that is Ready only remembers how often its artifact was lost.
    by_variant = {v: e for v, e in by_variant.items() if e["phase"] != names.Phase.READY}
    mine = [v for v in variants if own in known_as(v)] if own else list(variants)
    good = next((v for v in mine if not v.get("suspect")), None)
    others = [
        f"variant {e['variant']} ({e.get('image', '')}): {e.get('reason')}: {e.get('message')}"
        for e in by_variant.values()
        if e["phase"] == names.Phase.FAILED and (good or e["variant"] != own)
    ]
    if good:
        text = f"captured on node {good.get('node', '?')}, {quantity.human(good.get('bytes', 0))}"
        return names.Phase.READY, names.Reason.CHECKPOINTED, "; ".join([text, *others])
    if mine:
        text = (
            f"restored workers died or never got Ready in {evidence.SUSPECT_PODS} pods, so it is"
            f" not used: {retry_hint(checkpoint)}"
        )
        return names.Phase.FAILED, names.Reason.SUSPECT, text
    entry = by_variant.get(own) if own else next(iter(by_variant.values()), None)
    if entry is None:
        text = "waiting for a Ready pod that opted in and started cold"
        return names.Phase.PENDING, names.Reason.WAITING_FOR_WORKER, text
    reason, message = entry.get("reason", ""), entry.get("message", "")
    return names.Phase(entry["phase"]), str(reason), str(message)


def _suspect(
    checkpoint: Mapping[str, Any],
    status: Object,
    variants: Sequence[Mapping[str, Any]],
    now: datetime.datetime,
) -> Object:
    bad = [v["name"] for v in variants if v.get("suspect")]
    if not bad:
        return conditions.without_condition(status, names.CONDITION_SUSPECT)
    return conditions.with_condition(
        status,
        names.CONDITION_SUSPECT,
        value=True,
        reason=names.Reason.SUSPECT,
        message=f"variant {', '.join(bad)} is not used: {retry_hint(checkpoint)}",
        now=now,
    )


def invalid(
    checkpoint: Mapping[str, Any], err: errors.ChrekError, *, now: datetime.datetime
) -> Object:
    """The status of a checkpoint whose spec cannot be used."""
    status = {**(checkpoint.get("status") or {})}
    status["observedGeneration"] = checkpoint["metadata"].get("generation", 0)
    return moved(status, names.Phase.FAILED, reason=err.reason, message=str(err), now=now)


def shared(
    checkpoint: Mapping[str, Any], owner: Mapping[str, Any], own: str, *, now: datetime.datetime
) -> Object:
    """The status of a checkpoint whose artifacts an older one of the same identity owns.

    Args:
        checkpoint: the object.
        owner: the older one.
        own: the variant of the object's own template, empty without one.
        now: the time, in UTC.
    """
    status = {**(checkpoint.get("status") or {})}
    theirs = owner.get("status") or {}
    for key in ("jobName", "captures", "garbage"):
        status.pop(key, None)
    for key in COPIED:
        if key in theirs:
            status[key] = theirs[key]
        else:
            status.pop(key, None)
    status["observedGeneration"] = checkpoint["metadata"].get("generation", 0)
    name = owner["metadata"]["name"]
    by_variant = {entry["variant"]: entry for entry in entries(theirs)}
    if theirs.get("phase"):
        phase, reason, message = _amount(owner, theirs.get("variants") or [], by_variant, own)
        if phase is names.Phase.PENDING and own and own not in by_variant:
            reason, message = names.Reason.WAITING_FOR_POD, "waiting for its capture"
            why = str((conditions.get(theirs, names.CONDITION_READY) or {}).get("reason", ""))
            broken = theirs["phase"] == names.Phase.FAILED and why != names.Reason.SUSPECT
            if broken and not by_variant:
                # Its spec cannot be used: nothing is captured before that is corrected.
                phase, reason, message = names.Phase.FAILED, why, str(theirs.get("message", ""))
    else:
        phase, reason, message = names.Phase.PENDING, names.Reason.WAITING_FOR_POD, "waiting for it"
    status = moved(
        status, phase, reason=reason, message=f"shares the artifact of {name}: {message}", now=now
    )
    return conditions.with_condition(
        status,
        names.CONDITION_SHARED,
        value=True,
        reason=names.Reason.SHARED_ARTIFACT,
        message=f"{name} is older and has the same identity",
        now=now,
    )


def moved(
    status: Object, phase: str, *, reason: str, message: str, now: datetime.datetime
) -> Object:
    """The status in a phase, with its condition Ready."""
    return conditions.with_condition(
        {**status, "phase": str(phase), "message": message},
        names.CONDITION_READY,
        value=phase == names.Phase.READY,
        reason=reason,
        message=message,
        now=now,
    )
