"""DynamoCheckpoints of artifacts that came from elsewhere.

The operator goes on from the status that it finds, so an artifact that stands there is one that it
has: pods that fit are restored from it. Whoever may write the status of DynamoCheckpoints may
therefore say that an artifact was imported; the agents believe its digest, as they do that of a
capture. The write carries the resource version that it was decided on, as the operator's do.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from chrek import errors, identity, manifest, names, state
from chrek.cli import reading

Object = dict[str, Any]

ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The DynamoCheckpoint that is to have the artifact."""

    namespace: str
    name: str
    raw: Mapping[str, Any]
    """Its identity, as it was written."""
    known: identity.Identity


def read_identity(file: str) -> tuple[Mapping[str, Any], identity.Identity]:
    """Read an identity: by itself, or as the spec of a DynamoCheckpoint has it.

    Args:
        file: YAML or JSON.

    Raises:
        InputError: there is none, or it cannot be used.
    """
    try:
        with open(file, encoding="utf-8") as stream:
            found = yaml.safe_load(stream)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as err:
        reason = getattr(err, "strerror", None) or err
        raise errors.InputError(
            f"{file}: cannot be read: {reason}", hint="give a YAML file with the identity"
        ) from err
    if isinstance(found, Mapping) and found.get("kind") == names.CHECKPOINT_KIND:
        spec = found.get("spec")
        found = spec.get("identity") if isinstance(spec, Mapping) else None
    known = identity.parse(found, f"{file}: identity")
    return found, known


def make_ready(
    reader: reading.Reader,
    wanted: Checkpoint,
    described: manifest.Manifest,
    digest: str,
    now: datetime.datetime,
) -> Iterator[str]:
    """Have a DynamoCheckpoint use an artifact; it is created when there is none.

    Args:
        reader: of its namespace.
        wanted: which one.
        described: the artifact, in the store of its namespace.
        digest: of its manifest.
        now: the time, in UTC.

    Yields:
        What was done, a line each.

    Raises:
        InputError: it is of another identity, shares another one's artifacts, or is full.
        ApiError: the API server refused or did not answer. UnsupportedError: it drops variants.
    """
    label = f"{names.CHECKPOINT_KIND} {wanted.name}"
    if reader.get(reading.CHECKPOINTS, wanted.name) is None:
        _create(reader, wanted)
        yield f"{label} created"
    for _ in range(ATTEMPTS):
        patch = _patch(reader, wanted, described, digest, now)
        if patch is None:
            yield f"{label} has the artifact already"
            return
        try:
            answer = reader.cluster.merge(f"{_path(wanted)}/status", patch)
        except errors.ApiError as err:
            if err.status == 409:
                continue  # The operator was faster.
            raise _explained(err, wanted) from err
        if state.dropped(answer.get("status") or {}, patch["status"]):
            raise errors.UnsupportedError(
                f"{label}: the CRD of another chart keeps no variants",
                hint="only chrek's operator can write such a status",
            )
        yield f"{label} has the artifact; the operator makes it Ready"
        return
    raise errors.ApiError(
        f"{label} changes all the time", status=409, hint="run it again: the artifact is there"
    )


def check(reader: reading.Reader, wanted: Checkpoint) -> None:
    """See that a DynamoCheckpoint can have an artifact, before any is moved or created.

    Raises:
        InputError: another one owns the artifacts of this identity.
        ApiError: the API server refused or did not answer.
    """
    from chrek.operator import cache

    same = _of_identity(reader, wanted)
    owner = cache.oldest(same)
    if owner is not None and owner["metadata"]["name"] != wanted.name:
        raise _shared(wanted, owner)


def _explained(err: errors.ApiError, wanted: Checkpoint) -> errors.ApiError:
    """Why a status was not written: that is a right of its own."""
    if err.status != 403:
        return reading.explained(err, "patch", reading.CHECKPOINTS, wanted.namespace)
    resource = f"{names.CHECKPOINT_PLURAL}.{names.GROUP}"
    return errors.ApiError(
        f"you may not patch the status of {resource} in namespace {wanted.namespace}",
        status=403,
        hint="ask for this right and run it again: the artifact is there; to see whether you have "
        f"it: kubectl auth can-i patch {resource} --subresource=status -n {wanted.namespace}",
    )


