"""Events: what happened to an object, for `kubectl describe` and `kubectl get events`."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Mapping
from typing import Any

from chrek import errors, log
from chrek.kube import client as client_module
from chrek.kube import persistence

LOG = log.get(__name__)
CONFLICT = 409
NOTE_BYTES = 1024


def reference(item: Mapping[str, Any], *, field_path: str | None = None) -> dict[str, str]:
    """The object reference of a complete object (one with `kind` and `apiVersion`)."""
    metadata = item["metadata"]
    found = {
        "apiVersion": item["apiVersion"],
        "kind": item["kind"],
        "namespace": metadata.get("namespace", ""),
        "name": metadata["name"],
        "uid": metadata.get("uid", ""),
    }
    if field_path:
        found["fieldPath"] = field_path
    return {key: value for key, value in found.items() if value}


async def post_event(
    client: client_module.Client,
    *,
    regarding: Mapping[str, Any],
    type_: str,
    reason: str,
    note: str,
    component: str,
    instance: str,
    action: str = "",
    patience_seconds: float = 0.0,
) -> bool:
    """Post an Event about an object.

    An Event that cannot be posted is logged and never fails what it reports.

    Args:
        client: connection to use.
        regarding: object reference, see `reference()`.
        type_: `Normal` or `Warning`.
        reason: one CamelCase word.
        note: text for a person, cut to 1 KiB.
        component: who reports, such as `chrek-agent`.
        instance: which one of them: the pod's or the node's name.
        action: what was done, CamelCase; the reason when empty.
        patience_seconds: how long to go on while the server does not answer.

    Returns:
        Whether the server took it.
    """
    namespace = regarding.get("namespace") or "default"
    now = datetime.datetime.now(datetime.UTC)
    body = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{regarding['name'][:230]}.{secrets.token_hex(8)}",
            "namespace": namespace,
        },
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": type_,
        "reason": reason,
        "action": action or reason,
        "note": _cut(note),
        "regarding": dict(regarding),
        "reportingController": f"nvidia.com/{component}",
        "reportingInstance": instance[:128] or component,
    }
    try:
        await persistence.persist(
            lambda: client.create("events.k8s.io/v1", "events", namespace, body), patience_seconds
        )
    except errors.ApiError as err:
        if err.status == CONFLICT:
            return True  # The name is drawn here: it was posted, and the answer was lost.
        LOG.warning("cannot post an event", reason=reason, note=note, error=str(err))
        return False
    return True


def _cut(note: str) -> str:
    encoded = note.encode()
    if len(encoded) <= NOTE_BYTES:
        return note
    return encoded[: NOTE_BYTES - 3].decode(errors="ignore") + "..."
