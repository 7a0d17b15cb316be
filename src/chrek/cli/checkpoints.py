"""DynamoCheckpoints as commands tell of them, with their artifacts and users.

Pure functions of objects as the API server has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chrek import errors, identity, names, quantity, reasons, state
from chrek.cli import printing, records

Object = dict[str, Any]

NONE = "<none>"
_FINISHED = ("Succeeded", "Failed")


def hash_of(item: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """The identity hash, of the status or else of the spec; empty where that cannot be used."""
    if status.get("identityHash"):
        return str(status["identityHash"])
    try:
        return identity.parse((item.get("spec") or {}).get("identity") or {}).hash()
    except errors.InputError:
        return ""


def find(items: Sequence[Object], reference: str) -> Object | None:
    """The DynamoCheckpoint of a name, else the oldest of an identity hash."""
    named = [item for item in items if item["metadata"]["name"] == reference]
    if named:
        return named[0]
    return oldest([item for item in items if hash_of(item, state.status_of(item)) == reference])


def required(items: Sequence[Object], reference: str, namespace: str) -> Object:
    """The same.

    Raises:
        InputError: there is none.
    """
    found = find(items, reference)
    if found is None:
        there = sorted(item["metadata"]["name"] for item in items)
        hint = f"there are: {', '.join(there[:8])}" if there else "it has none"
        raise errors.InputError(
            f"namespace {namespace} has no {names.CHECKPOINT_KIND} of the name or hash {reference}",
            hint=f"{hint}{' and more' if len(there) > 8 else ''}; -n names another namespace",
        )
    return found


def owner(items: Sequence[Object], item: Object) -> Object:
    """The DynamoCheckpoint that has the artifacts: the oldest of the identity in its namespace."""
    wanted = hash_of(item, state.status_of(item))
    same = [
        one
        for one in items
        if one["metadata"].get("namespace") == item["metadata"].get("namespace")
        and hash_of(one, state.status_of(one)) == wanted
    ]
    return (oldest(same) if wanted else None) or item


def oldest(items: Sequence[Object]) -> Object | None:
    """As the operator chooses."""
    from chrek.operator import cache

    return cache.oldest(items) or (items[0] if items else None)


class Asking:
    """Who asks for which checkpoint, from pods and graphs."""

    def __init__(self, pods: Iterable[Object] | None, graphs: Iterable[Object]) -> None:
        """Look at all of them once.

        Args:
            pods: None where they may not be listed.
            graphs: DynamoGraphDeployments.
        """
        from chrek.operator import workloads

        self._known = pods is not None
        self._pods: dict[tuple[str, str], list[str]] = {}
        self._graphs: dict[tuple[str, str], list[str]] = {}
        self._restored: dict[str, str] = {}
        for pod in pods or ():
            metadata = pod["metadata"]
            annotations = metadata.get("annotations") or {}
            start = started(pod)
            if start.get("outcome") == "restored":
                uuid, at = str(start.get("uuid", "")), str(start.get("at", ""))
                self._restored[uuid] = max(at, self._restored.get(uuid, ""))
            wanted = annotations.get(names.ANNOTATION_CHECKPOINT)
            ended = (pod.get("status") or {}).get("phase") in _FINISHED
            if wanted and not ended and names.LABEL_SOURCE not in (metadata.get("labels") or {}):
                key = (str(metadata.get("namespace", "")), str(wanted))
                self._pods.setdefault(key, []).append(str(metadata["name"]))
        for graph in graphs:
            metadata = graph["metadata"]
            for wanted in workloads.references(graph):
                key = (str(metadata.get("namespace", "")), wanted)
                self._graphs.setdefault(key, []).append(str(metadata["name"]))

    def users(self, namespace: str, name: str, digest: str) -> records.Users | None:
        """Of a checkpoint."""
        if not self._known:
            return None
        keys = {(namespace, name), (namespace, digest)}
        return records.Users(
            pods=sorted(pod for key in keys for pod in self._pods.get(key, ())),
            graphs=sorted({graph for key in keys for graph in self._graphs.get(key, ())}),
        )

    def last_used(self, variants: Iterable[Mapping[str, Any]]) -> str:
        """The last restore that the status or a pod tells of."""
        found = [str(one.get("lastRestoredAt") or "") for one in variants]
        found += [self._restored.get(str(one.get("uuid", "")), "") for one in variants]
        return max(found, default="")


def started(pod: Mapping[str, Any]) -> Object:
    """What the agent wrote onto a pod of its last start; empty without it."""
    import msgspec

    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    try:
        found = msgspec.json.decode(annotations.get(names.ANNOTATION_START) or "{}")
    except (msgspec.DecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def row(item: Mapping[str, Any], asking: Asking) -> records.Checkpoint:
    """A checkpoint as a list shows it."""
    status, metadata = state.status_of(item), item["metadata"]
    variants = [one for one in status.get("variants") or [] if isinstance(one, Mapping)]
    raw = (item.get("spec") or {}).get("identity") or {}
    known = {names.IDENTITY_ALIASES.get(key, key): value for key, value in raw.items()}
    namespace, name = str(metadata.get("namespace", "")), str(metadata["name"])
    digest = hash_of(item, status)
    return records.Checkpoint(
        namespace=namespace,
        name=name,
        model=str(known.get("model", "")),
        backend=str(known.get("backendFramework", "")),
        phase=str(status.get("phase", "")),
        reason=str(ready(status).get("reason", "")),
        message=str(status.get("message", "")),
        hash=digest,
        variants=len(variants),
        suspect=sum(bool(one.get("suspect")) for one in variants),
        bytes=sum(int(one.get("bytes") or 0) for one in variants),
        created_at=str(metadata.get("creationTimestamp") or ""),
        last_used_at=asking.last_used(variants),
        users=asking.users(namespace, name, digest),
    )


def ready(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """The condition Ready."""
    found = status.get("conditions") or []
    return next((one for one in found if one.get("type") == names.CONDITION_READY), {})


def artifact(entry: Mapping[str, Any]) -> records.Artifact:
    """An entry of `status.variants`."""
    steps = entry.get("steps") or {}
    return records.Artifact(
        variant=str(entry.get("name", "")),
        uuid=str(entry.get("uuid", "")),
        digest=str(entry.get("digest", "")),
        image=str(entry.get("image", "")),
        gpu=str(entry.get("gpu", "")),
        node=str(entry.get("node", "")),
        bytes=int(entry.get("bytes") or 0),
        created_at=str(entry.get("createdAt") or ""),
        last_restored_at=str(entry.get("lastRestoredAt") or ""),
        suspect=bool(entry.get("suspect")),
        failures=len(entry.get("failures") or []),
        steps={str(name): float(seconds) for name, seconds in steps.items()},
    )


def capture(entry: Mapping[str, Any]) -> records.Capture:
    """An entry of `status.captures`."""
    return records.Capture(
        variant=str(entry.get("variant", "")),
        phase=str(entry.get("phase", "")),
        reason=str(entry.get("reason", "")),
        message=str(entry.get("message", "")),
        image=str(entry.get("image", "")),
        job=str(entry.get("jobName", "")),
        pods=[str(pod.get("name", "")) for pod in entry.get("pods") or []],
    )


def captures(status: Mapping[str, Any]) -> list[records.Capture]:
    """Captures that are under way or have failed; one that is Ready only counts losses."""
    found = [capture(one) for one in status.get("captures") or []]
    return [one for one in found if one.phase != names.Phase.READY]


def detail(item: Object, items: Sequence[Object], asking: Asking) -> records.Detail:
    """A checkpoint in full.

    Args:
        item: the object.
        items: all of its namespace.
        asking: who uses them.
    """
    status, spec = state.status_of(item), item.get("spec") or {}
    shown, has = row(item, asking), owner(items, item)["metadata"]["name"]
    known = status.get("identity") or {
        names.IDENTITY_ALIASES.get(key, key): value
        for key, value in (spec.get("identity") or {}).items()
    }
    advice = reasons.advice(shown.reason) if shown.reason else reasons.Advice("")
    return records.Detail(
        checkpoint=shown,
        identity=known,
        capture_source=str(spec.get("captureSource") or names.CaptureSource.JOB),
        deletion_policy=str(spec.get("deletionPolicy") or names.DeletionPolicy.DELETE),
        location=str(status.get("location", "")),
        storage_type=str(status.get("storageType", "")),
        shares_with="" if has == shown.name else has,
        artifacts=[artifact(one) for one in status.get("variants") or []],
        captures=captures(status),
        deleting=bool(item["metadata"].get("deletionTimestamp")),
        meaning=advice.meaning,
        action=advice.of(checkpoint=f"{shown.name} -n {shown.namespace}"),
    )


def label(name: str) -> str:
    """As `-o name` prints a checkpoint of this name."""
    return f"{names.CHECKPOINT_KIND.lower()}.{names.GROUP}/{name}"


def count(row: records.Checkpoint) -> str:
    """Number of variants, with how many of them are not used."""
    return f"{row.variants} ({row.suspect} suspect)" if row.suspect else str(row.variants)


def size(row: records.Checkpoint | records.Artifact) -> str:
    """For a person."""
    return quantity.human(row.bytes) if row.bytes else NONE


def users(row: records.Checkpoint) -> str:
    """For a column: how many pods, and graphs by name."""
    if row.users is None:
        return "?"
    pods = len(row.users.pods)
    told = [f"{pods} pod{'' if pods == 1 else 's'}"] if pods else []
    return ", ".join([*told, *row.users.graphs]) or NONE


def line_of(row: records.Checkpoint, now: Any) -> tuple[str, ...]:
    """The cells of a list, the namespace first."""
    return (
        row.namespace,
        row.name,
        row.model or NONE,
        row.backend or NONE,
        row.phase or NONE,
        row.hash or NONE,
        count(row),
        size(row),
        printing.age(row.created_at, now) or NONE,
        printing.ago(row.last_used_at, now) or "never",
        users(row),
    )


HEADER = (
    "NAMESPACE",
    "NAME",
    "MODEL",
    "BACKEND",
    "PHASE",
    "HASH",
    "VARIANTS",
    "SIZE",
    "AGE",
    "LAST USED",
    "USERS",
)