def _create(reader: reading.Reader, wanted: Checkpoint) -> None:
    body = {
        "apiVersion": names.API_VERSION,
        "kind": names.CHECKPOINT_KIND,
        "metadata": {"name": wanted.name, "namespace": wanted.namespace},
        # No pod template: what else is to be captured of this identity, serving pods are.
        "spec": {
            "identity": dict(wanted.raw),
            "captureSource": str(names.CaptureSource.WORKER),
        },
    }
    try:
        reader.create(reading.CHECKPOINTS, body)
    except errors.ApiError as err:
        if err.status != 409:
            raise


def _patch(
    reader: reading.Reader,
    wanted: Checkpoint,
    described: manifest.Manifest,
    digest: str,
    now: datetime.datetime,
) -> Object | None:
    """What the status has to be merged with; None when it has the artifact."""
    from chrek.operator import conditions
    from chrek.operator import status as statuses

    item = _own(reader, wanted)
    status = state.status_of(item)
    variants = status.get("variants") or []
    if any((v["uuid"], v["digest"]) == (described.uuid, digest) for v in variants):
        return None
    new = {
        "name": described.variant,
        "uuid": described.uuid,
        "digest": digest,
        "image": described.source.image,
        "bytes": described.bytes,
        "createdAt": conditions.timestamp(now),
        "steps": described.steps,
    }
    replaced = [v for v in variants if v["name"] == described.variant]
    kept = [v for v in variants if v not in replaced]
    if len(kept) >= statuses.MAX_VARIANTS:
        raise errors.InputError(
            f"{names.CHECKPOINT_KIND} {wanted.name} has {len(kept)} variants already",
            hint="delete one that is not used, or the DynamoCheckpoint",
            reason=names.Reason.TOO_MANY_VARIANTS,
        )
    changed: Object = {"variants": [new, *kept]}
    # The operator deletes what is listed there.
    gone = {f"{v['name']}/{v['uuid']}" for v in replaced if v["uuid"] != described.uuid}
    if gone:
        changed["garbage"] = sorted({*(status.get("garbage") or []), *gone})
    return {"metadata": {"resourceVersion": item["metadata"]["resourceVersion"]}, "status": changed}


def _own(reader: reading.Reader, wanted: Checkpoint) -> Object:
    """The DynamoCheckpoint, if it is the one of its identity that owns artifacts."""
    from chrek.operator import cache

    same = _of_identity(reader, wanted)
    found = next((item for item in same if item["metadata"]["name"] == wanted.name), None)
    if found is None:
        raise errors.InputError(
            f"{names.CHECKPOINT_KIND} {wanted.name} is of another identity than the artifact",
            hint="choose another name",
        )
    owner = cache.oldest(same) or found
    if owner["metadata"]["name"] != wanted.name:
        raise _shared(wanted, owner)
    return found


def _of_identity(reader: reading.Reader, wanted: Checkpoint) -> list[Object]:
    hashed = wanted.known.hash()
    return [item for item in reader.find(reading.CHECKPOINTS) if _hash(item) == hashed]


def _shared(wanted: Checkpoint, owner: Object) -> errors.InputError:
    name = owner["metadata"]["name"]
    return errors.InputError(
        f"the artifacts of this identity are those of {names.CHECKPOINT_KIND} {name}, which is "
        f"older than {wanted.name}",
        hint=f"say --checkpoint {wanted.namespace}/{name}",
    )


def _hash(item: Mapping[str, Any]) -> str:
    """The identity hash of a DynamoCheckpoint; empty when it has none."""
    try:
        return identity.parse((item.get("spec") or {}).get("identity") or {}).hash()
    except errors.InputError:
        return ""


def _path(wanted: Checkpoint) -> str:
    from chrek.kube import workstation

    return workstation.path(*reading.CHECKPOINTS, wanted.namespace, wanted.name)
