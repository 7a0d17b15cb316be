"""What the agent keeps in memory of pods and DynamoCheckpoints: a few hundred bytes each."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping
from typing import Any

import msgspec

from chrek import eligibility, errors, manifest, names, variant

_OURS = frozenset(
    {
        *(names.ENV_STORAGE_TYPE, names.ENV_LOCATION, names.ENV_PATH, names.ENV_HASH),
        *(names.ENV_READY_FILE, *names.ENV_ALIASES),
    }
)


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod of this node that is managed by chrek."""

    namespace: str
    name: str
    uid: str
    checkpoint: str
    """Value of the opt-in annotation; empty in checkpoint jobs."""
    container: str
    """The managed container."""
    image: str
    command: tuple[str, ...]
    variant: str
    environment: dict[str, str]
    volumes: tuple[manifest.Volume, ...]
    has_readiness_probe: bool
    never_restarts: bool
    ready: bool
    finished: bool
    owner_job: str
    refused: tuple[str, str] | None = None
    """Reason and message when such a pod cannot be captured or restored."""
    capture: dict[str, str]
    """The operator's request in a checkpoint job's pod; empty elsewhere."""


class Variant(msgspec.Struct, frozen=True):
    """One entry of a DynamoCheckpoint's `status.variants`."""

    name: str
    uuid: str = ""
    digest: str = ""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore needs of a DynamoCheckpoint."""

    namespace: str
    name: str
    phase: str
    identity_hash: str
    job: str
    variants: tuple[Variant, ...]


def pod(item: Mapping[str, Any]) -> Pod | None:
    """Project a pod; None when it is not managed."""
    metadata, spec, status = item["metadata"], item["spec"], item.get("status") or {}
    annotations = metadata.get("annotations") or {}
    labels = metadata.get("labels") or {}
    container_name = annotations.get(names.ANNOTATION_CONTAINER, names.DEFAULT_CONTAINER)
    containers = {c["name"]: c for c in spec["containers"]}
    container = containers.get(container_name)
    if container is None:
        return None
    is_source = labels.get(names.LABEL_SOURCE) == "true"
    statuses = {s["name"]: s for s in status.get("containerStatuses") or []}
    refused = None
    try:
        eligibility.check(spec, container)
    except errors.UnsupportedError as err:
        refused = (str(err.reason), str(err))
    owners = [o for o in metadata.get("ownerReferences") or [] if o["kind"] == "Job"]
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        checkpoint="" if is_source else annotations.get(names.ANNOTATION_CHECKPOINT, ""),
        container=container_name,
        image=str(container.get("image", "")),
        command=tuple(variant.worker_command(container)),
        variant=variant.of_container(container),
        environment=environment(container),
        volumes=_volumes(spec, container),
        has_readiness_probe="readinessProbe" in container,
        never_restarts=spec.get("restartPolicy", "Always") == "Never",
        ready=bool(statuses.get(container_name, {}).get("ready")),
        finished=status.get("phase") in ("Succeeded", "Failed"),
        owner_job=owners[0]["name"] if owners else "",
        refused=refused,
        capture=_capture(annotations) if is_source else {},
    )


def checkpoint(item: Mapping[str, Any]) -> Checkpoint:
    """Project a DynamoCheckpoint."""
    metadata, status = item["metadata"], item.get("status") or {}
    return Checkpoint(
        namespace=metadata["namespace"],
        name=metadata["name"],
        phase=status.get("phase", ""),
        identity_hash=status.get("identityHash", ""),
        job=status.get("jobName", ""),
        variants=tuple(
            Variant(name=v.get("name", ""), uuid=v.get("uuid", ""), digest=v.get("digest", ""))
            for v in status.get("variants") or []
        ),
    )


def environment(container: Mapping[str, Any]) -> dict[str, str]:
    """Name -> digest of every variable that a worker's memory may depend on.

    The downward API and chrek's own variables differ between pods by nature and are left out; of a
    Secret or ConfigMap the reference counts, not the value.
    """
    found = {}
    for entry in container.get("env") or []:
        source = entry.get("valueFrom") or {}
        if entry["name"] in _OURS or "fieldRef" in source or "resourceFieldRef" in source:
            continue
        text = json.dumps(source, sort_keys=True) if source else str(entry.get("value") or "")
        found[entry["name"]] = hashlib.sha256(text.encode()).hexdigest()[:16]
    for number, entry in enumerate(container.get("envFrom") or []):
        text = json.dumps(entry, sort_keys=True)
        found[f"envFrom[{number}]"] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def _volumes(spec: Mapping[str, Any], container: Mapping[str, Any]) -> tuple[manifest.Volume, ...]:
    """The emptyDirs of the managed container, and `/dev/shm`."""
    others = [c for c in spec["containers"] if c["name"] != container["name"]]
    others += [c for c in spec.get("initContainers") or [] if c["name"] != names.INIT_CONTAINER]
    shared = {m["name"] for c in others for m in c.get("volumeMounts") or []}
    empty_dirs = {
        v["name"]
        for v in spec.get("volumes") or []
        if "emptyDir" in v and v["name"] != names.VOLUME
    }
    found = [
        manifest.Volume(path=_clean(m["mountPath"]), exclusive=m["name"] not in shared)
        for m in container.get("volumeMounts") or []
        if m["name"] in empty_dirs and not (m.get("subPath") or m.get("readOnly"))
    ]
    if not any(volume.path == "/dev/shm" for volume in found):  # noqa: S108 - the pod's own
        found.append(manifest.Volume(path="/dev/shm", exclusive=not others))  # noqa: S108
    return tuple(found)


def _clean(path: str) -> str:
    """A mount path as the kernel shows it, whatever a user writes."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _capture(annotations: Mapping[str, str]) -> dict[str, str]:
    try:
        raw = json.loads(annotations.get(names.ANNOTATION_CAPTURE, "{}"))
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in raw.items()} if isinstance(raw, dict) else {}
