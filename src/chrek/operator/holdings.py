"""The artifacts that a status lists: one comes, others go, and the files of those are deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from chrek import names
from chrek.operator import captures, housekeeping, pods, summary

Object = dict[str, Any]


def drop(status: Object, gone: Sequence[Mapping[str, Any]]) -> None:
    """Take variants out of the status; their files are deleted."""
    if not gone:
        return
    uuids = {one["uuid"] for one in gone}
    status["variants"] = [v for v in status.get("variants") or [] if v["uuid"] not in uuids]
    discard(status, [path(one) for one in gone])


def discard(status: Object, paths: Sequence[str]) -> None:
    """Note artifacts whose files are to be deleted."""
    if paths:
        status["garbage"] = sorted({*(status.get("garbage") or []), *paths})


def path(variant: Mapping[str, Any]) -> str:
    """Where a variant's artifact is, below the location."""
    return f"{variant['name']}/{variant['uuid']}"


def add(
    status: Object,
    made: pods.Result,
    entry: Mapping[str, Any],
    *,
    created: str,
    keep: Set[str],
    most: int,
) -> None:
    """The new artifact comes first; what it replaces and the least recently used go.

    Args:
        status: is changed.
        made: the artifact.
        entry: of the capture that made it.
        created: when it was made.
        keep: names of variants that go last.
        most: so many variants may stay.
    """
    variant = _variant(made, entry, created)
    same = summary.known_as(variant)
    drop(status, [v for v in status.get("variants") or [] if same & summary.known_as(v)])
    others = list(status.get("variants") or [])
    spare = sorted(
        reversed(others),
        key=lambda v: (
            bool(summary.known_as(v) & keep),
            v.get("lastRestoredAt") or v.get("createdAt") or "",
        ),
    )
    status["variants"] = [variant, *others]
    discard(status, entry.get("lost") or [])
    drop(status, spare[: max(0, len(others) + 1 - most)])


def _variant(made: pods.Result, entry: Mapping[str, Any], created: str) -> Object:
    """What a status says of an artifact."""
    variant: Object = {
        "name": made.variant,
        "uuid": made.uuid,
        "digest": made.digest,
        "image": made.image or entry.get("image", ""),
        "node": made.node,
        "bytes": made.bytes,
        "createdAt": created,
        "steps": dict(made.steps),
    }
    if made.gpu:
        variant["gpu"] = made.gpu
    if made.variant != entry["variant"]:
        variant["wantedAs"] = entry["variant"]
    return variant


def prune(
    status: Object,
    removals: Mapping[str, housekeeping.Removal],
    *,
    wanted: Set[str],
    hint: str,
    now: str,
) -> tuple[list[Object], list[housekeeping.Removal]]:
    """Take out what housekeeping has chosen.

    Args:
        status: is changed.
        removals: what goes, by UUID.
        wanted: variants that would be captured again at once.
        hint: how a person has one made again.
        now: the time.

    Returns:
        An entry for each of them that is wanted, which says why it is not there; what has gone.
    """
    gone = [one for one in status.get("variants") or [] if one["uuid"] in removals]
    drop(status, gone)
    entries = []
    for one in gone:
        why = removals[one["uuid"]].why
        for name in sorted(summary.known_as(one) & wanted):
            made = captures.begin(
                name,
                image=one.get("image", ""),
                job_name="",
                attempt="",
                # Which tells the next attempt from the one that made this artifact.
                not_before=now,
                message=f"pruned: {why}; it is made again when a workload asks for it ({hint})",
                reason=names.Reason.PRUNED,
            )
            entries.append(made)
    return entries, [removals[one["uuid"]] for one in gone]


def rests(entry: Mapping[str, Any], users: housekeeping.Users, *, alone: bool) -> bool:
    """Whether a variant that was pruned stays so.

    Args:
        entry: of the variant.
        users: who uses the artifacts of its identity.
        alone: whether there is no other artifact.
    """
    if entry.get("reason") != names.Reason.PRUNED:
        return False
    asked = users.graph or entry["variant"] in users.variants or (alone and users.named)
    return not asked
