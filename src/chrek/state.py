"""The status of a DynamoCheckpoint, wherever it stands.

A CRD of another chart knows a few of our status fields and drops the others. The operator then
writes the whole status into an annotation as well, and everybody reads it through `status_of`. An
older CRD of ours, where the operator was upgraded without it, is treated in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from chrek import names

Object = dict[str, Any]

_PATH_PART = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]*")


class _Variant(msgspec.Struct):
    name: str
    uuid: str
    digest: str


class _Capture(msgspec.Struct):
    variant: str
    phase: str


class _Condition(msgspec.Struct, rename="camel"):
    type: str
    status: str
    reason: str
    message: str
    last_transition_time: str


class _State(msgspec.Struct, rename="camel"):
    """The types of what is read from the annotation without looking twice."""

    phase: str = ""
    message: str = ""
    identity_hash: str = ""
    variants: list[_Variant] = []
    captures: list[_Capture] = []
    conditions: list[_Condition] = []
    garbage: list[str] = []


def status_of(item: Mapping[str, Any]) -> Object:
    """The status of a DynamoCheckpoint: its own, with the annotation's over it.

    The annotation counts when what the status says of artifacts, if anything, is what a server
    left of it: else it is a leftover. One that cannot be read, or that names a variant or an
    artifact as no path can be named, is ignored.

    Args:
        item: the object.
    """
    status: Object = dict(item.get("status") or {})
    text = annotation_of(item)
    if not text:
        return status
    try:
        found = msgspec.json.decode(text)
        state = msgspec.convert(found, _State)
    except (msgspec.MsgspecError, RecursionError):
        return status
    parts = [part for v in state.variants for part in (v.name, v.uuid)]
    parts += [capture.variant for capture in state.captures]
    if not all(_PATH_PART.fullmatch(part) for part in parts):
        return status
    own = {key: status[key] for key in ("variants", "captures") if key in status}
    return {**status, **found} if _is_left_of(own, found) else status


def _is_left_of(kept: object, whole: object) -> bool:
    """Whether fields were dropped of something, and nothing else was changed."""
    if isinstance(kept, Mapping) and isinstance(whole, Mapping):
        return all(key in whole and _is_left_of(kept[key], whole[key]) for key in kept)
    if isinstance(kept, list) and isinstance(whole, list):
        pairs = zip(kept, whole, strict=False)
        return len(kept) == len(whole) and all(_is_left_of(*pair) for pair in pairs)
    return kept == whole


def annotation_of(item: Mapping[str, Any]) -> str:
    """The status in an object's annotation, empty without one."""
    annotations = (item.get("metadata") or {}).get("annotations") or {}
    return str(annotations.get(names.ANNOTATION_STATE) or "")


def annotation(status: Mapping[str, Any]) -> str:
    """The value of the annotation for a status."""
    return msgspec.json.encode(status, order="sorted").decode()


def merged(status: Mapping[str, Any], patch: Mapping[str, Any]) -> Object:
    """What a merge patch makes of a status (RFC 7386)."""
    made = dict(status)
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, Mapping):
            old = made.get(key)
            made[key] = merged(old if isinstance(old, Mapping) else {}, value)
        else:
            made[key] = value
    return made


def dropped(status: Mapping[str, Any], patch: Mapping[str, Any]) -> bool:
    """Whether a server kept less of a merge patch than it was given.

    Args:
        status: as the server answered.
        patch: that was sent.
    """
    return any(_lost(status.get(key), value) for key, value in patch.items() if value is not None)


def _lost(kept: object, sent: object) -> bool:
    """Whether something that was sent is missing; what a server changed or added is not lost."""
    if isinstance(sent, Mapping):
        if not isinstance(kept, Mapping):
            return True
        return any(_lost(kept.get(key), value) for key, value in sent.items() if value is not None)
    if isinstance(sent, list):
        if not isinstance(kept, list) or len(kept) != len(sent):
            return True
        return any(_lost(one, other) for one, other in zip(kept, sent, strict=True))
    return kept is None
