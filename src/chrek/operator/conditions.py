"""Conditions of a status, the patch that writes it, and values as a status spells them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]


def with_condition(
    status: Object, type_: str, *, value: bool, reason: str, message: str, now: datetime.datetime
) -> Object:
    """The status with one condition set; its time changes with its status only."""
    old = get(status, type_)
    text = "True" if value else "False"
    since = old["lastTransitionTime"] if old and old["status"] == text else timestamp(now)
    made = {
        "type": type_,
        "status": text,
        "reason": str(reason),
        "message": message,
        "lastTransitionTime": since,
    }
    others = [c for c in status.get("conditions") or [] if c["type"] != type_]
    return {**status, "conditions": sorted([*others, made], key=lambda c: str(c["type"]))}


def without_condition(status: Object, type_: str) -> Object:
    """The status without a condition."""
    kept = [c for c in status.get("conditions") or [] if c["type"] != type_]
    return {**status, "conditions": kept}


def get(status: Mapping[str, Any], type_: str) -> Object | None:
    """One condition of a status."""
    return next((c for c in status.get("conditions") or [] if c["type"] == type_), None)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> Object:
    """A merge patch that makes `new` of `old`; empty when they are equal."""
    patch = {key: value for key, value in new.items() if old.get(key) != value}
    return {**patch, **{key: None for key in old if key not in new}}


def timestamp(now: datetime.datetime) -> str:
    """A time as Kubernetes writes it."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str | None) -> datetime.datetime | None:
    """A time as Kubernetes writes it, always with its zone; None when it is none."""
    try:
        found = datetime.datetime.fromisoformat((text or "").replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
